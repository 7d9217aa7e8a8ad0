"""Strategies and networks that are handed to a run as objects: what they are called, and what they hold.

A run's id covers their code and their content: attributes of a strategy, weights and settings of a network. The run
works on copies, so that the object is as before and every seed begins alike.
"""

from __future__ import annotations

import contextlib
import copy
import copyreg
import enum
import functools
import inspect
import re
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from clbench.errors import ConfigError, RegistryError
from clbench.files import canonical_json, sha256
from clbench.files.names import LONGEST, name_mistake
from clbench.files.places import HOME
from clbench.models.given import classifier_of
from clbench.registry import Entry, Registry, models, strategies
from clbench.registry.arguments import shown
from clbench.registry.reads import is_installed
from clbench.registry.typed import globals_of, is_routine, members, typed_source, where_defined
from clbench.results.ledger import IN_MEMORY
from clbench.runs.building import build_strategy, recipe_of
from clbench.strategy import Strategy

DIGITS = 12
"""Of an object's SHA-256, in its setting `object`."""
HELD = ("_parameters", "_buffers", "_modules")
"""What a network holds under names that are private to torch."""


@dataclass(frozen=True)
class Told:
    """What an object is.

    Attributes:
        content: SHA-256 of all that it holds. words: the same for people, as far as it fits.
        sources: files and texts of the code that it is made of.
    """

    content: str
    words: str
    sources: frozenset[Path | str]


class UnreadError(Exception):
    """Something whose content cannot be told."""


def told(thing: Any, who: str, name: str = "") -> Told:
    """Read an object.

    Args:
        who: it, for messages.
        name: what stands for its content where that cannot be read.

    Raises:
        ConfigError: that cannot be read, and there is no name.
    """
    reader = _Reader()
    try:
        content = reader.read(thing, "")
    except (UnreadError, RegistryError) as error:
        if not name:
            raise ConfigError(
                f"{who} cannot be told from others, as the id of a run must: {str(error).rstrip('.')}. Or give the run "
                "a name that stands for what it is, name='…', and another one whenever that changes."
            ) from error
        content = ["named", name, type(thing).__qualname__]
    return Told(sha256(canonical_json([name, content])), _words(thing), frozenset(reader.sources))


