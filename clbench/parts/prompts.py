"""Prompts in a frozen vision transformer of timm: the one place where they enter it.

A prompt is some rows that are learned while the transformer stays as it is. They enter in three ways, for each image
its own, and a method may mix them:

- as a *prefix* of a block: rows that its attention meets among the keys and the values, after their projection. No
  query is formed for them, so a block keeps its N tokens.
- as *tokens* of a block: they join the sequence before the block and are dropped after it.
- as *tokens at the start*: they join the embedded patches and stay to the last block.

Shapes: B images of a batch, N tokens, D their width, h heads, m rows of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import IncompatibleError
from clbench.machine.caching import once
from clbench.strategy import Strategy
from clbench.types import Experience

Readout = Literal["token", "prompts"]
"""What the head sees: what the transformer itself gives, the class token for most; or the mean of the last states of
the tokens that joined at the start."""


@dataclass(frozen=True)
class Prompts:
    """What enters a transformer, for each image its own rows.

    Attributes:
        prefixes: block → keys (B, m, D) and values (B, m, D).
        projected: whether they are keys and values as they are; if not, the block's projection makes them so, of rows
            beside its normalised tokens.
        tokens: block → (B, m, D).
        start: (B, m, D), from the first block to the last.
        placed: whether those at the start get the class token's position embedding, where it has one.
        note: (B, k) columns that the features carry for the head and for losses, after the feature itself.
    """

    prefixes: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    projected: bool = True
    tokens: Mapping[int, Tensor] = field(default_factory=dict)
    start: Tensor | None = None
    placed: bool = False
    note: Tensor | None = None


class Prompter(nn.Module):
    """Holds what is learned, and says which prompts an image gets.

    Attributes:
        passes: forward passes that a query costs, for the budget; 0 where none is asked.
        readout: what the head sees.
    """

    passes = 1
    readout: Readout = "token"

    def query(self, vit: Any, tokens: Tensor) -> Tensor:
        """(B, D) what the transformer says of embedded images (B, N, D) without prompts, the final norm included.

        It depends on nothing that is learned: evaluation asks it `once` for each test image.
        """
        features: Tensor = vit.forward_head(vit.norm(vit.blocks(tokens)), pre_logits=True)
        return features

    def forward(self, query: Tensor) -> Prompts:
        """Return the prompts of images with these queries (B, D), which are float32 in any precision below it.

        In train mode those for training, which may know the present experience; in eval mode those for prediction.
        """
        raise NotImplementedError


class Prompted(nn.Module):
    """A frozen transformer with prompts: images (B, …) → features (B, D + k), the last k columns the prompts' note.

    The transformer is in eval mode whatever mode this is in.
    """

    def __init__(self, inner: nn.Module, prompter: Prompter) -> None:
        super().__init__()
        self.inner = inner.eval().requires_grad_(False)
        self.prompter = prompter

    def train(self, mode: bool = True) -> Prompted:
        """Prompts take the mode, the transformer stays in eval mode."""
        super().train(mode)
        self.inner.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) → (B, D + k)."""
        with torch.no_grad():
            tokens = embed(self.inner, x)  # (B, N, D)

            def ask(rows: Tensor) -> Tensor:
                return self.prompter.query(self.inner, tokens if rows is x else embed(self.inner, rows))

            query = once("query", self.inner, x, ask)
        with torch.autocast(x.device.type, enabled=False):  # so that a choice is the same wherever it is made
            prompts = self.prompter(query if query.dtype == torch.float64 else query.float())
        states = through_blocks(self.inner, tokens, prompts)
        feature = read_out(self.inner, states, prompts, self.prompter.readout)
        return feature if prompts.note is None else torch.cat([feature, prompts.note], dim=1)


class FeatureHead(nn.Module):
    """A head that sees the first `size` columns of the features; those behind are for others."""

    def __init__(self, inner: nn.Module, size: int) -> None:
        super().__init__()
        self.inner, self.size = inner, size

    @property
    def weight(self) -> Tensor:
        """(C, D) of the head inside."""
        weight: Tensor = self.inner.weight  # type: ignore[assignment]
        return weight

    def forward(self, features: Tensor) -> Tensor:
        """(B, D + k) → (B, C)."""
        logits: Tensor = self.inner(features[:, : self.size])
        return logits


