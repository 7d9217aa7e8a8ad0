"""Retrieval streams: a collection of documents arrives corpus by corpus, and each document is a class of its own.

Mehta et al., "DSI++: Updating Transformer Memory with New Documents", EMNLP 2023, arXiv:2212.09744.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from clbench.data.beir import Collection
from clbench.data.draws import permutation
from clbench.errors import ConfigError, DataError
from clbench.transforms.augment import Transform
from clbench.transforms.text import Tokenizer, fit_tokenizer, load_tokenizer
from clbench.types import Benchmark, Data, Experience, Pool, Setting, Stream

Order = Literal["file", "article", "random"]
"""In which order documents come."""
Titles = Literal["keep", "remove", "query"]
"""What becomes of documents' titles."""

NOTES = (
    "Every document is a class. The first corpus comes with labelled queries, the later ones as documents only; each "
    "is tested on held-out queries, among the documents of the corpora so far. A hit is a document of the tested "
    "corpus that is relevant to the query."
)


@dataclass(frozen=True, eq=False)
class _Texts:
    """Documents in the order of the stream, and queries with the numbers of their relevant documents."""

    documents: list[str]
    names: tuple[str, ...]
    train: list[tuple[str, tuple[int, ...]]]
    test: list[tuple[str, tuple[int, ...]]]


def retrieval(
    collection: Collection,
    *,
    name: str,
    version: int = 1,
    order: Order = "file",
    documents: int | None = None,
    first: float = 0.5,
    corpora: int = 5,
    length: int = 32,
    vocabulary: int = 8192,
    tokenizer: str | None = None,
    titles: Titles = "keep",
    test: str = "test",
    seed: int = 0,
    notes: str = "",
) -> Benchmark:
    """Return a benchmark cut from a collection: D₀ and `corpora` further corpora.

    Documents are numbered as they come, and the number is the class. D₀ trains on its documents and on its queries of
    the split `train`, later corpora on their documents only: queries of theirs that have labels are left out. A query
    with several relevant documents is asked of every corpus that holds some of them, where any of those is a hit.

    Args:
        collection: as `read_beir` gives it. name, version, notes: of the benchmark.
        order: as in the file; articles, documents of one title, side by side; or drawn from the seed.
        documents: how many, the first ones in that order; all if None.
        first: share of them that makes D₀. corpora: how many share the others evenly.
        length: tokens that documents and queries are cut to.
        vocabulary: tokens of the tokenizer that is fitted to the documents and queries of D₀, at most.
        tokenizer: a file tokenizer.json in place of one that is fitted.
        titles: stand before the text; are taken out of it, wherever they occur; or are also the test queries, in place
            of the collection's own, which are then left out altogether.
        test: the split of held-out queries.
        seed: of a random order.

    Raises:
        ConfigError: parameters out of range. DataError: a corpus without test queries, or no such split.
    """
    if not 0 < first < 1 or corpora < 1 or length < 1:
        raise ConfigError(
            f"{name}: first is between 0 and 1, corpora and length are 1 or more; {first}, {corpora} and {length} were "
            "given."
        )
    texts = _texts(collection, name, order, documents, titles, test, seed)
    n = len(texts.documents)
    start = round(n * first)
    if not 1 <= start <= n - corpora:
        raise ConfigError(
            f"{name}: {n} documents cannot be shared out, {first:.0%} to the first corpus and the others to {corpora}."
        )
    sizes = [start, *(len(part) for part in np.array_split(np.arange(n - start), corpora))]
    ends = np.cumsum(sizes)
    labelled = [(text, relevant) for text, relevant in texts.train if max(relevant) < start]
    if tokenizer is not None:
        tokens = load_tokenizer(tokenizer)
    else:
        tokens = _fitted((*texts.documents[:start], *(text for text, _ in labelled)), vocabulary)
    pairs = [(text, d) for text, relevant in labelled for d in relevant]
    trained = Pool(
        torch.cat(
            [tokens.encode(texts.documents, length), tokens.encode([text for text, _ in pairs], length)]
        ),
        torch.cat([torch.arange(n), torch.tensor([d for _, d in pairs], dtype=torch.int64)]),
    )
    tested, owner = _questions(texts.test, ends, tokens, length)
    train, held = [], []
    for k, size in enumerate(sizes):
        rows = torch.arange(int(ends[k]) - size, int(ends[k]))
        classes = tuple(rows.tolist())
        if k == 0:
            rows = torch.cat([rows, torch.arange(n, n + len(pairs))])
        asked = (owner == k).nonzero().squeeze(1)
        if not len(asked):
            raise DataError(
                f"{name}: corpus {k}, documents {classes[0]} … {classes[-1]} of the order '{order}', has no queries of "
                f"the split '{test}'; take fewer corpora, more documents or another order."
            )
        train.append(Experience(k, classes, Data.of(trained, rows), documents=size))
        held.append(Experience(k, classes, Data.of(tested, asked), documents=0))
    return Benchmark(
        name,
        version,
        Setting("class", documents=True),
        Stream("train", tuple(train)),
        Stream("test", tuple(held)),
        n,
        Transform(),
        primary="hits_at_10",
        seed=seed if order == "random" else 0,
        class_names=texts.names,
        notes=f"{notes} {NOTES}".strip(),
        tokenizer=tokens,
    )


