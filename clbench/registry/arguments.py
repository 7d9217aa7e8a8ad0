"""Parameters of factories: checked and converted by their annotations, and what these say in words."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from clbench.errors import ConfigError, RegistryError, suggest
from clbench.ranges import LISTS, UNIONS, constraints, held, taken_apart
from clbench.registry.reads import READ

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

P = ParamSpec("P")
R = TypeVar("R")


def check_arguments(who: str, build: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for `build`, checked and converted by its annotations (`"200"` → 200 where an int is wanted).

    Raises:
        ConfigError: an unknown parameter, one that is missing, or a value that does not fit, each with what is allowed.
    """
    checked = convert(who, build, given)
    for key, parameter in signature_of(build).parameters.items():
        if parameter.default is parameter.empty and key not in given:
            raise ConfigError(
                f"{who} needs a value for '{key}' ({type_name(hints_of(who, build).get(key, Any))})."
            )
    return checked


def validated(build: Callable[P, R]) -> Callable[P, R]:
    """Return a function whose arguments are checked and converted by its annotations when it is called.

    What is annotated as an object of clbench's own, or as anything, is passed on as it is.
    """
    signature, who = inspect.signature(build), f"{build.__name__}()"
    others = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())

    @functools.wraps(build)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        known = {key: value for key, value in kwargs.items() if key in signature.parameters}
        rest = {key: value for key, value in kwargs.items() if key not in known}
        if not others:
            convert(who, build, rest)  # which it refuses
        try:
            bound = signature.bind(*args, **known)
        except TypeError as error:
            raise ConfigError(f"{who}: {error}.") from None
        return build(**convert(who, build, bound.arguments), **rest)  # type: ignore[call-arg, arg-type]

    return call


def convert(who: str, build: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`check_arguments` of those that are given, whether they are all that are needed or not."""
    from pydantic import ValidationError

    parameters = signature_of(build).parameters
    unknown = [key for key in given if key not in parameters]
    if unknown:
        takes = ", ".join(parameters) or "no parameters"
        raise ConfigError(
            f"{who} has no parameter '{unknown[0]}'.{suggest(unknown[0], parameters)} It takes: {takes}."
        )
    hints = hints_of(who, build)
    checked = {}
    for key, value in given.items():
        adapter = _adapter(build, key, who) if key in hints else None
        if adapter is None:
            checked[key] = value
            continue
        refuse_sets(f"{who}: parameter '{key}'", value)
        try:
            checked[key] = adapter.validate_python(plain(value))
        except ValidationError as error:
            raise ConfigError(f"{who}: parameter {refusal(key, hints[key], value, error)}") from None
    return checked


def refuse_sets(name: str, value: Any) -> None:
    """Raise `ConfigError` where a value is or holds a set: it would be read as a list of some order or other."""
    if isinstance(value, set | frozenset):
        raise ConfigError(
            f"{name} cannot be a set, which has no order; write a list instead of {value!r:.60}."
        )
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if type(inner) not in _SINGLE:
                refuse_sets(f"{name}, '{key}'", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            if type(inner) not in _SINGLE:
                refuse_sets(name, inner)


_SINGLE = frozenset((str, int, float, bool, type(None)))


def plain(value: Any) -> Any:
    """Numbers and lists of NumPy's and torch's as Python's own; anything else as it is."""
    if type(value) in (list, tuple):
        return type(value)(plain(one) for one in value)
    return value.tolist() if hasattr(value, "tolist") else value


def hints_of(who: str, build: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a factory's parameters, ranges included.

    Raises:
        RegistryError: one cannot be read.
    """
    try:
        return dict(_hints(build))
    except NameError as error:
        raise RegistryError(
            f"{who}: the annotations of its parameters cannot be read: {error}; import it outside "
            "TYPE_CHECKING."
        ) from error


@functools.lru_cache(maxsize=4096)
def signature_of(build: Callable[..., Any]) -> inspect.Signature:
    """Return the parameters of a factory: found once, as thousands of runs have the same few."""
    return inspect.signature(build)


@functools.lru_cache(maxsize=4096)
def _hints(build: Callable[..., Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(build if inspect.isfunction(build) else build.__init__, include_extras=True)
    return {key: hint for key, hint in hints.items() if key != "return"}


@functools.lru_cache(maxsize=4096)
def _adapter(build: Callable[..., Any], key: str, who: str) -> TypeAdapter[Any] | None:
    """Return what checks a parameter; None where it takes anything, or an object that is none of Python's own."""
    from pydantic import PydanticUserError, TypeAdapter

    hint = hints_of(who, build)[key]
    if hint is Any:
        return None
    try:
        return TypeAdapter(held(hint))
    except PydanticUserError:
        return None


def refusal(key: str, hint: Any, value: Any, error: ValidationError) -> str:
    """`'memory' takes a whole number ≥ 1; -1 was given.`, for a value that its annotation does not allow."""
    first = error.errors(include_url=False)[0]
    own = first["type"] in ("number", "value_error")  # what no annotation says
    said = f" ({first['msg'].removeprefix('Value error, ')})" if own else ""
    near = suggest(value, _choices(hint)) if isinstance(value, str) else ""
    return f"'{key}' takes {type_name(hint)}; {shown(value)} was given{said}.{near}"


def shown(value: Any) -> str:
    """Return a value that was given, for a message."""
    try:
        text = repr(value)
    except ValueError:  # more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 120 else f"{text[:119]}…"


def type_name(hint: Any) -> str:
    """Return what a hint takes, in words: `a whole number ≥ 1`, `one of 'a', 'b'`, `a number from 0 to 1 or none`."""
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
    """Return what the constraints of a hint say: `> 0`, `≥ 1`, `from 0 to 1`, `≥ 0 and < 1`."""
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
    """Return the words among which a hint lets choose."""
    arguments = typing.get_args(taken_apart(hint)[0])
    inside = [choice for a in arguments if typing.get_origin(a) is typing.Literal for choice in _choices(a)]
    return inside or [a for a in arguments if isinstance(a, str)]
