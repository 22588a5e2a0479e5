"""Held-out songs → nats per note, for the model and three baselines on the same examples.

An example is a prompt with a song's own cells as answers; the score is the negative log-likelihood
of the answers' ids, each cell's `end` included, over the notes in them.

    unigram      every id by its share among the answers of the training split
    copy         the ids of the track's visible bar beside which the other tracks play most alike,
                 followed from the last id they share with the answer; mixed with the unigram
    no context   the model, shown only the meter, tempo, programs, controls and its own answers
    model        the model, shown everything
    unasked      the model, shown everything but the controls

    python -m anser.evaluate.heldout SHARDS --examples 256
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track as progress

from anser import models, prompt, vocab
from anser.codec import Encoded
from anser.prompt import Prompt
from anser.rwkv7.engine import Engine
from anser.train.examples import Examples, draw_controls, draw_selection, draw_window
from anser.train.shards import Shard, load

COPY_WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)


@dataclass(frozen=True)
class Heldout:
    """One example: a song, what of it is shown and asked, and how many notes stand there."""

    song: Encoded
    piece: int  # the song's number in its shard
    made: Prompt
    unasked: Prompt  # the same without controls
    n_notes: int


def draw(shard: Shard, n_examples: int, seed: int, max_ids: int = 4096) -> list[Heldout]:
    """Draw examples as training does, without augmentation and with no note held."""
    p = Examples(shard).shares
    drawn: list[Heldout] = []
    for i in range(n_examples):
        rng = np.random.default_rng((seed, i))
        piece = int(rng.choice(len(shard.songs), p=p))
        song = shard.songs[piece]
        while True:
            selection = draw_selection(song, rng)
            controls, window = draw_controls(song, selection, rng), draw_window(rng)
            made = prompt.make(song, selection, controls, window)
            if len(prompt.with_answers(made, song)[0]) <= max_ids:
                break
        n_notes = int(sum(song.n_notes[cell] for cell in selection.cells))
        unasked = prompt.make(song, selection, window=window)
        drawn.append(Heldout(song, piece, made, unasked, n_notes))
    return drawn


def model_nats(engine: Engine, song: Encoded, made: Prompt) -> float:
    """Return the nats of the answers under the model."""
    ids, is_answer = prompt.with_answers(made, song)
    logits = engine.logits(engine.new_state(1), ids.astype(np.int64)[None, :-1])[0]
    at = np.flatnonzero(is_answer[1:])
    x = logits[at].astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    log_p = x[np.arange(len(at)), ids[1:][at]] - np.log(np.exp(x).sum(axis=1))
    return -float(log_p.sum())


def no_context_nats(engine: Engine, example: Heldout) -> float:
    """Return the nats of the answers under the model when it is shown no other cell."""
    made = replace(example.made, segments=tuple(_bare(example)))
    return model_nats(engine, example.song, made)


def _bare(example: Heldout) -> list[prompt.Segment]:
    """Remove the notes from what is given, and keep the rest of the prompt as it is."""
    first_note, after_note = vocab.POSITION, vocab.DRUM + 128
    bare = []
    for segment in example.made.segments:
        ids = segment.given.astype(np.int64)
        is_note = (ids >= first_note) & (ids < after_note)
        is_note |= (ids == vocab.TURN_PAGE) | (ids == vocab.ADD_LONG)
        # the track token that names a cell goes with the cell
        is_track = (ids >= vocab.TRACK) & (ids < vocab.TRACK + vocab.N_TRACKS)
        is_note[:-1] |= is_track[:-1] & is_note[1:]
        bare.append(prompt.Segment(segment.given[~is_note], segment.cell))
    return bare


def unigram(examples: list[Heldout]) -> NDArray[np.float64]:
    """Return log p [N_VOCAB] of an answer's id, add-one smoothed over the ids in use."""
    counts = np.zeros(vocab.N_VOCAB)
    counts[: vocab.N_USED] = 1
    for example in examples:
        ids, is_answer = prompt.with_answers(example.made, example.song)
        counts += np.bincount(ids[is_answer], minlength=vocab.N_VOCAB)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(counts / counts.sum()))


