"""Losses on labels that many strategies share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.parts.teachers import Teacher, teacher_of
from clbench.strategy import Run, Strategy
from clbench.types import MASKED, Batch, Experience, Output


class CrossEntropy(Strategy):
    """Mean cross-entropy over all rows of the batch, stream and replayed alike: loss `fit`."""

    idempotent = True
    parallel = True
    capturable = True
    language = True

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"fit": out.cross_entropy(batch.y)}


class LocalCrossEntropy(Strategy):
    """Cross-entropy in which rows of the stream choose among the classes of the present experience only.

    Also called masked. Columns of other classes get no gradient at all from these rows; rows that replay has added
    compete with every class.
    """

    needs = frozenset({"boundaries"})
    state = ("present",)
    idempotent = True
    replaces = (CrossEntropy,)
    parallel = True
    capturable = True
    language = True  # every experience has all tokens

    def setup(self, run: Run) -> None:
        self.present = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)  # (C,)

    def begin_experience(self, exp: Experience) -> None:
        self.present = members(exp.classes, self.present)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if batch.y.ndim > 1:
            return {"fit": out.cross_entropy(batch.y)}
        fresh = (torch.arange(len(batch), device=out.logits.device) < batch.new).unsqueeze(1)  # (B, 1)
        return {"fit": F.cross_entropy(out.logits.masked_fill(fresh & ~self.present, MASKED), batch.y)}


class BinaryCrossEntropy(Strategy):
    """A sigmoid for each class: mean over rows and columns of the binary cross-entropy, loss `fit`.

    Args:
        columns: those of all classes seen so far, with target 0 for past ones, or of the present experience's only.
        distil: whether the targets of past classes are the sigmoids of the last experience's model (a `Teacher` in
            the chain) in place of 0.
    """

    needs = frozenset({"boundaries"})
    state = ("seen", "present")
    replaces = (CrossEntropy,)
    parallel = True
    capturable = True

    def __init__(self, columns: Literal["seen", "present"] = "seen", distil: bool = False) -> None:
        self.columns, self.distil = columns, distil

    def setup(self, run: Run) -> None:
        self.seen = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)  # (C,) also at present
        self.present = torch.zeros_like(self.seen)
        self.teacher: Teacher | None = teacher_of(run) if self.distil else None

    def begin_experience(self, exp: Experience) -> None:
        self.present = members(exp.classes, self.present)
        self.seen = self.seen | self.present

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        # Without task labels: the outputs of other tasks' classes are what is distilled.
        told = self.run.benchmark.setting.task_labels != "never"
        logits = self.run.logits(out.features) if told and self.columns == "seen" else out.logits
        taught = self.teacher is not None and self.teacher.taught
        past = self.teacher.output(batch).logits if self.teacher is not None and taught else None
        columns = self.seen if self.columns == "seen" else self.present
        return {"fit": binary_loss(logits, batch.y, columns, self.seen & ~self.present, past)}


def binary_loss(logits: Tensor, y: Tensor, seen: Tensor, old: Tensor, teacher: Tensor | None) -> Tensor:
    """Mean over rows and seen classes of the binary cross-entropy of logits (B, C).

    Targets are those of the labels; in columns `old`, those of the teacher.

    Args:
        logits: (B, C).
        y: (B,) labels.
        seen: (C,) bool, the columns that count.
        old: (C,) bool, those whose target is σ(teacher).
        teacher: (B, C) logits; None leaves all columns to the labels.
    """
    target = torch.zeros_like(logits).scatter_(1, y.unsqueeze(1), 1.0)
    if teacher is not None:
        target = torch.where(old, teacher.sigmoid(), target)
    terms = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * seen
    return terms.sum() / (len(y) * seen.sum())


def members(classes: tuple[int, ...], like: Tensor) -> Tensor:
    """(C,) bool: which classes these are; `like` has the shape and the device."""
    found = torch.zeros_like(like)
    found[list(classes)] = True
    return found
