"""What labels alone predict: the previous one, or the most frequent one so far.

Žliobaitė, Bifet, Read, Pfahringer, Holmes, "Evaluation methods and decision theory for classification of streaming data
with temporal dependence", Machine Learning 2015.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from clbench import Batch, Output, Run, Strategy, chain, register
from clbench.parts import TrainOnly, add_rows

Rule = Literal["previous", "majority"]


class LabelsOnly(Strategy):
    """Predicts one class for everything, by the labels so far; class 0 before the first one."""

    exempt: ClassVar[dict[str, str]] = {"learns": "it looks at no input"}
    state = ("counts", "last")
    parallel = True

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def setup(self, run: Run) -> None:
        self.counts = torch.zeros(run.num_classes, device=run.device)  # (C,)
        self.last = torch.zeros(run.num_classes, device=run.device)  # (C,) 1 for the last label

    def after_step(self, batch: Batch, out: Output) -> None:
        y = batch.firsts(batch.y)
        add_rows(self.counts, y, torch.ones_like(y, dtype=torch.float32))
        self.last = torch.zeros_like(self.counts).index_fill_(0, y[-1:], 1.0)

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        scores = self.last if self.rule == "previous" else self.counts
        return self.run.mask_tasks(scores.expand(len(x), -1), task)


@register("labels-only", family="drift")
def labels_only(rule: Rule = "previous") -> Strategy:
    """Looks at no input: predicts the previous label, or the class that was the most frequent one so far.

    The floors of streams: κ_T is accuracy beyond the first, κ_M (nearly) beyond the second. With batches, the previous
    label is the last one of the batch before; the references of κ_T and κ_M are of single rows whatever the batch.

    Args:
        rule: previous, ŷ_i = y_{i−1}, also called no change or persistence; majority, ŷ_i = the class with most of
            the rows before.

    Reference: Žliobaitė, Bifet, Read, Pfahringer, Holmes, "Evaluation methods and decision theory for classification of
    streaming data with temporal dependence", Machine Learning 2015.
    """
    return chain(TrainOnly(), LabelsOnly(rule))
