"""Metrics of the accuracy matrix R[i,j], from full test sets at experience ends."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from clbench.results.curve import Curve, Floats, divide
from clbench.results.metrics.core import (
    GEM,
    I_BLURRY,
    ICARL,
    JOINT_FSCIL,
    MAMMOTH,
    ONLINE_SURVEY,
    RWALK,
    STABILITY_GAP,
    UndefinedError,
    full_matrix,
    mean,
    metric,
    task_matrix,
    weighted_mean,
)

SINCE = 1
"""The schema of records from which on they have these metrics."""

# --- accuracy ---


@metric("average_accuracy", title="ACC", higher_is_better=True, reference=GEM, shown="everywhere")
def average_accuracy(curve: Curve) -> float | None:
    """Accuracy at the end, averaged over tasks.

        ACC = (1/T) Σ_j R[T,j]

    Every task counts the same; in `average_accuracy_weighted` every example does.
    """
    R = full_matrix(curve).R
    return mean(R[-1])


@metric(
    "average_accuracy_weighted",
    title="ACC (examples)",
    higher_is_better=True,
    reference=ICARL,
    head="overall",
)
def average_accuracy_weighted(curve: Curve) -> float | None:
    """Accuracy at the end over all test examples.

        A_T = Σ_j n[j] R[T,j] / Σ_j n[j]

    The "last accuracy" of class-incremental papers; `average_accuracy` where all test sets have one size.
    """
    R, _, n = full_matrix(curve)
    return weighted_mean(R[-1], n)


@metric("average_incremental_accuracy", title="AIA", higher_is_better=True, reference=ICARL)
def average_incremental_accuracy(curve: Curve) -> float | None:
    """Accuracy over the tasks seen, averaged over experience ends.

        AIA = (1/T) Σ_i (1/i) Σ_{j≤i} R[i,j]

    Every task counts the same; class-incremental papers with unequal tasks (a large first one) count every
    example: `average_incremental_accuracy_weighted`.
    """
    R, learned = full_matrix(curve).R, curve.learned
    return mean([mean(R[i, learned <= i]) for i in range(len(R))])


@metric(
    "average_incremental_accuracy_weighted",
    title="AIA (examples)",
    higher_is_better=True,
    reference=ICARL,
    head="average",
)
def average_incremental_accuracy_weighted(curve: Curve) -> float | None:
    """Accuracy over the test examples of all tasks seen, averaged over experience ends.

        (1/T) Σ_i A_i,   A_i = Σ_{j≤i} n[j] R[i,j] / Σ_{j≤i} n[j]

    The "average accuracy" of few-shot class-incremental papers.
    """
    full_matrix(curve)
    return mean(session_accuracies(curve))


@metric(
    "learning_accuracy",
    title="LA",
    higher_is_better=True,
    reference="Riemer et al., ICLR 2019, arXiv 1810.11910",
)
def learning_accuracy(curve: Curve) -> float | None:
    """Accuracy on each task right after it was learned.

        LA = (1/T) Σ_j R[j,j]

    Also called plasticity, the P of `stability_plasticity`.
    """
    R = task_matrix(curve).R
    return mean(np.diag(R))


@metric("stability", title="S", higher_is_better=True, reference=MAMMOTH)
def stability(curve: Curve) -> float | None:
    """Accuracy at the end on all tasks but the last.

    S = (1/(T−1)) Σ_{j<T} R[T,j]
    """
    R = task_matrix(curve).R
    return mean(R[-1, :-1])


@metric("stability_plasticity", title="2SP/(S+P)", higher_is_better=True, reference=MAMMOTH)
def stability_plasticity(curve: Curve) -> float | None:
    """Harmonic mean of stability and plasticity.

    2 S P / (S + P),   S = (1/(T−1)) Σ_{j<T} R[T,j],   P = (1/T) Σ_j R[j,j]
    """
    R = task_matrix(curve).R
    return harmonic(mean(R[-1, :-1]), mean(np.diag(R)))


# --- transfer ---


@metric("backward_transfer", title="BWT", higher_is_better=True, reference=GEM)
def backward_transfer(curve: Curve) -> float | None:
    """What later learning had added to the old tasks at the end.

        BWT = (1/(T−1)) Σ_{j<T} (R[T,j] − R[j,j])

    `forgetting_first_last` with the sign reversed; at all experience ends it is
    `backward_transfer_all_pairs`.
    """
    R = task_matrix(curve).R
    return mean(R[-1, :-1] - np.diag(R)[:-1])


@metric(
    "backward_transfer_all_pairs",
    title="BWT (all pairs)",
    higher_is_better=True,
    reference="Díaz-Rodríguez et al. 2018, arXiv 1810.13166",
)
def backward_transfer_all_pairs(curve: Curve) -> float | None:
    """What later learning had added to the old tasks, at every experience end and not only the last.

    (2/(T(T−1))) Σ_{i=2..T} Σ_{j<i} (R[i,j] − R[j,j])
    """
    R = task_matrix(curve).R
    i, j = np.tril_indices(len(R), k=-1)
    return mean(R[i, j] - R[j, j])


@metric("forward_transfer", title="FWT", higher_is_better=True, reference=GEM)
def forward_transfer(curve: Curve) -> float | None:
    """What earlier learning gave a task before it was learned itself.

        FWT = (1/(T−1)) Σ_{j≥2} (R[j−1,j] − b[j])

    Needs evaluations of future tasks, and before training. A network that scores all classes alike names none: its b is
    0, not chance. So where every task has classes of its own, a method that masks those to come has a transfer of 0.
    """
    R, b, _ = task_matrix(curve)
    return mean(np.diag(R, k=1) - b[1:])


# --- forgetting: seven definitions ---


@metric(
    "forgetting", title="F", higher_is_better=False, reference=RWALK, head="forgetting", shown="everywhere"
)
def forgetting(curve: Curve) -> float | None:
    """Best earlier accuracy minus the last, over all tasks but the last.

        F = (1/(T−1)) Σ_{j<T} ( max_{l∈{1..T−1}} R[l,j] − R[T,j] )

    The maximum runs over all earlier experience ends that were evaluated, those before task j was learned
    included (`forgetting_since_learned` leaves them out). Never less than `forgetting_first_last`.
    """
    R = task_matrix(curve, tasks=2).R
    return mean(np.fmax.reduce(R[:-1, :-1]) - R[-1, :-1])  # fmax: future tasks need not be evaluated


@metric(
    "forgetting_since_learned",
    title="F (l ≥ j)",
    higher_is_better=False,
    reference=f"many code bases, after {RWALK}",
)
def forgetting_since_learned(curve: Curve) -> float | None:
    """Best accuracy since a task was learned minus the last, over all tasks but the last.

        (1/(T−1)) Σ_{j<T} ( max_{l∈{j..T−1}} R[l,j] − R[T,j] )

    The same as `forgetting` unless a task was solved better before it was learned.
    """
    R = task_matrix(curve, tasks=2).R
    since = np.where(np.tri(len(R), dtype=bool), R, np.nan)
    return mean(np.fmax.reduce(since[:-1, :-1]) - R[-1, :-1])


@metric(
    "forgetting_all_tasks",
    title="F (all T)",
    higher_is_better=False,
    reference="code bases of online replay, e.g. of Mai et al. 2022, arXiv 2101.10423",
)
def forgetting_all_tasks(curve: Curve) -> float | None:
    """Best accuracy minus the last over all tasks, the last accuracy being one of those.

        (1/T) Σ_j ( max_{l∈{1..T}} R[l,j] − R[T,j] )

    Never negative; as the last task usually adds 0, it is about (T−1)/T of `forgetting`.
    """
    R = task_matrix(curve).R
    return mean(np.fmax.reduce(R) - R[-1])


@metric("forgetting_first_last", title="FORG", higher_is_better=False, reference=STABILITY_GAP)
def forgetting_first_last(curve: Curve) -> float | None:
    """Accuracy right after learning minus the last, over all tasks but the last.

        FORG = (1/(T−1)) Σ_{j<T} (R[j,j] − R[T,j])

    Without a maximum, so it may be negative: −BWT.
    """
    R = task_matrix(curve).R
    return mean(np.diag(R)[:-1] - R[-1, :-1])


@metric("forgetting_first_record", title="F (first record)", higher_is_better=False, reference=ONLINE_SURVEY)
def forgetting_first_record(curve: Curve) -> float | None:
    """First recorded accuracy minus the last, over all tasks but the last.

        (1/(T−1)) Σ_{j<T} (R[l(j),j] − R[T,j]),   l(j) = min { l ≥ j : R[l,j] was recorded }

    Differs from `forgetting_first_last` only where a task was not evaluated at its own end.
    """
    R = task_matrix(curve, tasks=2).R
    recorded = ~np.isnan(R) & np.tri(len(R), dtype=bool)
    first = R[recorded.argmax(axis=0), np.arange(len(R))]
    return mean(first[:-1] - R[-1, :-1])


@metric(
    "global_forgetting",
    title="F^G",
    higher_is_better=False,
    reference="Smith et al., CVPR-W 2023, arXiv 2203.17269",
)
def global_forgetting(curve: Curve) -> float | None:
    """Accuracy lost since learning, weighted by task size, over all later experience ends.

        F^G = (1/(T−1)) Σ_{i=2..T} Σ_{j<i} (n[j] / Σ_{l≤i} n[l]) (R[j,j] − R[i,j])

    "Global": R is of the argmax over all classes; of the argmax within a task it is `local_forgetting`. Each
    i weighs its old tasks by their share of what was seen, so two equal tasks with 0.9 → 0.7 give 0.1.
    """
    R, _, n = task_matrix(curve, tasks=2)
    i, j = np.tril_indices(len(R), k=-1)
    lost = n[j] / n.cumsum()[i] * (R[j, j] - R[i, j])
    return float(lost.sum() / (len(R) - 1))


@metric("class_forgetting", title="F_last", higher_is_better=False, reference=I_BLURRY)
def class_forgetting(curve: Curve) -> float | None:
    """Best accuracy of a class at an earlier experience end minus its last, over the classes once recognised.

        F_last = mean_{c : m_c > 0} (m_c − acc_c(T)),   m_c = max_{i<T} acc_c(i)

    Needs counts per class. A class that was named by chance before it was exposed counts, unless it was not
    evaluated then.
    """
    full_matrix(curve)
    ends = np.unique(curve.experience[curve.full]) >= 0  # not before training
    if not len(curve.class_total) or ends.sum() < 2:
        raise UndefinedError
    accuracy = divide(curve.class_correct, curve.class_total)[ends]  # (T, C)
    best = np.fmax.reduce(accuracy[:-1])
    once = best > 0  # false for a class never evaluated
    return mean(best[once] - accuracy[-1, once])


# --- environments in which the past recurs, on request ---


@metric(
    "retention_slope",
    title="d(ret.)",
    higher_is_better=True,
    reference="after Gandhi et al., arXiv 2401.10393; the formula is ours, as theirs is not known to us",
    unit="exponent",
    default=False,
)
def retention_slope(curve: Curve) -> float | None:
    """Exponent of the power of its age that the final accuracy on a task falls with: 0 is no fall.

        d = slope of the least-squares line through ( ln(T−j), ln R[T,j] ), j < T

    Undefined below three tasks, and where a task ended at 0.
    """
    last = task_matrix(curve, tasks=3).R[-1, :-1]
    if not (last > 0).all():
        raise UndefinedError
    age = np.log(np.arange(len(last), 0, -1))
    deviation = age - age.mean()
    return float((deviation * np.log(last)).sum() / (deviation**2).sum())


# --- few-shot class-incremental learning, on request; experience 1 is the base session ---


@metric(
    "performance_drop",
    title="PD",
    higher_is_better=False,
    reference="Zhang et al., CVPR 2021, arXiv 2104.03047",
    default=False,
)
def performance_drop(curve: Curve) -> float | None:
    """Accuracy after the base session minus that after the last.

    PD = A_1 − A_T,   A_i = Σ_{j≤i} n[j] R[i,j] / Σ_{j≤i} n[j]
    """
    task_matrix(curve)
    A = session_accuracies(curve)
    return float(A[0] - A[-1])


@metric(
    "base_accuracy", title="Base", higher_is_better=True, reference=JOINT_FSCIL, default=False, head="base"
)
def base_accuracy(curve: Curve) -> float | None:
    """Accuracy at the end on the classes of the base session.

    B = R[T,1]
    """
    R = task_matrix(curve).R
    return float(R[-1, 0])


@metric(
    "novel_accuracy", title="Novel", higher_is_better=True, reference=JOINT_FSCIL, default=False, head="novel"
)
def novel_accuracy(curve: Curve) -> float | None:
    """Accuracy at the end over the test examples of all classes after the base session.

    N = Σ_{j≥2} n[j] R[T,j] / Σ_{j≥2} n[j]
    """
    R, _, n = task_matrix(curve)
    return weighted_mean(R[-1, 1:], n[1:])


@metric("harmonic_mean", title="HM", higher_is_better=True, reference=JOINT_FSCIL, default=False)
def harmonic_mean(curve: Curve) -> float | None:
    """Harmonic mean of base and novel accuracy: 0 for a model that knows the base classes only.

    HM = 2 B N / (B + N),   B = R[T,1],   N = Σ_{j≥2} n[j] R[T,j] / Σ_{j≥2} n[j]
    """
    R, _, n = task_matrix(curve)
    return harmonic(R[-1, 0], weighted_mean(R[-1, 1:], n[1:]))


@metric("gacc_0", title="gAcc(0)", higher_is_better=True, reference=JOINT_FSCIL, default=False)
def gacc_0(curve: Curve) -> float | None:
    """Accuracy on the sessions after the base session, averaged over experience ends, the first counting 0.

        gAcc(0) = (1/T) Σ_{i≥2} (1/(i−1)) Σ_{2≤j≤i} R[i,j]

    `generalized_accuracy` with no weight on the base session; with weight 1 it is `average_incremental_accuracy`.
    """
    return generalized_accuracy(task_matrix(curve, tasks=2).R, 0)


@metric("gacc_auc", title="gAcc AUC", higher_is_better=True, reference=JOINT_FSCIL, default=False)
def gacc_auc(curve: Curve) -> float | None:
    """Accuracy as the weight of the base session goes from none to its share of classes.

        (1/ρ) ∫_0^ρ gAcc(α) dα by trapezoids over α = 0, 1, … ρ,   ρ = n[1] / mean_{j≥2} n[j], rounded

    ρ is base classes over classes of a later session; the curve knows numbers of test examples, of which every class
    has equally many, or nearly. See `generalized_accuracy` and `generalized_accuracy_auc`.
    """
    R, _, n = task_matrix(curve, tasks=2)
    return generalized_accuracy_auc(R, max(1, round(float(n[0] / n[1:].mean()))))


# --- functions that need or give more than the curve's one number ---


def session_accuracies(curve: Curve) -> Floats:
    """(E,) accuracy over the test examples of all tasks seen, after each experience; NaN where not evaluated.

        A_i = Σ_{j≤i} n[j] R[i,j] / Σ_{j≤i} n[j]

    There may be fewer experiences than tasks: one that teaches all at once has one accuracy. From counts: a mean over
    batches or sessions is another number where these differ in size. Zhang et al., CVPR 2021, arXiv 2104.03047.
    """
    (R, _, n), learned = curve.matrix(), curve.learned
    return np.array([weighted_mean(R[i, learned <= i], n[learned <= i]) for i in range(curve.experiences)])


def intransigence(curve: Curve, reference: ArrayLike) -> Floats:
    """(T,) what joint training would have learned better, I_k; papers report the last.

        I_k = R*_k − R[k,k],   R*_k = accuracy on task k of a reference trained jointly on tasks 1..k

    Lower is better; may be negative. Chaudhry et al., ECCV 2018, arXiv 1801.10112.
    """
    joint, R = np.asarray(reference, dtype=np.float64), curve.matrix().R
    if joint.shape * 2 != R.shape:
        raise ValueError(f"A reference of shape {joint.shape} does not fit a matrix of shape {R.shape}.")
    return joint - np.diag(R)


def local_forgetting(L: ArrayLike) -> float:
    """Accuracy within each task lost since learning, without competition from the classes of other tasks.

        F^L = (1/(T−1)) Σ_{j<T} (L[j,j] − L[T,j])

    L[i,j] is the `masked_accuracy` on task j after task i with the argmax over j's classes. Positive means
    forgetting. Smith et al., CVPR-W 2023, arXiv 2203.17269.
    """
    L = np.asarray(L, dtype=np.float64)
    return float((np.diag(L) - L[-1])[:-1].mean())


def generalized_accuracy(R: ArrayLike, alpha: float) -> float:
    """gAcc(α): accuracy of a session with weight α on the base session, averaged over sessions.

        gAcc(α) = (1/T) Σ_i g_i,   g_i = (α R[i,1] + Σ_{2≤j≤i} R[i,j]) / (α + i − 1)

    and g_1 = R[1,1], or 0 for α = 0. Kim et al., ICCV-W 2025, arXiv 2503.10003.
    """
    R = np.asarray(R, dtype=np.float64)
    later = [(alpha * R[i, 0] + R[i, 1 : i + 1].sum()) / (alpha + i) for i in range(1, len(R))]
    return float(np.mean([R[0, 0] if alpha else 0.0, *later]))


def generalized_accuracy_auc(R: ArrayLike, ratio: int) -> float:
    """Area under gAcc(α) by trapezoids over α = 0, 1, … ρ, divided by ρ.

        (1/ρ) ∫_0^ρ gAcc(α) dα,   ρ = base classes / classes of a later session

    Kim et al., ICCV-W 2025, arXiv 2503.10003.
    """
    g = np.array([generalized_accuracy(R, alpha) for alpha in range(ratio + 1)])
    return float((g[:-1] + g[1:]).sum() / 2 / ratio)


def harmonic(a: float, b: float) -> float:
    """2 a b / (a + b), and 0 if both are 0."""
    return float(2 * a * b / (a + b)) if a + b else 0.0
