"""Rows of pools shared out to experiences, and the checks that come first.

Shapes: P examples of a pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clbench.data.draws import Ints, bits, permutation
from clbench.data.orders import order_of
from clbench.errors import ConfigError, DataError
from clbench.types import Experience, Pool, Stream

Mask = npt.NDArray[np.bool_]
Ordering = Literal["natural", "shuffled"] | str | Sequence[int]
"""Which class or domain comes when: ascending, drawn from the seed, a published order by name, or listed."""
Share = tuple[Pool, list[Tensor]]
"""A pool and the rows of it that each experience has."""
Owned = tuple[Pool, Ints]
"""A pool and the experience that each row belongs to, (P,); −1: to none."""


class Streams(NamedTuple):
    """Experience i of each stream belongs to experience i of the others."""

    train: Stream
    test: Stream
    valid: Stream | None


# --- shares ---


def ordered(what: str, known: Ints, order: Ordering, seed: int, name: str = "") -> Ints:
    """Return the classes or domains in the order asked for, by the parameter of that name."""
    name = name or f"{what}_order"
    if order == "natural":
        return known
    if order == "shuffled":
        return known[permutation(len(known), seed, f"{what} order")]
    if isinstance(order, str):
        return known[order_of(order, len(known), name)]
    listed, there = Counter(order), set(known.tolist())
    wrong = (
        [f"{k} twice" for k, times in listed.items() if times > 1]
        + [f"{k}, which the data lack" for k in listed if k not in there]
        + [f"no {k}" for k in sorted(there - set(listed))]
    )
    if wrong:
        more = f" and {len(wrong) - 3} more faults" if len(wrong) > 3 else ""
        raise ConfigError(
            f"{name} must list every {what} of the data once; it has {', '.join(wrong[:3])}{more}."
        )
    return np.array(order, dtype=np.int64)


def owner_of(known: Ints, groups: Sequence[Ints]) -> Callable[[Ints], Ints]:
    """Return a function from numbers (P,) to the place of the group that lists each of them, −1 where none does.

    Args:
        known: all numbers that there are, ascending.
    """
    owner = np.full(len(known), -1)
    for i, group in enumerate(groups):
        owner[np.searchsorted(known, group)] = i
    return lambda numbers: owner[np.searchsorted(known, numbers)]


def cut(
    train: Owned,
    test: Owned,
    valid: Owned | None,
    experience: Callable[[int, Pool, Tensor], Experience],
    *,
    n: int,
    held: Mask | None,
    keep: Mask | None = None,
) -> Streams:
    """Return the streams of n experiences.

    Args:
        train, test, valid: the pools, `valid` where the data have validation examples of their own.
        experience: makes one from its number, pool and rows.
        held: (P,) which training rows make the validation stream; None if there are none to draw.
        keep: (P,) which of the others are for training; all by default.
    """
    drawn = None
    if held is not None:
        keep = ~held if keep is None else keep & ~held
        drawn = train[0], _rows(train[1], n, held)
    own = None if valid is None else (valid[0], _rows(valid[1], n))
    return streams_of(
        (train[0], _rows(train[1], n, keep)), (test[0], _rows(test[1], n)), own, drawn, experience
    )


def _rows(owner: Ints, n: int, keep: Mask | None = None) -> list[Tensor]:
    """Rows of each of n experiences, in the order of the pool, by one stable sort."""
    kept = np.flatnonzero(owner >= 0 if keep is None else (owner >= 0) & keep)
    of = owner[kept]
    rows = kept[np.argsort(of, kind="stable")]
    ends = np.cumsum(np.bincount(of, minlength=n))
    return [torch.from_numpy(part) for part in np.split(rows, ends[:-1])]


def streams_of(
    train: Share,
    test: Share,
    own: Share | None,
    drawn: Share | None,
    experience: Callable[[int, Pool, Tensor], Experience],
) -> Streams:
    """Return the streams from each one's pool and the rows of its experiences.

    Args:
        own, drawn: the validation examples that the data have, or those drawn from the training examples.
    """

    def stream(name: str, pool: Pool, rows: list[Tensor]) -> Stream:
        return Stream(name, tuple(experience(i, pool, r) for i, r in enumerate(rows)))

    if own is not None and drawn is not None:
        raise ConfigError(
            "The data have validation examples of their own; leave the validation fraction at 0 to use them."
        )
    valid = own or drawn
    empty = [i for i, rows in enumerate(valid[1]) if not len(rows)] if valid is not None else []
    if empty:
        who = "The validation fraction" if own is None else "The data's own validation set"
        way = (
            "raise it, or set it to 0 for no validation stream" if own is None else "add some of its classes"
        )
        raise ConfigError(f"{who} leaves experience {empty[0] + 1} no validation example; {way}.")
    return Streams(stream("train", *train), stream("test", *test), stream("valid", *valid) if valid else None)


def held_out(stratum: Ints, fraction: float, seed: int) -> Mask | None:
    """(P,) the rows of the validation split: of each stratum's n rows, fraction · n, rounded to the nearest.

    At least one row of each stratum stays in training. None for a fraction of 0.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"The validation fraction lies in [0, 1); {fraction} was given.")
    if not fraction:
        return None
    _, group, sizes = np.unique(stratum, return_inverse=True, return_counts=True)
    rows = np.lexsort((bits(len(stratum), seed, "validation split"), group))  # by stratum, random inside
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    quota = np.minimum(np.floor(sizes * fraction + 0.5), sizes - 1)
    held = np.zeros(len(stratum), dtype=bool)
    held[rows[rank < np.repeat(quota, sizes)]] = True
    return held


def classes_of(pool: Pool, rows: Tensor) -> tuple[int, ...]:
    return tuple(torch.bincount(pool.y[rows]).nonzero().squeeze(1).tolist())


# --- checks ---


def labels_of(pool: Pool, split: str) -> Ints:
    y: Ints = pool.y.numpy()
    if not len(y):
        raise DataError(f"The {split} pool is empty.")
    if y.min() < 0:
        raise DataError(f"Labels are numbers from 0; the {split} pool holds {y.min()}.")
    return y


def validation_labels(pool: Pool, classes: Ints) -> Ints:
    """(P,) the labels of validation examples of the data's own, which are trained on, too."""
    y = labels_of(pool, "validation")
    refuse_untrained("class", y, classes)
    return y


def numbers_of(name: str, given: npt.ArrayLike, n: int) -> Ints:
    numbers = np.asarray(given)
    if numbers.shape != (n,) or numbers.dtype.kind not in "iu" or (n and numbers.min() < 0):
        raise ConfigError(
            f"{name} needs a number from 0 for each of the {n} examples; it is {numbers.dtype} of shape "
            f"{numbers.shape}"
            + (f" and holds {numbers.min()}." if numbers.size and numbers.dtype.kind == "i" else ".")
        )
    return numbers.astype(np.int64)


def refuse_untrained(what: str, given: Ints, known: Ints) -> None:
    strange = np.setdiff1d(given, known)
    if len(strange):
        raise DataError(
            f"{what.capitalize()} {strange[0]} has validation examples, but no training examples."
        )


def refuse_unmatched(what: str, trained: Ints, tested: Ints) -> None:
    for there, absent, has in ((trained, tested, "test"), (tested, trained, "training")):
        lacking = np.setdiff1d(there, absent)
        if len(lacking):
            raise DataError(
                f"{what.capitalize()} {lacking[0]} has no {has} examples"
                + (f", nor have {len(lacking) - 1} others" if len(lacking) > 1 else "")
                + f"; every {what} needs training and test examples."
            )
