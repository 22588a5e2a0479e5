"""Takes of one request → the same takes, best first, and why.

Each take is judged by what can be known without hearing it: how likely the model finds it, whether
it came out as asked, how it stands to the other takes, and whether it copies bars of the song.
Silence is the likeliest note, for an answer with few notes has little to be wrong about: so cells
left silent count against a take, however likely it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final

import numpy as np

from anser import codec
from anser.apart import heard
from anser.codec import Encoded
from anser.infill import Request, Take
from anser.prompt import Cell
from anser.report import UNMEASURED, CellReport, is_met

# What a take gains or loses in order, about as fitted on the valid split (evaluate.ranking), in
# standard deviations of held-out scores. What the takes have in common is what the model is surest
# of: more than by likelihood, the better take is known by that. To copy another bar of the song is
# worth something too (0.8), for music repeats itself; but whoever wants a copy needs no model.
SILENCE: Final = -3.0  # for all cells silent
NATS: Final = -0.2  # for a nat a note
AGREEMENT: Final = 2.5  # for having all in common with the other takes
MET: Final = 3.0  # for all controls met; set, not fitted: what was asked for comes first

UNLIKE: Final = (
    0.05  # share in common, away from the mean of all, to be called like the others or not
)
CLEARLY: Final = 0.1  # nats a note that a take is likelier than the mean of all, to be called so


@dataclass(frozen=True)
class Ranked:
    """A take and what speaks for it."""

    take: Take
    n_silent: int  # cells answered with silence that was not asked for
    n_asked: int  # controls, over all cells
    missed: tuple[tuple[CellReport, str], ...]  # controls that did not come out, and where
    agreement: float | None  # mean share of notes common with another take; None if there is none
    n_copies: int  # cells that hold the same notes as an unselected bar of their track
    gain: float  # nats a note that it is likelier than the mean of the takes
    usual_agreement: float | None = None  # the mean of the takes

    @property
    def score(self) -> float:
        """What the order goes by; differences between takes of one request have a meaning."""
        n_cells = max(len(self.take.cells), 1)
        met = 1 - len(self.missed) / self.n_asked if self.n_asked else 1
        return (
            SILENCE * self.n_silent / n_cells
            + NATS * -self.take.log_likelihood
            + MET * met
            + AGREEMENT * (self.agreement or 0)
        )

    @property
    def why(self) -> str:
        """Say in a line what speaks for and against the take."""
        nats = f"{0 - self.take.log_likelihood:.2f} nats a note"
        if self.agreement is None:
            parts = [nats]
        else:
            bold = "unlikely" if self.gain < -CLEARLY else "as likely as most"
            parts = [f"{'likely' if self.gain > CLEARLY else bold} ({nats})"]
        if self.n_silent:
            parts.append(f"{_cells(self.n_silent)} silent")
        if self.n_asked:
            n_met = self.n_asked - len(self.missed)
            parts.append(
                f"{n_met} of {self.n_asked} controls met" if self.missed else "all controls met"
            )
        if self.agreement is not None and self.usual_agreement is not None:
            parts.append(_agreed(self.agreement, self.usual_agreement))
        if self.n_copies:
            parts.append(f"{_cells(self.n_copies)} as in other bars of the song")
        return ", ".join(parts)

    @property
    def facts(self) -> dict[str, Any]:
        """Return the same ready for JSON."""
        return {
            "score": round(self.score, 4),
            "why": self.why,
            "temperature": self.take.request.sampling.temperature if self.take.request else None,
            "silent_cells": self.n_silent,
            "controls_asked": self.n_asked,
            "controls_met": self.n_asked - len(self.missed),
            "common_with_other_takes": None if self.agreement is None else round(self.agreement, 3),
            "cells_copied_from_the_song": self.n_copies,
        }


def ranked(takes: Sequence[Take]) -> list[Ranked]:
    """Judge the takes of one request and order them, best first; ties keep their order."""
    if not takes:
        return []
    where = [heard(take) for take in takes]
    mean = float(np.mean([take.log_likelihood for take in takes]))
    request = takes[0].request
    around = _Around(request) if request else None
    agreed = [
        [one.alike(other) for i, other in enumerate(where) if i != at]
        for at, one in enumerate(where)
    ]
    usual = float(np.mean(agreed)) if len(takes) > 1 else None
    judged = []
    for take, others in zip(takes, agreed, strict=True):
        missed = tuple((c, n) for c in take.cells for n in _measured(c) if not _is_met(c, n))
        judged.append(
            Ranked(
                take,
                n_silent=n_silent(take),
                n_asked=sum(len(_measured(cell)) for cell in take.cells),
                missed=missed,
                agreement=float(np.mean(others)) if others else None,
                n_copies=around.n_copies(take) if around else 0,
                gain=take.log_likelihood - mean,
                usual_agreement=usual,
            )
        )
    return sorted(judged, key=lambda one: -one.score)


def best_first(takes: Iterable[Take]) -> list[Take]:
    """Order takes as `ranked` does."""
    return [one.take for one in ranked(list(takes))]


def n_silent(take: Take) -> int:
    """Return how many cells were answered with silence, those asked to be silent left out."""
    return sum(cell.n_notes == 0 and _may_play(cell) for cell in take.cells)


def _may_play(cell: CellReport) -> bool:
    """Say whether a cell was free to play, and nothing of it stood already."""
    rules = cell.rules
    held = bool(rules.locks) or rules.beats is not None or rules.notes == (0, 0)
    return cell.asked.density != 0 and cell.asked.silence != 1 and not held


def _measured(cell: CellReport) -> list[str]:
    return [name for name in cell.asked.asked() if name not in UNMEASURED]


def _is_met(cell: CellReport, name: str) -> bool:
    if getattr(cell.realised, name) is None:
        return False
    return is_met(name, cell.asked, cell.realised)


class _Around:
    """The unselected bars of the selected tracks, to be recognised in takes."""

    def __init__(self, request: Request) -> None:
        self._song = codec.encode(request.song)
        self._selected = request.selection.cells
        self._places = cache(partial(_places, self._song))

    def n_copies(self, take: Take) -> int:
        """Return how many cells of a take hold the notes of such a bar."""
        song = codec.encode(take.song)
        return sum(self._has(song, (c.track, c.bar)) for c in take.cells if c.n_notes)

    def _has(self, song: Encoded, cell: Cell) -> bool:
        track, n_notes = cell[0], int(song.n_notes[cell])
        bars = np.flatnonzero(self._song.n_notes[track] == n_notes).tolist()
        others = ((track, bar) for bar in bars if (track, bar) not in self._selected)
        places = _places(song, cell)
        return n_notes > 0 and any(self._places(other) == places for other in others)


def _places(song: Encoded, cell: Cell) -> bytes:
    """Return the (position, pitch) pairs of a cell as bytes, to be compared."""
    notes = codec.decode(song.cell(*cell))
    return np.stack([notes["position"], notes["pitch"]]).astype(np.int32).tobytes()


def _agreed(share: float, usual: float) -> str:
    if share >= 1:
        return "the same as the others"
    common = f"{round(100 * share)} % in common"
    if abs(share - usual) <= UNLIKE:
        return f"{common} with the others"
    return f"{'unlike' if share < usual else 'like'} the others ({common})"


def _cells(n: int) -> str:
    return "1 cell" if n == 1 else f"{n} cells"
