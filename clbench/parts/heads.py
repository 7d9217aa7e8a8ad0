"""Heads: which outputs there are, and when."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import IncompatibleError
from clbench.models.base import Head
from clbench.parts.replay import DarkReplay
from clbench.strategy import Run, Strategy
from clbench.types import MASKED, Experience


class SeenOutputs(nn.Module, Head):
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

    def admit(self, classes: Sequence[int]) -> None:
        self.seen.fill_(False)
        self.seen[list(classes)] = True

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) → (B, C)."""
        logits: Tensor = self.inner(features)
        return logits.masked_fill(~self.seen, MASKED)


class NormalisedHead(nn.Module):
    """Scores (B, C) = s · cos(features, weights), without bias.

    Args:
        weight: (C, D) to begin with.
        scale: s, or what it begins with if it is learned.
        learn_scale: whether it is.
    """

    def __init__(self, weight: Tensor, scale: float = 1.0, learn_scale: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.scale = nn.Parameter(weight.new_tensor(scale)) if learn_scale else scale

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) → (B, C)."""
        return self.scale * F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))


def nearness(features: Tensor, means: Tensor, known: Tensor) -> Tensor:
    """(B, C) −‖f_b − m_c‖ of features (B, D) and class means (C, D); classes that are not `known` (C,) are `MASKED`."""
    distance = torch.cdist(features, means, compute_mode="donot_use_mm_for_euclid_dist")
    return (-distance).masked_fill(~known, MASKED)


def replace_head(model: nn.Module, head: nn.Module) -> None:
    """Put another head into a model; where one grows, inside of what lets it grow."""
    if isinstance(model.head, SeenOutputs):
        model.head.inner = head
    else:
        model.head = head


def linear_weight(model: nn.Module, part: Strategy) -> Tensor:
    """Return the weights (C, D) of a model's linear head, from which a part makes a cosine one.

    Raises:
        IncompatibleError: the head has none.
    """
    weight = getattr(model.head, "weight", None)
    if not isinstance(weight, Tensor):
        raise IncompatibleError(
            f"{part} scores by cosines with the weights of a linear head; here it is a {type(model.head).__name__}."
        )
    return weight


class Normalised(Strategy):
    """A `NormalisedHead` in place of the linear one, whose weights it begins with."""

    parallel = True
    capturable = True

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def wrap(self, model: nn.Module) -> nn.Module:
        before = linear_weight(model, self)
        head = NormalisedHead(before, self.scale)
        replace_head(model, head.requires_grad_(before.requires_grad))  # what is frozen stays so
        return model


class GrowingHead(Strategy):
    """The head has the outputs of the classes seen so far; those of an experience join when it begins.

    Outputs are all allocated and masked until then, which is the same function and leaves optimizer and checkpoints
    alone. A language model's head stays as it is: every experience has all tokens, and it may have more outputs.
    """

    needs = frozenset({"boundaries"})
    idempotent = True
    parallel = True
    capturable = True
    language = True

    def wrap(self, model: nn.Module) -> nn.Module:
        if self.run.benchmark.setting.language:
            return model
        head: nn.Module = model.head  # type: ignore[assignment]
        if not isinstance(head, Head):
            head = model.head = SeenOutputs(head, self.run.num_classes)
        head.admit(())
        return model

    def setup(self, run: Run) -> None:
        if any(isinstance(part, DarkReplay) for part in run.strategy.parts):
            raise IncompatibleError(
                f"{run.strategy} stores logits of all classes to compare them later, and a growing head has none of "
                "classes that are still to come; leave the growing head out."
            )

    def begin_experience(self, exp: Experience) -> None:
        if self.run.benchmark.setting.language:
            return
        head = next(m for m in self.run.model.modules() if isinstance(m, Head))
        head.admit([c for past in self.run.train.experiences[: exp.index + 1] for c in past.classes])
