"""What a cell's density and polyphony are to be → which ids lead there; best effort, never stuck.

The soft controls tell the model; this holds it to them where notes can do it. It narrows what the
grammar allows, and gives way where nothing would be left: polyphony first, then density. (What must
hold whatever happens is a rule: `rules`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anser import vocab
from anser.controls import Controls

HELD: Final = ("density", "fewest", "most")  # the controls that are held to
Mask = NDArray[np.bool_]

_STRIKES = np.zeros(vocab.N_VOCAB, dtype=bool)  # ids that go on with a note where we are
for _first, _count in (
    (vocab.VELOCITY, vocab.COUNT["velocity"]),
    (vocab.DURATION, vocab.LONG),
    (vocab.ADD_LONG, 1),
    (vocab.PITCH, 128),
    (vocab.DRUM, 128),
):
    _STRIKES[_first : _first + _count] = True
_MANY = vocab.COUNT["most"]  # so many notes at once, or more, are told alike


class Steering:
    """Follows one cell as it is written; `length` is the bar's number of grid positions.

    `held` are notes that stand in the cell and will be written again, in their order, as
    (position, duration, pitch, velocity) on the grid: they count, so room is kept for them.
    """

    def __init__(
        self, asked: Controls, length: int, held: Sequence[tuple[int, int, int, int]] = ()
    ) -> None:
        self._length = length
        self._held = list(held)  # those not yet written
        self._least, self._greatest = _density_bounds(asked.density)
        self._fewest, self._most = asked.fewest or 0, asked.most
        self._cap = self._most if self._most is not None and self._most < _MANY else 1 << 30
        self._n_notes = 0
        self._sounding = np.zeros(length, dtype=np.int64)  # at each position, as far as written
        self._page, self._position, self._long, self._duration = 0, -1, 0, 0
        self._velocity = -1
        self._stage = "note"  # what the last id was: note (complete), page, or within a note
        self._had_fewest = self._had_most = False  # at an onset that is done

    def narrowed(self, allowed: Mask) -> Mask:
        """Return those of the allowed ids that lead to what was asked; all where none does."""
        if self._held and self._n_notes + len(self._held) >= self._greatest:
            due = allowed & self._due()
            return due if due.any() else allowed
        if self._stage not in ("note", "page"):
            return self._paced(allowed)
        density = self._density()
        for wish in (density & self._polyphony(), density & self._capped(), density):
            fitting = allowed & wish
            if fitting.any():
                return self._paced(fitting)
        return allowed

    def advance(self, token: int) -> None:
        """Take note of the id that was written."""
        if token == vocab.TURN_PAGE:
            self._page += vocab.PAGE
            self._stage = "page"
        elif vocab.POSITION <= token < vocab.POSITION + vocab.PAGE:
            self._had_fewest, self._had_most = self._reached()
            self._position = self._page + token - vocab.POSITION
            self._stage = "position"
        elif token == vocab.ADD_LONG:
            self._long += vocab.LONG
            self._stage = "within"
        elif vocab.DURATION <= token < vocab.DURATION + vocab.LONG:
            self._duration = self._long + token - vocab.DURATION + 1
            self._long = 0
            self._stage = "within"
        elif vocab.PITCH <= token < vocab.DRUM + 128:
            self._n_notes += 1
            self._sounding[self._position : self._position + self._duration] += 1
            self._stage = "note"
            if self._held and self._held[0][::2] == (self._position, (token - vocab.PITCH) % 128):
                del self._held[0]
        else:
            self._velocity = token - vocab.VELOCITY
            self._stage = "within"

    @property
    def _here(self) -> int:
        """Notes that sound at the position in force."""
        return int(self._sounding[self._position]) if self._position >= 0 else 0

    def _reached(self) -> tuple[bool, bool]:
        """Say whether the fewest and the most were there, the position in force included."""
        here = self._here
        return (
            self._had_fewest or (here > 0 and here <= max(self._fewest, 1)),
            self._had_most or (self._most is not None and here >= self._most),
        )

    def _due(self) -> Mask:
        """Return the ids that lead to the next note that is held."""
        position, duration, pitch, velocity = self._held[0]
        mask = np.zeros(vocab.N_VOCAB, dtype=bool)
        if position != self._position:
            on_page = position - self._page < vocab.PAGE
            mask[vocab.POSITION + position - self._page if on_page else vocab.TURN_PAGE] = True
        elif velocity != self._velocity:
            mask[vocab.VELOCITY + velocity] = True
        elif duration != self._duration or self._long:
            left = duration - 1 - self._long
            mask[vocab.DURATION + left if left < vocab.LONG else vocab.ADD_LONG] = True
        else:
            mask[[vocab.PITCH + pitch, vocab.DRUM + pitch]] = True
        return mask

    def _density(self) -> Mask:
        """Return the ids that lead to the density asked."""
        mask = np.ones(vocab.N_VOCAB, dtype=bool)
        mask[vocab.END] = self._n_notes >= self._least
        last = self._length - max(self._least - self._n_notes, 1) - self._page  # one each, at worst
        mask[vocab.POSITION + max(last + 1, 0) : vocab.POSITION + vocab.PAGE] = False
        mask[vocab.TURN_PAGE] = last >= vocab.PAGE
        if self._n_notes >= self._greatest:
            mask[:] = False
            mask[vocab.END] = True
        return mask

    def _polyphony(self) -> Mask:
        """Return the ids that lead to the polyphony asked."""
        mask = np.ones(vocab.N_VOCAB, dtype=bool)
        if self._most is None and not self._fewest:
            return mask
        here, left = self._here, self._greatest - self._n_notes - len(self._held)
        had_fewest, had_most = self._reached()
        is_full = here >= max(self._fewest, 1) or self._position < 0
        chance = self._last_chance()
        spoils = here >= self._fewest and not self._had_fewest and chance < 0
        mask[_STRIKES] = here < self._cap and not (self._fewest and spoils)
        mask[vocab.END] = (
            is_full
            and (had_fewest or not self._fewest)
            and (had_most or self._most is None)
            and (self._n_notes > 0 or self._least == 0)
        )
        wanted = 0 if had_most or self._most is None else self._most
        missing = np.maximum(np.maximum(self._fewest, wanted) - self._sounding, 1)
        free = self._sounding < self._cap
        behind = free.sum() - np.cumsum(free)  # free positions behind each
        can_begin = free & (missing <= left) & (behind >= self._to_come) & is_full
        if self._fewest and not had_fewest:
            can_begin[chance + 1 :] = False
            if not had_most and self._most is not None and self._most > self._fewest:
                can_begin[chance:] = False  # it takes two onsets
        self._restrict(mask, can_begin)
        return mask

    def _capped(self) -> Mask:
        """Return the ids that lead to no more notes at once than asked, however few."""
        mask = np.ones(vocab.N_VOCAB, dtype=bool)
        mask[_STRIKES] = self._here < self._cap
        self._restrict(mask, self._sounding < self._cap)
        return mask

    def _restrict(self, mask: Mask, can_begin: Mask) -> None:
        """Leave of the positions those, behind the one in force, at which a note can begin."""
        later = can_begin.copy()
        later[: self._position + 1] = False
        on_page = later[self._page : self._page + vocab.PAGE]
        mask[vocab.POSITION : vocab.POSITION + vocab.PAGE] = False
        mask[vocab.POSITION : vocab.POSITION + len(on_page)] = on_page
        mask[vocab.TURN_PAGE] = later[self._page + vocab.PAGE :].any()

    def _last_chance(self) -> int:
        """Return the last later position at which just the fewest could sound; -1 if none."""
        to_come = max(self._least - self._n_notes, 1)
        few = self._sounding[: self._length - to_come + 1] < max(self._fewest, 1)
        few[: self._position + 1] = False
        return int(few.nonzero()[0].max(initial=-1))

    def _paced(self, allowed: Mask) -> Mask:
        """Keep a note short enough for what has still to come, where that leaves a choice."""
        mask = allowed.copy()
        above = max(self._fewest - self._here - 1, 0)  # pitches that this position needs yet
        if above:
            pitches = mask[vocab.PITCH : vocab.DRUM + 128].nonzero()[0]
            mask[vocab.PITCH + pitches[-above:]] = False
        left = self._longest()
        mask[vocab.DURATION + max(left - self._long, 0) : vocab.DURATION + vocab.LONG] = False
        mask[vocab.ADD_LONG] &= left > self._long + vocab.LONG
        if self._duration > left:  # the duration in force
            mask[vocab.PITCH : vocab.DRUM + 128] = False
        return mask if mask.any() else allowed

    @property
    def _to_come(self) -> int:
        """Notes that are owed behind the next one."""
        return max(self._least - self._n_notes - 1, 0)

    def _longest(self) -> int:
        """Return how long the next note may last so that what is owed finds room behind it."""
        at = max(self._position, 0)
        longest = 1 << 30
        if self._fewest and self._here >= self._fewest and not self._had_fewest:
            longest = max(self._last_chance() - at, 1)
        if self._cap < 1 << 30 and self._to_come:
            free = self._cap - self._sounding[at + 1 :]
            # room behind a note of each duration from 1: beside it, and after it
            beside = np.concatenate(([0], np.cumsum(free >= 2)))
            after = np.concatenate((np.cumsum((free >= 1)[::-1])[::-1], [0]))
            enough = (beside + after >= self._to_come).nonzero()[0]
            if len(enough) < len(beside):
                longest = min(longest, int(enough.max(initial=0)) + 1)
        return longest


def _density_bounds(density: float | None) -> tuple[int, int]:
    """Return the least and the most notes of the bin that a density is told as."""
    if density is None:
        return 0, 1 << 30
    at = vocab.density_token(density) - vocab.DENSITY
    least = vocab.DENSITY_EDGES[at - 1] + 1 if at else 0
    return least, vocab.DENSITY_EDGES[at]
