"""Checkpoint files ↔ tensors: one safetensors file, official RWKV-7 names, memory-mapped.

Knows shapes and precisions; knows no music and opens no pickle.
The format is https://github.com/huggingface/safetensors (u64 header length, JSON header, data).
"""

import json
import math
import mmap
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from anser.errors import CheckpointError
from anser.rwkv7.dims import ModelDims

Tensors = Mapping[str, NDArray[Any]]
Precision = Literal["fp32", "fp16", "int8", "int4"]

_CODES = {"<f8": "F64", "<f4": "F32", "<f2": "F16", "<i8": "I64", "<i4": "I32", "|i1": "I8"}
_CODES |= {"|u1": "U8"}
_DTYPES = {code: np.dtype(text) for text, code in _CODES.items()} | {"BF16": np.dtype("<u2")}
_WEIGHT_DTYPES = ("<f4", "<f2", "|i1", "|u1")
_HEADER_LIMIT = 100_000_000  # the format's own limit, so a stray file cannot ask for all memory
_MATRICES = ("receptance.weight", "key.weight", "value.weight", "output.weight")
_BLOCK = 32  # inputs of an int4 row that share a factor
_MAX_FACTOR = 15  # times a half it fits into a byte
_LORA = tuple(f"att.{c}{i}" for c in "wavg" for i in "12")


@dataclass(frozen=True)
class Checkpoint:
    """Weights of a model under official names: float32 or float16, or integers with scales.

    int8: W[o, i] = w[o, i] * scale[o], with `<name>.scale` float32 [o]; LoRA matrices, which
    official files hold as [i, o], likewise. int4: blocks of 32 inputs in 16 bytes, uint8
    [rows, 16 * blocks]; byte j of a block holds input j in its low half and input j + 16 in its
    high half, both signed; W = half * factor[o, block] * scale[o], with `<name>.factor` uint8
    [rows, blocks], at most 15; the last block is filled up with zeros.
    Arrays are read-only views of the memory-mapped file.
    """

    dims: ModelDims
    tensors: Tensors
    metadata: dict[str, str]


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint; no weight is read from the disk before it is used.

    Raises CheckpointError if the file is missing, damaged, not safetensors, or if a tensor is
    missing or has another shape or type than RWKV-7 needs.
    """
    tensors, metadata = read_tensors(path)
    try:
        dims = validate(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{Path(path).name}: {error}") from error
    return Checkpoint(dims=dims, tensors=tensors, metadata=metadata)


def save(path: str | os.PathLike[str], tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Write a checkpoint in one step: the path holds the old file, or all of the new one.

    Adds the metadata `dims` (JSON) and `precision`. Raises CheckpointError if the tensors are not
    those of an RWKV-7 model.
    """
    dims = validate(tensors)
    own = {"dims": json.dumps(asdict(dims)), "precision": precision_of(tensors)}
    write_tensors(path, tensors, {**metadata, **own})


def quantize(tensors: Tensors, precision: Precision) -> dict[str, NDArray[Any]]:
    """Return the tensors at another precision; vectors always stay float32.

    fp16 stores every matrix in half precision. int8 stores them as int8 with one float32 scale
    for each output, `<name>.scale`. int4 stores the projections and the head in blocks of 4 bits,
    and the LoRA matrices and the embedding, being small or sensitive, as int8 does.
    """
    full = dequantize(tensors)
    if precision == "fp32":
        return full
    result: dict[str, NDArray[Any]] = {}
    for name, tensor in full.items():
        if not _is_matrix(name):
            result[name] = tensor
        elif precision == "fp16":
            result[name] = _to_half(name, tensor)
        elif precision == "int4" and name != "emb.weight" and not name.endswith(_LORA):
            result[name], result[f"{name}.factor"], result[f"{name}.scale"] = _to_int4(tensor)
        else:
            result[name], result[f"{name}.scale"] = _to_int8(tensor, _inputs_axis(name))
    return result


def dequantize(tensors: Tensors) -> dict[str, NDArray[Any]]:
    """Return every tensor as float32, with scales multiplied in and left out."""
    full: dict[str, NDArray[Any]] = {}
    for name, tensor in tensors.items():
        if name.endswith((".scale", ".factor")):
            continue
        values = np.asarray(tensor, dtype=np.float32)
        if tensor.dtype == np.uint8:
            values = _from_int4(tensor, tensors[f"{name}.factor"], _inputs(name, tensors))
        scale = tensors.get(f"{name}.scale")
        full[name] = values if scale is None else values * np.expand_dims(scale, _inputs_axis(name))
    return full


