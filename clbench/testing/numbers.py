"""Numbers to try a parameter with, by its annotation."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from clbench.ranges import LISTS, UNIONS, constraints, taken_apart, unbounded


@dataclass(frozen=True)
class Number:
    """A number that a parameter takes, alone or in a list.

    Attributes:
        kind: int or float. notes: its constraints.
        place: what makes a value of the parameter of a number.
    """

    kind: type[int] | type[float]
    notes: tuple[Any, ...]
    place: Callable[[Any], Any]

    def _limit(self, key: str) -> Any:
        return next((v for n in constraints(self.notes) if (v := getattr(n, key, None)) is not None), None)

    @property
    def ranged(self) -> bool:
        """Whether its annotation says more than `int` or `float`."""
        return bool(self.notes)

    def plain(self) -> list[Any]:
        """Numbers that many a parameter cannot take."""
        return [self.place(self.kind(value)) for value in ((0, -1) if self.kind is int else (0, -1, 2))]

    def ends(self) -> list[Any]:
        """Return the least and the greatest number that are allowed, of those that there are."""
        return [self.place(self.kind(v)) for key in ("ge", "le") if (v := self._limit(key)) is not None]

    def outside(self) -> list[Any]:
        """Return what is not allowed: numbers beyond each limit, and what cannot be computed with."""
        found: list[Any] = [] if unbounded(self.notes) else [math.nan, math.inf, -math.inf]
        if found:
            found += [10**20, 1.5] if self.kind is int else [1e300, -1e-300]
        for closed, open_, sign in (("ge", "gt", -1), ("le", "lt", 1)):
            if (limit := self._limit(closed)) is not None:
                found += [limit + sign * (1 if self.kind is int else 1e-3), limit + sign * 10**6]
            if (limit := self._limit(open_)) is not None:
                found += [limit, limit + sign]
        return [self.place(value) for value in found]


def numbers_in(hint: Any) -> Iterator[Number]:
    """Yield the numbers in a hint."""
    inner, notes = taken_apart(hint)
    origin, arguments = typing.get_origin(inner), typing.get_args(inner)
    if inner in (int, float):
        yield Number(inner, notes, lambda value: value)
    elif origin in UNIONS:
        inside = [number for one in arguments for number in numbers_in(one)]
        widest = float if any(number.kind is float for number in inside) else int
        yield from (number for number in inside if number.kind is widest)
    elif origin in LISTS and arguments:
        length = len(arguments) if origin is tuple and arguments[-1] is not ... else 1
        for number in numbers_in(arguments[0]):
            yield Number(number.kind, number.notes, _listed(number.place, length))


def _listed(place: Callable[[Any], Any], length: int) -> Callable[[Any], Any]:
    return lambda value: (place(value),) * length
