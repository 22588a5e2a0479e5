"""Bytes ↔ raw events: nasty files as commented hex dumps, truncation, fuzz, edits, repair."""

import io
import random
import time
from collections import Counter, defaultdict, deque
from pathlib import Path

import mido
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anser.errors import AnserError, MidiError
from anser.midi import read, read_file, read_varlen, write_file
from anser.midi_edit import LARGEST_DELTA, Insertion, edited, spell_varlen
from anser.repair import repaired
from anser.song import Song

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("*.mid"))


def dump(text):
    """Bytes of a hex dump; what follows # on a line is a comment, 'MTrk' in quotes is ASCII."""
    data = b""
    for line in text.splitlines():
        for word in line.partition("#")[0].split():
            data += word[1:-1].encode() if word[0] == "'" else bytes.fromhex(word)
    return data


def mtrk(body):
    return b"MTrk" + len(body).to_bytes(4, "big") + body


def mthd(file_format=1, n_tracks=1, division=480):
    numbers = b"".join(n.to_bytes(2, "big") for n in (file_format, n_tracks, division))
    return b"MThd\0\0\0\6" + numbers


def events_of(midi):
    return [
        (tick, midi.message(index).hex(" "))
        for index, tick in enumerate(midi.events["tick"].tolist())
    ]


def unedited(midi):
    """Push the file through the editor with an event added and taken out again."""
    nothing = np.zeros(len(midi.events), bool)
    marked = edited(midi, nothing, {0: [Insertion(0, b"\xff\x01\x01?", before=True)]})
    gone = np.zeros(len(marked.events), bool)
    gone[0] = True
    return edited(marked, gone, {})


RUNNING_STATUS_ACROSS_META = """
'MThd' 00 00 00 06  00 00  00 01  01 e0   # format 0, one track, 480 ticks a quarter
'MTrk' 00 00 00 1c
00 90 3c 40         # note-on C4
60 3e 40            # running status: note-on D4
00 ff 01 02 68 69   # text "hi"
60 3c 00            # running status across the meta event: C4 off
00 f0 02 7e f7      # sysex
00 3e 00            # and across sysex: D4 off
00 ff 2f 00
"""

SPLIT_SYSEX = """
'MThd' 00 00 00 06  00 01  00 01  00 60
'MTrk' 00 00 00 1a
00 f0 03 43 12 00          # a sysex in three packets: no F7 at its end,
81 48 f7 03 43 12 00       # a continuation 200 ticks later,
64 f7 02 43 f7             # and its end
00 f7 01 f8                # F7 as an escape for a real-time byte
00 ff 2f 00
"""

UNKNOWN_CHUNKS = """
'MThd' 00 00 00 08  00 01  00 02  00 60  be ef   # a header with two bytes more than we know
'XFIH' 00 00 00 03  01 02 03                     # before the tracks
'MTrk' 00 00 00 04  00 ff 2f 00
'XYZ!' 00 00 00 00                               # between them, empty
'MTrk' 00 00 00 04  00 ff 2f 00
'XFKM' 00 00 00 01  ff                           # behind them
00 00 1a                                         # trailing bytes
"""

FORMAT_2 = """
'MThd' 00 00 00 06  00 02  00 02  00 60
'MTrk' 00 00 00 0c  00 90 3c 40  60 80 3c 40  00 ff 2f 00
'MTrk' 00 00 00 0c  00 90 3e 40  60 80 3e 40  00 ff 2f 00
"""

SMPTE = """
'MThd' 00 00 00 06  00 01  00 01  e7 28   # 25 frames a second, 40 ticks a frame
'MTrk' 00 00 00 0d  00 90 3c 40  83 74 80 3c 40  00 ff 2f 00
"""

LONG_NUMBERS = """
'MThd' 00 00 00 06  00 01  00 01  00 60
'MTrk' 00 00 00 18
80 80 80 00 90 3c 40       # delta time 0 in four bytes
80 60 80 3c 40             # 96 in two
00 ff 01 80 80 01 61       # a length of 1 in three
80 00 ff 2f 00
"""

