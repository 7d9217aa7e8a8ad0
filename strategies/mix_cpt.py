"""Mix-CPT: pre-training on a mixture, with logits of the starting model in which the truth stands first.

Jiang et al., "Mix-CPT: A Domain Adaptation Framework via Decoupling Knowledge Learning and Format Alignment", ICLR
2025, arXiv:2407.10804.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Output, Run, Strategy, chain, register
from clbench.parts import CrossEntropy, Teacher, mean_of_labels, teacher_of
from clbench.ranges import NotNegative


class SwappedLogits(Strategy):
    """α · KL(teacher with its first choice and the truth swapped ‖ model), the mean over rows or tokens: `swap`."""

    parallel = True
    capturable = True
    language = True

    def __init__(self, alpha: float, pretrained: bool) -> None:
        self.alpha, self.from_start = alpha, pretrained

    def setup(self, run: Run) -> None:
        self.teacher = teacher_of(run)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if not (self.teacher.taught or self.from_start):
            return {}
        teacher = self.run.mask_tasks(self.teacher.output(batch).logits, batch.task)
        return {"swap": self.alpha * swapped_divergence(out.logits, teacher, batch.y)}


def swapped(teacher: Tensor, y: Tensor) -> Tensor:
    """(…, C) logits in which the largest and that of the label y (…) have changed places; of equal ones the first is
    the largest. Where y is negative, nothing is swapped."""
    truth, best = y.clamp(min=0).unsqueeze(-1), teacher.argmax(-1, keepdim=True)
    places = torch.cat([truth, best], -1)
    # Where the teacher is right, both places are one and get one value.
    return torch.where(
        (y < 0).unsqueeze(-1), teacher, teacher.scatter(-1, places, teacher.gather(-1, places.flip(-1)))
    )


def swapped_divergence(student: Tensor, teacher: Tensor, y: Tensor) -> Tensor:
    """() the mean of KL(softmax(swapped teacher) ‖ softmax(student)) over labels y (…) that are not negative.

    Args:
        student, teacher: (…, C) logits.
        y: (…) labels.
    """
    log_p, log_q = F.log_softmax(swapped(teacher, y), -1), F.log_softmax(student, -1)
    terms = (log_p.exp() * (log_p - log_q)).sum(-1)  # (…)
    return mean_of_labels(terms, y)


@register("mix-cpt", family="distillation", paper="arXiv:2407.10804", null={"alpha": 0.0})
def mix_cpt(alpha: NotNegative = 0.3, pretrained: bool = False) -> Strategy:
    """Logit-swap self-distillation: the model's own earlier logits are its target, with the truth moved to the top.

    L = NLL + α · KL(softmax(ẑ′) ‖ softmax(z)): ẑ are the logits of the model as it was when the experience began; in
    ẑ′, the value of its first choice and that of the truth have changed places at every row or token. The target has
    the truth on top and keeps the shape of what the model said. Both terms are means over rows; of language, over
    tokens that count.

    Args:
        alpha: α.
        pretrained: distil in the first experience, too: for a model that comes trained. Otherwise that is where it is
            trained, and plain.

    Reference: Jiang et al., "Mix-CPT: A Domain Adaptation Framework via Decoupling Knowledge Learning and Format
    Alignment", ICLR 2025, arXiv:2407.10804. Their own code was not found.

    Differences from the paper:
        1. The mixture of domain texts, instructions and chosen answers is the stream's, or replay's:
           `mix-cpt+replay-fraction`.
        2. Its second stage, the alignment of formats by instructions and preferences, is left out.
        3. α is that of another implementation, which divides by sequences and not by tokens: tune it.
    """
    return chain(CrossEntropy(), SwappedLogits(alpha, pretrained), Teacher()) if alpha else CrossEntropy()
