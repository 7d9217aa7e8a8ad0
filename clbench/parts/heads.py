"""Heads: which outputs there are, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from clbench.errors import IncompatibleError
from clbench.parts.replay import DarkReplay
from clbench.strategy import Strategy
from clbench.types import MASKED, Experience

if TYPE_CHECKING:
    from clbench.engine import Run


class SeenOutputs(nn.Module):
    """A head whose outputs of classes not seen yet are `MASKED`: no probability, no gradient, no prediction."""

    seen: Tensor

    def __init__(self, head: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.inner = head
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))

    @property
    def weight(self) -> Tensor:
        """(C, D) of the head inside."""
        weight: Tensor = self.inner.weight  # type: ignore[assignment]
        return weight

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) → (B, C)."""
        logits: Tensor = self.inner(features)
        return logits.masked_fill(~self.seen, MASKED)


class GrowingHead(Strategy):
    """The head has the outputs of the classes seen so far; those of an experience join when it begins.

    Outputs are all allocated and masked until then, which is the same function and leaves optimizer and checkpoints
    alone.
    """

    needs = frozenset({"boundaries"})
    idempotent = True
    parallel = True

    def wrap(self, model: nn.Module) -> nn.Module:
        head: nn.Module = model.head  # type: ignore[assignment]
        model.head = SeenOutputs(head, self.run.num_classes)
        return model

    def setup(self, run: Run) -> None:
        if any(isinstance(part, DarkReplay) for part in run.strategy.parts):
            raise IncompatibleError(
                f"{run.strategy} stores logits of all classes to compare them later, and a growing head has none of "
                "classes that are still to come; leave the growing head out."
            )

    def begin_experience(self, exp: Experience) -> None:
        seen = next(m.seen for m in self.run.model.modules() if isinstance(m, SeenOutputs))
        seen[list(exp.classes)] = True
