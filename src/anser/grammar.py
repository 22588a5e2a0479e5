"""Which ids may come next while a cell is written.

Guarantees by construction that the answer is well-formed: positions inside the bar and rising,
pitches rising within a position and inside the instrument's range, no pitch struck while it still
sounds, each note complete, an end. Knows the spelling of cells (`codec`), nothing of the model.

What may be spelled (`Spelling`) is kept apart from what may be played (`Choices`): rules change
only the latter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from anser import vocab
from anser.codec import GRID_NOTE, MAX_DURATION
from anser.ranges import pitch_range
from anser.rules import MOST_NOTES


@dataclass(frozen=True)
class Given:
    """A note whose velocity (bin) and duration (grid units) are settled, to be spelled next."""

    velocity: int
    duration: int
    pitches: NDArray[np.bool_]  # [128]; those it may have


@dataclass(frozen=True)
class Choices:
    """What may be played next: the end, a note further on, or one at the position in force."""

    may_end: bool
    positions: NDArray[np.bool_]  # [length of the bar]; only ones behind the position in force
    longest: NDArray[np.int64]  # [128]; duration that each pitch may last at most here, 0 = not
    given: Given | None = None  # a note that may come here besides

    @cached_property
    def most(self) -> int:
        """Duration that some pitch may last here, 0 = none."""
        return int(self.longest.max())


class Spelling(ABC):
    """Follows one cell as it is written; ask `allowed`, then `advance` with the id chosen.

    `length` is the bar's number of grid positions, `first` the id of pitch 0.
    """

    def __init__(self, length: int, first: int) -> None:
        self._length = length
        self._first = first
        self._page = 0
        self._position = -1
        self._last_pitch = -1  # struck at this position; the next one is higher
        self._duration = 0
        self._long = 0
        self._velocity = -1
        self._stage = "note"  # what the last id was: note, page, position, velocity, long, duration
        self._choices: Choices | None = None

    @abstractmethod
    def _choose(self) -> Choices:
        """Return what may be played next; at least one thing unless the cell is done."""

    @abstractmethod
    def _strike(self, pitch: int) -> None:
        """Take note of a completed note at the position, duration and velocity in force."""

    @property
    @abstractmethod
    def n_notes(self) -> int:
        """Number of notes written."""

    @property
    def done(self) -> bool:
        """Whether `end` was written."""
        return self._stage == "end"

    def allowed(self) -> NDArray[np.bool_]:
        """Return a mask [N_VOCAB] of the ids that may come next; never empty before `end`."""
        mask = np.zeros(vocab.N_VOCAB, dtype=bool)
        if self._choices is None:
            self._choices = self._choose()
        choices, stage = self._choices, self._stage
        if stage in ("note", "page"):
            mask[vocab.END] = choices.may_end and stage == "note"
            here = choices.positions[self._page : self._page + vocab.PAGE]
            mask[vocab.POSITION : vocab.POSITION + len(here)] = here
            mask[vocab.TURN_PAGE] = choices.positions[self._page + vocab.PAGE :].any()
        longest, given = choices.most, choices.given
        if stage == "page" or not (longest or given):
            return mask
        if stage in ("note", "position"):
            if longest:
                mask[vocab.VELOCITY : vocab.VELOCITY + vocab.COUNT["velocity"]] = True
            if given:
                mask[vocab.VELOCITY + given.velocity] = True
            if self._velocity >= 0:
                mask[vocab.VELOCITY + self._velocity] = False
        if self._velocity < 0:
            return mask
        matching = given if given and given.velocity == self._velocity else None
        if stage != "duration":
            self._allow_durations(mask, longest, matching.duration if matching else 0)
        if self._duration and stage != "long":
            pitches = choices.longest >= self._duration
            if matching and matching.duration == self._duration:
                pitches = pitches | matching.pitches
            mask[self._first : self._first + 128] = pitches
        return mask

    def advance(self, token: int) -> None:
        """Take note of the id that was written; it must be one that `allowed` gave."""
        if token == vocab.END:
            self._stage = "end"
        elif token == vocab.TURN_PAGE:
            self._page += vocab.PAGE
            self._stage = "page"
        elif token == vocab.ADD_LONG:
            self._long += vocab.LONG
            self._stage = "long"
        elif vocab.POSITION <= token < vocab.POSITION + vocab.PAGE:
            self._position = self._page + token - vocab.POSITION
            self._last_pitch = -1
            self._stage = "position"
            self._choices = None
        elif vocab.VELOCITY <= token < vocab.VELOCITY + vocab.COUNT["velocity"]:
            self._velocity = token - vocab.VELOCITY
            self._stage = "velocity"
        elif vocab.DURATION <= token < vocab.DURATION + vocab.LONG:
            self._duration, self._long = self._long + token - vocab.DURATION + 1, 0
            self._stage = "duration"
        else:
            self._last_pitch = token - self._first
            self._strike(self._last_pitch)
            self._stage = "note"
            self._choices = None

    def _allow_durations(self, mask: NDArray[np.bool_], longest: int, given: int) -> None:
        """Allow every duration up to `longest`, and `given`, but not the one in force."""
        in_force, beyond = self._duration, self._long + vocab.LONG
        stop = min(longest - self._long, vocab.LONG)
        if stop > 0:
            mask[vocab.DURATION : vocab.DURATION + stop] = True
        if self._long < given <= beyond:
            mask[vocab.DURATION + given - self._long - 1] = True
        if self._long < in_force <= beyond:
            mask[vocab.DURATION + in_force - self._long - 1] = False
        # a `long` token needs a duration behind it that is not the one in force
        some = longest > beyond + 1 or (longest > beyond and longest != in_force)
        mask[vocab.ADD_LONG] = some or (given > beyond and given != in_force)


class CellGrammar(Spelling):
    """A cell without rules.

    `sounding` says for each pitch until which position of this bar it still sounds (from earlier
    cells), so it may not be struck before. `pitches` are the lowest and highest pitch allowed
    (inclusive); None = the program's own range.
    """

    def __init__(
        self,
        length: int,
        program: int,
        sounding: NDArray[np.int64] | None = None,
        pitches: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(length, vocab.DRUM if program == vocab.DRUMS else vocab.PITCH)
        low, high = pitches or pitch_range(program)
        self._range = slice(low, high + 1)
        self._until = np.zeros(128, dtype=np.int64) if sounding is None else sounding.copy()
        self._notes: list[tuple[int, int, int, int]] = []

    @property
    def n_notes(self) -> int:
        """Number of notes written."""
        return len(self._notes)

    def notes(self, since: int = 0) -> NDArray[np.void]:
        """Return the GRID_NOTEs written, those before `since` left out."""
        return np.array(self._notes[since:], dtype=GRID_NOTE)

    def sounding(self) -> NDArray[np.int64]:
        """Return until which position of the next bar each pitch still sounds."""
        return np.asarray(np.maximum(self._until - self._length, 0))

    def _strike(self, pitch: int) -> None:
        self._until[pitch] = self._position + self._duration
        self._notes.append((self._position, self._duration, pitch, self._velocity))

    def _choose(self) -> Choices:
        positions = np.zeros(self._length, dtype=bool)
        longest = np.zeros(128, dtype=np.int64)
        if len(self._notes) == MOST_NOTES:
            return Choices(True, positions, longest)
        until = self._until[self._range]
        positions[max(self._position + 1, int(until.min())) :] = True
        if self._position >= 0:
            longest[self._range] = np.where(until <= self._position, MAX_DURATION, 0)
            longest[: self._last_pitch + 1] = 0
        return Choices(True, positions, longest)
