"""Weights, state, token ids → logits, fast: the native engine behind numpy arrays.

The same ids after the same state give the same bits however they are cut into calls, whatever
else is in the batch and however many threads work. Knows no music, no sampling, no file format.
"""

import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anser.errors import CheckpointError
from anser.rwkv7.checkpoint import Checkpoint, release
from anser.rwkv7.dims import ModelDims

try:
    from anser import _engine
except ImportError as error:
    raise ImportError(
        "anser._engine cannot be imported. Did you forget to build? Run `pip install -e .`"
    ) from error

Ids = Sequence[int] | Sequence[Sequence[int]] | NDArray[np.integer[Any]]
Logits = NDArray[np.float32]

MAX_DEFAULT_THREADS = 4  # beyond it the memory, not the processor, sets the speed


@dataclass
class State:
    """What the model remembers of B sequences: all of it, as plain arrays of constant size."""

    shift: NDArray[np.float32]  # [B, n_layer, 2, d_model]; 0 = time mix, 1 = channel mix
    wkv: NDArray[np.float32]  # [B, n_layer, n_head, N (key), N (value)]: transposed, for speed

    @property
    def batch(self) -> int:
        """Number of sequences, B."""
        return len(self.shift)

    def copy(self) -> "State":
        """Return a state of its own with the same contents."""
        return State(self.shift.copy(), self.wkv.copy())

    def repeat(self, n: int) -> "State":
        """Return n copies of the one sequence, to continue it in n ways.

        Raises ValueError if there is more than one sequence.
        """
        if self.batch != 1:
            raise ValueError(f"state: expected one sequence to repeat, found {self.batch}.")
        return self.select([0] * n)

    def select(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> "State":
        """Return a copy of the sequences at `indices`, in that order; repetition is allowed."""
        chosen = np.asarray(indices, np.int64)
        return State(self.shift[chosen], self.wkv[chosen])

    def rows(self, n: int) -> "State":
        """Return a view of the first n sequences: what moves it on moves this one on."""
        return State(self.shift[:n], self.wkv[:n])


class Engine:
    """A model ready to run on the processor; its weights never change."""

    def __init__(
        self, checkpoint: Checkpoint, *, threads: int | None = None, instructions: str = ""
    ) -> None:
        """Pack the weights for the best instruction set of this machine, or for a named one.

        `threads` is by default the number of physical cores, at most 4. Raises CheckpointError
        that names the tensor if the weights do not fit the dims, ValueError if `threads` is not
        positive or `instructions` is not in `instruction_sets()`.
        """
        if threads is not None and threads < 1:
            raise ValueError(f"threads: expected at least 1, found {threads}.")
        if instructions and instructions not in instruction_sets():
            known = ", ".join(instruction_sets())
            raise ValueError(f"instructions: expected one of {known}, found '{instructions}'.")
        tensors = {name: _prepared(name, t) for name, t in checkpoint.tensors.items()}
        self._dims = checkpoint.dims
        self._threads = min(_physical_cores(), MAX_DEFAULT_THREADS) if threads is None else threads
        try:
            sizes = astuple(checkpoint.dims)
            self._model = _engine.Model(sizes, tensors, self._threads, instructions)
        except ValueError as error:
            raise CheckpointError(f"weights: {error}.") from error
        release(checkpoint.tensors)  # what was packed is in memory twice

    @property
    def dims(self) -> ModelDims:
        """Sizes of the model."""
        return self._dims

    @property
    def threads(self) -> int:
        """Number of threads that work on a call, the caller's included."""
        return self._threads

    @property
    def instructions(self) -> str:
        """Name of the instruction set in use."""
        return self._model.instructions

    def new_state(self, batch: int = 1) -> State:
        """Return the state of `batch` sequences before their first token."""
        d = self._dims
        return State(
            np.zeros((batch, d.n_layer, 2, d.d_model), np.float32),
            np.zeros((batch, d.n_layer, d.n_head, d.head_size, d.head_size), np.float32),
        )

    def step(self, state: State, ids: Ids) -> Logits:
        """Read one token of each sequence, ids [B]; return logits [B, n_vocab].

        The state moves on in place. Raises ValueError if the ids are not B integers of the
        vocabulary, or the state is not one of this model.
        """
        return self._forward(state, _integers(ids, 1)[:, None], every=False)[:, 0]

    def prefill(self, state: State, ids: Ids) -> Logits:
        """Read T tokens of each sequence, ids [B, T]; return logits [B, n_vocab] after the last.

        Same bits, same state and same errors as T calls of `step`.
        """
        return self._forward(state, _integers(ids, 2), every=False)[:, 0]

    def logits(self, state: State, ids: Ids) -> Logits:
        """Read T tokens of each sequence, ids [B, T]; return logits [B, T, n_vocab] after each."""
        return self._forward(state, _integers(ids, 2), every=True)

    def _forward(self, state: State, ids: NDArray[np.int64], *, every: bool) -> Logits:
        (batch, length), d = ids.shape, self._dims
        _check("shift", state.shift, (batch, d.n_layer, 2, d.d_model))
        _check("wkv", state.wkv, (batch, d.n_layer, d.n_head, d.head_size, d.head_size))
        logits = np.empty((batch, length if every else 1, d.n_vocab), np.float32)
        self._model.forward(ids, state.shift, state.wkv, logits)  # which looks at the ids first
        return logits


def instruction_sets() -> list[str]:
    """Return the names of the instruction sets that this machine runs, best first."""
    return _engine.instruction_sets()


def _prepared(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
    """Return the array the engine reads: C order; vectors, all of them small, as float32."""
    if tensor.dtype not in (np.float32, np.float16, np.int8, np.uint8):
        raise CheckpointError(
            f"weights: tensor '{name}' has type {tensor.dtype}, expected "
            "float32, float16, int8 or uint8."
        )
    is_vector = tensor.ndim != 2 or name.endswith(".r_k")
    if is_vector and tensor.dtype == np.float16:
        return np.ascontiguousarray(tensor, np.float32)
    return np.ascontiguousarray(tensor)


def _integers(ids: Ids, n_dims: int) -> NDArray[np.int64]:
    array = np.asarray(ids)
    shape = "[B]" if n_dims == 1 else "[B, T]"
    if array.ndim != n_dims or array.dtype.kind not in "iu":
        raise ValueError(
            f"ids: expected integers {shape}, found {array.dtype} of shape {array.shape}."
        )
    return np.ascontiguousarray(array, np.int64)


def _check(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"state.{name}: expected shape {shape}, found {array.shape}.")
    if array.dtype != np.float32 or not array.flags.c_contiguous or not array.flags.writeable:
        raise ValueError(f"state.{name}: expected a writable float32 array in C order.")


def _physical_cores() -> int:
    """Return how many cores this process may use, counting two threads of one core once."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text())
        except OSError:
            cores.add(str(cpu))
    return len(cores)
