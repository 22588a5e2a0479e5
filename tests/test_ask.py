from pathlib import Path

import pytest

from anser import ask
from anser.ask import Asked
from anser.errors import ControlError, SelectionError
from anser.selection import Selection
from songs import Part, make_song

BAR = 4 * 480


def _parts(n, onset=0):
    return [Part([(onset, 480, 40, 90)], n, n % 9, f"part {n}") for n in range(n)]


def test_those_who_play_near_the_end_go_on():
    early = Part([(0, 480, 60, 90)], name="intro")
    late = Part([(20 * BAR, 480, 60, 90)], channel=1, name="outro")
    assert ask.closing_tracks(make_song([early, late])) == [1]


def test_no_more_go_on_than_a_prompt_holds():
    busy = Part([(0, 480, 60, 90), (480, 480, 60, 90)], channel=2, name="busy")
    tracks = ask.closing_tracks(make_song([*_parts(20), busy]))
    assert len(tracks) == 16
    assert 20 in tracks


def test_bars_and_tracks_are_chosen_together():
    song = make_song([Part([(3 * BAR, 480, 60, 90)], name="solo")])
    assert ask.choose(song, None, ["solo"], "2-3") == Selection.of([0], [1, 2])
    assert ask.choose(song, None, ["1"], None) == Selection.of([0], range(4))
    with pytest.raises(SelectionError, match="found both"):
        ask.choose(song, "1:1", ["1"], None)


def _controls(*density, program=()):
    song = make_song(_parts(3))
    selection = Selection.of([0, 1], [0])
    asked = Asked(Path("out.mid"), density=density, program=program)
    return ask._controls(song, selection, asked)


def test_a_value_for_all_and_one_for_a_track():
    asked = _controls("8", "part 1=3.5")
    assert {cell: wish.density for cell, wish in asked.items()} == {(0, 0): 8.0, (1, 0): 3.5}


def test_only_what_is_asked_is_a_control():
    assert _controls() == {}
    assert list(_controls("2=0")) == [(1, 0)]
    assert _controls(program=["33"])[0, 0].program == 33


def test_the_track_must_be_selected_and_the_value_a_number():
    with pytest.raises(ControlError, match="selected bars, found track 3"):
        _controls("3=1")
    with pytest.raises(ControlError, match="expected a number, found ''"):
        _controls("part 1=")
    with pytest.raises(ControlError, match=r"expected a number, found '1.5'"):
        _controls(program=["1.5"])
