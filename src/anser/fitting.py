"""New notes → new notes that leave the standing ones whole: equal pitches never overlap.

On one channel a pitch is on or off; a second note of it would cut the first, or be cut by it.
"""

from bisect import bisect_right, insort
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from anser.midi import MidiFile
from anser.notes import NOTE, stray_offs

NEVER = 1 << 62  # the end of a note that no note-off ends

# (device, channel, pitch): what can sound only once at a time
Key = tuple[int, int, int]


@dataclass
class _Standing:
    """The notes of one key in order of onset; `reach`: the latest end of those up to each."""

    onsets: list[int] = field(default_factory=list)
    reach: list[int] = field(default_factory=list)


class Obstacles:
    """What stands in the way of new notes, as more and more of them are fitted in."""

    def __init__(
        self, midi: MidiFile, sounded: NDArray[np.void], staying: NDArray[np.bool_]
    ) -> None:
        """Take those of a file's notes (SOUNDED) that stay, and its note-offs that end no note."""
        # MTrks of a format 2 file are songs of their own; else one device hears them all.
        self._alone = midi.format == 2
        self._standing: dict[Key, _Standing] = defaultdict(_Standing)
        self._cuts: dict[Key, list[int]] = defaultdict(list)
        for tick, chunk, channel, pitch in stray_offs(midi, sounded):
            self._cuts[self._key(chunk, channel, pitch)].append(tick)
        fields = ("onset", "duration", "pitch", "chunk", "channel", "off")
        ordered = sounded[staying]
        ordered = ordered[np.argsort(ordered["onset"], kind="stable")]
        columns = (ordered[name].tolist() for name in fields)
        for onset, duration, pitch, chunk, channel, off in zip(*columns, strict=True):
            standing = self._standing[self._key(chunk, channel, pitch)]
            end = onset + duration if off >= 0 else NEVER
            standing.onsets.append(onset)
            standing.reach.append(max(end, standing.reach[-1] if standing.reach else 0))

    def _key(self, chunk: int, channel: int, pitch: int) -> Key:
        return (chunk if self._alone else 0, channel, pitch)

    def fit(self, notes: NDArray[np.void], chunk: int, channel: int) -> NDArray[np.void]:
        """Return those of the notes (NOTE) that find room, shortened where they must be."""
        fitting: list[tuple[int, int, int, int]] = []
        latest: dict[int, int] = {}  # pitch → where its last new note is in `fitting`
        ordered = notes[np.lexsort((notes["pitch"], notes["onset"]))]
        for onset, duration, pitch, velocity in ordered.tolist():
            key = self._key(chunk, channel, pitch)
            standing = self._standing[key]
            place = bisect_right(standing.onsets, onset)
            if place and (standing.reach[place - 1] > onset or standing.onsets[place - 1] == onset):
                continue
            before = fitting[latest[pitch]] if pitch in latest else None
            if before is not None:
                if before[0] == onset:
                    continue
                shortened = min(before[1], onset - before[0])
                fitting[latest[pitch]] = (before[0], shortened, pitch, before[3])
            end = onset + duration
            if place < len(standing.onsets):
                end = min(end, standing.onsets[place])
            cuts = self._cuts[key]
            place = bisect_right(cuts, onset)
            if place < len(cuts):
                end = min(end, cuts[place])
            latest[pitch] = len(fitting)
            fitting.append((onset, end - onset, pitch, velocity))
        for onset, duration, pitch, _ in fitting:
            self._stand(self._key(chunk, channel, pitch), onset, onset + duration)
        return np.array(fitting, NOTE)

    def _stand(self, key: Key, onset: int, end: int) -> None:
        """Add a note that found room, so that those of the next track heed it."""
        standing = self._standing[key]
        insort(standing.onsets, onset)
        place = bisect_right(standing.onsets, onset) - 1
        standing.reach.insert(place, max(end, standing.reach[place - 1] if place else 0))
