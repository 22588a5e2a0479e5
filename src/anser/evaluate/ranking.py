"""Held-out songs → whether takes differ, and whether the one ranked first is better than any other.

Several takes for random selections. Counted is how many pairs differ by at least one note, of the
takes as they are drawn and of those kept apart (`apart.takes_apart`). Each take is scored by what
the writer of the song did, which the ranking does not know:

    likeness   share of (position, pitch) pairs common with the original, mean over the cells that
               play there; more is better
    pitches    distance of the pitch classes' shares, over the selection, 0 to 1; less is better
    onsets     the same of the positions in the bar
    follows    nats a note of the up to two bars that follow in the original, read after the take by
               the same model or another (`--judge`); less is better

Compared are the mean of all takes, which is what a random one is worth, the likeliest per note,
and the first by `rank.ranked`, with the standard error of the difference. As a command:

    python -m anser.evaluate.ranking SONGS --requests 60 --takes 8 --rows rows.jsonl
    python -m anser.evaluate.ranking --fit rows.jsonl    (what each reason for a rank is worth)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track as progress

from anser import codec, models, prompt
from anser.apart import heard, takes_apart
from anser.codec import Encoded
from anser.controls import likeness
from anser.evaluate.heldout import model_nats
from anser.evaluate.invariants import random_selection
from anser.evaluate.midi_files import midi_files
from anser.infill import Request, Take, infill
from anser.prompt import Window
from anser.rank import Ranked, ranked
from anser.rwkv7.engine import Engine
from anser.rwkv7.prefix import PrefixCache
from anser.selection import Selection
from anser.song import Song

REASONS = ("silence", "nats", "agreement", "copies")
GOODNESS = {"likeness": 1, "pitches": -1, "onsets": -1, "follows": -1}
FOLLOWING_BARS = 2
JUDGED = Window(tokens=700, after=0)  # what is shown before the bars that follow


def playing_cells(song: Encoded, take: Take) -> list[tuple[int, int]]:
    """Return the cells of a take that play in the original."""
    return [(c.track, c.bar) for c in take.cells if song.n_notes[c.track, c.bar]]


def likeness_to_original(song: Song, take: Take) -> float | None:
    """Return the mean likeness over the cells that play in the original; None if none does."""
    before, after = codec.encode(song), codec.encode(take.song)
    cells = playing_cells(before, take)
    pairs = [(codec.decode(before.cell(*c)), codec.decode(after.cell(*c))) for c in cells]
    return float(np.mean([likeness(*pair) for pair in pairs])) if pairs else None


def distances(song: Song, take: Take) -> tuple[float, float]:
    """Return how far the shares of pitch classes and of positions are from the original's."""
    before, after = codec.encode(song), codec.encode(take.song)
    cells = [(c.track, c.bar) for c in take.cells]
    both = [
        np.concatenate([codec.decode(encoded.cell(*cell)) for cell in cells])
        for encoded in (before, after)
    ]
    found = []
    for values, n_bins in (
        ([n["pitch"] % 12 for n in both], 12),
        ([n["position"] for n in both], 0),
    ):
        size = max(n_bins, *(int(v.max(initial=0)) + 1 for v in values))
        shares = [np.bincount(v, minlength=size) / max(len(v), 1) for v in values]
        found.append(float(np.abs(shares[0] - shares[1]).sum() / 2))
    return found[0], found[1]


def following(song: Song, selection: Selection) -> Selection | None:
    """Return the cells of the selected tracks that play in the bars behind the selection."""
    n_notes, last = codec.encode(song).n_notes, selection.bars[-1]
    bars = range(last + 1, min(last + 1 + FOLLOWING_BARS, song.n_bars))
    cells = {(t, b) for t in selection.tracks for b in bars if n_notes[t, b]}
    return Selection(frozenset(cells)) if cells else None


def follows(judge: Engine, song: Song, take: Take, cells: Selection) -> float:
    """Return the nats a note of what follows in the original, read after the take."""
    encoded = codec.encode(take.song)
    n_notes = sum(int(encoded.n_notes[cell]) for cell in cells.cells)
    return model_nats(judge, encoded, prompt.make(encoded, cells, window=JUDGED)) / max(n_notes, 1)


@dataclass(frozen=True, eq=False)
class Judged:
    """The takes of one request: reasons [takes, REASONS] and scores [takes, GOODNESS]."""

    reasons: NDArray[np.float64]
    scores: NDArray[np.float64]
    first: int  # ranked first
    same_pairs: int  # as drawn
    same_pairs_apart: int
    written_apart: int  # takes that were written to have them apart

    @property
    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        arrays = {"reasons": self.reasons.tolist(), "scores": self.scores.tolist()}
        return {name: arrays.get(name, value) for name, value in vars(self).items()}


def reasons_of(one: Ranked) -> list[float]:
    """Return what speaks for a take, in the order of REASONS."""
    n_cells = len(one.take.cells)
    silence, copies = one.n_silent / n_cells, one.n_copies / n_cells
    return [silence, -one.take.log_likelihood, one.agreement or 0.0, copies]


def same_pairs(takes: Sequence[Take]) -> int:
    """Return how many pairs of takes have all notes' onsets and pitches in common."""
    where = [heard(take) for take in takes]
    return sum(one.alike(other) == 1 for one, other in combinations(where, 2))


