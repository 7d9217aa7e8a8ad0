"""An index that spells: a transformer reads a text and writes the identifier of a document, digit by digit.

Shapes: B texts of T tokens, D units of a state, C documents, L symbols of the longest identifier with its end, W
beginnings of one text, t symbols of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import ConfigError, IncompatibleError
from clbench.models.base import Classifier, Head
from clbench.models.spelling.docids import SYMBOLS, Trie, beam_search, naive, semantic, spell
from clbench.types import MASKED, Benchmark, LateOutput, Output

START = SYMBOLS
"""What the decoder reads before the first symbol."""
LONGEST = 32
"""Symbols that an identifier may have with its end."""


class Attention(nn.Module):
    """Attention with several heads (Vaswani et al., arXiv:1706.03762)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.both = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, source: Tensor, allowed: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """(B, N, D) attending to (B, S, D) → (B, N, D); allowed: bool, of the shape (B, 1, N or 1, S)."""
        q = self._apart(self.query(x))
        k, v = map(self._apart, self.both(source).chunk(2, dim=2))
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=causal)
        out: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return out

    def _apart(self, x: Tensor) -> Tensor:
        """(B, N, D) → (B, heads, N, D / heads)."""
        split: Tensor = x.unflatten(2, (self.heads, -1))
        return split.transpose(1, 2)


class Block(nn.Module):
    """A transformer's layer with normalisation first; with `cross`, it also attends to a source."""

    def __init__(self, width: int, heads: int, dropout: float, cross: bool) -> None:
        super().__init__()
        self.norm1, self.own = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width) if cross else None
        self.cross = Attention(width, heads) if cross else None
        self.norm3 = nn.LayerNorm(width)
        self.inner = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """(B, T, D) and which tokens there are, (B, T) → (B, T, D)."""
        y = self.norm1(x)
        return self._through(x + self.drop(self.own(y, y, present[:, None, None])))

    def decode(self, x: Tensor, source: Tensor, present: Tensor) -> Tensor:
        """(B, W, t, D) and a source (B, T, D), of which (B, T) is present → (B, W, t, D)."""
        assert self.cross is not None
        assert self.norm2 is not None
        each = self.norm1(x).flatten(0, 1)  # (B·W, t, D): a beginning sees itself, from left to right
        x = x + self.drop(self.own(each, each, causal=True).view_as(x))
        # The source's keys and values serve all W beginnings.
        found = self.cross(self.norm2(x).flatten(1, 2), source, present[:, None, None])
        return self._through(x + self.drop(found.view_as(x)))

    def _through(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.drop(self.inner(self.norm3(x)))
        return out


def pack(states: Tensor, present: Tensor) -> Tensor:
    """States (B, T, D) and which tokens there are, (B, T) → (B, T·(D + 1)) features: 0 where there is no token."""
    there = present.unsqueeze(2).to(states.dtype)
    return torch.cat([states * there, there], dim=2).flatten(1)


def unpack(features: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return what `pack` packed, from features (B, T·(D + 1)) with D = width."""
    states: Tensor = features.unflatten(1, (-1, width + 1))
    return states[..., :-1], states[..., -1] > 0.5


def tokens_present(x: Tensor) -> Tensor:
    """(B, T) bool: where there is a token; the first place counts even in an empty text, so that something does."""
    return (x != 0) | (torch.arange(x.shape[1], device=x.device) == 0)


class Encoder(nn.Module):
    """(B, T) tokens → (B, T·(D + 1)) features: the states of all tokens, as `pack` packs them."""

    def __init__(
        self, vocabulary: int, length: int, width: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embed, self.place = (
            nn.Embedding(vocabulary, width),
            nn.Parameter(torch.randn(length, width) * 0.02),
        )
        self.blocks = nn.ModuleList(Block(width, heads, dropout, cross=False) for _ in range(layers))
        self.norm, self.drop = nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        present = tokens_present(x)
        states = self.drop(self.embed(x) + self.place[: x.shape[1]])
        for block in self.blocks:
            states = block(states, present)
        return pack(self.norm(states), present)


class Decoder(nn.Module):
    """Features and beginnings → what comes next. One of T5's is in `clbench.models.spelling.t5`."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.embed, self.place = (
            nn.Embedding(SYMBOLS + 1, width),
            nn.Parameter(torch.randn(LONGEST, width) * 0.02),
        )
        self.blocks = nn.ModuleList(Block(width, heads, dropout, cross=True) for _ in range(layers))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, SYMBOLS)
        self.drop = nn.Dropout(dropout)

    def forward(self, features: Tensor, prefix: Tensor) -> Tensor:
        """Features (B, T·(D + 1)) and beginnings (B, W, t) → (B, W, t + 1, SYMBOLS) logits.

        They say what follows the first 0, 1 … t symbols of each beginning.
        """
        source, present = unpack(features, self.width)
        symbols = F.pad(prefix, (1, 0), value=START)
        x = self.drop(self.embed(symbols) + self.place[: symbols.shape[2]])
        for block in self.blocks:
            x = cast("Block", block).decode(x, source, present)
        logits: Tensor = self.out(self.norm(x))
        return logits


