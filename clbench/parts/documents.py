"""Retrieval streams: replay of documents, pseudo-queries, and what bounds may see."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from clbench.errors import IncompatibleError
from clbench.machine.randomness import derive_seed
from clbench.memory import Reservoir
from clbench.parts.replay import give_way
from clbench.strategy import Run, Strategy, chain
from clbench.types import Batch, Data, Experience, Stream

if TYPE_CHECKING:
    from clbench.models.spelling.generation import QueryGenerator


class Asks(Protocol):
    """What makes a query from a document."""

    def ask(self, documents: Tensor, generator: Generator) -> Tensor:
        """Return a query (B, L) for each document (B, L), in tokens with 0 behind, drawn from `generator`."""
        ...


class Spans(Strategy):
    """Pseudo-queries that are a random run of a document's tokens.

    Args:
        width: tokens of a run; documents that are shorter are taken whole.
    """

    parallel = True

    def __init__(self, width: int = 8) -> None:
        self.width = width

    def ask(self, documents: Tensor, generator: Generator) -> Tensor:
        """(B, L) → (B, L), the run in front and 0 behind."""
        return spans(documents, self.width, generator)


def spans(documents: Tensor, width: int, generator: Generator) -> Tensor:
    """Return a run of `width` tokens of every document, its start uniform among those where it fits.

    Args:
        documents: (B, L) int64, each filled up with 0 behind.
        width: tokens of a run.
        generator: draws the starts.

    Returns:
        (B, L) int64, filled up with 0 behind.
    """
    n, length = documents.shape
    size = (documents != 0).sum(1)  # (B,)
    starts = (size - width).clamp(min=0) + 1
    drawn = torch.rand(n, generator=generator, device=documents.device, dtype=torch.float64)
    start = (drawn * starts).long()
    place = torch.arange(length, device=documents.device)
    taken = documents.gather(1, (start[:, None] + place).clamp(max=length - 1))
    inside = place < (size - start).clamp(max=width)[:, None]
    return torch.where(inside, taken, 0)


class LearnedQueries(Strategy):
    """Pseudo-queries of a generator that learns from the labelled queries of the first corpus when that ends.

    Its steps are no updates of the index, so they count in the time of a run alone.

    Args:
        kind: selector draws words of the document and words that ask; writer writes a query word by word; so does t5,
            from the checkpoint that the model starts from.
        steps: how long it trains, in batches of 64.
        length: tokens of a query, at most.
    """

    needs = frozenset({"boundaries", "documents"})
    state = ("generator",)
    parallel = (
        "each process would train the generator of queries by itself, and what two of them ask may differ where "
        "rounding does; generator=spans trains none"
    )

    def __init__(self, kind: Literal["selector", "writer", "t5"], steps: int, length: int = 16) -> None:
        self.kind, self.steps, self.length = kind, steps, length

    def setup(self, run: Run) -> None:
        from clbench.models.spelling.generation import Selector, Writer

        if self.kind == "t5":
            self.generator: QueryGenerator = self._pretrained(run).to(run.device)
            return
        (tokens,) = run.input_shape
        tokenizer = run.benchmark.tokenizer
        vocabulary = 0 if tokenizer is None else tokenizer.size
        vocabulary = vocabulary or 1 + max(int(exp.data.x().max()) for exp in run.benchmark.train)
        made = Selector if self.kind == "selector" else Writer
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(run.config.seeds.init, "query generator"))
            self.generator = made(vocabulary, tokens).to(run.device)

    def _pretrained(self, run: Run) -> QueryGenerator:
        from clbench.models.weights import find

        weights = run.config.model.weights
        folder = find(weights).path if weights is not None else None
        if folder is None or not folder.is_dir():
            raise IncompatibleError(
                "generator=t5 starts from the T5 that the model starts from, and the model starts from none; set "
                "model=seq2seq and model.weights to the folder of its checkpoint, or use generator=selector."
            )
        from clbench.models.spelling.t5 import T5Writer

        return T5Writer(folder)

    def begin_experience(self, exp: Experience) -> None:
        if exp.index == 0 and exp.documents == len(exp):
            raise IncompatibleError(
                f"The {self.kind} learns to ask from the labelled queries of the first corpus, which has none; use "
                "generator=spans."
            )

    def end_experience(self, exp: Experience) -> None:
        if exp.index:
            return
        documents, queries = (part.to(self.run.device) for part in pairs(exp))
        self.generator.fit(documents, queries, self.run.rng("query generator"), self.steps)

    @torch.no_grad()
    def ask(self, documents: Tensor, generator: Generator) -> Tensor:
        """(B, L) → (B, L), one query for each document and 0 behind."""
        length = min(self.length, documents.shape[1])
        asked = self.generator.sample(documents, length, generator)
        return F.pad(asked, (0, documents.shape[1] - length))


def pairs(exp: Experience) -> tuple[Tensor, Tensor]:
    """Documents (P, L) and labelled queries (P, L) of an experience, row for row.

    A document of several passages counts by its first; queries of documents of other experiences are left out.
    """
    documents = exp.documents or 0
    x, y = exp.data.take(torch.arange(documents))
    asked, of = exp.data.take(torch.arange(documents, len(exp)))
    first = torch.full((int(torch.cat([y, of]).max()) + 1,), documents)
    first.scatter_reduce_(0, y, torch.arange(documents), "amin")
    known = first[of] < documents
    return x[first[of][known]], asked[known]


GeneratorName = Literal["spans", "selector", "writer", "t5"]
"""What makes pseudo-queries: random runs of a document's tokens; or a network trained on the first corpus's queries,
that draws words, or that writes, from the start or from the T5 that the model is made of."""


def questioner(generator: GeneratorName, span: int, steps: int) -> Spans | LearnedQueries:
    """Return what makes pseudo-queries, by name."""
    return Spans(span) if generator == "spans" else LearnedQueries(generator, steps)


def pseudo_queries(share: float, generator: GeneratorName, span: int, steps: int) -> Strategy:
    """Chain `PseudoQueries` behind what asks them; nothing for a share of 0.

    Args:
        share: as for `PseudoQueries`.
        generator, span, steps: as for `questioner`.
    """
    if share == 0:
        return Strategy()
    asks = questioner(generator, span, steps)
    return chain(asks, PseudoQueries(share, asks))


class RememberDocuments(Strategy):
    """Replay documents of old corpora, or queries made from them, in place of some of the stream's rows.

    Steps and batch size are those without. A uniform sample of all documents is kept when their corpus ends.

    Args:
        capacity: documents kept.
        share: which part of a batch's rows is replayed.
        rate: share of the steps that replay, evenly spread.
        asks: makes the query that stands for a document; None replays documents themselves.
        queries: keep labelled queries, too, which are replayed as they are.
    """

    needs = frozenset({"boundaries", "memory", "documents"})
    state = ("memory",)
    parallel = True

    def __init__(
        self, capacity: int, share: float, rate: float, asks: Asks | None = None, queries: bool = False
    ) -> None:
        self.capacity, self.share, self.rate, self.asks, self.queries = capacity, share, rate, asks, queries

    def setup(self, run: Run) -> None:
        self.memory = Reservoir(self.capacity)

    def extend(self, batch: Batch) -> Batch:
        step = self.run.step
        due = int((step + 1) * self.rate) > int(step * self.rate)
        n = min(round(self.share * batch.new), len(self.memory)) if due else 0
        if n == 0:
            return batch
        old = self.memory.draw(n, self.run.rng("documents"))
        x = old["x"]
        if self.asks is not None:
            x = self.asks.ask(x, self.run.rng("pseudo-queries"))
        return give_way(batch, self.run.augment(x), old["y"], old["task"], x)

    def end_experience(self, exp: Experience) -> None:
        documents = len(exp) if self.queries else exp.documents or 0
        x, y = exp.data.take(torch.arange(documents))
        y = y.to(self.run.device)
        rows = {"x": x.to(self.run.device), "y": y, "task": torch.full_like(y, exp.task)}
        self.memory.add(self.run.rng("memory"), **rows)


class PseudoQueries(Strategy):
    """Documents that come without labelled queries are learned by pseudo-queries, too.

    Some of the stream's rows, where they are documents, are shown as queries that are made of them: from the second
    corpus on, and in a first one that has no labelled queries. Chained after what takes rows away.

    Args:
        share: which part of the stream's rows in a batch is shown as queries.
        asks: makes the queries.
    """

    needs = frozenset({"boundaries", "documents"})
    state = ("documents",)
    parallel = True

    def __init__(self, share: float, asks: Asks) -> None:
        self.share, self.asks = share, asks
        self.documents = 0  # of the experience, where they are shown as queries; they are its first rows

    def begin_experience(self, exp: Experience) -> None:
        without = exp.index > 0 or exp.documents == len(exp)
        self.documents = (exp.documents or 0) if without else 0

    def extend(self, batch: Batch) -> Batch:
        n = round(self.share * batch.new)
        if n == 0 or self.documents == 0:
            return batch
        raw = batch.raw[:n]
        asked = self.asks.ask(raw, self.run.rng("pseudo-queries"))
        shown = torch.where((batch.index[:n] < self.documents)[:, None], asked, raw)
        x = torch.cat([self.run.augment(shown), batch.x[n:]])
        return replace(batch, x=x, raw=torch.cat([shown, batch.raw[n:]]))


class AllDocuments(Strategy):
    """Every corpus brings the documents of all corpora so far; and, if wanted, the labelled queries of the first."""

    needs = frozenset({"past data", "documents"})
    parallel = True

    def __init__(self, queries: bool) -> None:
        self.queries = queries

    def stream(self, train: Stream) -> Stream:
        return Stream(train.name, tuple(self._so_far(train.experiences[: exp.index + 1]) for exp in train))

    def _so_far(self, seen: tuple[Experience, ...]) -> Experience:
        sizes = [exp.documents or 0 for exp in seen]
        data = [exp.data.subset(torch.arange(n)) for exp, n in zip(seen, sizes, strict=True)]
        if self.queries or len(seen) == 1:
            data += [exp.data.subset(torch.arange(n, len(exp))) for exp, n in zip(seen, sizes, strict=True)]
        classes = tuple(sorted({c for exp in seen for c in exp.classes}))
        union = Data.union([part for part in data if len(part)])
        return replace(seen[-1], classes=classes, data=union, documents=sum(sizes))
