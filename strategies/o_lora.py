"""O-LoRA: each experience learns low-rank branches whose input directions are orthogonal to those before.

Wang et al., "Orthogonal Subspace Learning for Language Model Continual Learning", EMNLP 2023 (Findings),
arXiv:2310.14152.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from clbench import Batch, Output, Strategy, chain, register
from clbench.parts import LowRankTuning, Target, TrainOnly, label_losses
from clbench.ranges import Fraction, Natural, NotNegative, Positive

Form = Literal["absolute", "squared"]


def overlap(old: Tensor, new: Tensor, form: Form) -> Tensor:
    """() Σ_jk |(A_old A_tᵀ)_jk|, or of squares, for rows A_old (r t, i) and A_t (r, i); 0 without old rows."""
    products = old @ new.T
    return (products.abs() if form == "absolute" else products.square()).sum()


class Orthogonal(LowRankTuning):
    """A pair for each experience, all summed, the present one trained, near orthogonal to those before.

    `orthogonality` is λ₁ Σ over layers of `overlap`; `norm` is λ₂ Σ over layers of ‖A_t‖ + ‖B_t‖.
    """

    needs = frozenset({"boundaries"})
    parallel = True
    language = True

    def __init__(
        self,
        rank: int,
        scale: float,
        dropout: float,
        targets: Sequence[Target],
        weights: tuple[float, float],
        form: Form,
    ) -> None:
        super().__init__(rank, scale, dropout, targets, slots=True)
        (self.strength, self.norm), self.form = weights, form

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        t, terms = self.stage.current, {}
        if self.strength and t:
            found = [overlap(b.down()[: -self.rank], b.downs[t], self.form) for b in self.branches]
            terms["orthogonality"] = self.strength * torch.stack(found).sum()
        if self.norm:
            found = [pair.norm() for b in self.branches for pair in (b.downs[t], b.ups[t])]
            terms["norm"] = self.norm * torch.stack(found).sum()
        return terms


@register("o-lora", family="low rank", paper="arXiv:2310.14152", tiny={"rank": 4})
def o_lora(
    rank: Natural = 8,
    alpha: Positive = 16.0,
    targets: tuple[Target, ...] = ("q", "v"),
    dropout: Fraction = 0.0,
    strength: NotNegative = 0.5,
    norm: NotNegative = 0.0,
    form: Form = "absolute",
    head: Positive = 1.0,
    loss: Literal["local", "softmax"] = "local",
) -> Strategy:
    """O-LoRA: new low-rank branches for each experience, in directions orthogonal to those of earlier ones.

    y = W x + b + s Σ_k B_k A_k x; experience t trains A_t and B_t, and L = CE + λ₁ Σ |A_k A_tᵀ| over layers, entries
    and k < t, + λ₂ Σ (‖A_t‖ + ‖B_t‖). Without λ₁ it is IncLoRA. It constrains parameters and not inputs: what was
    learned still changes, unless A_t x is 0 for its inputs. The penalty grows with the square of the rank, and with t.

    Args:
        rank: r of an experience's pair; 0 leaves the head alone, as `linear-probe` does.
        alpha: α of s = α / r. The authors have 32.
        targets: the layers: q, k, v, the projections of attention; proj, the one after it; fc1, fc2 of the perceptron.
        dropout: on x, in the branches only; one draw for old and new ones. The authors have 0.1.
        strength, norm: λ₁ and λ₂. The authors choose both for each task of their long streams.
        form: absolute, Σ |·| as released; squared, Σ (·)², as the paper has it.
        head: factor on the head's learning rate; low-rank branches stand smaller ones.
        loss: local, cross-entropy over the present experience's classes for rows of the stream; softmax, over all.

    Reference: Wang et al., "Orthogonal Subspace Learning for Language Model Continual Learning", EMNLP 2023 (Findings),
    arXiv:2310.14152.

    Differences from the authors' code:
        1. A head names the class, where a language model writes it.
        2. Pairs of all experiences are there from the start, and counted; those to come are not read.
    """
    if not rank:
        return chain(TrainOnly("head"), label_losses(loss, head))
    tuned = Orthogonal(rank, alpha / rank, dropout, targets, (strength, norm), form)
    return chain(tuned, label_losses(loss, head))
