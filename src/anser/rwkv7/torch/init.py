"""Sizes → freshly initialised weights, as RWKV-7's author trains from.

Source: BlinkDL/RWKV-LM, RWKV-v7/train_temp/src/model.py (constructors, generate_init_weight).
Differs: one layer is allowed (its depth counts as 1/2, the author's advice), and all is drawn in
float32 on the CPU, so that a seed gives the same weights everywhere.
"""

from typing import Literal

import torch
from torch import Tensor

from anser.rwkv7.dims import ModelDims
from anser.rwkv7.torch.model import RWKV7

_MIX_POWERS = {"x_r": 0.2, "x_g": 0.2, "x_w": 0.9, "x_a": 0.9, "x_k": 0.7, "x_v": 0.7}
_GAINS = {"receptance": 1.0, "key": 0.1, "value": 1.0, "output": 0.0}


def make_dims(
    n_layer: int,
    d_model: int,
    n_vocab: int,
    head_size: int = 64,
    d_ffn: int | None = None,
    ranks: Literal["new", "old"] = "new",
) -> ModelDims:
    """Return sizes with the usual LoRA ranks, multiples of 32; d_ffn None means 4 d_model.

    "new" is today's formula of the training code; "old" the one of the first published models
    (World and Pile up to 2.9B, MIDI-RWKV). They agree at 768. Raises ValueError if the head size
    does not divide d_model.
    """
    if d_model % head_size:
        raise ValueError(f"d_model: expected a multiple of {head_size}, found {d_model}.")
    root = d_model**0.5
    if ranks == "new":
        wanted = {"w": 2.5 * root, "a": 2.5 * root, "v": 1.7 * root, "g": 5 * root}
    else:
        wanted = {"w": 1.8 * root, "a": 1.8 * root, "v": 1.3 * root, "g": 0.6 * d_model**0.8}
    rank = {c: max(32, round(value / 32) * 32) for c, value in wanted.items()}
    return ModelDims(
        n_layer=n_layer,
        d_model=d_model,
        n_vocab=n_vocab,
        head_size=head_size,
        d_ffn=4 * d_model if d_ffn is None else d_ffn,
        rank_w=rank["w"],
        rank_a=rank["a"],
        rank_v=rank["v"],
        rank_g=rank["g"],
    )


def initialise(model: RWKV7, seed: int) -> None:
    """Set every weight of the model to its official starting value."""
    generator = torch.Generator().manual_seed(seed)
    dims = model.dims
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_initial(name, parameter.shape, dims, generator))


def _initial(name: str, shape: torch.Size, dims: ModelDims, generator: torch.Generator) -> Tensor:
    parts = name.split(".")
    layer = 0
    if parts[0] == "blocks":
        layer, parts = int(parts[1]), parts[2:]
    part, leaf = parts[:2]
    if name == "emb.weight":
        return torch.empty(shape).uniform_(-1e-4, 1e-4, generator=generator)
    if name == "head.weight":
        return _orthogonal(shape, 0.5 * max(1.0, dims.n_vocab / dims.d_model) ** 0.5, generator)
    if parts[-1] == "bias":
        return torch.zeros(shape)
    if leaf == "ln_x":
        return torch.full(shape, ((1 + layer) / dims.n_layer) ** 0.7)
    if part.startswith("ln"):
        return torch.ones(shape)
    if part == "ffn":
        return _initial_ffn(leaf, shape, layer, dims, generator)
    return _initial_att(leaf, shape, layer, dims, generator)


def _initial_ffn(
    leaf: str, shape: torch.Size, layer: int, dims: ModelDims, generator: torch.Generator
) -> Tensor:
    if leaf == "key":
        return _orthogonal(shape, 1.0, generator)
    if leaf == "value":
        return torch.zeros(shape)
    remaining = 1 - layer / dims.n_layer
    return (1 - _fraction(dims) ** remaining**4).view(shape)


def _initial_att(
    leaf: str, shape: torch.Size, layer: int, dims: ModelDims, generator: torch.Generator
) -> Tensor:
    d, n = dims.d_model, dims.head_size
    depth = layer / (dims.n_layer - 1) if dims.n_layer > 1 else 0.5
    ramp = torch.arange(d) / max(d - 1, 1)
    line = ramp - 0.5
    zigzag = (torch.arange(d) % n - (n - 1) / 2) / max((n - 1) / 2, 0.5)
    zigzag = zigzag * zigzag.abs()
    if leaf in _MIX_POWERS:
        return (1 - _fraction(dims) ** (_MIX_POWERS[leaf] * (1 - layer / dims.n_layer))).view(shape)
    if leaf in _GAINS:
        return _orthogonal(shape, _GAINS[leaf], generator)
    if leaf in ("w1", "a1", "v1", "g1"):
        return torch.zeros(shape)
    if leaf in ("w2", "a2", "v2", "g2"):
        return _orthogonal(shape, 0.1 * max(1.0, shape[0] / shape[1]) ** 0.5, generator)
    vectors = {
        "w0": -6 + 6 * ramp ** (1 + depth**0.3) + 0.5 + 2.5 * zigzag,
        "a0": -0.19 + 0.3 * zigzag + 0.4 * line,
        "v0": 0.73 - 0.4 * line,
        "k_k": 0.71 - 0.1 * line,
        "k_a": torch.full((d,), 1.02),
        "r_k": torch.full((d,), -0.04),
    }
    return vectors[leaf].view(shape)


def _fraction(dims: ModelDims) -> Tensor:
    return torch.arange(dims.d_model) / dims.d_model


def _orthogonal(shape: torch.Size, gain: float, generator: torch.Generator) -> Tensor:
    weights = torch.empty(shape)
    if gain == 0:
        return weights.zero_()
    return torch.nn.init.orthogonal_(weights, gain=gain, generator=generator)
