"""Which ids may come next while a cell is written.

Guarantees by construction that the answer is well-formed: positions inside the bar and rising,
pitches rising within a position and inside the instrument's range, no pitch struck while it still
sounds, each note complete, an end. Knows the spelling of cells (`codec`), nothing of the model.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from anser import vocab
from anser.ranges import pitch_range

MAX_NOTES: Final = 192  # in one written cell; then only `end` is allowed


class CellGrammar:
    """Follows one cell as it is written; ask `allowed`, then `advance` with the id chosen.

    `length` is the bar's number of grid positions. `sounding` says for each pitch until which
    position of this bar it still sounds (from earlier cells), so it may not be struck before.
    `pitches` are the lowest and highest pitch allowed (inclusive); None = the program's own range.
    """

    def __init__(
        self,
        length: int,
        program: int,
        sounding: NDArray[np.int64] | None = None,
        pitches: tuple[int, int] | None = None,
    ) -> None:
        low, high = pitches or pitch_range(program)
        self._length = length
        self._first = vocab.DRUM if program == vocab.DRUMS else vocab.PITCH
        self._in_range = np.zeros(128, dtype=bool)
        self._in_range[low : high + 1] = True
        self._until = np.zeros(128, dtype=np.int64) if sounding is None else sounding.copy()
        self._page = 0
        self._position = -1
        self._last_pitch = -1  # struck at this position; the next one is higher
        self._duration = 0
        self._long = 0
        self._velocity = -1
        self._stage = "note"  # what the last id was: note, page, position, velocity, long, duration
        self._n_notes = 0

    @property
    def done(self) -> bool:
        """Whether `end` was written."""
        return self._stage == "end"

    def sounding(self) -> NDArray[np.int64]:
        """Return until which position of the next bar each pitch still sounds."""
        return np.maximum(self._until - self._length, 0)

    def allowed(self) -> NDArray[np.bool_]:
        """Return a mask [N_VOCAB] of the ids that may come next; never empty before `end`."""
        mask = np.zeros(vocab.N_VOCAB, dtype=bool)
        stage = self._stage
        pitches = self._free(self._position, self._last_pitch) if self._position >= 0 else None
        if stage == "note":
            mask[vocab.END] = True
            if self._n_notes == MAX_NOTES:
                return mask
        if stage in ("note", "page"):
            self._allow_positions(mask)
        if pitches is None or not pitches.any():
            return mask
        if stage in ("note", "position"):
            mask[vocab.VELOCITY : vocab.VELOCITY + vocab.COUNT["velocity"]] = True
            if self._velocity >= 0:
                mask[vocab.VELOCITY + self._velocity] = False
        if stage in ("note", "position", "velocity", "long") and self._velocity >= 0:
            self._allow_durations(mask)
        if self._velocity >= 0 and self._duration and stage not in ("long", "page"):
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
        elif vocab.VELOCITY <= token < vocab.VELOCITY + vocab.COUNT["velocity"]:
            self._velocity = token - vocab.VELOCITY
            self._stage = "velocity"
        elif vocab.DURATION <= token < vocab.DURATION + vocab.LONG:
            self._duration, self._long = self._long + token - vocab.DURATION + 1, 0
            self._stage = "duration"
        else:
            self._last_pitch = token - self._first
            self._until[self._last_pitch] = self._position + self._duration
            self._n_notes += 1
            self._stage = "note"

    def _free(self, position: int, above: int) -> NDArray[np.bool_]:
        """Return which pitches may be struck at a position, above the last one struck there."""
        free = self._in_range & (self._until <= position)
        free[: above + 1] = False
        return free

    def _allow_positions(self, mask: NDArray[np.bool_]) -> None:
        """Allow positions after the last one at which some pitch is free, and turning the page."""
        free_from = int(np.where(self._in_range, self._until, np.iinfo(np.int64).max).min())
        start = max(self._position + 1, self._page, free_from)
        stop = min(self._length, self._page + vocab.PAGE)
        mask[vocab.POSITION + start - self._page : vocab.POSITION + stop - self._page] = (
            start < stop
        )
        if max(free_from, self._page + vocab.PAGE) < self._length:
            mask[vocab.TURN_PAGE] = True

    def _allow_durations(self, mask: NDArray[np.bool_]) -> None:
        """Allow every duration but the one in force; at most 16 `long` tokens."""
        mask[vocab.DURATION : vocab.DURATION + vocab.LONG] = True
        in_force = self._duration - self._long - 1
        if 0 <= in_force < vocab.LONG:
            mask[vocab.DURATION + in_force] = False
        if self._long < 16 * vocab.LONG:
            mask[vocab.ADD_LONG] = True
