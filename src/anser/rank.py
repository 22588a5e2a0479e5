"""Takes → the same takes, best first.

Silence is the likeliest note: an answer with few notes has little to be wrong about. So takes that
fill more of the cells come first, and only among equals the likelier per note.
"""

from __future__ import annotations

from collections.abc import Iterable

from anser.infill import Take


def n_silent(take: Take) -> int:
    """Return how many cells were answered with silence."""
    return sum(cell.n_notes == 0 for cell in take.cells)


def best_first(takes: Iterable[Take]) -> list[Take]:
    """Order takes by silent cells, fewest first, then by nats per note; ties keep their order."""
    return sorted(takes, key=lambda take: (n_silent(take), -take.log_likelihood))