def nearest_bar(song: Encoded, made: Prompt, cell: prompt.Cell) -> int | None:
    """Return the shown, unselected bar of the track beside which the other tracks are most alike.

    Alike = the share of common ids on the same tracks; ties go to the nearest bar.
    """
    track, bar = cell
    asked = {segment.cell for segment in made.segments}

    def others(at: int) -> set[tuple[int, int]]:
        return {
            (t, int(i))
            for t in made.tracks
            if t != track and (t, at) not in asked
            for i in song.cell(t, at)
        }

    here = others(bar)
    best: tuple[float, int, int] | None = None
    for candidate in made.bars:
        if (track, candidate) in asked or candidate == bar:
            continue
        there = others(candidate)
        union = len(here | there)
        alike = len(here & there) / union if union else 0.0
        key = (alike, -abs(candidate - bar), -candidate)
        best = key if best is None or key > best else best
    return None if best is None else -best[2]


@dataclass(frozen=True)
class CopyWeights:
    """How far the copying baseline trusts the copied bar."""

    at_odds: float  # at the start of a cell, and after an id that was not the copied one
    following: float  # after an id that was


def copy_nats(example: Heldout, log_unigram: NDArray[np.float64], weights: CopyWeights) -> float:
    """Return the nats of the answers under the copying baseline."""
    nats = 0.0
    for segment in example.made.segments:
        track = segment.cell[0]
        answer = [*example.song.cell(*segment.cell).tolist(), vocab.END]
        bar = nearest_bar(example.song, example.made, segment.cell)
        source = [] if bar is None else [*example.song.cell(track, bar).tolist(), vocab.END]
        at, is_following = 0, False
        for token in answer:
            p = np.exp(log_unigram[token])
            is_copied = at < len(source) and source[at] == token
            if at < len(source):
                weight = weights.following if is_following else weights.at_odds
                p = (1 - weight) * p + weight * is_copied
            nats -= float(np.log(p))
            is_following = is_copied
            rest = source[at:]
            if token in rest:
                at += rest.index(token) + 1
    return nats


def fit_copy_weights(examples: list[Heldout], log_unigram: NDArray[np.float64]) -> CopyWeights:
    """Return the weights that score best on the examples, each found with the other held."""
    best = CopyWeights(COPY_WEIGHTS[0], COPY_WEIGHTS[0])
    for field in ("following", "at_odds"):
        tried = [replace(best, **{field: weight}) for weight in COPY_WEIGHTS]
        best = min(tried, key=lambda w: sum(copy_nats(e, log_unigram, w) for e in examples))
    return best


def per_note(nats: list[float], examples: list[Heldout]) -> tuple[float, float]:
    """Return nats per note and its standard error, clustered by piece."""
    notes = np.array([e.n_notes for e in examples], dtype=np.float64)
    mean = float(np.sum(nats) / notes.sum())
    residual = np.array(nats) - mean * notes
    pieces = np.array([e.piece for e in examples])
    sums = np.array([residual[pieces == piece].sum() for piece in np.unique(pieces)])
    return mean, float(np.sqrt((sums**2).sum()) / notes.sum())


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path, help="folder with train.npz and valid.npz")
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--split", default="valid")
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    model = models.load(given.model)
    examples = draw(load(given.shards / f"{given.split}.npz"), given.examples, given.seed)
    seen = draw(load(given.shards / "train.npz"), 2000, given.seed + 1)
    log_unigram = unigram(seen)
    weights = fit_copy_weights(seen[:300], log_unigram)
    engine = model.engine
    names = ("unigram", "copy", "no context", "model", "unasked")
    scores: dict[str, list[float]] = {name: [] for name in names}
    for e in progress(examples, description="scoring", console=Console(stderr=True)):
        ids, is_answer = prompt.with_answers(e.made, e.song)
        scores["unigram"].append(-float(log_unigram[ids[is_answer]].sum()))
        scores["copy"].append(copy_nats(e, log_unigram, weights))
        scores["no context"].append(no_context_nats(engine, e))
        scores["model"].append(model_nats(engine, e.song, e.made))
        scores["unasked"].append(model_nats(engine, e.song, e.unasked))
    result = {
        name: dict(zip(("nats_per_note", "standard_error"), per_note(nats, examples), strict=True))
        for name, nats in scores.items()
    }
    about = {
        "split": given.split,
        "examples": len(examples),
        "pieces": len({e.piece for e in examples}),
        "notes": sum(e.n_notes for e in examples),
        "copy_weights": asdict(weights),
    }
    print(json.dumps(about | result, indent=1))


if __name__ == "__main__":
    main()
