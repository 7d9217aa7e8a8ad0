"""How much of the past recurs: weights by age, and whole numbers of examples from weights.

An experience's lag is how many experiences ago it was; the last one has lag 1.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from clbench.errors import ConfigError

Decay = Literal["power", "exponential", "uniform", "recency", "none"]
"""How the weight falls with its lag ℓ: ℓ^−rate, e^−rate·(ℓ−1), not at all, at once; or it is 0."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def lag_weights(decay: Decay, lags: int, rate: float) -> Floats:
    """(lags,) weights of lags 1, 2, …, relative to that of lag 1.

    Raises:
        ConfigError: a negative rate.
    """
    if not rate >= 0:
        raise ConfigError(f"The rate at which the past fades is 0 or more; {rate} was given.")
    lag = np.arange(1, lags + 1, dtype=np.float64)
    if decay == "power":
        return lag**-rate
    if decay == "exponential":
        return np.exp(-rate * (lag - 1))
    if decay == "uniform":
        return np.ones(lags)
    return (lag == 1).astype(np.float64) if decay == "recency" else np.zeros(lags)


def share_out(total: int, weights: Floats) -> Ints:
    """Whole numbers in proportion to weights that add up to the total to the unit, by largest remainders.

    Of equal remainders, the first gets one more. All are 0 where all weights are.
    """
    if not weights.any():
        return np.zeros(len(weights), dtype=np.int64)
    quota = total * weights / weights.sum()
    counts: Ints = np.floor(quota).astype(np.int64)
    largest = np.argsort(counts - quota, kind="stable")[: total - int(counts.sum())]
    counts[largest] += 1
    return counts
