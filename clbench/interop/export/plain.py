"""A trained network without what its method has put around it, where that computes the same.

Shapes: B examples, C classes, D features; of a linear layer i inputs and o outputs, r rank.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.models.base import Classifier
from clbench.models.inputs import Pad
from clbench.models.texts import Pretrained, blocks_of
from clbench.parts.groups import AsIs
from clbench.parts.heads import NormalisedHead, SeenOutputs
from clbench.parts.injection import Extended
from clbench.parts.lowrank import LowRank
from clbench.parts.proxies import CosineHead, unit
from clbench.parts.sessions import Settling
from clbench.types import MASKED

METHODS = ("clbench.parts.", "clbench.strategies.")
"""Where modules are written that only a method knows."""
INSTEAD = "--backbone exports what makes the features, without a head."


@dataclass(frozen=True)
class Scores:
    """A head as a linear map.

    Attributes:
        weight: (C, D). bias: (C,). eps: added to the length of features, over which they are taken first; None where
            they stay as they are.
    """

    weight: Tensor
    bias: Tensor
    eps: float | None = None

    def __call__(self, features: Tensor) -> Tensor:
        """(B, D) → (B, C)."""
        if self.eps is not None:
            features = features / (features.norm(dim=1, keepdim=True) + self.eps)
        return F.linear(features, self.weight, self.bias)


@dataclass
class Plain:
    """A network that no method is needed for.

    Attributes:
        backbone: of clbench's models, or timm's; of texts what transformers has made. scores: the head, if it comes
            along. branches: by the path of a linear layer in the backbone, the (R, i) and (o, R) of all its low-rank
            branches, which the backbone's weights hold already. sides: zeros around images, as `F.pad` counts them.
        notes: what was done to it, in sentences.
    """

    backbone: nn.Module
    scores: Scores | None
    branches: dict[str, tuple[Tensor, Tensor]]
    sides: tuple[int, ...] | None = None
    notes: list[str] = field(default_factory=list)


@torch.no_grad()
def plain(engine: Engine, head: bool = True) -> Plain:
    """Return the network of a run as it is now, without its method.

    Args:
        head: whether its head is wanted.

    Raises:
        IncompatibleError: the method predicts by something else, or has put in what no plain network has.
    """
    model, who, notes = engine.model, engine.strategy, list[str]()
    if not isinstance(model, Classifier):
        raise IncompatibleError(f"{who} trains a {type(model).__name__}, which is no backbone and head.")
    backbone = copy.deepcopy(model.backbone).eval()
    while isinstance(backbone, AsIs | Settling):
        backbone = backbone.inner
    if isinstance(backbone, Pretrained):
        backbone.inner, backbone.below = whole(backbone), None
    branches = merged(backbone.inner if isinstance(backbone, Pretrained) else backbone)
    if branches:
        notes.append(f"The low-rank branches of {len(branches)} layers have been added to their weights.")
    for module in backbone.modules():
        kind = type(module)
        if kind.__module__.startswith(METHODS):
            raise IncompatibleError(
                f"{who} has put a {kind.__name__} into the network, which no other library has a place for. What can "
                "be exported are networks that are trained themselves, and low-rank branches."
            )
    if head and engine.classifier is not None:
        raise IncompatibleError(
            f"{who} classifies by a rule of its own and not by the model's head. {INSTEAD}"
        )
    scores = _scores(model.head, model.feature_size, str(who), notes) if head else None
    pads = [
        hook for m in backbone.modules() for hook in m._forward_pre_hooks.values() if isinstance(hook, Pad)
    ]
    return Plain(backbone, scores, branches, pads[0].sides if pads else None, notes)


def _scores(head: nn.Module, size: int, who: str, notes: list[str]) -> Scores:
    """Return a head as a linear map.

    Args:
        size: D.

    Raises:
        IncompatibleError: it is none.
    """
    unseen: Tensor | None = None
    if isinstance(head, SeenOutputs):
        unseen, head = ~head.seen, head.inner
    if isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward:
        bias = head.weight.new_zeros(len(head.weight)) if head.bias is None else head.bias
        found = Scores(head.weight.clone(), bias.clone())
    elif isinstance(head, NormalisedHead):
        weight = head.scale * F.normalize(head.weight, dim=1)
        found = Scores(weight, weight.new_zeros(len(weight)), 1e-12)
    elif isinstance(head, CosineHead):
        weight = unit(head.weight, head.eps) / head.temperature
        found = Scores(weight, weight.new_zeros(len(weight)), head.eps)
    elif (linear := _asked(head, size)) is not None:
        found = linear
    else:
        raise IncompatibleError(f"The head of {who} is a {type(head).__name__}, and no linear map. {INSTEAD}")
    if unseen is not None and unseen.any():
        found.weight[unseen], found.bias[unseen] = 0.0, MASKED
        notes.append(f"The logit of a class that was not seen is {MASKED:g}, as in the run.")
    return found


def _asked(head: nn.Module, size: int) -> Scores | None:
    """Return a head of a kind that is not known as the linear map that it is; None if it is none."""
    head = copy.deepcopy(head).eval()
    rows = torch.randn((8, size), generator=torch.Generator().manual_seed(0))
    bias: Tensor = head(torch.zeros(1, size))[0]
    found = Scores((head(torch.eye(size)) - bias).T.contiguous(), bias.clone())
    right: Tensor = head(rows)
    return found if bool(((found(rows) - right).abs() <= 1e-5 * right.abs().max()).all()) else None


def whole(encoder: Pretrained) -> nn.Module:
    """Return the transformer of an encoder, of which the lower blocks may be kept apart (`tune`)."""
    if encoder.below is None:
        return encoder.inner
    (owner, upper), (_, lower) = blocks_of(encoder.inner), blocks_of(encoder.below.inner)
    name = next(name for name, child in owner.named_children() if child is upper)
    setattr(owner, name, nn.ModuleList([*lower, *upper]))
    encoder.inner.embeddings = encoder.below.inner.embeddings
    return encoder.inner


def merged(network: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Make plain layers of those with low-rank branches, and return these, by path: A (R, i) and B (o, R), B A added.

    A layer of several targets, such as timm's qkv, gets the sum of the ranks, and zeros where no branch is.
    """
    found = {}
    for path, layer in list(network.named_modules()):
        if not isinstance(layer, Extended) or not all(
            isinstance(b, LowRank) for b in layer.branches.values()
        ):
            continue
        downs, ups = [], []
        for target, branch in layer.branches.items():
            assert isinstance(branch, LowRank)
            up = branch.scale * branch.up()  # (o of the target, r)
            placed = up.new_zeros(layer.out_features, up.shape[1])
            layer.rows(placed, target).copy_(up.unflatten(0, (layer.heads, -1)))
            downs.append(branch.down())
            ups.append(placed)
        found[path] = torch.cat(downs).detach(), torch.cat(ups, 1).detach()
        layer.merge()
        network.set_submodule(path, layer.plain())
    return found
