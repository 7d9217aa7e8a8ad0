"""Docstrings of the public API: what can be checked by a machine agrees with the code."""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from clbench import errors

MODULES = ("clbench", "clbench.parts", "clbench.memory", "clbench.testing", "clbench.runs.lifecycle")
ERRORS = {*vars(errors), *vars(builtins)}
IMPLIED = {"self", "cls"}


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What a module exports, or defines where it does not say."""
    for name in getattr(module, "__all__", None) or vars(module):
        thing = getattr(module, name)
        if name.startswith("_") or not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        if hasattr(module, "__all__") or thing.__module__ == module.__name__:
            yield name, thing


def documented() -> dict[str, Any]:
    """Every public function and class, and every public method that a class of clbench defines, by name."""
    found: dict[str, Any] = {}
    for module in map(importlib.import_module, MODULES):
        for name, thing in public(module):
            found.setdefault(f"{thing.__module__}.{name}", thing)
            for method, value in vars(thing).items() if inspect.isclass(thing) else ():
                inner = getattr(value, "__func__", value)
                if method[0] != "_" and inspect.isfunction(inner):
                    found.setdefault(f"{thing.__module__}.{name}.{method}", inner)
    return found


THINGS = documented()
each = pytest.mark.parametrize("name", THINGS)


def section(thing: Any, title: str) -> list[str]:
    """The entries of a docstring's section, each one line."""
    found = re.search(rf"^{title}:\n((?:[ ]+.*\n?|\n)+)", inspect.getdoc(thing) or "", re.MULTILINE)
    if found is None:
        return []
    lines = inspect.cleandoc("\n" + found.group(1)).splitlines()
    entries: list[str] = []
    for line in filter(str.strip, lines):
        if line[0] == " ":
            entries[-1] += " " + line.strip()
        else:
            entries.append(line)
    return entries


def named(entries: list[str]) -> set[str]:
    """`x, y: …` and `x: … y: …` name x and y."""
    heads = [re.match(r"[\w, ]+(?=:)", entry) for entry in entries]
    return {name.strip() for head in heads if head for name in head.group().split(",")}


def parameters(thing: Any) -> set[str]:
    return set(inspect.signature(thing).parameters) - IMPLIED


def build(thing: Any) -> Callable[..., Any]:
    return thing.__init__ if inspect.isclass(thing) else thing  # type: ignore[no-any-return]


def inherits(name: str) -> bool:
    """A point of a strategy, or a method of a base, is documented where it is declared."""
    owner = THINGS.get(name.rpartition(".")[0])
    bases = owner.__mro__[1:] if inspect.isclass(owner) else ()
    return any(name.rpartition(".")[2] in vars(base) for base in bases)


@each
def test_it_says_what_it_is(name: str) -> None:
    own = inspect.isclass(THINGS[name]) and not vars(THINGS[name]).get("__doc__")
    assert inherits(name) or (not own and inspect.getdoc(THINGS[name])), "no docstring"


@each
def test_its_arguments_are_those_of_the_signature(name: str) -> None:
    thing, entries = THINGS[name], section(THINGS[name], "Args")
    if entries:
        assert named(entries) <= parameters(build(thing))
        text = " ".join(entries)
        assert {p for p in parameters(build(thing)) if not re.search(rf"\b{p}\b", text)} == set()


@each
def test_the_errors_it_names_exist(name: str) -> None:
    text = " ".join(section(THINGS[name], "Raises"))
    assert {error for error in re.findall(r"\b(\w+):(?= )", text) if error[0].isupper()} <= ERRORS
    assert not text or re.match(r"\w+: ", text)


@each
def test_its_attributes_are_there(name: str) -> None:
    thing = THINGS[name]
    if inspect.isclass(thing) and dataclasses.is_dataclass(thing):
        fields = {field.name for field in dataclasses.fields(thing)}
        entries = section(thing, "Attributes")
        assert named(entries) <= fields | set(dir(thing))
        text = " ".join(entries)
        assert not entries or {f for f in fields if not re.search(rf"\b{f}\b", text)} <= {
            "schema",
            "folder",
            "spec",
        }


@each
def test_a_function_of_many_arguments_explains_them(name: str) -> None:
    thing = THINGS[name]
    if inspect.isfunction(thing) and len(parameters(thing)) >= 4 and not inherits(name):
        assert section(thing, "Args"), "four arguments or more, and no Args section"
