"""Losses on labels of which some classes have far fewer examples than others, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.errors import IncompatibleError
from clbench.parts.losses import CrossEntropy
from clbench.strategy import Run, Strategy, overrides
from clbench.types import Batch, Experience, Output


class MixesLabels(Strategy):
    """A part that gives rows of a batch second labels.

    Attributes:
        share: () how much a row's own label counts. mixed: () bool, whether the present batch is mixed.
    """

    share: Tensor
    mixed: Tensor

    def other(self, batch: Batch) -> Tensor | None:
        """(B,) second labels of a batch's rows; None where it may not be mixed."""
        raise NotImplementedError


class SplitsRows(Strategy):
    """A part that brings the gradient of some rows itself and leaves the others to the loss."""

    def head(self, batch: Batch, logits: Tensor) -> Tensor:
        """() the loss of those others."""
        raise NotImplementedError


class RowLoss(Strategy):
    """A weighted cross-entropy of every row on its label; `fit` is the mean, as other parts mix labels or split rows.

    Subclasses say what scores are compared and what a class weighs.
    """

    replaces: ClassVar[tuple[type[Strategy], ...]] = (CrossEntropy,)

    def setup(self, run: Run) -> None:
        for part in run.strategy.parts:
            if part is not self and CrossEntropy in part.replaces and overrides(part, "losses"):
                raise IncompatibleError(
                    f"{self} and {part} both bring the loss on the labels; a chain may hold one of them."
                )
        self.mix = next((part for part in run.strategy.parts if isinstance(part, MixesLabels)), None)
        self.split = next((part for part in run.strategy.parts if isinstance(part, SplitsRows)), None)

    def scores(self, logits: Tensor, y: Tensor) -> Tensor:
        """(B, C) what is compared, of logits (B, C) and labels (B,)."""
        return logits

    def weight(self) -> Tensor | None:
        """(C,) what a row of each class counts; None if all count the same."""
        return None

    def loss(self, logits: Tensor, y: Tensor, reduction: Literal["none", "mean"] = "mean") -> Tensor:
        """(B,) the loss of each row, or () their mean; of weighted rows, over the sum of the weights."""
        return F.cross_entropy(self.scores(logits, y), y, weight=self.weight(), reduction=reduction)

    def mixed(self, batch: Batch, logits: Tensor, reduction: Literal["none", "mean"]) -> Tensor:
        """`loss` of a batch's rows on their labels, the second ones included where rows are mixed."""
        own = self.loss(logits, batch.y, reduction)
        if self.mix is None or (other := self.mix.other(batch)) is None:
            return own
        return self.mix.share * own + (1 - self.mix.share) * self.loss(logits, other, reduction)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if self.split is not None:
            return {"fit": self.split.head(batch, out.logits)}
        return {"fit": self.mixed(batch, out.logits, "mean")}


class PlainRows(RowLoss):
    """Cross-entropy, row by row: what is left where a chain shapes rows and names no other loss of them."""

    idempotent = True
    parallel = True


class Counts(Strategy):
    """How many examples each class has: the most that an experience has brought so far, old ones among them.

    Attributes:
        n: (C,) float; 0 for classes that have not come.
    """

    needs = frozenset({"boundaries"})
    state = ("n",)

    def setup(self, run: Run) -> None:
        super().setup(run)
        self.n = torch.zeros(run.num_classes, device=run.device)

    def begin_experience(self, exp: Experience) -> None:
        here = torch.bincount(exp.data.y(), minlength=len(self.n)).to(self.n)
        self.n = torch.maximum(self.n, here)