def precision_of(tensors: Tensors) -> Precision:
    """Return the precision that the matrices are stored at."""
    if tensors["head.weight"].dtype == np.uint8:
        return "int4"
    stored = tensors["emb.weight"].dtype
    return "int8" if stored == np.int8 else "fp16" if stored == np.float16 else "fp32"


def read_tensors(
    path: str | os.PathLike[str],
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read any safetensors file: memory-mapped arrays by name, and its metadata.

    bfloat16, which numpy lacks, is read into memory as float32. Raises CheckpointError if the
    file is missing or damaged.
    """
    path = Path(path)
    header, start, size = _read_header(path)
    metadata = header.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())):
        raise CheckpointError(f"{path.name}: metadata must be text by text.")
    whole: NDArray[np.uint8] = np.empty(start, np.uint8)
    if size:
        # a plain array from here on: numpy's memmap class makes every slice slow
        whole = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    tensors = {name: _view(path, name, entry, whole[start:]) for name, entry in header.items()}
    return tensors, metadata


def release(tensors: Tensors) -> None:
    """Give back the memory of what was read of mapped files; what is used again is mapped again.

    The system keeps the files' pages for as long as it likes, so none is read twice from a disk.
    """
    files = {}
    for array in tensors.values():
        base: Any = array
        while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
            base = base.base
        if isinstance(base, np.memmap) and base.mode == "r":
            files[id(base.base)] = base.base
    for file in files.values():
        if isinstance(file, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            file.madvise(mmap.MADV_DONTNEED)


def write_tensors(
    path: str | os.PathLike[str], tensors: Tensors, metadata: Mapping[str, str]
) -> None:
    """Write any safetensors file in one step, through a temporary file in the same folder.

    Raises CheckpointError if the folder does not exist or a dtype has no place in the format.
    """
    path = Path(path)
    # Widest items first keeps every array aligned to its item size without padding.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in ordered:
        code = _CODES.get(tensor.dtype.newbyteorder("<").str)
        if code is None:
            raise CheckpointError(f"{path.name}: tensor '{name}' has type {tensor.dtype}.")
        end = offset + tensor.nbytes
        header[name] = {"dtype": code, "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % 64)  # data begins on a cache line
    if not path.parent.is_dir():
        raise CheckpointError(f"{path}: the folder does not exist. Create it first.")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _, tensor in ordered:
                little = np.ascontiguousarray(tensor, dtype=tensor.dtype.newbyteorder("<"))
                file.write(little.reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp's 0600 would hide a shared model from its readers
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """Return the header, the offset of the data, and the size of the data in bytes."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise CheckpointError(f"{path.name}: not a safetensors file, or a truncated one.")
            header = json.loads(file.read(length))
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise CheckpointError(f"{path}: cannot be opened ({reason}).") from error
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path.name}: not a safetensors file.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path.name}: not a safetensors file.")
    return header, 8 + length, size - 8 - length


def _view(path: Path, name: str, entry: Any, data: NDArray[Any]) -> NDArray[Any]:  # noqa: ANN401
    try:
        dtype = _DTYPES[entry["dtype"]]
        shape = tuple(map(int, entry["shape"]))
        begin, end = map(int, entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path.name}: tensor '{name}' has a header we cannot read."
        ) from error
    if min(begin, *shape, 0) < 0 or end - begin != dtype.itemsize * math.prod(shape):
        raise CheckpointError(f"{path.name}: tensor '{name}' does not fill its place in the file.")
    if end > data.size:
        raise CheckpointError(
            f"{path.name}: tensor '{name}' ends at byte {end} of the data, the file holds "
            f"{data.size}. The file is truncated; copy or download it again."
        )
    array: NDArray[Any] = np.ndarray(shape, dtype, data, begin)
    if entry["dtype"] == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def validate(tensors: Tensors) -> ModelDims:
    """Return the sizes of these weights.

    Raises CheckpointError, naming the tensor, if one is missing or has a wrong shape or type.
    """
    dims = ModelDims.of(tensors)
    if dims.d_model % dims.head_size:
        raise CheckpointError(
            f"weights: heads of {dims.head_size} channels do not divide a width of {dims.d_model}."
        )
    for name, expected in dims.shapes().items():
        if name not in tensors:
            raise CheckpointError(f"weights: tensor '{name}' expected, not found.")
        _check_tensor(name, tensors, expected)
    for name, expected in dims.optional_shapes().items():
        if name in tensors:
            _check_tensor(name, tensors, expected)
    return dims


