"""Request + earlier takes → takes that differ from those, and from each other.

Every number of a seed has its own take, the same alone or among others. So nothing needs to be
forbidden while writing: of the takes 1, 2, 3 … those that are too like one before are passed over,
and as many further numbers are written. What is kept of a call is still reproduced by its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anser import room, vocab
from anser.infill import Decided, Request, Take, infill
from anser.rules import NO_RULES
from anser.rwkv7.engine import Engine
from anser.rwkv7.prefix import PrefixCache
from anser.song import Song

ROUNDS: Final = 4  # of writing further takes, at most; then the least alike of all are given

Places = frozenset[tuple[int, int, int]]  # track, onset (24 a quarter), pitch


@dataclass(frozen=True)
class Apart:
    """How far takes are to be apart: `least` is the share of notes that are not common, 0..1.

    At 0 two takes may not be the same, at 0.5 half of the notes of both together differ. `avoid`
    are songs with earlier takes of the same cells, from which to be as far.
    """

    least: float = 0.0
    avoid: Sequence[Song] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.least < 1:
            raise ValueError(f"apart: expected 0 up to, not including, 1, found {self.least}.")

    def allows(self, likeness: float) -> bool:
        """Say whether two takes are far enough apart."""
        return likeness < 1 and likeness <= 1 - self.least


def places(song: Song, notes: Iterable[tuple[int, NDArray[np.void]]]) -> Places:
    """Return where notes (track, NOTE) begin; how long and how loud they are is left out."""
    per_quarter = song.ticks_per_quarter
    found: set[tuple[int, int, int]] = set()
    for track, those in notes:
        onsets = (2 * those["onset"] * vocab.GRID + per_quarter) // (2 * per_quarter)
        found |= {
            (track, *pair) for pair in zip(onsets.tolist(), those["pitch"].tolist(), strict=True)
        }
    return frozenset(found)


def alike(one: Places, other: Places) -> float:
    """Return the share of common notes among all of both; two silences are 1."""
    return len(one & other) / len(one | other) if one or other else 1.0


def infill_apart(
    engine: Engine,
    request: Request,
    apart: Apart = Apart(),
    on_event: Callable[[Decided], None] | None = None,
    prefixes: PrefixCache | None = None,
) -> list[Take]:
    """Return takes as `infill` does, but ones that are apart, in the order of their numbers.

    Where too few such are found, the model being sure of its answer, the least alike of those that
    were written make up the number.
    """
    cache = prefixes or PrefixCache(engine)
    avoided = [_standing(request, song) for song in apart.avoid]
    kept: list[tuple[Take, Places]] = []
    passed: list[tuple[Take, Places]] = []
    first = request.first
    for _ in range(ROUNDS):
        missing = request.takes - len(kept)
        written = infill(engine, replace(request, takes=missing, first=first), on_event, cache)
        first += missing
        for take in written:
            here = places(request.song, take.notes.items())
            others = [*avoided, *(there for _, there in kept)]
            is_apart = all(apart.allows(alike(here, other)) for other in others)
            (kept if is_apart else passed).append((take, here))
        if len(kept) == request.takes:
            break
    while len(kept) < request.takes:
        others = [*avoided, *(there for _, there in kept)]
        least = min(passed, key=lambda pair: max(alike(pair[1], o) for o in others))
        passed.remove(least)
        kept.append(least)
    return sorted((take for take, _ in kept), key=lambda take: take.number)


def _standing(request: Request, song: Song) -> Places:
    """Return the notes of an earlier take in the selected cells, without those that stay."""
    found, locked = [], []
    for track, bar in sorted(request.selection.cells):
        if track >= len(song.tracks) or bar >= song.n_bars:
            continue
        notes = song.tracks[track].notes
        start, end = song.bars.starts[bar : bar + 2]
        found.append((track, notes[(notes["onset"] >= start) & (notes["onset"] < end)]))
        rules = request.rules.get((track, bar), NO_RULES)
        stays = room.staying(request.song, (track, bar), rules)
        locked.append((track, np.array(stays, dtype=notes.dtype)))
    return places(song, found) - places(request.song, locked)
