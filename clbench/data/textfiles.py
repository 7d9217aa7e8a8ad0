"""Labelled texts from files: CSV, TSV, JSON lines or Parquet, with a column of texts and one of labels."""

from __future__ import annotations

import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clbench.data.files import data_folder, sha256
from clbench.data.source import Source
from clbench.data.tables import CHUNKS, read_entries
from clbench.data.texts import LONGEST, Row, check_rows, text_source
from clbench.errors import DataError, choices

SPLITS = {
    "train": "train",
    "test": "test",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
}
"""Names of files, and the part of a data set that they are."""
PIECE = re.compile(r"(?P<split>[a-z]+)[-_](?P<number>\d+)(?:-of-(?P<of>\d+))?(?:-[0-9a-f]{16})?")
"""The name of a part in several files, in lower case: train-00000-of-00002, train_1."""
CLASSES = "classes.txt"
"""Beside the files of a folder: the labels, one a line, in the order that numbers them."""

Columns = tuple[str, str, str | None]
"""Those of texts, labels, and domains."""


def read_texts(
    path: str | Path,
    *,
    text: str = "text",
    label: str = "label",
    domain: str | None = None,
    test_fraction: float = 0.2,
    longest: int = LONGEST,
) -> Source:
    """Return a data set of texts from a file, or from a folder with train.*, test.* and perhaps valid.*.

    Args:
        path: .csv, .tsv, .jsonl or .parquet (which needs pyarrow), or a folder of them; or its name in `CLBENCH_DATA`.
            A part may be in several files with numbers, as train-00000-of-00002.parquet. A file classes.txt in the
            folder, one label a line, numbers the classes.
        text, label, domain: the columns of texts, labels and domains, if any.
        test_fraction: of a single file, the share of each class that is for testing, evenly spaced.
        longest: bytes that are kept of a text.

    Raises:
        DataError: no such file, a column that is missing, or a row that cannot be used; names file and line.
    """
    place = _place(path)
    files = _files(place)
    return _read(
        place, tuple(files.items()), _digests(place, files), (text, label, domain), test_fraction, longest
    )


@functools.lru_cache(maxsize=4)  # a suite builds the same data set for every seed
def _read(
    place: Path,
    files: tuple[tuple[str, tuple[Path, ...]], ...],
    _seen: tuple[str, ...],
    columns: Columns,
    test_fraction: float,
    longest: int,
) -> Source:
    rows = {split: list(_rows(pieces, columns)) for split, pieces in files}
    for split, pieces in files:
        if not rows[split]:
            raise DataError(f"{pieces[0]} holds no text.")
    if "test" not in rows:
        check_rows(rows["train"])
        rows = _shared_out(rows["train"], test_fraction, str(place))
    return text_source(rows, class_names=_listed(place), longest=longest, who=str(place))


def read_text_tasks(
    path: str | Path, tasks: Sequence[str], *, shared: bool, longest: int = LONGEST
) -> Source:
    """Return several data sets of texts as one, each a domain of its own.

    Args:
        path: a folder with one for each task, laid out as `read_texts` wants it, or its name in `CLBENCH_DATA`.
        tasks: names of folders, in order.
        shared: that labels of one name are one class, in whichever task they are; otherwise each task has its own.
        longest: bytes that are kept of a text.

    Raises:
        DataError: a folder or a file that lacks, or a row that cannot be used.
    """
    place = _place(path)
    files = {task: _files(place / task) for task in tasks if (place / task).is_dir()}
    if lacking := [task for task in tasks if task not in files]:
        there = sorted(folder.name for folder in place.iterdir() if folder.is_dir())
        raise DataError(f"{place} holds no task '{lacking[0]}'.{choices(lacking[0], there)}")
    digests = tuple(_digests(place / task, found) for task, found in files.items())
    return _read_tasks(place, tuple(tasks), digests, shared, longest)


@functools.lru_cache(maxsize=4)
def _read_tasks(
    place: Path, tasks: tuple[str, ...], _seen: tuple[tuple[str, ...], ...], shared: bool, longest: int
) -> Source:
    rows: dict[str, list[Row]] = {"train": [], "test": []}
    names: dict[str, None] = {}
    for task in tasks:
        found = {
            split: list(_rows(pieces, ("text", "label", None)))
            for split, pieces in _files(place / task).items()
        }
        listed = _listed(place / task) or sorted({str(row.label) for row in found["train"]})
        names |= dict.fromkeys(name if shared else f"{task}: {name}" for name in listed)
        for split, into in rows.items():
            check_rows(found[split])
            for row in found[split]:
                label = str(row.label) if shared else f"{task}: {row.label}"
                into.append(Row(row.where, row.text, label, task))
    return text_source(rows, class_names=tuple(names), domain_names=tasks, longest=longest, who=str(place))


