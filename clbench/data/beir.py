"""Documents and queries from a folder in the layout of BEIR: `corpus.jsonl`, `queries.jsonl` and `qrels/*.tsv`.

Thakur et al., "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of Information Retrieval Models", NeurIPS 2021
Datasets and Benchmarks, arXiv:2104.08663.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clbench.data.files import data_folder
from clbench.errors import DataError


@dataclass(frozen=True, eq=False)
class Collection:
    """Documents, queries, and which documents are relevant to which query.

    Attributes:
        name: for messages.
        ids: (N) of the documents, in the order of the file.
        titles, texts: (N) of the documents; a title may be empty.
        queries: text by query id.
        relevant: of each split, the relevant documents of each query, both by id, in the order of the file.
    """

    name: str
    ids: tuple[str, ...]
    titles: tuple[str, ...]
    texts: tuple[str, ...]
    queries: Mapping[str, str]
    relevant: Mapping[str, Mapping[str, tuple[str, ...]]]

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<Collection {self.name}: {len(self)} documents, {len(self.queries)} queries>"


def beir_folder(given: str | Path) -> Path:
    """Return the folder of a collection: a path, or the name of a folder in `$CLBENCH_DATA`.

    Raises:
        DataError: there is no such folder; says where it was looked for.
    """
    path = Path(given).expanduser()
    inside = data_folder() / path
    for folder in (path, inside):
        if (folder / "corpus.jsonl").is_file():
            return folder
    raise DataError(
        f"There is no collection '{given}': neither {path} nor {inside} holds a corpus.jsonl. A collection is a folder "
        "with corpus.jsonl, queries.jsonl and qrels/test.tsv, as the BEIR collections have them; put it into "
        "CLBENCH_DATA or give its path."
    )


def read_beir(folder: str | Path) -> Collection:
    """Return a collection from a folder, every split of `qrels` that there is.

    Documents without a word are left out, with what is said of them; judgements of 0 or less are no relevance.

    Raises:
        DataError: a file that lacks or cannot be read; names file and line, what is wrong and what is allowed.
    """
    root = beir_folder(folder)
    files = [root / "corpus.jsonl", root / "queries.jsonl", *sorted((root / "qrels").glob("*.tsv"))]
    stats = [file.stat() for file in files if file.is_file()]
    return _read_beir(root, tuple((stat.st_mtime_ns, stat.st_size) for stat in stats))


@functools.lru_cache(maxsize=4)  # a suite builds the same benchmark for every cell
def _read_beir(root: Path, _stats: tuple[tuple[int, int], ...]) -> Collection:
    documents = _read_texts(root / "corpus.jsonl")
    if not documents:
        raise DataError(f"{root / 'corpus.jsonl'} holds no document.")
    queries = {key: text for key, (_, text) in _read_texts(root / "queries.jsonl").items()}
    files = sorted((root / "qrels").glob("*.tsv"))
    if not files:
        raise DataError(
            f"{root / 'qrels'} holds no judgements; it needs test.tsv, with lines of query-id, corpus-id and score "
            "between tabs."
        )
    blank = {key for key, (title, text) in documents.items() if not f"{title}{text}".strip()}
    relevant = {file.stem: _read_judgements(file, queries, documents, blank, root.name) for file in files}
    kept = [key for key in documents if key not in blank]
    titles, texts = zip(*(documents[key] for key in kept), strict=True)
    return Collection(root.name, tuple(kept), titles, texts, queries, relevant)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines that are not empty, each with the words that say where it is."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}, line {number}", line
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start}.") from error


def _read_texts(path: Path) -> dict[str, tuple[str, str]]:
    """Title and text by id, in the order of the file."""
    found: dict[str, tuple[str, str]] = {}
    where_of: dict[str, str] = {}
    for where, line in _lines(path):
        try:
            entry: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is not JSON: {error}.") from error
        if not isinstance(entry, dict):
            raise DataError(
                f"{where} must hold an object with '_id' and 'text'; it holds {line.strip()[:40]!r}."
            )
        for key in ("_id", "text"):
            if not isinstance(entry.get(key), str):
                raise DataError(f"{where}: '{key}' must be a text; it is {entry.get(key)!r}.")
        title = entry.get("title") or ""
        if not isinstance(title, str):
            raise DataError(f"{where}: 'title' must be a text; it is {title!r}.")
        if entry["_id"] in found:
            raise DataError(f"{where}: the id '{entry['_id']}' is taken by {where_of[entry['_id']]}.")
        found[entry["_id"]], where_of[entry["_id"]] = (title, entry["text"]), where
    return found


def _read_judgements(
    path: Path, queries: Mapping[str, Any], documents: Mapping[str, Any], blank: set[str], name: str
) -> dict[str, tuple[str, ...]]:
    """Return the relevant documents of each query that has any, in the order of the file."""
    found: dict[str, dict[str, None]] = {}
    for number, (where, line) in enumerate(_lines(path)):
        fields = line.rstrip("\r\n").split("\t")
        if len(fields) != 3:
            raise DataError(
                f"{where} must hold query-id, corpus-id and score between tabs; it holds {line.rstrip()[:60]!r}."
            )
        query, document, score = fields
        try:
            grade = float(score)
        except ValueError:
            if number == 0:  # the header
                continue
            raise DataError(f"{where}: the score must be a number; it is '{score}'.") from None
        if query not in queries:
            raise DataError(f"{where}: there is no query '{query}' in {name}/queries.jsonl.")
        if document not in documents:
            raise DataError(f"{where}: there is no document '{document}' in {name}/corpus.jsonl.")
        if grade > 0 and document not in blank:
            found.setdefault(query, {})[document] = None
    return {query: tuple(given) for query, given in found.items()}
