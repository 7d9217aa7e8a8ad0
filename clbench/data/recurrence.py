"""Streams in which the past recurs: weights by age, whole numbers of examples from weights, and which are drawn.

An experience's lag is how many experiences ago it was; the last one has lag 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from clbench.data.draws import Ints, bits, permutation
from clbench.errors import ConfigError
from clbench.registry.arguments import validated
from clbench.types import HIDDEN, Data, Experience, Stream

Decay = Literal["power", "exponential", "uniform", "recency", "none"]
"""How the weight falls with its lag ℓ: ℓ^−rate, e^−rate·(ℓ−1), not at all, at once; or it is 0."""

Schedule = Decay | Literal["blocked"]
"""When the past recurs: by its lag, or all of it with the last experience."""
Reading = Literal["block", "probabilistic", "renewal"]
"""How weights are read: as shares of the examples, or as chances to recur, by when one came, or last recurred."""
Floats = npt.NDArray[np.float64]


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

    Among equal remainders the first gets one more. All are 0 where all weights are.
    """
    if not weights.any():
        return np.zeros(len(weights), dtype=np.int64)
    quota = total * weights / weights.sum()
    counts: Ints = np.floor(quota).astype(np.int64)
    largest = np.argsort(counts - quota, kind="stable")[: total - int(counts.sum())]
    counts[largest] += 1
    return counts


@validated
def rehearse(
    train: Stream,
    *,
    schedule: Schedule = "power",
    rate: float = 1.0,
    old: int = 200,
    reading: Reading = "block",
    chance: float = 0.5,
    size: int | None = None,
    seed: int = 0,
) -> Stream:
    """An environment in which the past recurs: examples of earlier experiences are mixed into each one.

    They are drawn without replacement, anew for each experience, from all of the earlier one's examples. The
    weight of an experience falls with its lag ℓ, how many experiences ago it was: w = ℓ^−rate for "power",
    e^−rate·(ℓ−1) for "exponential", 1 for "uniform", 0 from ℓ = 2 on for "recency", 0 for "none". "blocked"
    brings all old examples with the last experience, equally many of each, and as many as the others in all.

    Args:
        schedule, rate: how the weight falls.
        old: old examples of each experience but the first, in all; but in the last two readings of every
            experience that recurs.
        reading: "block": `old` examples are shared out in proportion to the weights by largest remainders, so
            that all schedules bring equally many. "probabilistic": an experience recurs with probability
            min(1, chance · w). "renewal": the same, but ℓ counts from when it last recurred.
        chance: probability of an experience of lag 1.
        size: new examples of each experience; all if None.

    Raises:
        ConfigError: more old examples than an experience has, or parameters that do not go together.
    """
    _check(train, schedule, old, reading, chance, size)
    recurs = _recurring(len(train), schedule, rate, old, reading, chance, seed)
    experiences = []
    for k, exp in enumerate(train):
        parts = [exp.data if size is None else _some(exp, size, seed, f"new of {k}")]
        for i in np.flatnonzero(recurs[k]).tolist():
            parts.append(_some(train[i], int(recurs[k, i]), seed, f"old {i} in {k}"))
        past = np.flatnonzero(recurs[k]).tolist()
        classes = sorted({*exp.classes, *(c for i in past for c in train[i].classes)})
        experiences.append(replace(exp, classes=tuple(classes), data=Data.union(parts)))
    return Stream(train.name, tuple(experiences))


def _check(
    train: Stream, schedule: Schedule, old: int, reading: Reading, chance: float, size: int | None
) -> None:
    if old < 0 or (size is not None and size < 1):
        raise ConfigError(f"old is 0 or more and size 1 or more; {old} and {size} were given.")
    if any(exp.task != HIDDEN for exp in train):
        raise ConfigError("Experiences with task labels hold one task each; old examples cannot be mixed in.")
    if reading != "block" and schedule == "blocked":
        raise ConfigError(f"The schedule 'blocked' has no {reading} reading; the reading may be block.")
    if not 0 <= chance <= 1 or (reading == "renewal" and chance == 1):
        raise ConfigError(
            f"chance lies in [0, 1], below 1 in the renewal reading, where everything would recur for ever; "
            f"{chance} was given."
        )


def _recurring(
    n: int, schedule: Schedule, rate: float, old: int, reading: Reading, chance: float, seed: int
) -> Ints:
    """(n, n) how many examples of experience i recur in experience k."""
    counts = np.zeros((n, n), dtype=np.int64)
    if schedule == "blocked":
        if n > 1:
            counts[-1, :-1] = old
        return counts
    weights = lag_weights(schedule, n, rate)
    if reading == "block":
        for k in range(1, n):
            counts[k, :k] = share_out(old, weights[:k])[::-1]
        return counts
    last = np.arange(n)  # when each experience was last present
    for k in range(1, n):
        lag = k - last[:k]
        likely = np.minimum(1, chance * weights[lag - 1])
        present = (bits(k, seed, f"recurs in {k}") >> np.uint64(11)) < likely * 2.0**53
        counts[k, :k] = old * present
        if reading == "renewal":
            last[:k][present] = k
    return counts


def _some(exp: Experience, n: int, seed: int, purpose: str) -> Data:
    """n examples of an experience, drawn without replacement."""
    if n > len(exp):
        raise ConfigError(
            f"{n} examples of experience {exp.index + 1} were asked for, which has {len(exp)}; lower old or size."
        )
    return exp.data.subset(torch.from_numpy(np.sort(permutation(len(exp), seed, purpose)[:n])))
