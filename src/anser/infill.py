"""Song + selection → takes: the whole flow, and the only module that knows all of it.

    encode ─▶ prompt.make ─▶ engine.prefill ─▶ (grammar + sampling loop) ─▶ decode ─▶ splice

All takes read the prompt once and are written side by side, cell by cell in musical time. Each
take has a generator of its own, seeded by (seed, take), so it comes out the same alone or among
others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from anser import codec, prompt, vocab
from anser.controls import NO_CONTROLS, Controls
from anser.grammar import CellGrammar, Spelling
from anser.ground import Ground, Sounding
from anser.implied import told
from anser.prompt import Cell, Window
from anser.ranges import pitch_range
from anser.reading import Reading
from anser.report import CellReport, checked
from anser.room import held
from anser.rules import NO_RULES, Rules
from anser.ruling import Ruled, ruled
from anser.rwkv7.engine import Engine
from anser.rwkv7.prefix import PrefixCache
from anser.sampling import Sampling, pick
from anser.selection import Selection
from anser.song import Song, splice
from anser.steering import HELD, Steering


@dataclass(frozen=True)
class Decided:
    """Notes of one take that are decided: one note, or the end of a cell (no notes)."""

    take: int
    cell: Cell
    notes: NDArray[np.void]  # NOTEs in ticks; at most one
    cell_is_done: bool


@dataclass(frozen=True)
class Take:
    """One answer for a selection."""

    song: Song
    notes: Mapping[int, NDArray[np.void]]  # new NOTEs by track, in ticks
    seed: int
    number: int  # which of the takes of this seed, from 0
    cells: tuple[CellReport, ...]
    request: Request | None = field(default=None, repr=False)

    @property
    def n_notes(self) -> int:
        """Notes written."""
        return sum(c.n_notes for c in self.cells)

    @property
    def log_likelihood(self) -> float:
        """Nats per note: how likely the model finds its answer (an empty one counts as a note)."""
        return sum(c.log_likelihood for c in self.cells) / max(self.n_notes, 1)

    @property
    def report(self) -> dict[str, object]:
        """Return what was asked and what came out, ready for JSON; tracks and bars from 1."""
        return {
            "seed": self.seed,
            "take": self.number + 1,
            "notes": self.n_notes,
            "nats_per_note": round(-self.log_likelihood, 4),
            "cells": [cell.facts for cell in self.cells],
        }


@dataclass(frozen=True)
class Request:
    """Everything that decides an answer.

    `rules` may name any selected cell; `earlier` are songs with earlier takes of the same cells,
    which the rule against repetitions heeds besides the song itself.
    """

    song: Song
    selection: Selection
    controls: Mapping[Cell, Controls] = field(default_factory=dict)
    rules: Mapping[Cell, Rules] = field(default_factory=dict)
    earlier: Sequence[Song] = ()
    takes: int = 1
    first: int = 0  # number of the first take: take 7 is the same alone or after 0 to 6
    seed: int = 0
    sampling: Sampling = Sampling()
    window: Window = Window()

    def __post_init__(self) -> None:
        if not 1 <= self.takes <= 64:
            raise ValueError(f"takes: expected 1..64, found {self.takes}.")
        if min(self.seed, self.first) < 0:
            raise ValueError(f"seed: expected 0 or more, found {min(self.seed, self.first)}.")


def infill(
    engine: Engine,
    request: Request,
    on_event: Callable[[Decided], None] | None = None,
    prefixes: PrefixCache | None = None,
) -> list[Take]:
    """Return the takes; each song differs from the request's in the selected cells only.

    `on_event` is told of every note and every cell as it is decided. With `prefixes`, a cache of
    this engine's, what was read for an earlier request is not read again; the answer is the same.
    """
    writing = _Writing(engine, request, prefixes)
    for event in writing.events():
        if on_event is not None:
            on_event(event)
    return writing.takes()


def stream(
    engine: Engine, request: Request, prefixes: PrefixCache | None = None
) -> Iterator[Decided]:
    """Yield notes as they are decided, in musical time within each take; see `infill`."""
    return _Writing(engine, request, prefixes).events()


class _Writing:
    """The takes of one request while they are written."""

    def __init__(self, engine: Engine, request: Request, prefixes: PrefixCache | None) -> None:
        self._request = request
        prefixes = prefixes or PrefixCache(engine, max_bytes=0)
        self._encoded = song = codec.encode(request.song)
        self._lengths = song.lengths
        self._programs = song.programs
        self._pitches = {t: _playable(request.song, t) for t in request.selection.tracks}
        self._ground = self._make_ground() if request.rules else None
        strength = request.sampling.strength if request.controls else 1.0
        asked = [told(song, request.controls, request.rules)]
        asked += [told(song, _without(request.controls), request.rules)] * (strength != 1)
        held_ids = self._held()
        prompts = [
            prompt.make(song, request.selection, wishes, request.window, held_ids)
            for wishes in asked
        ]
        self._cells_in_order = [segment.cell for segment in prompts[0].segments]
        self._reading = Reading(engine, prefixes, prompts, request.takes, strength)
        self._numbers = range(request.first, request.first + request.takes)
        self._rngs = [np.random.default_rng((request.seed, number)) for number in self._numbers]
        self._notes: list[dict[int, list[NDArray[np.void]]]] = [
            {t: [] for t in request.selection.tracks} for _ in self._rngs
        ]
        self._cells: list[list[CellReport]] = [[] for _ in self._rngs]
        self._written = [Sounding() for _ in self._rngs]  # per take, where there are rules
        self._rows = list(range(request.takes))  # which take each row of the state belongs to
        # per take and track: until when each pitch sounds, and after which bar that was counted
        self._sounding: list[dict[int, tuple[int, NDArray[np.int64]]]] = [{} for _ in self._rngs]

    def events(self) -> Iterator[Decided]:
        """Write all cells, yielding every note and every cell's end."""
        for i, cell in enumerate(self._cells_in_order):
            logits = self._reading.go_on(i) if i else self._reading.begin()
            yield from self._write_cell(cell, logits)

    def takes(self) -> list[Take]:
        """Return the finished takes."""
        request = self._request
        result = []
        for number, notes, cells in zip(self._numbers, self._notes, self._cells, strict=True):
            by_track = {t: np.concatenate(n) for t, n in notes.items() if n}
            locked = self._ground.locked if self._ground else None
            spliced = splice(request.song, request.selection, by_track, locked)
            original = request.song, self._encoded
            reports = checked(original, spliced, request.selection, cells, request.earlier)
            result.append(Take(spliced, by_track, request.seed, number, reports, request))
        return result

    def _write_cell(self, cell: Cell, logits: NDArray[np.float32]) -> Iterator[Decided]:
        """Write one cell of every take; rows of finished takes move to the end of the batch.

        The id `end` is left to be read with what is given next.
        """
        answers = [
            _Answer(self._grammar(take, cell), self._steering(cell))
            for take in range(self._request.takes)
        ]
        rows, n_writing = self._rows, len(self._rows)
        while n_writing:
            for row, take in enumerate(rows[:n_writing]):
                answer = answers[take]
                n_before = answer.n_notes
                answer.write(logits[row], self._request.sampling, self._rngs[take])
                if answer.n_notes > n_before:
                    notes = self._ticks(cell, answer, since=n_before)
                    yield Decided(take, cell, notes, cell_is_done=False)
                if answer.grammar.done:
                    yield Decided(take, cell, self._keep(take, cell, answer)[:0], cell_is_done=True)
            for row in reversed(range(n_writing)):
                if answers[rows[row]].grammar.done:
                    n_writing -= 1
                    rows[row], rows[n_writing] = rows[n_writing], rows[row]
                    self._reading.swap(row, n_writing)
            if n_writing:
                logits = self._reading.step([answers[take].ids[-1] for take in rows[:n_writing]])

    def _steering(self, cell: Cell) -> Steering | None:
        asked = self._request.controls.get(cell, NO_CONTROLS).only(HELD)
        if asked == NO_CONTROLS or self._request.sampling.loosely:
            return None
        items = self._ground.rooms[cell].items if self._ground is not None else ()
        stay = [(i.position, i.duration, i.pitch, i.velocity) for i in items if i.stays]
        return Steering(asked, int(self._lengths[cell[1]]), stay)

    def _instrument(self, cell: Cell) -> tuple[int, tuple[int, int]]:
        """Return the program that a cell is written for, and the pitches it plays."""
        asked = self._request.controls.get(cell, NO_CONTROLS).program
        if asked is not None:
            return asked, pitch_range(asked)
        return int(self._programs[cell[0]]), self._pitches[cell[0]]

    def _make_ground(self) -> Ground:
        instruments = {}
        for cell in self._request.selection.cells:
            program, pitches = self._instrument(cell)
            instruments[cell] = program == vocab.DRUMS, pitches
        return Ground(self._request.song, self._request.rules, instruments, self._request.earlier)

    def _held(self) -> dict[Cell, NDArray[np.uint16]]:
        """Return the ids of what stays in each selected cell."""
        if self._ground is None:
            return {}
        return {
            cell: held(here, is_drum=self._instrument(cell)[0] == vocab.DRUMS)
            for cell, here in self._ground.rooms.items()
        }

    def _grammar(self, take: int, cell: Cell) -> Spelling:
        ground, written = self._ground, self._written[take]
        if ground is not None:
            strikes, own = ground.strikes(cell, written), ground.own(cell, written)
            return ruled(ground.rooms[cell], strikes, own, ground.plan(cell))
        track, bar = cell
        program, pitches = self._instrument(cell)
        since, until = self._sounding[take].get(track, (bar, np.zeros(128, dtype=np.int64)))
        until = np.maximum(until - self._lengths[since:bar].sum(dtype=np.int64), 0)
        return CellGrammar(int(self._lengths[bar]), program, until, pitches)

    def _keep(self, take: int, cell: Cell, answer: _Answer) -> NDArray[np.void]:
        """Take note of a finished answer; returns its notes."""
        track, bar = cell
        notes = self._ticks(cell, answer)
        if self._ground is not None:
            self._ground.keep(cell, notes, self._written[take])
        elif isinstance(answer.grammar, CellGrammar):
            self._sounding[take][track] = (bar + 1, answer.grammar.sounding())
        self._notes[take][track].append(notes)
        asked = self._request.controls.get(cell, NO_CONTROLS)
        rules = self._request.rules.get(cell, NO_RULES)
        report = CellReport(track, bar, asked, answer.n_notes, answer.log_likelihood, rules)
        self._cells[take].append(report)
        return notes

    def _ticks(self, cell: Cell, answer: _Answer, since: int = 0) -> NDArray[np.void]:
        """Return the notes (NOTE) of an answer, those before `since` left out."""
        if isinstance(answer.grammar, CellGrammar):
            return codec.to_ticks(self._request.song, cell[1], answer.grammar.notes(since))
        if isinstance(answer.grammar, Ruled):
            return answer.grammar.notes[since:]
        raise TypeError(type(answer.grammar).__name__)


