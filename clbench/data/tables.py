"""Tables from files, a few hundred rows at a time: CSV, TSV, JSON lines, Parquet.

Nothing is kept but the rows at hand, so that a table of millions of rows costs what its reader keeps of it.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from clbench.errors import DataError

SAID = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
AT_ONCE = 512
"""Rows of a chunk: few enough to stay in a processor's cache."""


class Chunk(NamedTuple):
    """Some rows of a table.

    Attributes:
        numbers: where each stands: its line, in Parquet its row, from 1.
        columns: what each column holds, by its name; None where a row of JSON lacks it.
    """

    numbers: Sequence[int]
    columns: dict[str, Sequence[Any]]


def read_chunks(file: Path, only: Sequence[str] | None = None) -> Iterator[Chunk]:
    """Yield the rows of a table.

    Args:
        only: columns that are wanted, of Parquet; others need not be read. All of them by default.

    Raises:
        DataError: the file cannot be read, or is none of the kinds that are; says where.
    """
    reader = CHUNKS.get(file.suffix.lower())
    if reader is None:
        raise DataError(
            f"{file} is none of {', '.join(CHUNKS)}, which are read; its name ends with '{file.suffix}'."
        )
    return reader(file, only)


def read_entries(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every row of a table with the words that say where it stands."""
    unit = unit_of(file)
    for numbers, columns in read_chunks(file):
        held = [key for key, values in columns.items() if values is not None]
        for number, *values in zip(numbers, *(columns[key] for key in held), strict=True):
            yield (
                f"{file}, {unit} {number}",
                {k: v for k, v in zip(held, values, strict=True) if v is not ABSENT},
            )


def column_names(file: Path) -> list[str] | None:
    """Return the columns of a table; None of JSON lines, where only the lines tell them.

    Raises:
        DataError: the file cannot be read, or is none of the kinds that are.
    """
    if file.suffix.lower() == ".parquet":
        with _opened(file) as table:
            return list(table.schema_arrow.names)
    if file.suffix.lower() == ".jsonl":
        return None
    return next((list(chunk.columns) for chunk in read_chunks(file)), [])


def unit_of(file: Path) -> str:
    """Return what rows of a file are counted in."""
    return "row" if file.suffix.lower() == ".parquet" else "line"


class _Absent:
    """In place of what a line of JSON does not have."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT = _Absent()


@contextlib.contextmanager
def _lines(file: Path) -> Iterator[TextIO]:
    """Lend a text file.

    Raises:
        DataError: it cannot be read, or is no UTF-8.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            yield lines
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise _not_text(file) from None


def _not_text(file: Path) -> DataError:
    with file.open("rb") as lines:
        for line, content in enumerate(lines, 1):
            try:
                content.decode("utf-8-sig" if line == 1 else "utf-8")
            except UnicodeDecodeError as error:
                return DataError(
                    f"{file}, line {line}: byte 0x{content[error.start]:02x} is no UTF-8 ({error.reason}); save the "
                    "file as UTF-8."
                )
    return DataError(f"{file} is no UTF-8; save it as UTF-8.")


def _csv(file: Path, _only: Sequence[str] | None) -> Iterator[Chunk]:
    with _lines(file) as lines:
        reader = csv.reader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        limit = csv.field_size_limit(2**31 - 1)  # long texts are cut later, and told
        header: list[str] | None = None
        line = 1  # of the row that comes next
        try:
            while read := list(itertools.islice(reader, AT_ONCE if header else 1)):
                numbers: Sequence[int] = range(line, line + len(read))
                if reader.line_num != line + len(read) - 1:  # rows of several lines
                    ends = itertools.accumulate(1 + sum(field.count("\n") for field in row) for row in read)
                    numbers = [line, *(line + end for end in ends)][:-1]
                line = reader.line_num + 1
                if not all(read):
                    numbers = [number for number, row in zip(numbers, read, strict=True) if row]
                    read = [row for row in read if row]
                if header is None:
                    header = (
                        _header(f"{file}, line {numbers[0]}", read[0], reader.dialect.delimiter)
                        if read
                        else None
                    )
                    continue
                for number, row in (
                    zip(numbers, read, strict=True) if {*map(len, read)} != {len(header)} else ()
                ):
                    if len(row) != len(header):
                        raise DataError(
                            f"{file}, line {number} has {len(row)} fields and the first line names {len(header)}; a "
                            "text that holds the delimiter stands between double quotes."
                        )
                if read:
                    yield Chunk(numbers, dict(zip(header, zip(*read, strict=True), strict=True)))
        except csv.Error as error:
            raise DataError(f"{file}, line {reader.line_num}: {error}.") from error
        finally:
            csv.field_size_limit(limit)


def _header(where: str, fields: Sequence[str], delimiter: str) -> list[str]:
    names = [name.strip() for name in fields]
    if len(names) == 1 and (other := next((mark for mark in ";\t,|" if mark in names[0]), None)):
        raise DataError(
            f"{where} is one column, {names[0]!r}; columns are separated by {SAID[delimiter]} in this kind of file, "
            f"not by {SAID[other]}. Save it so"
            + (", or name it .tsv." if other == "\t" else ", or name it .csv." if other == "," else ".")
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{where} names the column '{twice[0]}' twice.")
    return names


def _jsonl(file: Path, _only: Sequence[str] | None) -> Iterator[Chunk]:
    numbers: list[int] = []
    rows: list[dict[str, Any]] = []

    def chunk() -> Chunk:
        keys = dict.fromkeys(key for row in rows for key in row)
        return Chunk(numbers, {key: [row.get(key, ABSENT) for row in rows] for key in keys})

    with _lines(file) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where} is not JSON: {error}.") from error
            if not isinstance(entry, dict):
                raise DataError(
                    f'{where} must hold an object such as {{"text": …, "label": …}}; it is {line.strip()[:40]!r}.'
                )
            numbers.append(number)
            rows.append(entry)
            if len(rows) == AT_ONCE:
                yield chunk()
                numbers, rows = [], []
        if rows:
            yield chunk()


def _parquet(file: Path, only: Sequence[str] | None) -> Iterator[Chunk]:
    number = 1
    with _opened(file) as table:
        for batch in table.iter_batches(AT_ONCE, columns=only):
            held = zip(batch.schema.names, batch.columns, strict=True)
            columns = {name: column.to_pylist() for name, column in held}
            yield Chunk(range(number, number + len(batch)), columns)
            number += len(batch)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Lend a Parquet file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(
            f"{file}: Parquet needs pyarrow ({error}); pip install 'clbench[parquet]'."
        ) from error
    try:
        with parquet.ParquetFile(file) as table:
            yield table
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not a readable Parquet file: {str(error).splitlines()[0]}") from error


CHUNKS: dict[str, Callable[[Path, Sequence[str] | None], Iterator[Chunk]]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
"""What is read, by the ends of names, in capitals, too."""
