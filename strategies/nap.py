"""Normalize-and-Project (NaP).

Lyle et al., "Normalization and effective learning rates in reinforcement learning", NeurIPS 2024, arXiv:2407.01800.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Run, Strategy, register
from clbench.errors import IncompatibleError
from clbench.parts import Anchored, add_rows
from clbench.ranges import Count, NotNegative, Positive

Offsets = Literal["project", "regularise", "drift"]


NormKind = Literal["layer", "rms"]


LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.instancenorm._InstanceNorm)


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
        self.projection, self.offsets, self.strength = projection, offsets, strength
        self.period, self.eps = period, eps
        self.updates = 0

    def wrap(self, model: nn.Module) -> nn.Module:
        backbone: nn.Module = model.backbone  # type: ignore[assignment]
        tokens = example_tokens(self.run)
        images = torch.zeros((2, *self.run.input_shape), device=self.run.device)
        insert_norms(backbone, images if tokens is None else tokens, self.norm, self.eps)
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
        """Project the anchors that others hold weights near, so that weights can reach them."""
        for part in self.run.strategy.parts:
            for anchor in part.held() if isinstance(part, Anchored) else ():
                if chosen := present(self.groups, anchor):
                    groups = [self.groups[i] for i in chosen]
                    tensors = [anchor[name] for group in groups for name in group]
                    project(tensors, owners(groups, self.run.device), self.norms[chosen])


def _of_norm(name: str, p: Tensor) -> bool:
    """Whether a parameter is scale or offset of a norm: hidden layers have no biases."""
    return name.startswith("backbone.") and p.ndim == 1


class Norm(nn.Module):
    """σ ⊙ N(x) + μ: each example, or token, over its own mean and deviation ("layer") or root mean square ("rms").

    Args:
        size: how many σ and μ there are: features of vectors (…, size), channels of feature maps (B, size, …).
        kind: which statistics.
        maps: whether inputs are feature maps, which are normalised as a whole.
        pieces: equal parts of the last axis that are normalised each on its own, 3 for queries, keys and values.
        eps: added to the variance; breaks exact scale invariance where activations are tiny.
    """

    def __init__(self, size: int, kind: NormKind, *, maps: bool, pieces: int = 1, eps: float = 1e-6) -> None:
        super().__init__()
        self.kind, self.maps, self.pieces, self.eps = kind, maps, pieces, eps
        self.weight = nn.Parameter(torch.ones(size))  # σ
        self.bias = nn.Parameter(torch.zeros(size))  # μ

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) → (B, …)."""
        rows = x.flatten(1) if self.maps else x.unflatten(-1, (self.pieces, -1))
        normalise = F.layer_norm if self.kind == "layer" else F.rms_norm
        rows = normalise(rows, rows.shape[-1:], eps=self.eps)
        shape = (-1, *(1 for _ in x.shape[2:])) if self.maps else (-1,)
        return rows.view(x.shape) * self.weight.view(shape) + self.bias.view(shape)


