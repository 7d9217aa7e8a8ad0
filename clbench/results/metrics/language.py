"""Metrics of language models: losses, in nats per token unless the unit says otherwise. Lower is better.

ℓ[i,j] is the loss on domain j's held-out text after experience i, Σ nll / tokens over all of it, and ℓ[0,j] that before
training; ℓ_j(t) is that on the part of it that tick t evaluates. Means over domains count each domain the same. The
mean of perplexities of batches is no perplexity; all of this is computed from sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from clbench.results.curve import Curve, Floats, Matrix
from clbench.results.measures import LOSS
from clbench.results.metrics.core import (
    GEM,
    RWALK,
    STABILITY_GAP,
    UndefinedError,
    all_ticks,
    full_matrix,
    mean,
    metric,
    task_matrix,
    task_ticks,
)

IBRAHIM = "Ibrahim et al., TMLR 2024, arXiv 2403.08763"
SHANNON = "Shannon, Bell System Technical Journal 30, 1951"
JELINEK = "Jelinek et al., Journal of the Acoustical Society of America 62, 1977"


@metric(
    "average_loss",
    title="loss",
    higher_is_better=False,
    reference=IBRAHIM,
    unit="nats per token",
    language=True,
)
def average_loss(curve: Curve) -> float:
    """Loss at the end, averaged over domains.

    L = (1/T) Σ_j ℓ[T,j]
    """
    return mean(_losses(curve).R[-1])


@metric("perplexity", title="perplexity", higher_is_better=False, reference=JELINEK, unit="", language=True)
def perplexity(curve: Curve) -> float:
    """Perplexity at the end.

        exp((1/T) Σ_j ℓ[T,j])

    Of one domain, exp(Σ nll / tokens); of several, the geometric mean of theirs.
    """
    return math.exp(mean(_losses(curve).R[-1]))


@metric(
    "bits_per_character",
    title="bits per character",
    higher_is_better=False,
    reference=SHANNON,
    unit="bits",
    head="bpc",
    language=True,
    shown="everywhere",
)
def bits_per_character(curve: Curve) -> float:
    """Bits that a character of the text takes at the end, averaged over domains.

        (1/T) Σ_j Σ nll_j / (ln 2 · characters_j)

    Like `bits_per_byte`, it compares models whatever their tokenizers. Ends of documents cost, and are no characters.
    """
    return mean(_losses(curve, per="characters").R[-1]) / math.log(2)


@metric(
    "bits_per_byte",
    title="bits per byte",
    higher_is_better=False,
    reference=SHANNON,
    unit="bits",
    language=True,
)
def bits_per_byte(curve: Curve) -> float:
    """Bits that a byte of the text, in UTF-8, takes at the end, averaged over domains.

    (1/T) Σ_j Σ nll_j / (ln 2 · bytes_j)
    """
    return mean(_losses(curve, per="bytes").R[-1]) / math.log(2)


@metric(
    "next_token_accuracy",
    title="next-token accuracy",
    higher_is_better=True,
    reference=IBRAHIM,
    head="next token",
    language=True,
)
def next_token_accuracy(curve: Curve) -> float:
    """Tokens at the end of which the model's first choice is the next one, averaged over domains.

        (1/T) Σ_j R[T,j]

    `average_accuracy` by another name.
    """
    return mean(full_matrix(curve).R[-1])


# --- over the stream ---


@metric(
    "forgetting_nats",
    title="F (nats)",
    higher_is_better=False,
    reference=f"{RWALK}, of losses",
    unit="nats per token",
    head="forgetting",
    language=True,
    shown="everywhere",
)
def forgetting_nats(curve: Curve) -> float:
    """Loss at the end minus the lowest at an earlier experience end, over all domains but the last.

    F = (1/(T−1)) Σ_{j<T} ( ℓ[T,j] − min_{l∈{1..T−1}} ℓ[l,j] )
    """
    task_matrix(curve, tasks=2)
    losses = _losses(curve).R
    return mean(losses[-1, :-1] - np.fmin.reduce(losses[:-1, :-1]))


@metric(
    "backward_transfer_nats",
    title="BWT (nats)",
    higher_is_better=True,
    reference=f"{GEM}, of losses",
    unit="nats per token",
    language=True,
)
def backward_transfer_nats(curve: Curve) -> float:
    """What later learning had taken off the loss of the old domains at the end.

    (1/(T−1)) Σ_{j<T} (ℓ[j,j] − ℓ[T,j])
    """
    task_matrix(curve, tasks=2)
    losses = _losses(curve).R
    return mean(np.diag(losses)[:-1] - losses[-1, :-1])


@metric(
    "forward_transfer_nats",
    title="FWT (nats)",
    higher_is_better=True,
    reference=f"{GEM}, of losses",
    unit="nats per token",
    language=True,
)
def forward_transfer_nats(curve: Curve) -> float:
    """What earlier learning takes off the loss of a domain before it is learned itself.

        (1/(T−1)) Σ_{j≥2} (ℓ[0,j] − ℓ[j−1,j])

    Needs evaluations of future domains, and before training.
    """
    task_matrix(curve, tasks=2)
    losses, before, _ = _losses(curve)
    return mean(before[1:] - np.diag(losses, k=1))


@metric(
    "plasticity_nats",
    title="learned (nats)",
    higher_is_better=True,
    reference=f"{RWALK}, of losses",
    unit="nats per token",
    language=True,
)
def plasticity_nats(curve: Curve) -> float:
    """What an experience takes off the loss of its own domain.

    (1/T) Σ_j (ℓ[j−1,j] − ℓ[j,j])
    """
    task_matrix(curve)
    losses, before, _ = _losses(curve)
    return mean(np.append(before[:1], np.diag(losses, k=1)) - np.diag(losses))


# --- at every iteration ---


@metric(
    "average_anytime_loss",
    title="anytime loss",
    higher_is_better=False,
    reference=f"area under the loss curve, after {STABILITY_GAP}",
    unit="nats per token",
    language=True,
    shown="everywhere",
)
def average_anytime_loss(curve: Curve) -> float:
    """Loss over the domains seen so far, averaged over ticks: the area under the curve, per tick.

    (1/K) Σ_t mean of ℓ_j(t) over the domains seen at t
    """
    all_ticks(curve)
    return mean(LOSS.seen(curve))


@metric(
    "gap_nats",
    title="gap (nats)",
    higher_is_better=False,
    reference=f"the stability gap of {STABILITY_GAP}, of losses",
    unit="nats per token",
    head="gap",
    language=True,
    shown="everywhere",
)
def gap_nats(curve: Curve) -> float:
    """Largest rise of an old domain's loss above that at the boundary, averaged over boundaries and old domains.

        (2/(T(T−1))) Σ_{i≥2} Σ_{j<i} max(0, max_{t: e(t) = i} ℓ_j(t) − ℓ_j(s_i)),   s_i the last tick before i

    0 where the loss never rises above that at the boundary.
    """
    return mean([max(0.0, float(later.max() - at)) for at, later, _ in _boundaries(curve)])


@metric(
    "gap_recovery_steps",
    title="gap (steps)",
    higher_is_better=False,
    reference=f"the stability gap of {STABILITY_GAP}, of losses",
    unit="steps",
    language=True,
)
def gap_recovery_steps(curve: Curve) -> float:
    """Steps from a boundary until the loss of an old domain, after its peak, is back at what it was.

        (2/(T(T−1))) Σ_{i≥2} Σ_{j<i} (first step from the peak on with ℓ_j(t) ≤ ℓ_j(s_i), minus that of s_i)

    0 where it never rises; where it does not come back, the whole experience counts: `recovered_share` says how often.
    """
    return mean([_recovery(at, later, steps)[0] for at, later, steps in _boundaries(curve)])


@metric(
    "recovered_share",
    title="recovered",
    higher_is_better=True,
    reference=f"the stability gap of {STABILITY_GAP}, of losses",
    language=True,
)
def recovered_share(curve: Curve) -> float:
    """Share of boundaries and old domains at which the loss comes back to what it was before, or never rises.

    (2/(T(T−1))) Σ_{i≥2} Σ_{j<i} [ min_{t ≥ peak} ℓ_j(t) ≤ ℓ_j(s_i) ]
    """
    return mean([_recovery(at, later, steps)[1] for at, later, steps in _boundaries(curve)])


def gap_trace(curve: Curve) -> Floats:
    """(K,) `gap_nats`, after De Lange et al., ICLR 2023, so far at each tick; NaN before the first boundary."""
    ticks, losses = curve.ticks(), LOSS.ticks(curve)
    found = np.full(len(ticks), np.nan)
    past, pairs = 0.0, 0
    for i in range(1, curve.experiences):
        of = ticks.of_experience(i)
        if 0 < of.start < of.stop:
            rise = (losses[of, :i] - losses[of.start - 1, :i]).clip(min=0)  # (ticks of i, i)
            peak = np.maximum.accumulate(rise).sum(1)
            past, pairs, found[of] = past + peak[-1], pairs + i, (past + peak) / (pairs + i)
    return found


def _losses(curve: Curve, per: str = "total") -> Matrix:
    """ℓ (E, T) and ℓ[0] (T,) of a finished run of language, per token, character or byte."""
    full_matrix(curve)
    if not curve.of_language:
        raise UndefinedError
    losses, before, totals = curve.loss_matrix(per)
    return Matrix(losses[: curve.experiences], before, totals)


def _boundaries(curve: Curve) -> Iterator[tuple[float, Floats, Floats]]:
    """For each boundary and each old domain: ℓ_j(s_i), ℓ_j(t) over the ticks of experience i, and steps since s_i."""
    ticks, losses = task_ticks(curve), LOSS.ticks(curve)
    if curve.experiences < 2 or not curve.of_language:
        raise UndefinedError
    for i in range(1, curve.experiences):
        of = ticks.of_experience(i)
        if of.start == 0 or of.start == of.stop:
            raise UndefinedError
        steps = (ticks.steps[of] - ticks.steps[of.start - 1]).astype(np.float64)
        for j in range(i):
            yield float(losses[of.start - 1, j]), losses[of, j], steps


def _recovery(at: float, later: Floats, steps: Floats) -> tuple[float, bool]:
    """Return the steps until the loss is back, and whether it is."""
    if later.max() <= at:
        return 0.0, True
    back = np.flatnonzero(later[later.argmax() :] <= at)
    return (float(steps[later.argmax() + back[0]]), True) if len(back) else (float(steps[-1]), False)