BEHIND_END_OF_TRACK = """
'MThd' 00 00 00 06  00 01  00 02  00 60
'MTrk' 00 00 00 0c  00 ff 2f 00  00 90 3c 40  de ad be ef   # events and noise behind the end
'MTrk' 00 00 00 05  00 ff 2f 01 00                          # an end-of-track that carries a byte
"""

NASTY = [
    RUNNING_STATUS_ACROSS_META,
    SPLIT_SYSEX,
    UNKNOWN_CHUNKS,
    FORMAT_2,
    SMPTE,
    LONG_NUMBERS,
    BEHIND_END_OF_TRACK,
]


@pytest.mark.parametrize("text", NASTY)
def test_nasty_file_comes_back_byte_for_byte(text):
    data = dump(text)
    assert Song.from_bytes(data).to_bytes() == data
    again = read(unedited(read(data)).data)
    assert events_of(again) == events_of(read(data))
    assert repaired(data) == (data, ())


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_fixture_comes_back_byte_for_byte(path):
    data = path.read_bytes()
    assert Song.read(path).to_bytes() == data
    assert events_of(unedited(read(data))) == events_of(read(data))


def test_running_status_continues_across_meta_and_sysex():
    assert events_of(read(dump(RUNNING_STATUS_ACROSS_META))) == [
        (0, "90 3c 40"),
        (96, "90 3e 40"),
        (96, "ff 01 02 68 69"),
        (192, "90 3c 00"),
        (192, "f0 02 7e f7"),
        (192, "90 3e 00"),
        (192, "ff 2f 00"),
    ]


def test_sysex_packets_are_events_of_their_own():
    assert events_of(read(dump(SPLIT_SYSEX)))[:4] == [
        (0, "f0 03 43 12 00"),
        (200, "f7 03 43 12 00"),
        (300, "f7 02 43 f7"),
        (300, "f7 01 f8"),
    ]


def test_long_numbers_mean_what_they_say():
    assert [tick for tick, _ in events_of(read(dump(LONG_NUMBERS)))] == [0, 96, 96, 96]


def test_what_follows_end_of_track_is_kept_but_not_read():
    midi = read(dump(BEHIND_END_OF_TRACK))
    assert events_of(midi) == [(0, "ff 2f 00"), (0, "ff 2f 01 00")]
    longer = edited(midi, np.zeros(2, bool), {0: [Insertion(5, b"\x90\x3c\x40")]})
    assert b"\xff\x2f\x00\x00\x90\x3c\x40\xde\xad\xbe\xef" in longer.data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a MIDI file, found an empty one"),
        (b"Hello, world", "byte 0: expected 'MThd'"),
        (b"RIFF....RMIDdata", "RIFF wrapper"),
        (mthd()[:10], "byte 10: expected 14 bytes of header"),
        (b"MThd\0\0\0\4" + mthd()[8:], "byte 4: expected a header of 6 bytes"),
        (mthd(file_format=3), "byte 8: expected format 0, 1 or 2, found 3"),
        (mthd(division=0), "byte 12: .* division 0x0000"),
        (mthd(division=0xE600), "byte 12: .* division 0xE600"),
        (mthd(n_tracks=0), "expected at least one track .* found none"),
        (mthd() + b"MTrk\0\0\0\5\0", "byte 14: expected track 1 of 1, found no whole chunk"),
        (mthd(n_tracks=2) + mtrk(dump("00 ff 2f 00")), "declares 2 tracks, found 1"),
        (mthd() + mtrk(dump("00 90 3c 40")), "track 1, byte 26: expected an end-of-track"),
        (mthd() + mtrk(dump("00 3c 40")), "track 1, byte 23: expected a status byte, .* 0x3C"),
        (mthd() + mtrk(dump("00 90 3c 80")), r"byte 25: expected a data byte \(0-127\) .* 0x80"),
        (mthd() + mtrk(dump("00 90 3c")), "byte 25: expected a data byte, the track ends"),
        (mthd() + mtrk(dump("00 f4 00")), "byte 23: expected an event, found status 0xF4"),
        (mthd() + mtrk(dump("00 ff 01 05 61")), "byte 23: expected 5 bytes .* has 1 left"),
        (mthd() + mtrk(dump("00 ff 01")), "byte 25: expected a whole number, the track ends"),
        (mthd() + mtrk(dump("ff ff ff ff 00")), "byte 22: expected a number of at most four bytes"),
        (mthd() + mtrk(dump("80")), "byte 23: expected a whole number, the track ends"),
        (mthd() + mtrk(dump("00")), "byte 23: expected an event after its delta time"),
    ],
)  # fmt: skip
def test_damage_is_named_with_its_place(data, message):
    with pytest.raises(MidiError, match=message) as caught:
        read(data, "x.mid")
    assert str(caught.value).startswith("x.mid")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [*NASTY, FIXTURES[0].read_bytes(), FIXTURES[-1].read_bytes()])