def _check_tensor(name: str, tensors: Tensors, expected: tuple[int, ...]) -> None:
    tensor = tensors[name]
    if tensor.dtype == np.uint8:
        blocks = -(-expected[-1] // _BLOCK)
        factor = tensors.get(f"{name}.factor")
        if factor is None or factor.dtype != np.uint8 or factor.shape != (expected[0], blocks):
            raise CheckpointError(
                f"weights: tensor '{name}.factor' expected, uint8 of shape {(expected[0], blocks)}."
            )
        expected = (expected[0], blocks * _BLOCK // 2)
    if tensor.shape != expected:
        raise CheckpointError(
            f"weights: tensor '{name}' has shape {tensor.shape}, expected {expected}."
        )
    if tensor.dtype.newbyteorder("<").str not in _WEIGHT_DTYPES:
        raise CheckpointError(
            f"weights: tensor '{name}' has type {tensor.dtype}, expected float32, float16, int8 "
            "or uint8."
        )
    if tensor.dtype in (np.int8, np.uint8):
        scale = tensors.get(f"{name}.scale")
        found = None if scale is None else scale.shape
        outputs = (expected[1 - _inputs_axis(name)],)
        if found != outputs:
            raise CheckpointError(
                f"weights: tensor '{name}.scale' has shape {found}, expected {outputs}."
            )


def _is_matrix(name: str) -> bool:
    return name in ("emb.weight", "head.weight") or name.endswith((*_MATRICES, *_LORA))


def _inputs_axis(name: str) -> int:
    return 0 if name.endswith(_LORA) else 1


def _to_half(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
    if float(np.max(np.abs(tensor), initial=0.0)) > float(np.finfo(np.float16).max):
        raise CheckpointError(f"weights: tensor '{name}' exceeds the range of fp16. Use fp32.")
    return tensor.astype(np.float16)


def _to_int8(tensor: NDArray[Any], inputs_axis: int) -> tuple[NDArray[Any], NDArray[Any]]:
    scale = (np.abs(tensor).max(axis=inputs_axis) / 127).astype(np.float32)
    divisor = np.where(scale > 0, scale, np.float32(1))  # outputs of zeros have scale 0
    return np.rint(tensor / np.expand_dims(divisor, inputs_axis)).astype(np.int8), scale


def _to_int4(tensor: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return bytes of two inputs, block factors and row scales: see Checkpoint."""
    rows, n_in = tensor.shape
    padded = np.pad(tensor, ((0, 0), (0, -n_in % _BLOCK)))
    blocks = padded.reshape(rows, -1, _BLOCK).astype(np.float32)
    wanted = np.abs(blocks).max(axis=2) / np.float32(7.5)
    scale = (wanted.max(axis=1) / _MAX_FACTOR).astype(np.float32)
    unit = np.where(scale > 0, scale, np.float32(1))
    best = np.full(wanted.shape, np.inf, np.float32)
    halves = np.zeros(blocks.shape, np.uint8)
    factors = np.zeros(wanted.shape, np.uint8)
    for share in (0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1):  # a smaller step may cut the peak and gain
        tried = np.clip(np.rint(wanted * share / unit[:, None]), 0, _MAX_FACTOR)
        step = (np.maximum(tried, 1) * unit[:, None])[:, :, None]
        whole = np.clip(np.rint(blocks / step), -8, 7)
        error = ((whole * (tried * unit[:, None])[:, :, None] - blocks) ** 2).sum(axis=2)
        better = error < best
        best = np.where(better, error, best)
        factors[better] = tried[better]
        halves[better] = whole[better].astype(np.int8).view(np.uint8) & 15
    packed = halves[:, :, : _BLOCK // 2] | halves[:, :, _BLOCK // 2 :] << 4
    return packed.reshape(rows, -1), factors, scale


def _from_int4(packed: NDArray[Any], factors: NDArray[Any], n_in: int) -> NDArray[np.float32]:
    blocks = packed.reshape(*factors.shape, _BLOCK // 2)
    halves = np.concatenate([blocks << 4, blocks], axis=2).view(np.int8) >> 4
    steps = factors[:, :, None].astype(np.float32)
    return np.asarray(halves * steps, np.float32).reshape(len(packed), -1)[:, :n_in]


def _inputs(name: str, tensors: Tensors) -> int:
    """Return the row length of a matrix, which its int4 form rounds up."""
    if name.endswith("ffn.value.weight"):
        return len(tensors[name.replace("value", "key")])
    return int(tensors["emb.weight"].shape[1])
