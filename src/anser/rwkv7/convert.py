"""Weight files of other programs ↔ float32 tensors under official names.

.pth (official), .safetensors (HF/FLA, or ours), .gguf (llama.cpp), .bin (rwkv.cpp). Weights of
16 bits are read as float32; quantised ones are refused. A pickle is opened by torch alone, with
`weights_only=True`.
"""

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anser.errors import CheckpointError
from anser.rwkv7 import checkpoint, gguf, names
from anser.rwkv7.dims import ModelDims

Tensors = dict[str, NDArray[Any]]

_RWKV_CPP_MAGIC, _RWKV_CPP_VERSION = 0x67676D66, 101
_RWKV_CPP_DTYPES = {0: "<f4", 1: "<f2"}


def read_weights(path: str | os.PathLike[str]) -> Tensors:
    """Read RWKV-7 weights of any known kind, told by their first bytes and tensor names.

    A folder stands for the model.safetensors in it. Raises CheckpointError if the file is none of
    them or damaged.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be opened ({error.strerror}).") from error
    if magic == b"GGUF":
        tensors = _read_gguf(path)
    elif magic == struct.pack("<I", _RWKV_CPP_MAGIC):
        tensors = names.from_rwkv_cpp(read_rwkv_cpp(path))
    elif magic == b"PK\x03\x04":
        tensors = read_pth(path)
    else:
        tensors, _ = checkpoint.read_tensors(path)
        if "model.embeddings.weight" in tensors:
            tensors = names.from_hf(tensors)
    try:
        checkpoint.validate(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error}") from error
    return checkpoint.dequantize(tensors)


def write_weights(path: str | os.PathLike[str], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write weights for another program, which the suffix tells.

    .pth: RWKV-LM and the pip package; .gguf: llama.cpp; .bin: rwkv.cpp; a path without suffix: a
    folder that FLA and transformers open. Raises CheckpointError for another suffix, and if the
    weights have a tensor that the format has no place for.
    """
    path = Path(path)
    writers: dict[str, Callable[[Path, Tensors], None]] = {
        ".pth": _write_pth,
        ".gguf": _write_gguf,
        ".bin": _write_rwkv_cpp,
        "": _write_hf,
    }
    if path.suffix not in writers:
        raise CheckpointError(f"{path.name}: expected .pth, .gguf, .bin or a folder to write to.")
    if not path.parent.is_dir():
        raise CheckpointError(f"{path}: the folder does not exist. Create it first.")
    writers[path.suffix](path, checkpoint.dequantize(tensors))


def read_pth(path: str | os.PathLike[str]) -> Tensors:
    """Read a torch file of plain tensors under official names, or the reverse task's.

    Raises CheckpointError if it holds anything but tensors; needs torch.
    """
    import pickle  # for its error alone

    import torch  # only this format needs it

    path = Path(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path.name}: holds more than tensors; not opened.") from error
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        reason = type(error).__name__
        raise CheckpointError(f"{path.name}: torch cannot read it ({reason}).") from error
    if not isinstance(loaded, dict) or not all(torch.is_tensor(t) for t in loaded.values()):
        raise CheckpointError(f"{path.name}: expected tensors by name.")
    tensors = {name: tensor.float().numpy() for name, tensor in loaded.items()}
    return names.from_reverse_task(tensors) if "rwkv1.r_k" in tensors else tensors


def read_rwkv_cpp(path: str | os.PathLike[str]) -> Tensors:
    """Read rwkv.cpp's container, under its own names."""
    path = Path(path)
    data = path.read_bytes()
    magic, version = struct.unpack_from("<2I", data.ljust(24, b"\0"))
    if magic != _RWKV_CPP_MAGIC or version != _RWKV_CPP_VERSION:
        raise CheckpointError(f"{path.name}: not an rwkv.cpp file of version 101.")
    tensors, at = {}, 24
    try:
        while at < len(data):
            n_dim, key_size, kind = struct.unpack_from("<3i", data, at)
            shape = struct.unpack_from(f"<{n_dim}i", data, at + 12)[::-1]
            at += 12 + 4 * n_dim
            name = data[at : at + key_size].decode()
            dtype = np.dtype(_RWKV_CPP_DTYPES[kind])
            count = int(np.prod(shape, dtype=np.int64))
            values = np.frombuffer(data, dtype, count, at + key_size)
            tensors[name] = values.reshape(shape).astype(np.float32)
            at += key_size + count * dtype.itemsize
    except KeyError as error:
        raise CheckpointError(f"{path.name}: tensor '{name}' is quantised; use FP32.") from error
    except (struct.error, ValueError) as error:
        raise CheckpointError(f"{path.name}: truncated or damaged at byte {at}.") from error
    return tensors


