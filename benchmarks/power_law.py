"""Environments in which past experiences recur, the less often the longer ago they were, as in nature.

Gandhi, Shah, Marupudi, Varma: Natural mitigation of catastrophic interference: continual learning in
power-law learning environments (arXiv:2401.10393). No algorithm and no memory: the stream itself brings old
examples.

These are a reconstruction: how many old examples recur, and by which of three readings, is a parameter, and a
result must name it. Controls of an equal total are schedules, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from clbench.data import Reading, Schedule, rehearse
from clbench.ranges import Count, Natural, NotNegative, Seed, Share
from clbench.registry import register_benchmarks
from clbench.types import Benchmark

from .domains import permuted
from .split import split


@register_benchmarks("power_law.yaml")
def power_law(
    told: dict[str, Any],
    *,
    data: str,
    domains: Count = 0,
    experiences: Count = 5,
    class_order: Literal["natural", "shuffled"] = "natural",
    schedule: Schedule = "power",
    rate: NotNegative = 1.0,
    old: Natural = 200,
    reading: Reading = "block",
    chance: Share = 0.5,
    size: Count | None = None,
    online: bool = False,
    augment: bool = False,
    seed: Seed = 0,
) -> Benchmark:
    """Permuted domains, where there are any, or new classes, with old examples in the training stream.

    Args:
        domains: number of experiences.
        experiences: 1, 2, 5 or 10.
        class_order: natural, or drawn from the seed.
        schedule: how the weight of an experience falls with its age ℓ: power (ℓ^−rate), exponential, uniform,
            recency (the last one only), none; or blocked: all old examples with the last experience.
        rate: how fast it falls.
        old: old examples in each experience but the first, in all; in the other readings of each that recurs.
        reading: block (the same total for every schedule), probabilistic, or renewal.
        chance: of the last two: probability that the last experience recurs.
        size: new examples of each experience; all if none is given.
        online: one pass over the stream.
        augment: random crops (4 pixels of padding) and flips in training.
        seed: of a shuffled class order and of the examples drawn.
    """
    if domains:
        base = permuted(told, data=data, domains=domains, online=online, seed=seed)
    else:
        base = split(
            told,
            data=data,
            experiences=experiences,
            class_order=class_order,
            online=online,
            augment=augment,
            seed=seed,
        )
    train = rehearse(
        base.train,
        schedule=schedule,
        rate=rate,
        old=old,
        reading=reading,
        chance=chance,
        size=size,
        seed=seed,
    )
    mixed = any(len(exp.data.parts) > 1 for exp in train)
    return replace(base, train=train, seed=seed if mixed or size is not None else base.seed)
