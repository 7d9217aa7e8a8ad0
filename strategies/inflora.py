"""InfLoRA: low-rank branches that read only what earlier experiences have not used.

Liang & Li, "InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning", CVPR 2024, arXiv:2404.00228.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from clbench import Experience, Strategy, chain, register
from clbench.parts import AsIs, LowRank, LowRankTuning, TrainOnly, label_losses, unpadded
from clbench.ranges import Natural, Part, Positive
from clbench.types import IGNORED, Data

Space = dict[str, Any]
"""basis (d, c) of what inputs have used; or, where `retain` is true, of what is still free."""


def rest(moment: Tensor, space: Space | None) -> Tensor:
    """(d, d) of a second moment X, what lies in the free directions: X − M Mᵀ X, or M Mᵀ X where free ones are kept."""
    if space is None:
        return moment
    basis: Tensor = space["basis"]
    inside: Tensor = basis @ (basis.T @ moment)
    return inside if space["retain"] else moment - inside


def design(moment: Tensor, rank: int, space: Space | None) -> Tensor:
    """(r, d) D_t, the leading directions of what is free, over √3; rows of 0 where less than r of them are."""
    u, s, _ = torch.linalg.svd(rest(moment, space))
    directions: Tensor = u[:, :rank].T
    if space is not None:
        # Directions that hold nothing but rounding could be any, those that are used among them.
        found = s[:rank] > len(moment) * torch.finfo(s.dtype).eps * moment.norm()
        directions = directions * found.unsqueeze(1)
    return directions / 3**0.5


def grown(moment: Tensor, space: Space | None, threshold: float) -> Space:
    """DualGPM: the space after an experience whose second moment is X (d, d), at threshold ε.

    Shares are of squared singular values of X. A basis of more than d/2 used directions becomes one of the free ones.
    """
    d, total = len(moment), moment.square().sum()
    u, s, _ = torch.linalg.svd(rest(moment, space))
    shares = s.square() / total
    if space is None:
        n = max(int((shares.cumsum(0) < threshold).sum()), 1)
        found: Space = {
            "basis": u[:, :n],
            "retain": n >= d / 2,
        }  # as released, also where it is said to be free
    elif not space["retain"]:
        have = 1 - shares.sum()
        n = int((have + shares.cumsum(0) - shares < threshold).sum())  # those before which it is not enough
        found = {"basis": torch.cat([space["basis"], u[:, :n]], dim=1)[:, :d], "retain": False}
    else:
        left, cols = shares.sum(), space["basis"].shape[1]
        n = int((left - shares.cumsum(0) + shares >= 1 - threshold).sum())
        basis = space["basis"] - u[:, :n] @ (u[:, :n].T @ space["basis"])
        kept = torch.linalg.svd(basis).U[:, : max(cols - n, 0)] if n else space["basis"]
        found = {"basis": kept, "retain": True}
    if not found["retain"] and found["basis"].shape[1] > d / 2:
        used = found["basis"].shape[1]
        found = {"basis": torch.linalg.svd(found["basis"]).U[:, used:], "retain": True}
    return found


class Calm(AsIs):
    """A network in eval mode, also while branches in it are trained."""

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.inner(x)
        return features


class InterferenceFree(LowRankTuning):
    """Up maps are trained behind down maps that are designed before each experience, and frozen."""

    needs = frozenset({"boundaries"})
    state = ("spaces",)
    parallel = True

    def __init__(self, rank: int, low: float, high: float) -> None:
        super().__init__(rank, 1.0, 0.0, ("k", "v"), slots=True)
        self.low, self.high = low, high

    def make(self, inputs: int, outputs: int) -> LowRank:
        branch = super().make(inputs, outputs)
        for down in branch.downs:
            nn.init.zeros_(down.requires_grad_(False))
        return branch

    def wrap(self, model: nn.Module) -> nn.Module:
        model = super().wrap(model)
        # k and v may be one layer or two, which read the same: what a block's first one reads stands for both.
        each = len(self.layers) // (len(self.branches) // 2)
        self.groups = [self.layers[i : i + each] for i in range(0, len(self.layers), each)]
        self.spaces: list[Space] = []
        model.backbone = Calm(model.backbone)  # type: ignore[arg-type]
        return model

    def moments(self, data: Data) -> list[Tensor]:
        """For each block, (d, d) the mean of x xᵀ over all tokens that its attention reads, float64."""
        sums = [torch.zeros(()) for _ in self.groups]
        counts = [0 for _ in self.groups]
        read: dict[int, Tensor] = {}  # by block, (B, L, d)

        def take(number: int, x: Tensor) -> None:
            read[number] = x.detach()

        hooks = [
            group[0].register_forward_pre_hook(lambda _, inputs, n=n: take(n, inputs[0]))
            for n, group in enumerate(self.groups)
        ]
        try:
            with self.run.evaluating(), torch.no_grad():
                for x, y in self.run.visit(data):
                    for rows in unpadded(x):
                        self.run.forward(rows)
                        for n, inputs in read.items():
                            # What fills a language model's block up has no label.
                            tokens = (inputs[y != IGNORED] if y.ndim > 1 else inputs.flatten(0, -2)).double()
                            sums[n] = sums[n].to(tokens) + tokens.T @ tokens
                            counts[n] += len(tokens)
        finally:
            for hook in hooks:
                hook.remove()
        return [total / count for total, count in zip(sums, counts, strict=True)]

    @torch.no_grad()
    def begin_experience(self, exp: Experience) -> None:
        super().begin_experience(exp)
        for n, moment in enumerate(self.moments(exp.data)):
            down = design(moment, self.rank, self.spaces[n] if self.spaces else None)
            for layer in self.groups[n]:
                for branch in layer.branches.values():
                    branch.downs[exp.index].copy_(down)  # type: ignore[index]

    def end_experience(self, exp: Experience) -> None:
        threshold = self.low + (self.high - self.low) * exp.index / len(self.run.benchmark.train)
        before: list[Space | None] = [*self.spaces] if self.spaces else [None] * len(self.groups)
        moments = self.moments(exp.data)
        self.spaces = [grown(x, space, threshold) for x, space in zip(moments, before, strict=True)]


@register("inflora", family="low rank", paper="arXiv:2404.00228", tiny={"rank": 4})
def inflora(rank: Natural = 10, low: Part = 0.95, high: Positive = 1.0, head: Positive = 1.0) -> Strategy:
    """InfLoRA: low-rank branches of keys and values that see nothing of what earlier experiences' inputs span.

    y = W x + b + Σ_k U_k D_k x. Before experience t, D_t (r, d) is made of the leading directions of its inputs' second
    moment, less the space that inputs before have used, and stays; U_t is trained from 0. For what lies in the stored
    space, U_t D_t x is 0 whatever U_t becomes. Afterwards the space grows until it holds a share ε_t of the squared
    singular values of X (DualGPM); ε_t rises from `low` towards `high`. Cross-entropy is over the present experience's
    classes, and the network is in eval mode throughout. Two passes over an experience are added.

    Args:
        rank: r of an experience's branch; 0 leaves the head alone, as `linear-probe` does.
        low, high: ε in the first experience, and what it would be after the last: low + (high − low) t / T.
        head: factor on the head's learning rate.

    Reference: Liang & Li, "InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning", CVPR 2024,
    arXiv:2404.00228. The paper's names of the two maps are the other way round in its code.

    Differences from the authors' code:
        1. Second moments are of examples as they are, not augmented; of texts, without what fills up; of a language
            model's blocks, of the tokens that have a label.
        2. Where less than r directions are free, the others of D_t are 0, and where none is, the head alone learns;
           there, they are arbitrary, and may be used ones.
        3. Branches of all experiences are there from the start, and counted; those to come are not read.

    As released: where the first experience's inputs already take more than half of all directions, those are kept as if
    they were the free ones, and later branches do move what they span.
    """
    if high > 1 or low > high:
        raise ValueError(f"a share rises from low to high, 1 at most; low={low} and high={high} were given")
    if not rank:
        return chain(TrainOnly("head"), label_losses("local", head))
    return chain(InterferenceFree(rank, low, high), label_losses("local", head))
