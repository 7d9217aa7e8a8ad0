"""Holistic Proxy-based Contrastive Replay (HPCR).

Lin et al., "HPCR: Holistic Proxy-based Contrastive Replay for Online Continual Learning", IEEE TNNLS 2025,
arXiv:2309.15038.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Run, Strategy, chain, register
from clbench.parts import (
    CrossEntropy,
    Proxies,
    Rehearsal,
    SecondView,
    TwoViews,
    proxy_contrast,
    replay_two_views,
    unit,
)
from clbench.ranges import Count, NotNegative, Positive
from clbench.types import MASKED


class HolisticReplay(Rehearsal):
    """Contrast with proxies, weighted up and down in a cycle, and two distillations of what examples once were.

    `contrast` is κ(i) times the contrast of PCR, i the steps since the experience began. From the second experience
    on, `pcd` holds the scores and `scd` the similarities among replayed rows near those stored when they came.
    """

    replaces = (CrossEntropy,)  # the labels are learned here
    needs = frozenset({"memory", "boundaries"})
    state = ("memory", "since", "later")
    parallel = True

    def __init__(
        self,
        capacity: int,
        draw: int | None,
        temperature: float,
        kappa: tuple[float, float],
        period: int,
        alpha: float,
        beta: float,
        contrast: bool,
        second: SecondView,
    ) -> None:
        super().__init__(capacity, draw, "batch")
        self.temperature, self.kappa, self.period = temperature, kappa, period
        self.alpha, self.beta, self.contrast, self.second = alpha, beta, contrast, second

    def setup(self, run: Run) -> None:
        super().setup(run)
        self.since = 0  # steps since the experience began
        self.later = False  # whether it is the second experience or a later one

    def begin_experience(self, exp: Experience) -> None:
        self.since, self.later = 0, exp.index > 0

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        n = self.due(batch)
        if n == 0:
            return {}
        old, past = replay_two_views(self.run, self.memory, n, self.second)
        scores, y = torch.cat([past.logits, out.logits]), torch.cat([old["y"], batch.y])
        if self.contrast:
            features = torch.cat([past.features, out.features])
            contrast = sample_contrast(features, scores, y, self.temperature)
        else:
            contrast = proxy_contrast(scores, y)
        losses = {"contrast": cycle(self.since, *self.kappa, self.period) * contrast}
        if self.later and self.alpha:
            losses["pcd"] = self.alpha * proxy_distillation(past.logits, old["logits"], y)
        if self.later and self.beta:
            losses["scd"] = self.beta * sample_distillation(past.features, old["features"], self.temperature)
        return losses

    def after_step(self, batch: Batch, out: Output) -> None:
        logits, features = batch.firsts(out.logits), batch.firsts(out.features)  # of the plain views
        self.memory.add(self.run.rng("memory"), **batch.examples(), logits=logits, features=features)
        self.since += 1


def cycle(i: int, low: float, high: float, period: int) -> float:
    """κ(i) = low + (high − low) · ½ (1 − cos 2πi/period): low at 0, high half a period later."""
    return low + (high - low) * 0.5 * (1 - math.cos(2 * math.pi * i / period))


def sample_contrast(features: Tensor, scores: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Contrast in which a row's candidates are all other rows' features as well as the proxies of all rows' labels.

    Those of the row's own label, among both, are its positives.

    Args:
        features: (N, D). scores: (N, C), cos(features, proxies) / τ. y: (N,).
    """
    z = unit(features)
    oneself = torch.eye(len(y), dtype=torch.bool, device=y.device)
    samples = (z @ z.T / temperature).masked_fill(oneself, float("-inf"))  # (N, N)
    # The scores of all rows' labels, (N, N); a product, since the gradient of a selection with repeats has no fixed
    # order of sums on a GPU.
    proxies = scores @ F.one_hot(y, scores.shape[1]).to(scores.dtype).T
    same = y.unsqueeze(0) == y.unsqueeze(1)
    positive = samples.masked_fill(~same | oneself, 0).sum(1) + proxies.masked_fill(~same, 0).sum(1)
    among = torch.cat([samples, proxies], 1).logsumexp(1)
    return (among - positive / (2 * same.sum(1) - 1)).mean()


