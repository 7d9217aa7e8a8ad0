"""SEQ*: sequential training with the encoder frozen after a while, old rows of the head frozen, and a cosine head.

Zheng, Qiu, Ma, "Learn or Recall? Revisiting Incremental Learning with Pre-trained Language Models", ACL 2024,
arXiv:2312.07887.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from clbench import Experience, Run, Strategy, chain, register
from clbench.parts import (
    CrossEntropy,
    GrowingHead,
    Normalised,
    SettleAfterFirst,
    TrainOnly,
    members_of,
    scale_rate,
)
from clbench.ranges import Natural, Positive


class WarmUp(Strategy):
    """The encoder learns at a fraction of the head's rate in the first passes over the first experience, and stays."""

    needs = frozenset({"boundaries"})
    parallel = True

    def __init__(self, passes: int, rate: float) -> None:
        self.passes, self.rate = passes, rate

    def wrap(self, model: nn.Module) -> nn.Module:
        for parameter in members_of("encoder", dict(model.named_parameters())).values():
            scale_rate(parameter, self.rate)
        return model

    def gradients(self) -> None:
        if self.run.experience or self.run.epoch >= self.passes:
            for parameter in members_of("encoder", self.run.parameters()).values():
                parameter.grad = None


class OldRowsStay(Strategy):
    """Rows of the head that belong to classes of earlier experiences stay as they are, weight decay included."""

    needs = frozenset({"boundaries"})
    state = ("old", "before", "current")
    parallel = True

    def setup(self, run: Run) -> None:
        self.learned = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)
        self.old = torch.zeros_like(self.learned)  # (C,) of earlier experiences, and not of the present one
        self.before = self._head()
        self.current = -1

    def _head(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.run.model.head.named_parameters()}  # type: ignore[union-attr]

    def begin_experience(self, exp: Experience) -> None:
        self.old = torch.zeros_like(self.old)
        for past in self.run.train.experiences[: exp.index]:
            self.old[list(past.classes)] = True
        self.old[list(exp.classes)] = False
        self.before, self.current = self._head(), exp.index

    @torch.no_grad()
    def after_update(self) -> None:
        for name, parameter in self.run.model.head.named_parameters():  # type: ignore[union-attr]
            rows = self.old.view(-1, *[1] * (parameter.dim() - 1))
            parameter.copy_(torch.where(rows, self.before[name], parameter))

    def frozen(self) -> dict[str, Tensor]:
        """Return those rows."""
        return {n: p.detach()[self.old] for n, p in self.run.model.head.named_parameters()}  # type: ignore[union-attr]


@register("seq-star", family="low rank", paper="arXiv:2312.07887")
def seq_star(
    warmup: Natural = 3,
    encoder: Positive = 0.01,
    head: Literal["cosine", "linear"] = "cosine",
    preallocate: bool = False,
) -> Strategy:
    """SEQ*: sequential training that keeps an encoder after its first passes, and the head's rows of old classes.

    The encoder and the head learn the first experience for some passes; then the encoder stays for ever. When an
    experience begins, the rows of the head that earlier ones have learned stay, too. Scores are cosines, without scale:
    linear rows of new classes outgrow old ones. Cross-entropy is over all classes seen, or over all there will be. With
    C classes it cannot fall below ln(1 + (C − 1) e⁻²).

    Args:
        warmup: passes over the first experience in which the encoder learns; 0 leaves it as it was pretrained. Give the
            first experience that many more: `epochs=8 later_epochs=5`.
        encoder: factor on the encoder's learning rate; the authors have 1e-5 beside the head's 1e-3.
        head: cosine, or linear with bias, which they take where old data is replayed.
        preallocate: let rows of classes to come take part from the start.

    Reference: Zheng, Qiu, Ma, "Learn or Recall? Revisiting Incremental Learning with Pre-trained Language Models",
    ACL 2024, arXiv:2312.07887.

    Differences from the authors' code:
        1. Warm-up passes are those of the run, with its batches; features are pooled as the model does it.
        2. In the first experience the network's own dropout stays on after the warm-up.
        3. A class that comes again learns again.
    """
    held = [WarmUp(warmup, encoder), SettleAfterFirst()] if warmup else [TrainOnly("head")]
    scored = [Normalised()] if head == "cosine" else []
    grown = [] if preallocate else [GrowingHead()]
    return chain(*held, *scored, *grown, OldRowsStay(), CrossEntropy())
