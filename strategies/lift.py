"""LIFT: of each weight matrix, only the entries that its best low-rank approximation makes largest are trained.

Liu et al., "LIFT the Veil for the Truth: Principal Weights Emerge after Rank Reduction for Reasoning-Focused Supervised
Fine-Tuning", ICML 2025, arXiv:2506.00772.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from clbench import Experience, Run, Strategy, chain, register
from clbench.errors import IncompatibleError
from clbench.parts import TrainOnly, label_losses
from clbench.parts.injection import is_linear
from clbench.ranges import Count, Natural, Positive

Which = Literal["largest", "smallest"]


def principal(weight: Tensor, rank: int, count: int, which: Which = "largest") -> Tensor:
    """(o, i) bool: k entries of a weight, those of largest magnitude in its best approximation of rank r."""
    if count >= weight.numel():
        return torch.ones_like(weight, dtype=torch.bool)
    near = weight
    if rank < min(weight.shape):
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        near = (u[:, :rank] * s[:rank]) @ v[:rank]
    chosen = near.abs().flatten().topk(count, largest=which == "largest").indices
    return torch.zeros_like(weight, dtype=torch.bool).view(-1).index_fill_(0, chosen, True).view_as(weight)


class PrincipalWeights(Strategy):
    """Of every linear layer of the backbone (ρ (rows + columns)) entries are trained; all else of it stays.

    They are chosen anew when an experience begins and after every `period` updates.
    """

    state = ("masks", "kept", "updates")
    parallel = True
    language = True

    def __init__(self, rank: int, budget: int, period: int, which: Which) -> None:
        self.rank, self.budget, self.period, self.which = rank, budget, period, which

    def wrap(self, model: nn.Module) -> nn.Module:
        backbone: nn.Module = model.backbone  # type: ignore[assignment]
        weights = [cast("Tensor", module.weight) for module in backbone.modules() if is_linear(module)]
        self.matrices = [weight for weight in weights if weight.requires_grad]
        if not self.matrices:
            raise IncompatibleError(
                f"{self} trains entries of a backbone's linear layers, and here none of them is trained. Take a model "
                "that has some, such as a transformer, without model.tune=0 and without other parts that freeze them."
            )
        backbone.requires_grad_(False)
        for weight in self.matrices:
            weight.requires_grad_(True)
        self.waits = len(self.matrices)  # a decomposition each, where they are chosen anew
        return model

    def setup(self, run: Run) -> None:
        self.masks: list[Tensor] = []
        self.kept: list[Tensor] = []
        self.updates = 0

    def begin_experience(self, exp: Experience) -> None:
        self.updates = 0

    @torch.no_grad()
    def _choose(self) -> None:
        sizes = [self.budget * sum(weight.shape) for weight in self.matrices]
        self.masks = [
            principal(weight.detach(), self.rank, count, self.which)
            for weight, count in zip(self.matrices, sizes, strict=True)
        ]
        # Entries that stay go on with their moments; those that come, and those that left once, begin without.
        self.run.forget_moments({w: ~mask for w, mask in zip(self.matrices, self.masks, strict=True)})
        # Weight decay alone moves what has no gradient.
        decays = any(group["weight_decay"] for group in self.run.optimizer.param_groups)
        self.kept = [weight.detach().clone() for weight in self.matrices] if decays else []

    def gradients(self) -> None:
        if self.updates % self.period == 0:
            self._choose()
        for weight, mask in zip(self.matrices, self.masks, strict=True):
            if weight.grad is not None:
                weight.grad.mul_(mask)

    @torch.no_grad()
    def after_update(self) -> None:
        self.updates += 1
        for weight, mask, kept in zip(self.matrices, self.masks, self.kept, strict=False):
            weight.copy_(torch.where(mask, weight, kept))


@register("lift", family="low rank", paper="arXiv:2506.00772", tiny={"rank": 2, "budget": 2, "period": 3})
def lift(
    rank: Count = 32,
    budget: Natural = 8,
    period: Count = 200,
    which: Which = "largest",
    head: Positive = 1.0,
    loss: Literal["local", "softmax"] = "local",
) -> Strategy:
    """LIFT: trains the principal weights of every linear layer, those largest after rank reduction, and the head.

    W_r is the best approximation of rank r of a layer's weight W (o, i). The k = ρ (o + i) entries that are largest in
    |W_r| are trained, as many as a low-rank branch of rank ρ has, and the others of W stay. Every few updates they are
    chosen anew, of W as it is then; the optimizer's moments of entries that stay are carried over, those of others
    begin at 0. Biases, norms and embeddings stay. Nothing else is done about forgetting: fewer weights move than in
    fine-tuning. Gradients and moments have the size of the whole weights: it saves no memory. A choice takes a singular
    value decomposition of each weight.

    Args:
        rank: r of the approximation; from the smaller side of a weight on, its own largest entries are chosen.
        budget: ρ; 0 leaves the head alone, as `linear-probe` does, and where k is the size of W all of it is trained.
        period: updates between two choices; one is made whenever an experience begins.
        which: largest, the method; smallest, what the configurations of the authors' code choose, by a name that lacks
            the word.
        head: factor on the head's learning rate.
        loss: local, cross-entropy over the present experience's classes for rows of the stream; softmax, over all.

    Reference: Liu et al., "LIFT the Veil for the Truth: Principal Weights Emerge after Rank Reduction for
    Reasoning-Focused Supervised Fine-Tuning", ICML 2025, arXiv:2506.00772. The authors have r = 16 to 128, ρ = 32 to
    128, a period of 200 to 2,000, and Adam with betas of 0.9 and 0.95 without weight decay: `optim.betas=[0.9,0.95]`.

    Differences from the authors' code:
        1. Moments are held for whole weights, those of entries that are not trained being 0.
        2. Where q, k and v are one layer, it is one weight.
        3. With weight decay, the entries that are trained decay.
    """
    tuned = PrincipalWeights(rank, budget, period, which) if budget else TrainOnly("head")
    return chain(tuned, label_losses(loss, head))