def test_cut_short_anywhere_is_an_error_or_sound(text):
    whole = text if isinstance(text, bytes) else dump(text)
    for length in range(len(whole)):
        data = whole[:length]
        try:
            assert Song.from_bytes(data).to_bytes() == data
        except MidiError:
            try:
                sound, changes = repaired(data)
            except MidiError:
                continue
            assert changes
            assert read(sound).data == sound


def test_truncated_file_keeps_its_notes_when_repaired():
    whole = FIXTURES[-1].read_bytes()
    half = Song.from_bytes(whole[: len(whole) // 2], repair=True)
    notes = {(t.chunk, *note) for t in half.tracks for note in t.notes[["onset", "pitch"]].tolist()}
    known = {
        (t.chunk, *note)
        for t in Song.from_bytes(whole).tracks
        for note in t.notes[["onset", "pitch"]].tolist()
    }
    assert notes
    assert notes <= known
    assert any("ended it, and dropped" in change for change in half.repairs)


NOTES = dump("00 90 3c 40  60 80 3c 40  00 ff 2f 00")


@pytest.mark.parametrize(
    ("data", "change"),
    [
        (b"RIFF\0\0\0\0RMIDdata\0\0\0\0" + mthd() + mtrk(NOTES), "dropped 20 bytes before"),
        (mtrk(NOTES), "made up a header"),
        (b"MThd\0\0\0\5" + mthd()[8:] + mtrk(NOTES), "header had a wrong length"),
        (mthd(file_format=9) + mtrk(NOTES), "unknown format 9"),
        (mthd(division=0) + mtrk(NOTES), "division 0x0000"),
        (mthd(n_tracks=7) + mtrk(NOTES), "declared 7 tracks, found 1"),
        (mthd() + mtrk(NOTES[:-4]), "no end-of-track"),
        (mthd() + b"MTrk\0\0\0\2" + NOTES, "corrected its length"),
        (mthd() + b"MTrk\0\0\1\0" + NOTES, "corrected its length"),
        (mthd(n_tracks=2) + mtrk(NOTES) + b"\0\0\0" + mtrk(NOTES), "dropped 3 bytes"),
        (mthd() + mtrk(NOTES[:-4] + dump("00 b0 07 ff 00 ff 2f 00")), "set 1 data bytes"),
        (mthd() + mtrk(NOTES[:-4] + dump("00 f4 00 ff 2f 00")), "ended it, and dropped 6 bytes"),
    ],
)  # fmt: skip
def test_repair_salvages_and_reports(data, change):
    with pytest.raises(MidiError):
        Song.from_bytes(data)
    song = Song.from_bytes(data, repair=True)
    assert song.tracks[0].notes.tolist() == [(0, 96, 60, 64)]
    assert any(change in line for line in song.repairs), song.repairs


@pytest.mark.parametrize("data", [b"", b"Hello", mthd(), mthd(n_tracks=0) + b"MTrk"])
def test_repair_of_what_has_no_track_is_an_error(data):
    with pytest.raises(MidiError, match="found none to salvage"):
        repaired(data)


def test_ten_thousand_tracks():
    data = mthd(n_tracks=10_000) + mtrk(NOTES) * 10_000
    began = time.perf_counter()
    song = Song.from_bytes(data)
    assert len(song.tracks) == 10_000
    assert time.perf_counter() - began < 5


@settings(max_examples=120, deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=40), st.booleans())
def test_random_bytes_are_an_error_or_sound(body, tail, in_track):
    data = mthd() + (mtrk(body) if in_track else body) + tail
    try:
        assert Song.from_bytes(data).to_bytes() == data
    except MidiError:
        try:
            song = Song.from_bytes(data, repair=True)
        except MidiError:
            return
        assert song.repairs


MESSAGES = st.one_of(
    st.tuples(st.sampled_from([0x80, 0x91, 0xA2, 0xE4]), *[st.integers(0, 127)] * 2).map(bytes),
    st.tuples(st.sampled_from([0xC5, 0xD6]), st.integers(0, 127)).map(bytes),
    st.binary(max_size=200).map(lambda text: b"\xff\x01" + spell_varlen(len(text)) + text),
    st.binary(max_size=9).map(lambda text: b"\xf0" + spell_varlen(len(text)) + text),
)  # fmt: skip
EVENTS = st.lists(
    st.tuples(st.sampled_from([0, 1, 127, 128, 20_000, LARGEST_DELTA]), MESSAGES, st.booleans()),
    max_size=25,
)


def spelled(events):
    """An MTrk of (delta, message, whether to leave out the status if it may be), and its truth."""
    body, truth, tick, running = b"", [], 0, 0
    for delta, message, leave_out in events:
        tick += delta
        truth.append((tick, message.hex(" ")))
        body += spell_varlen(delta) + message[leave_out and message[0] == running :]
        running = message[0] if message[0] < 0xF0 else running
    return mtrk(body + b"\0\xff\x2f\0"), [*truth, (tick, "ff 2f 00")]


@settings(max_examples=80, deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=3))
def test_random_events_are_read_as_they_were_written(tracks):
    chunks, truths = zip(*map(spelled, tracks), strict=True)
    data = mthd(n_tracks=len(tracks)) + b"".join(chunks)
    midi = read(data)
    assert events_of(midi) == [event for truth in truths for event in truth]
    assert events_of(unedited(midi)) == events_of(midi)


