"""Queries made up for documents: a generator learns from (document, query) pairs and then asks about any document.

Generative memory of a search index (Mehta et al., "DSI++", EMNLP 2023, arXiv:2212.09744): what stands for queries of
documents that came without any, and for queries of old documents that are no longer kept. Three generators:

    selector  which words of a document are asked for, and with which words it is asked; both are drawn independently
    writer    an encoder-decoder that writes a query word by word, and may copy words of the document
    T5        in `clbench.models.spelling.t5`

Shapes: N documents of T tokens, P pairs, L tokens of a query, V tokens of the vocabulary, D units.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.machine.optim import uncompiled
from clbench.models.spelling.seq2seq import Block, tokens_present


class QueryGenerator(nn.Module, abc.ABC):
    """Documents → queries, after `fit`. Its weights are all its state."""

    @abc.abstractmethod
    def loss(self, documents: Tensor, queries: Tensor) -> Tensor:
        """() mean −log p(query | document) of pairs (P, T) and (P, L); 0 where there is no token."""

    @abc.abstractmethod
    def sample(self, documents: Tensor, length: int, rng: torch.Generator) -> Tensor:
        """One query (N, length) for each document (N, T)."""

    def fit(
        self,
        documents: Tensor,
        queries: Tensor,
        rng: torch.Generator,
        steps: int,
        batch_size: int = 64,
        lr: float = 1e-3,
    ) -> None:
        """Learn from pairs (P, T) and (P, L), by Adam with a learning rate that falls linearly to 0."""
        optimizer = uncompiled(torch.optim.Adam)(self.parameters(), lr)
        self.train()
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 - step / steps)
            rows = torch.randint(len(documents), (batch_size,), generator=rng, device=rng.device)
            optimizer.zero_grad(set_to_none=True)
            self.loss(documents[rows], queries[rows]).backward()
            optimizer.step()
        self.zero_grad(set_to_none=True)
        self.eval()

    @torch.no_grad()
    def generate(self, documents: Tensor, n: int, length: int, rng: torch.Generator) -> Tensor:
        """(N, T) → (N·n, length): n queries of the first document, then n of the second, and so on."""
        repeated = documents.repeat_interleave(n, 0)
        made = [self.sample(part, length, rng) for part in repeated.split(512)]
        return torch.cat(made) if made else documents.new_zeros((0, length))


class Selector(QueryGenerator):
    """Bags of words: each word of the document is asked for or not, each word of the vocabulary asks or not.

    A transformer reads the document; a sigmoid at each place says how probable its word is in the query, and one for
    each word of the vocabulary how probable it is there though not in the document ("what", "many"). Words are drawn
    independently of each other, first those that ask, then those of the document in its order. To an index that reads
    bags of words, order is nothing.

    Args:
        vocabulary: V. length: T. width, layers, heads: of the transformer.
        top: words of the vocabulary, the likeliest ones, that may ask.
    """

    def __init__(
        self, vocabulary: int, length: int, width: int = 128, layers: int = 1, heads: int = 4, top: int = 20
    ) -> None:
        super().__init__()
        self.top = top
        self.embed, self.place = (
            nn.Embedding(vocabulary, width),
            nn.Parameter(torch.randn(length, width) * 0.02),
        )
        self.blocks = nn.ModuleList(Block(width, heads, 0.0, cross=False) for _ in range(layers))
        self.norm, self.copied, self.asking = (
            nn.LayerNorm(width),
            nn.Linear(width, 1),
            nn.Linear(width, vocabulary),
        )
        self.rarity = nn.Embedding(
            vocabulary, 1
        )  # how probable a word is to be asked for, wherever it stands
        nn.init.zeros_(self.rarity.weight)
        nn.init.constant_(self.asking.bias, -7.0)  # few words of the vocabulary are in a query

    def forward(self, documents: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T) → logits of its words (N, T) and of the vocabulary's (N, V)."""
        present = tokens_present(documents)
        states = self.embed(documents) + self.place[: documents.shape[1]]
        for block in self.blocks:
            states = block(states, present)
        states = self.norm(states)
        there = present.unsqueeze(2).to(states.dtype)
        mean = (states * there).sum(1) / there.sum(1)
        return (self.copied(states) + self.rarity(documents)).squeeze(2), self.asking(mean)

    def loss(self, documents: Tensor, queries: Tensor) -> Tensor:
        copied, asking = self(documents)
        found = (documents.unsqueeze(2) == queries.unsqueeze(1)).any(2) & (documents != 0)  # (P, T)
        words = torch.zeros_like(asking).scatter_(1, queries, 1.0)
        words = words.scatter(1, documents, 0.0)  # what the document has is copied
        words[:, 0] = 0.0
        of_document = F.binary_cross_entropy_with_logits(copied, found.to(copied.dtype), reduction="none")
        of_words = F.binary_cross_entropy_with_logits(asking, words, reduction="none")
        return ((of_document * (documents != 0)).sum() + of_words.sum()) / len(documents)

    def sample(self, documents: Tensor, length: int, rng: torch.Generator) -> Tensor:
        copied, asking = self(documents)
        uniform = torch.rand(copied.shape, generator=rng, device=rng.device)
        taken = (uniform < copied.sigmoid()) & (documents != 0)
        # A document with nothing drawn is asked for its likeliest word.
        likeliest = copied.masked_fill(documents == 0, -torch.inf).argmax(1, keepdim=True)
        taken |= ~taken.any(1, keepdim=True) & (
            torch.arange(documents.shape[1], device=rng.device) == likeliest
        )
        chance, words = asking.topk(min(self.top, asking.shape[1]), dim=1)  # (N, top)
        words = words * (torch.rand(chance.shape, generator=rng, device=rng.device) < chance.sigmoid())
        return _together(torch.cat([words, documents * taken], dim=1), length)