def insert_norms(backbone: nn.Module, x: Tensor, kind: NormKind, eps: float) -> None:
    """Put a norm right after every linear and convolutional layer that has none, and drop their biases, in place.

    Batch normalisation becomes `Norm`, with its scale and offset: its running statistics would lag behind weights
    that are rescaled. Which layer has a norm right after it is seen by sending inputs through.

    Args:
        backbone: changed in place. x: (B, …) some inputs.
        kind: which norms.
        eps: added to their variances.

    Raises:
        IncompatibleError: a layer's weight is used without calling the layer, so that nothing can follow it.
    """
    for name, module in list(backbone.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            _put(backbone, name, _instead_of(module, kind, eps))
    layers = {name: m for name, m in backbone.named_modules() if isinstance(m, LAYERS)}
    called, followed = _seen_in_use(backbone, x)
    for name, layer in layers.items():
        if layer not in called:
            raise IncompatibleError(
                f"The layer '{name}' of the model is used without being called, so that no norm can follow it. "
                "Another model may do: mlp, resnet18, slim-resnet18, timm's vit_* and resnet*."
            )
        if layer.bias is not None:
            layer.bias = None
        if layer not in followed:
            size, pieces = layer.weight.shape[0], 3 if name.split(".")[-1] == "qkv" else 1
            norm = Norm(size, kind, maps=not isinstance(layer, nn.Linear), pieces=pieces, eps=eps)
            _put(backbone, name, nn.Sequential(layer, norm.to(layer.weight.device)))


def _instead_of(batch_norm: nn.modules.batchnorm._BatchNorm, kind: NormKind, eps: float) -> nn.Module:
    """Return a norm with the scale and offset of a batch normalisation, and the activation that timm's may contain."""
    maps = not isinstance(batch_norm, nn.BatchNorm1d)
    norm = Norm(batch_norm.num_features, kind, maps=maps, eps=eps)
    if batch_norm.affine:
        norm.weight, norm.bias = batch_norm.weight, batch_norm.bias
    inside = [m for n in ("drop", "act") if isinstance(m := getattr(batch_norm, n, None), nn.Module)]
    return nn.Sequential(norm, *inside) if inside else norm


def _seen_in_use(backbone: nn.Module, x: Tensor) -> tuple[set[nn.Module], set[nn.Module]]:
    """Layers that are called, and those whose output goes straight into a norm."""
    called: set[nn.Module] = set()
    followed: set[nn.Module] = set()
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensor is kept, so that its id stays its own

    def after(layer: nn.Module, _: object, y: Tensor) -> None:
        called.add(layer)
        outputs[id(y)] = layer, y

    def before(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        if given and id(given[0]) in outputs:
            followed.add(outputs[id(given[0])][0])

    modes = {module: module.training for module in backbone.modules()}
    hooks = [m.register_forward_hook(after) for m in modes if isinstance(m, LAYERS)]
    hooks += [m.register_forward_pre_hook(before) for m in modes if isinstance(m, (Norm, *NORMS))]
    backbone.eval()
    with torch.no_grad():
        backbone(x)
    for hook in hooks:
        hook.remove()
    for module, mode in modes.items():
        module.training = mode
    return called, followed


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)


def scale_invariant(
    backbone: nn.Module, input_shape: Sequence[int], example: Tensor | None = None
) -> list[list[str]]:
    """Groups of parameters whose common positive factor changes no feature, by name: what projection may rescale.

    Candidates are the weight of each layer, and scale and offset of each norm together. A norm's are found where only
    positively homogeneous functions (ReLU) and layers lie between it and the next norm: not before GELU, not where the
    result is added to another, not before the head. Measured, not inferred: a copy in float64 in which nothing is zero
    and no norm has an ε is asked before and after doubling each group: on random inputs, or on `example` (B, …).
    """
    network = copy.deepcopy(backbone).double().eval().requires_grad_(False)
    generator = torch.Generator()  # begins alike each time: what is found is a fact about the network

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    for name, p in network.named_parameters():
        if p.ndim == 1:  # zeros and tiny factors (norms, layer scale) would hide a dependence
            p.copy_(1 + 0.3 * drawn(len(p)) if name.endswith("weight") else 0.3 * drawn(len(p)))
    for module in network.modules():
        if isinstance(module, (Norm, *NORMS)):
            module.eps = 1e-15
    x = drawn(2, *input_shape).to(next(network.parameters()).device) if example is None else example
    before = network(x)
    parameters: dict[str, Tensor] = dict(network.named_parameters())

    def changes_nothing(group: list[str], factors: list[float]) -> bool:
        tensors = [parameters[name] for name in group]
        kept = [tensor.clone() for tensor in tensors]
        torch._foreach_mul_(tensors, factors)
        change = (network(x) - before).abs().max() / before.abs().max()
        torch._foreach_copy_(tensors, kept)
        return bool(change < 1e-6)

    weights, norms = _candidates(network)
    # Usually all weights are; each with a factor of its own, they are asked at once.
    together = [name for group in weights for name in group]
    if not changes_nothing(together, [2.0 + 0.1 * i for i in range(len(together))]):
        weights = [group for group in weights if changes_nothing(group, [2.0])]
    return weights + [group for group in norms if changes_nothing(group, [2.0] * len(group))]


def _candidates(network: nn.Module) -> tuple[list[list[str]], list[list[str]]]:
    """Return the weight of each layer; scale and offset of each norm."""
    known = dict(network.named_parameters())
    weights, norms = [], []
    for name, module in network.named_modules():
        if isinstance(module, LAYERS):
            weights.append([f"{name}.weight"])
        elif isinstance(module, (Norm, *NORMS)) and f"{name}.weight" in known:
            norms.append([n for n in (f"{name}.weight", f"{name}.bias") if n in known])
    return weights, norms


def owners(groups: Sequence[Sequence[object]], device: torch.device) -> Tensor:
    """(T,) for each member of the groups, one after another, the number of its group."""
    return torch.tensor([i for i, group in enumerate(groups) for _ in group], device=device)


def group_norms(tensors: Sequence[Tensor], owner: Tensor, groups: int) -> Tensor:
    """(G,) the Euclidean norm of each group's tensors, taken as one vector; a matrix's is its Frobenius norm."""
    squares = torch.stack(torch._foreach_norm(list(tensors))) ** 2  # (T,)
    totals = squares.new_zeros(groups)
    add_rows(totals, owner, squares)
    return totals.sqrt()


@torch.no_grad()
def project(tensors: Sequence[Tensor], owner: Tensor, norms: Tensor) -> None:
    """Bring each group's tensors, taken as one vector, back to its norm (G,), in place: W ← ρ W / ‖W‖."""
    scales = norms / group_norms(tensors, owner, len(norms))
    torch._foreach_mul_(list(tensors), list(scales[owner].unbind()))


def present(groups: Sequence[Sequence[str]], tensors: Mapping[str, Tensor]) -> list[int]:
    """Return the groups all of whose names there are."""
    return [i for i, group in enumerate(groups) if all(name in tensors for name in group)]


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
        strength: weight of a penalty strength · Σ ((σ − σ₀)² + (μ − μ₀)²) on those that are not projected; none is
            published.
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
