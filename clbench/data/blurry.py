"""Blurry streams and benchmarks: one pass without boundaries, in which some classes come back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clbench.data.draws import Ints
from clbench.data.duplicates import Duplicates
from clbench.data.families import Normalise, made, transform_of
from clbench.data.shares import Streams, classes_of, labels_of, refuse_unmatched, validation_labels
from clbench.data.source import Source
from clbench.errors import ConfigError, DataError
from clbench.registry.arguments import validated
from clbench.types import Benchmark, Data, Experience, Pool, Setting, Stream


class Blurred(NamedTuple):
    """Which class and which example belongs to which of T tasks.

    Attributes:
        disjoint: classes that come in this task alone.
        blurry: classes whose home this task is; some of their examples come in others.
        rows: (n,) of each task, in the order of the stream.
    """

    disjoint: tuple[tuple[int, ...], ...]
    blurry: tuple[tuple[int, ...], ...]
    rows: tuple[Tensor, ...]


@validated
def blurred(
    y: npt.ArrayLike,
    *,
    tasks: int = 5,
    disjoint: int = 50,
    blurry: int = 10,
    varying: bool = True,
    seed: int = 0,
) -> Blurred:
    """Tasks with unclear boundaries: some classes belong to one task, examples of the others stray.

    1. n_dis = ⌊⌊C·N/100⌋ / T⌋ · T of C classes are disjoint and ⌊(C − n_dis) / T⌋ · T blurry, in the order of a random
       permutation; the rest is left out.
    2. Each of the two lists is cut at T − 1 random places, which may repeat, so that a task may get none of it; or,
       not varying, into equal parts.
    3. M % of the blurry examples are exchanged: the first k_j of task j, in the order of the data, are pooled, shuffled
       and handed back in portions of k_1 … k_T. These are the distances of T − 1 random places; or, not varying, M %
       of each task's go and all get as many back.
    4. Each task's examples are shuffled.

    Drawn by torch's generator in the order of the authors' sampler, so that a seed has the stream that it has there.

    Args:
        y: (P,) labels. tasks: T. disjoint: N, percent of the classes. blurry: M, percent of the examples of the others.
        varying: sizes that are drawn (Si-Blurry), or equal ones (i-Blurry).

    Raises:
        ConfigError: numbers that leave no class.

    Reference: Moon et al., "Online Class Incremental Learning on Stochastic Blurry Task Boundary via Mask and Visual
    Prompt Tuning", ICCV 2023, arXiv:2308.09303; of i-Blurry: Koh et al., ICLR 2022, arXiv:2110.10031.

    Differences from the authors' sampler:
        1. Not varying, what an equal share leaves over goes to the first tasks, one each; there it is lost.
    """
    labels = np.asarray(y)
    classes, kind = np.unique(
        labels, return_inverse=True
    )  # kind (P,): the class's place among the sorted ones
    T, C = tasks, len(classes)
    if T < 1 or not 0 <= disjoint <= 100 or not 0 <= blurry <= 100:
        raise ConfigError(
            f"tasks is 1 or more, disjoint and blurry are percentages; {tasks}, {disjoint} and {blurry} were given."
        )
    n_dis = C * disjoint // 100 // T * T
    n_blur = (C - n_dis) // T * T
    if n_dis + n_blur == 0:
        raise ConfigError(f"{C} classes cannot be dealt out to {T} tasks; tasks may be 1 … {C}.")
    generator = torch.Generator().manual_seed(seed)

    def cut(n: int) -> list[int]:
        """(T,) sizes of the parts of n things."""
        if not varying or n == 0:
            return [n // T + (j < n % T) for j in range(T)]
        places = torch.randint(0, n, (T - 1,), generator=generator).sort().values.tolist()
        return [after - before for before, after in itertools.pairwise([0, *places, n])]

    def shuffled(x: Ints) -> Ints:
        order: Ints = torch.randperm(len(x), generator=generator).numpy()
        return x[order]

    order = shuffled(np.arange(C))
    homes = np.split(order[:n_dis], np.cumsum(cut(n_dis))[:-1])
    strays = np.split(order[n_dis : n_dis + n_blur], np.cumsum(cut(n_blur))[:-1])
    kept = [np.flatnonzero(np.isin(kind, part)) for part in homes]  # rows of each task, as in the data
    exchanged = [np.flatnonzero(np.isin(kind, part)) for part in strays]
    if varying:
        gives = takes = cut(sum(map(len, exchanged)) * blurry // 100)
    else:
        gives = [len(rows) * blurry // 100 for rows in exchanged]
        takes = cut(sum(gives))
    pool = shuffled(np.concatenate([rows[:n] for rows, n in zip(exchanged, gives, strict=True)]))
    portions = np.split(pool, np.cumsum(takes)[:-1])
    return Blurred(
        tuple(tuple(classes[part].tolist()) for part in homes),
        tuple(tuple(classes[part].tolist()) for part in strays),
        tuple(
            torch.from_numpy(shuffled(np.concatenate([kept[j], exchanged[j][gives[j] :], portions[j]])))
            for j in range(T)
        ),
    )


@validated
def blurry_stream(
    train: Pool,
    test: Pool,
    *,
    valid: Pool | None = None,
    tasks: int = 5,
    disjoint: int = 50,
    blurry: int = 10,
    varying: bool = True,
    seed: int = 0,
) -> Streams:
    """The tasks of `blurred` as ordered experiences, and a test stream with an experience for each class.

    A task without examples is left out. Whoever is told no boundaries gets one long sequence of batches (`seamless`).

    Data that lie sorted by class are taken in turns, one example of each class after the other, as if they were mixed:
    the first M % would otherwise be whole classes.

    Args:
        valid: validation examples of the data's own, for a stream like the test stream.
        tasks, disjoint, blurry, varying, seed: as of `blurred`.

    Raises:
        ConfigError: numbers that leave no class. DataError: a class without test examples.
    """
    y, y_test = labels_of(train, "training"), labels_of(test, "test")
    refuse_unmatched("class", np.unique(y), np.unique(y_test))
    order = torch.from_numpy(_in_turns(y))
    parts = blurred(y[order], tasks=tasks, disjoint=disjoint, blurry=blurry, varying=varying, seed=seed)
    there = np.unique(y[order[torch.cat(parts.rows)]])
    place = {int(c): i for i, c in enumerate(there)}
    trained: list[Experience] = []
    for mixed in parts.rows:
        if len(mixed):
            rows = order[mixed]
            held = classes_of(train, rows)
            tests = tuple(place[c] for c in held)
            trained.append(Experience(len(trained), held, Data.of(train, rows), tests=tests, ordered=True))

    def by_class(name: str, pool: Pool, labels: Ints) -> Stream:
        having = ((i, c, torch.from_numpy(np.flatnonzero(labels == c))) for c, i in place.items())
        return Stream(name, tuple(Experience(i, (c,), Data.of(pool, rows)) for i, c, rows in having))

    own = None
    if valid is not None:
        y_valid = validation_labels(valid, np.unique(y))
        if lacking := sorted(place.keys() - set(y_valid.tolist())):
            raise DataError(
                f"Class {lacking[0]} has no validation examples; every class needs some, or none has."
            )
        own = by_class("valid", valid, y_valid)
    return Streams(Stream("train", tuple(trained)), by_class("test", test, y_test), own)


def _in_turns(y: Ints) -> Ints:
    """(P,) the rows in order; where labels (P,) are sorted, the first of each class, the second of each, and so on."""
    rows = np.arange(len(y))
    if (np.diff(y) < 0).any():
        return rows
    starts = np.searchsorted(y, y)
    return np.lexsort((y, rows - starts))


@validated
def build_blurry(
    source: Source,
    *,
    name: str,
    version: int = 1,
    tasks: int = 5,
    disjoint: int = 50,
    blurry: int = 10,
    varying: bool = True,
    augment: Sequence[str] = (),
    normalise: Normalise = "auto",
    duplicates: Duplicates = "note",
    seed: int = 0,
    notes: str = "",
) -> Benchmark:
    """An online benchmark whose classes come back: one pass, no boundaries, by `blurred`.

    Args:
        tasks, disjoint, blurry, varying, seed: as for `blurred`.
        augment, normalise, duplicates, notes: as for `build`.

    Raises:
        ConfigError: parameters that do not fit the data.
    """
    streams = blurry_stream(
        source.train,
        source.test,
        valid=source.valid,
        tasks=tasks,
        disjoint=disjoint,
        blurry=blurry,
        varying=varying,
        seed=seed,
    )
    return made(
        source,
        streams,
        Setting("class", boundaries=False, passes=1),
        transform_of(source, name, augment, None, None, normalise, streams.train[0].data),
        duplicates,
        name=name,
        version=version,
        primary="a_auc",
        metrics=("a_auc", "a_avg", "a_last", "f_last"),
        seed=seed,
        notes=notes,
    )
