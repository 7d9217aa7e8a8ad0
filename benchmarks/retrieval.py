"""Retrieval streams: a search index that meets one corpus of documents after the other.

Mehta et al., "DSI++: Updating Transformer Memory with New Documents", EMNLP 2023, arXiv:2212.09744.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import clbench.data
from clbench.data import CorpusOrder, Titles, read_beir, retrieval
from clbench.ranges import Count, Part, Seed
from clbench.registry import File, register_benchmarks
from clbench.types import Benchmark

EMBEDDED = Path(clbench.data.__file__).parent / "numpy_docs"


@register_benchmarks("retrieval.yaml", primary="hits_at_10")
def dsi(
    told: dict[str, Any],
    *,
    folder: File = str(EMBEDDED),
    order: CorpusOrder = "file",
    documents: Count | None = None,
    first: Part = 0.5,
    corpora: Count = 5,
    length: Count = 32,
    vocabulary: Count = 8192,
    tokenizer: File | None = None,
    titles: Titles = "keep",
    test: str = "test",
    seed: Seed = 0,
    duplicates: int = 0,
) -> Benchmark:
    """Documents, a class each, come corpus by corpus, and queries ask for them.

    Args:
        folder: its path, or its name in CLBENCH_DATA.
        order: in which documents come: file or random.
        documents: how many, the first ones in that order; all if none is given.
        first: share of them in the first corpus.
        corpora: how many share the others evenly.
        length: tokens that documents and queries are cut to.
        vocabulary: tokens of the tokenizer fitted to the first corpus, at most.
        tokenizer: a file tokenizer.json in its place.
        titles: keep them before the text; remove them from it; or make them the test queries (query).
        test: the split of qrels with held-out queries.
        seed: of a random order.
        duplicates: texts that are a training query and a test query.
    """
    built = retrieval(
        read_beir(folder),
        **told,
        order=order,
        documents=documents,
        first=first,
        corpora=corpora,
        length=length,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        titles=titles,
        test=test,
        seed=seed,
    )
    return replace(built, duplicates=duplicates)
