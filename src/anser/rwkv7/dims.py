"""Shapes of tensors → the sizes of an RWKV-7 model, and back."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from anser.errors import CheckpointError

_BLOCK = re.compile(r"blocks\.(\d+)\.")
LAYER_NORMS = ("ln1", "ln2")
MIXES = ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g")


@dataclass(frozen=True)
class ModelDims:
    """The sizes that fix every tensor's shape; the letters are those of docs/model.md."""

    n_layer: int  # L
    d_model: int  # D
    n_vocab: int  # V
    head_size: int  # N
    d_ffn: int  # hidden width of the channel mix, 4 D in every published model
    rank_w: int  # LoRA rank of the decay
    rank_a: int  # LoRA rank of the in-context learning rate
    rank_v: int  # LoRA rank of the value residual
    rank_g: int  # LoRA rank of the gate

    @property
    def n_head(self) -> int:
        """Heads of the time mix, H = D / N."""
        return self.d_model // self.head_size

    @classmethod
    def of(cls, tensors: Mapping[str, Any]) -> "ModelDims":
        """Read the sizes from the shapes of tensors under their official names.

        Raises CheckpointError if a tensor that is needed for this is missing, or not 2-D.
        """
        blocks = [int(m.group(1)) for m in map(_BLOCK.match, tensors) if m]
        n_layer = max(blocks, default=-1) + 1
        n_vocab, d_model = _shape2(tensors, "emb.weight")
        _, head_size = _shape2(tensors, "blocks.0.att.r_k")
        d_ffn, _ = _shape2(tensors, "blocks.0.ffn.key.weight")
        ranks = [_shape2(tensors, f"blocks.0.att.{c}1")[1] for c in "wag"]
        # Block 0 has no value residual: published files may lack its LoRA, or carry it unused.
        v1 = f"blocks.{min(1, n_layer - 1)}.att.v1"
        rank_v = _shape2(tensors, v1)[1] if n_layer > 1 or v1 in tensors else ranks[1]
        return cls(
            n_layer=n_layer,
            d_model=d_model,
            n_vocab=n_vocab,
            head_size=head_size,
            d_ffn=d_ffn,
            rank_w=ranks[0],
            rank_a=ranks[1],
            rank_v=rank_v,
            rank_g=ranks[2],
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor that a model of these sizes must have, in the official order."""
        return dict(self._shapes())

    def optional_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor that some published files carry and others lack."""
        d = self.d_model
        shapes: dict[str, tuple[int, ...]] = {
            "blocks.0.ln0.weight": (d,),
            "blocks.0.ln0.bias": (d,),
            "blocks.0.att.v0": (1, 1, d),
            "blocks.0.att.v1": (d, self.rank_v),
            "blocks.0.att.v2": (self.rank_v, d),
            "head.bias": (self.n_vocab,),
        }
        for i in range(self.n_layer):
            shapes[f"blocks.{i}.att.output.bias"] = (d,)
            shapes[f"blocks.{i}.att.time_state"] = (self.n_head, self.head_size, self.head_size)
        return shapes

    def _shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        d = self.d_model
        ranks = {"w": self.rank_w, "a": self.rank_a, "v": self.rank_v, "g": self.rank_g}
        yield "emb.weight", (self.n_vocab, d)
        for i in range(self.n_layer):
            block = f"blocks.{i}."
            for norm in LAYER_NORMS:
                yield f"{block}{norm}.weight", (d,)
                yield f"{block}{norm}.bias", (d,)
            att = f"{block}att."
            for mix in MIXES:
                yield f"{att}{mix}", (1, 1, d)
            for c, rank in ranks.items():
                if c == "v" and i == 0:
                    continue
                if c != "g":
                    yield f"{att}{c}0", (1, 1, d)
                yield f"{att}{c}1", (d, rank)
                yield f"{att}{c}2", (rank, d)
            yield f"{att}k_k", (1, 1, d)
            yield f"{att}k_a", (1, 1, d)
            yield f"{att}r_k", (self.n_head, self.head_size)
            for matrix in ("receptance", "key", "value", "output"):
                yield f"{att}{matrix}.weight", (d, d)
            yield f"{att}ln_x.weight", (d,)
            yield f"{att}ln_x.bias", (d,)
            yield f"{block}ffn.x_k", (1, 1, d)
            yield f"{block}ffn.key.weight", (self.d_ffn, d)
            yield f"{block}ffn.value.weight", (d, self.d_ffn)
        yield "ln_out.weight", (d,)
        yield "ln_out.bias", (d,)
        yield "head.weight", (self.n_vocab, d)


def _shape2(tensors: Mapping[str, Any], name: str) -> tuple[int, int]:
    if name not in tensors:
        raise CheckpointError(
            f"weights: tensor '{name}' expected, not found. This is not an RWKV-7 checkpoint."
        )
    shape = tuple(tensors[name].shape)
    if len(shape) != 2:
        raise CheckpointError(f"weights: tensor '{name}' must be 2-D, found shape {shape}.")
    return int(shape[0]), int(shape[1])
