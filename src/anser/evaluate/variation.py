"""Held-out songs × amounts of variation → how like the original the answers are.

For each request, two bars of a track with three notes or more, the variation that `vary` makes is
compared with what stands there: the share of common (position, pitch) pairs. Beside it the answer
without any; and, with `--control`, what the control of likeness does, with the cell itself as the
reference, together with the locks and alone. An amount `a` stands for the likeness 1 - a. As a
command:

    python -m anser.evaluate.variation SONGS --requests 40
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track as progress

from anser import codec, models
from anser.controls import NO_CONTROLS, Controls
from anser.evaluate.midi_files import midi_files
from anser.infill import Request, infill
from anser.prompt import Window
from anser.rwkv7.engine import Engine
from anser.selection import Selection
from anser.song import Song
from anser.vary import likeness_kept, variation

AMOUNTS = (0.25, 0.5, 0.75)
WINDOW = Window(tokens=900)  # half of the usual context, to be done sooner


def draw(song: Song, rng: np.random.Generator) -> Selection | None:
    """Draw up to two bars in a row of a track, with three notes or more; None if it has not."""
    n_notes = codec.encode(song).n_notes
    track, first = int(rng.integers(len(song.tracks))), int(rng.integers(max(song.n_bars - 1, 1)))
    bars = [b for b in range(first, min(first + 2, song.n_bars)) if n_notes[track, b] >= 3]
    return Selection.of([track], bars) if bars else None


def outcomes(
    engine: Engine, request: Request, *, with_control: bool = False
) -> Iterator[tuple[str, float, float]]:
    """Yield (means, amount, likeness) of one request."""
    for amount in AMOUNTS:
        locked = variation(request, amount)
        yield "vary", amount, likeness_kept(infill(engine, locked)[0])
        if not with_control:
            continue
        wish = {c: Controls(likeness=1 - amount, reference=c[1]) for c in request.selection.cells}
        both = {
            c: replace(locked.controls.get(c, NO_CONTROLS), **_like(w)) for c, w in wish.items()
        }
        variants = {
            "with the control": replace(locked, controls=both),
            "control alone": replace(request, controls=wish),
        }
        for name, variant in variants.items():
            yield name, amount, likeness_kept(infill(engine, variant)[0])
    yield "neither", 1.0, likeness_kept(infill(engine, request)[0])


def _like(wish: Controls) -> dict[str, Any]:
    return {name: getattr(wish, name) for name in ("likeness", "reference")}


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("songs", type=Path, nargs="+", help="MIDI files, or folders of them")
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--control", action="store_true", help="what the control of likeness does")
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    paths = midi_files(given.songs)
    rng = np.random.default_rng(given.seed)
    engine = models.load(given.model).engine
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for i in progress(range(given.requests), console=Console(stderr=True)):
        selection = None
        while selection is None:
            song = Song.read(paths[int(rng.integers(len(paths)))])
            selection = draw(song, rng) if song.tracks else None
        request = Request(song, selection, seed=given.seed + i, window=WINDOW)
        for name, amount, share in outcomes(engine, request, with_control=given.control):
            found[name][amount].append(share)
    report = {
        name: {
            f"{amount:g}": f"{np.mean(shares):.3f} ± {np.std(shares) / len(shares) ** 0.5:.3f}"
            for amount, shares in by_amount.items()
        }
        for name, by_amount in found.items()
    }
    wanted = {f"{amount:g}": 1 - amount for amount in AMOUNTS}
    print(json.dumps({"requests": given.requests, "asked": wanted, **report}, indent=1))


if __name__ == "__main__":
    main()
