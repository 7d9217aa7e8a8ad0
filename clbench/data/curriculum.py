"""Orders of groups of classes that are predicted to be good, by distances between the groups, without training.

    orders, scores = ranked(distances(features, labels, [[0, 1], [2, 3], [4, 5]]))  # the best first

Shapes: N examples, D features, L groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from clbench.data.draws import Ints
from clbench.data.orders import digest
from clbench.data.source import Source
from clbench.data.streams import sizes_of
from clbench.errors import ConfigError

Floats = npt.NDArray[np.float64]
By = Literal["cosine", "euclidean"]
DESIGNED = "curriculum-designer"
"""The name of this order of classes."""
GROUPS = 8
"""Groups at most: all their orders are looked at."""


def distances(
    features: npt.ArrayLike, y: npt.ArrayLike, groups: Sequence[Sequence[int]], by: By = "cosine"
) -> Floats:
    """(L, L) distances between the mean features of groups of classes.

    Args:
        features: (N, D), of a network that was not trained on these classes, or the inputs themselves.
        y: (N,) labels. groups: the classes of each.
    """
    x, labels = np.asarray(features, dtype=np.float64).reshape(len(np.asarray(y)), -1), np.asarray(y)
    means = np.stack([x[np.isin(labels, group)].mean(0) for group in groups])
    if by == "euclidean":
        found: Floats = np.linalg.norm(means[:, None] - means[None], axis=2)
        return found
    unit = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    apart: Floats = np.maximum(1 - unit @ unit.T, 0)
    return apart


def atypicality(D: Floats) -> Floats:
    """(L,) the variance of each row of distances, which add up to 1; they add up to 1, too."""
    rows = _normalised(D)
    spread: Floats = rows.var(1)
    return spread / spread.sum() if spread.sum() > 0 else np.full(len(D), 1 / len(D))


def ranked(D: Floats) -> tuple[Ints, Floats]:
    """Return all orders of L groups (L!, L) and their scores, the best first.

    S(o) = 1 − v[o_0] + Σ_{s=0, 1, …} (1 − D̂[o_s, o_{L−1−s}]) + D̂[o_s, o_{s+1}]

    with D̂ the distances, rows adding up to 1, and v their `atypicality`: a typical group first, the first and the last
    ones alike, neighbours unlike. A step of the sum covers two positions of L, and the first one is covered before. Of
    equal scores, the order that comes first by number.

    Raises:
        ConfigError: more groups than `GROUPS`.

    Reference: Singh et al., "Learning to Learn: How to Continuously Teach Humans and Machines", ICCV 2023.

    Differences from the authors' code:
        1. They rank by optimal-transport distances between data sets, too; here, distances are between means.
    """
    L = len(D)
    if L > GROUPS:
        raise ConfigError(
            f"The {DESIGNED} looks at all orders of {GROUPS} groups at most, and there are {L}; take fewer experiences."
        )
    rows, v = _normalised(D), atypicality(D)
    orders = np.array(list(itertools.permutations(range(L))), dtype=np.int64)
    scores = 1 - v[orders[:, 0]]
    for s in range(L // 2):  # 1 + 2 · steps ≥ L
        scores += 1 - rows[orders[:, s], orders[:, L - 1 - s]] + rows[orders[:, s], orders[:, s + 1]]
    best = np.argsort(-scores.round(12), kind="stable")
    return orders[best], scores[best]


def _normalised(D: Floats) -> Floats:
    total = D.sum(1, keepdims=True)
    rows: Floats = np.where(total > 0, D / np.where(total > 0, total, 1), 1 / len(D))
    return rows


def design(
    source: Source, experiences: int | None, first: int | None, increment: int | None, by: By = "cosine"
) -> tuple[Source, list[list[int]]]:
    """Return the groups that the natural order of classes makes in their best order, by the distances of their mean
    inputs; and the data set, which tells of it.

    Raises:
        ConfigError: the classes cannot be shared out like this, or into too many groups.
    """
    ends = np.cumsum([0, *sizes_of(source.num_classes, experiences, first, increment)])
    groups = [list(range(a, b)) for a, b in itertools.pairwise(ends.tolist())]
    if len(groups) > GROUPS:  # before anything is computed
        ranked(np.zeros((len(groups), len(groups))))
    y = source.train.y.numpy()
    means = np.stack(
        [source.train.x[y == c].double().mean(0).numpy().ravel() for c in range(source.num_classes)]
    )
    weights = np.bincount(y, minlength=source.num_classes).astype(np.float64)
    of_group = np.stack([np.average(means[g], axis=0, weights=weights[g]) for g in groups])
    orders, scores = ranked(
        distances(of_group, np.arange(len(groups)), [[k] for k in range(len(groups))], by)
    )
    best = [groups[k] for k in orders[0].tolist()]
    told = (
        f"The groups of classes come in the order {' '.join(map(str, orders[0].tolist()))}, which the {DESIGNED} "
        f"scores {scores[0]:.4f}, the best of {len(orders):,} (SHA-256 {digest(np.concatenate(best))})."
    )
    return replace(source, found=(*source.found, told)), best