def proxy_distillation(scores: Tensor, stored: Tensor, y: Tensor) -> Tensor:
    """PCD: mean over rows of Σ_c n_c/N (s_rc − s*_rc)², n_c the rows of class c among all labels y (N,)."""
    share = torch.zeros_like(scores[0]).index_add_(0, y, torch.ones_like(y, dtype=scores.dtype)) / len(y)
    return ((scores - stored) ** 2 @ share).mean()


def sample_distillation(features: Tensor, stored: Tensor, temperature: float) -> Tensor:
    """SCD: mean over rows of −Σ p ln q, q a row's similarities to the other rows as probabilities, p those stored."""
    log_q, log_p = similarities(features, temperature), similarities(stored, temperature)
    return -(log_p.exp() * log_q).sum(1).mean()


def similarities(features: Tensor, temperature: float) -> Tensor:
    """(N, N) log-softmax of cos / τ over the other rows; the probability of the row itself is 0."""
    z = unit(features)
    oneself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    return F.log_softmax((z @ z.T / temperature).masked_fill(oneself, MASKED), 1)


@register("hpcr", family="contrast", paper="arXiv:2309.15038")
def hpcr(
    memory: Count = 200,
    draw: Count | None = None,
    temperature: Positive = 0.09,
    kappa_min: Positive = 0.5625,
    kappa_max: Positive = 1.8,
    period: Count = 500,
    alpha: NotNegative = 0.1,
    beta: NotNegative = 0.5,
    contrast: bool = False,
    seen_only: bool = True,
    second_view: Literal["strong", "kornia", "benchmark"] = "strong",
) -> Strategy:
    """Holistic Proxy-based Contrastive Replay: PCR whose loss is scaled in a cycle, with two distillations.

    L = κ(i) · L_PCR + α · PCD + β · SCD, the latter two from the second experience on: the replayed rows keep the
    scores, and the similarities to one another, that were stored when they came.

    Args:
        memory: examples the reservoir holds.
        draw: replayed examples, two views of each; as many as the stream brings if none is given.
        temperature: τ of the softmax.
        kappa_min, kappa_max, period: κ rises from its least value to its greatest and falls back in `period` steps;
            it begins anew with each experience. The defaults are 0.09 / 0.16 and 0.09 / 0.05: gradients are scaled
            as at temperatures between 0.16 and 0.05.
        alpha: α, weight of the distillation of scores (PCD).
        beta: β, weight of the distillation of similarities (SCD).
        contrast: contrasts rows with one another as well as with proxies.
        seen_only: whether classes not seen yet are out of the question at prediction.
        second_view: how the second view of a colour image is made: strong, by a random resized crop, a flip, colour
            jitter and greyscale of torchvision's; kornia, by those of kornia 0.4.1, as in the authors' code. Otherwise,
            and for other inputs, it is the benchmark's augmentation.

    Reference: Lin et al., "HPCR: Holistic Proxy-based Contrastive Replay for Online Continual Learning", IEEE
    Transactions on Neural Networks and Learning Systems 2025, arXiv:2309.15038.

    Differences from the paper:
        1. Contrast among rows is an option for all steps, and off, as in the authors' released settings; the paper
           switches it on and off by the situation of the batch.
        2. The second view of what is no colour image is the benchmark's augmentation; where that is nothing, both views
           are equal.
        3. The benchmark's normalisation is kept; the authors' inputs lie in [0, 1].
        4. The proxies begin as the weights of the linear head, which has their distribution.
        5. A class counts as seen from its first example on, in place of the end of its experience.
        6. With task labels, the proxies of other tasks are out of the question, and add zeros to PCD.
        7. A batch that meets an empty memory makes no update at all; the authors' loss is 0 there, which is the same
           without momentum and weight decay.
        8. A strong view has torchvision's operations; `second_view=kornia` has those of the authors' library.
    """
    if kappa_min > kappa_max:
        raise ValueError(f"kappa_min is at most kappa_max, {kappa_max}; {kappa_min} was given")
    return chain(
        Proxies(temperature, seen_only),
        TwoViews(second_view),
        HolisticReplay(
            memory, draw, temperature, (kappa_min, kappa_max), period, alpha, beta, contrast, second_view
        ),
    )
