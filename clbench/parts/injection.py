"""Where something may be put into a transformer that stays as it is: its linear layers, and the ends of its blocks.

One set of names for timm's vision transformers, the encoders of transformers (BERT, RoBERTa, DistilBERT, ModernBERT),
the image tower of a dual encoder, and language models (clbench's decoder, those like LLaMA, OPT, GPT-NeoX or GPT-2): q,
k and v, the projections of attention, of which some networks make one layer; proj, the one after attention; fc1 and
fc2, those of the perceptron, of which fc1 may be two layers, one of them a gate.

What is put in is a *branch*, a module. The base keeps its weights under their names: a linear layer with branches has
the very parameters of the layer it stands in for, and other wrappers hold theirs as `inner`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import IncompatibleError
from clbench.models.clip import Block as ClipBlock, DualEncoder
from clbench.models.decoders import Causal
from clbench.models.texts import Pretrained
from clbench.strategy import Strategy

Target = Literal["q", "k", "v", "proj", "fc1", "fc2"]

QKV: tuple[Target, ...] = ("q", "k", "v")
NAMES: dict[str, tuple[Target, ...]] = {
    # timm, and CLIP's perceptron
    "attn.qkv": QKV,
    "attn.proj": ("proj",),
    "mlp.fc1": ("fc1",),
    "mlp.fc2": ("fc2",),
    # BERT and RoBERTa
    "attention.self.query": ("q",),
    "attention.self.key": ("k",),
    "attention.self.value": ("v",),
    "attention.output.dense": ("proj",),
    "intermediate.dense": ("fc1",),
    "output.dense": ("fc2",),
    # DistilBERT
    **{f"attention.{name}_lin": (name,) for name in QKV},
    "attention.out_lin": ("proj",),
    "ffn.lin1": ("fc1",),
    "ffn.lin2": ("fc2",),
    # ModernBERT
    "attn.Wqkv": QKV,
    "attn.Wo": ("proj",),
    "mlp.Wi": ("fc1",),
    "mlp.Wo": ("fc2",),
    # CLIP, OPT, and LLaMA
    **{f"self_attn.{name}_proj": (name,) for name in QKV},
    "self_attn.out_proj": ("proj",),
    "self_attn.o_proj": ("proj",),
    "mlp.gate_proj": ("fc1",),
    "mlp.up_proj": ("fc1",),
    "mlp.down_proj": ("fc2",),
    # OPT, and clbench's decoder
    "fc1": ("fc1",),
    "fc2": ("fc2",),
    # GPT-NeoX
    "attention.query_key_value": QKV,
    "attention.dense": ("proj",),
    "mlp.dense_h_to_4h": ("fc1",),
    "mlp.dense_4h_to_h": ("fc2",),
    # GPT-2
    "attn.c_attn": QKV,
    "attn.c_proj": ("proj",),
    "mlp.c_fc": ("fc1",),
    "mlp.c_proj": ("fc2",),
}
"""How a linear layer's path in a block ends → the targets that its outputs are, in equal parts."""
BY_HEAD = ("attention.query_key_value",)
"""Those in which each head has its own q, k and v, one after the other."""

NUMBERED = re.compile(r"(?:^|\.)(\d+)\.")
"""A block's number in the path of what belongs to it."""

WHERE = (
    "a timm VisionTransformer such as model=timm:vit_tiny_patch16_224, an encoder of texts like BERT such as "
    "model=minilm, a dual encoder such as model=toy-clip, or a language model such as model=decoder"
)


@dataclass(frozen=True)
class Site:
    """A linear layer of a block.

    Attributes:
        path: from the network that makes features. block: its number. targets: that its outputs are, in equal parts.
        heads: outputs are (heads, targets, o); 1 where each target's are together.
    """

    path: str
    block: int
    targets: tuple[Target, ...]
    heads: int = 1


def reading(backbone: Any) -> nn.Module:
    """Return what of a backbone is changed: a dual encoder's image tower, the upper blocks of an encoder of texts whose
    lower ones are fixed, what transformers has made of a language model, others whole."""
    if isinstance(backbone, Pretrained | Causal):
        return backbone.inner
    if isinstance(backbone, DualEncoder):
        tower: nn.Module = backbone.vision_model if hasattr(backbone, "vision_model") else backbone.vit  # type: ignore[assignment]
        return tower
    return backbone  # type: ignore[no-any-return]


