"""Bytes of a Standard MIDI File → raw events, and back, without loss.

The bytes are the truth: a `MidiFile` is the bytes of a file and an index of the events in them,
so writing an untouched file gives the same bytes. Knows nothing of notes, bars or instruments.

**Source:** Standard MIDI Files 1.0 (MIDI Manufacturers Association, RP-001). Differs: running
status may continue across meta events and sysex, as files in the wild have it; all that follows
an end-of-track event inside its chunk is kept but not read.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anser.errors import AnserError, MidiError

EVENT = np.dtype(
    [
        ("tick", "<i8"),
        ("start", "<i4"),  # offset in the file of the delta time
        ("at", "<i4"),  # offset of the status byte, or of the first data byte if it is left out
        ("end", "<i4"),  # offset behind the last byte
        ("chunk", "<i4"),  # which MTrk
        ("status", "u1"),  # also where the file leaves it out (running status)
        ("data1", "u1"),  # first byte after the status: note, controller, program, meta type
        ("data2", "u1"),  # second byte; meaningless where the message has none
    ]
)

META, SYSEX, SYSEX_MORE = 0xFF, 0xF0, 0xF7
META_NAME, META_END, META_TEMPO, META_METER = 0x03, 0x2F, 0x51, 0x58
REMEDY = "Use repair (--repair) to salvage what can be."

# Bytes of a channel message by its status byte, itself included; 0 where it is none.
_SIZE = np.zeros(256, np.int32)
_SIZE[0x80:0xF0] = 3
_SIZE[0xC0:0xE0] = 2
DATA_BYTES = [max(0, int(size) - 1) for size in _SIZE]


@dataclass(frozen=True)
class TrackChunk:
    """Where one MTrk lies: offsets in the file, and its slice of `MidiFile.events`."""

    start: int
    end: int
    first_event: int
    end_event: int

    @property
    def body(self) -> int:
        """Offset of the first event."""
        return self.start + 8


@dataclass(frozen=True, eq=False)
class MidiFile:
    """A file's bytes, and the index of its events; the last event of a chunk is end-of-track."""

    data: bytes = field(repr=False)
    format: int
    division: int
    chunks: tuple[TrackChunk, ...] = field(repr=False)
    events: NDArray[np.void] = field(repr=False)

    def chunk_events(self, chunk: int) -> NDArray[np.void]:
        """Return the events (EVENT) of one MTrk, in the order of the file."""
        return self.events[self.chunks[chunk].first_event : self.chunks[chunk].end_event]

    def message(self, event: int) -> bytes:
        """Return an event's bytes without its delta time and with its status byte."""
        _, _, at, end, _, status, _, _ = self.events[event].item()
        spelled = self.data[at:end]
        return spelled if spelled[0] >= 0x80 else bytes([status]) + spelled

    def meta_payload(self, event: int) -> bytes:
        """Return what a meta event carries, without status, type and length."""
        at, end = int(self.events["at"][event]), int(self.events["end"][event])
        _, payload = read_varlen(self.data, at + 2, end)
        return self.data[payload:end]


def read(data: bytes, name: str = "MIDI file") -> MidiFile:
    """Index the events of a Standard MIDI File (formats 0, 1 and 2).

    Raises MidiError, with byte offset and track, on anything that is damaged. `name` is what
    messages call the file.
    """
    file_format, n_declared, division, body = _read_header(data, name)
    spans = _read_chunks(data, body, n_declared, name)
    padded = np.frombuffer(data + bytes(8), np.uint8)
    jumps = _jumps(padded, len(data)).tolist()
    offsets: list[int] = []
    ends: list[int] = []
    chunks = []
    for number, (start, end) in enumerate(spans, 1):
        first = len(offsets)
        try:
            ends.append(_walk(data, jumps, start + 8, end, offsets))
        except MidiError as damage:
            raise MidiError(f"{name}, track {number}, {damage} {REMEDY}") from None
        chunks.append(TrackChunk(start, end, first, len(offsets)))
    events = _columns(padded, np.array(offsets, np.int32), chunks, ends)
    return MidiFile(data, file_format, division, tuple(chunks), events)


def with_bodies(midi: MidiFile, bodies: Mapping[int, bytes]) -> MidiFile:
    """Return the file with other events in some of its MTrks; only these are read.

    `bodies` maps the number of an MTrk to the bytes behind its header. Raises MidiError, with
    track and byte of the body, on anything that is damaged.
    """
    pieces: list[bytes] = []
    offsets: list[NDArray[np.int32]] = []
    ends: list[int] = []
    chunks: list[TrackChunk] = []
    copied = shift = first = 0
    for number, chunk in enumerate(midi.chunks):
        start = chunk.start + shift
        if number in bodies:
            body, begin = bodies[number], start + 8
            pieces += [midi.data[copied : chunk.start + 4], len(body).to_bytes(4, "big"), body]
            copied = chunk.end
            shift += len(body) - (chunk.end - chunk.body)
            found: list[int] = []
            jumps = _jumps(np.frombuffer(body + bytes(8), np.uint8), len(body)).tolist()
            try:
                ends.append(begin + _walk(body, jumps, 0, len(body), found))
            except MidiError as damage:
                raise MidiError(f"edited file, track {number + 1}, {damage}") from None
            offsets.append(np.array(found, np.int32) + begin)
        else:
            events = midi.chunk_events(number)
            offsets.append(events["start"] + np.int32(shift))
            ends.append(int(events["end"][-1]) + shift)
        chunks.append(TrackChunk(start, chunk.end + shift, first, first + len(offsets[-1])))
        first = chunks[-1].end_event
    data = b"".join([*pieces, midi.data[copied:]])
    padded = np.frombuffer(data + bytes(8), np.uint8)
    events = _columns(padded, np.concatenate(offsets), chunks, ends)
    return MidiFile(data, midi.format, midi.division, tuple(chunks), events)