def _write_rwkv_cpp(path: Path, tensors: Tensors) -> None:
    dims = ModelDims.of(tensors)
    header = (_RWKV_CPP_VERSION, dims.n_vocab, dims.d_model, dims.n_layer, 0)
    chunks = [struct.pack("<6I", _RWKV_CPP_MAGIC, *header)]
    for name, tensor in names.to_rwkv_cpp(tensors).items():
        key = name.encode()
        chunks.append(struct.pack("<3i", tensor.ndim, len(key), 0))
        chunks.append(struct.pack(f"<{tensor.ndim}i", *tensor.shape[::-1]) + key)
        chunks.append(tensor.astype("<f4").tobytes())
    _write_at_once(path, b"".join(chunks))


def _write_pth(path: Path, tensors: Tensors) -> None:
    import torch

    temporary = path.with_name(f".{path.name}.part")
    torch.save({name: torch.from_numpy(t.copy()) for name, t in tensors.items()}, temporary)
    temporary.replace(path)


def _read_gguf(path: Path) -> Tensors:
    tensors, metadata = gguf.read(path)
    if metadata.get("general.architecture") != "rwkv7":
        found = metadata.get("general.architecture")
        raise CheckpointError(f"{path.name}: expected the architecture rwkv7, found {found}.")
    return names.from_gguf(tensors, int(metadata["rwkv7.wkv.head_size"]))


def _write_gguf(path: Path, tensors: Tensors) -> None:
    dims = ModelDims.of(tensors)
    for name in ("blocks.0.ln0.weight", "blocks.0.ln0.bias"):
        if name not in tensors:
            raise CheckpointError(f"weights: tensor '{name}' expected by llama.cpp, not found.")
    metadata: dict[str, str | int | float] = {
        "general.architecture": "rwkv7",
        "general.file_type": 0,  # all float32
        "rwkv7.context_length": 1048576,  # there is no limit: what llama.cpp's converter says
        "rwkv7.embedding_length": dims.d_model,
        "rwkv7.block_count": dims.n_layer,
        "rwkv7.feed_forward_length": dims.d_ffn,
        "rwkv7.vocab_size": dims.n_vocab,
        "rwkv7.attention.head_count": 0,  # asked for by llama.cpp, not used
        "rwkv7.attention.layer_norm_epsilon": 1e-5,
        "rwkv7.wkv.head_size": dims.head_size,
        "rwkv7.attention.decay_lora_rank": dims.rank_w,
        "rwkv7.attention.iclr_lora_rank": dims.rank_a,
        "rwkv7.attention.value_residual_mix_lora_rank": dims.rank_v,
        "rwkv7.attention.gate_lora_rank": dims.rank_g,
        "tokenizer.ggml.model": "no_vocab",
    }
    _write_at_once(path, gguf.encode(names.to_gguf(tensors), metadata))


def _write_hf(path: Path, tensors: Tensors) -> None:
    dims = ModelDims.of(tensors)
    config = {
        "architectures": ["RWKV7ForCausalLM"],
        "model_type": "rwkv7",
        "hidden_size": dims.d_model,
        "intermediate_size": dims.d_ffn,
        "num_hidden_layers": dims.n_layer,
        "head_dim": dims.head_size,
        "num_heads": dims.n_head,
        "vocab_size": dims.n_vocab,
        "decay_low_rank_dim": dims.rank_w,
        "a_low_rank_dim": dims.rank_a,
        "v_low_rank_dim": dims.rank_v,
        "gate_low_rank_dim": dims.rank_g,
        "value_dim": [dims.d_model] * dims.n_layer,
        "hidden_act": "sqrelu",
        "norm_bias": True,
        "norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    renamed = names.to_hf(tensors)
    path.mkdir(exist_ok=True)
    checkpoint.write_tensors(path / "model.safetensors", renamed, {"format": "pt"})
    _write_at_once(path / "config.json", (json.dumps(config, indent=2) + "\n").encode())


def _write_at_once(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data)
    temporary.replace(path)
