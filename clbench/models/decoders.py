"""Language models: what says of every token of a block what comes next.

Shapes: B blocks of a batch, L tokens of a block, D features, H heads, V tokens of the vocabulary.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import ConfigError, DataError, IncompatibleError
from clbench.files import read_json
from clbench.models.base import Classifier
from clbench.models.folders import read_by_transformers
from clbench.models.own import text_shape
from clbench.ranges import Count, Fraction
from clbench.registry import register_model

if TYPE_CHECKING:
    from clbench.types import Benchmark


class LanguageModel(Classifier):
    """A backbone that gives a state for each token, (B, L) → (B, L, D), and a head that scores the next one.

    Args:
        backbone: sees no token that comes later. feature_size: D. num_classes: V.
        head: (…, D) → (…, V), or more outputs than there are tokens.
    """

    language = True

    def __init__(self, backbone: nn.Module, feature_size: int, num_classes: int, head: nn.Module) -> None:
        super().__init__(backbone, feature_size, num_classes)
        self.head = head


class Attention(nn.Module):
    """Causal self-attention with rotary positions (Su et al., arXiv:2104.09864).

    Attributes:
        past: keys and values (B, H, t, D / H) of the tokens so far, of which there is one more at each pass, while
            something is written (`Decoder.continuing`).
    """

    cos: Tensor  # (T, D / H)
    sin: Tensor
    past: tuple[Tensor, Tensor] | tuple[()] | None = None

    def __init__(self, width: int, heads: int, context: int, base: float) -> None:
        super().__init__()
        self.heads, self.base = heads, base
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        half = width // heads // 2
        turns = base ** (
            -torch.arange(half, dtype=torch.float64) / half
        )  # radians from one token to the next
        angles = torch.outer(torch.arange(context, dtype=torch.float64), turns).repeat(1, 2)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) → (B, L, D)."""
        q, k, v = (
            self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each (B, H, L, D / H)
        if self.past is None:
            found = F.scaled_dot_product_attention(self._turned(q), self._turned(k), v, is_causal=True)
        else:
            found = self._continued(q, k, v)
        out: Tensor = self.proj(found.transpose(1, 2).flatten(2))
        return out

    def _continued(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The attention of one more token to those so far and itself."""
        if self.past:
            start = self.past[0].shape[2]
            k, v = torch.cat([self.past[0], self._turned(k, start)], 2), torch.cat([self.past[1], v], 2)
        else:
            start, k = 0, self._turned(k)
        self.past = k, v
        return F.scaled_dot_product_attention(self._turned(q, start), k, v)

    def _turned(self, x: Tensor, start: int = 0) -> Tensor:
        """Rotate each pair (i, i + half) of a head's dimensions by the angle of its place, from `start` on."""
        places = slice(start, start + x.shape[2])
        a, b = x.chunk(2, dim=3)
        turned = x * self.cos[places] + torch.cat([-b, a], dim=3) * self.sin[places]
        return turned.to(x.dtype)


class Block(nn.Module):
    """Attention and an MLP, each behind a normalisation and added to what it is given."""

    def __init__(self, width: int, heads: int, context: int, base: float, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads, context, base)
        self.norm2, self.fc1, self.act = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU()
        self.fc2, self.drop = nn.Linear(4 * width, width), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) → (B, L, D)."""
        x = x + self.drop(self.attn(self.norm1(x)))
        out: Tensor = x + self.drop(self.fc2(self.act(self.fc1(self.norm2(x)))))
        return out


class Decoder(nn.Module):
    """(B, L) tokens → (B, L, D) states, each of the tokens up to its own."""

    def __init__(
        self, vocabulary: int, context: int, width: int, layers: int, heads: int, base: float, dropout: float
    ) -> None:
        super().__init__()
        self.embed, self.drop = nn.Embedding(vocabulary, width), nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, context, base, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        for name, module in self.named_modules():
            if isinstance(module, nn.Embedding | nn.Linear):
                last = name.endswith(("proj", "fc2"))
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * layers) if last else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.norm(self.blocks(self.drop(self.embed(x))))
        return states

    @contextlib.contextmanager
    def continuing(self) -> Iterator[None]:
        """Each pass inside is of one more token (B, 1), behind those of the passes before."""
        attention = [module for module in self.modules() if isinstance(module, Attention)]
        try:
            for module in attention:
                module.past = ()
            yield
        finally:
            for module in attention:
                module.past = None


@register_model("decoder", paper="arXiv:1706.03762")
def decoder(
    input_shape: tuple[int, ...],
    num_classes: int,
    width: Count = 128,
    layers: Count = 4,
    heads: Count = 4,
    dropout: Fraction = 0.0,
    base: Count = 10000,
) -> Classifier:
    """A small language model: a transformer that reads from left to right, with rotary positions and a tied head.

    Normalisation comes first in each block, the MLP is four times as wide, and the head's weights are those of the
    embedding. 0.8 million parameters as it is, with 100 tokens; 10.7 million with width=384 and layers=6.

    Args:
        width: D, of embeddings and states.
        layers: blocks.
        heads: of attention; each has an even share of the width.
        dropout: behind the embedding, attention and MLP.
        base: of rotary positions.

    Reference: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762; initialisation as in
    Radford et al., "Language Models are Unsupervised Multitask Learners", 2019: N(0, 0.02²), that of the layers which
    end a residual branch divided by √(2 layers).
    """
    (length,) = text_shape("decoder", input_shape)
    if width % heads or width // heads % 2:
        raise ConfigError(
            f"model 'decoder' gives each head an even number of dimensions; width={width} with heads={heads} does not. "
            f"Take heads={next(h for h in range(heads, 0, -1) if width % (2 * h) == 0 or h == 1)}, or an even width."
        )
    backbone = Decoder(num_classes, length, width, layers, heads, float(base), dropout)
    head = nn.Linear(width, num_classes, bias=False)
    head.weight = backbone.embed.weight
    return LanguageModel(backbone, width, num_classes, head)


# --- of transformers ---


class Causal(nn.Module):
    """The states of a causal model of transformers, (B, L) → (B, L, D), without its head.

    Args:
        inner: the model below the head. folder: that it was read from.

    Attributes:
        past: what it keeps of the tokens so far, while something is written (`continuing`).
    """

    def __init__(self, inner: nn.Module, folder: Path) -> None:
        super().__init__()
        self.inner, self.folder = inner, folder
        self.past: Any = None

    def forward(self, x: Tensor) -> Tensor:
        past = {} if self.past is None else {"past_key_values": self.past}  # which it adds to
        states: Tensor = self.inner(input_ids=x, use_cache=bool(past), **past).last_hidden_state
        return states

    @contextlib.contextmanager
    def continuing(self) -> Iterator[None]:
        """Each pass inside is of one more token (B, 1), behind those of the passes before."""
        from transformers import DynamicCache

        try:
            self.past = DynamicCache()
            yield
        finally:
            self.past = None


class FolderModel(LanguageModel):
    """A causal model from a folder, for a stream whose tokens are those that it has learned."""

    backbone: Causal

    def prepare(self, benchmark: Benchmark) -> None:
        """Refuse a stream whose tokens mean something else.

        Raises:
            IncompatibleError: another tokenizer has made them.
        """
        own = pieces(read_json(self.backbone.folder / "tokenizer.json"))
        told = {} if benchmark.tokenizer is None else json.loads(benchmark.tokenizer.to_json())
        made = pieces(told.get("tokenizer", told))
        if own != made:
            raise IncompatibleError(
                f"The model in {self.backbone.folder} has learned other tokens than those of {benchmark.id}, so its "
                f"weights would say nothing of them. Give the stream its tokenizer: tokenizer={self.backbone.folder}."
            )


def pieces(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Return the token of each piece of text, from the JSON of a tokenizer."""
    listed = tokenizer.get("model", {}).get("vocab", {})
    known = (
        dict(listed)
        if isinstance(listed, Mapping)
        else {str(piece): i for i, (piece, _) in enumerate(listed)}
    )
    return known | {added["content"]: added["id"] for added in tokenizer.get("added_tokens", ())}


def is_causal(config: Mapping[str, Any]) -> bool:
    """Whether a folder's config.json is that of a language model with its head."""
    return any(
        str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in config.get("architectures") or ()
    )


def causal(folder: Path, length: int, num_classes: int) -> LanguageModel:
    """Return the causal model that transformers has saved in a folder, for blocks of so many tokens.

    Raises:
        ConfigError: it reads fewer tokens, or makes something else of its states than its head does. DataError: no
            tokenizer, or transformers cannot read it.
    """
    if not (folder / "tokenizer.json").is_file():
        raise DataError(f"{folder} holds no tokenizer.json, which says what the model's tokens are.")
    model = read_by_transformers("AutoModelForCausalLM", folder)
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and length > most:
        raise ConfigError(
            f"Blocks of {length} tokens are longer than what the model in {folder} reads at once, {most}; give the "
            f"stream length={most} or less."
        )
    head: nn.Module = model.get_output_embeddings()
    found = FolderModel(Causal(model.base_model, folder), model.config.hidden_size, num_classes, head)
    probe = torch.arange(min(length, 8))[None] % model.config.vocab_size
    with torch.no_grad():
        right: Tensor = model.eval()(input_ids=probe, use_cache=False).logits
        if not torch.allclose(found.eval()(probe), right, rtol=1e-4, atol=1e-4):
            raise ConfigError(
                f"A {type(model).__name__} makes more of its states than its head does, so it cannot be taken apart "
                "into backbone and head here."
            )
    return found.train()