@functools.lru_cache(maxsize=4)  # a suite builds the same benchmark for every cell
def _fitted(texts: tuple[str, ...], vocabulary: int) -> Tokenizer:
    return fit_tokenizer(texts, vocabulary)


def _texts(
    collection: Collection, name: str, order: Order, limit: int | None, titles: Titles, test: str, seed: int
) -> _Texts:
    bodies = [
        _body(title, text, titles) for title, text in zip(collection.titles, collection.texts, strict=True)
    ]
    usable = [
        i for i, body in enumerate(bodies) if body and (titles != "query" or collection.titles[i].strip())
    ]
    if order == "random":
        usable = [usable[i] for i in permutation(len(usable), seed, "retrieval: documents")]
    elif order == "article":
        if len({collection.titles[i] for i in usable}) < 2:
            raise ConfigError(
                f"{name}: order 'article' needs documents with titles; take 'file' or 'random'."
            )
        appears = {title: -i for i, title in reversed(list(enumerate(collection.titles)))}
        usable.sort(key=lambda i: -appears[collection.titles[i]])
    if limit is not None and not 1 <= limit <= len(usable):
        raise ConfigError(f"{name} has {len(usable)} documents; documents={limit} was given.")
    chosen = usable[:limit]
    place = {collection.ids[i]: k for k, i in enumerate(chosen)}
    documents = [bodies[i] for i in chosen]
    names = tuple(collection.ids[i] for i in chosen)
    if titles == "query":
        return _Texts(documents, names, [], [(collection.titles[i], (k,)) for k, i in enumerate(chosen)])
    if test not in collection.relevant:
        raise DataError(
            f"{name}: there are no judgements qrels/{test}.tsv; there are {', '.join(collection.relevant)}."
        )
    asked = {
        split: [
            (collection.queries[query], found)
            for query, relevant in collection.relevant.get(split, {}).items()
            if (found := tuple(place[d] for d in relevant if d in place))
        ]
        for split in ("train", test)
    }
    return _Texts(documents, names, asked["train"] if test != "train" else [], asked[test])


def _body(title: str, text: str, titles: Titles) -> str:
    """Return what is indexed of a document."""
    title, text = title.strip(), text.strip()
    if titles == "keep":
        return text if text.startswith(title) else f"{title} {text}".strip()
    return text.replace(title, " ").strip() if title else text


def _questions(
    queries: Sequence[tuple[str, tuple[int, ...]]],
    ends: np.ndarray[tuple[int], np.dtype[np.int64]],
    tokens: Tokenizer,
    length: int,
) -> tuple[Pool, Tensor]:
    """One example for each query and each corpus with documents relevant to it; and the corpus of each, (P,)."""
    rows: list[tuple[str, list[int]]] = []
    owner: list[int] = []
    for text, relevant in queries:
        by_corpus: dict[int, list[int]] = {}
        for d in relevant:
            by_corpus.setdefault(int(np.searchsorted(ends, d, side="right")), []).append(d)
        for k, found in sorted(by_corpus.items()):
            rows.append((text, found))
            owner.append(k)
    y = torch.tensor([found[0] for _, found in rows], dtype=torch.int64)
    most = max((len(found) for _, found in rows), default=1)
    also = None
    if most > 1:
        also = torch.tensor([found[1:] + [-1] * (most - len(found)) for _, found in rows], dtype=torch.int64)
    x = tokens.encode([text for text, _ in rows], length)
    return Pool(x, y, also=also), torch.tensor(owner, dtype=torch.int64)