def open_to(backbone: Any, part: Strategy) -> nn.Module:
    """`reading`, refused where nothing of it is to be trained.

    Raises:
        IncompatibleError: it is fixed.
    """
    if getattr(backbone, "fixed", False):
        raise IncompatibleError(
            f"{part} trains what it puts into the blocks of the encoder, and model.tune=0 says that none of them is "
            "trained. Leave model.tune out for all blocks, or take model.tune=2 for the last two; linear-probe trains "
            "the head alone."
        )
    return reading(backbone)


def sites_of(network: nn.Module) -> list[Site]:
    """Return the linear layers of a transformer's blocks, in order."""
    found = []
    for path, module in network.named_modules():
        if not is_linear(module) or not (number := NUMBERED.search(path)):
            continue
        name = path[number.end() :]
        if (targets := NAMES.get(name)) is not None:
            heads = 1
            if name in BY_HEAD:
                attention: Any = network.get_submodule(path.rpartition(".")[0])
                heads = len(matrix_of(module)) // (len(targets) * attention.head_size)
            found.append(Site(path, int(number[1]), targets, heads))
    return found


def is_linear(module: nn.Module) -> bool:
    """Whether a layer multiplies by a matrix `weight`, (o, i), or (i, o) as GPT-2's do."""
    return isinstance(module, nn.Linear) or is_turned(module)


def is_turned(module: nn.Module) -> bool:
    """Whether a layer is one of GPT-2's, whose `weight` is (i, o)."""
    return isinstance(module, Turned) or (
        type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers.")
    )


def matrix_of(layer: nn.Module) -> Tensor:
    """(o, i) what a linear layer multiplies by."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.T if is_turned(layer) else weight


def block_of(path: str) -> int | None:
    """Return the number of the block that a module or a parameter belongs to, by its path; None if to none."""
    number = NUMBERED.search(path)
    return None if number is None else int(number[1])


class Extended(nn.Linear):
    """A linear layer that stays, with a branch for some of its targets: y = W x + b + (branch(x), in their rows).

    Args:
        base: whose weights it has.
        targets: what its outputs are, in equal parts.
        branches: target → (…, i) to (…, o).
        heads: outputs are (heads, targets, o); 1 where each target's are together.
    """

    def __init__(
        self,
        base: nn.Module,
        targets: tuple[Target, ...],
        branches: Mapping[Target, nn.Module],
        heads: int = 1,
    ) -> None:
        nn.Module.__init__(self)
        self.weight, self.bias = base.weight, base.bias  # type: ignore[assignment]
        self.out_features, self.in_features = matrix_of(self).shape
        self.targets, self.heads = targets, heads
        self.branches = nn.ModuleDict({str(target): branch for target, branch in branches.items()})
        self.merged = False

    def plain(self) -> nn.Module:
        """Return the layer without its branches, with the same weights."""
        base: nn.Module = nn.utils.skip_init(
            nn.Linear, self.in_features, self.out_features, bias=self.bias is not None
        )
        base.weight, base.bias = self.weight, self.bias
        return base

    def whole(self, x: Tensor) -> Tensor:
        """(…, i) → (…, o) W x + b."""
        return F.linear(x, self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, i) → (…, o)."""
        y = self.whole(x)
        if self.merged:
            return y
        if len(self.targets) == 1:
            return y + self.branches[self.targets[0]](x)  # type: ignore[no-any-return]
        parts = y.unflatten(-1, (self.heads, len(self.targets), -1)).unbind(-2)  # of (…, heads, o)
        named = zip(self.targets, parts, strict=True)
        added = [
            p + self.branches[t](x).unflatten(-1, (self.heads, -1)) if t in self.branches else p
            for t, p in named
        ]
        return torch.stack(added, dim=-2).flatten(-3)

    def rows(self, outputs: Tensor, target: str) -> Tensor:
        """(o, …) → (heads, o of a target, …), a view of those rows that are its."""
        each: Tensor = outputs.unflatten(0, (self.heads, len(self.targets), -1))
        return each[:, [str(t) for t in self.targets].index(target)]

    @torch.no_grad()
    def merge(self, sign: int = 1) -> None:
        """Take the branches' matrices (`delta`) into the weights, or with sign −1 out of them again."""
        if self.merged == (sign > 0):
            return
        for target, branch in self.branches.items():
            delta: Tensor = branch.delta()  # type: ignore[operator]
            self.rows(matrix_of(self), target).add_(sign * delta.unflatten(0, (self.heads, -1)))
        self.merged = sign > 0