@settings(max_examples=120, deadline=None)
@given(EVENTS, st.lists(st.tuples(st.integers(0, 300), MESSAGES, st.booleans())), st.randoms())
def test_edits_leave_all_other_events_as_they_are(events, additions, chance):
    events = [(delta % 30_000, message, leave_out) for delta, message, leave_out in events]
    chunk, truth = spelled(events)
    midi = read(mthd() + chunk)
    gone = np.array([chance.random() < 0.3 for _ in events] + [False])
    new = [Insertion(*addition) for addition in additions]
    result = events_of(edited(midi, gone, {0: new}))
    ticks = [tick for tick, _ in result]
    assert ticks == sorted(ticks)
    assert result[-1] == (max([truth[-1][0], *(i.tick for i in new)]), "ff 2f 00")
    kept = [event for event, is_gone in zip(truth[:-1], gone, strict=False) if not is_gone]
    rest = list(result[:-1])
    for insertion in new:
        rest.remove((insertion.tick, insertion.message.hex(" ")))
    assert Counter(rest) == Counter(kept)
    added = {(i.tick, i.message.hex(" ")) for i in new}
    assert [e for e in rest if e not in added] == [e for e in kept if e not in added]


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=4), st.data())
def test_an_edited_file_is_indexed_as_if_it_were_read(tracks, data):
    short = [[(delta % 30_000, *event) for delta, *event in track] for track in tracks]
    chunks, _ = zip(*map(spelled, short), strict=True)
    midi = read(mthd(n_tracks=len(tracks)) + b"XFIH\0\0\0\2ab".join(chunks) + b"behind")
    gone = data.draw(st.lists(st.booleans(), min_size=len(midi.events), max_size=len(midi.events)))
    gone = np.array(gone) & (midi.events["data1"] % 2 == 0)
    gone[[chunk.end_event - 1 for chunk in midi.chunks]] = False
    number = data.draw(st.integers(0, len(tracks) - 1))
    after = edited(midi, gone, {number: [Insertion(7, b"\x90\x3c\x40")]})
    again = read(after.data)
    assert after.chunks == again.chunks
    assert (after.events == again.events).all()
    assert (after.format, after.division) == (again.format, again.division)


