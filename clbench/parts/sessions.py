"""Streams whose first experience is the one that has much data: what is trained there, and what stays afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.machine.caching import once
from clbench.models.encoders import Encoder
from clbench.parts.heads import SeenOutputs
from clbench.parts.losses import CrossEntropy
from clbench.parts.statistics import add_rows
from clbench.strategy import Run, Strategy
from clbench.types import Batch, Data, Experience, Output


class Settling(nn.Module):
    """A network that is trained until it is settled, and then stays as it is: in eval mode, without gradients.

    Batch normalisation then keeps the statistics of what the network has learned from; those of a few images would
    spoil features that nothing repairs.
    """

    settled: Tensor

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("settled", torch.zeros((), dtype=torch.bool))
        self._still = False  # `settled`, where asking costs nothing

    def settle(self) -> None:
        """Stay as it is, from the next call of `train` on."""
        self.settled.fill_(True)

    def train(self, mode: bool = True) -> Settling:
        """Keep the network inside in eval mode, whatever `mode` is, once it has settled."""
        super().train(mode)
        self._still = bool(self.settled)
        if self._still:
            self.inner.eval()
            for module in self.inner.modules():
                if isinstance(module, Encoder):
                    module.still = True
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) → (B, D); once it has settled, for a test example once."""
        if not self._still:
            features: Tensor = self.inner(x)
            return features
        with torch.no_grad():
            return once("features", self.inner, x, self.inner)


class SettleAfterFirst(Strategy):
    """The backbone is trained in the first experience and stays as it is from then on."""

    needs = frozenset({"boundaries"})
    idempotent = True
    parallel = True

    def wrap(self, model: nn.Module) -> nn.Module:
        model.backbone = Settling(model.backbone)  # type: ignore[arg-type]
        return model

    def begin_experience(self, exp: Experience) -> None:
        if exp.index > 0:
            next(m for m in self.run.model.modules() if isinstance(m, Settling)).settle()


class LearnFirst(Strategy):
    """Gradients learn the first experience only, by cross-entropy over its classes; others are out of the question.

    Loss `fit`. Parts that bring further classes another way `admit` them.
    """

    needs = frozenset({"boundaries"})
    replaces = (CrossEntropy,)
    state = ("first",)
    parallel = True

    def wrap(self, model: nn.Module) -> nn.Module:
        inner: nn.Module = model.head  # type: ignore[assignment]
        self.head = SeenOutputs(inner, self.run.num_classes)
        model.head = self.head
        return model

    def setup(self, run: Run) -> None:
        self.first = True

    def begin_experience(self, exp: Experience) -> None:
        self.first = exp.index == 0
        if self.first:
            self.admit(exp.classes)

    def admit(self, classes: Iterable[int]) -> None:
        """Let these classes be predicted from now on."""
        self.head.seen[list(classes)] = True

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"fit": F.cross_entropy(out.logits, batch.y)} if self.first else {}


def feature_sums(run: Run, data: Data, lengths_one: bool = False) -> tuple[Tensor, Tensor]:
    """For each class, the sum of its examples' features and their number: (C, D) and (C,).

    Args:
        run: the engine, whose model is asked in eval mode.
        data: whose examples, not augmented.
        lengths_one: whether features are scaled to length 1 first.
    """
    sums, counts = None, torch.zeros(run.num_classes, device=run.device)
    with run.evaluating(), torch.no_grad():
        for x, y in run.visit(data):
            features = run.forward(x).features  # (B, D)
            if lengths_one:
                features = F.normalize(features, dim=1)
            if sums is None:
                sums = torch.zeros((run.num_classes, features.shape[1]), device=run.device)
            add_rows(sums, y, features)
            add_rows(counts, y, torch.ones_like(features[:, 0]))
    assert sums is not None  # an experience has examples
    return sums, counts
