"""Whole data sets one after the other, with columns of their own in one head, or the same ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from clbench.data.draws import permutation
from clbench.data.duplicates import checked
from clbench.data.families import numbered
from clbench.data.named import any_source
from clbench.data.shares import held_out
from clbench.data.source import Source, first_of_each
from clbench.errors import ConfigError, DataError
from clbench.registry.arguments import validated
from clbench.transforms.augment import Transform
from clbench.transforms.sets import Framed, PerSet
from clbench.types import HIDDEN, Benchmark, Data, Experience, Pool, Setting, Stream

Labels = Literal["union", "told", "shared"]
"""Of sets in a row: columns of their own for each; the same, and it is told which; or the same classes in all."""
Normalised = Literal["each", "shared"]
"""By the mean and std of each set, or by ½ and ¼ all alike."""


@validated
def in_a_row(
    sets: Sequence[str],
    *,
    name: str,
    version: int = 1,
    labels: Labels = "union",
    order: Literal["natural", "shuffled"] | Sequence[int | str] = "natural",
    size: int = 32,
    normalise: Normalised = "each",
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    online: bool = False,
    augment: bool = False,
    valid: float = 0.0,
    seed: int = 0,
    notes: str = "",
) -> Benchmark:
    """A benchmark whose experiences are whole data sets of images.

    The classes of a set get the columns after those of the sets before it, in the order in which sets are listed: the
    order of experiences moves no column.

    Args:
        sets: names, .npz files or folders. order: of the experiences, by name or number.
        size: pixels of all images (`clbench.transforms.sets.Framed`).
        augment: random crop in training, and no flip: it would make other digits and signs.

    Raises:
        ConfigError: sets or settings that do not fit together. DataError: a set that cannot be had, or no images.
    """
    if len(sets) < 2 or len(set(sets)) < len(sets):
        raise ConfigError(
            f"{name}: sets lists two or more different data sets; {', '.join(sets) or 'none'} was given."
        )
    called = [_called(one) for one in sets]
    if len(set(called)) < len(called):
        raise ConfigError(f"{name}: two of the sets are called alike: {', '.join(called)}; rename a file.")
    place = [*range(len(sets))]
    if order == "shuffled":
        place = permutation(len(sets), seed, "set order").tolist()
    elif order != "natural":
        place = [int(k) for k in numbered(name, "set", order, called)]
    if sorted(place) != [*range(len(sets))]:
        raise ConfigError(
            f"{name}: order lists every set once, by name or by its number from 0; {list(order)} was given."
        )
    sources = [_limited(any_source(name, one), train_per_class, test_per_class) for one in sets]
    for one, source in zip(called, sources, strict=True):
        shape, dtype = tuple(source.train.x.shape[1:]), source.train.x.dtype
        if len(shape) != 3 or shape[0] not in (1, 3) or dtype != torch.uint8:
            raise DataError(
                f"{name}: {one} has inputs {dtype} of shape {shape}; sets in a row are bytes of images."
            )
    counts = [source.num_classes for source in sources]
    if labels == "shared" and len(set(counts)) > 1:
        told = ", ".join(f"{one} {n}" for one, n in zip(called, counts, strict=True))
        raise ConfigError(
            f"{name}: labels=shared needs sets of the same classes; they have {told}. Take labels=union."
        )
    offsets = [0] * len(sets) if labels == "shared" else [0, *itertools.accumulate(counts)][:-1]
    each = normalise == "each"
    frames = [Framed(size, round(1 / s.scale), i if each else None) for i, s in enumerate(sources)]

    def stream(kind: str, of: str, rows: Sequence[Tensor] | None = None) -> Stream:
        made = []
        for i, k in enumerate(place):
            pool: Pool = getattr(sources[k], of)
            pool = pools.setdefault((k, of), Pool(pool.x, pool.y + offsets[k], pool.file))
            there = torch.arange(len(pool.y)) if rows is None else rows[k]
            classes = tuple(range(offsets[k], offsets[k] + counts[k]))
            task = k if labels == "told" else HIDDEN
            made.append(Experience(i, classes, Data.of(pool, there, frames[k]), task=task, domain=called[k]))
        return Stream(kind, tuple(made))

    pools: dict[tuple[int, str], Pool] = {}
    held = [held_out(s.train.y.numpy(), valid, seed) for s in sources]
    kept = [np.ones(len(s.train.y), bool) if h is None else ~h for s, h in zip(sources, held, strict=True)]
    train = stream("train", "train", [torch.from_numpy(np.flatnonzero(k)) for k in kept])
    drawn = None
    if valid:
        drawn = stream("valid", "train", [torch.from_numpy(np.flatnonzero(~k)) for k in kept])
    ops = ("crop",) if augment else ()
    found = tuple(f"{one}: {told}" for one, s in zip(called, sources, strict=True) for told in s.found)
    if labels == "shared":
        names = sources[0].class_names
    else:
        names = tuple(
            f"{one}/{s.class_names[c] if s.class_names else c}"
            for one, s in zip(called, sources, strict=True)
            for c in range(s.num_classes)
        )
    benchmark = Benchmark(
        name=name,
        version=version,
        setting=Setting(
            {"union": "class", "told": "task", "shared": "domain"}[labels],  # type: ignore[arg-type]
            task_labels="always" if labels == "told" else "never",
            passes=1 if online else None,
        ),
        train=train,
        test=stream("test", "test"),
        valid=drawn,
        num_classes=offsets[-1] + counts[-1],
        transform=_per_set(sources, ops) if each else Transform(1 / 255, (0.5,) * 3, (0.25,) * 3, ops),
        class_names=names,
        metrics=("average_accuracy_weighted", "mtil_transfer", "mtil_average"),
        seed=seed if valid or order == "shuffled" else 0,
        notes=" ".join((notes, *found)).strip(),
        found=found,
        duplicates=sum(s.duplicates for s in sources),
    )
    return checked(benchmark, "note")


def _called(one: str) -> str:
    """Return what a set is called: its name, or that of its file or folder."""
    return one.rstrip("/").rpartition("/")[2].removesuffix(".npz")


def _limited(source: Source, train: int | None, test: int | None) -> Source:
    for split, most in (("train", train), ("test", test)):
        source = source if most is None else first_of_each(source, split, most)
    return source


def _per_set(sources: Sequence[Source], ops: tuple[str, ...]) -> PerSet:
    means, stds = zip(*(s.normalisation for s in sources), strict=True)
    three = [tuple(one * 3 if len(one) == 1 else one for one in of) for of in (means, stds)]
    return PerSet(1 / 255, ops=ops, means=three[0], stds=three[1])