class Turned(Extended):
    """One that holds its matrix as (i, o), as GPT-2's layers do."""

    def plain(self) -> nn.Module:
        """Return the layer without its branches, with the same weights."""
        from transformers.pytorch_utils import Conv1D

        base: nn.Module = Conv1D(self.out_features, self.in_features)  # type: ignore[no-untyped-call]
        base.weight, base.bias = self.weight, self.bias
        return base

    def whole(self, x: Tensor) -> Tensor:
        """(…, i) → (…, o) W x + b."""
        y: Tensor = torch.addmm(self.bias, x.flatten(0, -2), self.weight).unflatten(0, x.shape[:-1])
        return y


def extend(
    backbone: nn.Module,
    part: Strategy,
    targets: Sequence[Target],
    make: Callable[[int, int], nn.Module],
    blocks: Sequence[int] | None = None,
) -> list[Extended]:
    """Put a branch into every linear layer of these targets; return the layers, in order.

    Args:
        backbone: of a model.
        part: that asks, for messages.
        targets: the layers.
        make: inputs and outputs → a branch.
        blocks: whose layers; None for all.

    Raises:
        IncompatibleError: it is fixed, has no such layers or blocks, or another part has put branches into them.
    """
    network = open_to(backbone, part)
    sites = sites_of(network)
    present = sorted({t for site in sites for t in site.targets})
    if missing := [t for t in targets if t not in present]:
        has = f"this one has {', '.join(present)}" if present else f"a {type(network).__name__} is none"
        raise IncompatibleError(f"{part} changes the layers {', '.join(missing)} of {WHERE}; {has}.")
    check_blocks(blocks, [site.block for site in sites], part)
    extended = []
    for site in sites:
        chosen = [t for t in site.targets if t in targets]
        if not chosen or (blocks is not None and site.block not in blocks):
            continue
        base = network.get_submodule(site.path)
        if isinstance(base, Extended):
            raise IncompatibleError(
                f"{part} puts branches into the layer {site.path}, and another part of the chain has done so already. "
                "Leave one of them out."
            )
        kind = Turned if is_turned(base) else Extended
        outputs, inputs = matrix_of(base).shape
        branches = {t: make(inputs, outputs // len(site.targets)) for t in chosen}
        layer = kind(base, site.targets, branches, site.heads)
        network.set_submodule(site.path, layer)
        extended.append(layer)
    return extended


def check_blocks(blocks: Sequence[int] | None, present: Sequence[int], part: Strategy) -> None:
    """Refuse blocks that a transformer does not have."""
    if blocks is not None and (missing := sorted(set(blocks) - set(present))):
        raise IncompatibleError(
            f"{part} changes the blocks {', '.join(map(str, blocks))}; this transformer has the blocks 0 to "
            f"{max(present)}, and no {missing[0]}. Set its blocks to some of these."
        )


# --- beside and behind modules ---


class Behind(nn.Module):
    """What a module gives, changed by another: after(inner(…))."""

    def __init__(self, inner: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.inner, self.after = inner, after

    def forward(self, *inputs: Any) -> Tensor:
        """(…, i) → (…, o)."""
        changed: Tensor = self.after(self.inner(*inputs))
        return changed


class Beside(nn.Module):
    """A module and a branch of the same input, added up."""

    def __init__(self, inner: nn.Module, branch: nn.Module) -> None:
        super().__init__()
        self.inner, self.branch = inner, branch

    def forward(self, x: Tensor, *more: Any, **named: Any) -> Tensor:
        """(…, D) → (…, D)."""
        added: Tensor = self.inner(x, *more, **named) + self.branch(x)
        return added


class OnResidual(nn.Module):
    """The end of a half of BERT's block, norm(dense(h) + x): a branch of x joins before the norm."""

    def __init__(self, inner: nn.Module, branch: nn.Module) -> None:
        super().__init__()
        self.inner, self.branch = inner, branch

    def forward(self, states: Tensor, before: Tensor) -> Tensor:
        """h (…, i) and x (…, D) → (…, D)."""
        out: Tensor = self.inner(states, before + self.branch(before))
        return out


class BesideMlp(nn.Module):
    """A pre-norm block whose perceptron has a branch beside it, of the residual x' before the norm.

    x' = x + attention(norm(x)); x' + mlp(norm(x')) + branch(x').
    """

    def __init__(self, inner: nn.Module, branch: nn.Module) -> None:
        super().__init__()
        self.inner, self.branch = inner, branch

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        block: Any = self.inner
        if isinstance(block, ClipBlock):
            x = x + block.self_attn(block.layer_norm1(x), *more)
            return x + block.mlp(block.layer_norm2(x)) + self.branch(x)  # type: ignore[no-any-return]
        x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x), *more)))
        mixed: Tensor = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        return mixed + self.branch(x)  # type: ignore[no-any-return]