def judged(engine: Engine, judge: Engine, request: Request) -> Judged | None:
    """Write the takes of a request and score them; None where the original is silent."""
    song = request.song
    write = partial(infill, engine, prefixes=PrefixCache(engine))
    takes = write(request)
    same = same_pairs(takes)
    apart = takes_apart(write, request) if same else takes
    cells = following(song, request.selection)
    order = ranked(takes)
    by_number = sorted(order, key=lambda one: one.take.number)
    rows = []
    for one in by_number:
        like = likeness_to_original(song, one.take)
        if like is None:
            return None
        after = follows(judge, song, one.take, cells) if cells else float("nan")
        rows.append([like, *distances(song, one.take), after])
    return Judged(
        np.array([reasons_of(one) for one in by_number]),
        np.array(rows),
        by_number.index(order[0]),
        same,
        same_pairs(apart),
        max(take.number for take in apart) + 1 - request.first,
    )


def summary(rows: Sequence[Judged]) -> dict[str, Any]:
    """Return means over requests, and how much the chosen take is better than the mean one."""
    report: dict[str, Any] = {"requests": len(rows)}
    n_takes = len(rows[0].reasons)
    n_pairs = len(rows) * n_takes * (n_takes - 1) // 2
    report["pairs that differ"] = {
        "as drawn": round(1 - sum(r.same_pairs for r in rows) / n_pairs, 4),
        "kept apart": round(1 - sum(r.same_pairs_apart for r in rows) / n_pairs, 4),
        "requests with all different, as drawn": sum(r.same_pairs == 0 for r in rows),
        "requests with all different, kept apart": sum(r.same_pairs_apart == 0 for r in rows),
        "takes written for one kept": round(
            sum(r.written_apart for r in rows) / (n_takes * len(rows)), 3
        ),
    }
    chosen = {
        "likeliest": [int(r.reasons[:, 1].argmin()) for r in rows],
        "most in common": [int(r.reasons[:, 2].argmax()) for r in rows],
        "ranked first": [r.first for r in rows],
    }
    for at, score in enumerate(GOODNESS):
        known = [r for r in rows if np.isfinite(r.scores[:, at]).all()]
        means = np.array([r.scores[:, at].mean() for r in known])
        told: dict[str, Any] = {
            "requests": len(known),
            "mean of all": round(float(means.mean()), 4),
        }
        for name, places_chosen in chosen.items():
            picks = [i for r, i in zip(rows, places_chosen, strict=True) if r in known]
            gain = np.array([r.scores[i, at] for r, i in zip(known, picks, strict=True)]) - means
            error = float(gain.std() / len(gain) ** 0.5)
            told[name] = f"{gain.mean():+.4f} ± {error:.4f}"
        best = [
            r.scores[:, at].max() if GOODNESS[score] > 0 else r.scores[:, at].min() for r in known
        ]
        told["best of all"] = f"{float(np.mean(best) - means.mean()):+.4f}"
        report[score] = told
    return report


def fit(rows: Sequence[Judged]) -> dict[str, Any]:
    """Return, for each score and for their sum, what each reason is worth within a request.

    Scores are turned so that more is better, and both are counted from the request's mean; scores
    in their standard deviations, so that they can be added. Least squares, slightly damped.
    """
    deviations: list[NDArray[np.float64]] = []
    reasons: list[NDArray[np.float64]] = []
    for row in rows:
        if np.isfinite(row.scores).all():
            reasons.append(row.reasons - row.reasons.mean(axis=0))
            deviations.append((row.scores - row.scores.mean(axis=0)) * list(GOODNESS.values()))
    x, y = np.concatenate(reasons), np.concatenate(deviations)
    y = y / y.std(axis=0)
    y = np.column_stack([y, y.mean(axis=1)])
    damping = 0.5 * np.eye(x.shape[1])
    weights = np.linalg.solve(x.T @ x + damping, x.T @ y)
    errors = np.sqrt(
        np.outer(np.diag(np.linalg.inv(x.T @ x + damping)), (y - x @ weights).var(axis=0))
    )
    names = [*GOODNESS, "all"]
    return {
        name: {
            reason: f"{weights[i, at]:+.3f} ± {errors[i, at]:.3f}"
            for i, reason in enumerate(REASONS)
        }
        for at, name in enumerate(names)
    }


def read_rows(path: Path) -> list[Judged]:
    """Read what `--rows` wrote."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    arrays = ("reasons", "scores")
    return [Judged(**row | {name: np.array(row[name]) for name in arrays}) for row in rows]


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("songs", type=Path, nargs="*", help="MIDI files, or folders of them")
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--judge", help="the model that reads what follows; by default the same")
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--takes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, help="keep reasons and scores of all takes in a file")
    parser.add_argument("--fit", type=Path, nargs="+", help="weigh the reasons by such files")
    given = parser.parse_args()
    if given.fit:
        known = [row for path in given.fit for row in read_rows(path)]
        print(json.dumps({**summary(known), "worth": fit(known)}, indent=1))
        return
    paths = midi_files(given.songs)
    rng = np.random.default_rng(given.seed)
    engine = models.load(given.model).engine
    judge = models.load(given.judge).engine if given.judge else engine
    rows = []
    for i in progress(range(given.requests), console=Console(stderr=True)):
        song = Song.read(paths[int(rng.integers(len(paths)))])
        if not song.tracks:
            continue
        selection = random_selection(song, np.random.default_rng(given.seed + i))
        request = Request(song, selection, takes=given.takes, seed=given.seed + i)
        row = judged(engine, judge, request)
        if row is not None:
            rows.append(row)
            if given.rows:
                with given.rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row.plain) + "\n")
    print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()
