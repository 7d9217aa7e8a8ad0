"""Streams in which classes come back: slots of classes, first and later occurrences, and hundreds of draws of a few.

Each generator gives the rows of every experience. Draws of the released generators are made in their order, with
NumPy's legacy generator and torch's, which both keep their streams: a seed has the stream that it has there.

Shapes: P examples, N experiences, C classes, K slots or classes of an experience.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clbench.data.draws import Ints
from clbench.data.families import Preparation, made, transform_of
from clbench.data.preparing import recipe_of
from clbench.data.shares import (
    Streams,
    classes_of,
    held_out,
    labels_of,
    refuse_unmatched,
    validation_labels,
)
from clbench.data.source import Source
from clbench.errors import ConfigError, DataError
from clbench.registry.arguments import validated
from clbench.types import Benchmark, Data, Experience, Pool, Setting, Stream

First = Literal["uniform", "uniform-alpha", "poisson", "zipf", "zipf-reversed", "geometric"]
"""How likely experience e is a class's first one."""
Again = Literal["fixed", "dual", "zipf", "poisson", "random"]
"""How likely a class comes again in each later experience."""
Plan = Literal["drawn", "cycle", "restricted", "periods", "half"]
"""Which classes an experience may have: `recurring`."""
Floats = npt.NDArray[np.float64]


class Repeated(NamedTuple):
    """A stream in which classes come back.

    Attributes:
        rows: (n,) int64 of each experience, of the labels that it was made of.
        told: what whoever reads results should know; sentences.
    """

    rows: list[Tensor]
    told: tuple[str, ...] = ()


# --- class-incremental with repetition ---


