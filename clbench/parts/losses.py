"""Losses that many strategies share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from clbench.strategy import Strategy
from clbench.types import Batch, Output


class CrossEntropy(Strategy):
    """Mean cross-entropy over all rows of the batch, stream and replayed alike: loss `fit`."""

    idempotent = True

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"fit": F.cross_entropy(out.logits, batch.y)}
