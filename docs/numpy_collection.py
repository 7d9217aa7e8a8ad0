"""Write the embedded collection `clbench/data/numpy_docs` from the docstrings of the NumPy that is installed.

Documents are what the docstrings of public functions, methods and classes say after their first sentence, prose only;
queries are first sentences, and what other functions say of one under "See Also". Of several queries of a document
the one with the smallest MD5 is for testing, of single ones a quarter is.

    python docs/numpy_collection.py
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent.parent / "clbench" / "data" / "numpy_docs"
PLACES: dict[str, Any] = {
    "numpy": np,
    "numpy.linalg": np.linalg,
    "numpy.fft": np.fft,
    "numpy.random.Generator": np.random.Generator,
    "numpy.ndarray": np.ndarray,
    "numpy.char": np.char,
    "numpy.ma": np.ma,
    "numpy.polynomial.polynomial": np.polynomial.polynomial,
    "numpy.lib.stride_tricks": np.lib.stride_tricks,
    "numpy.testing": np.testing,
}
PROSE = ("Notes", "Returns", "Raises", "Warnings", "Parameters")
"""Sections of a document after what comes before them; last what many functions share."""
WORDS = 12, 60
"""Fewest words of a document, and how many are kept."""


def sections(docstring: str) -> dict[str, str]:
    """The parts of a docstring by heading; the first has none."""
    found, heading = {"": ""}, ""
    lines = docstring.splitlines()
    for i, line in enumerate(lines):
        if re.fullmatch(r"-{3,}", line.strip()):
            continue
        if i + 1 < len(lines) and re.fullmatch(r"-{3,}", lines[i + 1].strip()):
            heading = line.strip()
            found.setdefault(heading, "")
            continue
        found[heading] += line + "\n"
    return found


def plain(text: str) -> str:
    """Prose without mark-up, formulas, signatures, code and web addresses."""
    text = re.sub(r"(?m)^\.\. .*(\n(?: +.*| *))*", " ", text)
    text = re.sub(r"(?m)^(>>>|\.\.\.) .*$", " ", text)
    text = re.sub(r":[a-z:]+:`~?([^`<]*)(<[^>]*>)?`", r"\1", text)
    text = re.sub(r"`+|\*+|\[\d+\]_", "", text)
    text = re.sub(r"\s*(<https?://[^>]*>_*|https?://[^\s,)]+)", "", text)
    return re.sub(r"\s+", " ", text).strip()


def first_sentence(text: str) -> tuple[str, str]:
    """The first paragraph, and the rest; a signature above it is passed over."""
    paragraphs = [part for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]
    while paragraphs and re.match(r"^[\w.]+\(.*\)", paragraphs[0].strip(), re.DOTALL):
        paragraphs.pop(0)
    return (plain(paragraphs[0]), "\n\n".join(paragraphs[1:])) if paragraphs else ("", "")


def see_also(text: str) -> list[tuple[str, str]]:
    """Names and what is said of each."""
    return [
        (name, plain(said))
        for name, said in re.findall(r"(?m)^\s*([\w.]+)\s*:\s+(.+(?:\n {4,}.+)*)$", text)
        if len(said.split()) > 2
    ]


def main() -> None:
    documents: dict[str, tuple[str, str]] = {}
    said_of: list[tuple[str, str, str]] = []
    objects: set[int] = set()
    for place, module in PLACES.items():
        for name in sorted(n for n in dir(module) if not n.startswith("_")):
            thing = getattr(module, name)
            docstring = inspect.getdoc(thing) or ""
            if (
                id(thing) in objects
                or not callable(thing)
                or not docstring.isascii()
                or "this platform" in docstring
            ):
                continue
            objects.add(id(thing))
            parts = sections(docstring)
            summary, rest = first_sentence(parts[""])
            body = plain("\n\n".join([rest, *(parts.get(heading, "") for heading in PROSE)]))
            words = body.split()
            if not 3 < len(summary.split()) < 30 or len(words) < WORDS[0]:
                continue
            said_of += [(place, other, said) for other, said in see_also(parts.get("See Also", ""))]
            if (text := " ".join(words[: WORDS[1]])) not in {body for _, body in documents.values()}:
                documents[f"{place}.{name}"] = (summary, text)
    queries: dict[str, list[str]] = {name: [summary] for name, (summary, _) in documents.items()}
    taken = {summary for summary, _ in documents.values()}
    for place, other, said in said_of:
        for name in (other, f"numpy.{other}", f"{place}.{other}"):
            if name in queries and said not in taken:
                queries[name].append(said)
                taken.add(said)
                break
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "qrels").mkdir(parents=True)
    lines, numbered, judged = [], [], {"train": [], "test": []}
    summaries = [summary for summary, _ in documents.values()]
    for name, (summary, text) in documents.items():
        lines.append({"_id": name, "title": "", "text": text})
        mine = queries[name] if summaries.count(summary) == 1 else queries[name][1:]
        digests = {query: hashlib.md5(query.encode()).hexdigest() for query in mine}
        for query in mine:
            first = digests[query] == min(digests.values())
            tested = first and (len(mine) > 1 or int(digests[query], 16) % 4 == 0)
            numbered.append({"_id": str(len(numbered) + 1), "text": query})
            judged["test" if tested else "train"].append(f"{len(numbered)}\t{name}\t1")
    for file, rows in (("corpus", lines), ("queries", numbered)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (FOLDER / f"{file}.jsonl").write_text(text, encoding="utf-8")
    for split, pairs in judged.items():
        text = "\n".join(["query-id\tcorpus-id\tscore", *pairs]) + "\n"
        (FOLDER / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")
    licence = next(Path(np.__file__).parent.parent.glob("numpy-*.dist-info/licenses/LICENSE.txt"))
    notice = licence.read_text(encoding="utf-8").split("----\n")[0].strip()
    (FOLDER / "LICENSE.txt").write_text(
        f"corpus.jsonl and queries.jsonl are excerpts of the docstrings of NumPy {np.__version__}, whose licence "
        "is:\n\n"
        f"{notice}\n",
        encoding="utf-8",
    )
    print(len(lines), "documents", len(numbered), "queries", {k: len(v) for k, v in judged.items()})


if __name__ == "__main__":
    main()
