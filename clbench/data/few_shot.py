"""Few-shot class-incremental streams and benchmarks: a base session, then a few examples of a few new classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clbench.data.draws import Ints, permutation
from clbench.data.duplicates import Duplicates
from clbench.data.families import Channels, Normalise, Ordering as Named, made, numbered, transform_of
from clbench.data.shares import (
    Ordering,
    Streams,
    cut,
    held_out,
    labels_of,
    numbers_of,
    ordered,
    owner_of,
    refuse_unmatched,
    validation_labels,
)
from clbench.data.source import Source
from clbench.errors import ConfigError
from clbench.registry.arguments import validated
from clbench.types import Benchmark, Data, Experience, Pool, Setting


@validated
def few_shot(
    train: Pool,
    test: Pool,
    *,
    valid: Pool | None = None,
    base: int,
    ways: int,
    shots: int,
    sessions: int | None = None,
    class_order: Ordering = "natural",
    rows: Sequence[int] | None = None,
    valid_fraction: float = 0.0,
    seed: int = 0,
) -> Streams:
    """A base session of many classes with all their examples, then sessions of a few classes with a few examples each.

    Every experience is tested on all test examples of its classes.

    Args:
        valid: validation examples of the data's own.
        base: classes of the first experience.
        ways: classes of each later one. shots: training examples of each of these classes.
        sessions: experiences after the first; None takes as many as there are classes for. Classes that are left over
            are in no experience.
        class_order: the base session takes the first classes of it.
        rows: the rows of `train` that the sessions after the first hold, in their order, ways · shots each. Without
            them, the examples of a class are drawn from the seed; those of few shots are then among those of more.
        valid_fraction: share of each class's training examples that goes to the validation stream, shots excepted,
            without `valid`.
        seed: of what is drawn.

    Raises:
        ConfigError: classes or examples that the pool does not have, or rows that are not such a list; says what is
            wrong with them. DataError: a class without test examples.
    """
    y, y_test = labels_of(train, "training"), labels_of(test, "test")
    classes = np.unique(y)
    refuse_unmatched("class", classes, np.unique(y_test))
    order = ordered("class", classes, class_order, seed)
    if min(base, ways, shots) < 1 or (sessions is not None and sessions < 0):
        raise ConfigError(
            f"base, ways and shots are 1 or more and sessions 0 or more; {base}, {ways}, {shots} and {sessions} were "
            "given."
        )
    count = (len(order) - base) // ways if sessions is None else sessions
    wanted = base + max(count, 0) * ways
    if count < 0 or wanted > len(order):
        raise ConfigError(
            f"{base} base classes and {max(count, 0)} sessions of {ways} take {wanted} classes; the data have "
            f"{len(order)}."
        )
    groups = np.split(order[:wanted], list(range(base, wanted, ways)))
    if rows is None:
        few = [_draw_shots(y, group, shots, seed) for group in groups[1:]]
    else:
        few = _listed_shots(y, groups[1:], shots, rows)
    held = held_out(y, valid_fraction, seed)
    shot = np.zeros(len(y), dtype=bool)
    shot[np.concatenate([np.empty(0, dtype=np.int64), *few])] = True
    owner = owner_of(classes, groups)

    def experience(i: int, pool: Pool, chosen: Tensor) -> Experience:
        return Experience(i, tuple(sorted(groups[i].tolist())), Data.of(pool, chosen))

    own = None if valid is None else (valid, owner(validation_labels(valid, classes)))
    return cut(
        (train, owner(y)),
        (test, owner(y_test)),
        own,
        experience,
        n=len(groups),
        held=None if held is None else held & ~shot,
        keep=(owner(y) == 0) | shot,
    )


def _draw_shots(y: Ints, group: Ints, shots: int, seed: int) -> Ints:
    """Rows of so many examples of each class of a group, by seed and class alone."""
    found = []
    for c in group.tolist():
        there = np.flatnonzero(y == c)
        if len(there) < shots:
            raise ConfigError(f"Class {c} has {len(there)} training examples; {shots} shots were asked for.")
        found.append(there[permutation(len(there), seed, f"shots of class {c}")[:shots]])
    return np.sort(np.concatenate(found))


def _listed_shots(y: Ints, groups: Sequence[Ints], shots: int, rows: Sequence[int]) -> list[Ints]:
    """Return the listed rows of each group, checked."""
    listed = numbers_of("The list of shots", rows, len(rows))
    wanted = shots * sum(map(len, groups))
    if len(listed) != wanted:
        raise ConfigError(
            f"The list of shots needs {wanted} rows, {shots} of each class of {len(groups)} sessions; it has "
            f"{len(listed)}."
        )
    if not wanted:
        return []
    if listed.max() >= len(y):
        raise ConfigError(
            f"The list of shots names row {listed.max()}; the training examples have rows 0 … {len(y) - 1}."
        )
    row, times = np.unique(listed, return_counts=True)
    if (times > 1).any():
        raise ConfigError(f"The list of shots names row {row[times > 1][0]} twice.")
    found = []
    ends = np.cumsum([shots * len(group) for group in groups])
    for i, (group, part) in enumerate(zip(groups, np.split(listed, ends[:-1]), strict=True), 1):
        strange = part[~np.isin(y[part], group)]
        if len(strange):
            raise ConfigError(
                f"The list of shots gives session {i} row {strange[0]}, which is of class {y[strange[0]]}; its classes "
                f"are {', '.join(map(str, sorted(group.tolist())))}. Are the training examples in the order that the "
                "list is made for?"
            )
        for c in group.tolist():
            if (held := int((y[part] == c).sum())) != shots:
                raise ConfigError(
                    f"The list of shots gives session {i} {held} rows of class {c}, not {shots}."
                )
        found.append(np.sort(part))
    return found


FEW_SHOT = (
    "harmonic_mean",
    "average_accuracy_weighted",
    "base_accuracy",
    "novel_accuracy",
    "average_incremental_accuracy_weighted",
    "performance_drop",
    "gacc_0",
    "gacc_auc",
)
"""Metrics that are meant for few-shot class-incremental benchmarks."""


@validated
def build_few_shot(
    source: Source,
    *,
    name: str,
    version: int = 1,
    base: int,
    ways: int,
    shots: int,
    sessions: int | None = None,
    class_order: Named = "natural",
    rows: Sequence[int] | None = None,
    memory: int | None = 0,
    valid: float = 0.0,
    augment: Sequence[str] = (),
    mean: Channels | None = None,
    std: Channels | None = None,
    normalise: Normalise = "auto",
    duplicates: Duplicates = "note",
    seed: int = 0,
    draws: bool = False,
    notes: str = "",
) -> Benchmark:
    """A few-shot class-incremental benchmark: a base session, then sessions of a few examples of new classes.

    Only the present session's examples are at hand, unless `memory` grants some. It ranks by the harmonic mean of base
    and novel accuracy: the overall accuracy is high for a model that knows the base classes only.

    Args:
        source: the data set; pixels are normalised by its published moments, or by those of the base session.
        base, ways, shots, sessions, class_order, rows: as for `few_shot`.
        memory: examples that a strategy may keep.
        valid: share of each class's training examples, shots excepted, that makes the validation stream, if the data
            have none of their own.
        augment, mean, std, normalise, duplicates: as for `build`.
        seed: of what is drawn.
        draws: whether the source was drawn by it, too.
        notes: for people.

    Raises:
        ConfigError: parameters that do not fit the data. DataError: a class without test examples.
    """
    streams = few_shot(
        source.train,
        source.test,
        valid=source.valid,
        base=base,
        ways=ways,
        shots=shots,
        sessions=sessions,
        class_order=numbered(name, "class", class_order, source.class_names),
        rows=rows,
        valid_fraction=valid,
        seed=seed,
    )
    if normalise == "auto" and mean is None and not source.mean and source.train.x.dtype == torch.uint8:
        normalise = "first"  # what comes later are a few images
    drawn = draws or rows is None or class_order == "shuffled" or valid > 0
    return made(
        source,
        streams,
        Setting("class", memory=memory),
        transform_of(source, name, augment, mean, std, normalise, streams.train[0].data),
        duplicates,
        name=name,
        version=version,
        primary="harmonic_mean",
        metrics=FEW_SHOT,
        seed=seed if drawn else 0,
        notes=notes,
    )
