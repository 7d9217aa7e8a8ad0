"""Cells of tables as numbers and words."""

from __future__ import annotations

import datetime
from array import array
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from clbench.data.draws import Ints
from clbench.data.source import is_missing
from clbench.data.tables import ABSENT, Chunk

NONE = np.iinfo(np.int64).min
"""A time or a place that is not told."""
Bad = list[tuple[int, str]]
"""Where a cell stands that cannot be used, and what it holds."""


class Words:
    """A column of words as numbers, −1 where there is none."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._of: dict[str, int] = {"": -1}
        self._rows = array("q")

    def extend(self, values: Sequence[Any]) -> None:
        of = self._of
        if not all(type(value) is str for value in values):
            values = ["" if missing(value) else str(value) for value in values]
        self._rows.extend([of[value] if value in of else self._new(value) for value in values])

    def _new(self, name: str) -> int:
        code = self._of[name] = len(self.names)
        self.names.append(name)
        return code

    @cached_property
    def codes(self) -> Ints:
        """(N,) int64"""
        return np.frombuffer(self._rows, dtype=np.int64) if self._rows else np.empty(0, dtype=np.int64)

    def renamed(self, names: Sequence[str]) -> Ints:
        """(N,) the numbers that the names have in another list, −1 where they are not in it."""
        place = {name: i for i, name in enumerate(names)}
        table = np.array([*(place.get(name, -1) for name in self.names), -1], dtype=np.int64)
        return table[self.codes]


def iso(time: int) -> str:
    """Return a time in microseconds since 1970 as ISO 8601."""
    at = EPOCH + datetime.timedelta(microseconds=time)
    return at.replace(tzinfo=None).isoformat() + "Z"


EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
FIRST, LAST = -62_135_596_800, 253_402_300_800
"""Seconds since 1970 at which the years 1 and 10000 begin."""


def missing(value: Any) -> bool:
    """Whether a cell says nothing."""
    return (
        value is ABSENT or value is None or value == "" or (not isinstance(value, str) and is_missing(value))
    )


def texts_of(values: Sequence[Any], numbers: Sequence[int], bad: Bad) -> list[str]:
    bad += [
        (number, repr(None if value is ABSENT else value)[:40])
        for value, number in zip(values, numbers, strict=True)
        if not isinstance(value, str) or not value.strip() or "\0" in value
    ]
    return [value if isinstance(value, str) else "" for value in values]


def whole_numbers(values: Sequence[Any], numbers: Sequence[int], bad: Bad) -> list[int]:
    """Return whole numbers, `NONE` for what is empty."""
    if all(type(value) is int or (type(value) is str and value.isdecimal()) for value in values):
        whole = list(map(int, values))
        if min(whole) >= 0 and max(whole) < 2**62:
            return whole
    return _whole_slowly(values, numbers, bad)


def _whole_slowly(values: Sequence[Any], numbers: Sequence[int], bad: Bad) -> list[int]:
    found = []
    for value, number in zip(values, numbers, strict=True):
        whole = NONE
        if not missing(value):
            try:
                told = float(value)  # tables with gaps have 3.0 for 3
                whole = int(value) if isinstance(value, int) else int(told)
                if told != whole or not 0 <= whole < 2**62 or isinstance(value, bool):
                    raise ValueError
            except (TypeError, ValueError, OverflowError):
                whole = NONE
                bad.append((number, repr(value)[:40]))
        found.append(whole)
    return found


def iso_all(times: Ints) -> list[str]:
    """(n,) times as ISO 8601, "-" for `NONE`."""
    if (times % 1_000_000 == 0).all() and (times != NONE).all():
        whole = np.datetime_as_string(times.view("datetime64[us]"), unit="s").tolist()
        return [f"{time}Z" for time in whole]
    return ["-" if time == NONE else iso(time) for time in times.tolist()]


def times_of(values: Sequence[Any], numbers: Sequence[int], bad: Bad) -> list[int]:
    """Return microseconds since 1970, `NONE` for what is empty."""
    if all(type(value) is int or (type(value) is str and value.isdecimal()) for value in values):
        whole = list(map(int, values))
        if max(whole, default=0) < LAST:
            return [1_000_000 * time for time in whole]
    found = []
    for value, number in zip(values, numbers, strict=True):
        at = NONE
        if not missing(value):
            try:
                at = microseconds(value)
            except (TypeError, ValueError, OverflowError):
                bad.append((number, repr(value)[:40]))
        found.append(at)
    return found


def microseconds(value: Any) -> int:
    """Return a time in microseconds since 1970.

    Raises:
        ValueError, TypeError, OverflowError: it is none.
    """
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = datetime.datetime.fromisoformat(value.strip())
    if isinstance(value, datetime.datetime):
        zoned = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
        return (zoned - EPOCH) // datetime.timedelta(microseconds=1)
    if isinstance(value, datetime.date):
        return (value - EPOCH.date()).days * 86_400_000_000
    if not FIRST <= value < LAST:
        raise ValueError("it is in no year from 1 to 9999; milliseconds are to be divided by 1000")
    return round(float(value) * 1_000_000)


def numbers_of(chunk: Chunk, columns: Sequence[str], bad: Bad, width: int | None) -> npt.NDArray[Any]:
    """(n, D) the features of rows: columns of numbers, or one of lists of numbers.

    Args:
        width: D, of the rows before; None where there are none.
    """
    cells = [chunk.columns.get(column, [ABSENT] * len(chunk.numbers)) for column in columns]
    rows: Any = (
        cells[0]
        if len(columns) == 1 and any(isinstance(cell, list | tuple) for cell in cells[0])
        else list(zip(*cells, strict=True))
    )
    try:
        if all(type(one) is str for one in rows[0]):  # CSV
            found = np.array(rows, dtype=str)
            try:
                return found.astype(np.int64)
            except ValueError:
                return found.astype(np.float32)
        found = np.array(rows)
        if found.ndim == 2 and found.dtype.kind in "iuf" and width in (None, found.shape[1]):
            return found.astype(np.float32) if found.dtype.kind == "f" else found
    except (TypeError, ValueError):
        pass
    if width is None:
        width = next((len(row) for row in rows if isinstance(row, list | tuple)), 1)
    made = np.zeros(
        (len(rows), width), dtype=np.float32
    )  # of booleans, decimal numbers, numbers as text, too
    for k, (number, row) in enumerate(zip(chunk.numbers, rows, strict=True)):
        if not isinstance(row, list | tuple):
            bad.append((number, repr(row)[:40]))
            continue
        values = [*map(_number, row)]
        if None in values:
            j = values.index(None)
            of = f"{columns[j]} is " if len(columns) > 1 else ""
            bad.append((number, of + repr(None if row[j] is ABSENT else row[j])[:40]))
        elif len(row) != width:
            bad.append((number, f"{len(row)} numbers, where the first has {width}"))
        else:
            made[k] = values
    return made


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
