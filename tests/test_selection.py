"""What a musician writes → cells, and what they are told when it does not fit."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anser.errors import SelectionError
from anser.selection import Selection
from anser.song import Song


def song_with(*names, n_bars=16):
    """A song of empty named tracks and some bars."""
    chunks = b""
    for number, name in enumerate(names):
        body = b"\0\xff\3" + bytes([len(name.encode())]) + name.encode()
        body += bytes([0, 0xC0 | number % 9, 1, 0, 0xFF, 0x2F, 0])
        chunks += b"MTrk" + len(body).to_bytes(4, "big") + body
    header = b"MThd\0\0\0\6\0\1" + len(names).to_bytes(2, "big") + b"\1\xe0"
    return Song.from_bytes(header + chunks, "song.mid").extended(n_bars - 1)


SONG = song_with("Bass", "Drums", "Piano, left", "Piano: right", "Lead")


def cells(**tracks):
    return {(int(track[1:]), bar) for track, bars in tracks.items() for bar in bars}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bass:9-12, drums:9-16", cells(t0=range(8, 12), t1=range(8, 16))),
        ("2:5", cells(t1=[4])),
        ("bass:1-2+5-6", cells(t0=[0, 1, 4, 5])),
        ("bass", cells(t0=range(16))),
        ("1, 2", cells(t0=range(16), t1=range(16))),
        ("bass:9-12,15", cells(t0=[8, 9, 10, 11, 14])),
        ("bass:9-12, 15; 2:1", cells(t0=[8, 9, 10, 11, 14], t1=[0])),
        ("bass:3; 2", cells(t0=[2], t1=range(16))),
        ("1:1, 1:3", cells(t0=[0, 2])),
        (" BASS : 1 - 2 + 4 ", cells(t0=[0, 1, 3])),
        ("lea:2–3", cells(t4=[1, 2])),
        ('"Piano, left":3', cells(t2=[2])),
        ("'piano: right':3, 'Piano, left'", cells(t3=[2], t2=range(16))),
        ("Piano: right:3", cells(t3=[2])),
        ("right:3", cells(t3=[2])),
    ],
)
def test_parse(text, expected):
    assert Selection.parse(text, SONG).cells == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'selection "": expected a track, found "". Write tracks and bars like'),
        ("bass:1,", "expected a track, found"),
        (":5", "expected a track, found"),
        ("bass:", 'expected bars after "bass:", found ""'),
        ("bass:x", 'expected bars after "bass:", found "x"'),
        ("bass:1-", "expected bars after"),
        ("bass:" + "9" * 5000, "expected bars after"),
        ("bass:4-2", "expected bars in rising order, found 4-2. Write 2-4"),
        ("bass:0", 'song.mid, track 1 "Bass": bar 0 asked for, but the song has 16 bars'),
        ("bass:30-34", "bars 30-34 asked for, but the song has 16 bars. Use bars 1-16"),
        ("flute:1", 'song.mid: expected a track, found "flute". Tracks are 1 "Bass", 2 "Drums", 3'),
        ("9:1", 'expected a track, found "9"'),
        ("9" * 5000, "expected a track, found"),
        ("piano:1", 'could be 3 "Piano, left", 4 "Piano: right". Use its number'),
        ("'':1", "expected a track, found"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(text, message):
    with pytest.raises(SelectionError) as caught:
        Selection.parse(text, SONG)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_the_first_tracks_are_listed():
    song = song_with(*(f"Track {n}" for n in range(30)), n_bars=1)
    with pytest.raises(SelectionError, match=r"12 \"Track 11\", … \(30 in all\)"):
        Selection.parse("flute", song)
    with pytest.raises(SelectionError, match="but the song has 1 bar"):
        Selection.parse("1:2", song)


def test_a_number_is_a_track_number_before_it_is_a_name():
    song = song_with("2", "1", "1980")
    assert Selection.parse("1:1; 1980:2", song).cells == {(0, 0), (2, 1)}


def test_a_song_without_tracks_says_so():
    song = Song.from_bytes(b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk\0\0\0\4\0\xff\x2f\0", "empty.mid")
    with pytest.raises(SelectionError, match=r"empty\.mid: .* the song has no tracks"):
        Selection.parse("1:1", song)


def test_options_select_the_same_bars_of_each_track():
    assert Selection.parse_options(["bass", "2"], "1-2,4", SONG) == Selection.of([0, 1], [0, 1, 3])
    assert Selection.parse_options(["Piano: right"], None, SONG) == Selection.of([3], range(16))
    with pytest.raises(SelectionError, match='bars "x": expected bars like'):
        Selection.parse_options(["bass"], "x", SONG)
    with pytest.raises(SelectionError, match="expected a track, found none"):
        Selection.parse_options([], "1", SONG)


def test_tracks_and_bars_are_sorted():
    selection = Selection(frozenset({(3, 9), (1, 2), (3, 1)}))
    assert (selection.tracks, selection.bars) == ((1, 3), (1, 2, 9))


@given(st.frozensets(st.tuples(st.integers(0, 4), st.integers(0, 15)), min_size=1))
def test_spelled_is_read_back(cells):
    selection = Selection(cells)
    assert Selection.parse(selection.spelled(), SONG) == selection


@given(st.text(alphabet="bas12:,;+-\"' ", max_size=20))
def test_any_text_is_a_selection_or_an_error(text):
    try:
        selection = Selection.parse(text, SONG)
    except SelectionError:
        return
    assert selection.cells


def test_fixture_tracks_are_found_by_instrument():
    song = Song.read(Path(__file__).parent / "fixtures" / "openlieder-an-laura.mid")
    names = [track.name for track in song.tracks]
    assert Selection.parse(f'"{names[0]}":2', song).cells == {(0, 1)}
