"""Two MIDI files and a selection → what differs outside it; nothing, if only it was touched.

Shares no code with splice, on purpose: notes are paired by a plain loop over the raw events.
"""

from bisect import bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from anser.midi import META, META_END, MidiFile
from anser.song import Cells, Song

MOST_PER_CHUNK = 20  # differences told of one MTrk; one damaged event can shift all later ones

KINDS = (
    "note-off",
    "note-on",
    "polyphonic pressure",
    "controller",
    "program change",
    "channel pressure",
    "pitch bend",
    "sysex",
)

# (tick, message): an event, however its delta time and its status are spelled
Event = tuple[int, bytes]
# The tick of a program change, and the program.
Change = tuple[int, int]


@dataclass(frozen=True)
class Difference:
    """Something outside the selection that is not as it was.

    `where`: the MTrk, counted from 1, with its track names, or the part of the file; `bar`,
    counted from 1, and `tick`: None for what has no time.
    """

    where: str
    bar: int | None
    tick: int | None
    what: str

    def __str__(self) -> str:
        time = "" if self.tick is None else f", bar {self.bar}, tick {self.tick}"
        return f"{self.where}{time}: {self.what}"


@dataclass(frozen=True)
class _Note:
    """A note as raw events have it; `on` and `off` are positions in the MTrk (off -1: none)."""

    on: int
    off: int
    onset: int
    channel: int
    program: int
    content: tuple[int, bytes, int, bytes]  # ticks and messages that begin and end it


def differences(before: bytes | Song, after: bytes | Song, selection: Cells) -> list[Difference]:
    """Compare two MIDI files event by event outside the selected cells of the first one.

    Exempt are the note-ons and note-offs of notes that begin in selected cells, on the selected
    track's MTrk and channel, and an end-of-track that new notes pushed to a later tick. All else
    must be the same in the same order: header, unknown chunks, what follows end-of-track, every
    event. How delta times and running status are spelled does not count. Raises MidiError if
    either is no sound MIDI file.
    """
    old = before if isinstance(before, Song) else Song.from_bytes(before, "before")
    new = after if isinstance(after, Song) else Song.from_bytes(after, "after")
    beyond = max((bar for _, bar in selection.cells), default=0) + 1 - old.n_bars
    if beyond > 0:
        old = old.extended(beyond)
    found = list(_compare_frames(old.midi, new.midi))
    if len(old.midi.chunks) != len(new.midi.chunks):
        return found
    for chunk in range(len(old.midi.chunks)):
        found += _compare_chunk(old, new.midi, selection, chunk)
    return found


