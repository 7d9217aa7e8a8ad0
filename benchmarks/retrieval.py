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
from clbench.registry import File, register_benchmark
from clbench.types import Benchmark

EMBEDDED = Path(clbench.data.__file__).parent / "numpy_docs"


@register_benchmark("dsi", version=1)
def dsi(
    folder: File,
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
) -> Benchmark:
    """Your own documents and queries, from a folder with corpus.jsonl, queries.jsonl and qrels/*.tsv, as BEIR's.

    Args:
        folder: its path, or its name in CLBENCH_DATA.
        order: in which documents come: file, article (documents of one title side by side) or random.
        documents: how many, the first ones in that order; all if none is given.
        first: share of them in the first corpus.
        corpora: how many share the others evenly.
        length: tokens that documents and queries are cut to.
        vocabulary: tokens of the tokenizer fitted to the first corpus, at most.
        tokenizer: a file tokenizer.json in its place.
        titles: keep them before the text; remove them from it; or make them the test queries (query).
        test: the split of qrels with held-out queries.
        seed: of a random order.
    """
    return _built("dsi", folder, "", **_given(locals(), "folder"))


@register_benchmark("dsi-numpy", version=1)
def dsi_numpy(
    order: CorpusOrder = "file",
    documents: Count | None = None,
    first: Part = 0.5,
    corpora: Count = 5,
    length: Count = 32,
    vocabulary: Count = 4096,
    seed: Seed = 0,
) -> Benchmark:
    """What NumPy's functions do: docstrings as documents, their first sentences as queries. Nothing to download.

    Args:
        order: in which documents come: file (module by module) or random.
        documents: how many, the first ones in that order; all if none is given.
        first: share of them in the first corpus.
        corpora: how many share the others evenly.
        length: tokens that documents and queries are cut to.
        vocabulary: tokens of the tokenizer fitted to the first corpus, at most.
        seed: of a random order.
    """
    notes = (
        "Excerpts of the docstrings of NumPy 2.4.6 (BSD licence, beside the data): a document is what follows the "
        "first sentence, and queries are first sentences and what other functions say of one."
    )
    built = _built("dsi-numpy", EMBEDDED, notes, **_given(locals(), "notes"))
    return replace(built, duplicates=1)  # a sentence is a training query and a test query


@register_benchmark("dsi-squad-sentences", version=1)
def dsi_squad_sentences(
    order: CorpusOrder = "file",
    documents: Count | None = None,
    first: Part = 0.5,
    corpora: Count = 5,
    length: Count = 32,
    vocabulary: Count = 8192,
    tokenizer: File | None = None,
    seed: Seed = 0,
) -> Benchmark:
    """Sentences of Wikipedia as documents, questions of SQuAD as queries: article after article, in file order.

    Args:
        order: in which documents come: file (article after article) or random.
        documents: how many, the first ones in that order; all if none is given.
        first: share of them in the first corpus.
        corpora: how many share the others evenly.
        length: tokens that documents and queries are cut to.
        vocabulary: tokens of the tokenizer fitted to the first corpus, at most.
        tokenizer: a file tokenizer.json in its place.
        seed: of a random order.
    """
    notes = (
        "From the folder squad_sentences in CLBENCH_DATA: lower-cased sentences and questions of SQuAD 1.1 (Du et al., "
        "ACL 2017, arXiv:1705.00106)."
    )
    return _built("dsi-squad-sentences", "squad_sentences", notes, **_given(locals(), "notes"))


@register_benchmark("dsi-boolq", version=1)
def dsi_boolq(
    order: CorpusOrder = "file",
    documents: Count | None = None,
    first: Part = 0.5,
    corpora: Count = 5,
    length: Count = 32,
    vocabulary: Count = 8192,
    tokenizer: File | None = None,
    titles: Titles = "keep",
    seed: Seed = 0,
) -> Benchmark:
    """Passages of Wikipedia as documents, people's yes-or-no questions as queries.

    Args:
        order: in which documents come: file, article (passages of one title side by side) or random.
        documents: how many, the first ones in that order; all if none is given.
        first: share of them in the first corpus.
        corpora: how many share the others evenly.
        length: tokens that documents and queries are cut to.
        vocabulary: tokens of the tokenizer fitted to the first corpus, at most.
        tokenizer: a file tokenizer.json in its place.
        titles: keep them before the text; remove them from it; or make them the test queries (query).
        seed: of a random order.
    """
    notes = "From the folder boolq in CLBENCH_DATA: BoolQ (Clark et al., NAACL 2019, arXiv:1905.10044)."
    return _built("dsi-boolq", "boolq", notes, **_given(locals(), "notes"))


@register_benchmark("dsi-cranfield", version=1)
def dsi_cranfield(
    order: CorpusOrder = "file",
    documents: Count | None = None,
    first: Part = 0.5,
    corpora: Count = 5,
    length: Count = 64,
    vocabulary: Count = 8192,
    titles: Titles = "query",
    seed: Seed = 0,
) -> Benchmark:
    """Abstracts on aerodynamics as documents; their titles, taken out of them, as queries.

    Args:
        order: in which documents come: file or random.
        documents: how many, the first ones in that order; all if none is given.
        first: share of them in the first corpus.
        corpora: how many share the others evenly.
        length: tokens that documents and queries are cut to.
        vocabulary: tokens of the tokenizer fitted to the first corpus, at most.
        titles: test queries (query), or left before the text (keep) or taken out (remove) with the collection's own 225
            queries as test queries.
        seed: of a random order.
    """
    notes = "From the folder cranfield in CLBENCH_DATA: the Cranfield collection (Cleverdon, 1967)."
    return _built("dsi-cranfield", "cranfield", notes, **_given(locals(), "notes"))


def _given(values: dict[str, Any], *without: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in without}


def _built(name: str, folder: str | Path, notes: str, **params: Any) -> Benchmark:
    spec = {"folder": str(folder), **params} if name == "dsi" else params
    return retrieval(read_beir(folder), name=name, notes=notes, spec=spec, **params)