def _read_header(data: bytes, name: str) -> tuple[int, int, int, int]:
    """Return format, number of tracks declared, division, and the offset behind MThd."""
    if not data:
        raise MidiError(f"{name}: expected a MIDI file, found an empty one.")
    if data[:4] != b"MThd":
        found = f"it is in a RIFF wrapper. {REMEDY}" if data[:4] == b"RIFF" else "it is not MIDI."
        raise MidiError(f"{name}, byte 0: expected 'MThd', found {data[:4]!r}: {found}")
    if len(data) < 14:
        raise MidiError(f"{name}, byte {len(data)}: expected 14 bytes of header, the file ends.")
    size, file_format, n_tracks, division = (
        int.from_bytes(data[a:b], "big") for a, b in pairwise((4, 8, 10, 12, 14))
    )
    if size < 6 or 8 + size > len(data):
        raise MidiError(
            f"{name}, byte 4: expected a header of 6 bytes or more, found {size}. {REMEDY}"
        )
    if file_format > 2:
        raise MidiError(f"{name}, byte 8: expected format 0, 1 or 2, found {file_format}. {REMEDY}")
    if not division_is_sound(division):
        raise MidiError(
            f"{name}, byte 12: expected ticks a quarter or SMPTE 24, 25, 29, 30, "
            f"found division 0x{division:04X}. {REMEDY}"
        )
    return file_format, n_tracks, division, 8 + size


def division_is_sound(division: int) -> bool:
    """Say whether a header's division means something: ticks a quarter, or SMPTE time."""
    if division & 0x8000:
        return 256 - (division >> 8) in (24, 25, 29, 30) and division & 0xFF > 0
    return division > 0


def _read_chunks(data: bytes, body: int, n_declared: int, name: str) -> list[tuple[int, int]]:
    """Return start and end of every MTrk; other chunks are passed over, trailing bytes allowed."""
    spans: list[tuple[int, int]] = []
    at = body
    while at < len(data):
        end = chunk_end(data, at)
        if end is None:
            if len(spans) >= n_declared and data[at : at + 4] != b"MTrk":
                break
            raise MidiError(
                f"{name}, byte {at}: expected track {len(spans) + 1} of {n_declared}, "
                f"found no whole chunk; the file is cut short or damaged. {REMEDY}"
            )
        if data[at : at + 4] == b"MTrk":
            spans.append((at, end))
        at = end
    if not spans:
        raise MidiError(f"{name}: expected at least one track (MTrk), found none.")
    if len(spans) != n_declared:
        raise MidiError(
            f"{name}, byte 10: the header declares {n_declared} tracks, found {len(spans)}. "
            f"{REMEDY}"
        )
    return spans


def chunk_end(data: bytes | bytearray, at: int) -> int | None:
    """Return the offset behind the chunk at `at`, or None if no whole chunk begins there."""
    kind = data[at : at + 4]
    if at + 8 > len(data) or not all(0x20 <= byte < 0x7F for byte in kind):
        return None
    end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "big")
    return end if end <= len(data) else None


def _jumps(padded: NDArray[np.uint8], n_bytes: int) -> NDArray[np.int32]:
    """For every offset: the offset behind an event that would begin here; -1 where unsure.

    All offsets at once, as if each were the start of an event under the running status of a
    message of two data bytes. Left to `read_event` (-1): messages of one data byte, which change
    how running status reads; end-of-track; whatever is damaged.
    """
    high = padded >= 0x80
    h0, h1, h2, h3 = (high[k : n_bytes + k] for k in range(4))
    at = np.arange(n_bytes, dtype=np.int32)
    h01 = h0 & h1
    h012 = h01 & h2
    delta_size = 1 + h0.astype(np.int32) + h01 + h012
    # The event's end, told from the offset of its status byte (or first data byte).
    end = np.full(n_bytes + 8, -1, np.int32)
    three = (_SIZE[padded[:n_bytes]] == 3) & ~h1 & ~h2
    end[:n_bytes] = np.where(three, at + 3, np.where(h0 | h1, -1, at + 2))
    for status, skip in ((META, 2), (SYSEX, 1), (SYSEX_MORE, 1)):
        for here in np.flatnonzero(padded[:n_bytes] == status).tolist():
            length = here + skip
            # Longer lengths than a byte, and end-of-track, are left to read_event.
            if length < n_bytes and padded[length] < 0x80:
                end[here] = length + 1 + int(padded[length])
    ends_track = np.flatnonzero((padded[:n_bytes] == META) & (padded[1 : n_bytes + 1] == META_END))
    end[ends_track] = -1
    jumps: NDArray[np.int32] = np.where(h012 & h3, -1, end[at + delta_size])
    return jumps


