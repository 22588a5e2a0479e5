"""Logits + allowed ids → one id.

The only place where chance enters: a `numpy` generator that the caller seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sampling:
    """How an id is drawn from the model's distribution over the allowed ids."""

    temperature: float = 1.0  # 0 = always the likeliest id
    top_p: float = 0.98  # keep the likeliest ids that hold this share of probability
    min_p: float = 0.02  # and only those at least this share as likely as the likeliest
    strength: float = 1.0  # how many times what the controls change in the logits counts
    loosely: bool = False  # density and polyphony are wishes only, not held to where notes can

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 10:
            raise ValueError(f"temperature: expected 0..10, found {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected above 0, at most 1, found {self.top_p}.")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p: expected 0..1, found {self.min_p}.")
        if not 0 <= self.strength <= 10:
            raise ValueError(f"strength: expected 0..10, found {self.strength}.")


@dataclass(frozen=True)
class Pick:
    """The id drawn, and its log-likelihood among the allowed ids at temperature 1."""

    token: int
    log_likelihood: float


def pick(
    logits: NDArray[np.float32],
    allowed: NDArray[np.bool_],
    sampling: Sampling,
    generator: np.random.Generator,
) -> Pick:
    """Draw one of the allowed ids; `logits` and `allowed` are [N_VOCAB].

    Every call takes exactly one number from the generator, so that draws stay in step whatever the
    settings.
    """
    chance = generator.random()
    ids = allowed.nonzero()[0]
    x = logits[ids].astype(np.float64)
    x -= x.max()
    weights = np.exp(x)  # over that of the likeliest
    total = float(weights.sum())
    log_sum = math.log(total)
    if sampling.temperature == 0:
        at = int(x.argmax())
        return Pick(int(ids[at]), float(x[at]) - log_sum)
    if sampling.temperature != 1:
        weights = np.exp(x / sampling.temperature)
        total = float(weights.sum())
    likely = (weights >= sampling.min_p).nonzero()[0]  # sorting these alone is quicker
    order = likely[(-weights[likely]).argsort(kind="stable")]
    cumulative = weights[order].cumsum()
    n_kept = min(int(cumulative.searchsorted(sampling.top_p * total)) + 1, len(order))
    at = int(order[cumulative[:n_kept].searchsorted(chance * cumulative[n_kept - 1])])
    return Pick(int(ids[at]), float(x[at]) - log_sum)
