"""GGUF bytes ↔ tensors and metadata; knows the container, not what is in it.

Source: ggml-org/ggml docs/gguf.md, version 3, little-endian. Shapes are in numpy's order, the
reverse of the file's.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anser.errors import CheckpointError

Value = str | int | float

_ALIGNMENT = 32
_F32, _F16, _BF16 = 0, 1, 30
_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"}
_NUMBERS |= {10: "Q", 11: "q", 12: "d"}


def read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the tensors as float32, and the metadata.

    Raises CheckpointError if the file is damaged, of an unknown version, or quantised.
    """
    data = path.read_bytes()
    reader = _Reader(data)
    try:
        magic, version = reader.numbers("4sI")
        if magic != b"GGUF" or version not in (2, 3):
            raise CheckpointError(f"{path.name}: expected GGUF version 2 or 3.")
        n_tensor, n_value = reader.numbers("QQ")
        metadata = {reader.text(): reader.value() for _ in range(n_value)}
        entries = [reader.entry() for _ in range(n_tensor)]
        start = _aligned(reader.at, int(metadata.get("general.alignment", _ALIGNMENT)))
        return {e[0]: _tensor(path, data, start, *e) for e in entries}, metadata
    except CheckpointError:
        raise
    except (struct.error, ValueError, KeyError) as error:
        raise CheckpointError(f"{path.name}: truncated or damaged at byte {reader.at}.") from error


def encode(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, Value]) -> bytes:
    """Return a GGUF file of float32 tensors; integers become uint32, floats float32."""
    head = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        head.append(_text(key))
        if isinstance(value, str):
            head.append(struct.pack("<I", _STRING) + _text(value))
        elif isinstance(value, int):
            head.append(struct.pack("<II", _UINT32, value))
        else:
            head.append(struct.pack("<If", _FLOAT32, value))
    body, offset = [], 0
    for name, tensor in tensors.items():
        shape = tensor.shape[::-1]
        head.append(_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        head.append(struct.pack("<IQ", _F32, offset))
        raw = tensor.astype("<f4").tobytes()
        raw += bytes(-len(raw) % _ALIGNMENT)
        body.append(raw)
        offset += len(raw)
    front = b"".join(head)
    return front + bytes(-len(front) % _ALIGNMENT) + b"".join(body)


class _Reader:
    """A place in the bytes that moves as they are read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def text(self) -> str:
        (size,) = self.numbers("Q")
        if size > len(self.data) - self.at:
            raise ValueError(size)
        self.at += size
        return self.data[self.at - size : self.at].decode("utf-8", "replace")

    def value(self) -> Any:  # noqa: ANN401  text, number or list, as the file says
        (kind,) = self.numbers("I")
        if kind != _ARRAY:
            return self._scalar(kind)
        kind, count = self.numbers("IQ")
        if count > len(self.data) - self.at:
            raise ValueError(count)
        return [self._scalar(kind) for _ in range(count)]

    def entry(self) -> tuple[str, int, tuple[int, ...], int]:
        """Return a tensor's name, type, shape and offset."""
        name = self.text()
        (n_dim,) = self.numbers("I")
        if n_dim > 4:
            raise ValueError(n_dim)
        shape = self.numbers(f"{n_dim}Q")[::-1]
        kind, offset = self.numbers("IQ")
        return name, kind, shape, offset

    def _scalar(self, kind: int) -> Value:
        if kind == _STRING:
            return self.text()
        (value,) = self.numbers(_NUMBERS[kind])
        result: Value = value
        return result


def _tensor(
    path: Path, data: bytes, start: int, name: str, kind: int, shape: tuple[int, ...], offset: int
) -> NDArray[Any]:
    dtypes = {_F32: "<f4", _F16: "<f2", _BF16: "<u2"}
    if kind not in dtypes:
        raise CheckpointError(
            f"{path.name}: tensor '{name}' is quantised; convert from F32 or F16."
        )
    count = int(np.prod(shape, dtype=object))
    values = np.frombuffer(data, np.dtype(dtypes[kind]), count, start + offset).reshape(shape)
    if kind == _BF16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _aligned(offset: int, alignment: int) -> int:
    return offset + -offset % alignment
