"""Prompts + the ids written → logits: how the takes of a request are read, side by side.

With guidance every take is read twice, in the same batch: once with the controls, once without.
What the controls change in the logits counts `strength` times:

    logits = without + strength * (with - without)

**Source:** classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598), for language models
Sanchez et al. 2023, arXiv 2306.17806.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anser import vocab
from anser.prompt import Prompt
from anser.rwkv7.engine import Engine, State
from anser.rwkv7.prefix import PrefixCache

Logits = NDArray[np.float32]


class Reading:
    """The takes of one request as the engine reads them; row i of the logits is take-row i's.

    `prompts` is the prompt, and where `strength` is not 1 the same without controls. In the state,
    the rows of a take's prompts follow each other.
    """

    def __init__(
        self,
        engine: Engine,
        prefixes: PrefixCache,
        prompts: Sequence[Prompt],
        n_takes: int,
        strength: float = 1.0,
    ) -> None:
        self._engine, self._prefixes = engine, prefixes
        self._prompts, self._n_takes, self._strength = prompts, n_takes, strength
        self._n = len(prompts)
        self._state: State

    def begin(self) -> Logits:
        """Read what is given before the first answer; returns logits [n_takes, n_vocab]."""
        given = [prompt.segments[0].given for prompt in self._prompts]
        n_shared = _n_shared(given)
        state, logits = self._prefixes.read(given[0][:n_shared])
        if self._n > 1:
            states = [state, *(state.copy() for _ in given[1:])]
            read = zip(states, given, strict=True)
            logits = np.concatenate([self._engine.prefill(s, g[None, n_shared:]) for s, g in read])
            state = State(
                np.concatenate([s.shift for s in states]), np.concatenate([s.wkv for s in states])
            )
        self._state = state.select(list(range(self._n)) * self._n_takes)
        return self._guided(np.tile(logits, (self._n_takes, 1)))

    def go_on(self, segment: int) -> Logits:
        """Read the end of each take's last answer, and what is given before the next one."""
        given = [
            np.tile([vocab.END, *prompt.segments[segment].given.tolist()], (self._n_takes, 1))
            for prompt in self._prompts
        ]
        if self._n == 1:
            return self._engine.prefill(self._state, given[0])
        logits = np.empty((self._n_takes * self._n, vocab.N_VOCAB), np.float32)
        for which, ids in enumerate(given):
            rows = slice(which, None, self._n)
            state = self._state.select(range(which, len(logits), self._n))
            logits[rows] = self._engine.prefill(state, ids)
            self._state.shift[rows], self._state.wkv[rows] = state.shift, state.wkv
        return self._guided(logits)

    def step(self, ids: Sequence[int]) -> Logits:
        """Read one id of each of the first takes; returns their logits [len(ids), n_vocab]."""
        state = self._state.rows(len(ids) * self._n)
        return self._guided(self._engine.step(state, np.repeat(np.array(ids), self._n)))

    def swap(self, one: int, other: int) -> None:
        """Exchange the rows of two takes."""
        if one != other:
            n = self._n
            first, second = slice(one * n, one * n + n), slice(other * n, other * n + n)
            for part in (self._state.shift, self._state.wkv):
                kept = part[first].copy()
                part[first] = part[second]
                part[second] = kept

    def _guided(self, logits: Logits) -> Logits:
        if self._n == 1:
            return logits
        asked, free = logits[0::2], logits[1::2]
        return np.asarray(free + np.float32(self._strength) * (asked - free))


def _n_shared(given: Sequence[NDArray[np.uint16]]) -> int:
    """Return how many ids all begin with; of several, but not all that one has."""
    if len(given) == 1:
        return len(given[0])
    shortest = min(len(ids) for ids in given) - 1
    same = np.all([ids[:shortest] == given[0][:shortest] for ids in given], axis=0)
    return int(np.argmin(np.append(same, False)))
