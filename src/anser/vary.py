"""Request + amount → the same, asking for variations of what stands in the selected cells.

A share of the notes stays, by locks, drawn anew for every take; the rest is written anew, as many
notes as there were, and the model is told how like the cell is to come out.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from anser.controls import NO_CONTROLS, Controls
from anser.errors import ControlError
from anser.infill import Request
from anser.prompt import Cell
from anser.room import beat_of
from anser.rules import NO_RULES, Lock
from anser.song import Song


def variation(request: Request, amount: float) -> Request:
    """Return the request for one take that varies what stands there, by its number `first`.

    `amount` is the share of each cell's notes that is written anew: 0 leaves all as it is, 1 is
    free. A silent cell stays silent unless all is free. What the request asks already goes first.
    Raises ControlError for an amount outside 0..1.
    """
    if not 0 <= amount <= 1:
        raise ControlError(f"amount: expected 0 to 1, found {amount:g}.")
    if amount == 1:
        return replace(request, takes=1)
    controls, rules = dict(request.controls), dict(request.rules)
    for cell in request.selection.cells:
        rng = np.random.default_rng((request.seed, request.first, *cell))
        known = rules.get(cell, NO_RULES)
        locks, n_notes, n_stay = _locks(request.song, cell, amount, rng)
        known = replace(known, locks=(*known.locks, *locks))
        if n_stay == n_notes and known.notes is None:
            known = replace(known, notes=(n_notes, n_notes))
        rules[cell] = known
        if n_stay < n_notes:
            controls[cell] = _asked(controls.get(cell, NO_CONTROLS), cell, n_notes, n_stay)
    return replace(request, controls=controls, rules=rules, takes=1)


def _locks(
    song: Song, cell: Cell, amount: float, rng: np.random.Generator
) -> tuple[tuple[Lock, ...], int, int]:
    """Draw which notes stay, as many as the amount leaves; returns locks, notes, and notes locked.

    Notes of one pitch in one beat stay together.
    """
    track, bar = cell
    notes, starts = song.tracks[track].notes, song.bars.starts
    here = notes[(notes["onset"] >= starts[bar]) & (notes["onset"] < starts[bar + 1])]
    groups: dict[tuple[int, int], int] = defaultdict(int)
    for note in here:
        groups[int(note["pitch"]), beat_of(song, bar, int(note["onset"] - starts[bar]))] += 1
    left = n_stay = round((1 - amount) * len(here))
    locks = []
    for at in rng.permutation(len(groups)).tolist():
        (pitch, beat), n_notes = list(groups.items())[at]
        if n_notes <= left:
            left -= n_notes
            locks.append(Lock((pitch, pitch), (beat, beat + 1)))
    return tuple(locks), len(here), n_stay - left


def _asked(known: Controls, cell: Cell, n_notes: int, n_stay: int) -> Controls:
    """Ask for as many notes as there were, and for the likeness if none of the new ones is old."""
    if known.density is None:
        known = replace(known, density=n_notes)
    if known.likeness is None:
        # n_stay notes are common of n_stay + 2 * (n_notes - n_stay)
        likeness = n_stay / (2 * n_notes - n_stay)
        known = replace(known, likeness=likeness, reference=cell[1])
    return known
