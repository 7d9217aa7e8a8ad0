"""Ranges of numbers, for signatures and configurations: `def er(memory: Natural = 200, draw: Natural | None = None)`.

    Count        a whole number ≥ 1: sizes, periods, examples that something needs
    Natural      a whole number ≥ 0: sizes and numbers of steps whose 0 means none
    Seed         the same, of random streams
    Even         a whole number ≥ 2 and a multiple of 2: what is halved
    Percent      a whole number from 0 to 100
    Whole        any whole number
    Positive     a number > 0: learning rates, temperatures
    NotNegative  a number ≥ 0: weights of losses, norms, noise
    Share        a number from 0 to 1: probabilities, shares
    Fraction     a number ≥ 0 and < 1: momenta, shares that leave something over
    Part         a number > 0 and < 1: shares that take something, too
    Real         any number

A range of one's own is written as pydantic reads it: `Annotated[float, Field(gt=0, le=2)]`.

Whatever its range, a number is held to what can be computed with: it is finite and within float32, a whole one within
64 bits, and no truth value. That goes for a plain `int` or `float`, too; `Field(allow_inf_nan=True)` lets infinities
pass.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

__all__ = [
    "Count",
    "Even",
    "Fraction",
    "Natural",
    "NotNegative",
    "Part",
    "Percent",
    "Positive",
    "Real",
    "Seed",
    "Share",
    "Whole",
]

UNIONS = (typing.Union, types.UnionType)
LISTS = (list, tuple, set, frozenset, Sequence)

LARGEST, SMALLEST = (2 - 2**-23) * 2.0**127, 2.0**-149
"""The largest number of float32, and the smallest above 0."""


class _Held:
    """An annotation that says what every number is held to."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        read = core_schema.no_info_before_validator_function(_no_truth_value, handler(source))
        return core_schema.no_info_after_validator_function(_computable, read)

    def __repr__(self) -> str:
        return "HELD"


HELD = _Held()

Count = Annotated[int, Field(ge=1), HELD]
Natural = Annotated[int, Field(ge=0), HELD]
Seed = Natural
Even = Annotated[int, Field(ge=2, multiple_of=2), HELD]
Percent = Annotated[int, Field(ge=0, le=100), HELD]
Whole = Annotated[int, HELD]
Positive = Annotated[float, Field(gt=0), HELD]
NotNegative = Annotated[float, Field(ge=0), HELD]
Share = Annotated[float, Field(ge=0, le=1), HELD]
Fraction = Annotated[float, Field(ge=0, lt=1), HELD]
Part = Annotated[float, Field(gt=0, lt=1), HELD]
Real = Annotated[float, HELD]


def _no_truth_value(given: Any) -> Any:
    if isinstance(given, bool):
        raise PydanticCustomError("number", "no number")
    return given


def _computable(number: float) -> float:
    if isinstance(number, int):
        if not -(1 << 63) <= number < 1 << 63:
            raise PydanticCustomError("number", "beyond 2⁶³")
    elif not math.isfinite(number):
        raise PydanticCustomError("number", "not finite")
    elif abs(number) > LARGEST:
        raise PydanticCustomError("number", "beyond float32, whose largest number is 3.4e38")
    elif 0 < abs(number) < SMALLEST:
        raise PydanticCustomError("number", "0 in float32")
    return number


def held(hint: Any) -> Any:
    """Return a hint in which every number is held to what can be computed with."""
    inner, notes = taken_apart(hint)
    if inner in (int, float):
        return hint if HELD in notes or unbounded(notes) else Annotated[(inner, *notes, HELD)]
    origin, arguments = typing.get_origin(inner), typing.get_args(inner)
    if arguments and origin in (*UNIONS, *LISTS, dict, Mapping):
        inside = tuple(a if a is ... else held(a) for a in arguments)
        inner = typing.Union[inside] if origin in UNIONS else origin[inside]  # noqa: UP007
    return Annotated[(inner, *notes)] if notes else inner


def unbounded(notes: Iterable[Any]) -> bool:
    """Whether infinities and NaN are wanted."""
    return any(getattr(note, "allow_inf_nan", False) for note in constraints(notes))


def taken_apart(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """`Annotated[int, a, b]` → int and (a, b)."""
    if typing.get_origin(hint) is typing.Annotated:
        inner, *notes = typing.get_args(hint)
        return inner, tuple(notes)
    return hint, ()


def constraints(notes: Iterable[Any]) -> Iterator[Any]:
    """Yield each single constraint of a hint; for pydantic's fields, what stands in them."""
    for note in notes:
        yield note
        yield from constraints(getattr(note, "metadata", ()))
