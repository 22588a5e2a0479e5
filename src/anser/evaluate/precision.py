"""A trained checkpoint → what each precision of its weights costs, in nats per note.

The same held-out examples are scored with the weights at every precision, in the native engine, so
that the differences are paired; their standard errors are clustered by piece. A file that is
quantised already is measured from there on: give the trained weights.

    python -m anser.evaluate.precision SHARDS --model trained.safetensors
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Final, get_args

from rich.console import Console
from rich.progress import track as progress

from anser import vocab
from anser.errors import CheckpointError
from anser.evaluate.heldout import Heldout, draw, model_nats, per_note
from anser.rwkv7 import checkpoint
from anser.rwkv7.checkpoint import Checkpoint, Precision
from anser.rwkv7.engine import Engine
from anser.train.shards import load

PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)


def score(trained: Checkpoint, precision: Precision, examples: list[Heldout]) -> list[float]:
    """Return the nats of each example's answers with the weights at a precision."""
    tensors = checkpoint.quantize(trained.tensors, precision)
    engine = Engine(Checkpoint(trained.dims, tensors, trained.metadata))
    shown = progress(examples, description=precision, console=Console(stderr=True))
    return [model_nats(engine, example.song, example.made) for example in shown]


def compare(scores: dict[str, list[float]], examples: list[Heldout]) -> dict[str, dict[str, float]]:
    """Return nats per note by precision, and what is lost against the first one."""
    first, *_ = scores.values()
    base, _ = per_note(first, examples)
    rows = {}
    for precision, nats in scores.items():
        lost, error = per_note([n - f for n, f in zip(nats, first, strict=True)], examples)
        rows[precision] = {
            "nats_per_note": round(per_note(nats, examples)[0], 4),
            "lost_percent": round(100 * lost / base, 3),
            "standard_error_percent": round(100 * error / base, 3),
        }
    return rows


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path, help="folder with valid.npz")
    parser.add_argument("--model", type=Path, required=True, help="a trained checkpoint")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    trained = checkpoint.load(given.model)
    if trained.metadata.get("vocab") != vocab.fingerprint():
        raise CheckpointError(f"{given.model}: expected the vocab of this version of Anser.")
    examples = draw(load(given.shards / "valid.npz"), given.examples, given.seed)
    about = {
        "examples": len(examples),
        "pieces": len({e.piece for e in examples}),
        "notes": sum(e.n_notes for e in examples),
        "stored": checkpoint.precision_of(trained.tensors),
    }
    scores = {precision: score(trained, precision, examples) for precision in given.precision}
    print(json.dumps(about | compare(scores, examples), indent=1))


if __name__ == "__main__":
    main()
