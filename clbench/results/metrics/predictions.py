"""Metrics of predictions, for which counts per stream do not suffice."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from clbench.results.curve import Floats, Ints


def masked_accuracy(logits: ArrayLike, labels: ArrayLike, classes: ArrayLike) -> float:
    """Accuracy on the examples of some classes with the argmax over these classes; NaN if there are none.

        A = mean_{i : y_i ∈ C} [ z_i(y_i) > z_i(c) for all c ∈ C, c ≠ y_i ]

    With the classes of tasks 1..j it is the cumulative accuracy of stage j (Soutif-Cormerais et al., ICCV-W
    2023, arXiv 2308.10328), with task j's alone the local accuracy (Smith et al., CVPR-W 2023, arXiv
    2203.17269). Logits are (N, C), labels (N,), classes in any order.
    """
    z, y, C = np.asarray(logits), np.asarray(labels), np.unique(classes)
    among = np.isin(y, C)
    if not among.any():
        return float("nan")
    own = z[among, y[among]][:, None]
    return float(((z[among][:, C] < own).sum(axis=1) == len(C) - 1).mean())


def cumulative_forgetting(
    logits_then: ArrayLike, logits_now: ArrayLike, labels: ArrayLike, classes: ArrayLike
) -> float:
    """Cumulative accuracy of tasks 1..j lost since task j was learned: without the growth of the label space.

        A_{≤j}(after task j) − A_{≤j}(now),   A_{≤j} = `masked_accuracy` of the classes of tasks 1..j

    Both logits are of one test set. Soutif-Cormerais et al., ICCV-W 2023, arXiv 2308.10328.
    """
    return masked_accuracy(logits_then, labels, classes) - masked_accuracy(logits_now, labels, classes)


def knowledge_ratios(
    labels: ArrayLike,
    before: ArrayLike,
    now: ArrayLike,
    num_classes: int,
    known: int,
    *,
    released: bool = False,
) -> tuple[float, float]:
    """KLR and KGR: the share of the old knowledge that was lost, and of the missing that was gained.

        KLR = I(G;Y₁|Y₂) / I(G;Y₁),   KGR = I(G;Y₂|Y₁) / (ln n₂ − I(G;Y₁))

    Labels G, predictions Y₁ `before` and Y₂ `now` on one test set; n₂ classes `known` now, out of
    `num_classes`. NaN for the share of nothing: KLR of a model that knew nothing, KGR of one that knew
    everything. (The paper divides each information by ln C, which cancels.)

    The joint distribution is the empirical one, so a model equals itself: 0 and 0. `released` takes the
    estimate of the authors' code, which draws the wrong predictions at the two times independently; a model
    then differs from itself, so it is for reproduction only. Koh et al., ICLR 2023, "Online boundary-free
    continual learning by scheduled data prior".
    """
    g, y1, y2 = (np.asarray(values, dtype=np.int64) for values in (labels, before, now))
    C = num_classes
    if released:
        P = _released_joint(g, y1, y2, C)
        H_g, H_1, H_2 = (_entropy(P.sum(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
        H_g1, H_g2, H_12, H_g12 = _entropy(P.sum(2)), _entropy(P.sum(1)), _entropy(P.sum(0)), _entropy(P)
    else:
        H_g, H_1, H_2 = map(_empirical_entropy, (g, y1, y2))
        H_g1, H_g2, H_12 = map(_empirical_entropy, (g * C + y1, g * C + y2, y1 * C + y2))
        H_g12 = _empirical_entropy((g * C + y1) * C + y2)
    lost = H_g2 + H_12 - H_g12 - H_2  # I(G;Y₁|Y₂)
    gained = H_g1 + H_12 - H_g12 - H_1  # I(G;Y₂|Y₁)
    knew = H_g + H_1 - H_g1  # I(G;Y₁)
    return _share(lost, knew), _share(gained, np.log(known) - knew)


def _released_joint(g: Ints, y1: Ints, y2: Ints, C: int) -> Floats:
    """P(g, y₁, y₂) as the authors' code estimates it, (C, C, C).

    A share w of class g is wrong at both times, f only the second time, l only the first. But for
    y₁ = y₂ = g, which has its frequency, P(y₁, y₂ | g) = w u₁(y₁) u₂(y₂) with u(y) = p(y) / (1 − p(g)) for
    y ≠ g from the overall histogram p, u₁(g) = f / w, u₂(g) = l / w. So f and l vanish where w is 0.
    """
    P = np.zeros((C, C, C))
    p1, p2 = (np.bincount(y, minlength=C) / len(g) for y in (y1, y2))
    for c in np.unique(g):
        own = g == c
        right1, right2 = y1[own] == c, y2[own] == c
        w = (~right1 & ~right2).mean()
        if w > 0:  # then p(c) < 1
            u1, u2 = p1 / (1 - p1[c]), p2 / (1 - p2[c])
            u1[c], u2[c] = (right1 & ~right2).mean() / w, (~right1 & right2).mean() / w
            P[c] = own.mean() * w * np.outer(u1, u2)
        P[c, c, c] = own.mean() * (right1 & right2).mean()
    return P


def _entropy(p: Floats) -> float:
    """−Σ p ln p, where 0 ln 0 = 0."""
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def _empirical_entropy(values: Ints) -> float:
    """Return the entropy of the values' frequencies, without a table of all C³ combinations."""
    return _entropy(np.unique(values, return_counts=True)[1] / len(values))


def _share(part: float, whole: float) -> float:
    """part / whole; NaN if the whole is nothing but rounding."""
    return float(part / whole) if whole > 1e-9 else float("nan")
