"""Raw events → tracks, bars, notes; and splicing new notes into selected cells."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anser.errors import MidiError, SelectionError
from anser.midi_edit import Insertion, edited
from anser.selection import Selection
from anser.song import NOTE, Song, fitted, splice

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("*.mid"))
QUARTER = 480


def song_of(*chunks, file_format=1, division=QUARTER, length=None):
    """A song whose MTrks have the messages given as (tick, hex)."""
    empty = b"MTrk\0\0\0\4\0\xff\x2f\0" * len(chunks)
    numbers = b"".join(n.to_bytes(2, "big") for n in (file_format, len(chunks), division))
    blank = Song.from_bytes(b"MThd\0\0\0\6" + numbers + empty).midi
    new = {
        number: [Insertion(tick, bytes.fromhex(text)) for tick, text in chunk]
        for number, chunk in enumerate(chunks)
    }
    if length is not None:  # a text event holds the end of the first MTrk there
        new[0].append(Insertion(length, b"\xff\x01\0"))
    return Song.from_bytes(edited(blank, np.zeros(len(chunks), bool), new).data, "test.mid")


def note(onset, duration, pitch=60, channel=0, velocity=64):
    """The two messages of a note."""
    return [
        (onset, f"{0x90 | channel:02x} {pitch:02x} {velocity:02x}"),
        (onset + duration, f"{0x80 | channel:02x} {pitch:02x} 40"),
    ]


def meter(tick, numerator, power):
    return (tick, f"ff 58 04 {numerator:02x} {power:02x} 18 08")


def named(text):
    return (0, f"ff 03 {len(text):02x} {text.encode().hex()}")


def notes(*rows):
    """Notes as (onset, duration, pitch, velocity)."""
    return np.array(list(rows), NOTE)


def events_of(song):
    events = song.midi.events
    return [
        (chunk, tick, song.midi.message(index))
        for index, (chunk, tick) in enumerate(events[["chunk", "tick"]].tolist())
    ]


def test_songs_print_on_a_line():
    assert len(repr(Song.read(FIXTURES[0]))) < 4000


def test_note_off_may_be_a_note_on_without_velocity():
    song = song_of([(0, "90 3c 40"), (100, "90 3c 00")])
    assert song.tracks[0].notes.tolist() == [(0, 100, 60, 64)]


def test_equal_pitches_end_first_in_first_out():
    song = song_of([(0, "90 3c 01"), (50, "90 3c 02"), (80, "80 3c 40"), (90, "80 3c 40")])
    assert song.tracks[0].notes.tolist() == [(0, 80, 60, 1), (50, 40, 60, 2)]


def test_note_offs_that_end_nothing_are_passed_over():
    song = song_of([(0, "80 3c 40"), (10, "90 3c 01"), (20, "80 3c 40"), (30, "80 3c 40")])
    assert song.tracks[0].notes.tolist() == [(10, 10, 60, 1)]


def test_a_note_that_is_never_ended_lasts_to_the_end_of_track():
    assert song_of([(7, "90 3c 40")], length=107).tracks[0].notes.tolist() == [(7, 100, 60, 64)]


def test_tracks_are_one_for_each_chunk_channel_and_program():
    song = song_of(
        [named("Song"), (0, "ff 51 03 07 a1 20")],
        [
            named("Horns"),
            (0, "c0 38"),
            *note(0, 10),
            (480, "c0 39"),
            *note(480, 10),
            (900, "c0 38"),
            *note(900, 10),
        ],
        [named("Keys"), (0, "c1 00"), *note(0, 10, channel=1)],
        [(0, "c2 20"), *note(0, 10, channel=2)],
        [*note(0, 10, channel=9)],
    )
    found = [(t.name, t.chunk, t.channel, t.program, t.is_drum, len(t.notes)) for t in song.tracks]
    assert found == [
        ("Horns (Trumpet)", 1, 0, 56, False, 2),
        ("Horns (Trombone)", 1, 0, 57, False, 1),
        ("Keys", 2, 1, 0, False, 1),
        ("Acoustic Bass", 3, 2, 32, False, 1),
        ("Drums", 4, 9, 0, True, 1),
    ]  # fmt: skip


def test_one_chunk_with_equal_instruments_is_told_apart_by_channel():
    song = song_of([named("Song"), *note(0, 9), *note(0, 9, channel=1)], file_format=0)
    assert [track.name for track in song.tracks] == [
        "Acoustic Grand Piano on channel 1",
        "Acoustic Grand Piano on channel 2",
    ]


def test_programs_may_be_set_in_another_chunk_but_the_own_one_wins():
    setup = [(0, "c0 28"), (0, "c1 29"), (960, "c0 2a")]
    song = song_of(setup, [*note(0, 9), *note(960, 9)], [(0, "c1 07"), *note(0, 9, channel=1)])
    assert [track.program for track in song.tracks] == [40, 42, 7]
    alone = song_of(setup, [*note(0, 9)], file_format=2)
    assert [track.program for track in alone.tracks] == [0]


def test_program_changes_without_notes_make_no_tracks_but_a_waiting_track_is_one():
    setup = [(0, "c0 28"), (0, "c1 29")]
    waiting = [named("Bass"), (0, "c2 21")]
    credits = [named("by me"), (0, "c3 00")]
    song = song_of(setup, note(0, 9), waiting, credits)
    assert [(track.name, len(track.notes)) for track in song.tracks] == [("Violin", 1), ("Bass", 0)]


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        ("42 61 73 73", "Bass"),
        ("20 c3 a9 00 0a 20", "é"),
        ("e9 74", "ét"),
        ("", "Electric Bass (finger)"),
    ],
)
def test_names_are_decoded_into_one_printable_line(payload, name):
    size = len(bytes.fromhex(payload))
    song = song_of([(0, f"ff 03 {size:02x} {payload}"), (0, "c0 21"), *note(0, 9)])
    assert song.tracks[0].name == name


@pytest.mark.parametrize(
    ("signatures", "until", "starts", "meters"),
    [
        ([], 1, [0, 1920], ["4/4"]),
        ([], 1920, [0, 1920], ["4/4"]),
        ([], 1921, [0, 1920, 3840], ["4/4", "4/4"]),
        ([meter(0, 6, 3)], 1500, [0, 1440, 2880], ["6/8", "6/8"]),
        ([meter(0, 1, 2), meter(480, 3, 2)], 481, [0, 480, 1920], ["1/4", "3/4"]),  # pickup
        ([meter(1920, 3, 2)], 2000, [0, 1920, 3360], ["4/4", "3/4"]),
        ([meter(2400, 3, 2)], 2401, [0, 1920, 2400, 3840], ["4/4", "4/4", "3/4"]),  # inside a bar
        ([meter(0, 3, 2), meter(0, 2, 2)], 1, [0, 960], ["2/4"]),  # the last one at a tick holds
        ([meter(0, 0, 2), meter(9, 5, 9), (9, "ff 58 01 03")], 1, [0, 1920], ["4/4"]),  # nonsense
        ([meter(0, 7, 4)], 800, [0, 840], ["7/16"]),
        ([meter(5000, 3, 2)], 100, [0, 1920], ["4/4"]),  # behind the last note
    ],
)
def test_bars_follow_the_time_signatures_to_the_last_note(signatures, until, starts, meters):
    song = song_of(note(0, until), signatures)
    assert song.bars.starts.tolist() == starts
    shown = zip(song.bars.numerators.tolist(), song.bars.denominators.tolist(), strict=True)
    assert [f"{numerator}/{denominator}" for numerator, denominator in shown] == meters
    assert song.n_bars == len(meters)


def test_bar_lines_between_ticks_do_not_drift():
    song = song_of([meter(0, 3, 4), *note(0, 1500)], division=26)  # 19.5 ticks a bar
    assert song.bars.starts[:5].tolist() == [0, 19, 39, 58, 78]


def test_extended_adds_bars_of_the_last_meter_and_changes_no_event():
    song = song_of([meter(0, 4, 2), meter(1920, 3, 2), *note(1920, 10)])
    longer = song.extended(2)
    assert longer.bars.starts.tolist() == [0, 1920, 3360, 4800, 6240]
    assert longer.extended(1).n_bars == 5
    assert longer.to_bytes() == song.to_bytes()
    with pytest.raises(ValueError, match="expected bars to add"):
        song.extended(-1)


def test_tempos():
    song = song_of(
        [(0, "ff 51 03 03 d0 90"), (960, "ff 51 03 07 a1 20"), (970, "ff 51 03 00 00 00")]
    )
    assert song.tempos.tolist() == [(0, 250_000), (960, 500_000)]
    assert song_of([]).tempos.tolist() == [(0, 500_000)]


@pytest.mark.parametrize(("division", "ticks"), [(0xE728, 500), (0xE250, 1200), (0xE304, 60)])
def test_a_quarter_of_smpte_time_is_half_a_second(division, ticks):
    song = song_of([(0, "ff 51 03 03 d0 90")], division=division)
    assert song.ticks_per_quarter == ticks
    assert song.tempos.tolist() == [(0, 500_000)]


def test_a_song_without_notes_has_a_bar_and_can_be_given_notes():
    song = song_of([])
    assert (song.tracks, song.n_bars) == ((), 1)
    waiting = song_of([(0, "c0 21")])
    filled = splice(waiting.extended(3), Selection.of([0], [2]), {0: notes((3840, 480, 36, 90))})
    assert Song.from_bytes(filled.to_bytes()).tracks[0].notes.tolist() == [(3840, 480, 36, 90)]


def test_a_delta_time_of_years_is_an_error_and_no_strain():
    far = "ff ff ff 7f"
    deltas = bytes.fromhex("00 90 3c 40" + f"{far} ff 01 00" * 40 + "00 ff 2f 00")
    data = b"MThd\0\0\0\6\0\0\0\1\0\1MTrk" + len(deltas).to_bytes(4, "big") + deltas
    with pytest.raises(MidiError, match=r"x\.mid, tick \d+: expected at most 100000 bars"):
        Song.from_bytes(data, "x.mid")


def test_splice_replaces_what_begins_in_the_cells_and_nothing_else():
    song = song_of(
        [
            *note(0, 2400, 60),  # begins before, lasts into the second bar
            *note(100, 100, 62),
            (1920, "b0 40 7f"),
            *note(1920, 100, 64),
            *note(2000, 4000, 65),
            (3000, "e0 00 50"),
            *note(3840, 100, 62),
        ],
        note(1920, 100, 67, channel=1),
    )
    new = notes((2000, 100, 70, 99), (1920, 240, 71, 98))
    result = splice(song, Selection.of([0], [1]), {0: new})
    assert result.tracks[0].notes.tolist() == [
        (0, 2400, 60, 64),
        (100, 100, 62, 64),
        (1920, 240, 71, 98),
        (2000, 100, 70, 99),
        (3840, 100, 62, 64),
    ]
    gone = Counter(events_of(song)) - Counter(events_of(result))
    assert sorted(message.hex() for _, _, message in gone) == [
        "804040",
        "804140",
        "904040",
        "904140",
    ]
    at_bar = [
        message.hex() for chunk, tick, message in events_of(result) if (chunk, tick) == (0, 1920)
    ]
    assert at_bar == ["b0407f", "904762"]  # behind the pedal of its tick
    assert result.tracks[1].notes.tolist() == song.tracks[1].notes.tolist()
    assert result.n_bars == song.n_bars


def test_splice_moves_end_of_track_only_behind_new_notes():
    song = song_of(note(0, 100), length=1000)
    inside = splice(song, Selection.of([0], [0]), {0: notes((900, 100, 60, 64))})
    assert events_of(inside)[-1] == (0, 1000, b"\xff\x2f\0")
    beyond = splice(song.extended(1), Selection.of([0], [1]), {0: notes((1920, 100, 60, 64))})
    assert events_of(beyond)[-1] == (0, 2020, b"\xff\x2f\0")
    emptied = splice(song, Selection.of([0], [0]), {})
    assert [len(track.notes) for track in emptied.tracks] == [0]
    assert events_of(emptied)[-1] == (0, 1000, b"\xff\x2f\0")


@pytest.mark.parametrize(
    ("new", "fitting"),
    [
        ([(1920, 5000, 60, 9)], [(1920, 1920, 60, 9)]),  # ends where the next one begins
        ([(1920, 5000, 61, 9)], [(1920, 5000, 61, 9)]),
        ([(1950, 10, 62, 9)], []),  # 62 still sounds
        ([(2400, 10, 62, 9)], [(2400, 10, 62, 9)]),  # at the tick where 62 ends
        ([(1920, 500, 64, 9), (2020, 500, 64, 8)], [(1920, 100, 64, 9), (2020, 500, 64, 8)]),
        ([(1920, 500, 64, 9), (1920, 600, 64, 8)], [(1920, 500, 64, 9)]),
        ([(1920, 500, 67, 9)], [(1920, 80, 67, 9)]),  # another chunk, the same channel
        ([(2000, 500, 67, 9)], []),
        ([(2100, 900, 72, 9)], [(2100, 400, 72, 9)]),  # a note-off that ends nothing would cut it
        ([(1920, 0, 80, 9)], [(1920, 0, 80, 9)]),
        ([(2000, 10, 90, 9)], []),  # 90 is never ended
    ],
)
def test_equal_pitches_on_a_channel_never_overlap(new, fitting):
    song = song_of(
        [
            *note(0, 2400, 62),
            *note(3840, 100, 60),
            (2500, "80 48 40"),
            (10, "90 5a 40"),
        ],
        note(2000, 50, 67),
        length=8000,
    )
    selection = Selection.of([0], [1])
    assert fitted(song, selection, {0: notes(*new)})[0].tolist() == fitting
    result = splice(song, selection, {0: notes(*new)})
    assert sorted(result.tracks[0].notes.tolist()) == sorted(
        song.tracks[0].notes.tolist() + fitting
    )


def test_new_notes_of_two_tracks_on_one_channel_do_not_overlap():
    song = song_of([*note(0, 9), (480, "c0 05"), *note(480, 9)])
    new = {0: notes((1000, 500, 60, 1)), 1: notes((1200, 500, 60, 2), (900, 500, 60, 3))}
    result = fitted(song, Selection.of([0, 1], [0]), new)
    assert {track: list(fit.tolist()) for track, fit in result.items()} == {
        0: [(1000, 500, 60, 1)],
        1: [(900, 100, 60, 3)],
    }


def test_a_pitch_struck_again_at_once_is_ended_first():
    song = song_of([*note(0, 1920, 60), *note(3840, 10, 60)])
    result = splice(song, Selection.of([0], [1]), {0: notes((1920, 1920, 60, 9))})
    at_line = [m.hex() for _, tick, m in events_of(result) if tick in (1920, 3840)]
    assert at_line == ["803c40", "903c09", "803c40", "903c40"]


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ((0, 10, 60, 64), r"begin in bars \[0\], not in the selection"),
        ((1920, 10, 128, 64), "pitch"),
        ((1920, 10, 60, 0), "velocity"),
        ((1920, -1, 60, 1), "duration"),
    ],
)
def test_notes_that_break_our_own_rules_are_refused(new, message):
    song = song_of(note(1920, 10))
    with pytest.raises(ValueError, match=message):
        splice(song, Selection.of([0], [1]), {0: notes(new)})


def test_cells_that_do_not_exist_are_refused():
    song = song_of(note(0, 10))
    with pytest.raises(
        SelectionError, match="expected tracks 1-1 and bars 1-1, found track 1, bar 2"
    ):
        splice(song, Selection.of([0], [1]), {})


def test_songs_in_one_file_do_not_stand_in_each_others_way():
    song = song_of(note(0, 10), note(100, 100), file_format=2)
    assert len(fitted(song, Selection.of([0], [0]), {0: notes((110, 5, 60, 1))})[0]) == 1


@st.composite
def splicings(draw):
    """A fixture, some of its cells, and new notes in them."""
    song = Song.read(draw(st.sampled_from(FIXTURES))).extended(draw(st.integers(0, 2)))
    cell = st.tuples(st.integers(0, len(song.tracks) - 1), st.integers(0, song.n_bars - 1))
    cells = draw(st.frozensets(cell, min_size=1, max_size=6))
    new = {}
    for track, bar in cells:
        onsets = st.integers(int(song.bars.starts[bar]), int(song.bars.starts[bar + 1]) - 1)
        row = st.tuples(onsets, st.integers(0, 4000), st.integers(34, 48), st.integers(1, 127))
        new.setdefault(track, []).extend(draw(st.lists(row, max_size=6)))
    return song, Selection(cells), {track: notes(*rows) for track, rows in new.items()}


def selected(song, selection):
    """The notes of each track that begin in its selected cells, and those that do not."""
    inside, outside = {}, {}
    for index, track in enumerate(song.tracks):
        bars = song.bars.at(track.notes["onset"]).tolist()
        chosen = np.array([(index, bar) in selection.cells for bar in bars], bool)
        inside[index], outside[index] = track.notes[chosen], track.notes[~chosen]
    return inside, outside


def overlaps(song):
    """How many notes begin while their pitch sounds on their channel, on an MTrk."""
    last, found = {}, 0
    rows = [(n[0], n[1], (t.chunk, t.channel, n[2])) for t in song.tracks for n in t.notes.tolist()]
    for onset, duration, key in sorted(rows):
        found += last.get(key, -1) > onset
        last[key] = max(last.get(key, -1), onset + duration)
    return found


@settings(max_examples=80, deadline=None)
@given(splicings())
def test_splice_writes_the_fitted_notes_and_keeps_all_others(case):
    song, selection, new = case
    result = splice(song, selection, new)
    _, outside = selected(song, selection)
    # A new note may fall under another program of its channel, and so to another track.
    expected, found = Counter(), Counter()
    for index, track in enumerate(song.tracks):
        fitting = fitted(song, selection, new).get(index, notes())
        assert len(fitting) <= len(new.get(index, notes()))
        for row in [*outside[index].tolist(), *fitting.tolist()]:
            expected[track.chunk, track.channel, row] += 1
    for track in result.tracks:
        for row in track.notes.tolist():
            found[track.chunk, track.channel, row] += 1
    assert found == expected
    assert overlaps(result) <= overlaps(song)
    assert [track.part for track in result.tracks[: len(song.tracks)]] == [
        track.part for track in song.tracks
    ]


@settings(max_examples=60, deadline=None)
@given(splicings())
def test_notes_put_back_are_the_same_notes(case):
    song, selection, _ = case
    inside, _ = selected(song, selection)
    emptied = splice(song, selection, {})
    restored = splice(emptied, selection, inside)
    if overlaps(song) == 0:
        assert [t.notes.tolist() for t in restored.tracks] == [
            t.notes.tolist() for t in song.tracks
        ]
    assert events_of(splice(restored, selection, {})) == events_of(emptied)
