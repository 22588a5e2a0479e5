import io

import pytest
from rich.console import Console

from anser import show
from songs import Part, make_song


@pytest.fixture
def song():
    bass = Part([(0, 480, 40, 90), (4 * 480, 480, 43, 90)], program=33, channel=1, name="Bass")
    late = Part([(9 * 480, 240, 60, 50)], name="Late [solo]")
    meters = ((0, 4, 4), (8 * 480, 3, 4))
    return make_song([bass, late], meters, tempo=600_000)


def test_facts_count_from_one(song):
    facts = show.facts(song)
    assert facts["bars"] == 3
    assert facts["meters"] == [{"bar": 1, "meter": "4/4"}, {"bar": 3, "meter": "3/4"}]
    assert facts["tempos"] == [{"bar": 1, "quarters_per_minute": 100.0}]
    assert facts["seconds"] == pytest.approx(11 * 0.6)
    bass, late = facts["tracks"]
    assert (bass["lowest"], bass["highest"], bass["bars"]) == ("E2", "G2", "1-2")
    assert (late["name"], late["bars"]) == ("Late [solo]", "3")
    assert facts["example"] == "anser infill test.mid --track 1 --bars 1-3 -o out.mid"


def test_tables_show_names_as_they_are(song):
    text = io.StringIO()
    show.print_tables(song, Console(file=text, width=120))
    assert "Late [solo]" in text.getvalue()
    assert "4/4 from bar 1, 3/4 from bar 3" in text.getvalue()


def test_a_song_without_tracks_has_facts_too():
    text = io.StringIO()
    empty = make_song([])
    assert show.facts(empty)["tracks"] == []
    assert show.example(empty) == ""
    show.print_tables(empty, Console(file=text, width=120))
    assert "0 tracks" in text.getvalue()


def test_seconds_follow_the_tempo_map():
    song = make_song([Part([(0, 4 * 480, 60, 90)])], tempo=250_000)
    assert show.seconds(song) == pytest.approx(1.0)


def test_chords_are_listed_with_their_beats():
    triads = ((60, 64, 67), (57, 60, 64), (53, 57, 60))
    notes = [(960 * i, 960, p, 80) for i, triad in enumerate(triads) for p in triad]
    song = make_song([Part(notes)])
    assert show.chord_facts(song) == [
        {"bar": 1, "chords": [{"beat": 1, "chord": "C"}, {"beat": 3, "chord": "Am"}]},
        {"bar": 2, "chords": [{"beat": 1, "chord": "F"}, {"beat": 3, "chord": "N"}]},
    ]
    text = io.StringIO()
    show.print_chords(song, Console(file=text, width=120))
    assert "C Am | F N" in text.getvalue()