class Prompting(Strategy):
    """Prompts and a head are trained, in a timm vision transformer that stays as it is to the bit.

    Attributes:
        prompter: what is learned beside the head.
        size: D, the columns of `out.features` that are the feature; those behind are the prompts' note.
    """

    architecture = "vit"
    prompter: Prompter

    def make_prompter(self, vit: Any) -> Prompter:
        """Return what is to be learned in this transformer; drawn from `self.run.rng`."""
        raise NotImplementedError

    def make_head(self, head: nn.Module) -> nn.Module:
        """Return the head to use in place of the model's."""
        return FeatureHead(head, self.size)

    def wrap(self, model: nn.Module) -> nn.Module:
        vit = transformer_of(model, self)
        self.size = int(vit.num_features)
        self.prompter = self.make_prompter(vit).to(self.run.device)
        self.prompted = Prompted(vit, self.prompter)
        model.backbone = self.prompted
        model.head = self.make_head(model.head)  # type: ignore[arg-type]
        model.passes = 1 + self.prompter.passes  # type: ignore[assignment]
        return model

    def frozen(self) -> Mapping[str, Tensor]:
        return self.prompted.inner.state_dict()


class SlicedPrompter(Prompter):
    """A slice of prompts for each experience, each a parameter of its own, so that no optimizer moves the others.

    Attributes:
        current: the experience that is being learned; 0 before the first.
    """

    current = 0

    def slices(self) -> Mapping[str, Sequence[Tensor]]:
        """Return the slices of all experiences, by what they are."""
        raise NotImplementedError


class SlicedPrompting(Prompting):
    """The present experience's slice of the prompts is trained; the others stay as they are."""

    needs = frozenset({"boundaries"})
    state = ("current",)
    prompter: SlicedPrompter

    @property
    def current(self) -> int:
        """The experience that is being learned."""
        return self.prompter.current

    @current.setter
    def current(self, index: int) -> None:
        self.prompter.current = index

    def begin_experience(self, exp: Experience) -> None:
        self.current = exp.index

    def frozen(self) -> Mapping[str, Tensor]:
        """Return the transformer, and the slices of other experiences."""
        others = {
            f"{kind} {t}": values.detach()
            for kind, slices in self.prompter.slices().items()
            for t, values in enumerate(slices)
            if t != self.current
        }
        return {**super().frozen(), **others}


# --- the transformer ---


def transformer_of(model: nn.Module, part: Strategy) -> Any:
    """Return the vision transformer that is the model's backbone.

    Raises:
        IncompatibleError: it is none of timm's, or has blocks that prompts cannot enter.
    """
    from clbench.machine.torchvision import torchvision

    torchvision()
    from timm.layers.attention import Attention
    from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer

    vit: Any = model.backbone
    who = f"{part} puts prompts into the blocks of a timm VisionTransformer, such as model=timm:vit_tiny_patch16_224"
    if isinstance(vit, Prompted):
        raise IncompatibleError(
            f"{who}; another part of the chain has done so already. Leave one of them out."
        )
    ours = isinstance(vit, VisionTransformer)
    if not ours or type(vit).forward_features is not VisionTransformer.forward_features:
        raise IncompatibleError(f"{who}; the backbone is a {type(vit).__module__}.{type(vit).__qualname__}.")
    for block in vit.blocks:
        attention = getattr(block, "attn", None)
        if type(block) not in (Block, ResPostBlock) or type(attention) is not Attention:
            inside = "" if attention is None else f" with {type(attention).__name__}"
            raise IncompatibleError(
                f"{who}, that are Block or ResPostBlock with Attention; this one has {type(block).__name__}{inside}."
            )
    return vit


def check_layers(layers: Sequence[int], vit: Any, part: Strategy) -> None:
    """Refuse blocks that the transformer does not have.

    Raises:
        IncompatibleError: names them, and those there are.
    """
    depth = len(vit.blocks)
    missing = [layer for layer in layers if not 0 <= layer < depth]
    if missing:
        raise IncompatibleError(
            f"{part} puts prompts into the blocks {', '.join(map(str, layers))}; this transformer has the blocks 0 to "
            f"{depth - 1}. Set its layers to some of these, or take a deeper model."
        )


def embed(vit: Any, x: Tensor) -> Tensor:
    """(B, …) images → (B, N, D) the tokens that the first block sees."""
    tokens: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x))))
    return tokens


def through_blocks(vit: Any, tokens: Tensor, prompts: Prompts) -> Tensor:
    """(B, N, D) embedded images → (B, m + N, D) after the last block, m tokens of the start first."""
    x = tokens
    if prompts.start is not None:
        start = prompts.start
        if prompts.placed and vit.has_class_token and not vit.no_embed_class and vit.pos_embed is not None:
            start = start + vit.pos_embed[:, :1]
        x = torch.cat([start.to(tokens.dtype), tokens], dim=1)
    n = x.shape[1]
    for layer, block in enumerate(vit.blocks):
        if layer in prompts.tokens:
            x = torch.cat([x, prompts.tokens[layer].to(x.dtype)], dim=1)
        if layer in prompts.prefixes:
            keys, values = prompts.prefixes[layer]
            prefix = (keys, values) if prompts.projected else project_prefix(block.attn, keys, values)
            x = prefixed(block, x, *prefix)
        else:
            x = block(x)
        x = x[:, :n]
    return x