class DocidHead(nn.Module, Head):
    """A head whose outputs are documents, each spelled symbol by symbol: log p(d|x) = Σ_t log p(s_t | s_<t, x).

    Calling it scores all documents, which is costly; `predict` scores those that a beam search finds among the seen
    ones, and `log_prob` those that are asked for, which is all that training needs.

    Args:
        decoder: (B, T·(D + 1)) features and (B, W, t) beginnings → (B, W, t + 1, SYMBOLS) logits.
        ids: identifiers of the C documents; `rename` gives them others.
        beam: W of the search; so many documents get a score.

    Attributes:
        seen: (C,) bool, the documents that may be named; all, until some are admitted.
    """

    on_request = True
    recordable = False
    in_float32 = False  # it adds up in float32 whatever its weights are
    seen: Tensor
    symbols: Tensor
    follows: Tensor
    document: Tensor
    paths: Tensor

    def __init__(self, decoder: nn.Module, ids: Sequence[str], beam: int = 10) -> None:
        super().__init__()
        if beam < 1:
            raise ConfigError(f"A beam search needs 1 beam or more; {beam} was given.")
        self.decoder, self.beam = decoder, beam
        self.register_buffer("seen", torch.ones(len(ids), dtype=torch.bool))
        self.rename(ids)

    def rename(self, ids: Sequence[str]) -> None:
        """Give the documents these identifiers, before anything is trained.

        Raises:
            ConfigError: an identifier that is not of digits, is another's, or is too long.
        """
        symbols = spell(ids)  # (C, L)
        if symbols.shape[1] > LONGEST:
            raise ConfigError(
                f"An identifier may have {LONGEST - 1} digits; '{max(ids, key=len)}' has {symbols.shape[1] - 1}."
            )
        tree, device = Trie.of(symbols), self.seen.device
        tables = {
            "symbols": symbols,
            "follows": tree.children,
            "document": tree.document,
            "paths": tree.paths,
        }
        for name, table in tables.items():
            self.register_buffer(name, table.to(device))

    def admit(self, classes: Sequence[int]) -> None:
        self.seen.fill_(False)
        self.seen[list(classes)] = True

    def output(self, features: Tensor, within: Callable[[], AbstractContextManager[object]]) -> Output:
        def score() -> Tensor:
            with within():
                logits: Tensor = self(features)
            return logits.float()

        def log_prob(documents: Tensor) -> Tensor:
            with within():
                return self.log_prob(features, documents)

        return LateOutput(features, score, log_prob, next(self.parameters()))

    def log_prob(self, features: Tensor, documents: Tensor) -> Tensor:
        """log p(d|x), (B, W) float32, of the documents (B, W) asked for, by their own identifiers as beginnings."""
        symbols = self.symbols[documents]  # (B, W, L)
        logits = self.decoder(features, symbols[..., :-1].clamp(min=0))
        each = logits.float().log_softmax(3)
        found: Tensor = each.gather(3, symbols.clamp(min=0).unsqueeze(3)).squeeze(3)
        return found.masked_fill(symbols < 0, 0.0).sum(2)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C) log p(d|x) of every document; `MASKED` for those not seen."""
        every = torch.arange(len(self.seen), device=features.device).expand(len(features), -1)
        parts = [self.log_prob(features, part) for part in every.split(1024, dim=1)]
        return torch.cat(parts, dim=1).masked_fill(~self.seen, MASKED)

    def best(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the documents (B, K) that a beam search finds, the likeliest first, and log p(d|x); −1 where there are
        fewer."""
        tree = Trie(self.follows, self.document, self.paths)

        def following(prefix: Tensor) -> Tensor:
            logits: Tensor = self.decoder(features, prefix)[:, :, -1]
            return logits.float().log_softmax(2)

        return beam_search(following, tree, len(features), self.beam, self.seen)

    def predict(self, features: Tensor) -> Tensor:
        """(B, C) log p(d|x) of the documents that a beam search finds, `MASKED` elsewhere."""
        documents, log_prob = self.best(features)
        nowhere = len(self.seen)  # a column that is cut off
        scores = log_prob.new_full((len(features), nowhere + 1), MASKED)
        return scores.scatter(1, documents.where(documents >= 0, nowhere), log_prob)[:, :nowhere]


