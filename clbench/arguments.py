"""Parameters of factories: checked and converted by their annotations, and what these say in words."""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clbench.errors import ConfigError, RegistryError, suggest
from clbench.reads import READ

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

UNIONS = (typing.Union, types.UnionType)
LISTS = (list, tuple, set, frozenset, Sequence)


def check_arguments(who: str, build: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Arguments for `build`, checked and converted by its annotations (`"200"` → 200 where an int is wanted).

    Raises:
        ConfigError: an unknown parameter or a value that does not fit, each with what is allowed.
    """
    from pydantic import ValidationError

    parameters = inspect.signature(build).parameters
    unknown = [key for key in given if key not in parameters]
    if unknown:
        takes = ", ".join(parameters) or "no parameters"
        raise ConfigError(
            f"{who} has no parameter '{unknown[0]}'.{suggest(unknown[0], parameters)} It takes: {takes}."
        )
    hints = hints_of(who, build)
    checked = {}
    for key, value in given.items():
        if key not in hints:
            checked[key] = value
            continue
        try:
            checked[key] = _adapter(build, key, who).validate_python(value)
        except ValidationError as error:
            raise ConfigError(f"{who}: parameter {refusal(key, hints[key], value, error)}") from None
    missing = [k for k, p in parameters.items() if p.default is p.empty and k not in given]
    if missing:
        raise ConfigError(
            f"{who} needs a value for '{missing[0]}' ({type_name(hints.get(missing[0], Any))})."
        )
    return checked


def hints_of(who: str, build: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a factory's parameters, ranges included.

    Raises:
        RegistryError: one cannot be read.
    """
    try:
        hints = typing.get_type_hints(
            build if inspect.isfunction(build) else build.__init__, include_extras=True
        )
    except NameError as error:
        raise RegistryError(
            f"{who}: the annotations of its parameters cannot be read: {error}; import it outside "
            "TYPE_CHECKING."
        ) from error
    return {key: hint for key, hint in hints.items() if key != "return"}


@functools.lru_cache(maxsize=4096)
def _adapter(build: Callable[..., Any], key: str, who: str) -> TypeAdapter[Any]:
    """What checks a parameter."""
    from pydantic import TypeAdapter

    from clbench.ranges import held

    return TypeAdapter(held(hints_of(who, build)[key]))


def refusal(key: str, hint: Any, value: Any, error: ValidationError) -> str:
    """`'memory' takes a whole number ≥ 1; -1 was given.`, for a value that its annotation does not allow."""
    first = error.errors(include_url=False)[0]
    own = first["type"] in ("number", "value_error")  # what no annotation says
    said = f" ({first['msg'].removeprefix('Value error, ')})" if own else ""
    near = suggest(value, _choices(hint)) if isinstance(value, str) else ""
    return f"'{key}' takes {type_name(hint)}; {shown(value)} was given{said}.{near}"


def shown(value: Any) -> str:
    """A value that was given, for a message."""
    try:
        text = repr(value)
    except ValueError:  # more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 120 else f"{text[:119]}…"


def type_name(hint: Any) -> str:
    """What a hint takes, in words: `a whole number ≥ 1`, `one of 'a', 'b'`, `a number from 0 to 1 or none`."""
    inner, notes = taken_apart(hint)
    origin, arguments = typing.get_origin(inner), typing.get_args(inner)
    words = getattr(inner, "__name__", str(inner)) if origin is None else str(inner)
    if hasattr(inner, "model_fields") or origin in (dict, Mapping):  # a section
        words = "`key: value` lines"
    if READ in notes:
        words = "a file"
    elif inner in _WORDS:
        words = _WORDS[inner]
    elif origin is typing.Literal:
        words = ("one of " if len(arguments) > 1 else "") + ", ".join(repr(a) for a in arguments)
    elif origin in UNIONS:
        words = " or ".join(type_name(a) for a in arguments)
    elif origin in LISTS:
        inside = list(dict.fromkeys(type_name(a) for a in arguments if a is not ...))
        size = f"{len(arguments)} " if origin is tuple and arguments[-1] is not ... else ""
        words = (
            f"a list of {size}{_several(inside[0])}" if len(inside) == 1 else f"a list of {'; '.join(inside)}"
        )
    return (", " if origin in LISTS else " ").join([words, *bounds(notes)])


def _several(words: str) -> str:
    """`a whole number ≥ 1` → `whole numbers ≥ 1`."""
    return re.sub(r"^a ((?:whole )?number)", r"\1s", words)


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}


def bounds(notes: Iterable[Any]) -> list[str]:
    """What the constraints of a hint say: `> 0`, `≥ 1`, `from 0 to 1`, `≥ 0 and < 1`."""
    found = {
        key: _short(getattr(note, key))
        for note in constraints(notes)
        for key in _SIGNS
        if getattr(note, key, None) is not None
    }
    if "ge" in found and "le" in found:
        found = {"both": f"{found.pop('ge')} to {found.pop('le')}", **found}
    return [" and ".join(_SIGNS[key].format(limit) for key, limit in found.items())] if found else []


_SIGNS = {
    "both": "from {}",
    "ge": "≥ {}",
    "gt": "> {}",
    "le": "≤ {}",
    "lt": "< {}",
    "multiple_of": "a multiple of {}",
    "min_length": "{} or more",
    "max_length": "{} or fewer",
}


def _short(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def _choices(hint: Any) -> list[str]:
    """The words among which a hint lets choose."""
    arguments = typing.get_args(taken_apart(hint)[0])
    inside = [choice for a in arguments if typing.get_origin(a) is typing.Literal for choice in _choices(a)]
    return inside or [a for a in arguments if isinstance(a, str)]


def taken_apart(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """`Annotated[int, a, b]` → int and (a, b)."""
    if typing.get_origin(hint) is typing.Annotated:
        inner, *notes = typing.get_args(hint)
        return inner, tuple(notes)
    return hint, ()


def constraints(notes: Iterable[Any]) -> Iterator[Any]:
    """Each single constraint of a hint; of pydantic's fields, what stands in them."""
    for note in notes:
        yield note
        yield from constraints(getattr(note, "metadata", ()))