Place = Literal["mlp", "attention", "sequential"]
"""Of a branch: beside the perceptron, of the residual; beside attention, of its input; or behind the layers proj and
fc2, before the residual is added."""


def insert(
    backbone: nn.Module,
    part: Strategy,
    place: Place,
    make: Callable[[int], nn.Module],
    blocks: Sequence[int] | None = None,
) -> list[nn.Module]:
    """Put a branch into every block; return the branches, in order.

    Args:
        backbone: of a model.
        part: that asks, for messages.
        place: where.
        make: width D → a branch, (…, D) to (…, D).
        blocks: which; None for all.

    Raises:
        IncompatibleError: it is fixed, has no such places or blocks, or another part has put something there.
    """
    network = open_to(backbone, part)
    places = list(_places(network, place))
    if not places:
        has = "has been changed by another part" if sites_of(network) else "is none"
        raise IncompatibleError(
            f"{part} puts adapters ({place}) into the blocks of {WHERE}; a {type(network).__name__} {has}."
        )
    check_blocks(blocks, [number for number, *_ in places], part)
    branches = []
    for number, path, kind, width in places:
        if blocks is None or number in blocks:
            branch = make(width)
            branches.append(branch)
            network.set_submodule(path, kind(network.get_submodule(path), branch))
    return branches


class AddTo(nn.Module):
    """x + branch(x)"""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        added: Tensor = x + self.branch(x)
        return added


def _places(network: nn.Module, place: Place) -> Iterator[tuple[int, str, Callable[..., nn.Module], int]]:
    """Yield the number of a block, the path of what is replaced, what stands in its place, and the width D."""
    if place == "sequential":
        for site in sites_of(network):
            layer = network.get_submodule(site.path)
            if site.targets in (("proj",), ("fc2",)) and isinstance(layer, nn.Linear):
                yield site.block, site.path, behind, layer.out_features
        return
    for path, module in network.named_modules():
        if not path.rpartition(".")[2].isdigit():
            continue
        number, block = int(path.rpartition(".")[2]), cast(Any, module)
        kind: type[object] = type(module)
        timm = kind.__name__ == "Block" and kind.__module__ == "timm.models.vision_transformer"
        if timm or kind is ClipBlock:
            width = (block.norm1 if timm else block.layer_norm1).normalized_shape[0]
            attention = "attn" if timm else "self_attn"
            yield number, *((path, BesideMlp) if place == "mlp" else (f"{path}.{attention}", Beside)), width
        elif _is_bert(block):
            end = "output" if place == "mlp" else "attention.output"
            yield number, f"{path}.{end}", OnResidual, block.output.dense.out_features
        elif hasattr(block, "ffn") and hasattr(block, "output_layer_norm") and place == "mlp":  # DistilBERT
            yield number, f"{path}.ffn", Beside, block.ffn.lin2.out_features


def behind(layer: nn.Module, branch: nn.Module) -> Behind:
    """y + branch(y) of what a layer gives."""
    return Behind(layer, AddTo(branch))


def _is_bert(block: nn.Module) -> bool:
    ends = getattr(block, "output", None), getattr(getattr(block, "attention", None), "output", None)
    return all(hasattr(end, "dense") and hasattr(end, "LayerNorm") for end in ends)
