"""LAE: learning, accumulation, ensemble: fast parameters, a slow copy of them, and the surer of the two predicts.

Gao et al., "A Unified Continual Learning Framework with General Parameter-Efficient Tuning", ICCV 2023,
arXiv:2303.10070.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from clbench import Experience, Run, Strategy, chain, register
from clbench.parts import (
    Adapter,
    Dropout,
    LowRank,
    Stage,
    draw_down,
    extend,
    insert,
    label_losses,
    members_of,
)
from clbench.ranges import Count, Fraction, Natural, Positive
from clbench.types import MASKED

Kind = Literal["adapter", "lora"]
"""Both have a scale that is learned."""


def surer(online: Tensor, offline: Tensor) -> Tensor:
    """(B, C) the larger of both softmaxes, entry by entry."""
    return torch.maximum(online.softmax(dim=1), offline.softmax(dim=1))


def follow(slow: list[Tensor], fast: list[Tensor], momentum: float) -> None:
    """θ̄ ← m θ̄ + (1 − m) θ, in place."""
    torch._foreach_lerp_(slow, fast, 1 - momentum)


class Accumulated(Strategy):
    """Trains small modules in early blocks, after a while in which the head alone learns, and averages them slowly.

    Args:
        kind: what they are. size: of a bottleneck, or a rank. blocks: which they are in.
        freeze: share of an experience's passes in which the head alone learns, from the second experience on.
        momentum: of the offline copy, θ̄ ← m θ̄ + (1 − m) θ after every update, from the second experience on.
    """

    architecture = "vit"
    needs = frozenset({"boundaries"})
    state = ("offline", "both")
    parallel = True

    def __init__(self, kind: Kind, size: int, blocks: Sequence[int], freeze: float, momentum: float) -> None:
        self.kind: Kind = kind
        self.size, self.blocks, self.freeze, self.momentum = size, tuple(blocks), freeze, momentum

    def wrap(self, model: nn.Module) -> nn.Module:
        model.backbone.requires_grad_(False)
        rng, off, stage = self.run.rng("adapters"), Dropout(0.0, None), Stage()

        def adapter(width: int) -> nn.Module:
            return Adapter(draw_down(width, self.size, rng), 1.0, act="gelu", learn_scale=True)

        def branch(inputs: int, outputs: int) -> nn.Module:
            scale = nn.Parameter(torch.ones((), device=rng.device))
            return LowRank([draw_down(inputs, self.size, rng)], outputs, scale, off, stage)

        if self.kind == "adapter":
            insert(model.backbone, self, "attention", adapter, self.blocks)  # type: ignore[arg-type]
        else:
            extend(model.backbone, self, ("k", "v"), branch, self.blocks)  # type: ignore[arg-type]
        return model

    def setup(self, run: Run) -> None:
        self.online = members_of("encoder", run.parameters())
        self.offline = {name: p.detach().clone() for name, p in self.online.items()}
        self.both = False  # whether the offline copy has begun

    @torch.no_grad()
    def begin_experience(self, exp: Experience) -> None:
        if exp.index == 1:
            self.offline = {name: p.detach().clone() for name, p in self.online.items()}
        self.both = exp.index > 0

    def gradients(self) -> None:
        if self.both and self.run.epoch < int(self.freeze * self.run.epochs + 1e-9):  # 0.29 · 100 is 28.999…
            for parameter in self.online.values():
                parameter.grad = None

    @torch.no_grad()
    def after_update(self) -> None:
        if self.both:
            follow(list(self.offline.values()), list(self.online.values()), self.momentum)

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        online = self.run.forward(x, task).logits
        if not self.both:
            return online
        offline: Tensor = functional_call(self.run.model, self.offline, x)
        scores = surer(online, self.run.mask_tasks(offline.float(), task))
        return scores.masked_fill(online <= MASKED, MASKED)


@register("lae", family="low rank", paper="arXiv:2303.10070", tiny={"blocks": (0, 1)})
def lae(
    kind: Kind = "adapter",
    size: Count = 5,
    blocks: tuple[Natural, ...] = (0, 1, 2, 3, 4),
    freeze: Fraction = 0.6,
    momentum: Fraction = 0.9999,
    head: Positive = 1.0,
) -> Strategy:
    """LAE: adapters or low-rank branches in early blocks, a slow average of them, and the larger probability of both.

    θ and the head learn each experience by cross-entropy over its classes; from the second one on, θ waits while the
    head learns alone. θ̄, a copy of θ as the first experience has left it, follows by θ̄ ← m θ̄ + (1 − m) θ after every
    update. Predicted is the class of the largest probability by θ or by θ̄. With m = 0.9999, a few hundred updates move
    θ̄ by a few per cent of the way. A test example takes two passes.

    Args:
        kind: adapter, beside the attention of a block, of its input; lora, of keys and values.
        size: of the bottleneck, or the rank.
        blocks: which have them.
        freeze: share of an experience's passes in which the head learns alone, rounded down: 3 of 5, 30 of 50.
        momentum: m.
        head: factor on the head's learning rate.

    Reference: Gao et al., "A Unified Continual Learning Framework with General Parameter-Efficient Tuning", ICCV 2023,
    arXiv:2303.10070.

    Differences from the authors' code:
        1. Prefixes are left out.
    """
    return chain(Accumulated(kind, size, blocks, freeze, momentum), label_losses("local", head))
