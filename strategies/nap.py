"""Normalize-and-Project (NaP).

Lyle et al., "Normalization and effective learning rates in reinforcement learning", NeurIPS 2024, arXiv:2407.01800.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from clbench import Batch, Experience, Output, Run, Strategy, register
from clbench.parts import (
    Anchored,
    NormKind,
    group_norms,
    insert_norms,
    owners,
    present,
    project,
    scale_invariant,
)
from clbench.ranges import Count, NotNegative, Positive

Offsets = Literal["project", "regularise", "drift"]


def example_tokens(run: Run) -> Tensor | None:
    """(2, L) the first text twice, where inputs are tokens, which no zeros stand for; None where they are not."""
    raw, _ = run.benchmark.train[0].data.take(torch.zeros(2, dtype=torch.int64))
    x = run.normalise(raw.to(run.device))
    return x if x.dtype == torch.int64 else None


class NormalizeAndProject(Strategy):
    """A norm after every hidden layer; after every update, hidden weights go back to their initial norms.

    W_l ← ρ_l W_l / ‖W_l‖_F with ρ_l = ‖W_l‖_F at the start, one number for a layer. Scale and offset of a norm are
    projected together, as one vector, where that changes no output (`scale_invariant`).

    Attributes:
        groups: names of parameters that are projected, together where there are several.
        norms: (G,) their initial norms.
    """

    state = ("norms", "updates")
    parallel = True
    capturable = True

    def __init__(
        self, norm: NormKind, projection: bool, offsets: Offsets, strength: float, period: int, eps: float
    ) -> None:
        self.norm: NormKind = norm
        self.projection, self.offsets, self.strength, self.period, self.eps = (
            projection,
            offsets,
            strength,
            period,
            eps,
        )
        self.updates = 0

    def wrap(self, model: nn.Module) -> nn.Module:
        backbone: nn.Module = model.backbone  # type: ignore[assignment]
        tokens = example_tokens(self.run)
        example = (
            torch.zeros((2, *self.run.input_shape), device=self.run.device) if tokens is None else tokens
        )
        insert_norms(backbone, example, self.norm, self.eps)
        return model

    def setup(self, run: Run) -> None:
        theta, device = run.parameters(), run.device
        groups: list[list[str]] = []
        if self.projection:
            backbone: nn.Module = run.model.backbone  # type: ignore[assignment]
            alike = scale_invariant(backbone, run.input_shape, example_tokens(run))
            found = [[f"backbone.{name}" for name in g] for g in alike]
            found = [found[i] for i in present(found, theta)]
            groups = [g for g in found if self.offsets == "project" or theta[g[0]].ndim > 1]
        self.groups, self.norms = [], torch.zeros(0, device=device)
        if groups:
            tensors = [theta[name].detach() for group in groups for name in group]
            norms = group_norms(tensors, owners(groups, device), len(groups))
            self.groups = [g for g, norm in zip(groups, norms.tolist(), strict=True) if norm > 0]
            self.norms = norms[norms > 0]
        self.names = [name for group in self.groups for name in group]
        self.owner = owners(self.groups, device)
        free = [name for name, p in theta.items() if _of_norm(name, p) and name not in self.names]
        kept = free if self.strength and self.offsets != "drift" else []
        self.initial = {name: theta[name].detach().clone() for name in kept}

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if not self.initial:
            return {}
        theta = self.run.parameters()
        terms = [((theta[name] - start) ** 2).sum() for name, start in self.initial.items()]
        return {"offsets": self.strength * torch.stack(terms).sum()}

    def after_update(self) -> None:
        self.updates += 1
        if self.groups and self.updates % self.period == 0:
            theta = self.run.parameters()
            project([theta[name] for name in self.names], self.owner, self.norms)

    def begin_experience(self, exp: Experience) -> None:
        """What holds weights near anchors must hold them near points that they can reach."""
        for part in self.run.strategy.parts:
            for anchor in part.held() if isinstance(part, Anchored) else ():
                if chosen := present(self.groups, anchor):
                    groups = [self.groups[i] for i in chosen]
                    tensors = [anchor[name] for group in groups for name in group]
                    project(tensors, owners(groups, self.run.device), self.norms[chosen])


def _of_norm(name: str, p: Tensor) -> bool:
    """Whether a parameter is scale or offset of a norm: hidden layers have no biases."""
    return name.startswith("backbone.") and p.ndim == 1


@register("nap", family="plasticity", paper="arXiv:2407.01800", modifier=True)
def nap(
    norm: NormKind = "layer",
    projection: bool = True,
    offsets: Offsets = "project",
    strength: NotNegative = 0.0,
    period: Count = 1,
    eps: Positive = 1e-6,
) -> Strategy:
    """Normalize-and-Project: norms after all hidden layers, whose weights stay at their initial norms.

    h_l = φ(σ_l ⊙ N(W_l h_{l−1}) + μ_l) without biases; after every update W_l ← ρ_l W_l / ‖W_l‖_F, with ρ_l the initial
    Frobenius norm of the layer's whole weight. In a normalised network the direction of W_l alone matters, and its
    growth lowers the effective learning rate, η / ‖W_l‖² under SGD and η / ‖W_l‖ under Adam; projected, it is constant.
    The decay that growth used to bring has to come from a schedule (`schedule=linear`). The output layer is left alone:
    its norm is the softmax's temperature. Works around any strategy, with anchors of `l2` and `ewc` projected, too.
    `evaluation.network=true` records norms and effective learning rate.

    Args:
        norm: layer, with mean and deviation; rms, with the root mean square.
        projection: whether weights are projected; false only normalises.
        offsets: scale and offset (σ, μ) of a norm. project: back to their initial norm, √n for n units, as one vector,
            where that changes no output: where only ReLUs and layers lie between the norm and the next one. Those of
            the last hidden layer, before GELU or before a sum of branches go with `strength`. regularise: all of them
            go with `strength`. drift: they are left alone.
        strength: of a penalty strength · Σ ((σ − σ₀)² + (μ − μ₀)²) on those that are not projected; none is published.
        period: updates between projections.
        eps: added to variances.

    Reference: Lyle et al., "Normalization and effective learning rates in reinforcement learning", NeurIPS 2024,
    arXiv:2407.01800. There is no official code.

    Differences from the paper:
        1. Batch normalisation is replaced; its running statistics would be those of weights of another scale.
        2. Feature maps are normalised as a whole, over channels and places.
        3. In transformers every linear layer is followed by a norm (queries, keys and values one each), which makes
           each scale-invariant whatever follows; the network's own norms stay. The paper is less definite.
        4. Which scales and offsets may be projected is measured on the network at hand.
        5. The optimizer's moments stay as they are, and weight decay on projected weights is undone by the projection;
           leave it at 0.
    """
    return NormalizeAndProject(norm, projection, offsets, strength, period, eps)