class _Reader:
    """Reads an object into lists of texts and numbers, and notes where its code lies."""

    def __init__(self) -> None:
        self.sources: set[Path | str] = set()
        self._seen: dict[int, tuple[int, Any]] = {}  # the object, too: its number may not be another's

    def read(self, value: Any, at: str) -> Any:
        """Return what a value is; `at` says where it stands.

        Raises:
            UnreadError: nothing says that.
        """
        if value is None or type(value) in (bool, int, str):
            return value
        if isinstance(value, float | complex | bytes | range | slice | torch.dtype | torch.device | Path):
            return [type(value).__name__, repr(value)]
        if id(value) in self._seen:
            return ["again", self._seen[id(value)][0]]
        self._seen[id(value)] = len(self._seen), value
        if is_lazy(value):
            return ["not initialised"]
        if isinstance(value, Tensor) and value.is_meta:
            raise ConfigError(f"{at or 'It'} is on the device meta, and has no values; make it on the CPU.")
        if isinstance(value, Tensor) and (value.layout is not torch.strided or value.is_quantized):
            raise UnreadError(f"{at or 'it'} is a sparse or quantized tensor")
        if isinstance(value, Tensor):
            raw = value.detach().cpu().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)
            shape = [str(value.dtype), list(value.shape), value.requires_grad]
            return ["tensor", *shape, sha256(raw.numpy().tobytes())]
        if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
            return ["array", str(value.dtype), list(value.shape), sha256(value.tobytes())]
        if isinstance(value, torch.Generator):
            return ["generator", self.read(value.get_state(), at)]
        if isinstance(value, list | tuple):
            return [self._kind(value), *(self.read(one, f"{at}[{i}]") for i, one in enumerate(value))]
        if isinstance(value, Mapping):
            pairs = [[self.read(k, at), self.read(v, f"{at}[{k!r:.20}]")] for k, v in value.items()]
            return [self._kind(value), *pairs]
        if isinstance(value, set | frozenset):
            return [self._kind(value), *sorted((self.read(one, at) for one in value), key=canonical_json)]
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__]
        if isinstance(value, enum.Enum):
            return [self._kind(value), value.name]
        if inspect.isclass(value) or is_routine(value):
            return self._code(value, at)
        if isinstance(value, weakref.ref):
            return ["reference", self.read(value(), at)]
        if isinstance(value, functools.partial):
            return ["partial", *(self.read(v, at) for v in (value.func, value.args, value.keywords))]
        return self._instance(value, at)

    def _instance(self, value: Any, at: str) -> Any:
        if isinstance(
            value, nn.Module
        ):  # its mode is the run's; hooks and the like count where there are some
            held = {
                k: v
                for k, v in vars(value).items()
                if k != "training" and (k in HELD or k[0] != "_" or not _is_nothing(v))
            }
        elif isinstance(value, Strategy):
            held = vars(value)
        else:
            try:  # what a copy is made of
                reduce = copyreg.dispatch_table.get(type(value))
                made = value.__reduce_ex__(4) if reduce is None else reduce(value)
            except Exception as error:  # whatever its class raises
                raise UnreadError(
                    f"{at or 'it'} is a {type(value).__name__}, whose content cannot be read"
                ) from error
            if isinstance(made, str):
                return [self._kind(value), made]
            held_by = [*made[1:3], *([*items] for items in made[3:5] if items is not None)]
            return [self._kind(value), *(self.read(one, at) for one in held_by)]
        return [self._kind(value), *([k, self.read(v, f"{at}.{k}".lstrip("."))] for k, v in held.items())]

    def _kind(self, value: Any) -> Any:
        kind = type(value)
        return self.read(kind, "") if _is_own(kind.__module__, where_defined(kind)) else _named(kind)

    def _code(self, value: Any, at: str) -> list[Any]:
        """Read a class or function: its name, where its code lies, and what may differ while the text is the same."""
        if inspect.ismethod(value):
            return ["method", self.read(value.__self__, at), self.read(value.__func__, at)]
        self._source(value)
        if inspect.isclass(value):
            return [
                _named(value),
                *(self._class(value) if _is_own(value.__module__, where_defined(value)) else ()),
            ]
        inner = inspect.unwrap(value)
        functions = dict.fromkeys(one for one in (value, inner) if inspect.isfunction(one))
        return [_named(inner), *(self._function(one) for one in functions)]

    def _class(self, kind: type) -> list[Any]:
        """Read what a class holds at this moment: a script may have set attributes, or made it of a variable."""
        found: list[Any] = [self.read(base, "") for base in kind.__bases__]
        for key, value in members(kind).items():
            value = getattr(value, "__func__", getattr(value, "func", value))
            functions = [value]
            if isinstance(value, property):
                functions = [one for one in (value.fget, value.fset) if one is not None]
            if all(map(inspect.isfunction, functions)):  # its text is the class's
                found += [[key, self._function(one)] for one in functions]
            elif key[:2] != "__" and key != "_abc_impl" and not inspect.isdatadescriptor(value):
                found.append([key, self.read(value, f"{kind.__name__}.{key}")])
        return found

    def _function(self, function: types.FunctionType) -> list[Any]:
        """Read what a function does at this moment, with its defaults and the variables around it that it uses."""
        inner = inspect.unwrap(function, stop=_is_authors)  # torch wraps methods when a class is first called
        if not inspect.isfunction(inner):
            inner = function
        code, around = inner.__code__, inner.__globals__ if _is_authors(inner) else {}
        if _is_generated(inspect.unwrap(inner)):
            return []
        who = inner.__qualname__
        found: list[Any] = [sha256(canonical_json(_steps(code, inner.__doc__)))] if around else []
        found += [self.read(inner.__defaults__, who), self.read(inner.__kwdefaults__, who)]
        for name, cell in zip(code.co_freevars, inner.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # nothing in it yet
                found.append([name, self.read(cell.cell_contents, f"{who}(), {name}")])
        for name in sorted(globals_of(code) & around.keys()):
            value = around[name]
            if isinstance(value, types.ModuleType) and _is_own(
                value.__name__, getattr(value, "__file__", None) or ""
            ):
                known = {k: vars(value)[k] for k in sorted(set(code.co_names) & vars(value).keys())}
                found += [[name, k, self.read(v, f"{name}.{k}")] for k, v in known.items()]
            else:
                found.append([name, self.read(value, f"the global {name} of {who}()")])
        return found

    def _source(self, thing: Any) -> None:
        """Note where the code of a class, with all that it inherits from, or of a function lies."""
        for one in inspect.unwrap(thing).__mro__ if inspect.isclass(thing) else [inspect.unwrap(thing)]:
            module = getattr(one, "__module__", None) or "builtins"
            if module == "builtins":
                continue
            file = where_defined(one)
            if Path(file).is_file():
                if module.partition(".")[0] == "clbench" or not is_installed(file):
                    self.sources.add(Path(file))
            elif module == "__main__" and inspect.isclass(one) and not _writes(one):
                continue  # read as it is
            elif module == "__main__" and one.__qualname__ != "<lambda>":
                self.sources.add(typed_source(one, one.__qualname__))
            elif module == "__main__":
                raise UnreadError(
                    "it holds a lambda of a session, whose text cannot be found; write a function in its place"
                )


def _named(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _is_own(module: str, file: str) -> bool:
    """Whether code is the user's: not clbench's, Python's, or that of an installed distribution."""
    top = module.partition(".")[0]
    return (
        top not in ("clbench", "builtins") and top not in sys.stdlib_module_names and not is_installed(file)
    )


def _is_generated(function: types.FunctionType) -> bool:
    """Whether it is a method that dataclasses and the like have written."""
    file = function.__code__.co_filename
    return file.startswith(("<string>", "<attrs generated")) and function.__name__[:2] == "__"


def _writes(kind: type) -> bool:
    """Whether a class has methods of its author's."""
    methods = (getattr(value, "__func__", getattr(value, "fget", value)) for value in members(kind).values())
    written = (inspect.unwrap(one) for one in methods if inspect.isfunction(one))
    return any(not _is_generated(one) and not is_installed(one.__code__.co_filename) for one in written)


def _is_authors(function: Any) -> bool:
    """Whether a function was written by the user, and is no library's wrapper."""
    return inspect.isfunction(function) and _is_own(
        str(function.__globals__.get("__name__")), function.__code__.co_filename
    )


def _steps(code: types.CodeType, doc: str | None = None) -> list[Any]:
    """Return what a function's code does, without its place and docstring, in a form that no hash orders."""

    def constant(value: Any) -> Any:
        if isinstance(value, types.CodeType):
            return _steps(value)
        if isinstance(value, tuple):
            return ["tuple", *map(constant, value)]
        if isinstance(value, frozenset):
            return ["set", *sorted(map(constant, value), key=canonical_json)]
        return [type(value).__name__, repr(value)]

    constants = [constant(value) for value in code.co_consts if value is None or value is not doc]
    return [code.co_code.hex(), constants, list(code.co_names)]


def _is_nothing(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, Mapping | list | tuple | set) and not value)


def _words(thing: Any) -> str:
    """`Replay(capacity=200)+Mine(alpha=0.5)`: the settings that can be told in a word."""
    parts = thing.parts if isinstance(thing, Strategy) else [thing]
    told = []
    for part in parts:
        kept = {} if isinstance(part, nn.Module) else getattr(part, "__dict__", {})
        plain = [
            f"{k}={v}"
            for k, v in kept.items()
            if k[0] != "_" and k != "name" and isinstance(v, bool | int | float | str) and len(str(v)) <= 20
        ]
        who = getattr(part, "__name__", type(part).__name__)
        told.append(f"{who}({', '.join(plain)})" if plain else who)
    return "+".join(told)[: 3 * LONGEST]


def named(strategy: Strategy) -> tuple[str, dict[str, Any]] | None:
    """Return the registered name and the settings by key of a strategy that is as `make_strategy` makes it; or None."""
    recipe = recipe_of(strategy)
    who = f"The strategy {strategy}"
    if recipe is None or told(strategy, who) != told(build_strategy(*recipe), who):
        return None
    return recipe[0], {
        f"{part}.{key}": value for part, given in recipe[1].items() for key, value in given.items()
    }


@contextlib.contextmanager
def lent(
    strategy: Strategy | None, model: nn.Module | Callable[..., Any] | None, name: str = ""
) -> Iterator[tuple[str | None, str | None]]:
    """Have a run find objects by names, inside.

    Args:
        name: of the strategy, and what stands for what cannot be read of both.

    Yields:
        the names that they are known by, None where there is none.

    Raises:
        ConfigError: an object that cannot be told from others, or a name that is another's.
    """
    if name and (wrong := name_mistake(name)):
        raise ConfigError(f"'name': {wrong}.")
    if strategy is not None and name and strategies.knows(name):
        raise ConfigError(f"'{name}' is the name of a registered strategy; give yours another.")
    with contextlib.ExitStack() as stack:
        called: list[str | None] = [None, None]
        if strategy is not None:
            parts = "-".join(dict.fromkeys(type(part).__name__ for part in strategy.parts))
            own = "" if name_mistake(strategy.name) or strategies.knows(strategy.name) else strategy.name
            called[0] = stack.enter_context(
                _known(strategies, strategy, name or own or parts, f"The strategy {strategy}", name)
            )
        if model is not None:
            model = getattr(model, "_orig_mod", model)  # of torch.compile's
            kind = getattr(model, "__name__", type(model).__name__)
            called[1] = stack.enter_context(_known(models, model, kind, f"The model {kind}", name))
        yield called[0], called[1]


def _copied(thing: Any, who: str) -> Any:
    """Return a copy of an object.

    Raises:
        ConfigError: it holds what cannot be copied.
    """
    try:
        return copy.deepcopy(thing)
    except Exception as error:  # whatever holds it back
        makes = "its setup()" if isinstance(thing, Strategy) else "a function that makes it, and give that"
        raise ConfigError(
            f"{who} cannot be copied, as each run does: {str(error).rstrip('.')}. Make what it holds of that in "
            f"{makes}."
        ) from error


@contextlib.contextmanager
def _known(registry: Registry[Any], thing: Any, name: str, who: str, given: str) -> Iterator[str]:
    """Have a registry know an object, inside, by a name like this one."""
    called = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:LONGEST].strip("-._") or registry.kind
    if not isinstance(thing, nn.Module | Strategy) and not callable(thing):
        raise ConfigError(
            "'model' takes a name, a torch.nn.Module, or a class or function that makes one; "
            f"{shown(thing)} was given."
        )
    if called in registry.names():
        called = f"own-{called}"
    is_what = told(thing, who, given)
    mark = f"{is_what.words} {is_what.content[:DIGITS]}"
    held = [thing]  # emptied in the end: caches keep factories

    def strategy(object: str = mark) -> Strategy:
        copied: Strategy = _copied(held[0], who)
        return copied

    def model(input_shape: tuple[int, ...], num_classes: int, object: str = mark) -> nn.Module:
        made = _copied(held[0], who).cpu().float() if isinstance(held[0], nn.Module) else held[0]
        return classifier_of(made, input_shape, num_classes)

    theirs = [one for one in is_what.sources if isinstance(one, Path) and not one.is_relative_to(HOME)]
    entry = Entry(
        called,
        summary=is_what.words,
        source=str(min(theirs, default="")),
        origin=IN_MEMORY,
        build=strategy if registry is strategies else model,
        made_of=tuple(sorted(is_what.sources, key=str)),
    )
    try:
        with registry.lending(entry):
            yield called
    finally:
        held.clear()
