"""What a network's state says of its plasticity: norms, effective learning rate, dormant units, effective rank."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clbench.config import OptimConfig
from clbench.strategy import Run

EXAMPLES = 512
"""How many examples it is measured on, at most."""
DORMANT = 0.025
"""A unit is dormant whose mean absolute activation is at most this share of its layer's mean (Sokar et al.,
arXiv:2302.12902)."""
HIDDEN = (nn.Linear, nn.modules.conv._ConvNd)


def measure(run: Run, x: Tensor) -> list[float]:
    """Return the columns `curve.NETWORK` of the present model on examples x (N, …), in eval mode."""
    weights = hidden_weights(run.model)
    values = [
        torch.stack(torch._foreach_norm(weights)).double().square().sum().sqrt()
        if weights
        else torch.full((), torch.nan),
        effective_learning_rate(weights, run.config.optim),
    ]
    with run.evaluating(), torch.no_grad():
        features, activations = observe(run.model, x[:EXAMPLES])
    values += [dormant_units(activations), effective_rank(features)]
    return torch.stack([value.to(run.device) for value in values]).tolist()


def hidden_weights(model: nn.Module) -> list[Tensor]:
    """Return the weights of the linear and convolutional layers below the head."""
    backbone: nn.Module = model.backbone  # type: ignore[assignment]
    return [m.weight.detach() for m in backbone.modules() if isinstance(m, HIDDEN)]


def effective_learning_rate(weights: list[Tensor], optim: OptimConfig) -> Tensor:
    """() the geometric mean over layers of η / ‖W‖² under SGD, η / ‖W‖ under Adam: the step on the unit sphere.

    It describes networks in which the scale of each W changes nothing. η is the configured learning rate, without
    schedule and momentum.
    """
    if not weights:
        return torch.full((), torch.nan, dtype=torch.float64)
    power = 2 if optim.name == "sgd" else 1
    norms = torch.stack(torch._foreach_norm(weights)).double()
    mean: Tensor = (-power * norms.log().mean()).exp()
    return optim.lr * mean


def observe(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Features (N, D) of x (N, …), and for each activation function the mean |activation| of its units (U,).

    Units are channels of maps (N, U, H, W), and otherwise the last axis.
    """
    means: list[Tensor] = []

    def look(_: nn.Module, __: object, h: Tensor) -> None:
        unit = 1 if h.ndim == 4 else h.ndim - 1
        means.append(h.abs().float().mean([d for d in range(h.ndim) if d != unit]))

    hooks = [m.register_forward_hook(look) for m in model.modules() if is_activation(m)]
    try:
        features: Tensor = model.features(x)  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    return features, means


def is_activation(module: nn.Module) -> bool:
    """Whether a module is an activation function, of torch or timm."""
    home = type(module).__module__
    known = home == "torch.nn.modules.activation" or home.startswith("timm.layers.activations")
    return known and not isinstance(module, nn.MultiheadAttention | nn.Softmax)


def dormant_units(activations: list[Tensor]) -> Tensor:
    """() the share of units whose mean |activation| is at most `DORMANT` times the mean of their layer."""
    if not activations:
        return torch.full((), torch.nan, dtype=torch.float64)
    dormant = torch.cat([(a <= DORMANT * a.mean()) for a in activations])
    return dormant.double().mean()


def effective_rank(features: Tensor) -> Tensor:
    """() exp(−Σ p ln p), p the singular values of features (N, D) over their sum (Roy & Vetterli, EUSIPCO 2007).

    NaN where there is none, as for features that are all 0 or not all finite.
    """
    features = features.double()
    values = torch.linalg.svdvals(features.nan_to_num())  # which fails on what is not finite
    p = values / values.sum()
    return torch.where(features.isfinite().all(), torch.special.entr(p).sum().exp(), torch.nan)