def slot_table(y: Ints, *, experiences: int, slots: int, seed: int) -> tuple[Ints, list[Tensor]]:
    """Return which class each slot of an experience has, (N, K), and the rows of every experience.

    1. N·K slots are shared out: ⌊N·K/C⌋ to each class, one more to the first N·K mod C of a random order.
    2. Each class's rows are permuted and cut into as many equal parts; what does not divide is left out.
    3. Experiences are filled from the last to the first, with K different classes as long as so many have slots left,
       then one by one. Each takes one of its class's parts that are left, at random.

    Raises:
        ConfigError: there are too few slots for the classes, or too many. DataError: a class has fewer rows than slots.

    Reference: Hemati et al., "Class-Incremental Learning with Repetition", CoLLAs 2023, arXiv:2301.11396.
    """
    classes, sizes = np.unique(y, return_counts=True)
    C, N, K = len(classes), experiences, slots
    if not C <= N * K or K > C:
        least = -(-C // N)
        raise ConfigError(
            f"{C} classes cannot fill {N} experiences of {K} slots each: every class needs a slot, and no experience "
            f"more slots than classes; slots may be {least} to {C}."
            + (f" Or raise experiences to {-(-C // K)}." if K <= C else "")
        )
    rng, torch_rng = np.random.RandomState(seed), torch.Generator().manual_seed(seed)
    order = list(range(C))
    rng.shuffle(order)
    left = dict.fromkeys(range(C), N * K // C) | dict.fromkeys(order[: N * K % C], N * K // C + 1)
    parts: dict[int, list[Tensor]] = {}
    for c in order:
        of = torch.from_numpy(np.flatnonzero(y == classes[c]))
        of, step = of[torch.randperm(len(of), generator=torch_rng)], sizes[c] // left[c]
        if step == 0:
            raise DataError(
                f"Class {classes[c]} has {sizes[c]} training examples for {left[c]} slots; lower experiences or slots."
            )
        parts[c] = [of[i * step : (i + 1) * step] for i in range(left[c])]
    table, rows = np.zeros((N, K), dtype=np.int64), list[Tensor]()

    def drawn(n: int, replace: bool) -> list[int]:
        """n classes that have slots left."""
        some: list[int] = rng.choice(sorted(left), size=n, replace=replace).tolist()
        for c in some:
            left[c] -= 1
            if not left[c]:
                del left[c]
        return some

    for i in reversed(range(N)):
        enough = len(left) >= K
        chosen = drawn(K, False) if enough else [c for _ in range(K) for c in drawn(1, True)]
        table[i] = classes[chosen]
        rows.insert(0, torch.cat([parts[c].pop(rng.randint(0, len(parts[c]))) for c in chosen]))
    return table, rows


def first_occurrence(experiences: int, by: First, value: float) -> Floats:
    """(N,) the probability that experience e, from 0, is a class's first one.

    uniform; uniform-alpha: the first ⌈value · N⌉ alike; poisson: μ^e / e!; zipf: 1 / (e + 1)^value, or reversed;
    geometric: (1 − value)^e. All add up to 1.

    Raises:
        ConfigError: a value out of range.
    """
    if by in ("uniform-alpha", "geometric") and not 0 < value <= 1:
        raise ConfigError(f"With first={by}, first_value lies above 0 and is 1 at most; {value} was given.")
    e = np.arange(experiences, dtype=np.float64)
    weight: Floats = np.ones(experiences)
    if by == "uniform-alpha":
        weight = (e < math.ceil(value * experiences)).astype(np.float64)
    elif by == "poisson":
        weight = _poisson(experiences, value)
    elif by == "geometric":
        weight = value * (1 - value) ** e
    elif by != "uniform":
        weight = 1 / (e + 1) ** value
        weight = weight[::-1] if by == "zipf-reversed" else weight
    if not weight.sum() > 0:
        raise ConfigError(f"With first={by} and first_value={value}, no class would ever come.")
    weight /= weight.sum()
    return weight


def comes_again(
    classes: int, by: Again, value: float, dual: Sequence[float], rng: np.random.RandomState
) -> Floats:
    """(C,) the probability that a class comes in each experience after its first one; shuffled over the classes.

    fixed: value. dual: p_low for a share of the classes, p_high for the others, of (share, p_low, p_high). zipf:
    1 / rank^value. poisson: of mean value, at rank − 1. random: uniform in [0, 1).
    """
    if by in ("fixed", "dual") and not all(0 <= p <= 1 for p in (value, *dual)):
        raise ConfigError(
            f"With again={by}, probabilities lie in [0, 1]; {value} and {tuple(dual)} were given."
        )
    p: Floats = np.full(classes, value)
    if by == "dual":
        low = int(classes * dual[0])
        p = np.array([dual[1]] * low + [dual[2]] * (classes - low))
    elif by == "poisson":
        p = _poisson(classes, value)
    elif by != "fixed":
        p = rng.rand(classes) if by == "random" else 1 / np.arange(1, classes + 1) ** value
    rng.shuffle(p)
    return p


def _poisson(n: int, mu: float) -> Floats:
    """(n,) e^−μ μ^k / k! for k = 0, 1, …"""
    if mu == 0:
        return np.array([1.0] + [0.0] * (n - 1))
    return np.array([math.exp(k * math.log(mu) - math.lgamma(k + 1) - mu) for k in range(n)])


def sampled_table(
    y: Ints,
    *,
    experiences: int,
    examples: int,
    first: First = "geometric",
    first_value: float = 0.01,
    again: Again = "fixed",
    again_value: float = 0.2,
    dual: Sequence[float] = (0.5, 0.1, 0.9),
    seed: int,
) -> tuple[Ints, list[Tensor]]:
    """Return how many rows of each class every experience has, (C, N′), and these rows.

    1. Each class comes first in an experience that is drawn by `first_occurrence`.
    2. In every later one it comes with its probability of `comes_again`. Experiences without classes are left out.
    3. `examples` rows are shared equally by the classes of an experience; what is left over goes to the first ones in a
       random order. A class draws its rows without replacement, anew in every experience; one with fewer rows than
       its share gives all it has.

    Raises:
        ConfigError: a value out of range, or an experience with fewer rows than classes.

    Reference: Hemati et al., "Class-Incremental Learning with Repetition", CoLLAs 2023, arXiv:2301.11396.

    Differences from the authors' code:
        1. `random` and `dual` draw from the stream's generator; there, from global ones that nothing seeds.
    """
    classes = np.unique(y)
    C, N = len(classes), experiences
    rng, torch_rng = np.random.RandomState(seed), torch.Generator().manual_seed(seed)
    rng.shuffle(list(range(C)))  # the authors draw an order of the classes, and do not use it
    begins = rng.choice(N, C, p=first_occurrence(N, first, first_value), replace=True)
    p = comes_again(C, again, again_value, dual, rng)
    present = torch.zeros(C, N, dtype=torch.bool)
    for c, begin in enumerate(begins.tolist()):
        present[c, begin] = True
        present[c, begin + 1 :] = torch.rand(N - begin - 1, generator=torch_rng) < float(p[c])
    present = present[:, present.any(0)]
    shares = torch.zeros(present.shape, dtype=torch.int64)
    for i, column in enumerate(present.T):
        there = column.nonzero().squeeze(1).numpy()
        if len(there) > examples:
            raise ConfigError(
                f"Experience {i + 1} has {len(there)} classes and {examples} examples for them; raise "
                f"examples to {C}, which is always enough, or make classes rarer."
            )
        rng.shuffle(there)
        each, more = divmod(examples, len(there))
        shares[there, i] = torch.tensor([each + (k < more) for k in range(len(there))])
    parts: list[list[Tensor]] = [[] for _ in range(present.shape[1])]
    for c in range(C):
        of = torch.from_numpy(np.flatnonzero(y == classes[c]))
        for i in shares[c].nonzero().squeeze(1).tolist():
            parts[i].append(of[torch.randperm(len(of), generator=torch_rng)][: shares[c, i]])
            shares[c, i] = len(parts[i][-1])
    return shares.numpy(), [torch.cat(of) for of in parts]


# --- long streams of recurring classes ---


def class_chances(classes: int, entropy: float, factor: float) -> Floats:
    """(C,) p_i ∝ ((1 − f · i) / C)^e: alike for e = 0, ever less so for larger e.

    Raises:
        ConfigError: a factor with which a class would have no chance.
    """
    base = (1 - factor * np.arange(classes)) / classes
    if not (base > 0).all():
        raise ConfigError(
            f"With {classes} classes, factor lies below 1/{classes - 1} so that each has a chance; {factor} was given."
        )
    weight: Floats = (base / base.sum()) ** entropy
    weight /= weight.sum()
    return weight


def recurring(
    classes: int,
    *,
    experiences: int,
    each: int,
    entropy: float = 0.0,
    factor: float | None = None,
    reduction: float = 1.0,
    plan: Plan = "drawn",
    share: float = 1.0,
    seed: int,
) -> Ints:
    """(N, K) the classes of each experience, K different ones of C.

    Args:
        each: K. entropy: e, of `class_chances`, which are shuffled. factor: f; 0.05, or 0.01 from 21 classes on.
        reduction: r: what the chance of a class is divided by when it has come.
        plan: "drawn": without replacement by the chances. "cycle": all combinations of K classes in turn, each class
            replaced by another one with probability `share`. "restricted": only a share of these combinations may
            come. "periods": the first half of the classes in the first half of the stream, the second in the second.
            "half": after the middle of the stream, only the first half of the classes comes.

    Raises:
        ConfigError: numbers that do not fit together.

    Reference: Lesort et al., "Challenging Common Assumptions about Catastrophic Forgetting and Knowledge Accumulation",
    CoLLAs 2023, arXiv:2207.04543.
    """
    C, N, K = classes, experiences, each
    half, splits = C // 2, plan in ("periods", "half")
    if (half if splits else C) < K:
        raise ConfigError(
            f"An experience draws {K} different classes of {half if splits else C}; lower classes_each"
            + (" or take another plan." if splits else ".")
        )
    if plan != "drawn" and (entropy, reduction) != (0, 1) and plan != "periods":
        raise ConfigError(f"plan={plan} takes all classes alike; leave out entropy and reduction.")
    rng = np.random.RandomState(seed)
    p = class_chances(C, entropy, (0.05 if C <= 20 else 0.01) if factor is None else factor)
    if entropy:
        rng.shuffle(p)
    if plan in ("cycle", "restricted"):
        return _of_combinations(C, N, K, share, plan == "cycle", rng)
    table = np.zeros((N, K), dtype=np.int64)
    for t in range(N):
        late = t > N / 2 if plan == "half" else 2 * t >= N
        some = np.arange(C)
        if splits and (late or plan == "periods"):
            some = some[half:] if plan == "periods" and late else some[:half]
        chance = p[some] / p[some].sum()
        table[t] = rng.choice(some, size=K, replace=False, p=chance)
        if reduction != 1:
            p[table[t]] /= reduction
            p /= p.sum()
    return table


COMBINATIONS = 1_000_000
"""Combinations of classes that are listed at most."""


def _of_combinations(C: int, N: int, K: int, share: float, cycle: bool, rng: np.random.RandomState) -> Ints:
    if math.comb(C, K) > COMBINATIONS:
        raise ConfigError(
            f"There are {math.comb(C, K):,} combinations of {K} of {C} classes, and {COMBINATIONS:,} can be listed."
        )
    all_of = np.array(list(itertools.combinations(range(C), K)))
    if not cycle:
        rng.shuffle(all_of)
        return all_of[rng.randint(0, max(int(share * len(all_of)), 1), size=N)]
    table = all_of[np.arange(N) % len(all_of)]
    for row in table:
        for k in np.flatnonzero(rng.rand(K) < share) if C > K else ():
            row[k] = rng.choice(np.setdiff1d(np.arange(C), row))
    return table


# --- benchmarks ---

Generator = Callable[[Ints, int], Repeated]
"""From labels (P,) and a seed to a stream."""


def by_slots(*, experiences: int, slots: int) -> Generator:
    """Return the generator of `slot_table`."""

    def generate(y: Ints, seed: int) -> Repeated:
        return Repeated(slot_table(y, experiences=experiences, slots=slots, seed=seed)[1])

    return generate


def by_occurrence(*, experiences: int, examples: int, **chances: Any) -> Generator:
    """Return the generator of `sampled_table`; `chances` are its others."""

    def generate(y: Ints, seed: int) -> Repeated:
        table, rows = sampled_table(y, experiences=experiences, examples=examples, seed=seed, **chances)
        told = []
        if len(rows) < experiences:
            told.append(
                f"Of {experiences} experiences, {experiences - len(rows)} have no class and are left out."
            )
        if short := int((table.sum(0) < examples).sum()):
            told.append(f"{short} experiences have fewer than {examples} examples, as a class has no more.")
        return Repeated(rows, tuple(told))

    return generate


def scole(**settings: Any) -> Generator:
    """Return the generator of `recurring`: an experience has all rows of its classes."""

    def generate(y: Ints, seed: int) -> Repeated:
        classes = np.unique(y)
        table = recurring(len(classes), seed=seed, **settings)
        of = [torch.from_numpy(np.flatnonzero(y == c)) for c in classes]
        absent = len(classes) - len(np.unique(table))
        told = (f"{absent} of the {len(classes)} classes never come.",) if absent else ()
        return Repeated([torch.cat([of[c] for c in sorted(row)]) for row in table.tolist()], told)

    return generate


@validated
def build_repeated(
    source: Source,
    generate: Any,
    *,
    name: str,
    version: int = 1,
    metrics: Sequence[str] = (),
    online: bool = False,
    valid: float = 0.0,
    augment: Sequence[str] | None = None,
    size: int | None = None,
    recipe: Preparation = None,
    seed: int = 0,
    notes: str = "",
) -> Benchmark:
    """A benchmark in which classes come back, with all test examples of all classes tested after every experience.

    Args:
        generate: a `Generator`.
        metrics: that its tables show. Others: as for `build`.

    Raises:
        ConfigError: parameters that do not fit the data. DataError: a class that is only trained, or only tested.
    """
    y, y_test = labels_of(source.train, "training"), labels_of(source.test, "test")
    refuse_unmatched("class", np.unique(y), np.unique(y_test))
    held = held_out(y, valid, seed)
    if held is not None and source.valid is not None:
        raise ConfigError(f"{name}: the data have validation examples of their own; leave out valid.")
    kept = np.arange(len(y)) if held is None else np.flatnonzero(~held)
    found = generate(y[kept], seed)
    of = torch.from_numpy(kept)
    train = [Data.of(source.train, of[rows]) for rows in found.rows]
    experiences = (
        Experience(i, classes_of(source.train, data.parts[0][1]), data, tests=(0,))
        for i, data in enumerate(train)
    )
    used = len(torch.cat(found.rows).unique())
    told = (*source.found, *found.told, *([_left_out(used, len(kept))] if used < len(kept) else []))
    if source.valid is not None:
        validation_labels(source.valid, np.unique(y))
    streams = Streams(
        Stream("train", tuple(experiences)),
        _whole("test", source.test),
        _whole("valid", source.valid)
        if source.valid is not None
        else None
        if held is None
        else _whole("valid", source.train, np.flatnonzero(held)),
    )
    return made(
        replace(source, found=told),
        streams,
        Setting("class", passes=1 if online else None),
        transform_of(source, name, augment, None, None, "auto", train[0], recipe_of(name, recipe, size)),
        "note",
        name=name,
        version=version,
        metrics=tuple(metrics),
        seed=seed,
        notes=notes,
    )


def _whole(name: str, pool: Pool, rows: Ints | None = None) -> Stream:
    every = torch.arange(len(pool.y)) if rows is None else torch.from_numpy(rows)
    return Stream(name, (Experience(0, classes_of(pool, every), Data.of(pool, every)),))


def _left_out(used: int, rows: int) -> str:
    return f"The stream has {used:,} of the {rows:,} training examples."
