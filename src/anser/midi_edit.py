"""Raw events − some + others → raw events: edits a MIDI file and copies all that is not concerned.

Events that stay keep tick, message and order; where an edit takes away the status byte that a
later event relied on (running status), that event is spelled with its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from anser.errors import MidiError
from anser.midi import MidiFile, TrackChunk, with_bodies

LARGEST_DELTA = (1 << 28) - 1  # four bytes of seven bits


@dataclass(frozen=True)
class Insertion:
    """A message to add at a tick: before, or else behind, what the chunk has at this tick."""

    tick: int
    message: bytes
    before: bool = False


def edited(
    midi: MidiFile, removed: NDArray[np.bool_], inserted: Mapping[int, Sequence[Insertion]]
) -> MidiFile:
    """Return the file without the events where `removed` (bool[n_events]) and with new ones.

    `inserted` has the new events of each chunk; those of one tick keep their order. All other
    events keep tick and message; end-of-track moves only if a new event lies behind it.
    """
    bodies = {}
    for number, chunk in enumerate(midi.chunks):
        insertions = inserted.get(number, ())
        gone = removed[chunk.first_event : chunk.end_event]
        if insertions or gone.any():
            bodies[number] = _spell_chunk(midi, chunk, gone, insertions)
    return with_bodies(midi, bodies)


def _spell_chunk(
    midi: MidiFile, chunk: TrackChunk, gone: NDArray[np.bool_], insertions: Sequence[Insertion]
) -> bytes:
    """Spell the body of a chunk anew, copying whatever the edit leaves as it is."""
    events = midi.events[chunk.first_event : chunk.end_event]
    kept = np.flatnonzero(~gone[:-1])
    ordered = sorted(insertions, key=lambda new: (new.tick, not new.before))
    ticks = events["tick"][kept]
    wanted = [new.tick for new in ordered]
    places = np.where(
        [new.before for new in ordered],
        np.searchsorted(ticks, wanted, "left"),
        np.searchsorted(ticks, wanted, "right"),
    )
    speller = _Speller(midi.data)
    breaks = np.flatnonzero(np.diff(kept) > 1) + 1  # kept events that followed a removed one
    cuts = sorted({0, len(kept), *places.tolist(), *breaks.tolist()})
    new = 0
    for a, b in pairwise([*cuts, len(kept)]):
        while new < len(ordered) and places[new] == a:
            speller.add(ordered[new].tick, ordered[new].message)
            new += 1
        if a < b:
            before = int(kept[a]) - 1
            tick_before = int(events["tick"][before]) if before >= 0 else 0
            speller.copy(events[int(kept[a]) : int(kept[b - 1]) + 1], tick_before)
    *_, end_of_track = events
    _, _, at, end, _, _, _, _ = end_of_track.item()
    end_tick = max(int(end_of_track["tick"]), speller.tick)
    previous = int(events["tick"][-2]) if len(events) > 1 else 0
    if end_tick == int(end_of_track["tick"]) and speller.tick == previous:
        at = int(end_of_track["start"])  # its delta time is as it was
    else:
        speller.pieces.append(speller.delta(end_tick))
    speller.pieces += [midi.data[at:end], midi.data[end : chunk.end]]
    return b"".join(speller.pieces)


class _Speller:
    """Writes one chunk's events, with the tick and the running status that a reader is at."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pieces: list[bytes] = []
        self.tick = 0
        self.running = 0

    def delta(self, tick: int) -> bytes:
        if tick - self.tick > LARGEST_DELTA:
            raise MidiError(
                f"tick {tick}: expected at most {LARGEST_DELTA} ticks since the event before, "
                f"found {tick - self.tick}. Keep an event in between."
            )
        return spell_varlen(tick - self.tick)

    def add(self, tick: int, message: bytes) -> None:
        self.pieces += [self.delta(tick), message]
        self.tick = tick
        if message[0] < 0xF0:
            self.running = message[0]

    def copy(self, events: NDArray[np.void], tick_before: int) -> None:
        """Copy neighbouring events; `tick_before`: that of the event before, in the old file."""
        for index in range(len(events)):
            tick, start, at, end, _, status, _, _ = events[index].item()
            in_running = self.data[at] < 0x80
            if in_running and self.running != status:
                spelled = bytes([status]) + self.data[at:end]
            else:
                spelled = self.data[at:end]
            if self.tick == tick_before:
                self.pieces += [self.data[start:at], spelled]
            else:
                self.pieces += [self.delta(tick), spelled]
            self.tick = tick_before = tick
            if status < 0xF0:
                # From here on a reader is where it was in the old file.
                self.running = status
                self.pieces.append(self.data[end : int(events["end"][-1])])
                self.tick = int(events["tick"][-1])
                self.running = int(_last_channel_status(events))
                return


def _last_channel_status(events: NDArray[np.void]) -> int:
    """Return the status of the last channel message."""
    status = events["status"]
    return int(status[np.flatnonzero(status < 0xF0)[-1]])


def spell_varlen(value: int) -> bytes:
    """Spell a number (0 to LARGEST_DELTA) as a variable-length quantity, as short as can be."""
    assert 0 <= value <= LARGEST_DELTA
    spelled = [value & 0x7F]
    while value := value >> 7:
        spelled.append(value & 0x7F | 0x80)
    return bytes(reversed(spelled))
