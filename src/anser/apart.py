"""Request + earlier takes → takes that differ from those, and from each other.

Every number of a seed has its own take, the same alone or among others. So nothing needs to be
forbidden while writing: of the takes 1, 2, 3 … those that are too like one before are passed over,
and as many further numbers are written; after a while with a wider choice, for a model that is sure
of its answer gives few. What is kept of a call is still reproduced by its request and number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from anser import room, vocab
from anser.infill import Request, Take
from anser.prompt import Cell
from anser.rules import NO_RULES, Rules
from anser.sampling import Sampling
from anser.song import Song

PLAIN_ROUNDS: Final = 2  # of writing as asked
ROUNDS: Final = 6  # at most, the others with a wider choice; then the least alike of all are given

Writer = Callable[[Request], list[Take]]
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


@dataclass(frozen=True)
class Heard:
    """Where the notes in the selected cells begin, and which of them stay in every take."""

    notes: Places
    stays: Places

    def alike(self, other: Heard) -> float:
        """Return the share of common notes among all of both, 0..1; two silences are 1.

        How long and how loud notes are does not count, nor do those that stay in both.
        """
        stays = self.stays & other.stays
        mine, theirs = self.notes - stays, other.notes - stays
        return len(mine & theirs) / len(mine | theirs) if mine or theirs else 1.0


def heard(take: Take) -> Heard:
    """Return the notes of a take."""
    cells = [(cell.track, cell.bar) for cell in take.cells]
    notes = _places(take.song, cells)
    request = take.request
    return Heard(notes, _staying(request.song, cells, request.rules) if request else frozenset())


def takes_apart(write: Writer, request: Request, apart: Apart = Apart()) -> list[Take]:
    """Return takes as `write` does, but ones that are apart, in the order of their numbers.

    Where too few such are found, the model being sure of its answer, the least alike of those that
    were written make up the number.
    """
    cells = sorted(request.selection.cells)
    earlier = [_places(song, cells) for song in apart.avoid]
    # whatever stays in a take may have stayed in an earlier one too
    avoided = [Heard(notes, notes) for notes in earlier]
    kept: list[tuple[Take, Heard]] = []
    passed: list[tuple[Take, Heard]] = []
    first = request.first
    for n in range(ROUNDS if request.sampling.temperature else 1):
        missing = request.takes - len(kept)
        sampling = _wider(request.sampling, n - PLAIN_ROUNDS + 1)
        written = write(replace(request, takes=missing, first=first, sampling=sampling))
        first += missing
        for take in written:
            here = heard(take)
            others = [*avoided, *(there for _, there in kept)]
            is_apart = all(apart.allows(here.alike(other)) for other in others)
            (kept if is_apart else passed).append((take, here))
        if len(kept) == request.takes:
            break
    while len(kept) < request.takes:
        others = [*avoided, *(there for _, there in kept)]
        least = min(passed, key=lambda pair: max(pair[1].alike(other) for other in others))
        passed.remove(least)
        kept.append(least)
    return sorted((take for take, _ in kept), key=lambda take: take.number)


def _wider(sampling: Sampling, by: int) -> Sampling:
    """Let all ids be drawn, and the less likely ones more often; as it is where `by` is below 1."""
    if by < 1:
        return sampling
    warmer = min(sampling.temperature * (1 + by / 2), 10)
    return replace(sampling, temperature=warmer, top_p=1, min_p=0)


def _places(song: Song, cells: Sequence[Cell]) -> Places:
    found: set[tuple[int, int, int]] = set()
    for track, bar in cells:
        if track >= len(song.tracks) or bar >= song.n_bars:
            continue
        for onset, _, pitch, _ in song.notes_in(track, bar).tolist():
            found.add((track, _on_grid(song, onset), pitch))
    return frozenset(found)


def _staying(song: Song, cells: Sequence[Cell], rules: Mapping[Cell, Rules]) -> Places:
    return frozenset(
        (cell[0], _on_grid(song, onset), pitch)
        for cell in cells
        if cell in rules
        for onset, _, pitch, _ in room.staying(song, cell, rules.get(cell, NO_RULES))
    )


def _on_grid(song: Song, tick: int) -> int:
    per_quarter = song.ticks_per_quarter
    return (2 * tick * vocab.GRID + per_quarter) // (2 * per_quarter)
