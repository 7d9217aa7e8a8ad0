"""Memory Aware Synapses (MAS).

Aljundi et al., "Memory Aware Synapses: Learning what (not) to forget", ECCV 2018, arXiv:1711.09601.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clbench import Batch, Experience, Output, Run, Strategy, chain, register
from clbench.parts import CrossEntropy, quadratic_penalty, summed_gradients
from clbench.ranges import NotNegative
from clbench.types import IGNORED

Tensors = dict[str, Tensor]


class Sensitivity(Strategy):
    """A quadratic penalty holds each weight near its last value, as firmly as the model's output depends on it.

    `mas` is λ · Σ_j Ω_j (θ_j − θ*_j)² (eq. 4); Ω adds up the `sensitivity` of every experience so far.
    """

    needs = frozenset({"boundaries"})
    state = ("anchor", "importance")
    parallel = True
    capturable = True
    language = True

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self.anchor: Tensors = {}
        self.importance: Tensors = {}

    def held(self) -> Sequence[Tensors]:
        return [self.anchor]

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if not self.anchor or self.strength == 0:
            return {}
        penalty = quadratic_penalty(self.run.parameters(), [self.anchor], [self.importance])
        return {"mas": self.strength * penalty}

    def end_experience(self, exp: Experience) -> None:
        if self.strength == 0:
            return
        with self.run.evaluating():
            new = sensitivity(self.run, exp)
        self.importance = {name: self.importance.get(name, 0.0) + value for name, value in new.items()}
        self.anchor = {name: p.detach().clone() for name, p in self.run.parameters().items()}


def sensitivity(run: Run, exp: Experience) -> Tensors:
    """1/N Σ_n |∂ ‖f(x_n)‖² / ∂θ| by parameter name, f the logits (eq. 2 and 3); no label is asked for.

    Of language, f are all logits of a block of tokens, those of filling left out.
    """

    def norm(logits: Tensor, task: Tensor, counts: Tensor) -> Tensor:
        logits = run.mask_tasks(logits, task[None])  # a masked logit is a constant
        return (logits.square() * counts.unsqueeze(-1)).sum()

    total = {name: torch.zeros_like(p) for name, p in run.parameters().items()}
    for x, y in run.visit(exp.data):
        task, ones = torch.full((len(x),), exp.task, device=x.device), torch.ones(len(x), device=x.device)
        found = summed_gradients(torch.abs, run, norm, x, task, y != IGNORED, weights=ones)
        for name, g in found.items():
            total[name] += g
    return {name: value / len(exp) for name, value in total.items()}


@register("mas", family="regularisation", version=2, paper="arXiv:1711.09601", null={"strength": 0.0})
def mas(strength: NotNegative = 0.03) -> Strategy:
    """Memory Aware Synapses: weights that the output for past examples depends on are held near their values then.

    L = CE(stream) + λ · Σ_j Ω_j (θ_j − θ*_j)², Ω_j adding up over experiences the mean of |∂ ‖f(x)‖² / ∂θ_j|.

    Args:
        strength: λ. Plain gradient descent diverges above 1 / (learning rate · largest Ω_j).

    Reference: Aljundi et al., "Memory Aware Synapses: Learning what (not) to forget", ECCV 2018, arXiv:1711.09601.

    Differences from the paper:
        1. The head is shared by all experiences and is part of the penalty, as everything trainable is.
        2. Ω is taken on the experience's training examples, once each and not augmented. The paper may also take
           other examples, as no labels are needed.
        3. The default strength is one at which plain SGD trains on digits and MNIST, with the settings that come with
           them; at the authors', 1, it diverges on most of these. With BatchNorm, early outputs by running statistics
           make Ω so large that no strength fits: on CIFAR and PACS the settings that come are of Adam.
    """
    return chain(CrossEntropy(), Sensitivity(strength))
