"""Environments in which past experiences recur, the less often the longer ago they were, as in nature.

Gandhi, Shah, Marupudi, Varma: Natural mitigation of catastrophic interference: continual learning in
power-law learning environments (arXiv:2401.10393). No algorithm and no memory: the stream itself brings old
examples.

These are a reconstruction: how many old examples recur, and by which of three readings, is a parameter, and a
result must name it. Controls of an equal total are schedules, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from clbench.data import build, digits, load
from clbench.data.streams import Reading, Schedule, permutations, rehearse
from clbench.ranges import Count, Natural, NotNegative, Seed, Share
from clbench.registry import register_benchmark
from clbench.types import Benchmark

NOTES = (
    "The published training and test sets. The environment supplies old examples, beside those of any memory."
)


@register_benchmark("power-law-permuted-mnist", version=1)
def power_law_permuted_mnist(
    domains: Count = 10,
    schedule: Schedule = "power",
    rate: NotNegative = 1.0,
    old: Natural = 200,
    reading: Reading = "block",
    chance: Share = 0.5,
    size: Count | None = 3000,
    online: bool = False,
    seed: Seed = 0,
) -> Benchmark:
    """Permuted MNIST in an environment in which past permutations recur, by a power law of their age.

    Args:
        domains: number of experiences.
        schedule: how the weight of an experience falls with its age ℓ: power (ℓ^−rate), exponential, uniform,
            recency (the last one only), none; or blocked: all old examples with the last experience.
        rate: of the fall.
        old: old examples in each experience but the first, in all; in the other readings of each that recurs.
        reading: block (the same total for every schedule), probabilistic, or renewal.
        chance: of the last two: probability that the last experience recurs.
        size: new examples of each experience; all if none is given.
        online: one pass over the stream.
        seed: of the permutations and of the examples drawn.
    """
    spec: dict[str, object] = dict(locals())
    base = build(
        load("mnist"),
        name="power-law-permuted-mnist",
        shift="domain",
        changes=permutations(domains, 28 * 28, seed),
        online=online,
        seed=seed,
        notes=NOTES,
        spec=spec,
    )
    return _recurring(base, schedule, rate, old, reading, chance, size, seed)


@register_benchmark("power-law-split-mnist", version=1)
def power_law_split_mnist(
    experiences: Count = 5,
    class_order: Literal["natural", "shuffled"] = "natural",
    schedule: Schedule = "power",
    rate: NotNegative = 1.0,
    old: Natural = 200,
    reading: Reading = "block",
    chance: Share = 0.5,
    size: Count | None = None,
    online: bool = False,
    seed: Seed = 0,
) -> Benchmark:
    """Split MNIST in an environment in which past classes recur, by a power law of their age.

    Args:
        experiences: 1, 2, 5 or 10.
        schedule: how the weight of an experience falls with its age ℓ: power (ℓ^−rate), exponential, uniform,
            recency (the last one only), none; or blocked: all old examples with the last experience.
        rate: of the fall.
        old: old examples in each experience but the first, in all; in the other readings of each that recurs.
        reading: block (the same total for every schedule), probabilistic, or renewal.
        chance: of the last two: probability that the last experience recurs.
        size: new examples of each experience; all if none is given.
        online: one pass over the stream.
        seed: of a shuffled class order and of the examples drawn.
    """
    spec: dict[str, object] = dict(locals())
    base = build(
        load("mnist"),
        name="power-law-split-mnist",
        experiences=experiences,
        class_order=class_order,
        online=online,
        seed=seed,
        notes=NOTES,
        spec=spec,
    )
    return _recurring(base, schedule, rate, old, reading, chance, size, seed)


@register_benchmark("power-law-split-cifar100", version=1)
def power_law_split_cifar100(
    experiences: Count = 10,
    class_order: Literal["natural", "shuffled"] = "natural",
    schedule: Schedule = "power",
    rate: NotNegative = 1.0,
    old: Natural = 500,
    reading: Reading = "block",
    chance: Share = 0.5,
    size: Count | None = None,
    online: bool = False,
    augment: bool = True,
    seed: Seed = 0,
) -> Benchmark:
    """Split CIFAR-100 in an environment in which past classes recur, by a power law of their age.

    Args:
        experiences: a divisor of 100.
        schedule: how the weight of an experience falls with its age ℓ: power (ℓ^−rate), exponential, uniform,
            recency (the last one only), none; or blocked: all old examples with the last experience.
        rate: of the fall.
        old: old examples in each experience but the first, in all; in the other readings of each that recurs.
        reading: block (the same total for every schedule), probabilistic, or renewal.
        chance: of the last two: probability that the last experience recurs.
        size: new examples of each experience; all if none is given.
        online: one pass over the stream.
        augment: random crops (4 pixels of padding) and flips in training.
        seed: of a shuffled class order and of the examples drawn.
    """
    spec: dict[str, object] = dict(locals())
    base = build(
        load("cifar100"),
        name="power-law-split-cifar100",
        experiences=experiences,
        class_order=class_order,
        online=online,
        augment=("crop", "flip") if augment else (),
        seed=seed,
        notes=NOTES,
        spec=spec,
    )
    return _recurring(base, schedule, rate, old, reading, chance, size, seed)


@register_benchmark("power-law-permuted-digits", version=1)
def power_law_permuted_digits(
    domains: Count = 10,
    schedule: Schedule = "power",
    rate: NotNegative = 1.0,
    old: Natural = 100,
    reading: Reading = "block",
    chance: Share = 0.5,
    size: Count | None = 500,
    online: bool = False,
    seed: Seed = 0,
) -> Benchmark:
    """Permuted digits in an environment in which past permutations recur, by a power law of their age.

    Args:
        domains: number of experiences.
        schedule: how the weight of an experience falls with its age ℓ: power (ℓ^−rate), exponential, uniform,
            recency (the last one only), none; or blocked: all old examples with the last experience.
        rate: of the fall.
        old: old examples in each experience but the first, in all; in the other readings of each that recurs.
        reading: block (the same total for every schedule), probabilistic, or renewal.
        chance: of the last two: probability that the last experience recurs.
        size: new examples of each experience; all if none is given.
        online: one pass over the stream.
        seed: of the permutations and of the examples drawn.
    """
    spec: dict[str, object] = dict(locals())
    base = build(
        digits(),
        name="power-law-permuted-digits",
        shift="domain",
        changes=permutations(domains, 64, seed),
        online=online,
        seed=seed,
        notes="As permuted-digits. The environment supplies old examples, beside those of any memory.",
        spec=spec,
    )
    return _recurring(base, schedule, rate, old, reading, chance, size, seed)


def _recurring(
    base: Benchmark,
    schedule: Schedule,
    rate: float,
    old: int,
    reading: Reading,
    chance: float,
    size: int | None,
    seed: int,
) -> Benchmark:
    """The benchmark with old examples in its training stream."""
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
