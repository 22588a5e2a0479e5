"""Official tensor names and layouts ↔ those of HF/FLA, GGUF (llama.cpp) and rwkv.cpp.

Values are never changed, only renamed, reshaped, transposed or stacked, so every way there and
back is exact. Block 0's v0, v1, v2, which no implementation uses, are left out on the way.
Sources: fla-org/flash-linear-attention utils/convert_from_rwkv7.py; ggml-org/llama.cpp
gguf-py/gguf/constants.py and its Rwkv7 conversion; RWKV/rwkv.cpp rwkv_file_format.inc.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from anser.errors import CheckpointError
from anser.rwkv7.dims import MIXES

Tensors = dict[str, NDArray[Any]]
# how the other side keeps a tensor: as it is, [D] for [1, 1, D], transposed, [D] for [H, N],
# or with one more axis, [6, 1, 1, D] for the six mixes [6, 1, D]
Layout = Literal["same", "vector", "turned", "flat", "mixes"]

_FUSED = "x_rwkvag"  # the six mixes in one tensor [6, 1, D], as rwkv.cpp calls it
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_UNUSED = tuple(f"blocks.0.att.v{i}" for i in range(3))
_NORMS = ("weight", "bias")


@dataclass(frozen=True)
class _Scheme:
    """How one family of files calls and lays out the tensors."""

    title: str
    ends: dict[str, str]  # tensors outside blocks, official name to theirs
    block: str  # their prefix of a block, with {} for its number
    leaves: dict[str, tuple[str, Layout]]  # official name within a block to theirs

    def there(self, tensors: Mapping[str, NDArray[Any]]) -> Tensors:
        """Rename and lay out; raise CheckpointError for a tensor that has no place there."""
        result: Tensors = {}
        for name, tensor in tensors.items():
            match = _BLOCK.fullmatch(name)
            if name in _UNUSED:
                continue
            if name in self.ends:
                result[self.ends[name]] = np.asarray(tensor)
            elif match and match.group(2) in self.leaves:
                leaf, layout = self.leaves[match.group(2)]
                prefix = self.block.format(match.group(1))
                result[prefix + leaf] = _lay_out(tensor, layout)
            else:
                raise CheckpointError(f"weights: {self.title} has no place for tensor '{name}'.")
        return result

    def back(self, tensors: Mapping[str, NDArray[Any]], head_size: int = 0) -> Tensors:
        """Undo `there`; `head_size` is needed where r_k is kept flat."""
        ends = {theirs: ours for ours, theirs in self.ends.items()}
        leaves = {theirs: (ours, layout) for ours, (theirs, layout) in self.leaves.items()}
        pattern = re.compile(re.escape(self.block).replace(r"\{\}", r"(\d+)") + "(.+)")
        result: Tensors = {}
        for name, tensor in tensors.items():
            match = pattern.fullmatch(name)
            if name in ends:
                result[ends[name]] = np.asarray(tensor)
            elif match and match.group(2) in leaves:
                leaf, layout = leaves[match.group(2)]
                ours = f"blocks.{match.group(1)}.{leaf}"
                result[ours] = _lay_back(tensor, layout, head_size)
            else:
                raise CheckpointError(f"weights: tensor '{name}' is unknown in {self.title}.")
        return {name: tensor for name, tensor in result.items() if name not in _UNUSED}


def to_hf(tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """Return the tensors as HF/FLA's RWKV7ForCausalLM keeps them."""
    return _HF.there(tensors)


