"""Transformers that stay as they are, gone through block by block: those of timm, and encoders of texts.

What enters between or inside the blocks, prompts for one, asks `transformer_of` for the transformer of a model, and
need not know which kind it is.

Shapes: B examples of a batch, N tokens, D their width, h heads, m rows of a prefix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import IncompatibleError
from clbench.models.encoders import BUCKET, NONE
from clbench.models.texts import Pretrained
from clbench.strategy import Strategy

Readout = Literal["token", "prompts"]
"""What the head sees: what the transformer itself gives, the class token for most; or the mean of the last states of
the tokens that joined at the start."""
Prefix = tuple[Tensor, Tensor]
"""Keys and values (B, m, D) that attention meets beside those of the tokens."""
FEW = 8
"""Texts of similar length that go through together on a CPU: in batches of 32, less than half of what is computed would
be texts otherwise, and a step takes 1.7 times as long."""
JOINED = -1
"""The place of a token that has joined."""


@dataclass(frozen=True)
class Tokens:
    """What a block sees.

    Attributes:
        x: (B, N, D) states.
        there: (B, N) which of them are tokens, the others fill up; None if all are.
        places: (N,) where in the text they stand, or `JOINED`; None where the network does not ask.
    """

    x: Tensor
    there: Tensor | None = None
    places: Tensor | None = None

    def now(self, x: Tensor) -> Tokens:
        """Return these tokens with other states (B, N, D)."""
        return Tokens(x, self.there, self.places)

    def joined(self, rows: Tensor, *, first: bool) -> Tokens:
        """Return them with rows (B, m, D) before or behind them, which are tokens and have no place."""

        def put(rows: Tensor, tokens: Tensor) -> Tensor:
            return torch.cat([rows, tokens] if first else [tokens, rows], dim=int(tokens.ndim > 1))

        there, places = self.there, self.places
        if there is not None:
            there = put(there.new_ones(rows.shape[:2]), there)
        if places is not None:
            places = put(places.new_full(rows.shape[1:2], JOINED), places)
        return Tokens(put(rows.to(self.x.dtype), self.x), there, places)


class Blocks(ABC):
    """A transformer, gone through block by block.

    Attributes:
        network: inputs (B, …) → features (B, D); it is in eval mode, and stays as it is.
        size: D. depth: how many blocks there are.
    """

    network: nn.Module
    size: int
    depth: int

    def ask(self, x: Tensor) -> Tensor:
        """(B, …) → (B, D) what the network itself says."""
        features: Tensor = self.network(x)
        return features

    def by_portion(self, x: Tensor, compute: Callable[[Tensor, Tensor | slice], Tensor]) -> Tensor:
        """(B, …) → (B, …) what is computed of inputs (b, …) and of where they stand in the batch."""
        return compute(x, slice(None))

    @abstractmethod
    def embed(self, x: Tensor) -> Tokens:
        """Return what the first block sees of inputs (B, …)."""

    @abstractmethod
    def placed(self, rows: Tensor) -> Tensor:
        """(B, m, D) rows that join at the start → the same as if they stood where the first token does."""

    @abstractmethod
    def block(self, layer: int, tokens: Tokens, prefix: Prefix | None = None) -> Tensor:
        """(B, N, D) the states after a block, whose attention meets a prefix beside its tokens."""

    @abstractmethod
    def project(self, layer: int, keys: Tensor, values: Tensor) -> Prefix:
        """Rows (B, m, D) → keys and values (B, m, D) as a block makes them of what its attention sees."""

    @abstractmethod
    def first(self, tokens: Tokens) -> Tensor:
        """(B, D) of states between blocks the class token's, or the mean of tokens where there is none."""

    @abstractmethod
    def read(self, tokens: Tokens, start: int, readout: Readout) -> Tensor:
        """(B, D) what the head sees of the states after the last block, whose first `start` tokens have joined."""


# --- of timm ---


