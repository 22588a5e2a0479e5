"""A model of the right shape that has learnt nothing."""

from pathlib import Path

import numpy as np

from anser import vocab
from anser.rwkv7 import checkpoint
from anser.rwkv7.dims import ModelDims

DIMS = ModelDims(
    n_layer=2,
    d_model=64,
    n_vocab=vocab.N_VOCAB,
    head_size=64,
    d_ffn=128,
    rank_w=8,
    rank_a=8,
    rank_v=8,
    rank_g=8,
)


def write_model(path: Path, **metadata: str) -> Path:
    """Write a checkpoint with random weights, by default one that says it fits our vocab."""
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in DIMS.shapes().items()
    }
    for name in tensors:
        if name.endswith(("ln1.weight", "ln2.weight", "ln_x.weight", "ln_out.weight")):
            tensors[name] = np.ones_like(tensors[name])
    # a bias towards `end`, so that cells stay short: the last norm's bias is what all states share
    tensors["ln_out.bias"][:] = 1
    tensors["head.weight"][vocab.END] += 0.02
    checkpoint.save(path, tensors, metadata or {"vocab": vocab.fingerprint()})
    return path