class SpellingIndex(Classifier):
    """An encoder of texts and a head that spells documents' identifiers.

    Args:
        encoder: (B, T) tokens → (B, T·(D + 1)) features; its `vocabulary` says how many tokens it knows.
        decoder: as of `DocidHead`. feature_size: T·(D + 1). num_classes: C, documents of the whole stream.
        docid: what identifies a document. beam: of the search. k, leaf: of semantic identifiers.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        feature_size: int,
        num_classes: int,
        docid: Literal["naive", "semantic"] = "naive",
        beam: int = 10,
        k: int = 10,
        leaf: int = 10,
    ) -> None:
        super().__init__(encoder, feature_size, num_classes)
        self.docid, self.k, self.leaf = docid, k, leaf
        self.head: nn.Module = DocidHead(decoder, naive(num_classes), beam)

    def prepare(self, benchmark: Benchmark) -> None:
        """Take semantic identifiers from the documents of a retrieval stream.

        Raises:
            IncompatibleError: the benchmark has no documents, or tokens that the model does not know.
        """
        known, tokenizer = cast("int", self.backbone.vocabulary), benchmark.tokenizer
        if tokenizer is not None and tokenizer.size > known:
            raise IncompatibleError(
                f"{benchmark.name} has {tokenizer.size} tokens and the model knows {known}; set "
                f"model.vocabulary={tokenizer.size}, or take the tokenizer of the model's checkpoint."
            )
        if self.docid == "naive":
            return
        if not benchmark.setting.documents:
            raise IncompatibleError(
                f"Semantic identifiers are made of documents, and {benchmark.name} has none; use model.docid=naive."
            )
        parts = [exp.data.take(torch.arange(exp.documents or 0)) for exp in benchmark.train]
        documents, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        corpus = torch.cat([torch.full((len(y),), i) for i, (_, y) in enumerate(parts)])
        order = labels.argsort(stable=True)
        if not torch.equal(labels[order], torch.arange(self.num_classes)):
            raise IncompatibleError(
                f"Each class of {benchmark.name} must have one document, for an identifier; of {self.num_classes} "
                f"classes {len(labels.unique())} have one."
            )
        ids = semantic(documents[order], corpus[order], known, k=self.k, leaf=self.leaf)
        cast("DocidHead", self.head).rename(ids)
