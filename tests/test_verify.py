"""What `differences` must find, and what it must let pass."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anser.midi import read
from anser.midi_edit import Insertion, edited
from anser.selection import Selection
from anser.song import NOTE, Song, splice
from anser.verify import differences

FIXTURE = Path(__file__).parent / "fixtures" / "freedoom-d_dm2ttl.mid"
FIXTURES = sorted(FIXTURE.parent.glob("*.mid"))
SONG = Song.read(FIXTURE)


def one_track(*messages):
    """A song of one MTrk, with its messages as (tick, hex)."""
    blank = read(b"MThd\0\0\0\6\0\1\0\1\1\xe0MTrk\0\0\0\4\0\xff\x2f\0")
    new = [Insertion(tick, bytes.fromhex(text)) for tick, text in messages]
    return Song.from_bytes(edited(blank, np.zeros(1, bool), {0: new}).data)


BEFORE = [
    (0, "ff 03 04 42 61 73 73"),
    (0, "c0 21"),
    (0, "90 24 40"),
    (480, "80 24 40"),
    (1920, "b0 07 64"),
    (1920, "90 26 40"),
    (2400, "80 26 40"),
    (3840, "90 28 40"),
    (4320, "80 28 40"),
]
SECOND_BAR = Selection.of([0], [1])


def changed(index, *messages):
    """BEFORE with one message replaced by others."""
    return one_track(*BEFORE[:index], *messages, *BEFORE[index + 1 :])


@pytest.mark.parametrize(
    "after",
    [
        one_track(*BEFORE),
        one_track(*BEFORE[:5], *BEFORE[7:]),  # the second bar emptied
        changed(5, (1930, "90 30 40"), (2000, "80 30 40"), (2000, "90 26 40")),
        one_track(*BEFORE[:7], (3000, "90 30 40"), *BEFORE[7:], (6000, "80 30 40")),  # a longer end
    ],
)
def test_what_the_selection_allows_passes(after):
    assert differences(one_track(*BEFORE), after, SECOND_BAR) == []


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (changed(2), 'MIDI track 1 ("Bass"), bar 1, tick 0: note-on [90 24 40] is gone'),
        (changed(3, (490, "80 24 40")), "bar 1, tick 490: note-off [80 24 40] is new"),
        (changed(4), "bar 2, tick 1920: controller [b0 07 64] is gone"),
        (changed(4, (1920, "b0 07 65")), "bar 2, tick 1920: controller [b0 07 65] is new"),
        (changed(1, (0, "c0 22")), "program change [c0 21] is gone"),
        (changed(0, (0, "ff 03 04 42 61 73 74")), "meta event 3 [ff 03 04 42 61 73 73] is gone"),
        (changed(7, (3840, "90 2a 40")), "bar 3, tick 3840: note-on [90 2a 40] is new"),
        (one_track(*BEFORE, (5000, "e0 00 40")), "pitch bend [e0 00 40] is new"),
        (one_track(*BEFORE, (2000, "91 26 40"), (2100, "81 26 40")), "note-on [91 26 40] is new"),
        (one_track(BEFORE[1], BEFORE[0], *BEFORE[2:]), "changed places"),
        (one_track(*BEFORE[:8]), "end-of-track [ff 2f 00] is new"),
    ],
)  # fmt: skip
def test_what_it_does_not_allow_is_told(after, told):
    found = [str(difference) for difference in differences(one_track(*BEFORE), after, SECOND_BAR)]
    assert any(told in line for line in found), found


def test_a_later_end_of_track_without_a_note_is_told():
    longer = one_track(*BEFORE).to_bytes().replace(b"\0\xff\x2f\0", b"\x60\xff\x2f\0")
    found = differences(one_track(*BEFORE), longer, SECOND_BAR)
    assert [difference.tick for difference in found] == [4320, 4416]


def test_notes_of_another_program_on_the_channel_are_not_exempt():
    before = [*BEFORE, (2500, "c0 22"), (2500, "90 30 40"), (2600, "80 30 40")]
    song = one_track(*before)
    assert [track.program for track in song.tracks] == [33, 34]
    assert differences(song, one_track(*before[:-2]), SECOND_BAR)
    assert not differences(song, one_track(*before[:-2]), Selection.of([1], [1]))
    late = splice(song, SECOND_BAR, {0: np.array([(2700, 10, 50, 64)], NOTE)})
    assert not differences(song, late, SECOND_BAR)


def test_how_running_status_and_deltas_are_spelled_does_not_count():
    spelled = b"\0\x90\x3c\x40\x60\x90\x3c\0\0\xff\x2f\0"
    shorter = b"\0\x90\x3c\x40\x80\x60\x3c\0\0\xff\x2f\0"
    files = [
        b"MThd\0\0\0\6\0\1\0\1\1\xe0MTrk\0\0\0" + bytes([len(body)]) + body
        for body in (spelled, shorter)
    ]
    assert differences(*files, Selection(frozenset())) == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda data: data.replace(b"\1\xe0MTrk", b"\1\xe1MTrk"), "header"),
        (lambda data: data + b"XYZ!\0\0\0\0", "between the tracks"),
        (lambda data: data.replace(b"MTrk", b"XYZ!\0\0\0\0MTrk"), "between the tracks"),
        (
            lambda data: data[:11] + b"\2" + data[12:] + b"MTrk\0\0\0\4\0\xff\x2f\0",
            "tracks: expected 1, found 2",
        ),
        (
            lambda data: data[:18] + (len(data) - 21).to_bytes(4, "big") + data[22:] + b"?",
            "behind end-of-track",
        ),
    ],
)
def test_what_lies_around_the_events_counts(change, where):
    before = one_track(*BEFORE).to_bytes()
    found = [str(difference) for difference in differences(before, change(before), SECOND_BAR)]
    assert any(where in line for line in found), found


def test_differences_of_one_track_are_not_told_without_end():
    many = [(tick, "b0 07 40") for tick in range(100)]
    found = differences(one_track(), one_track(*many), Selection(frozenset()))
    assert len(found) == 21
    assert str(found[-1]) == "MIDI track 1: and 82 more differences"


@st.composite
def splicings(draw):
    song = Song.read(draw(st.sampled_from(FIXTURES))).extended(draw(st.integers(0, 2)))
    cell = st.tuples(st.integers(0, len(song.tracks) - 1), st.integers(0, song.n_bars - 1))
    cells = draw(st.frozensets(cell, min_size=1, max_size=5))
    new = {}
    for track, bar in cells:
        onsets = st.integers(int(song.bars.starts[bar]), int(song.bars.starts[bar + 1]) - 1)
        row = st.tuples(onsets, st.integers(0, 4000), st.integers(34, 48), st.integers(1, 127))
        new.setdefault(track, []).extend(draw(st.lists(row, max_size=5)))
    return song, Selection(cells), {track: np.array(rows, NOTE) for track, rows in new.items()}


@settings(max_examples=80, deadline=None)
@given(splicings())
def test_splice_changes_nothing_outside_the_selection(case):
    song, selection, new = case
    after = splice(song, selection, new).to_bytes()
    assert differences(song.to_bytes(), after, selection) == []


@settings(max_examples=80, deadline=None)
@given(st.integers(0, len(SONG.midi.events) - 1), st.integers(0, 3))
def test_any_event_taken_away_is_found_but_for_selected_notes(event, bar):
    ends = {chunk.end_event - 1 for chunk in SONG.midi.chunks}
    if event in ends:
        return
    selection = Selection.of([2], [bar])
    gone = np.zeros(len(SONG.midi.events), bool)
    gone[event] = True
    after = edited(SONG.midi, gone, {}).data
    row = SONG.midi.events[event]
    track = SONG.tracks[2]
    is_note = int(row["status"]) in (0x80 | track.channel, 0x90 | track.channel)
    if not (is_note and int(row["chunk"]) == track.chunk):
        assert differences(SONG, after, selection)
