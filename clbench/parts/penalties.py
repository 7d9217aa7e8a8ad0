"""Quadratic penalties on weights, and the gradients of single examples that weigh them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from clbench.parts.groups import Group, members_of
from clbench.strategy import Strategy
from clbench.types import Batch, Experience, Output

if TYPE_CHECKING:
    from clbench.engine import Run


def quadratic_penalty(
    theta: Mapping[str, Tensor],
    anchors: Sequence[Mapping[str, Tensor]],
    weights: Sequence[Mapping[str, Tensor]],
) -> Tensor:
    """Σ_k Σ_j w_kj (θ_j − θ*_kj)², one term k for each pair of anchors θ*_k and weights w_k."""
    terms = [
        (weight[name] * (theta[name] - anchor[name]) ** 2).sum()
        for anchor, weight in zip(anchors, weights, strict=True)
        for name in anchor
    ]
    return torch.stack(terms).sum()


@runtime_checkable
class Anchored(Protocol):
    """A part that holds weights near anchors; who constrains the weights constrains these, too."""

    def held(self) -> Sequence[dict[str, Tensor]]:
        """The anchors, by parameter name, as they are kept: what is written into them in place counts."""
        ...


class HoldWeights(Strategy):
    """A quadratic penalty holds weights near their values at the end of the last experience: L2.

    `l2` is ε · Σ_j (θ_j − θ*_j)². Rows of the head that belong to classes not learned yet are left free: an anchor
    would hold them near random numbers.

    Args:
        strength: ε. parameters: which are held.
        from_start: whether the initial weights are the first experience's anchor.
    """

    needs = frozenset({"boundaries"})
    state = ("anchor", "learned")

    def __init__(self, strength: float, parameters: Group, from_start: bool) -> None:
        self.strength, self.parameters, self.from_start = strength, parameters, from_start
        self.anchor: dict[str, Tensor] = {}

    def setup(self, run: Run) -> None:
        self.learned = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)  # (C,)
        members_of(self.parameters, run.parameters())  # refused now rather than at the first end
        if self.from_start:
            self._anchor()

    def held(self) -> Sequence[dict[str, Tensor]]:
        return [self.anchor]

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if not self.anchor or self.strength == 0:
            return {}
        weights = {name: self._weight(name, anchor) for name, anchor in self.anchor.items()}
        return {"l2": self.strength * quadratic_penalty(self.run.parameters(), [self.anchor], [weights])}

    def _weight(self, name: str, anchor: Tensor) -> Tensor:
        """1, but for the rows of the head 0 until their class was learned."""
        if not name.startswith("head.") or anchor.ndim == 0 or len(anchor) != len(self.learned):
            return torch.ones((), device=anchor.device)
        return self.learned.to(anchor.dtype).view(-1, *(1 for _ in anchor.shape[1:]))

    def end_experience(self, exp: Experience) -> None:
        self.learned[list(exp.classes)] = True
        self._anchor()

    def _anchor(self) -> None:
        chosen = members_of(self.parameters, self.run.parameters())
        self.anchor = {name: p.detach().clone() for name, p in chosen.items()}


PER_EXAMPLE_FLOATS = 1 << 26
"""Gradient entries held at once while one gradient per example is taken: 256 MiB."""


def examples_at_once(run: Run) -> int:
    """How many examples' gradients may be held at once."""
    return max(1, PER_EXAMPLE_FLOATS // sum(p.numel() for p in run.parameters().values()))


def per_example_gradients(
    run: Run, loss: Callable[..., Tensor], x: Tensor, *rest: Tensor, model: nn.Module | None = None
) -> dict[str, Tensor]:
    """(B, …) the gradient of one loss per example, by parameter name.

    Args:
        loss: of an example's logits (1, C) and its rows of `rest`, a scalar.
        x: (B, …) inputs. rest: (B, …) what else the loss needs, labels for example.
        model: whose logits; the run's model in its present mode if None.
    """
    network = run.model if model is None else model
    names = run.parameters().keys()
    tensors = {name: tensor.detach() for name, tensor in network.named_parameters()}
    frozen = {name: t for name, t in [*tensors.items(), *network.named_buffers()] if name not in names}

    def of_one(theta: dict[str, Tensor], x1: Tensor, *rest1: Tensor) -> Tensor:
        return loss(functional_call(network, {**frozen, **theta}, (x1[None],)), *rest1)

    per_example = vmap(grad(of_one), in_dims=(None, 0, *(0 for _ in rest)), chunk_size=examples_at_once(run))
    found: dict[str, Tensor] = per_example({name: tensors[name] for name in names}, x, *rest)
    return found