def _digests(place: Path, files: Mapping[str, Sequence[Path]]) -> tuple[str, ...]:
    """Return what tells whether files, or the list of classes beside them, are those that were read before."""
    every = (*itertools.chain.from_iterable(files.values()), place / CLASSES)
    return tuple(sha256(file) for file in every if file.is_file())


def _listed(place: Path) -> tuple[str, ...]:
    """Return the labels that a folder lists; none where it lists none."""
    file = place / CLASSES
    lines = _decoded(file).splitlines() if place.is_dir() and file.is_file() else []
    return tuple(line for line in lines if line.strip())


def _shared_out(rows: list[Row], fraction: float, who: str) -> dict[str, list[Row]]:
    """Rows for training, and of each class an evenly spaced share for testing."""
    seen: dict[Any, int] = defaultdict(int)
    found: dict[str, list[Row]] = {"train": [], "test": []}
    for row in rows:
        n = seen[row.label] = seen[row.label] + 1
        tested = int(n * fraction) > int((n - 1) * fraction)
        found["test" if tested else "train"].append(row)
    for label, n in seen.items():
        if int(n * fraction) < 1:
            raise DataError(
                f"{who}: of {n} of the class '{label}', a test_fraction of {fraction:g} leaves none for testing; raise "
                "it, or give a folder with train and test files."
            )
    return found


def _place(path: str | Path) -> Path:
    given = Path(path).expanduser()
    for place in (given, data_folder() / given):
        if place.exists():
            return place
    raise DataError(
        f"There are no texts at '{path}': neither {given} nor {data_folder() / given} exists. A file "
        f"({', '.join(CHUNKS)}) or a folder with train and test files is read."
    )


def _files(place: Path) -> dict[str, tuple[Path, ...]]:
    """Return the files of each part of a data set, in the order of their numbers where one is in several.

    Raises:
        DataError: a part that lacks, is there twice, or is not whole.
    """
    if not place.is_dir():
        return {"train": (place,)}
    found: dict[str, list[tuple[int, int, Path]]] = {}  # number, of how many; 0 of one that stands alone
    for file in sorted(place.iterdir()):
        name = file.stem.lower()
        piece = PIECE.fullmatch(name)
        split = SPLITS.get(piece["split"] if piece else name)
        if split is None or file.suffix.lower() not in CHUNKS:
            continue
        number, of = (int(piece["number"]), int(piece["of"] or 0)) if piece else (0, 0)
        others = found.setdefault(split, [])
        for other in others:
            if piece is None or PIECE.fullmatch(other[2].stem.lower()) is None or other[:2] == (number, of):
                raise DataError(f"{place} holds both {other[2].name} and {file.name}; leave one of them.")
        others.append((number, of, file))
    for split, pieces in found.items():
        pieces.sort()
        if (of := pieces[-1][1]) and (len(pieces) != of or any(piece[1] != of for piece in pieces)):
            raise DataError(
                f"{place} holds {len(pieces)} of the {of} files that {pieces[-1][2].name} speaks of; put all of the "
                f"{split} texts there."
            )
    for split in ("train", "test"):
        if split not in found:
            there = ", ".join(sorted(file.name for file in place.iterdir())) or "nothing"
            raise DataError(
                f"{place} holds no {split} file ({', '.join(f'{split}{suffix}' for suffix in CHUNKS)}); it holds "
                f"{there}."
            )
    return {split: tuple(file for *_, file in pieces) for split, pieces in found.items()}


def _rows(files: Sequence[Path], columns: Columns) -> Iterator[Row]:
    for where, entry in itertools.chain.from_iterable(map(read_entries, files)):
        for column in columns:
            if column is not None and column not in entry:
                raise DataError(
                    f"{where}: there is no column '{column}'.{choices(column, entry)} Say which column holds what by "
                    "text=…, label=… and domain=…."
                )
        text, label, domain = columns
        yield Row(where, entry[text], entry[label], None if domain is None else entry[domain])


def _decoded(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line}: byte 0x{data[error.start]:02x} is no UTF-8 ({error.reason}); save the file as UTF-8."
        ) from error
