"""Request + amount → the same, asking for variations of what stands in the selected cells.

A share of the notes stays, by locks, drawn anew for every take; the rest is written anew, and as
many notes as there were are asked for. The model is not shown what it replaces: asked by the
control of likeness, with the cell itself as the reference, it copies too much, or not enough.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from anser import codec
from anser.apart import Writer
from anser.controls import NO_CONTROLS, likeness
from anser.errors import ControlError
from anser.infill import Request, Take
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
        asked = controls.get(cell, NO_CONTROLS)
        if n_stay < n_notes and asked.density is None and known.notes is None:
            controls[cell] = replace(asked, density=n_notes)
    return replace(request, controls=controls, rules=rules, takes=1)


def _locks(
    song: Song, cell: Cell, amount: float, rng: np.random.Generator
) -> tuple[tuple[Lock, ...], int, int]:
    """Draw which notes stay, as many as the amount leaves; returns locks, notes, and notes locked.

    Notes of one pitch in one beat stay together.
    """
    track, bar = cell
    here, start = song.notes_in(track, bar), song.bars.starts[bar]
    groups: dict[tuple[int, int], int] = defaultdict(int)
    for note in here:
        groups[int(note["pitch"]), beat_of(song, bar, int(note["onset"] - start))] += 1
    left = n_stay = round((1 - amount) * len(here))
    locks = []
    for at in rng.permutation(len(groups)).tolist():
        (pitch, beat), n_notes = list(groups.items())[at]
        if n_notes <= left:
            left -= n_notes
            locks.append(Lock((pitch, pitch), (beat, beat + 1)))
    return tuple(locks), len(here), n_stay - left


def varied(write: Writer, request: Request, amount: float) -> list[Take]:
    """Return the request's takes as variations; in each another share of the notes stays."""
    numbers = range(request.first, request.first + request.takes)
    alone = (variation(replace(request, first=number), amount) for number in numbers)
    return [take for one in alone for take in write(one)]


def likeness_kept(take: Take) -> float:
    """Return the mean likeness, 0..1, of a take's cells to what stood there."""
    if take.request is None:
        raise ValueError("expected a take with its request, found one without.")
    before, after = codec.encode(take.request.song), codec.encode(take.song)
    cells = [(cell.track, cell.bar) for cell in take.cells]
    pairs = [(codec.decode(before.cell(*c)), codec.decode(after.cell(*c))) for c in cells]
    return float(np.mean([likeness(*pair) for pair in pairs]))
