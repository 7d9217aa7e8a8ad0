"""A teacher, the model as it was, and what the present model keeps of it: predictions and features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import IncompatibleError
from clbench.strategy import Run, Strategy
from clbench.types import IGNORED, MASKED, Batch, Experience, Output


class Teacher(Strategy):
    """The model as it was at the end of the last experience, before that as it was at the start.

    One in a chain, however many parts ask for it with `teacher_of`; a batch goes through it once.

    Attributes:
        network: the model then, in eval mode, without gradients.
        old: (C,) bool, the classes of experiences that have ended.
        taught: whether one has ended.
    """

    needs = frozenset({"boundaries"})
    state = ("network", "old", "taught")
    idempotent = True
    parallel = True
    language = True

    def setup(self, run: Run) -> None:
        self.network: nn.Module = run.frozen()
        self.old = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)
        self.taught = False
        self._asked: tuple[Batch, Output] | None = None

    def output(self, batch: Batch) -> Output:
        """Return what the teacher says of a batch's rows, for every class whatever the task."""
        if self._asked is None or self._asked[0] is not batch:
            self._asked = batch, self.run.output_of(self.network, batch.x)
        return self._asked[1]

    def end_experience(self, exp: Experience) -> None:
        self.network, self.taught, self._asked = self.run.frozen(), True, None
        self.old[list(exp.classes)] = True


def teacher_of(run: Run) -> Teacher:
    """Return the teacher in a run's chain.

    Raises:
        IncompatibleError: there is none.
    """
    for part in run.strategy.parts:
        if isinstance(part, Teacher):
            return part
    raise IncompatibleError(
        f"{run.strategy} distils and has no teacher; add the part Teacher() to the chain."
    )


def mean_of_labels(values: Tensor, y: Tensor) -> Tensor:
    """() the mean of values (…), one for each label y (…); of language, over labels that count."""
    if y.ndim == 1:
        return values.mean()
    counts = y != IGNORED
    return (values * counts).sum() / counts.sum().clamp(min=1)


class Distil(Strategy):
    """The new examples must look to the model as they looked at the end of the last experience.

    `distil` is α · KL(p ‖ q) per example, with p the teacher's and q the model's class probabilities at temperature T.
    With `columns="old"`, p and q are over the classes seen before, normalised among themselves; with "all", they
    are normalised over all classes and the old ones' terms are kept. Needs a `Teacher` in the chain.
    """

    parallel = True
    capturable = True
    language = True

    def __init__(self, alpha: float, temperature: float, columns: Literal["old", "all"]) -> None:
        if temperature <= 0:
            raise ValueError(f"a temperature is above 0; {temperature} was given")
        self.alpha, self.temperature, self.columns = alpha, temperature, columns

    def setup(self, run: Run) -> None:
        self.teacher = teacher_of(run)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if not self.teacher.taught or self.alpha == 0:
            return {}
        old = self.teacher.old
        # Without task labels: old classes are other tasks' classes, and masked they would teach nothing.
        teacher = self.teacher.output(batch.stream()).logits / self.temperature
        student = self._present(batch, out) / self.temperature
        if batch.y.ndim > 1:  # all tokens are old, and a head may have outputs for more than there are
            old = old.new_ones(student.shape[-1])
        if self.columns == "old":
            student, teacher = student.masked_fill(~old, MASKED), teacher.masked_fill(~old, MASKED)
        log_q, log_p = F.log_softmax(student, -1), F.log_softmax(teacher, -1)  # (B, C)
        terms = (log_p.exp() * (log_p - log_q)).masked_fill(~old, 0.0)
        return {"distil": self.alpha * mean_of_labels(terms.sum(-1), batch.y[: batch.new])}

    def _present(self, batch: Batch, out: Output) -> Tensor:
        """Return the logits (B, C) of the stream's rows, for every class."""
        if self.run.benchmark.setting.task_labels == "never":
            return out.logits[: batch.new]
        return self.run.logits(out.features[: batch.new])