@dataclass
class _Answer:
    """One cell of one take while it is written."""

    grammar: Spelling
    steering: Steering | None = None
    ids: list[int] = field(default_factory=list)
    log_likelihood: float = 0.0

    @property
    def n_notes(self) -> int:
        """Number of notes written."""
        return self.grammar.n_notes

    def write(
        self, logits: NDArray[np.float32], sampling: Sampling, rng: np.random.Generator
    ) -> None:
        """Draw the next id."""
        allowed = self.grammar.allowed()
        if self.steering is not None:
            allowed = self.steering.narrowed(allowed)
        drawn = pick(logits, allowed, sampling, rng)
        self.grammar.advance(drawn.token)
        if self.steering is not None:
            self.steering.advance(drawn.token)
        self.ids.append(drawn.token)
        self.log_likelihood += drawn.log_likelihood


def _without(controls: Mapping[Cell, Controls]) -> dict[Cell, Controls]:
    """Return what is asked when nothing is: the programs stay."""
    return {cell: asked.only(("program",)) for cell, asked in controls.items()}


def _playable(song: Song, track: int) -> tuple[int, int]:
    """Return the track's pitch range: its instrument's, widened to what it already plays."""
    part = song.tracks[track]
    low, high = pitch_range(vocab.DRUMS if part.is_drum else part.program)
    pitches = part.notes["pitch"]
    return min(low, int(pitches.min(initial=127))), max(high, int(pitches.max(initial=0)))


def same_for_all(selection: Selection, controls: Controls) -> dict[Cell, Controls]:
    """Ask the same of every selected cell."""
    return dict.fromkeys(selection.cells, controls) if controls != NO_CONTROLS else {}


__all__: Sequence[str] = (
    "CellReport",
    "Decided",
    "Request",
    "Take",
    "infill",
    "same_for_all",
    "stream",
)
