"""WA: replay and distillation, and a head whose new rows are made as long as its old ones.

Zhao, Xiao, Gan, Zhang, Xia, "Maintaining Discrimination and Fairness in Class Incremental Learning", CVPR 2020,
arXiv:1911.07053.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Run, Strategy, chain, register
from clbench.parts import CrossEntropy, Replay, Teacher, linear_weight, teacher_of
from clbench.ranges import Natural, Positive
from clbench.types import MASKED


def distillation(logits: Tensor, teacher: Tensor, old: Tensor, temperature: float) -> Tensor:
    """() the mean over rows (B, C) of −Σ_c softmax(teacher / T)_c log softmax(logits / T)_c over old classes (C,)."""
    given, asked = ((z / temperature).masked_fill(~old, MASKED) for z in (logits, teacher))
    terms = F.softmax(asked, 1) * F.log_softmax(given, 1)
    return -terms.masked_fill(~old, 0.0).sum(1).mean()


def alignment(weight: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """() γ: the mean norm of old rows of the weight (C, D) by that of new ones."""
    norms = weight.norm(dim=1)
    gamma: Tensor = norms[old].mean() / norms[new].mean()
    return gamma


class AligningWeights(Strategy):
    """(1 − λ) · cross-entropy + λ · distillation, λ the share of old classes; at an experience's end, rows are aligned.

    Stands before the `Teacher` in the chain, which is to be the aligned network.
    """

    needs = frozenset({"boundaries"})
    replaces = (CrossEntropy,)
    state = ("seen",)
    parallel = True

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def setup(self, run: Run) -> None:
        linear_weight(run.model, self)  # a head without weights, or with fixed ones, cannot be aligned
        self.teacher = teacher_of(run)
        self.seen = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)  # also at present

    def begin_experience(self, exp: Experience) -> None:
        self.seen[list(exp.classes)] = True

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        fit = F.cross_entropy(out.logits.masked_fill(~self.seen, MASKED), batch.y)
        if not self.teacher.taught:
            return {"fit": fit}
        old = self.teacher.old
        told = self.run.benchmark.setting.task_labels != "never"  # old classes are other tasks', and masked
        logits = self.run.logits(out.features) if told else out.logits
        distil = distillation(logits, self.teacher.output(batch).logits, old, self.temperature)
        share = old.sum() / self.seen.sum()
        return {"fit": (1 - share) * fit, "distil": share * distil}

    def end_experience(self, exp: Experience) -> None:
        old = self.teacher.old
        new = self.seen & ~old
        if old.any() and new.any():
            weight = linear_weight(self.run.model, self)
            with torch.no_grad():
                weight[new] *= alignment(weight, old, new)


@register("wa", family="replay", paper="arXiv:1911.07053")
def wa(memory: Natural = 200, temperature: Positive = 2.0) -> Strategy:
    """WA: replay and distillation; after each experience the head's new rows are scaled to the length of the old ones.

    Rows of new classes, of which there are many examples, grow longer than those of old ones, and win too often. Where
    an experience brings no new class, as under domain shift, only the distillation is left: it is not made for that.

    Args:
        memory: examples the reservoir holds.
        temperature: T of the distillation, whose gradient is not multiplied by T².

    Reference: Zhao, Xiao, Gan, Zhang, Xia, "Maintaining Discrimination and Fairness in Class Incremental Learning",
    CVPR 2020, arXiv:1911.07053.

    Differences from the paper:
        1. Examples are those of a reservoir, in place of the ones that herding chooses, and as many are drawn for each
           batch as the stream brings.
        2. Weights are not clipped to be positive, as in other people's code; its biases stay as they are.
    """
    return chain(Replay(memory), AligningWeights(temperature), Teacher())
