"""Learning without Forgetting (LwF).

Li & Hoiem, "Learning without Forgetting", ECCV 2016, arXiv:1606.09282.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Strategy, chain, register
from clbench.parts import CrossEntropy
from clbench.types import MASKED

if TYPE_CHECKING:
    from clbench.engine import Run


class Distil(Strategy):
    """The new examples must look to the model as they looked at the end of the last experience.

    `distil` is α · KL(p ‖ q) per example, with p the teacher's and q the model's class probabilities at temperature T.
    With `columns="old"`, p and q are over the classes seen before, normalised among themselves; with "all", they
    are normalised over all classes and the old ones' terms are kept.
    """

    needs = frozenset({"boundaries"})
    state = ("teacher", "old")

    def __init__(self, alpha: float, temperature: float, columns: Literal["old", "all"]) -> None:
        if temperature <= 0:
            raise ValueError(f"a temperature is above 0; {temperature} was given")
        self.alpha, self.temperature, self.columns = alpha, temperature, columns
        self.teacher: nn.Module | None = None

    def setup(self, run: Run) -> None:
        self.old = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)  # (C,) seen before

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if self.teacher is None or self.alpha == 0:
            return {}
        new = batch.stream()
        # Without task labels: old classes are other tasks' classes, and masked they would teach nothing.
        teacher = self.run.output_of(self.teacher, new.x).logits / self.temperature
        student = self._present(batch, out) / self.temperature
        if self.columns == "old":
            student, teacher = student.masked_fill(~self.old, MASKED), teacher.masked_fill(~self.old, MASKED)
        log_q, log_p = F.log_softmax(student, 1), F.log_softmax(teacher, 1)  # (B, C)
        terms = (log_p.exp() * (log_p - log_q)).masked_fill(~self.old, 0.0)
        return {"distil": self.alpha * terms.sum(1).mean()}

    def _present(self, batch: Batch, out: Output) -> Tensor:
        """(B, C) logits of the stream's rows, of every class."""
        if self.run.benchmark.setting.task_labels == "never":
            return out.logits[: batch.new]
        return self.run.logits(out.features[: batch.new])

    def end_experience(self, exp: Experience) -> None:
        if self.alpha == 0:
            return
        self.teacher = self.run.frozen()
        self.old[list(exp.classes)] = True


@register("lwf", paper="arXiv:1606.09282", null={"alpha": 0.0})
def lwf(alpha: float = 1.0, temperature: float = 2.0, columns: Literal["old", "all"] = "old") -> Strategy:
    """Learning without Forgetting: the last experience's model teaches the present one on new data.

    L = CE(stream) + α · KL(teacher ‖ model) over the classes seen before, at temperature T.

    Args:
        alpha: α, weight of the distillation.
        temperature: T.
        columns: whether probabilities are normalised over the old classes (the paper) or over all.

    Reference: Li & Hoiem, "Learning without Forgetting", ECCV 2016, arXiv:1606.09282.

    Differences from the paper:
        1. One head over all classes in place of one per task, since most settings give no task labels; the
           cross-entropy is over all classes. With task labels, it is over the task's classes, and
           the distillation over those of all earlier tasks together.
        2. KL in place of the cross-entropy with the teacher: the gradients are the same, and 0 means agreement.
        3. The new head is not trained alone first (the paper's warm-up step).
    """
    return chain(CrossEntropy(), Distil(alpha, temperature, columns))