def read_out(vit: Any, states: Tensor, prompts: Prompts, readout: Readout) -> Tensor:
    """(B, m + N, D) last states → (B, D) what the head sees."""
    m = 0 if prompts.start is None else prompts.start.shape[1]
    states = vit.norm(states)
    if readout == "prompts":
        mean: Tensor = vit.fc_norm(states[:, :m].mean(dim=1))
        return mean
    features: Tensor = vit.forward_head(states[:, m:], pre_logits=True)
    return features


def prefixed(block: Any, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(B, N, D) → (B, N, D): a block whose attention meets keys and values (B, m, D) beside those of its tokens."""
    from timm.models.vision_transformer import ResPostBlock

    if isinstance(block, ResPostBlock):
        x = x + block.drop_path1(block.norm1(attend(block.attn, x, keys, values)))
        return x + block.drop_path2(block.norm2(block.mlp(x)))  # type: ignore[no-any-return]
    x = x + block.drop_path1(block.ls1(attend(block.attn, block.norm1(x), keys, values)))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))  # type: ignore[no-any-return]


def attend(attention: Any, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(B, N, D) → (B, N, D): timm's attention, with a prefix to keys and to values after their projection.

    Without dropout: the network is in eval mode.

    Args:
        attention: of timm.
        x: (B, N, D) tokens.
        keys, values: (B, m, D) the prefix; where the network normalises its keys, these are taken as they are.
    """
    images, n, _ = x.shape
    heads, size = attention.num_heads, attention.head_dim
    qkv = attention.qkv(x).reshape(images, n, 3, heads, size).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)  # (B, h, N, D / h) each
    q, k = attention.q_norm(q), attention.k_norm(k)
    k = torch.cat([k, by_head(keys, heads).to(k.dtype)], dim=2)
    v = torch.cat([v, by_head(values, heads).to(v.dtype)], dim=2)
    if attention.fused_attn:
        mixed = F.scaled_dot_product_attention(q, k, v, scale=attention.scale)
    else:
        mixed = (attention.scale * q @ k.transpose(2, 3)).softmax(dim=3) @ v
    out = attention.norm(mixed.transpose(1, 2).reshape(images, n, heads * size))
    if attention.gate is not None:
        out = out * attention.gate(x).sigmoid()
    projected: Tensor = attention.proj(out)
    return projected


def project_prefix(attention: Any, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B, m, D) → keys and values (B, m, D) as timm's attention makes them of tokens: W_k r + b_k, W_v r + b_v.

    Keys are normalised where the network normalises those of its tokens.
    """
    size = attention.attn_dim
    weight, bias = attention.qkv.weight, attention.qkv.bias

    def project(rows: Tensor, at: slice) -> Tensor:
        return F.linear(rows, weight[at], None if bias is None else bias[at])

    keys, values = project(keys, slice(size, 2 * size)), project(values, slice(2 * size, None))
    return attention.k_norm(by_head(keys, attention.num_heads)).transpose(1, 2).flatten(2), values


def by_head(rows: Tensor, heads: int) -> Tensor:
    """(B, m, D) → (B, h, m, D / h)."""
    split: Tensor = rows.unflatten(2, (heads, -1))
    return split.transpose(1, 2)


# --- choosing ---


def cosines(query: Tensor, keys: Tensor) -> Tensor:
    """(B, M) cos(q_b, k_m) of queries (B, D) and keys (M, D)."""
    return F.normalize(query, dim=1) @ F.normalize(keys, dim=1).T


def halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(…, m, D) rows of a prompt → the first half, its keys, and the second half, its values."""
    keys, values = rows.chunk(2, dim=-2)
    return keys, values


def as_prefixes(*prompts: tuple[int, Tensor]) -> dict[int, tuple[Tensor, Tensor]]:
    """Make keys and values of prompts, by block: rows (B, m, D) each, half of them keys and half values.

    A block with several prompts meets the keys of all, and then the values of all.
    """
    prefixes: dict[int, tuple[Tensor, Tensor]] = {}
    for layer, rows in prompts:
        prefix = halves(rows)
        if layer in prefixes:
            keys, values = zip(prefixes[layer], prefix, strict=True)
            prefix = torch.cat(keys, dim=1), torch.cat(values, dim=1)
        prefixes[layer] = prefix
    return prefixes
