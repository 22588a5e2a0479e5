"""An engine without weights: legal ids are drawn uniformly, or as a script says."""

import numpy as np

from anser import vocab
from anser.rwkv7.engine import State


class FakeEngine:
    """Counts what it reads; its logits depend on the state alone, as a real engine's do."""

    def __init__(self, likely: dict[int, float] | None = None) -> None:
        self.read: list[list[int]] = []
        self._bias = np.zeros(vocab.N_VOCAB, dtype=np.float32)
        for token, bias in (likely or {vocab.END: 2.0}).items():
            self._bias[token] = bias

    def new_state(self, batch: int = 1) -> State:
        return State(
            np.zeros((batch, 1, 2, 8), dtype=np.float32),
            np.zeros((batch, 1, 1, 8, 8), dtype=np.float32),
        )

    def prefill(self, state: State, ids: np.ndarray) -> np.ndarray:
        for column in np.asarray(ids).T:
            logits = self.step(state, column)
        return logits

    def step(self, state: State, ids: np.ndarray) -> np.ndarray:
        self.read.append([int(i) for i in ids])
        state.wkv[:, 0, 0, 0, 0] = (state.wkv[:, 0, 0, 0, 0] * 31 + np.asarray(ids)) % 1009
        noise = np.sin(state.wkv[:, 0, 0, 0, :1] * np.arange(vocab.N_VOCAB))
        return (noise + self._bias).astype(np.float32)