def from_hf(tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """Return HF/FLA's tensors under official names."""
    return _HF.back(tensors)


def to_gguf(tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """Return the tensors as llama.cpp keeps them, shapes in numpy's order.

    llama.cpp wants v0, v1, v2 in block 0 although it does not use them: copies of a0, a1, a2, as
    its own converter writes.
    """
    result = _GGUF.there(_fuse(tensors))
    for i in range(3):
        result[f"blk.0.time_mix_v{i}.weight"] = result[f"blk.0.time_mix_a{i}.weight"]
    return result


def from_gguf(tensors: Mapping[str, NDArray[Any]], head_size: int) -> Tensors:
    """Return llama.cpp's tensors under official names."""
    return _unfuse(_GGUF.back(tensors, head_size))


def to_rwkv_cpp(tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """Return the tensors as rwkv.cpp keeps them, shapes in numpy's order."""
    return _RWKV_CPP.there(_fuse(tensors))


def from_rwkv_cpp(tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """Return rwkv.cpp's tensors under official names."""
    return _unfuse(_RWKV_CPP.back(tensors))


def from_reverse_task(tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """Return RWKV-LM's 260123_reverse_L2_only_rwkv7 under official names.

    Its blocks also hold a ROSA layer that is switched off: its embedding is zero, so all it adds
    is its constant output bias, which here becomes the time mix's. Raises CheckpointError if the
    layer is in use.
    """
    parts = {"ln{}a": "ln1", "ln{}b": "ln2", "rwkv{}": "att", "ffn{}": "ffn"}
    ends = {"e": "emb", "lno": "ln_out", "o": "head"}
    result: Tensors = {}
    for name, tensor in tensors.items():
        top, leaf = name.split(".", 1)
        number = "".join(filter(str.isdigit, top))
        kind = top.replace(number, "{}") if number else top
        block = f"blocks.{int(number or 1) - 1}"
        if kind in ends:
            result[f"{ends[kind]}.{leaf}"] = np.asarray(tensor)
        elif kind in parts:
            result[f"{block}.{parts[kind]}.{leaf}"] = np.asarray(tensor)
        elif kind == "rosa{}" and leaf == "o.bias":
            result[f"{block}.att.output.bias"] = np.asarray(tensor)
        elif kind == "rosa{}" and leaf == "rosa_qkv.emb" and np.any(tensor):
            raise CheckpointError(f"weights: tensor '{name}' must be zero: ROSA is not RWKV-7.")
        elif kind not in ("rosa{}", "ln{}c"):
            raise CheckpointError(f"weights: tensor '{name}' is unknown in the reverse task.")
    return result


def _lay_out(tensor: NDArray[Any], layout: Layout) -> NDArray[Any]:
    if layout == "turned":
        return np.ascontiguousarray(tensor.T)
    if layout in ("vector", "flat"):
        return np.asarray(tensor).reshape(-1)
    if layout == "mixes":
        return np.asarray(tensor)[:, :, None]
    return np.asarray(tensor)


def _lay_back(tensor: NDArray[Any], layout: Layout, head_size: int) -> NDArray[Any]:
    if layout == "turned":
        return np.ascontiguousarray(tensor.T)
    if layout == "vector":
        return np.asarray(tensor).reshape(1, 1, -1)
    if layout == "flat":
        return np.asarray(tensor).reshape(-1, head_size)
    if layout == "mixes":
        return np.asarray(tensor).reshape(len(MIXES), 1, -1)
    return np.asarray(tensor)


def _fuse(tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    result: Tensors = {}
    for name, tensor in tensors.items():
        block, _, leaf = name.rpartition(".")
        if block.endswith(".att") and leaf in MIXES:
            mixes = [np.asarray(tensors[f"{block}.{mix}"]).reshape(1, 1, -1) for mix in MIXES]
            result[f"{block}.{_FUSED}"] = np.concatenate(mixes)
        else:
            result[name] = np.asarray(tensor)
    return result


def _unfuse(tensors: Tensors) -> Tensors:
    result: Tensors = {}
    for name, tensor in tensors.items():
        block, _, leaf = name.rpartition(".")
        if leaf == _FUSED:
            result |= {f"{block}.{mix}": tensor[i][None] for i, mix in enumerate(MIXES)}
        else:
            result[name] = tensor
    return result


def _hf_leaves() -> dict[str, tuple[str, Layout]]:
    leaves: dict[str, tuple[str, Layout]] = {}
    for ours, theirs in (("ln0", "pre_norm"), ("ln1", "attn_norm"), ("ln2", "ffn_norm")):
        leaves |= {f"{ours}.{n}": (f"{theirs}.{n}", "same") for n in _NORMS}
    leaves |= {f"att.{mix}": (f"attn.{mix}", "same") for mix in MIXES}
    for c in "wavg":
        if c != "g":
            leaves[f"att.{c}0"] = (f"attn.{c}_lora.lora.2.bias", "vector")
        leaves[f"att.{c}1"] = (f"attn.{c}_lora.lora.0.weight", "turned")
        leaves[f"att.{c}2"] = (f"attn.{c}_lora.lora.2.weight", "turned")
    leaves |= {f"att.{n}": (f"attn.{n}", "vector") for n in ("k_k", "k_a")}
    leaves["att.r_k"] = ("attn.r_k", "same")
    for n in ("receptance", "key", "value", "output"):
        leaves[f"att.{n}.weight"] = (f"attn.{n[0]}_proj.weight", "same")
    leaves |= {f"att.ln_x.{n}": (f"attn.g_norm.{n}", "same") for n in _NORMS}
    leaves["ffn.x_k"] = ("ffn.x_k", "vector")
    leaves |= {f"ffn.{n}.weight": (f"ffn.{n}.weight", "same") for n in ("key", "value")}
    return leaves


def _gguf_leaves() -> dict[str, tuple[str, Layout]]:
    leaves: dict[str, tuple[str, Layout]] = {}
    for ours, theirs in (("ln1", "attn_norm"), ("ln2", "attn_norm_2"), ("att.ln_x", "time_mix_ln")):
        leaves |= {f"{ours}.{n}": (f"{theirs}.{n}", "same") for n in _NORMS}
    leaves[f"att.{_FUSED}"] = ("time_mix_lerp_fused.weight", "mixes")
    for c in "wavg":
        if c != "g":
            leaves[f"att.{c}0"] = (f"time_mix_{c}0.weight", "vector")
        leaves |= {f"att.{c}{i}": (f"time_mix_{c}{i}.weight", "turned") for i in "12"}
    leaves |= {f"att.{n}": (f"time_mix_{n}.weight", "vector") for n in ("k_k", "k_a")}
    leaves["att.r_k"] = ("time_mix_r_k.weight", "flat")
    for n in ("receptance", "key", "value", "output"):
        leaves[f"att.{n}.weight"] = (f"time_mix_{n}.weight", "same")
    leaves["ffn.x_k"] = ("channel_mix_lerp_k.weight", "vector")
    leaves |= {f"ffn.{n}.weight": (f"channel_mix_{n}.weight", "same") for n in ("key", "value")}
    return leaves


def _rwkv_cpp_leaves() -> dict[str, tuple[str, Layout]]:
    leaves: dict[str, tuple[str, Layout]] = {}
    for norm in ("ln0", "ln1", "ln2", "att.ln_x"):
        leaves |= {f"{norm}.{n}": (f"{norm}.{n}", "same") for n in _NORMS}
    same = ["w0", "a0", "v0", "k_k", "k_a", "r_k", _FUSED]
    same += [f"{n}.weight" for n in ("receptance", "key", "value", "output")]
    leaves |= {f"att.{n}": (f"att.{n}", "same") for n in same}
    leaves |= {f"att.{c}{i}": (f"att.{c}{i}", "turned") for c in "wavg" for i in "12"}
    leaves |= {f"ffn.{n}": (f"ffn.{n}", "same") for n in ("x_k", "key.weight", "value.weight")}
    return leaves


_OFFICIAL_ENDS = ("emb.weight", "ln_out.weight", "ln_out.bias", "head.weight")
_HF = _Scheme(
    "HF/FLA",
    {
        "emb.weight": "model.embeddings.weight",
        "ln_out.weight": "model.norm.weight",
        "ln_out.bias": "model.norm.bias",
        "head.weight": "lm_head.weight",
    },
    "model.layers.{}.",
    _hf_leaves(),
)
_GGUF = _Scheme(
    "GGUF",
    {
        "emb.weight": "token_embd.weight",
        "blocks.0.ln0.weight": "token_embd_norm.weight",
        "blocks.0.ln0.bias": "token_embd_norm.bias",
        "ln_out.weight": "output_norm.weight",
        "ln_out.bias": "output_norm.bias",
        "head.weight": "output.weight",
    },
    "blk.{}.",
    _gguf_leaves(),
)
_RWKV_CPP = _Scheme("rwkv.cpp", {n: n for n in _OFFICIAL_ENDS}, "blocks.{}.", _rwkv_cpp_leaves())
