"""Held-out songs × controls → how well what is asked comes out.

A request asks of one to four bars of a track what its own notes are like there: one control alone,
or a random subset. Compared are what was asked and what came out, and, for reference, what comes
out of the same request with nothing asked. For numbers: the mean of |asked - realised| and their
correlation; for sets and names: the share that is exactly as asked. All by bar, the first apart, by
the same `measure` that training uses. As a command:

    python -m anser.evaluate.adherence SONGS --requests 200
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track as progress

from anser import codec, models
from anser.controls import MEASURED, Controls, measure_cell
from anser.errors import AnserError
from anser.evaluate.midi_files import midi_files
from anser.infill import Request, Take, infill
from anser.rwkv7.engine import Engine
from anser.selection import Selection
from anser.song import Song


@dataclass(frozen=True)
class Outcome:
    """One control of one cell: asked, realised when asked, realised when nothing was asked."""

    control: str
    bar: int  # of the selection, from 0
    asked: object
    realised: object
    unasked: object


def wishes(
    song: Song, selection: Selection, names: tuple[str, ...]
) -> dict[tuple[int, int], Controls]:
    """Return what the selected cells' own notes are like, of these controls."""
    encoded = codec.encode(song)
    asked = {}
    for track, bar in selection.cells:
        asked[track, bar] = measure_cell(encoded, (track, bar)).only(names)
    return asked


def realised(take: Take, selection: Selection) -> dict[tuple[int, int], Controls]:
    """Return what the written cells are like, measured in the finished song."""
    return wishes(take.song, selection, MEASURED)


def outcomes(
    engine: Engine, song: Song, selection: Selection, names: tuple[str, ...], seed: int
) -> Iterator[Outcome]:
    """Yield what became of each control that was asked."""
    asked = wishes(song, selection, names)
    request = Request(song, selection, asked, seed=seed)
    with_wish = realised(infill(engine, request)[0], selection)
    without = realised(infill(engine, replace(request, controls={}))[0], selection)
    first = selection.bars[0]
    for cell, wish in asked.items():
        for name in names:
            if getattr(wish, name) is not None:
                found, else_ = getattr(with_wish[cell], name), getattr(without[cell], name)
                yield Outcome(name, cell[1] - first, getattr(wish, name), found, else_)


def summary(rows: list[Outcome]) -> dict[str, object]:
    """Return the figures of one control; None realised (an empty cell) counts as not as asked."""
    exact = {
        key: float(np.mean([getattr(row, key) == row.asked for row in rows]))
        for key in ("realised", "unasked")
    }
    figures: dict[str, object] = {"cells": len(rows)}
    if isinstance(rows[0].asked, (int, float)):
        for key in ("realised", "unasked"):
            numbers = [(r.asked, getattr(r, key)) for r in rows]
            pairs = [(a, f) for a, f in numbers if isinstance(a, (int, float)) and f is not None]
            if len(pairs) < 2:
                continue
            asked, found = np.array(pairs).T
            figures[f"{key}_error"] = round(float(np.abs(asked - found).mean()), 3)
            if asked.std() and found.std():
                figures[f"{key}_correlation"] = round(float(np.corrcoef(asked, found)[0, 1]), 3)
    figures |= {f"{key}_exact": round(share, 3) for key, share in exact.items()}
    return figures


def run(
    engine: Engine, paths: list[Path], names: tuple[str, ...], n_requests: int, seed: int
) -> list[Outcome]:
    """Ask each control alone in turn, and every other time a random subset of all."""
    rows: list[Outcome] = []
    for i in progress(range(n_requests), console=Console(stderr=True)):
        rng = np.random.default_rng((seed, i))
        try:
            song = Song.read(paths[int(rng.integers(len(paths)))])
        except AnserError:
            continue
        playing = [t for t, part in enumerate(song.tracks) if len(part.notes)]
        if not playing:
            continue
        track = int(rng.choice(playing))
        onset = int(rng.choice(song.tracks[track].notes["onset"]))
        bar = int(song.bars.at(np.array([onset]))[0])
        bars = range(bar, min(bar + int(rng.integers(1, 5)), song.n_bars))
        subset = tuple(name for name in names if rng.random() < 0.4)
        chosen = subset if i % 2 and subset else (names[i // 2 % len(names)],)
        rows += outcomes(engine, song, Selection.of([track], bars), chosen, seed + i)
    return rows


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("songs", type=Path, nargs="+", help="MIDI files, or folders of them")
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    paths = midi_files(given.songs)
    model = models.load(given.model)
    rows = run(model.engine, paths, MEASURED, given.requests, given.seed)
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for row in rows:
        groups[row.control].append(row)
        groups[f"{row.control}, first bar"] += [row] if row.bar == 0 else []
    print(json.dumps({name: summary(group) for name, group in groups.items() if group}, indent=1))


if __name__ == "__main__":
    main()