def _walk(data: bytes, jumps: list[int], at: int, stop: int, offsets: list[int]) -> int:
    """Append the offsets of a chunk's events up to end-of-track; return the offset behind it."""
    running = 0
    while at < stop:
        if DATA_BYTES[running] == 2:
            while at < stop:
                behind = jumps[at]
                if behind < 0 or behind > stop:
                    break
                offsets.append(at)
                at = behind
            if at >= stop:
                break
        # What `running` is only matters by its number of data bytes; _columns finds the rest.
        status, body, behind = read_event(data, at, stop, running)
        offsets.append(at)
        if status == META and data[body + 1] == META_END:
            return behind
        if status < 0xF0:
            running = status
        at = behind
    raise MidiError(f"byte {at}: expected an end-of-track event, the track's chunk ends.")


def read_event(
    data: bytes | bytearray, start: int, stop: int, running: int
) -> tuple[int, int, int]:
    """Return status, offset of the status (or first data) byte, and the offset behind the event.

    `running` is the status in force, 0 for none. Raises MidiError naming the byte at fault.
    """
    _, at = read_varlen(data, start, stop)
    if at >= stop:
        raise MidiError(f"byte {at}: expected an event after its delta time, the track ends.")
    status = data[at]
    body = at + 1
    if status < 0x80:
        if not running:
            raise MidiError(f"byte {at}: expected a status byte, found data byte 0x{status:02X}.")
        status, body = running, at
    n_data = DATA_BYTES[status]
    if n_data:
        for offset in range(body, body + n_data):
            if offset >= stop:
                raise MidiError(f"byte {offset}: expected a data byte, the track ends.")
            if data[offset] >= 0x80:
                raise MidiError(
                    f"byte {offset}: expected a data byte (0-127) of message 0x{status:02X}, "
                    f"found 0x{data[offset]:02X}."
                )
        return status, at, body + n_data
    if status not in (META, SYSEX, SYSEX_MORE):
        raise MidiError(f"byte {at}: expected an event, found status 0x{status:02X}.")
    length, payload = read_varlen(data, body + (status == META), stop)
    if payload + length > stop:
        raise MidiError(
            f"byte {at}: expected {length} bytes in message 0x{status:02X}, "
            f"the track has {stop - payload} left."
        )
    return status, at, payload + length


def read_varlen(data: bytes | bytearray, at: int, stop: int) -> tuple[int, int]:
    """Return a variable-length quantity and the offset behind it; raises MidiError."""
    value = 0
    for offset in range(at, min(at + 4, stop)):
        value = value << 7 | data[offset] & 0x7F
        if data[offset] < 0x80:
            return value, offset + 1
    if at + 4 > stop:
        raise MidiError(f"byte {stop}: expected a whole number, the track ends.")
    raise MidiError(f"byte {at}: expected a number of at most four bytes, found a longer one.")


def _columns(
    padded: NDArray[np.uint8],
    start: NDArray[np.int32],
    chunks: list[TrackChunk],
    ends: list[int],
) -> NDArray[np.void]:
    """Return the events (EVENT) that begin at `start`, of all chunks; `ends`: one a chunk."""
    events = np.zeros(len(start), EVENT)
    delta = (padded[start] & 0x7F).astype(np.int64)
    at = start + 1
    more = padded[start] >= 0x80
    while more.any():
        here = padded[at]
        delta = np.where(more, delta << 7 | here & 0x7F, delta)
        at = at + more
        more &= here >= 0x80
    tick = np.cumsum(delta)
    sizes = np.array([c.end_event - c.first_event for c in chunks])
    first = np.array([c.first_event for c in chunks])
    events["tick"] = tick - np.repeat(tick[first] - delta[first], sizes)
    events["start"] = start
    events["at"] = at
    events["end"][:-1] = start[1:]
    events["end"][first + sizes - 1] = ends
    events["chunk"] = np.repeat(np.arange(len(chunks)), sizes)
    spelled = padded[at]
    is_channel = (spelled >= 0x80) & (spelled < 0xF0)
    last_channel = np.maximum.accumulate(np.where(is_channel, np.arange(len(start)), 0))
    left_out = spelled < 0x80
    events["status"] = np.where(left_out, spelled[last_channel], spelled)
    body = at + ~left_out
    events["data1"] = padded[body]
    events["data2"] = padded[body + 1]
    events.flags.writeable = False
    return events


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file; raises AnserError where there is none to read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise AnserError(f"{path}: expected a file to read: {error.strerror}.") from error


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it, then a rename.

    Raises AnserError where the folder does not exist or cannot be written to.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise AnserError(f"{target}: expected an existing folder, found none at {target.parent}.")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    except OSError as error:
        raise AnserError(f"{target}: expected to write a file: {error.strerror}.") from error
    finally:
        temporary.unlink(missing_ok=True)
