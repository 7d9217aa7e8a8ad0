"""Streams from pools: pure, seeded functions.

    streams = class_incremental(train, test, experiences=5, class_order="shuffled", seed=0)
    Benchmark(..., train=streams.train, test=streams.test, valid=streams.valid, ...)

Labels are never renumbered: class c keeps column c of the logits, whatever the order of the classes.

Shapes: P examples of a pool.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clbench.data.draws import permutation
from clbench.data.shares import (
    Ordering,
    Streams,
    classes_of,
    cut,
    held_out,
    labels_of,
    numbers_of,
    ordered,
    owner_of,
    refuse_unmatched,
    refuse_untrained,
    streams_of,
    validation_labels,
)
from clbench.errors import ConfigError
from clbench.registry.arguments import validated
from clbench.transforms.augment import Permute, Rotate
from clbench.types import HIDDEN, Change, Data, Experience, Pool

Shares = int | Sequence[Sequence[int]]
"""How many experiences share the classes evenly, or the classes of each one."""


@validated
def class_incremental(
    train: Pool,
    test: Pool,
    *,
    valid: Pool | None = None,
    experiences: Shares | None = None,
    first: int | None = None,
    increment: int | None = None,
    class_order: Ordering = "natural",
    valid_fraction: float = 0.0,
    seed: int = 0,
    task_labels: bool = False,
) -> Streams:
    """New classes in every experience.

    Args:
        valid: validation examples of the data's own.
        experiences: their number, of equal size, or a list of each one's classes.
        first, increment: in their place, how many classes the first one and all others have; where they do not come
            out even, the last one has fewer.
        class_order: the first experience takes the first classes of it; of no use where classes are listed.
        valid_fraction: share of each class's training examples that goes to the validation stream, without `valid`.
        task_labels: whether experience i carries task label i; the setting says who is told.

    Raises:
        ConfigError: the classes cannot be shared out like this; says what is allowed.
        DataError: a class without test examples, or one that is only tested.
    """
    y, y_test = labels_of(train, "training"), labels_of(test, "test")
    classes = np.unique(y)
    refuse_unmatched("class", classes, np.unique(y_test))
    if experiences is not None and not isinstance(experiences, int):
        if class_order != "natural" or (first, increment) != (None, None):
            raise ConfigError(
                "Experiences that list their classes leave nothing to class_order, first and increment; leave them out."
            )
        sizes = [len(group) for group in experiences]
        if not all(sizes):
            raise ConfigError(
                f"Every experience needs a class; of {experiences}, number {sizes.index(0)} has none."
            )
        listed = list(itertools.chain.from_iterable(experiences))
        order = ordered("class", classes, listed, seed, "experiences")
    else:
        order = ordered("class", classes, class_order, seed)
        sizes = sizes_of(len(order), experiences, first, increment)
    groups = np.split(order, np.cumsum(sizes)[:-1])
    held = held_out(y, valid_fraction, seed)
    owner = owner_of(classes, groups)

    def experience(i: int, pool: Pool, rows: Tensor) -> Experience:
        task = i if task_labels else HIDDEN
        return Experience(i, tuple(sorted(groups[i].tolist())), Data.of(pool, rows), task=task)

    own = None if valid is None else (valid, owner(validation_labels(valid, classes)))
    return cut((train, owner(y)), (test, owner(y_test)), own, experience, n=len(groups), held=held)


def sizes_of(classes: int, experiences: int | None, first: int | None, increment: int | None) -> list[int]:
    """Return how many classes each experience takes."""
    given = [experiences is not None, first is not None or increment is not None]
    if sum(given) != 1:
        raise ConfigError(
            "Say how to share out the classes in one way: experiences, or first and increment; "
            f"{sum(given)} of these were given."
        )
    if experiences is not None:
        if experiences < 1 or classes % experiences:
            divisors = ", ".join(str(n) for n in range(1, classes + 1) if classes % n == 0)
            raise ConfigError(
                f"{classes} classes cannot be shared out evenly over {experiences} experiences; experiences "
                f"may be {divisors}. First and increment allow a first experience of another size."
            )
        return [classes // experiences] * experiences
    if first is None or increment is None:
        raise ConfigError("First and increment go together; only one of them was given.")
    if not 1 <= first <= classes or increment < 1:
        raise ConfigError(
            f"{classes} classes cannot be shared out as a first experience of {first} and then {increment} "
            f"each; first must lie in 1 … {classes}, and increment is 1 or more."
        )
    full, rest = divmod(classes - first, increment)
    return [first] + [increment] * full + [rest] * (rest > 0)


@validated
def domain_incremental(
    train: Pool,
    test: Pool,
    *,
    domain_train: npt.ArrayLike,
    domain_test: npt.ArrayLike,
    valid: Pool | None = None,
    domain_valid: npt.ArrayLike | None = None,
    names: Sequence[str] = (),
    domain_order: Ordering = "natural",
    valid_fraction: float = 0.0,
    seed: int = 0,
) -> Streams:
    """One experience per domain, from the domain of every example.

    Args:
        domain_train, domain_test: (P,) domain numbers from 0, one per example.
        valid, domain_valid: validation examples of the data's own, and their domains.
        names: of domains 0, 1, …; "domain 0" … if there are none.
        valid_fraction: share of each class's training examples in each domain, without `valid`.

    Raises:
        ConfigError: domain numbers that do not fit the pools, or an order that does not fit the domains.
        DataError: a domain without test examples.
    """
    y = labels_of(train, "training")
    d = numbers_of("domain_train", domain_train, len(y))
    d_test = numbers_of("domain_test", domain_test, len(test.y))
    domains, kind = np.unique(d, return_inverse=True)
    refuse_unmatched("domain", domains, np.unique(d_test))
    if names and len(names) <= domains[-1]:
        raise ConfigError(
            f"Domain {domains[-1]} has no name; {len(names)} names were given, for 0 … {len(names) - 1}."
        )
    order = ordered("domain", domains, domain_order, seed)
    held = held_out(kind * (int(y.max()) + 1) + y, valid_fraction, seed)
    owner = owner_of(domains, np.split(order, len(order)))

    def experience(i: int, pool: Pool, rows: Tensor) -> Experience:
        name = names[order[i]] if names else f"domain {order[i]}"
        return Experience(i, classes_of(pool, rows), Data.of(pool, rows), domain=name)

    own = None
    if valid is not None:
        d_valid = numbers_of("domain_valid", [] if domain_valid is None else domain_valid, len(valid.y))
        refuse_untrained("domain", d_valid, domains)
        own = valid, owner(d_valid)
    return cut((train, owner(d)), (test, owner(d_test)), own, experience, n=len(order), held=held)


@validated
def changed_domains(
    train: Pool,
    test: Pool,
    changes: Sequence[tuple[str, Change | None]],
    *,
    valid: Pool | None = None,
    valid_fraction: float = 0.0,
    seed: int = 0,
) -> Streams:
    """One experience per change, each of all examples: permuted pixels, rotations.

    Args:
        changes: name of the domain and what it does to the inputs, None for nothing.
        valid: validation examples of the data's own.
        valid_fraction: share of each class's training examples, without `valid`; the same examples in every domain.

    Raises:
        ConfigError: no changes, or two domains of one name. DataError: a class without test examples.
    """
    names = [name for name, _ in changes]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"Domains need different names; given: {', '.join(names) or 'none'}.")
    y = labels_of(train, "training")
    refuse_unmatched("class", np.unique(y), np.unique(labels_of(test, "test")))
    n, held = len(changes), held_out(y, valid_fraction, seed)

    def each(rows: Tensor) -> list[Tensor]:
        return [rows] * n

    kept, drawn = torch.arange(len(y)), None
    if held is not None:
        kept, drawn = kept[~held], (train, each(kept[held]))
    own = None if valid is None else (valid, each(torch.arange(len(valid.y))))

    def experience(i: int, pool: Pool, rows: Tensor) -> Experience:
        return Experience(i, classes_of(pool, rows), Data.of(pool, rows, changes[i][1]), domain=names[i])

    return streams_of((train, each(kept)), (test, each(torch.arange(len(test.y)))), own, drawn, experience)


@validated
def permutations(count: int, places: int, seed: int) -> list[tuple[str, Change | None]]:
    """Domains of permuted places (pixels or features) for `changed_domains`.

    The first leaves the inputs as they are, so that it is the data set itself. The k-th permutation
    depends on the seed and k alone, so that more domains continue a shorter stream.

    Raises:
        ConfigError: fewer than one domain.
    """
    if count < 1:
        raise ConfigError(f"A permuted stream needs at least one domain; {count} were asked for.")
    return [("identity", None)] + [
        (f"permutation {k}", Permute(torch.from_numpy(permutation(places, seed, f"permutation {k}"))))
        for k in range(1, count)
    ]


@validated
def rotations(degrees: Sequence[float]) -> list[tuple[str, Change | None]]:
    """Domains of rotated images for `changed_domains`, counter-clockwise."""
    return [(f"{angle:g}°", Rotate(angle) if angle % 360 else None) for angle in degrees]
