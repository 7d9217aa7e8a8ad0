"""Metrics of per-iteration evaluations a_j(t): what experience ends hide."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from clbench.results.columns import row_sums
from clbench.results.curve import Curve, Floats, Ticks, divide
from clbench.results.metrics.core import (
    I_BLURRY,
    ONLINE_SURVEY,
    STABILITY_GAP,
    UndefinedError,
    all_ticks,
    mean,
    metric,
    settled,
    task_matrix,
    task_ticks,
    weighted_mean,
)

SINCE = 1
"""The schema of records from which on they have these metrics."""

# --- averages ---


@metric(
    "average_anytime_accuracy",
    title="AAA",
    higher_is_better=True,
    reference=f"{ONLINE_SURVEY}, after Caccia et al., ICLR 2022",
    shown="everywhere",
)
def average_anytime_accuracy(curve: Curve) -> float | None:
    """Accuracy over the tasks seen so far, averaged over ticks.

        AAA = (1/K) Σ_t Ā(t),   Ā(t) = mean of a_j(t) over the tasks seen at t

    Every tick counts the same, one before the first update included; weighted by iterations it is
    `average_anytime_accuracy_by_steps`, with unseen tasks as zeros `average_anytime_accuracy_all_tasks`.
    """
    return mean(all_ticks(curve).seen_accuracy)


@metric(
    "average_anytime_accuracy_by_steps",
    title="AAA (by steps)",
    higher_is_better=True,
    reference="Soutif-Cormerais et al., CoLLAs 2023, arXiv 2306.16817",
)
def average_anytime_accuracy_by_steps(curve: Curve) -> float | None:
    """Accuracy over the tasks seen so far, each tick weighted by the iterations since the one before.

        Σ_t w(t) Ā(t) / Σ_t w(t),   w(t) = step(t) − step(t−1)

    The same as `average_anytime_accuracy` where ticks are equidistant.
    """
    ticks = all_ticks(curve)
    return weighted_mean(ticks.seen_accuracy, np.diff(ticks.steps, prepend=0))


@metric(
    "average_anytime_accuracy_all_tasks",
    title="AAA (all tasks)",
    higher_is_better=True,
    reference=f"variant of {ONLINE_SURVEY}",
)
def average_anytime_accuracy_all_tasks(curve: Curve) -> float | None:
    """Accuracy over all tasks, an unseen one counting 0, averaged over ticks.

    (1/K) Σ_t (1/T) Σ_j a_j(t),   a_j(t) = 0 before task j is seen
    """
    return mean(all_ticks(curve).known)


@metric("a_auc_100", title="A_AUC (Δn = 100)", higher_is_better=True, reference=I_BLURRY)
def a_auc_100(curve: Curve) -> float | None:
    """Accuracy over the classes exposed so far, averaged over every 100th stream example.

        A_AUC = mean_m Σ_j correct_j(t_m) / Σ_j total_j(t_m),   t_m = first tick after ≥ 100 m examples

    See `area_under_curve`.
    """
    return area_under_curve(all_ticks(curve), every=100)


@metric(
    "a_auc_1000",
    title="A_AUC (Δn = 1000)",
    higher_is_better=True,
    reference="Moon et al., ICCV 2023, arXiv 2308.09303",
)
def a_auc_1000(curve: Curve) -> float | None:
    """Accuracy over the classes exposed so far, averaged over every 1000th stream example.

        A_AUC = mean_m Σ_j correct_j(t_m) / Σ_j total_j(t_m),   t_m = first tick after ≥ 1000 m examples

    See `area_under_curve`.
    """
    return area_under_curve(all_ticks(curve), every=1000)


def area_under_curve(ticks: Ticks, every: int, *, exceed: bool = False) -> float:
    """A_AUC: accuracy over the exposed classes, averaged over every Δn-th example; NaN before the first.

        A_AUC = mean_m Σ_j correct_j(t_m) / Σ_j total_j(t_m),   t_m = first tick after ≥ Δn m examples

    With `exceed`, after > Δn m examples.

    Rectangles; an unfinished last interval is ignored, and a tick that ends several intervals counts once.
    What a tick evaluated is taken to be what was exposed. Koh et al., ICLR 2022, arXiv 2110.10031.
    """
    ended = np.maximum(ticks.examples - exceed, 0) // every  # intervals, at each tick
    t = np.flatnonzero(np.diff(ended, prepend=0))
    if not len(t):
        return float("nan")
    return mean(row_sums(ticks.correct[t]) / row_sums(ticks.total[t]))


# --- worst cases ---


@metric("min_acc", title="min-ACC", higher_is_better=True, reference=STABILITY_GAP, shown="everywhere")
def min_acc(curve: Curve) -> float | None:
    """Lowest accuracy of each old task since its end, averaged over old tasks.

        min-ACC = (1/(T−1)) Σ_{j<T} min { a_j(t) : e(t) > j }

    The tick at the end of task j is not among them: the first is that after the first update of task j+1. The last tick
    of each later task is, and it sees what the method does at the task's end; so min-ACC is never above what the run
    ends with, but by what the subsets differ from the full test sets.
    """
    ticks = task_ticks(curve, partial=True)
    return settled(*(mean(min_acc_trace(end)[-1]) for end in _ends(ticks)))


@metric("wc_acc", title="WC-ACC", higher_is_better=True, reference=STABILITY_GAP, shown="everywhere")
def wc_acc(curve: Curve) -> float | None:
    """Worst-case accuracy at the end: the accuracy of the last task, and the lowest of every older one.

        WC-ACC = (1/T) a_T(K) + (1 − 1/T) min-ACC

    Averaged over ticks it is `wc_acc_anytime`.
    """
    ticks = task_ticks(curve, partial=True)
    return settled(*(mean(wc_acc_trace(end)[-1]) for end in _ends(ticks)))


@metric(
    "wc_acc_anytime",
    title="WC-ACC (anytime)",
    higher_is_better=True,
    reference=f"variant of {STABILITY_GAP}",
)
def wc_acc_anytime(curve: Curve) -> float | None:
    """Worst-case accuracy, averaged over ticks.

    (1/K) Σ_t WC-ACC(t),   WC-ACC(t) = (1/e(t)) a_e(t) + (1 − 1/e(t)) min-ACC(t)
    """
    return mean(wc_acc_trace(task_ticks(curve)))


def _ends(ticks: Ticks) -> list[Ticks]:
    """Return the ticks with the lowest accuracies that are possible, and with the highest; one where all were
    evaluated."""
    if ticks.complete:
        return [ticks]
    return [replace(ticks, accuracy=end) for end in (ticks.lowest, ticks.highest)]


@functools.lru_cache(maxsize=2)  # of the same ticks, several metrics are made
def min_acc_trace(ticks: Ticks) -> Floats:
    """(K,) min-ACC at each tick; NaN while there is no old task.

        min-ACC(t) = mean_{j<e(t)} min { a_j(s) : e(s) > j, s ≤ t }

    Never rises while the set of old tasks stays. De Lange et al., ICLR 2023, arXiv 2205.13452.
    """
    old = np.arange(ticks.accuracy.shape[1]) < ticks.experience[:, None]  # (K, T)
    lowest = np.fmin.accumulate(np.where(old, ticks.accuracy, np.nan), axis=0)
    # An old task that was not evaluated since its end is left out: neither 1 nor ∞ would be a minimum.
    there = ~np.isnan(lowest)
    trace = divide(np.where(there, lowest, 0.0).sum(axis=1), row_sums(there))
    trace.flags.writeable = False  # as it is kept
    return trace


def wc_acc_trace(ticks: Ticks) -> Floats:
    """(K,) WC-ACC at each tick; the accuracy of the first task while it is alone.

        WC-ACC(t) = (1/k) a_k(t) + (1 − 1/k) min-ACC(t),   k = e(t)

    De Lange et al., ICLR 2023, arXiv 2205.13452.
    """
    k = ticks.experience + 1  # formulas count from 1
    current = ticks.accuracy[np.arange(len(ticks)), ticks.experience]
    return np.where(k == 1, current, current / k + (1 - 1 / k) * min_acc_trace(ticks))


@metric(
    "average_stability_gap",
    title="avg-SG",
    higher_is_better=False,
    reference="the quantity of arXiv 2507.14056; the normalisation is ours, as theirs is not known to us",
)
def average_stability_gap(curve: Curve) -> float | None:
    """Relative depth of the dip after a switch, averaged over switches and old tasks.

        mean_{j<i} (B_ij − min { a_j(t) : e(t) = i }) / B_ij,   B_ij = a_j(last tick of experience i−1)

    0 is no gap; less, a task that only improved. A pair with B_ij = 0 has no relative depth and is left out.
    """
    ticks = task_ticks(curve)
    gaps = []
    for i in range(1, curve.experiences):
        before = ticks.accuracy[ticks.of_experience(i - 1), :i]
        during = ticks.accuracy[ticks.of_experience(i), :i]
        if not len(before):
            raise UndefinedError
        B, lowest = before[-1], during.min(axis=0)
        gaps += list((B - lowest)[B != 0] / B[B != 0])
    return mean(gaps)


# --- change within a window ---


@metric("wf10", title="WF¹⁰", higher_is_better=False, reference=STABILITY_GAP, head="WF10", shown="suites")
def wf10(curve: Curve) -> float | None:
    """Largest drop of accuracy within 10 ticks, averaged over all tasks.

        WF¹⁰ = (1/T) Σ_j max { a_j(m) − a_j(n) : n−10 < m ≤ n }

    Ticks, not iterations: compare only where these are equally far apart. See `windowed_forgetting`.
    """
    return _largest_drop(curve, 10)


@metric("wf100", title="WF¹⁰⁰", higher_is_better=False, reference=STABILITY_GAP)
def wf100(curve: Curve) -> float | None:
    """Largest drop of accuracy within 100 ticks, averaged over all tasks.

        WF¹⁰⁰ = (1/T) Σ_j max { a_j(m) − a_j(n) : n−100 < m ≤ n }

    Ticks, not iterations: compare only where these are equally far apart. See `windowed_forgetting`.
    """
    return _largest_drop(curve, 100)


@metric("wp10", title="WP¹⁰", higher_is_better=True, reference=STABILITY_GAP)
def wp10(curve: Curve) -> float | None:
    """Largest rise of accuracy within 10 ticks, averaged over all tasks.

        WP¹⁰ = (1/T) Σ_j max { a_j(n) − a_j(m) : n−10 < m ≤ n }

    Ticks, not iterations: compare only where these are equally far apart. See `windowed_plasticity`.
    """
    return _largest_rise(curve, 10)


@metric("wp100", title="WP¹⁰⁰", higher_is_better=True, reference=STABILITY_GAP)
def wp100(curve: Curve) -> float | None:
    """Largest rise of accuracy within 100 ticks, averaged over all tasks.

        WP¹⁰⁰ = (1/T) Σ_j max { a_j(n) − a_j(m) : n−100 < m ≤ n }

    Ticks, not iterations: compare only where these are equally far apart. See `windowed_plasticity`.
    """
    return _largest_rise(curve, 100)


def _largest_drop(curve: Curve, window: int) -> float:
    """WF^Δ: least if every drop begins low and ends high."""
    return _settled_drop([end.accuracy for end in _ends(all_ticks(curve, partial=True))], window)


def _largest_rise(curve: Curve, window: int) -> float:
    """WP^Δ: a rise is a drop upside down."""
    return _settled_drop([-end.accuracy for end in reversed(_ends(all_ticks(curve, partial=True)))], window)


def _settled_drop(ends: Sequence[Floats], window: int) -> float:
    by_task = [np.ascontiguousarray(end.T) for end in ends]
    pairs = zip(by_task, reversed(by_task), strict=True)
    return settled(*(mean(np.fmax.reduce(_drops(begin, end, window), axis=1)) for begin, end in pairs))


def windowed_forgetting(accuracy: ArrayLike, window: int) -> Floats:
    """WF^Δ of each task at each tick, the largest drop so far within Δ ticks: (K, T), NaN where unseen.

        WF^Δ_j(t) = max { a_j(m) − a_j(n) : n−Δ < m ≤ n ≤ t }

    A window holds Δ ticks of the task's own sequence: ticks that left the task out are no part of it, and
    Δ = 1 gives 0. Its mean over the tasks seen, the current one included, is the paper's WF^Δ. De Lange et
    al., ICLR 2023, arXiv 2205.13452.
    """
    accuracy = np.asarray(accuracy, dtype=np.float64)
    if accuracy.ndim != 2 or window < 1:
        raise ValueError(
            "Accuracies have shape (ticks, tasks) and a window holds at least 1 tick; "
            f"shape {accuracy.shape} and window {window} were given."
        )
    drops = _drops(accuracy.T, accuracy.T, window)
    # Over n ≤ t; a tick without the task keeps its value.
    so_far: Floats = np.fmax.accumulate(drops, axis=1).T
    return so_far


def _drops(begin: Floats, end: Floats, window: int) -> Floats:
    """(T, K) the largest drop from the accuracy `begin` of a tick within Δ to `end` of this one; NaN where unseen."""
    seen = ~np.isnan(begin)
    if (seen[:, :-1] & ~seen[:, 1:]).any():  # each task by its own ticks, moved to the end
        order = np.argsort(seen, axis=1, kind="stable")
        first, then = (np.take_along_axis(values, order, axis=1) for values in (begin, end))
        drops = np.empty(begin.shape)
        np.put_along_axis(drops, order, _drops(first, then, window), axis=1)
        return drops
    drops = np.where(seen, 0.0, np.nan)  # 0 for m = n
    if window > 1:
        before = _trailing_max(
            np.where(seen, begin, -np.inf)[:, :-1], window - 1
        )  # max { begin(m) : n−Δ < m < n }
        np.maximum(drops[:, 1:], before - end[:, 1:], out=drops[:, 1:])
    return drops


def windowed_plasticity(accuracy: ArrayLike, window: int) -> Floats:
    """WP^Δ of each task at each tick, the largest rise so far within Δ ticks: (K, T), NaN where unseen.

        WP^Δ_j(t) = max { a_j(n) − a_j(m) : n−Δ < m ≤ n ≤ t }

    The paper's released code skips starts of a window in a way that is right for drops only: of (0.5, 0.1,
    0.9) it makes 0.4 where the definition gives 0.8. De Lange et al., ICLR 2023, arXiv 2205.13452.
    """
    return windowed_forgetting(-np.asarray(accuracy, dtype=np.float64), window)


def _trailing_max(a: Floats, window: int) -> Floats:
    """max { a(m) : n−window < m ≤ n } for each n of (T, K), by doubling the width: O(T K log window)."""
    a, width = a.copy(), 1
    while width < min(window, a.shape[1]):
        shift = min(width, window - width)
        a[:, shift:] = np.maximum(a[:, shift:], a[:, :-shift])
        width += shift
    return a


# --- learning speed ---


@metric("lca10", title="LCA₁₀", higher_is_better=True, reference=STABILITY_GAP)
def lca10(curve: Curve) -> float | None:
    """Accuracy on a task over its own first 10 ticks, averaged over the tasks that have so many.

        LCA₁₀ = mean_j (1/10) Σ_{s=1..10} a_j(s-th tick of experience j)

    A tick before the first update of the run is the first task's first one; A-GEM counts such a point for
    every task: `lca10_zero_shot`.
    """
    return learning_curve_area(task_ticks(curve), beta=10)


@metric(
    "lca10_zero_shot",
    title="LCA₁₀ (0-shot)",
    higher_is_better=True,
    reference="Chaudhry et al., ICLR 2019, arXiv 1812.00420",
)
def lca10_zero_shot(curve: Curve) -> float | None:
    """Accuracy on a task before its first and after each of its first 10 ticks, averaged over all tasks.

        LCA₁₀ = (1/11) Σ_{s=0..10} Z_s,   Z_0 = mean_j R[j−1,j],   Z_s = mean_j a_j(s-th tick of experience j)

    where R[0,j] stands for b[j]. The 0-shot point is of full test sets, the others are of fixed subsets.
    Undefined if a task has fewer than 10 ticks after updates.
    """
    ticks, (R, b, _) = task_ticks(curve), task_matrix(curve)
    zero_shot = np.append(b[:1], np.diag(R, k=1))  # (T,)
    updated = ticks.steps > 0
    shots = [ticks.accuracy[(ticks.experience == j) & updated, j][:10] for j in range(len(R))]
    if min(map(len, shots)) < 10:
        raise UndefinedError
    return mean(np.column_stack([zero_shot, shots]))


@metric(
    "forward_facilitation",
    title="FF₁₀",
    higher_is_better=True,
    reference="after Gandhi et al., arXiv 2401.10393; the formula is ours, as theirs is not known to us",
    default=False,
)
def forward_facilitation(curve: Curve) -> float | None:
    """How much better a later task is known after as few updates as the first one had, averaged over later tasks.

        FF₁₀ = mean_{j≥2} mean_{s=1..10} ( a_j(u_s) − a_1(u_s) ),   u_s = updates of task 1 at its s-th tick

    a_j(u) is between two ticks of task j where none falls on u updates of it; tasks without so many are left out. The
    first task, which meets a fresh network, stands for every task alone: fair where tasks are equally hard and a step
    holds as many new examples, as with permutations of one data set and no old examples.
    """
    ticks, tasks = task_ticks(curve), curve.experiences
    own = [(ticks.experience == j) & (ticks.steps > 0) for j in range(tasks)]
    updates = [ticks.steps[own[j]] - ticks.steps[ticks.experience < j].max(initial=0) for j in range(tasks)]
    first = updates[0][:10]
    if len(first) < 10:
        raise UndefinedError
    fresh = ticks.accuracy[own[0], 0][:10]
    later = [
        np.interp(first, updates[j], ticks.accuracy[own[j], j]) - fresh
        for j in range(1, tasks)
        if len(updates[j]) and updates[j][-1] >= first[-1]
    ]
    return mean([difference.mean() for difference in later])


def learning_curve_area(ticks: Ticks, beta: int) -> float:
    """LCA_β: accuracy on a task over its own first β ticks, over the tasks that have so many; NaN if none.

        LCA_β = mean_j (1/β) Σ_{s=1..β} a_j(s-th tick of experience j)

    De Lange et al., ICLR 2023, arXiv 2205.13452.
    """
    first = [ticks.accuracy[ticks.of_experience(j), j][:beta] for j in range(ticks.accuracy.shape[1])]
    full = [a.mean() for a in first if len(a) == beta]
    return float(np.mean(full)) if full else float("nan")
