"""Quadratic penalties on weights, and the gradients of single examples that weigh them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

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
