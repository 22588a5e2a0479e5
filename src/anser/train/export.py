"""Trained checkpoints → the file that is shipped; of several, their mean.

The mean of weights from one run, taken while the learning rate falls, scores better than any of
them: it is near the middle of where they wander.

    python -m anser.train.export base-6000.safetensors base-10500.safetensors \\
        -o anser-2.safetensors --precision int4 --note licence=Apache-2.0
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anser.errors import CheckpointError
from anser.rwkv7 import checkpoint
from anser.rwkv7.checkpoint import Checkpoint


def mean(trained: Sequence[Checkpoint]) -> dict[str, NDArray[np.float32]]:
    """Return the mean of each tensor; raises `CheckpointError` where their sizes differ."""
    if any(other.dims != trained[0].dims for other in trained):
        raise CheckpointError("checkpoints: expected equal sizes to average, found different ones.")
    full = [checkpoint.dequantize(one.tensors) for one in trained]
    return {
        name: np.mean([tensors[name] for tensors in full], axis=0, dtype=np.float64).astype("<f4")
        for name in full[0]
    }


def _said_by(trained: Sequence[Checkpoint]) -> dict[str, str]:
    """Return the metadata of all, differing values side by side."""
    return {
        key: " ".join(dict.fromkeys(one.metadata.get(key, "") for one in trained))
        for key in trained[0].metadata
    }


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trained", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--precision", choices=["fp32", "fp16", "int8", "int4"], default="int4")
    parser.add_argument("--note", nargs="*", default=[], metavar="KEY=TEXT", help="more metadata")
    given = parser.parse_args()
    trained = [checkpoint.load(path) for path in given.trained]
    tensors = checkpoint.quantize(mean(trained), given.precision)
    notes = dict(note.split("=", 1) for note in given.note)
    checkpoint.save(given.output, tensors, _said_by(trained) | notes)
    sys.stdout.write(f"{given.output}: {given.output.stat().st_size / 2**20:.1f} MiB\n")


if __name__ == "__main__":
    main()