def _compare_frames(old: MidiFile, new: MidiFile) -> Iterator[Difference]:
    """Compare all bytes that lie outside of tracks' events."""
    named = ("header", "tracks", "between the tracks", "behind end-of-track")
    for what, a, b in zip(named, _frames(old), _frames(new), strict=True):
        if a != b:
            yield Difference(what, None, None, f"expected {_short(a)}, found {_short(b)}")


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _frames(midi: MidiFile) -> tuple[object, ...]:
    header = midi.data[:14]
    chunks = midi.chunks
    edges = [14, *(edge for chunk in chunks for edge in (chunk.start, chunk.end)), len(midi.data)]
    between = [midi.data[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    ends = midi.events["end"]
    tails = [midi.data[int(ends[chunk.end_event - 1]) : chunk.end] for chunk in chunks]
    return header, len(chunks), between, tails


def _compare_chunk(old: Song, new: MidiFile, selection: Cells, chunk: int) -> list[Difference]:
    """Compare one MTrk of two files, leaving out what the selection allows to change."""
    spans = old.midi.chunks[chunk], new.chunks[chunk]
    if old.midi.data[spans[0].start : spans[0].end] == new.data[spans[1].start : spans[1].end]:
        return []
    old_events, new_events = _events(old.midi, chunk), _events(new, chunk)
    # The selected bars of each part that this MTrk plays: (channel, program).
    cells: dict[tuple[int, int], set[int]] = defaultdict(set)
    for track, bar in selection.cells:
        if old.tracks[track].chunk == chunk:
            cells[old.tracks[track].channel, old.tracks[track].program].add(bar)
    if cells:
        replaced, added = _exempt(old, chunk, old_events, new_events, cells)
        end = _allowed_end(old_events[-1], new_events, added)
        old_events = [e for i, e in enumerate(old_events[:-1]) if i not in replaced] + [end]
        new_events = [event for i, event in enumerate(new_events) if i not in added]
    if old_events == new_events:
        return []
    names = ", ".join(f'"{track.name}"' for track in old.tracks if track.chunk == chunk)
    where = f"MIDI track {chunk + 1}" + (f" ({names})" if names else "")
    told = [
        Difference(where, _bar(old, tick) + 1, tick, what)
        for tick, what in _tell(old_events, new_events)
    ]
    more = len(told) - MOST_PER_CHUNK
    if more > 0:
        told[MOST_PER_CHUNK:] = [Difference(where, None, None, f"and {more} more differences")]
    return told


def _exempt(
    old: Song,
    chunk: int,
    old_events: list[Event],
    new_events: list[Event],
    cells: Mapping[tuple[int, int], set[int]],
) -> tuple[set[int], set[int]]:
    """Return the positions of old events that may go, and of new events that may have come."""
    replaced, standing = set(), Counter[tuple[int, bytes, int, bytes]]()
    programs = _programs(old.midi, chunk, {channel for channel, _ in cells})
    for note in _notes(old_events, programs):
        if _bar(old, note.onset) in cells.get((note.channel, note.program), ()):
            replaced |= {note.on, note.off}
        else:
            standing[note.content] += 1
    bars_of: dict[int, set[int]] = defaultdict(set)
    for (channel, _), bars in cells.items():
        bars_of[channel] |= bars
    added = set()
    for note in _notes(new_events, programs):
        # New notes go by channel alone: a program change may lie inside the selection.
        if standing[note.content] > 0:
            standing[note.content] -= 1
        elif _bar(old, note.onset) in bars_of[note.channel]:
            added |= {note.on, note.off}
    return replaced, added


def _allowed_end(end: Event, new_events: list[Event], added: set[int]) -> Event:
    """Return the end-of-track to expect: no earlier than the last note that was added."""
    last = max((new_events[position][0] for position in added if position >= 0), default=0)
    return max(end[0], last), end[1]


def _bar(song: Song, tick: int) -> int:
    """Return the bar (from 0) of a tick; behind the last bar line, the number of bars."""
    return int(np.searchsorted(song.bars.starts, tick, "right")) - 1


def _events(midi: MidiFile, chunk: int) -> list[Event]:
    """Return one MTrk's events with their status bytes spelled out."""
    events = []
    for tick, _, at, end, _, status, _, _ in midi.chunk_events(chunk).tolist():
        spelled = midi.data[at:end]
        events.append((tick, spelled if spelled[0] >= 0x80 else bytes([status]) + spelled))
    return events


def _programs(midi: MidiFile, chunk: int, channels: Iterable[int]) -> dict[int, list[Change]]:
    """Return for each channel the program changes that notes of an MTrk heed, in order of time."""
    changes = midi.events[(midi.events["status"] & 0xF0) == 0xC0]
    heeded: dict[int, list[Change]] = {}
    for channel in channels:
        here = changes[changes["status"] & 15 == channel]
        own = here[here["chunk"] == chunk]
        chosen = own if len(own) or midi.format == 2 else here
        columns = (chosen["tick"].tolist(), chosen["data1"].tolist())
        heeded[channel] = sorted(zip(*columns, strict=True), key=lambda change: change[0])
    return heeded


def _notes(events: list[Event], programs: Mapping[int, list[Change]]) -> Iterator[_Note]:
    """Pair the note-ons of an MTrk, on the channels in `programs`, with note-offs, first in first.

    A note that is never ended ends with the MTrk.
    """
    sounding: dict[tuple[int, int], deque[int]] = {}

    def note(on: int, off: int) -> _Note:
        (onset, started), (end, ended) = events[on], events[off]
        channel = started[0] & 15
        place = bisect_right(programs[channel], onset, key=lambda change: change[0])
        program = programs[channel][place - 1][1] if place else 0
        # How long an unended note lasts says nothing about it: the end-of-track may move.
        content = (onset, started, end if off >= 0 else -1, ended if off >= 0 else b"")
        return _Note(on, off, onset, channel, program, content)

    for position, (_, message) in enumerate(events):
        kind, channel = message[0] & 0xF0, message[0] & 15
        if kind not in (0x80, 0x90) or channel not in programs:
            continue
        open_notes = sounding.setdefault((channel, message[1]), deque())
        if kind == 0x90 and message[2] > 0:
            open_notes.append(position)
        elif open_notes:
            yield note(open_notes.popleft(), position)
    for open_notes in sounding.values():
        for on in open_notes:
            yield note(on, -1)


def _tell(old: list[Event], new: list[Event]) -> list[tuple[int, str]]:
    """Say what two unequal lists of events differ in: (tick, what), in order of time."""
    gone = Counter(old) - Counter(new)
    come = Counter(new) - Counter(old)
    told = [(tick, f"{_named(message)} is gone") for tick, message in gone.elements()]
    told += [(tick, f"{_named(message)} is new") for tick, message in come.elements()]
    if not told:
        for a, b in zip(old, new, strict=True):
            if a != b:
                return [(a[0], f"{_named(a[1])} and {_named(b[1])} changed places")]
    return sorted(told)


def _named(message: bytes) -> str:
    """Name an event in words, with its bytes."""
    kind = KINDS[(message[0] >> 4) - 8]
    if message[0] == META:
        kind = "end-of-track" if message[1] == META_END else f"meta event {message[1]}"
    spelled = message[:12].hex(" ") + (" ..." if len(message) > 12 else "")
    return f"{kind} [{spelled}]"