class TimmBlocks(Blocks):
    """A `VisionTransformer` of timm."""

    def __init__(self, network: Any) -> None:
        self.network: Any = network
        self.size, self.depth = int(network.num_features), len(network.blocks)

    def embed(self, x: Tensor) -> Tokens:
        vit = self.network
        return Tokens(vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x)))))

    def placed(self, rows: Tensor) -> Tensor:
        vit = self.network
        if vit.has_class_token and not vit.no_embed_class and vit.pos_embed is not None:
            rows = rows + vit.pos_embed[:, :1]
        return rows

    def block(self, layer: int, tokens: Tokens, prefix: Prefix | None = None) -> Tensor:
        block = self.network.blocks[layer]
        states: Tensor = block(tokens.x) if prefix is None else prefixed(block, tokens.x, *prefix)
        return states

    def project(self, layer: int, keys: Tensor, values: Tensor) -> Prefix:
        return project_prefix(self.network.blocks[layer].attn, keys, values)

    def first(self, tokens: Tokens) -> Tensor:
        vit, x = self.network, tokens.x
        return x[:, 0] if vit.has_class_token else x[:, vit.num_prefix_tokens :].mean(dim=1)

    def read(self, tokens: Tokens, start: int, readout: Readout) -> Tensor:
        vit = self.network
        states = vit.norm(tokens.x)
        if readout == "prompts":
            mean: Tensor = vit.fc_norm(states[:, :start].mean(dim=1))
            return mean
        features: Tensor = vit.forward_head(states[:, start:], pre_logits=True)
        return features


