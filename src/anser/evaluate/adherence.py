"""Held-out songs × controls → how well what is asked comes out.

A request asks of one to four bars of a track what its own notes are like there: one control alone,
all that MIDI-RWKV is given in its published evaluation (density, polyphony, durations, of every
bar), or a random subset. The same request is answered with nothing asked, with the controls asked,
and with guidance of some strength, both loosely; density and polyphony also held to, as they are by
default, and as rules. All is measured bar by bar,
the first like every other, by the `measure` that training uses. As a command:

    python -m anser.evaluate.adherence SONGS --requests 600 --into docs/control.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import track as progress

from anser import chords, codec, models, vocab
from anser.codec import Encoded
from anser.controls import MEASURED, Controls, likeness, measure_cell
from anser.errors import AnserError, RuleError
from anser.evaluate.adherence_table import tables, write_into
from anser.evaluate.midi_files import midi_files
from anser.infill import Request, infill
from anser.prompt import Cell
from anser.report import is_met, measured
from anser.rules import Rules
from anser.rwkv7.engine import Engine
from anser.rwkv7.prefix import PrefixCache
from anser.sampling import Sampling
from anser.selection import Selection
from anser.song import Song
from anser.steering import HELD

PEER: Final = ("density", "fewest", "most", "lengths")  # what MIDI-RWKV is given of every bar
ALONE: Final = (
    *(("density",), ("fewest", "most")),
    *((name,) for name in MEASURED if name not in ("density", "fewest", "most")),
    *(("likeness", "reference"), ("chords",)),
)
NOT_ASKED: Final = "not asked"
HELD_TO: Final = "held"
AS_RULE: Final = "as a rule"


@dataclass(frozen=True)
class Outcome:
    """One control of one cell: what was asked, and what came out under each condition."""

    group: str  # alone, peer or subset
    control: str
    bar: int  # of the selection, from 0
    asked: float | None  # None for what is no number
    realised: dict[str, float | None]
    error: dict[str, float | None]  # None where the cell is silent and has no such property
    met: dict[str, bool]  # whether the model would be told the same of both


def wishes(
    song: Encoded, selection: Selection, names: Sequence[str], rng: np.random.Generator
) -> dict[Cell, Controls]:
    """Return what the selected cells' own notes are like, of these controls.

    The bar to be like is one of the track's, drawn from the eight on either side.
    """
    asked = {}
    bars = range(selection.bars[0], selection.bars[-1] + 1)
    heard = dict(zip(bars, chords.recognize(song, bars), strict=True)) if "chords" in names else {}
    for track, bar in sorted(selection.cells):
        values: dict[str, Any] = {}
        if "chords" in names and song.programs[track] != vocab.DRUMS:
            values["chords"] = heard[bar]
        if "likeness" in names:
            others = [b for b in range(max(bar - 8, 0), min(bar + 9, song.n_bars)) if b != bar]
            values["reference"] = int(rng.choice(others or [bar]))
            pair = (codec.decode(song.cell(track, b)) for b in (bar, values["reference"]))
            values["likeness"] = likeness(*pair)
        own = measure_cell(song, (track, bar)).only(names)
        asked[track, bar] = Controls(**{n: getattr(own, n) for n in own.asked()} | values)
    return asked


def rules_for(asked: Mapping[Cell, Controls]) -> dict[Cell, Rules]:
    """Return the rules that keep density and polyphony as far as rules can."""
    rules = {}
    for cell, wish in asked.items():
        n = None if wish.density is None else int(wish.density)
        rules[cell] = Rules(notes=None if n is None else (n, n), max_polyphony=wish.most)
    return {cell: known for cell, known in rules.items() if known != Rules()}


def difference(name: str, asked: Controls, realised: Controls) -> float | None:
    """Return how far a control is from what was asked; None where there is nothing to compare.

    The distance of numbers, or how many members of a set differ, or 1 for another grid, or the
    share of another chord.
    """
    one, other = getattr(asked, name), getattr(realised, name)
    if one is None or other is None:
        return None
    if isinstance(one, frozenset):
        return float(len(one ^ other))
    if name == "chords":
        ends = sorted({at for at, _ in (*one, *other)})
        pairs = [[[n for at, n in bar if at <= end][-1] for bar in (one, other)] for end in ends]
        return float(np.mean([a != b for a, b in pairs]))
    return float(one != other) if isinstance(one, str) else abs(float(one) - float(other))


def outcomes(
    engine: Engine,
    request: Request,
    group: str,
    strengths: Sequence[float],
) -> Iterator[Outcome]:
    """Yield what became of each control that was asked of each cell."""
    song, asked = codec.encode(request.song), request.controls
    plain = replace(request, controls={})
    requests = {NOT_ASKED: plain}
    for strength in strengths:
        sampling = Sampling(strength=strength, loosely=True)
        requests[f"strength {strength:g}"] = replace(request, sampling=sampling)
    if any({*HELD} & {*wish.asked()} for wish in asked.values()):
        requests[HELD_TO] = request
    if group == "alone" and (rules := rules_for(asked)):
        requests[AS_RULE] = replace(request, rules=rules, sampling=Sampling(loosely=True))
    prefixes = PrefixCache(engine)
    found: dict[str, dict[Cell, Controls]] = {}
    for condition, one in requests.items():
        try:
            after = codec.encode(infill(engine, one, prefixes=prefixes)[0].song)
        except RuleError:  # what stands around a cell may leave no room for its own notes again
            continue
        found[condition] = {cell: measured(song, after, cell, w) for cell, w in asked.items()}
    first = request.selection.bars[0]
    for cell, wish in asked.items():
        of: dict[str, Outcome] = {}
        for name in wish.asked():
            value = getattr(wish, name)
            if name != "reference":
                of[name] = Outcome(
                    group,
                    name,
                    cell[1] - first,
                    _number(value),
                    {c: _number(getattr(f[cell], name)) for c, f in found.items()},
                    {c: difference(name, wish, f[cell]) for c, f in found.items()},
                    {c: is_met(name, wish, f[cell]) for c, f in found.items()},
                )
        yield from of.values()
        if "fewest" in of and "most" in of:
            yield _both(of["fewest"], of["most"])


def _both(fewest: Outcome, most: Outcome) -> Outcome:
    """Return the polyphony of a cell as one outcome, met where both its ends are."""
    errors = {c: (fewest.error[c], most.error[c]) for c in most.error}
    return replace(
        fewest,
        control="polyphony",
        asked=None,
        realised=dict.fromkeys(errors),
        error={c: None if a is None or b is None else a + b for c, (a, b) in errors.items()},
        met={c: fewest.met[c] and most.met[c] for c in errors},
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def draw(paths: Sequence[Path], n: int, seed: int) -> tuple[str, Request] | None:
    """Return the n-th request and its group, None where the song drawn is of no use."""
    rng = np.random.default_rng((seed, n))
    try:
        song = Song.read(paths[int(rng.integers(len(paths)))])
    except AnserError:
        return None
    playing = [t for t, part in enumerate(song.tracks) if len(part.notes)]
    if not playing:
        return None
    track = int(rng.choice(playing))
    onset = int(rng.choice(song.tracks[track].notes["onset"]))
    bar = int(song.bars.at(np.array([onset]))[0])
    selection = Selection.of([track], range(bar, min(bar + int(rng.integers(1, 5)), song.n_bars)))
    kind = n % (len(ALONE) + 6)  # density and polyphony, the goals, come twice
    if kind < len(ALONE) + 2:
        group, names = "alone", ALONE[kind % len(ALONE)]
    elif kind < len(ALONE) + 4:
        group, names = "peer", PEER
    else:
        everything = [name for names in ALONE for name in names]
        drawn = {name for name in everything if rng.random() < 0.35}
        drawn -= set() if {"likeness", "reference"} <= drawn else {"likeness", "reference"}
        group, names = "subset", tuple(drawn or {"density"})
    asked = wishes(codec.encode(song), selection, names, rng)
    return group, Request(song, selection, asked, seed=n)


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("songs", type=Path, nargs="+", help="MIDI files, or folders of them")
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first request")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strengths", type=float, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rows", type=Path, help="keep outcomes here, behind those of other runs")
    parser.add_argument("--into", type=Path, help="a page whose table is to be written anew")
    given = parser.parse_args()
    paths = midi_files(given.songs)
    engine = models.load(given.model, threads=given.threads).engine
    rows: list[dict[str, Any]] = []
    numbers = range(given.first, given.first + given.requests)
    for n in progress(numbers, console=Console(stderr=True)):
        drawn = draw(paths, n, given.seed)
        if drawn is not None:
            found = [asdict(r) for r in outcomes(engine, drawn[1], drawn[0], given.strengths)]
            rows += found
            if given.rows is not None:
                with given.rows.open("a") as kept:
                    kept.writelines(json.dumps(row) + "\n" for row in found)
    if given.rows is not None:
        rows = [json.loads(line) for line in given.rows.read_text().splitlines()]
    text = tables(rows)
    print(text)
    if given.into is not None:
        write_into(given.into, text)


if __name__ == "__main__":
    main()
