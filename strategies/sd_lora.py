"""SD-LoRA: low-rank directions of earlier experiences stay, and how far to go along each is learned on.

Wu et al., "SD-LoRA: Scalable Decoupled Low-Rank Adaptation for Class Incremental Learning", ICLR 2025,
arXiv:2501.13198.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from clbench import Experience, Strategy, chain, register
from clbench.parts import Dropout, LowRank, LowRankTuning, Stage, Target, TrainOnly, label_losses
from clbench.ranges import Natural, Positive

TINY = 1e-12


class Magnitudes(nn.Module):
    """α_t of all experiences, each a parameter of its own: one for all layers."""

    def __init__(self, experiences: int, start: float, device: torch.device) -> None:
        super().__init__()
        self.alphas = nn.ParameterList(
            nn.Parameter(torch.tensor(start, device=device)) for _ in range(experiences)
        )

    def reset_parameters(self) -> None:
        """They begin anew when an experience does."""


class Directions(LowRank):
    """Σ_{k<t} α_k B_k A_k x / (‖B_k‖ ‖A_k‖) + α_t B_t A_t x: old pairs are directions, the present one is free."""

    def __init__(self, downs: Sequence[Tensor], outputs: int, stage: Stage, magnitudes: Magnitudes) -> None:
        super().__init__(downs, outputs, 1.0, Dropout(0.0, None), stage)
        self._magnitudes = (magnitudes,)

    def up(self) -> Tensor:
        """(o, r (t + 1)) each pair's B times its factor."""
        t, alphas = self.current, self._magnitudes[0].alphas
        old = []
        for k in range(t):
            up, down = self.ups[k].detach(), self.downs[k].detach()
            old.append(alphas[k] * (up / (up.norm() * down.norm()).clamp(min=TINY)))
        return torch.cat([*old, alphas[t] * self.ups[t]], dim=1)


class Decoupled(LowRankTuning):
    """The present pair is trained, and the magnitudes of all so far."""

    needs = frozenset({"boundaries"})
    parallel = True

    def __init__(self, rank: int, targets: Sequence[Target], start: float, fresh: bool) -> None:
        super().__init__(rank, 1.0, 0.0, targets, slots=True)
        self.start, self.fresh = start, fresh

    def make(self, inputs: int, outputs: int) -> LowRank:
        plain = super().make(inputs, outputs)
        return Directions([d.detach() for d in plain.downs], outputs, self.stage, self.magnitudes)

    def wrap(self, model: nn.Module) -> nn.Module:
        self.magnitudes = Magnitudes(len(self.run.benchmark.train), self.start, self.run.device)
        model.magnitudes = self.magnitudes
        return super().wrap(model)

    @torch.no_grad()
    def begin_experience(self, exp: Experience) -> None:
        super().begin_experience(exp)
        for alpha in self.magnitudes.alphas if self.fresh else ():
            alpha.fill_(self.start)


@register("sd-lora", family="low rank", paper="arXiv:2501.13198", tiny={"rank": 4})
def sd_lora(
    rank: Natural = 10,
    targets: tuple[Target, ...] = ("q", "v"),
    start: Positive = 0.8,
    magnitudes: Literal["fresh", "kept"] = "fresh",
    head: Positive = 1.0,
) -> Strategy:
    """SD-LoRA: low-rank branches are kept as directions of length 1, and their magnitudes go on being learned.

    W x + Σ_{k<t} α_k B_k A_k x / (‖B_k‖ ‖A_k‖) + α_t B_t A_t x. Experience t trains A_t, B_t, and α_0 … α_t, one number
    for all layers; cross-entropy is over its classes. When an experience ends its pair becomes a direction, so that the
    function jumps where ‖B‖ ‖A‖ is not 1. The authors use SGD, on which the scale of α depends, without weight decay.

    Args:
        rank: r of an experience's pair; 0 leaves the head alone, as `linear-probe` does.
        targets: the layers: q, k, v, the projections of attention; proj, the one after it; fc1, fc2 of the perceptron.
        start: what α begins with.
        magnitudes: fresh, all of them begin anew with every experience, as released; kept, old ones go on from where
            they are, as in the paper.
        head: factor on the head's learning rate.

    Reference: Wu et al., "SD-LoRA: Scalable Decoupled Low-Rank Adaptation for Class Incremental Learning", ICLR 2025,
    arXiv:2501.13198.

    Differences from the authors' code:
        1. Pairs of all experiences are there from the start, and counted; those to come are not read.
        2. The variants that reduce ranks or distil directions are left out.
    """
    if not rank:
        return chain(TrainOnly("head"), label_losses("local", head))
    return chain(Decoupled(rank, targets, start, magnitudes == "fresh"), label_losses("local", head))