def prefixed(block: Any, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(B, N, D) → (B, N, D): a block of timm, whose attention meets keys and values (B, m, D) beside its tokens'."""
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


def project_prefix(attention: Any, keys: Tensor, values: Tensor) -> Prefix:
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


# --- of transformers ---


@dataclass(frozen=True)
class Apart:
    """A block of an encoder of texts, taken apart.

    Attributes:
        heads: h.
        begin: what the block is given (B, N, D) → queries, keys and values (B, N, D) of its attention.
        project: rows (B, m, D) for keys and for values → what attention makes of them (B, m, D).
        finish: what attention has mixed (B, N, D), and what the block is given (B, N, D) → what it gives (B, N, D).
    """

    heads: int
    begin: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    project: Callable[[Tensor, Tensor], Prefix]
    finish: Callable[[Tensor, Tensor], Tensor]


def taken_apart(block: Any) -> Apart | None:
    """Take a block apart; None if it is built as none of BERT's, RoBERTa's, DistilBERT's and ModernBERT's."""
    attention: Any = getattr(block, "attention", None)
    inside: Any = getattr(attention, "self", None)
    if all(hasattr(inside, name) for name in ("query", "key", "value", "num_attention_heads")):
        q, k, v = inside.query, inside.key, inside.value

        def bert(mixed: Tensor, x: Tensor) -> Tensor:
            attended = attention.output(mixed, x)
            states: Tensor = block.output(block.intermediate(attended), attended)
            return states

        return Apart(
            inside.num_attention_heads, lambda x: (q(x), k(x), v(x)), lambda a, b: (k(a), v(b)), bert
        )
    if all(hasattr(attention, name) for name in ("q_lin", "k_lin", "v_lin", "out_lin", "n_heads")):
        q, k, v = attention.q_lin, attention.k_lin, attention.v_lin

        def distilbert(mixed: Tensor, x: Tensor) -> Tensor:
            attended = block.sa_layer_norm(attention.out_lin(mixed) + x)
            states: Tensor = block.output_layer_norm(block.ffn(attended) + attended)
            return states

        return Apart(attention.n_heads, lambda x: (q(x), k(x), v(x)), lambda a, b: (k(a), v(b)), distilbert)
    attention = getattr(block, "attn", None)
    if hasattr(attention, "Wqkv") and all(hasattr(block, name) for name in ("attn_norm", "mlp_norm", "mlp")):

        def split(rows: Tensor) -> Any:
            return attention.Wqkv(rows).chunk(3, dim=2)

        def modernbert(mixed: Tensor, x: Tensor) -> Tensor:
            x = x + attention.Wo(mixed)
            states: Tensor = x + block.mlp(block.mlp_norm(x))
            return states

        heads = attention.config.num_attention_heads
        return Apart(
            heads, lambda x: split(block.attn_norm(x)), lambda a, b: (split(a)[1], split(b)[2]), modernbert
        )
    return None


class TextBlocks(Blocks):
    """An encoder of texts by transformers whose blocks are those of BERT, RoBERTa, DistilBERT or ModernBERT.

    Rows that join have no position embedding, as in P-tuning v2, and texts keep theirs: the first token of a text
    stands at the first position whatever joins. They are attended from everywhere; what fills up is from nowhere.
    Where positions turn queries and keys (ModernBERT), those of rows that join are not turned, so that they stand at
    the first position, too; and where attention looks no farther than a window, it meets them nevertheless.
    """

    def __init__(self, network: Pretrained) -> None:
        self.network: Pretrained = network
        inner: Any = network.inner
        self.size, self.depth = int(inner.config.hidden_size), len(self.blocks)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Those of the encoder; none where they are not found."""
        inner: Any = self.network.inner
        owner = next(
            (getattr(inner, name) for name in ("encoder", "transformer") if hasattr(inner, name)), inner
        )
        blocks: Sequence[nn.Module] = getattr(owner, "layer", getattr(owner, "layers", ()))
        return blocks

    @property
    def turning(self) -> Any:
        """What gives the angles of positions, where they turn queries and keys; else None."""
        return getattr(self.network.inner, "rotary_emb", None)

    def by_portion(self, x: Tensor, compute: Callable[[Tensor, Tensor | slice], Tensor]) -> Tensor:
        """Texts of similar length go through together."""
        lengths = (x != NONE).sum(1)
        order = lengths.argsort(stable=True)
        several = FEW if x.device.type == "cpu" else BUCKET
        parts = [compute(x[rows, : max(int(lengths[rows[-1]]), 1)], rows) for rows in order.split(several)]
        return torch.cat(parts)[order.argsort()]

    def embed(self, x: Tensor) -> Tokens:
        there = x != NONE
        inner: Any = self.network.inner
        states = inner.embeddings(input_ids=x.masked_fill(~there, self.network.pad))
        places = None if self.turning is None else torch.arange(x.shape[1], device=x.device)
        # Where nothing fills up, there is no mask: as in transformers, and kernels without one give other bits.
        return Tokens(states, None if bool(there.all()) else there, places)

    def placed(self, rows: Tensor) -> Tensor:
        """Embed rows as the first token is: with its position and segment, and normalised."""
        embeddings: Any = self.network.inner.embeddings
        if not hasattr(embeddings, "position_embeddings"):
            return rows
        padding = embeddings.position_embeddings.padding_idx
        at = 0 if padding is None else padding + 1  # RoBERTa's begin behind the padding's
        places = torch.full(rows.shape[:2], at, device=rows.device)
        states: Tensor = embeddings(input_ids=None, inputs_embeds=rows, position_ids=places)
        return states

    def block(self, layer: int, tokens: Tokens, prefix: Prefix | None = None) -> Tensor:
        if prefix is not None and prefix[0].shape[1]:
            return self.mixed(layer, tokens, prefix)
        met = self._met(layer, tokens)
        if met is not None:
            met = met.expand(-1, -1, tokens.x.shape[1], -1)
        angles = {} if self.turning is None else {"position_embeddings": self._angles(layer, tokens)}
        states = self.blocks[layer](tokens.x, attention_mask=self._mask(met, tokens.x), **angles)
        given: Tensor = states[0] if isinstance(states, tuple) else states  # a tuple before transformers 5
        return given

    def mixed(self, layer: int, tokens: Tokens, prefix: Prefix) -> Tensor:
        """(B, N, D) the states after a block that is taken apart, whose attention meets a prefix."""
        apart = taken_apart(self.blocks[layer])
        assert apart is not None
        q, k, v = (by_head(made, apart.heads) for made in apart.begin(tokens.x))
        if self.turning is not None:
            cos, sin = (angle.unsqueeze(1) for angle in self._angles(layer, tokens))
            q, k = turned(q, cos, sin), turned(k, cos, sin)
        keys, values = (by_head(rows, apart.heads) for rows in prefix)
        k, v = torch.cat([k, keys.to(k.dtype)], dim=2), torch.cat([v, values.to(v.dtype)], dim=2)
        met = self._met(layer, tokens)
        if met is not None:
            met = torch.cat([met, met.new_ones(*met.shape[:3], keys.shape[2])], dim=3)
        mask = self._mask(met, q)
        if self._fused:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
            mixed = (scores if mask is None else scores + mask).softmax(dim=3) @ v
        return apart.finish(mixed.transpose(1, 2).flatten(2), tokens.x)

    def _angles(self, layer: int, tokens: Tokens) -> Any:
        """Cosines and sines (1, N, D / h) by which queries and keys are turned."""
        assert tokens.places is not None
        block: Any = self.blocks[layer]
        return self.turning(tokens.x, tokens.places.clamp(min=0).unsqueeze(0), block.attention_type)

    def _met(self, layer: int, tokens: Tokens) -> Tensor | None:
        """(B or 1, 1, N or 1, N) which tokens are met, from which; None if all are."""
        met = None if tokens.there is None else tokens.there[:, None, None]
        if getattr(self.blocks[layer], "attention_type", "") != "sliding_attention":
            return met
        inner: Any = self.network.inner
        places, window = tokens.places, int(inner.config.sliding_window)
        assert places is not None
        if met is None and len(places) < window:  # as in transformers
            return None
        joined = places == JOINED
        near = (places[:, None] - places).abs() <= window
        near = (near | joined | joined[:, None])[None, None]
        return near if met is None else met & near

    @property
    def _fused(self) -> bool:
        inner: Any = self.network.inner
        return bool(inner.config._attn_implementation == "sdpa")

    def _mask(self, met: Tensor | None, like: Tensor) -> Tensor | None:
        """Return what the fused kernel takes, which is the same, or what is added to the scores of the other."""
        if met is None or self._fused:
            return met
        return torch.zeros_like(met, dtype=like.dtype).masked_fill(~met, torch.finfo(like.dtype).min)

    def project(self, layer: int, keys: Tensor, values: Tensor) -> Prefix:
        apart = taken_apart(self.blocks[layer])
        assert apart is not None
        return apart.project(keys, values)

    def first(self, tokens: Tokens) -> Tensor:
        return self.network.pooled(tokens.x, tokens.there)

    def read(self, tokens: Tokens, start: int, readout: Readout) -> Tensor:
        inner: Any = self.network.inner
        states = inner.final_norm(tokens.x) if hasattr(inner, "final_norm") else tokens.x
        there = None if tokens.there is None else tokens.there[:, start:]
        if readout == "prompts":
            features = states[:, :start].mean(dim=1)
        else:
            features = self.network.pooled(states[:, start:], there)
        return F.normalize(features, dim=1) if self.network.unit else features


def turned(rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, h, N, D / h) queries or keys, their halves turned by angles (1, 1, N, D / h)."""
    first, second = rows.chunk(2, dim=3)
    return (rows * cos + torch.cat([-second, first], dim=3) * sin).to(rows.dtype)


# --- of a model ---


def transformer_of(model: nn.Module, who: str) -> Blocks:
    """Return the transformer that is a model's backbone.

    Args:
        model: with a backbone.
        who: asks for it, and what for; messages begin with it.

    Raises:
        IncompatibleError: it is none that is known, or has blocks that are not.
    """
    backbone: Any = model.backbone
    return _of_text(backbone, who) if isinstance(backbone, Pretrained) else _of_timm(backbone, who)


def check_layers(layers: Sequence[int], blocks: Blocks, part: Strategy) -> None:
    """Refuse blocks that the transformer does not have.

    Raises:
        IncompatibleError: names them, and those there are.
    """
    missing = [layer for layer in layers if not 0 <= layer < blocks.depth]
    if missing:
        raise IncompatibleError(
            f"{part} puts prompts into the blocks {', '.join(map(str, layers))}; this transformer has the blocks 0 to "
            f"{blocks.depth - 1}. Set its layers to some of these, or take a deeper model."
        )


def _of_timm(vit: Any, who: str) -> Blocks:
    from clbench.machine.torchvision import torchvision

    torchvision()
    from timm.layers.attention import Attention
    from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer

    kind = f"{who} of a timm VisionTransformer, such as model=timm:vit_tiny_patch16_224"
    ours = isinstance(vit, VisionTransformer)
    if not ours or type(vit).forward_features is not VisionTransformer.forward_features:
        raise IncompatibleError(
            f"{kind}, or of an encoder of texts like BERT, such as model=minilm; the backbone is a "
            f"{type(vit).__module__}.{type(vit).__qualname__}."
        )
    for block in vit.blocks:
        attention = getattr(block, "attn", None)
        if type(block) not in (Block, ResPostBlock) or type(attention) is not Attention:
            inside = "" if attention is None else f" with {type(attention).__name__}"
            raise IncompatibleError(
                f"{kind}, that are Block or ResPostBlock with Attention; this one has {type(block).__name__}{inside}."
            )
    return TimmBlocks(vit)


def _of_text(encoder: Pretrained, who: str) -> Blocks:
    """What is known of blocks is measured: taken apart and put together, they must say what the encoder says."""
    name = type(encoder.inner).__name__
    kind = f"{who} of encoders of texts that are built as BERT, RoBERTa, DistilBERT or ModernBERT, such as model=minilm"
    found = TextBlocks(encoder)
    others = sorted({type(block).__name__ for block in found.blocks if taken_apart(block) is None})
    if encoder.below is not None:
        raise IncompatibleError(
            f"{kind}; some blocks of this one are tuned. Leave out model.tune, or take tune=0."
        )
    if not found.depth or others:
        blocks = f"blocks of another kind ({', '.join(others)})" if others else "its blocks elsewhere"
        raise IncompatibleError(f"{kind}; {name} has {blocks}.")
    if not _says_the_same(found):
        raise IncompatibleError(
            f"{kind}; gone through block by block, {name} gives other features than by itself, so it does more than "
            "its blocks tell, such as embeddings of another width or attention by relative positions."
        )
    return found


@torch.no_grad()
def _says_the_same(blocks: TextBlocks) -> bool:
    """Whether blocks that are taken apart give the features that the encoder gives, on two short rows."""
    encoder = blocks.network
    device, training = next(encoder.parameters()).device, encoder.training
    encoder.eval()
    x = torch.tensor([[3, 2, 1, 0], [1, 2, NONE, NONE]], device=device)
    empty = torch.zeros(2, 0, blocks.size, device=device)
    try:
        tokens = blocks.embed(x)
        for layer in range(blocks.depth):
            tokens = tokens.now(blocks.mixed(layer, tokens, (empty, empty)))
        found = blocks.read(tokens, 0, "token")
        return torch.allclose(found, encoder.encode(x), rtol=1e-3, atol=1e-4)
    except (
        AttributeError,
        RuntimeError,
        TypeError,
    ):  # shapes that do not fit, embeddings that take other names
        return False
    finally:
        encoder.train(training)
