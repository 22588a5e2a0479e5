"""What was asked and what came out, as reports say it."""

import json

import numpy as np
import pytest

from anser import codec
from anser.control_words import said
from anser.controls import Controls, measure_cell
from anser.infill import Request, infill
from anser.report import checked, is_met, lines, measured
from anser.rules import Rules
from anser.selection import Selection
from anser.song import NOTE, splice
from fakes import FakeEngine
from songs import band

SELECTION = Selection.of([0, 2], [4, 5])
EVERYTHING = Controls(
    **{"density": 6, "fewest": 1, "most": 3, "register": 60, "span": 12, "silence": 0.25},
    **{"loudness": 64, "subdivision": "1/8", "syncopation": 0.5, "program": 5},
    lengths=frozenset({"1/8"}),
    pitch_classes=frozenset({0, 3}),
    chords=((0, "Am"), (48, "F")),
    likeness=0.5,
    reference=2,
)


def test_a_report_has_every_control_that_was_asked_and_nothing_else():
    asked = {(0, 4): EVERYTHING, (2, 5): Controls(density=3)}
    take = infill(FakeEngine(), Request(band(), SELECTION, asked))[0]
    cells = {
        (c["track"] - 1, c["bar"] - 1): c for c in json.loads(json.dumps(take.report))["cells"]
    }
    assert set(cells[0, 4]["asked"]) == set(EVERYTHING.asked())
    assert set(cells[0, 4]["realised"]) == set(EVERYTHING.asked()) - {"program", "reference"}
    assert cells[0, 4]["asked"]["chords"] == "Am F"
    assert cells[0, 5]["asked"] == cells[0, 5]["realised"] == {}
    assert list(cells[2, 5]["realised"]) == ["density"]


def test_what_came_out_is_measured_in_the_song_as_it_will_be_written():
    asked = {cell: EVERYTHING for cell in SELECTION.cells}
    song = band()
    take = infill(FakeEngine(), Request(song, SELECTION, asked))[0]
    written = codec.encode(take.song)
    for cell in take.cells:
        own = measure_cell(written, (cell.track, cell.bar))
        for name in own.asked():
            assert getattr(cell.realised, name) == getattr(own, name), name
        assert cell.realised.density == cell.n_notes


def test_a_cell_is_as_asked_when_it_asks_for_itself():
    song = codec.encode(band())
    own = measured(song, song, (0, 4), EVERYTHING)
    assert all(is_met(name, own, own) for name in own.asked())
    assert own.likeness < 1
    assert not is_met("density", Controls(density=own.density + 1), own)
    assert is_met("register", Controls(register=60), Controls(register=61))
    assert not is_met("likeness", Controls(likeness=0.2, reference=1), own) or own.likeness <= 0.25


def test_rules_are_checked_in_what_came_out():
    """The check is not the grammar's: a note put in by hand is found."""
    song = band()
    rules = {cell: Rules(scale=frozenset({0, 2, 4, 5, 7, 9, 11})) for cell in SELECTION.cells}
    take = infill(FakeEngine(), Request(song, SELECTION, rules=rules))[0]
    assert all(cell.broken == () for cell in take.cells)
    start = int(song.bars.starts[4])
    foreign = {0: np.array([(start, 10, 61, 80)], NOTE)}
    original = song, codec.encode(song)
    spoilt = checked(original, splice(song, SELECTION, foreign), SELECTION, take.cells, ())
    broken = [str(violation) for cell in spoilt for violation in cell.broken]
    assert broken == ["track 1, bar 5, scale: pitch 61"]
    assert any("scale: pitch 61" in line for line in lines(song, spoilt))


def test_lines_say_each_wish_once_with_all_its_bars():
    song = band()
    asked = {(0, 4): Controls(density=3), (0, 5): Controls(density=3), (2, 4): Controls(most=2)}
    rules = {(0, 4): Rules(within_bar=True)}
    take = infill(FakeEngine(), Request(song, SELECTION, asked, rules))[0]
    found = lines(song, take.cells)
    assert len(found) == 3
    name = song.tracks[0].name
    assert found[0].startswith(f"  {name}:5-6  asked density 3, came out ")
    assert found[-1] == "  rules checked in 1 cell, all kept"
    assert lines(song, infill(FakeEngine(), Request(song, SELECTION))[0].cells) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("density", 6.0, 6.0),
        ("lengths", frozenset({"1/4", "1/8"}), "1/8,1/4"),
        ("pitch_classes", frozenset({3, 0}), "C Eb"),
        ("register", 60.4, "C4"),
        ("reference", 4, 5),
        ("chords", ((0, "Am"), (48, "F")), "Am F"),
        ("silence", None, None),
    ],
)
def test_values_are_said_as_they_are_typed(name, value, words):
    assert said(name, value) == words
