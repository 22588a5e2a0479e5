import pytest

from anser import ask
from anser.errors import SelectionError
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
