"""Token ids → state and logits, reading again only what was not read before.

A state is of fixed size, so what a model has read of a prompt can be kept and gone on from. Knows
no music.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anser.rwkv7.engine import Engine, State


@dataclass(frozen=True)
class _Kept:
    state: State
    logits: NDArray[np.float32]

    @property
    def n_bytes(self) -> int:
        return int(self.state.shift.nbytes + self.state.wkv.nbytes + self.logits.nbytes)


class PrefixCache:
    """Remembers the states after prefixes of what was read, the least recently used go first.

    States are kept every `every` ids and at the end. The engine gives the same bits however ids are
    cut into calls, so reading through the cache changes no result. Memory stays below `max_bytes`.
    """

    def __init__(self, engine: Engine, max_bytes: int = 48 << 20, every: int = 256) -> None:
        if every < 1:
            raise ValueError(f"every: expected at least 1, found {every}.")
        self.engine = engine
        self.n_read = 0  # ids that the engine had to read, since the beginning
        self._max_bytes, self._every = max_bytes, every
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._n_bytes = 0

    @property
    def n_bytes(self) -> int:
        """Memory that the kept states take."""
        return self._n_bytes

    def read(self, ids: NDArray[np.integer[Any]]) -> tuple[State, NDArray[np.float32]]:
        """Return the state after the ids [T] and the logits [1, n_vocab]; both are the caller's.

        Raises `ValueError` if there is no id, or one that the vocabulary has not.
        """
        read = np.ascontiguousarray(ids, dtype=np.int64)
        cuts = [*range(self._every, len(read), self._every), len(read)]
        keys = self._keys(read, cuts)
        n_known = next((n for n in range(len(cuts), 0, -1) if keys[n - 1] in self._kept), 0)
        if n_known:
            self._kept.move_to_end(keys[n_known - 1])
            known = self._kept[keys[n_known - 1]]
            state, logits = known.state.copy(), known.logits.copy()
        else:
            state = self.engine.new_state(1)
            logits = np.empty((1, 0), dtype=np.float32)
        begin = cuts[n_known - 1] if n_known else 0
        for cut, key in zip(cuts[n_known:], keys[n_known:], strict=True):
            logits = self.engine.prefill(state, read[None, begin:cut])
            self.n_read += cut - begin
            begin = cut
            self._keep(key, _Kept(state.copy(), logits.copy()))
        return state, logits

    def _keys(self, ids: NDArray[np.int64], cuts: list[int]) -> list[bytes]:
        """Return a key for the prefix that ends at each cut."""
        digest, begin, keys = hashlib.sha256(), 0, []
        for cut in cuts:
            digest.update(ids[begin:cut].tobytes())
            keys.append(digest.digest())
            begin = cut
        return keys

    def _keep(self, key: bytes, kept: _Kept) -> None:
        self._kept[key] = kept
        self._n_bytes += kept.n_bytes
        while self._n_bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._n_bytes -= oldest.n_bytes
