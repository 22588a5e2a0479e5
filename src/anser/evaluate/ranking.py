"""Held-out songs → whether the take that is ranked first is better than any other.

Several takes for random selections; a take's score is its mean likeness to what stood in the cells
that play in the original (share of common (position, pitch) pairs). Compared are the mean of all
takes, the likeliest per note, and the first by `rank.best_first`; and the share of silent cells of
each. As a command:

    python -m anser.evaluate.ranking SONGS --requests 30 --takes 4
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track as progress

from anser import codec, models
from anser.controls import likeness
from anser.evaluate.invariants import random_selection
from anser.evaluate.midi_files import midi_files
from anser.infill import Request, Take, infill
from anser.rank import best_first, n_silent
from anser.rwkv7.engine import Engine
from anser.song import Song


def likeness_to_original(song: Song, take: Take) -> float | None:
    """Return the mean likeness over the cells that play in the original; None if none does."""
    before, after = codec.encode(song), codec.encode(take.song)
    cells = [(c.track, c.bar) for c in take.cells if before.n_notes[c.track, c.bar]]
    pairs = [(codec.decode(before.cell(*c)), codec.decode(after.cell(*c))) for c in cells]
    return float(np.mean([likeness(*pair) for pair in pairs])) if pairs else None


def compare(engine: Engine, song: Song, n_takes: int, seed: int) -> dict[str, list[float]] | None:
    """Return score and silent share of all takes, the likeliest, and the first ranked."""
    selection = random_selection(song, np.random.default_rng(seed))
    takes = infill(engine, Request(song, selection, takes=n_takes, seed=seed))
    scores = [likeness_to_original(song, take) for take in takes]
    found = [score for score in scores if score is not None]
    if len(found) < len(takes):
        return None
    silent = [n_silent(take) / len(take.cells) for take in takes]
    likeliest = int(np.argmax([take.log_likelihood for take in takes]))
    first = best_first(takes)[0].number
    return {
        "all takes": [float(np.mean(found)), float(np.mean(silent))],
        "likeliest per note": [found[likeliest], silent[likeliest]],
        "ranked first": [found[first], silent[first]],
    }


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("songs", type=Path, nargs="+", help="MIDI files, or folders of them")
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--takes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    paths = midi_files(given.songs)
    rng = np.random.default_rng(given.seed)
    engine = models.load(given.model).engine
    rows = []
    for i in progress(range(given.requests), console=Console(stderr=True)):
        song = Song.read(paths[int(rng.integers(len(paths)))])
        row = compare(engine, song, given.takes, given.seed + i) if song.tracks else None
        rows += [row] if row else []
    report: dict[str, object] = {"requests": len(rows)}
    for name in rows[0] if rows else ():
        score, silent = np.mean([row[name] for row in rows], axis=0)
        report[name] = {"likeness": round(float(score), 3), "silent": round(float(silent), 3)}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
