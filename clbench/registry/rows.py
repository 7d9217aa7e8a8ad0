"""Entries that differ in names and numbers only: rows of a table in YAML, which one function builds.

    split-usps:
      says: USPS, two new digits in each of five experiences.
      notes: The published training and test sets.
      fixed: {data: usps}
      takes: {experiences: 5, class_order: natural, online: false, valid: 0.0, seed: 0}
      texts: {experiences: "1, 2, 5 or 10."}

A row fixes some arguments of the function, needs some (`needs: [path]`) and takes others, with these defaults; one that
it does not name keeps the function's default. Types and meanings of parameters are the function's, unless the row has a
text of its own. The function gets the row's name, version and notes first, as keywords of what it builds:

    @register_benchmarks("split.yaml")
    def split(told: dict[str, Any], *, data: str, experiences: Count = 5, …) -> Benchmark:
        return build(load(data), **told, experiences=experiences, …)

Imports no torch: a table is read without running the file beside it.
"""

from __future__ import annotations

import inspect
import textwrap
import typing
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from clbench.errors import ConfigError, RegistryError, suggest
from clbench.files.names import name_mistake, version_mistake
from clbench.ranges import UNIONS
from clbench.registry.arguments import convert
from clbench.registry.meanings import meanings

_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_LOADER):  # type: ignore[misc, valid-type]
    """Refuses a key that stands twice, of which the last one would count."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        known = set[str]()
        for key, _ in node.value:
            if key.value in known:
                raise yaml.YAMLError(
                    f"line {key.start_mark.line + 1}: the key '{key.value}' stands there twice; keep one"
                )
            known.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


@dataclass(frozen=True)
class Row:
    """One entry of a table.

    Attributes:
        says: its documentation, without the parameters.
        version, paper: as of any entry.
        notes: for people who read its records.
        fixed: arguments of the function that are no parameters.
        needs: its parameters without a default.
        takes: its other parameters, in order, with their defaults.
        texts: what parameters mean, where it is not what the function says.
    """

    name: str
    says: str
    version: int = 1
    paper: str = ""
    notes: str = ""
    fixed: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    takes: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def read_rows(table: Path) -> list[Row]:
    """Return the rows of a table.

    Raises:
        RegistryError: there is no such file, or a row that cannot be one; names it.
    """
    try:
        rows = yaml.load(table.read_text(encoding="utf-8"), _Loader)
    except (OSError, yaml.YAMLError) as error:
        raise RegistryError(f"The table {table} cannot be read: {error}") from error
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise RegistryError(f"The table {table} must map names to rows.")
    known = [key.name for key in fields(Row)][1:]
    for name, row in rows.items():
        if wrong := name_mistake(name) or version_mistake(row.get("version", 1)):
            raise RegistryError(f"{table}: {wrong}.")
        if strange := [key for key in row if key not in known]:
            raise RegistryError(
                f"{table}: row '{name}' has a key '{strange[0]}'.{suggest(str(strange[0]), known)} "
                f"It may have: {', '.join(known)}."
            )
        for key, value in row.items():
            kind, words = _HOLDS.get(key, (str, "a text"))
            if not isinstance(value, kind):
                raise RegistryError(
                    f"{table}: row '{name}' needs {words} under '{key}'; {value!r:.60} was given."
                )
        if not row.get("says"):
            raise RegistryError(f"{table}: row '{name}' needs a text under 'says'.")
    return [Row(name, **{key: _tuples(value) for key, value in row.items()}) for name, row in rows.items()]


_HOLDS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("fixed", "takes", "texts"), (dict, "`key: value` lines")),
    "needs": (list, "a list of names"),
    "version": (int, "a whole number"),
}


def _tuples(value: Any) -> Any:
    """Return the same with tuples for lists, as defaults are not to be changed."""
    if isinstance(value, dict):
        return {key: _tuples(one) for key, one in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def factory(row: Row, build: Callable[..., Any]) -> Callable[..., Any]:
    """Return a row's factory: `build` with what is fixed, as a function of what the row takes.

    Raises:
        RegistryError: the row names an argument that `build` does not have, lacks one that it needs, or has a value
            that does not fit.
    """
    hints, texts = typing.get_type_hints(build, include_extras=True), meanings(build.__doc__) | row.texts
    for key in (*row.fixed, *row.needs, *row.takes):
        if key not in hints:
            raise RegistryError(
                f"Row '{row.name}': {build.__name__} takes no '{key}'.{suggest(str(key), hints)}"
            )
    _told, *parameters = inspect.signature(build).parameters.values()
    for parameter in parameters:
        if parameter.default is parameter.empty and not any(
            parameter.name in of for of in (row.fixed, row.needs, row.takes)
        ):
            raise RegistryError(
                f"Row '{row.name}': {build.__name__} needs '{parameter.name}'; give it under 'fixed', or let people "
                "give it, under 'needs' or 'takes'."
            )
    given = row.fixed | {key: value for key, value in row.takes.items() if value is not None}
    try:
        convert(build.__name__, build, given)
    except ConfigError as error:
        raise RegistryError(f"Row '{row.name}': {error}") from None
    defaults = {**dict.fromkeys(row.needs, inspect.Parameter.empty), **row.takes}
    annotations = {key: _admitting(hints[key], default) for key, default in defaults.items()}
    signature = inspect.Signature(
        [
            inspect.Parameter(
                key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotations[key]
            )
            for key, default in defaults.items()
        ]
    )

    def make(**given: Any) -> Any:
        bound = signature.bind(**given)
        bound.apply_defaults()
        params = bound.arguments
        told = {"name": row.name, "version": row.version, "notes": row.notes}
        return build(told, **row.fixed, **params)

    about = [_entry(key, texts[key]) for key in defaults if key in texts]
    make.__doc__ = "\n".join([row.says.strip(), *(["", "Args:", *about] if about else [])])
    make.__name__ = make.__qualname__ = row.name
    make.__module__, make.__annotations__ = build.__module__, annotations
    make.__wrapped__, make.__signature__ = build, signature  # type: ignore[attr-defined]
    return make


def _admitting(hint: Any, default: Any) -> Any:
    """Return a hint that also takes none where the default is none."""
    unions = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else ()
    return hint | None if default is None and type(None) not in unions else hint


def _entry(key: str, text: str) -> str:
    """Return an argument with its meaning, as a docstring has them."""
    return textwrap.fill(
        f"{key}: {text}",
        width=112,
        initial_indent="    ",
        subsequent_indent="        ",
        break_long_words=False,
        break_on_hyphens=False,
    )
