"""Sharpness-aware minimisation for rare classes only (ImbSAM).

Zhou et al., "ImbSAM: A Closer Look at Sharpness-Aware Minimization in Class-Imbalanced Recognition", ICCV 2023,
arXiv:2308.07815.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from clbench import Batch, Experience, Output, Run, Strategy, chain, register
from clbench.parts import PlainRows, RowLoss, SplitsRows, ascent, perturbed
from clbench.ranges import NotNegative


class TailSharpness(SplitsRows):
    """ImbSAM: rows of rare classes are fitted where their loss is about worst within ρ of the weights, and count twice.

    Classes that came after the first experience are rare. The gradient is g_head(θ) + g_tail(θ + ε) with
    ε = ρ g_tail(θ) / ‖g_tail(θ)‖₂, of Σ_head ℓ / B and 2 Σ_tail ℓ / B. Other losses of the chain go with the head.
    """

    exempt: ClassVar[dict[str, str]] = {"takes_effect": "on a domain-incremental stream no class is rare"}
    needs = frozenset({"boundaries"})
    state = ("rare",)
    parallel = True
    waits = 1  # for whether a batch has rare classes

    def __init__(self, rho: float) -> None:
        self.rho = rho

    def setup(self, run: Run) -> None:
        self.rare = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)  # (C,)
        self.loss = next(part for part in run.strategy.parts if isinstance(part, RowLoss))

    def begin_experience(self, exp: Experience) -> None:
        if exp.index == 0:
            self.rare = torch.ones_like(self.rare)
            self.rare[list(exp.classes)] = False

    def tail(self, batch: Batch) -> Tensor:
        """(B,) bool: rows that have a label of a rare class."""
        rows, mix = self.rare[batch.y], self.loss.mix
        other = mix.other(batch) if mix is not None else None
        return rows if mix is None or other is None else rows | (self.rare[other] & mix.mixed)

    def head(self, batch: Batch, logits: Tensor) -> Tensor:
        """() Σ_head ℓ / B."""
        return (self.loss.mixed(batch, logits, "none") * ~self.tail(batch)).sum() / len(batch)

    def gradient(self, batch: Batch, inner: Callable[[Batch], Output]) -> Output:
        if not bool(self.tail(batch).any()):  # one look saves two passes, and most batches have none
            return inner(batch)
        run = self.run
        before = run.moment()
        out = inner(batch)
        theta = list(run.parameters().values())
        with run.repeating(before):
            up = ascent(self._tail_gradient(batch, theta), self.rho)
        with run.repeating(before), perturbed(theta, up):
            worst = self._tail_gradient(batch, theta)
        scale = run.gradient_scale()
        for p, g in zip(theta, worst, strict=True):
            if g is not None:
                p.grad = g * scale if p.grad is None else p.grad + g * scale
        return out

    def _tail_gradient(self, batch: Batch, theta: list[torch.nn.Parameter]) -> list[Tensor | None]:
        """Return the gradient of 2 Σ_tail ℓ / B where the weights are."""
        rows = self.loss.mixed(batch, self.run.forward(batch.x, batch.task).logits, "none")
        loss = 2 * (rows * self.tail(batch)).sum() / len(batch)
        return list(torch.autograd.grad(loss, theta, allow_unused=True))


@register("imbsam", family="rare classes", paper="arXiv:2308.07815", modifier=True)
def imbsam(rho: NotNegative = 0.05) -> Strategy:
    """ImbSAM: the gradient of rare classes' rows is taken a step of length ρ up their loss, and counts twice.

    g = ∇ Σ_head ℓ / B at θ + ∇ 2 Σ_tail ℓ / B at θ + ε, ε = ρ g_tail / ‖g_tail‖. Rare are the classes that came after
    the first experience. Around any other strategy, and beside `balanced-softmax`, `ldam-drw` and `cmo`, where a row is
    rare if either of its labels is.

    Args:
        rho: ρ.

    Reference: Zhou et al., "ImbSAM: A Closer Look at Sharpness-Aware Minimization in Class-Imbalanced Recognition",
    ICCV 2023, arXiv:2308.07815, as Kim et al., ICCV-W 2025, arXiv:2503.10003, use it for few-shot streams.

    Differences from Kim et al.'s code:
        1. Running statistics of batch normalisation move once a step, not twice.
        2. A batch without rare rows takes one pass; there it takes three, to the same gradient.
        3. Other losses of the chain, such as penalties, are part of the head's gradient.
    """
    return chain(PlainRows(), TailSharpness(rho))
