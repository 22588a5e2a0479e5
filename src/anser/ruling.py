"""Room → which notes may come next in a cell that is bound by rules.

Every step leaves a way out: a choice is offered only if what the cell owes can still be written
behind it. Three ways to write: freely, with the rhythm kept, with the pitches kept.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque

import numpy as np
from numpy.typing import NDArray

from anser import vocab
from anser.grammar import Choices, Given, Spelling
from anser.room import NEVER, Item, Place, Room, Sounds, free_pitches, sounds
from anser.song import NOTE

NONE = np.zeros(128, dtype=np.int64)


def ruled(room: Room, strikes: Sounds, own: Sounds, plan: Sounds) -> Ruled:
    """Return the grammar of a cell; the notes are those of `Ground`, for the take at hand."""
    if room.rules.keep == "rhythm":
        return RhythmKept(room, strikes, own, plan)
    kind = PitchKept if room.rules.keep == "pitch" else Free
    return kind(room, strikes, own, plan)


class Ruled(Spelling):
    """A cell bound by rules; `notes` are what was written, without what stays."""

    def __init__(self, room: Room, strikes: Sounds, own: Sounds, plan: Sounds) -> None:
        super().__init__(len(room.ticks), room.first)
        self._room, self._plan = room, plan
        self._written: list[tuple[int, int, int, int]] = []
        self._next_item = 0
        n = room.rules.no_repeat
        self._run: deque[Place] = deque(maxlen=n - 1 if n else 0)

    @property
    def n_notes(self) -> int:
        """Number of notes written."""
        return len(self._written)

    @property
    def notes(self) -> NDArray[np.void]:
        """The notes (NOTE) that were written."""
        return np.array(self._written, NOTE)

    @property
    def _item(self) -> Item | None:
        """The next item to be spelled."""
        items = self._room.items
        return items[self._next_item] if self._next_item < len(items) else None

    @property
    def _due(self) -> Item | None:
        """The next item, if its position is the one in force."""
        item = self._item
        return item if item is not None and item.position == self._position else None

    def _banned(self) -> NDArray[np.bool_] | None:
        """Return [length, 128] the spots that would complete a repetition; None if there are none.

        What follows nothing, where single notes may not be repeated, is the same at every step.
        """
        run = tuple(self._run)
        if not run:
            return self._room.enders if run in self._room.banned else None
        places = self._room.banned.get(run)
        return None if places is None else self._room.at(places)

    def _keep(self, note: tuple[int, int, int, int]) -> None:
        self._written.append(note)
        self._run.append((int(self._room.keys[self._position]), note[2]))

    def _given(self, item: Item, pitches: NDArray[np.bool_] | None = None) -> Given:
        """Offer an item, by default with the pitch it has."""
        if pitches is None:
            pitches = np.arange(128) == item.pitch
        return Given(item.velocity, item.duration, pitches)


class RhythmKept(Ruled):
    """The plan has a pitch for each item that is open; others are offered if they spare it."""

    def __init__(self, room: Room, strikes: Sounds, own: Sounds, plan: Sounds) -> None:
        super().__init__(room, strikes, own, plan)
        self._strikes = strikes

    def _choose(self) -> Choices:
        positions = np.zeros(self._length, dtype=bool)
        item = self._item
        if item is None:
            return Choices(True, positions, NONE)
        due = self._due
        if due is None:
            positions[item.position] = True
            return Choices(False, positions, NONE)
        if due.stays:
            return Choices(False, positions, NONE, self._given(due))
        rest = self._plan[self.n_notes + 1 :]
        free = self._room.playable & free_pitches(self._strikes, due) & free_pitches(rest, due)
        free[: max(self._last_pitch + 1, self._room.floor(self._next_item))] = False
        following = self._room.items[self._next_item + 1 :]
        if following and following[0].position == due.position:
            above = following[0].pitch if following[0].stays else int(rest[0, 2])
            free[above:] = False
        if (banned := self._banned()) is not None:
            free &= ~banned[self._position]
        return Choices(False, positions, NONE, self._given(due, free))

    def _strike(self, pitch: int) -> None:
        item = self._item
        assert item is not None
        self._next_item += 1
        if item.stays:
            self._run.clear()
            return
        onset, duration, _, velocity = item.note
        self._keep((onset, duration, pitch, velocity))
        self._strikes = np.concatenate([self._strikes, sounds([(onset, item.end, pitch)])])


class Timed(Ruled):
    """Notes whose onsets and durations are open; what stays is spelled in between."""

    def __init__(self, room: Room, strikes: Sounds, own: Sounds, plan: Sounds) -> None:
        super().__init__(room, strikes, own, plan)
        self._can = room.open_spots(strikes)
        self._can &= (room.ticks + room.lasting[0] <= room.cap)[:, None]
        self._load = room.load(own)
        later = strikes[strikes[:, 0] > room.ticks[0]]
        self._later = later[np.argsort(-later[:, 0], kind="stable")]
        sounding = own[own[:, 1] > own[:, 0]]
        starts = np.unique(sounding[:, 0])
        self._starts = starts[starts > room.ticks[0]]
        begun = np.searchsorted(np.sort(sounding[:, 0]), self._starts, "right")
        ended = np.searchsorted(np.sort(sounding[:, 1]), self._starts, "right")
        self._voices = begun - ended

    @abstractmethod
    def _note(self, row: int, start: int, end: int, pitch: int) -> None:
        """Take note of a note that was written at a position."""

    def _strike(self, pitch: int) -> None:
        due = self._due
        if due is not None and due.pitch == pitch:
            self._next_item += 1
            self._run.clear()
            return
        room, row = self._room, self._position
        start, duration = int(room.ticks[row]), int(room.lasting[self._duration - 1])
        end = start + duration
        velocity = self._velocity * vocab.VELOCITY_STEP + vocab.VELOCITY_STEP // 2
        self._keep((start, duration, pitch, velocity))
        self._voices[(self._starts >= start) & (self._starts < end)] += 1
        self._note(row, start, end, pitch)

    def _ends(self, row: int) -> NDArray[np.int64]:
        """Return [128] the tick at which a note of each pitch that begins here ends at the latest.

        It is where the pitch is struck again, or where all voices are taken.
        """
        start, cap = int(self._room.ticks[row]), self._room.cap
        full = self._starts[(self._starts > start) & (self._voices >= self._room.voices)]
        ends = np.full(128, min(cap, int(full[0])) if len(full) else cap, dtype=np.int64)
        later = self._later[self._later[:, 0] > start]
        # latest first, so that the earliest of a pitch is what stays
        struck = np.full(128, NEVER, dtype=np.int64)
        struck[later[:, 2]] = later[:, 0]
        result: NDArray[np.int64] = np.minimum(ends, struck)
        return result

    def _longest(
        self, row: int, ends: NDArray[np.int64], may: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Return [128] the longest duration (grid units) of each pitch that may be struck."""
        n = self._room.lasting.searchsorted(ends - self._room.ticks[row], "right")
        longest: NDArray[np.int64] = np.where(may, n, 0)
        return longest

    def _until_item(self, positions: NDArray[np.bool_]) -> None:
        """Allow no position behind an item that is still to be spelled."""
        item = self._item
        if item is not None:
            positions[(0 if self._due else item.position + 1) :] = False