def test_insertions_go_before_or_behind_what_is_at_their_tick():
    midi = read(mthd() + mtrk(dump("0a b0 07 40  00 07 50  00 ff 2f 00")))
    new = [Insertion(10, b"\x90\x3c\x40"), Insertion(10, b"\x80\x3c\x40", before=True)]
    assert [message for _, message in events_of(edited(midi, np.zeros(3, bool), {0: new}))] == [
        "80 3c 40",
        "b0 07 40",
        "b0 07 50",
        "90 3c 40",
        "ff 2f 00",
    ]


def test_a_status_byte_taken_away_is_spelled_by_the_next_event():
    midi = read(dump(RUNNING_STATUS_ACROSS_META))
    gone = np.zeros(len(midi.events), bool)
    gone[0] = True
    assert edited(midi, gone, {}).data[22:26] == dump("60 90 3e 40")


def test_a_gap_too_long_for_midi_is_an_error():
    far = spell_varlen(LARGEST_DELTA)
    midi = read(mthd() + mtrk(far + dump("90 3c 40") + far + dump("3c 00  00 ff 2f 00")))
    with pytest.raises(MidiError, match="expected at most 268435455 ticks"):
        edited(midi, np.array([True, False, False]), {})


@given(st.integers(0, LARGEST_DELTA))
def test_varlen_round_trip(value):
    assert read_varlen(spell_varlen(value), 0, 4) == (value, len(spell_varlen(value)))


def mido_notes(data):
    """(MTrk, channel, onset, duration, pitch, velocity) as mido's events tell."""
    notes = Counter()
    for chunk, track in enumerate(mido.MidiFile(file=io.BytesIO(data)).tracks):
        tick, sounding = 0, defaultdict(deque)
        for message in track:
            tick += message.time
            if message.type == "note_on" and message.velocity > 0:
                sounding[message.channel, message.note].append((tick, message.velocity))
            elif message.type in ("note_on", "note_off"):
                if queue := sounding[message.channel, message.note]:
                    onset, velocity = queue.popleft()
                    duration = tick - onset
                    notes[chunk, message.channel, onset, duration, message.note, velocity] += 1
        for (channel, pitch), queue in sounding.items():
            for onset, velocity in queue:
                notes[chunk, channel, onset, tick - onset, pitch, velocity] += 1
    return notes


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_notes_are_those_that_mido_reads(path):
    data = path.read_bytes()
    ours = Counter(
        (track.chunk, track.channel, *note)
        for track in Song.from_bytes(data).tracks
        for note in track.notes.tolist()
    )
    assert ours == mido_notes(data)


@pytest.mark.parametrize("seed", range(20))
def test_random_note_events_are_paired_as_a_plain_loop_pairs_them(seed):
    chance = random.Random(seed)
    body = b""
    for _ in range(200):
        status = chance.choice([0x80, 0x90, 0x90, 0x91])
        message = bytes([status, 60 + chance.randrange(3), chance.choice([0, 64])])
        body += spell_varlen(chance.choice([0, 1, 5])) + message
    data = mthd() + mtrk(body + b"\7\xff\x2f\0")
    ours = Counter(
        (track.chunk, track.channel, *note)
        for track in Song.from_bytes(data).tracks
        for note in track.notes.tolist()
    )
    assert ours == mido_notes(data)


def test_files_are_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out.mid"
    write_file(target, b"old")
    write_file(target, b"new")
    assert read_file(target) == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["out.mid"]
    with pytest.raises(AnserError, match="expected an existing folder"):
        write_file(tmp_path / "nowhere" / "out.mid", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(AnserError, match="expected to write a file"):
        write_file(tmp_path / "folder", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "out.mid"]


def test_a_missing_file_is_one_clear_line(tmp_path):
    with pytest.raises(AnserError, match=r"nowhere\.mid: expected a file to read: No such file"):
        Song.read(tmp_path / "nowhere.mid")