def _together(tokens: Tensor, length: int) -> Tensor:
    """(N, K) → (N, length): the tokens that are not 0, in order, then 0."""
    order = (tokens == 0).to(torch.uint8).argsort(dim=1, stable=True)[:, :length]
    return F.pad(tokens.gather(1, order), (0, max(0, length - tokens.shape[1])))


class Writer(QueryGenerator):
    """An encoder-decoder that copies: p(w) = g · p_copy(w) + (1 − g) · p_vocabulary(w).

    Pointer-generator (See et al., arXiv:1704.04368); p_copy is attention of the decoder to the document's words. A
    query is drawn word by word among the `top` likeliest.

    Args:
        vocabulary: V. length: T, and the longest query. width, layers, heads: of encoder and decoder.
        top: words to draw among. temperature: of the draw.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int = 128,
        layers: int = 1,
        heads: int = 4,
        top: int = 20,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.top, self.temperature = top, temperature
        self.embed = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        self.place = nn.Parameter(torch.randn(length, width) * 0.02)
        self.begun = nn.Parameter(torch.randn(length + 1, width) * 0.02)
        self.encoder = nn.ModuleList(Block(width, heads, 0.0, cross=False) for _ in range(layers))
        self.decoder = nn.ModuleList(Block(width, heads, 0.0, cross=True) for _ in range(layers))
        self.norm, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.gate, self.pointer = nn.Linear(width, 1), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def encode(self, documents: Tensor) -> tuple[Tensor, Tensor]:
        present = tokens_present(documents)
        states = self.embed(documents) + self.place[: documents.shape[1]]
        for block in self.encoder:
            states = block(states, present)
        return self.norm(states), present

    def decode(self, states: Tensor, present: Tensor, begun: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Beginnings (N, t), of which the first token is 0 → log g (N, t, 1), log p_copy at places (N, t, T), log
        (1 − g) p_vocabulary (N, t, V)."""
        x = (self.embed(begun) + self.begun[: begun.shape[1]]).unsqueeze(1)
        for block in self.decoder:
            x = block.decode(x, states, present)  # type: ignore[operator]
        x = self.norm_out(x.squeeze(1))
        places = self.pointer(x) @ states.transpose(1, 2) / states.shape[2] ** 0.5
        copy = places.masked_fill(~present.unsqueeze(1), -torch.inf).log_softmax(2)
        gate = self.gate(x)
        own = (x @ self.embed.weight.T + self.bias).log_softmax(2)
        return F.logsigmoid(gate), copy, F.logsigmoid(-gate) + own

    def loss(self, documents: Tensor, queries: Tensor) -> Tensor:
        most = min(int((queries != 0).sum(1).max()) + 1, queries.shape[1])
        target = F.pad(queries, (0, 1))[:, :most]  # a query ends with 0
        begun = F.pad(target, (1, 0))[:, :-1]
        states, present = self.encode(documents)
        gate, copy, own = self.decode(states, present, begun)
        same = (documents.unsqueeze(1) == target.unsqueeze(2)) & (documents != 0).unsqueeze(1)  # (P, L, T)
        copied = gate.squeeze(2) + copy.masked_fill(~same, -1e4).logsumexp(2)
        written = own.gather(2, target.unsqueeze(2)).squeeze(2)
        log_p = torch.logaddexp(copied, written)
        counts = F.pad(target[:, :-1] != 0, (1, 0), value=True)  # words, and the end
        return -(log_p * counts).sum() / counts.sum()

    def sample(self, documents: Tensor, length: int, rng: torch.Generator) -> Tensor:
        states, present = self.encode(documents)
        begun = documents.new_zeros((len(documents), 1))
        going = torch.ones(len(documents), dtype=torch.bool, device=documents.device)
        for _ in range(length):
            gate, copy, own = (part[:, -1] for part in self.decode(states, present, begun))
            p = own.exp().scatter_add(1, documents, (gate + copy).exp() * (documents != 0))
            best, words = p.topk(min(self.top, p.shape[1]), dim=1)
            drawn = torch.multinomial(best ** (1 / self.temperature), 1, generator=rng)
            word = words.gather(1, drawn).squeeze(1) * going
            going = going & (word != 0)
            begun = torch.cat([begun, word.unsqueeze(1)], dim=1)
        return begun[:, 1:]
