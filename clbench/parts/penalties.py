"""Quadratic penalties on weights, and the gradients of single examples that weigh them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from clbench.errors import IncompatibleError
from clbench.models.base import Classifier
from clbench.strategy import Run
from clbench.types import Experience


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
        """Return the anchors, by parameter name, as they are kept: what is written into them in place counts."""
        ...


def head_rows(name: str, tensor: Tensor, classes: Tensor) -> Tensor | None:
    """(C, 1, …) bool, the rows of a parameter of the head that belong to `classes` (C,); None for other parameters."""
    if name.split(".")[0] != "head" or tensor.ndim == 0 or len(tensor) != len(classes):
        return None
    return classes.view(-1, *(1 for _ in tensor.shape[1:]))


PER_EXAMPLE_FLOATS = 1 << 23
"""Gradient entries held at once while one gradient per example is taken: 32 MiB, which caches hold; more is slower."""


def examples_at_once(run: Run) -> int:
    """Return how many examples' gradients may be held at once."""
    return max(1, PER_EXAMPLE_FLOATS // sum(p.numel() for p in run.parameters().values()))


def per_example_gradients(
    run: Run, loss: Callable[..., Tensor], x: Tensor, *rest: Tensor, model: nn.Module | None = None
) -> dict[str, Tensor]:
    """(B, …) the gradient of one loss per example, by parameter name.

    Args:
        run: the engine.
        loss: takes an example's logits (1, C) and its rows of `rest`, and gives a scalar.
        x: (B, …) inputs.
        rest: (B, …) what else the loss needs, labels for example.
        model: whose logits; the run's model in its present mode if None.

    Raises:
        IncompatibleError: one layer stands in two places of the model.
    """
    network = run.model if model is None else model
    layers = [module for _, module in network.named_modules(remove_duplicate=False)]
    if len(layers) > len(set(layers)):  # torch would lose the parameters (`functional_call`, as of 2.13)
        raise IncompatibleError(
            f"{run.strategy} takes gradients of single examples, which a model that has one layer in two places does "
            "not allow; give each place a layer of its own."
        )
    names = run.parameters().keys()
    x = network.ahead(x, names) if isinstance(network, Classifier) else x
    tensors = {name: tensor.detach() for name, tensor in network.named_parameters()}
    frozen = {name: t for name, t in [*tensors.items(), *network.named_buffers()] if name not in names}

    run.count(x, network)

    def of_one(theta: dict[str, Tensor], x1: Tensor, *rest1: Tensor) -> Tensor:
        return loss(functional_call(network, {**frozen, **theta}, (x1[None],)), *rest1)

    per_example = vmap(grad(of_one), in_dims=(None, 0, *(0 for _ in rest)), chunk_size=examples_at_once(run))
    with by_example():
        found: dict[str, Tensor] = per_example({name: tensors[name] for name in names}, x, *rest)
    return found


def by_example() -> AbstractContextManager[None]:
    """Compute attention by products and a softmax, which torch does for many examples apart, unlike its fused one."""
    return sdpa_kernel(SDPBackend.MATH)


def summed_gradients(
    size: Callable[[Tensor], Tensor],
    run: Run,
    loss: Callable[..., Tensor],
    x: Tensor,
    *rest: Tensor,
    weights: Tensor,
    model: nn.Module | None = None,
) -> dict[str, Tensor]:
    """Σ_b w_b size(∂ℓ_b/∂θ), the sum over examples of squared or absolute gradients, by parameter name.

    For a linear layer y = W a + c, ∂ℓ_b/∂W = g_b a_bᵀ with g_b = ∂ℓ_b/∂y_b, so that the sum is (w size(g))ᵀ size(a),
    one product of matrices. Networks with other layers take `per_example_gradients`, a few examples at a time.

    Args:
        size: torch.square or torch.abs: size(u v) = size(u) size(v), element by element.
        run, loss, x, rest, model: as for `per_example_gradients`.
        weights: (B,) w.
    """
    network = run.model if model is None else model
    found = _summed_of_linear_layers(size, run, network, loss, x, *rest, weights=weights)
    if found is not None:
        return {name: found[name] for name in run.parameters()}
    total = {name: torch.zeros_like(p) for name, p in run.parameters().items()}
    for rows in torch.arange(len(x), device=x.device).split(examples_at_once(run)):
        some = (tensor[rows] for tensor in rest)
        for name, g in per_example_gradients(run, loss, x[rows], *some, model=network).items():
            total[name] += torch.einsum("b,b...->...", weights[rows], size(g))
    return total


def _summed_of_linear_layers(
    size: Callable[[Tensor], Tensor],
    run: Run,
    network: nn.Module,
    loss: Callable[..., Tensor],
    x: Tensor,
    *rest: Tensor,
    weights: Tensor,
) -> dict[str, Tensor] | None:
    """`summed_gradients` of a network whose only layers with weights are linear, each used once on vectors.

    None for other networks.
    """
    layers: dict[nn.Module, str] = {}
    if len(list(network.parameters())) < sum(1 for m in network.modules() for _ in m.parameters(False)):
        return None  # layers that share weights
    for prefix, module in network.named_modules():
        if isinstance(module, nn.Linear):
            layers[module] = prefix
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) or [*module.parameters(False)]:
            return None
    used: list[tuple[str, Tensor, Tensor]] = []

    def look(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        used.append((layers[layer], given[0].detach(), out))

    run.count(x, network)
    hooks = [layer.register_forward_hook(look) for layer in layers]
    try:
        with torch.enable_grad():
            logits = network(x.detach().requires_grad_())
            total = torch.vmap(loss)(logits[:, None], *rest).sum()
    finally:
        for hook in hooks:
            hook.remove()
    once = sorted(name for name, _, _ in used) == sorted(layers.values())
    if not once or any(a.dim() != 2 for _, a, _ in used):
        return None
    sums: dict[str, Tensor] = {}
    for (name, a, _), g in zip(used, torch.autograd.grad(total, [out for _, _, out in used]), strict=True):
        weighted = weights[:, None] * size(g)  # (B, out)
        sums[f"{name}.weight"], sums[f"{name}.bias"] = weighted.T @ size(a), weighted.sum(0)
    return sums


def fisher_of_labels(run: Run, exp: Experience, consumer: str) -> dict[str, Tensor]:
    """Σ_i p_i (∂ ln p_i / ∂θ)² / (batches · batch size), p_i the probability of the true label of augmented example i.

    As Mammoth estimates the Fisher information: examples pass one at a time in training mode, so that BatchNorm
    normalises each by its own statistics. Nothing is left of it in the running ones, and dropout is off.

    Args:
        run: the engine.
        exp: whose training examples.
        consumer: whose random stream augments.
    """
    total = {name: torch.zeros_like(p) for name, p in run.parameters().items()}
    network: nn.Module | None = None

    def log_likelihood(logits: Tensor, y1: Tensor) -> Tensor:
        return -F.cross_entropy(run.mask_tasks(logits, torch.full_like(y1[None], exp.task)), y1[None])

    batches = torch.arange(len(exp)).split(run.batch_size)
    for rows in batches:
        raw, y = (tensor.to(run.device) for tensor in exp.data.take(rows))
        # The transform itself, as `run.augment` would take from the random stream of the training batches.
        x = run.benchmark.transform.train(raw, run.rng(consumer))
        network = network or normalising_alone(run, x[:1])
        run.count(x, network)
        with torch.no_grad(), by_example():  # each on its own, as `per_example_gradients` takes them
            logits = torch.vmap(lambda x1, alone=network: alone(x1[None])[0])(x)  # (B, C)
        log_p = F.log_softmax(run.mask_tasks(logits, torch.full_like(y, exp.task)), 1)
        p = log_p.gather(1, y[:, None]).squeeze(1).exp()  # (B,)
        for name, value in summed_gradients(
            torch.square, run, log_likelihood, x, y, weights=p, model=network
        ).items():
            total[name] += value
    return {name: value / (len(batches) * run.batch_size) for name, value in total.items()}


def normalising_alone(run: Run, x: Tensor) -> nn.Module:
    """Return a copy of the model whose BatchNorm layers use the statistics of what they are given and keep none.

    A layer that sees one value per channel of the example x (1, …) has no statistics of it; it uses its running ones.
    """
    network = run.frozen()
    alone: set[nn.Module] = set()

    def look(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        if given[0].numel() > given[0].shape[1]:
            alone.add(layer)

    layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    run.output_of(network, x)
    for hook in hooks:
        hook.remove()
    for layer in layers:
        if layer in alone:
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    return network
