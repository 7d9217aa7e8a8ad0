"""Normalisation after every hidden layer, and weights kept at their initial norms."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import IncompatibleError

NormKind = Literal["layer", "rms"]
LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.instancenorm._InstanceNorm)


class Norm(nn.Module):
    """σ ⊙ N(x) + μ: each example, or token, over its own mean and deviation ("layer") or root mean square ("rms").

    Args:
        size: of σ and μ: features of vectors (…, size), channels of feature maps (B, size, …).
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
        backbone: changed in place.
        x: (B, …) some inputs.
        kind: of the norms.
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
    """A norm with the scale and offset of a batch normalisation, and the activation that timm's may contain."""
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

    hooks = [m.register_forward_hook(after) for m in backbone.modules() if isinstance(m, LAYERS)]
    hooks += [
        m.register_forward_pre_hook(before) for m in backbone.modules() if isinstance(m, (Norm, *NORMS))
    ]
    modes = {module: module.training for module in backbone.modules()}
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
    generator = torch.Generator().manual_seed(0)

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
    """The weight of each layer; scale and offset of each norm."""
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
    return squares.new_zeros(groups).index_add_(0, owner, squares).sqrt()


@torch.no_grad()
def project(tensors: Sequence[Tensor], owner: Tensor, norms: Tensor) -> None:
    """Each group's tensors, taken as one vector, back to its norm (G,), in place: W ← ρ W / ‖W‖."""
    scales = norms / group_norms(tensors, owner, len(norms))
    torch._foreach_mul_(list(tensors), list(scales[owner].unbind()))


def present(groups: Sequence[Sequence[str]], tensors: Mapping[str, Tensor]) -> list[int]:
    """The groups all of whose names there are."""
    return [i for i, group in enumerate(groups) if all(name in tensors for name in group)]
