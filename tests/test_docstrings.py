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
from clbench.registry import Registry, benchmarks, models, strategies
from clbench.registry.meanings import meanings, section

MODULES = ("clbench", "clbench.parts", "clbench.memory", "clbench.testing", "clbench.runs.lifecycle")
ERRORS = {*vars(errors), *vars(builtins)}
IMPLIED = {"self", "cls"}
GIVEN = {"input_shape", "num_classes"}
"""What every network is told of the data."""


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


def with_section(title: str) -> list[str]:
    return [name for name, thing in THINGS.items() if section(inspect.getdoc(thing), title)]


def parameters(thing: Any) -> set[str]:
    build: Callable[..., Any] = thing.__init__ if inspect.isclass(thing) else thing
    return set(inspect.signature(build).parameters) - IMPLIED


def inherits(name: str) -> bool:
    """A point of a strategy, or a method of a base, is documented where it is declared."""
    owner = THINGS.get(name.rpartition(".")[0])
    bases = owner.__mro__[1:] if inspect.isclass(owner) else ()
    return any(name.rpartition(".")[2] in vars(base) for base in bases)


def registered(registry: Registry[Any]) -> list[Any]:
    names = [name for name in registry.names() if registry.peek(name).own]
    return [pytest.param(registry, name, id=name) for name in names]


@pytest.mark.parametrize("name", [name for name in THINGS if not inherits(name)])
def test_it_says_what_it_is(name: str) -> None:
    thing = THINGS[name]
    assert vars(thing).get("__doc__") if inspect.isclass(thing) else inspect.getdoc(thing)


@pytest.mark.parametrize("name", with_section("Args"))
def test_its_arguments_are_those_of_the_signature(name: str) -> None:
    """Each on a line of its own, with a text."""
    said = meanings(inspect.getdoc(THINGS[name]))
    assert set(said) == parameters(THINGS[name])
    assert all(said.values())


@pytest.mark.parametrize(
    "name",
    [n for n, t in THINGS.items() if inspect.isfunction(t) and len(parameters(t)) >= 4 and not inherits(n)],
)
def test_a_function_of_many_arguments_explains_them(name: str) -> None:
    assert section(inspect.getdoc(THINGS[name]), "Args"), "four arguments or more, and no Args section"


@pytest.mark.parametrize("name", with_section("Raises"))
def test_the_errors_it_names_exist(name: str) -> None:
    text = " ".join(section(inspect.getdoc(THINGS[name]), "Raises"))
    assert re.match(r"\w+: ", text)
    assert {error for error in re.findall(r"\b(\w+):(?= )", text) if error[0].isupper()} <= ERRORS


@pytest.mark.parametrize("name", with_section("Attributes"))
def test_its_attributes_are_there(name: str) -> None:
    thing = THINGS[name]
    entries = section(inspect.getdoc(thing), "Attributes")
    heads = [re.match(r"[\w, ]+(?=:)", entry) for entry in entries]
    named = {name.strip() for head in heads if head for name in head.group().split(",")}
    fields = {field.name for field in dataclasses.fields(thing)} if dataclasses.is_dataclass(thing) else set()
    annotated = {name for base in thing.__mro__ for name in inspect.get_annotations(base)}
    assert named <= {*dir(thing), *annotated, *re.findall(r"\bself\.(\w+)", inspect.getsource(thing))}
    text = " ".join(entries)
    unsaid = {field for field in fields if not re.search(rf"\b{field}\b", text)}
    assert unsaid <= {"schema", "folder"}


@pytest.mark.parametrize(
    ("registry", "name"), [*registered(strategies), *registered(benchmarks), *registered(models)]
)
def test_every_parameter_of_what_is_registered_has_a_meaning(registry: Registry[Any], name: str) -> None:
    entry = registry.entry(name)
    said = meanings(inspect.getdoc(entry.build))
    assert set(said) == set(entry.signature().parameters) - GIVEN
    assert all(said.values())