class Free(Timed):
    """Notes as the model likes, as many as are asked for.

    What is owed finds room for sure at `spare` places: no repetition can end there, and they lie so
    far apart that the shortest notes do not meet.
    """

    def __init__(self, room: Room, strikes: Sounds, own: Sounds, plan: Sounds) -> None:
        super().__init__(room, strikes, own, plan)
        self._n_can = self._can.sum(axis=1)
        self._apart = room.apart()
        self._met = room.ticks.searchsorted(room.ticks + room.lasting[0], "left")
        self._spare = self._can & ~room.enders & self._apart[:, None]
        self._n_spare = self._spare.sum(axis=1)

    def _note(self, row: int, start: int, end: int, pitch: int) -> None:
        rows = slice(row, int(self._room.ticks.searchsorted(end, "left")))
        self._load[rows] += 1
        self._n_can[rows] -= self._can[rows, pitch]
        self._can[rows, pitch] = False
        self._n_spare[rows] -= self._spare[rows, pitch]
        self._spare[rows, pitch] = False

    def _choose(self) -> Choices:
        row, item, due = self._position, self._item, self._due
        owed = self._room.least - self.n_notes
        ahead = self._ahead_of() if owed > 0 else None
        positions = np.zeros(self._length, dtype=bool)
        longest, given = NONE, None
        if self.n_notes < self._room.most:
            self._open(positions, owed, ahead)
            if row >= 0 and self._load[row] < self._room.voices:
                longest = self._here(row, owed, ahead)
        if item is not None:
            positions[item.position] = ahead is None or ahead[item.position] >= owed
            self._until_item(positions)
        if due is not None and (ahead is None or self._above(row, ahead)[due.pitch] >= owed):
            given = self._given(due)
        return Choices(owed <= 0 and item is None, positions, longest, given)

    def _ahead_of(self) -> NDArray[np.int64]:
        """Return how many notes surely find room from each position on; one entry more, 0."""
        voices = np.maximum(self._room.voices - self._load, 0)
        ahead = np.zeros(self._length + 1, dtype=np.int64)
        np.minimum(voices, self._n_spare)[::-1].cumsum(out=ahead[-2::-1])
        return ahead

    def _above(self, row: int, ahead: NDArray[np.int64], taken: int = 0) -> NDArray[np.int64]:
        """Return [128] how many notes find room behind one of each pitch at this position.

        `taken` are the voices that this note itself takes.
        """
        spare = self._spare[row].astype(np.int64)
        spare[: self._last_pitch + 1] = 0
        higher = spare[::-1].cumsum()[::-1] - spare
        voices = max(self._room.voices - int(self._load[row]) - taken, 0)
        above: NDArray[np.int64] = np.minimum(higher, voices) + ahead[row + 1]
        return above

    def _open(
        self, positions: NDArray[np.bool_], owed: int, ahead: NDArray[np.int64] | None
    ) -> None:
        """Open the positions behind the one in force at which a note may begin."""
        room, since, n_can = self._room, self._position + 1, self._n_can
        if (banned := self._banned()) is not None:
            n_can = n_can - (banned & self._can).sum(axis=1)
        positions[since:] = (n_can[since:] > 0) & (self._load[since:] < room.voices)
        if ahead is not None:
            # a note at a position that is not counted on takes those away that it meets
            positions &= np.where(self._apart, ahead[:-1], 1 + ahead[self._met]) >= owed

    def _here(self, row: int, owed: int, ahead: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Return how long a note of each pitch may last at the position in force."""
        room = self._room
        may = self._can[row].copy()
        may[: self._last_pitch + 1] = False
        if self._due is not None:
            may[self._due.pitch :] = False
        if (banned := self._banned()) is not None:
            may &= ~banned[row]
        ends = self._ends(row)
        if ahead is not None:
            # every position counted on that a note sounds over costs at most one of those notes
            left = self._above(row, ahead, taken=1) - (owed - 1)
            may &= left >= 0
            counted = row + 1 + (ahead[row + 1 : -1] > ahead[row + 2 :]).nonzero()[0]
            ticks = np.append(room.ticks[counted], NEVER)
            ends = np.minimum(ends, ticks[left.clip(0, len(counted))])
        return self._longest(row, ends, may)


class PitchKept(Timed):
    """The plan has a late place for each pitch in turn; earlier ones are offered if they spare it.

    Only positions so far apart that the shortest notes do not meet are used.
    """

    def __init__(self, room: Room, strikes: Sounds, own: Sounds, plan: Sounds) -> None:
        super().__init__(room, strikes, own, plan)
        self._can &= room.apart()[:, None]
        self._rows = np.searchsorted(room.ticks, plan[:, 0], "left")

    def _note(self, row: int, start: int, end: int, pitch: int) -> None:
        rows = slice(row, int(self._room.ticks.searchsorted(end, "left")))
        self._load[rows] += 1
        self._can[rows, pitch] = False

    def _choose(self) -> Choices:
        room, row, item, due, at = self._room, self._position, self._item, self._due, self.n_notes
        positions = np.zeros(self._length, dtype=bool)
        longest, given = NONE, None
        if at == len(room.melody):
            if item is not None:
                positions[item.position] = due is None
                given = self._given(item) if due is not None else None
            return Choices(item is None, positions, longest, given)
        pitch, latest = room.melody[at], int(self._rows[at])
        load = self._load + np.bincount(self._rows[at + 1 :], minlength=self._length)
        fits = self._can[:, pitch] & (load < room.voices)
        if (banned := self._banned()) is not None:
            fits &= ~banned[:, pitch]
        positions[row + 1 : latest + 1] = fits[row + 1 : latest + 1]
        if item is not None:
            positions[item.position] = latest >= item.position
            self._until_item(positions)
        if due is not None and (latest > row or pitch > due.pitch):
            given = self._given(due)
        if 0 <= row <= latest and fits[row] and self._last_pitch < pitch:
            if due is None or pitch < due.pitch:
                longest = self._here(row, at, load)
        return Choices(False, positions, longest, given)

    def _here(self, row: int, at: int, load: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how long the next pitch may last at the position in force, and no other."""
        room = self._room
        rest, pitch = self._rows[at + 1 :], room.melody[at]
        again = np.array(room.melody[at + 1 :], dtype=np.int64) == pitch
        spared = rest[(rest > row) & (again | (load[rest] >= room.voices))]
        ends = self._ends(row)
        if len(spared):
            ends = np.minimum(ends, room.ticks[spared.min()])
        return self._longest(row, ends, np.arange(128) == pitch)
