"""What is typed → the controls of each cell; the rules are in test_rules."""

import pytest

from anser.bind import CONTROL_WORDS, bind_controls
from anser.controls import Controls
from anser.errors import ControlError, SelectionError
from anser.selection import Selection
from anser.wishes import Wishes
from songs import Part, make_song

BAR = 4 * 480


def _song():
    parts = [Part([(b * BAR, 480, 40, 90) for b in range(8)], n, n, f"part {n}") for n in range(3)]
    return make_song([*parts, Part([(0, 480, 36, 90)], 0, 9, "kit")])


SONG = _song()
CELLS = Selection.of([0, 1, 3], [2, 3])


def asked(selection=CELLS, **words):
    typed = {name: (text,) if isinstance(text, str) else text for name, text in words.items()}
    return bind_controls(SONG, selection, Wishes(**typed))


def test_a_value_for_all_for_a_track_for_bars_and_for_both():
    wish = asked(density=("1=4:9", "8", "4:7", "part 1=3.5"))
    found = {cell: controls.density for cell, controls in wish.items()}
    assert found == {(0, 2): 8, (0, 3): 9, (1, 2): 3.5, (1, 3): 3.5, (3, 2): 8, (3, 3): 7}


def test_the_last_of_two_equally_particular_counts():
    assert asked(density=("8", "6"))[0, 2].density == 6


def test_only_what_is_asked_is_a_control():
    assert asked() == {}
    assert set(asked(density="2=0")) == {(1, 2), (1, 3)}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("density", "6", {"density": 6}),
        ("polyphony", "2", {"fewest": 2, "most": 2}),
        ("polyphony", "1-3", {"fewest": 1, "most": 3}),
        ("lengths", "1/8,1/4", {"lengths": frozenset({"1/8", "1/4"})}),
        ("register", "C4", {"register": 60}),
        ("register", "3:48", {"register": 48}),
        ("span", "12", {"span": 12}),
        ("pitch_classes", "C Eb G", {"pitch_classes": frozenset({0, 3, 7})}),
        ("pitch_classes", "C", {"pitch_classes": frozenset({0})}),
        ("pitch_classes", "A minor pentatonic", {"pitch_classes": frozenset({9, 0, 2, 4, 7})}),
        ("silence", "0.5", {"silence": 0.5}),
        ("silence", "25%", {"silence": 0.25}),
        ("loudness", "100", {"loudness": 100}),
        ("loudness", "mf", {"loudness": 80}),
        ("subdivision", "1/8t", {"subdivision": "1/8t"}),
        ("syncopation", "0.5", {"syncopation": 0.5}),
        ("program", "33", {"program": 33}),
        ("chords", "Am F", {"chords": ((0, "Am"),)}),
        ("chords", "Am F |", {"chords": ((0, "Am"), (48, "F"))}),
        ("like", "5", {"reference": 4, "likeness": 0.8}),
        ("like", "5@0.7", {"reference": 4, "likeness": 0.7}),
        ("like", "same@70%", {"reference": 2, "likeness": 0.7}),
    ],
)
def test_every_control_can_be_typed(name, text, expected):
    assert asked(**{name: text})[0, 2] == Controls(**expected)


def test_every_control_has_its_words():
    typed = {name for name in CONTROL_WORDS if name not in ("polyphony", "like")}
    assert typed | {"fewest", "most", "reference", "likeness"} == set(Controls.__dataclass_fields__)


def test_chords_go_round_from_the_first_bar_they_are_for():
    wish = asked(Selection.of([0], [1, 2, 5]), chords="Am F | C | G")
    assert {bar: [name for _, name in c.chords] for (_, bar), c in wish.items()} == {
        **{1: ["Am", "F"], 2: ["C"], 5: ["C"]}
    }


def test_same_is_each_bar_itself():
    assert {cell: c.reference for cell, c in asked(like="1=same").items()} == {(0, 2): 2, (0, 3): 3}


@pytest.mark.parametrize("word", ["register", "span", "pitch_classes", "program", "chords"])
def test_drums_have_no_pitches(word):
    text = {"register": "C4", "span": "5", "pitch_classes": "C E", "program": "3", "chords": "C"}
    assert {track for track, _ in asked(**{word: text[word]})} == {0, 1}
    with pytest.raises(ControlError, match='track 4 "kit", which plays drums'):
        asked(**{word: f"kit={text[word]}"})
    with pytest.raises(ControlError, match="plays drums"):
        asked(Selection.of([3], [2]), **{word: text[word]})


@pytest.mark.parametrize(
    ("word", "text", "message"),
    [
        ("density", "3=1", "selected bars, found track 3"),
        ("density", "part 1=", "expected a number, found ''"),
        ("density", "7:4", "found none of them in 7"),
        ("density", "-1", "density: expected 0"),
        ("span", "1.5", "whole number"),
        ("program", "128", r"expected 0..127, found 128"),
        ("polyphony", "3-2", "polyphony"),
        ("lengths", "1/7", "expected some of 1/32"),
        ("register", "C4-C5", "one pitch"),
        ("pitch_classes", "C H", "expected a note"),
        ("silence", "2", "share"),
        ("loudness", "loud", "expected a number"),
        ("subdivision", "1/5", "expected one of 1/4"),
        ("chords", "Hm", "chord"),
        ("chords", "C || G", "every bar"),
        ("like", "9", "bar of 1 to 8, found 9"),
        ("like", "0", "expected a bar"),
        ("like", "5@2", "share"),
    ],
)
def test_what_cannot_be_read_is_refused(word, text, message):
    with pytest.raises(ControlError, match=message):
        asked(**{word: text})


def test_what_is_not_in_the_song_is_refused():
    with pytest.raises(SelectionError, match="flute"):
        asked(density="flute=3")
    with pytest.raises(SelectionError, match="bar 99"):
        asked(density="99:3")
