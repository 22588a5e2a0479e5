"""Weights and tokens of the parity files, made by their published formula (see README.md)."""

import numpy as np

from anser.rwkv7.dims import ModelDims

DIMS = {
    "a": ModelDims(2, 128, 64, 64, 512, 32, 24, 16, 40),
    "b": ModelDims(4, 256, 128, 64, 1024, 32, 32, 32, 64),
    "c": ModelDims(2, 384, 320, 64, 1536, 32, 32, 32, 64),
    "d": ModelDims(12, 384, 16000, 64, 1536, 32, 32, 32, 64),
}
_EXTRA = ("blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2")
_MIXES = ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g")


def make_weights(tag):
    """Return the float32 tensors of parity file `tag`, under official names."""
    dims = DIMS[tag]
    optional = dims.optional_shapes()
    shapes = dims.shapes()
    shapes |= {n: optional[n] for n in ("blocks.0.ln0.weight", "blocks.0.ln0.bias")}
    if tag == "a":
        shapes |= {n: optional[n] for n in _EXTRA}
    return {name: make_tensor(tag, name, shape) for name, shape in shapes.items()}


def make_tensor(tag, name, shape):
    base, scale = _base_scale(name, shape)
    x = _hashes(tag, name, int(np.prod(shape)))
    if tag in "ad":
        t = (x >> np.uint64(40)).astype(np.float64) / 2**23 - 1
    else:
        t = (2 * (x >> np.uint64(58)).astype(np.float64) + 1) / 64 - 1
    return _bfloat16(np.float32(base + scale * t)).reshape(shape)


def make_tokens(tag, n=50):
    return (_hashes(tag, "tokens", n) % np.uint64(DIMS[tag].n_vocab)).astype(np.int64)


def make_initial_state(tag):
    dims = DIMS[tag]
    shape = (dims.n_layer, dims.n_head, dims.head_size, dims.head_size)
    x = _hashes(tag, "initial_state", int(np.prod(shape)))
    if tag in "ad":
        t = (x >> np.uint64(40)).astype(np.float64) / 2**23 - 1
    else:
        t = (2 * (x >> np.uint64(58)).astype(np.float64) + 1) / 64 - 1
    return _bfloat16(np.float32(0.5 * t)).reshape(shape)


def _hashes(tag, name, n):
    base = 0xCBF29CE484222325  # FNV-1a, 64 bits
    for byte in f"rwkv7-parity-{tag}/{name}".encode():
        base = (base ^ byte) * 0x100000001B3 % 2**64
    steps = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = np.uint64(base) + steps
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _bfloat16(x):
    """Round float32 to the nearest bfloat16, ties to even."""
    bits = x.view(np.uint32)
    bits = bits + 0x7FFF + ((bits >> 16) & 1)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def _base_scale(name, shape):
    last = name.split(".", 2)[-1] if name.startswith("blocks.") else name
    norm = any(part in last for part in ("ln0", "ln1", "ln2", "ln_x", "ln_out"))
    leaf = last.split(".")[-1]
    if norm:
        return (1, 0.2) if leaf == "weight" else (0, 0.1)
    by_leaf = {
        "w0": (-2, 4),
        "a0": (0, 1),
        "v0": (0, 1),
        "k_k": (0.85, 0.3),
        "k_a": (1, 0.3),
        "r_k": (0, 0.3),
        "g2": (0, 2 * 3**0.5 / shape[0] ** 0.5),
    }
    if leaf in by_leaf:
        return by_leaf[leaf]
    if leaf in _MIXES:
        return 0.5, 0.5
    if leaf in ("w2", "a2", "v2"):
        return 0, 0.5
    if leaf in ("w1", "a1", "v1", "g1"):
        return 0, (2 if leaf == "g1" else 1) * 3**0.5 / shape[0] ** 0.5
    if last == "emb.weight":
        return 0, 1
    if last == "ffn.value.weight":
        return 0, 0.5 * 3**0.5 / shape[1] ** 0.5
    return 0, 3**0.5 / shape[1] ** 0.5
