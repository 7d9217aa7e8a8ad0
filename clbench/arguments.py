"""Parameters of factories: checked and converted by their annotations."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable
from typing import Any

from clbench.errors import ConfigError, RegistryError, suggest


def check_arguments(who: str, build: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Arguments for `build`, checked and converted by its annotations (`"200"` → 200 where an int is wanted).

    Raises:
        ConfigError: an unknown parameter or a value that does not fit, each with what is allowed.
    """
    from pydantic import TypeAdapter, ValidationError

    parameters = inspect.signature(build).parameters
    unknown = [key for key in given if key not in parameters]
    if unknown:
        takes = ", ".join(parameters) or "no parameters"
        raise ConfigError(
            f"{who} has no parameter '{unknown[0]}'.{suggest(unknown[0], parameters)} It takes: {takes}."
        )
    try:
        hints = typing.get_type_hints(
            build if inspect.isfunction(build) else build.__init__, include_extras=True
        )
    except NameError as error:
        raise RegistryError(
            f"{who}: the annotations of its parameters cannot be read: {error}; import it outside "
            "TYPE_CHECKING."
        ) from error
    checked = {}
    for key, value in given.items():
        if key not in hints:
            checked[key] = value
            continue
        try:
            checked[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            raise ConfigError(
                f"{who}: parameter '{key}' takes {type_name(hints[key])}; {value!r} was given "
                f"({error.errors()[0]['msg'].lower()})."
            ) from None
    missing = [k for k, p in parameters.items() if p.default is p.empty and k not in given]
    if missing:
        raise ConfigError(
            f"{who} needs a value for '{missing[0]}' ({type_name(hints.get(missing[0], Any))})."
        )
    return checked


def type_name(hint: Any) -> str:
    """A type in words people use: `int`, `one of 'a', 'b'`, `float or none`."""
    origin = typing.get_origin(hint)
    if hint is type(None):
        return "none"
    if origin is typing.Annotated:
        inner, *limits = typing.get_args(hint)
        return " ".join([type_name(inner), *bounds(limits)])
    if origin is tuple and typing.get_args(hint)[1:] == (...,):
        return f"list of {type_name(typing.get_args(hint)[0])}"
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(a) for a in typing.get_args(hint))
    if origin is not None and origin in (typing.Union, getattr(__import__("types"), "UnionType", None)):
        return " or ".join(type_name(a) for a in typing.get_args(hint))
    return getattr(hint, "__name__", str(hint)) if origin is None else str(hint)


def bounds(limits: Iterable[Any]) -> list[str]:
    """What the limits of a number say, `> 0` or `≥ 1`; of pydantic's fields, what stands in them."""
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    found = []
    for limit in limits:
        found += bounds(getattr(limit, "metadata", ()))
        found += [f"{sign} {getattr(limit, key)}" for key, sign in signs.items() if hasattr(limit, key)]
    return found
