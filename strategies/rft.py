"""Reinforcement fine-tuning (RFT) in the place of supervised fine-tuning.

Lai et al., "Reinforcement Fine-Tuning Naturally Mitigates Forgetting in Continual Post-Training", 2025,
arXiv:2507.05386.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Experience, Order, Output, Run, Strategy, chain, register
from clbench.parts import CrossEntropy, Teacher, teacher_of
from clbench.ranges import Count, NotNegative, Positive

Deviation = Literal["population", "sample"]


class PolicyGradient(Strategy):
    """The model draws answers and learns from whether they are right: `policy`, and `kl` towards a reference.

    A is the advantage of an answer among the k to one question (`advantages`); with one update for every draw, GRPO's
    clipped ratio is 1, and −mean A · π(a|x) / π_drawn(a|x) has the gradient −mean A ∇ ln π(a|x).
    """

    needs = frozenset({"boundaries"})
    replaces = (CrossEntropy,)
    state = ("first",)
    parallel = True

    def __init__(
        self,
        rollouts: int,
        eps: float,
        deviation: Deviation,
        kl: float,
        temperature: float,
        supervised_first: bool,
    ) -> None:
        self.rollouts, self.eps, self.deviation = rollouts, eps, deviation
        self.kl, self.temperature, self.supervised_first = kl, temperature, supervised_first
        self.first = True

    def setup(self, run: Run) -> None:
        self.reference = teacher_of(run) if self.kl else None

    def begin_experience(self, exp: Experience) -> None:
        self.first = exp.index == 0

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if self.first and self.supervised_first:
            return {"fit": out.cross_entropy(batch.y)}
        answers = self.draw(out.logits, self.run.rng("rollouts"))  # (B, k)
        gains = advantages((answers == batch.y[:, None]).to(out.logits.dtype), self.eps, self.deviation)
        log_pi = F.log_softmax(out.logits, 1)  # (B, C)
        chosen = log_pi.gather(1, answers)
        losses = {"policy": -(gains * (chosen - chosen.detach()).exp()).mean()}
        if self.reference is not None:
            past = self.run.mask_tasks(self.reference.output(batch).logits, batch.task)
            terms = log_pi.exp() * (log_pi - F.log_softmax(past, 1))
            losses["kl"] = self.kl * terms.sum(1).mean()
        return losses

    def draw(self, logits: Tensor, rng: torch.Generator) -> Tensor:
        """(B, k) answers by softmax(logits / T)."""
        below = (logits.detach() / self.temperature).softmax(1).cumsum(1)
        u = torch.rand((len(logits), self.rollouts), generator=rng, device=logits.device)
        # As torch.multinomial, for which the host waits. Where a sum is a little off 1, no class may take the rest.
        return torch.searchsorted(below / below[:, -1:], u, right=True)


class KeepInformative(Strategy):
    """An experience trains on the rows of which at least one drawn answer is right before it begins; on all rows if
    there are none."""

    needs = frozenset({"boundaries"})
    state = ("rows", "chosen")
    parallel = True

    def __init__(self, policy: PolicyGradient) -> None:
        self.policy = policy
        self.rows = torch.zeros(0, dtype=torch.int64)
        self.chosen = False

    def begin_experience(self, exp: Experience) -> None:
        self.chosen = False

    def order(self, exp: Experience, epoch: int) -> Order | None:
        if self.policy.first and self.policy.supervised_first:
            return None
        if not self.chosen:
            self.rows, self.chosen = self._informative(exp), True
        order = self.run.permutation(exp, epoch)
        if not len(self.rows):
            return Order(order)
        kept = torch.zeros(len(exp), dtype=torch.bool)
        kept[self.rows.to("cpu")] = True
        return Order(order[kept[order]])

    @torch.no_grad()
    def _informative(self, exp: Experience) -> Tensor:
        run, found = self.run, []
        with run.evaluating():
            for x, y in run.visit(exp.data):
                logits = run.output_of(run.model, x, torch.full_like(y, exp.task)).logits
                answers = self.policy.draw(logits, run.rng("filter"))
                found.append((answers == y[:, None]).any(1).to("cpu"))
        return torch.cat(found).nonzero().squeeze(1)


def advantages(rewards: Tensor, eps: float, deviation: Deviation = "population") -> Tensor:
    """(B, k) (r − mean) / (std + ε) of the rewards (B, k) of each row's answers; 0 where all are equal."""
    centred = rewards - rewards.mean(1, keepdim=True)
    k = rewards.shape[1] - (deviation == "sample")
    std = (centred.square().sum(1, keepdim=True) / max(k, 1)).sqrt()
    # With ε = 0, equal rewards are 0 / 0.
    return torch.where(std > 0, centred / (std + eps).clamp(min=torch.finfo(std.dtype).tiny), 0.0)


@register("rft", family="training", paper="arXiv:2507.05386")
def rft(
    rollouts: Count = 8,
    eps: NotNegative = 1e-4,
    deviation: Deviation = "population",
    kl: NotNegative = 0.0,
    temperature: Positive = 1.0,
    filter: bool = False,
    first: Literal["supervised", "reinforced"] = "supervised",
) -> Strategy:
    """Reinforcement fine-tuning: later experiences are learned from rewards of drawn answers, not from labels.

    For each row the model draws k labels a by softmax(z / T); one that is right has reward 1, others 0. The advantages
    A = (r − mean r) / (std r + ε) of a row's answers sum to 0, and L = −mean A · π(a|x) / π_drawn(a|x): the policy
    gradient of GRPO with one update for every draw, so that no ratio is clipped; plus β KL(π ‖ π_ref) if wanted. A row
    that is always right or never right gives no gradient; otherwise its expected size goes with p (1 − p). That the
    model moves less where it knows, or knows nothing, is why it should forget less than with labels.

    This is a toy of the method, for labels: a class is an action. What can be learned is what the model draws at times:
    a class that is new to it, with a probability near 0, is not. Take domain-incremental streams, with the same
    classes throughout.

    Args:
        rollouts: k, answers drawn for a row.
        eps: ε.
        deviation: std over k (population), or over k − 1 (sample).
        kl: β, of the reference, the model at the end of the last experience.
        temperature: T of what is drawn.
        filter: before an experience, draw k answers for each row and train only on rows with one that is right: RIF,
            rollout-based instance filtering. The steps stay as many.
        first: how the first experience is learned: supervised, by labels, which stands for the trained model that the
            method starts from; or reinforced, from rewards as well.

    Reference: Lai et al., "Reinforcement Fine-Tuning Naturally Mitigates Forgetting in Continual Post-Training", 2025,
    arXiv:2507.05386.

    Differences from the paper:
        1. Labels in place of generated answers: an answer is one draw, and there is no reward for its form.
        2. The filter draws before the first step of an experience; which k the authors take is not known.
    """
    policy = PolicyGradient(rollouts, eps, deviation, kl, temperature, first == "supervised")
    parts = [policy, KeepInformative(policy)] if filter else [policy]
    return chain(*parts, Teacher()) if kl else chain(*parts)
