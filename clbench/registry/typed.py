"""Where a plugin is defined, and the text of one that was typed into a notebook or a session. Imports no torch."""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import linecache
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clbench.errors import RegistryError

PLAIN = (bool, int, float, complex, str, bytes, type(None))


def where_defined(build: Callable[..., Any]) -> str:
    """Return the file of a function or class, or the name of its cell where it was typed into a notebook or a
    session."""
    build = inspect.unwrap(build)
    if build.__module__ == "__main__":  # whose file, if it has one, need not be where this was written
        written = (code.co_filename for code in _codes_of(build) if code.co_filename != "<string>")
        return next(written, "<__main__>")
    try:
        return inspect.getsourcefile(build) or inspect.getfile(build)
    except (TypeError, OSError):
        return f"<{build.__module__}>"


def typed_source(build: Callable[..., Any], who: str) -> str:
    """Return the text of a definition that lies in no file, and of all that it uses of the same notebook or session.

    Functions and classes count with their text, constants with their value, modules and what is clbench's as imports.

    Raises:
        RegistryError: some text is not to be had, or a global is used whose value cannot be written down.
    """
    texts: list[str] = []
    seen: set[int] = set()
    waiting: list[Any] = [inspect.unwrap(build)]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        texts.append(_text(one, who))
        bases = one.__bases__ if inspect.isclass(one) else ()
        for name, value in (*((base.__name__, base) for base in bases), *_used(one)):
            if _is_typed(value):
                waiting.append(inspect.unwrap(value))
            elif _is_plain(value):
                texts.append(f"{name} = {_written(value)}")
            elif inspect.ismodule(value):
                texts.append(f"import {value.__name__} as {name}")
            elif str(getattr(value, "__module__", "")).startswith("clbench.") and hasattr(value, "__name__"):
                texts.append(f"from {value.__module__} import {value.__name__}")
            elif not _is_imported(value):
                raise RegistryError(
                    f"{who} uses the global '{name}', a {type(value).__name__}, whose value a run's id cannot cover. "
                    "Make it a parameter, define it inside the function or class, or put the plugin into a file "
                    "and name that with --plugin or clbench.registry.load_plugin."
                )
    return "\n".join(sorted(texts))


def _text(one: Any, who: str) -> str:
    for code in _codes_of(one):
        cell = "".join(linecache.getlines(code.co_filename))
        if not cell:
            continue
        kind = ast.ClassDef if inspect.isclass(one) else ast.FunctionDef
        for node in ast.walk(ast.parse(cell)):
            if not isinstance(node, kind) or node.name != one.__name__:
                continue
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first <= code.co_firstlineno <= (node.end_lineno or first):
                return textwrap.dedent("\n".join(cell.splitlines()[first - 1 : node.end_lineno]))
    why = "it was typed into a session that keeps none"
    if inspect.isclass(one) and not list(_codes_of(one)):
        why = "it has no method by which its cell could be found"
    raise RegistryError(
        f"{who}: the source of {one.__name__} is not to be had, since {why}, and a run's id covers it. Put it into a "
        "file and name that with --plugin or clbench.registry.load_plugin, or define it, with a method, in a notebook."
    )


def _codes_of(one: Any) -> Iterator[types.CodeType]:
    """Yield the code of a function, or of a class's own methods."""
    yield from (function.__code__ for function in _functions(one))


def _functions(one: Any) -> Iterator[types.FunctionType]:
    """Yield a function, or a class's own methods, without what decorates them."""
    for value in members(one).values() if inspect.isclass(one) else [one]:
        inner = inspect.unwrap(getattr(value, "__func__", None) or getattr(value, "fget", None) or value)
        if inspect.isfunction(inner) and inner.__module__ == one.__module__:
            yield inner


def _used(one: Any) -> Iterator[tuple[str, Any]]:
    """Yield the globals and enclosing variables that a function, or a class's methods, look up, with their values."""
    if inspect.isclass(one):
        yield from (
            (f"{one.__name__}.{k}", v) for k, v in vars(one).items() if k[:2] != "__" and _is_plain(v)
        )
    for function in _functions(one):
        enclosed = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        yield from ((name, cell.cell_contents) for name, cell in enclosed if name != "__class__")
        for name in sorted(globals_of(function.__code__)):
            if name in function.__globals__:
                yield name, function.__globals__[name]


def globals_of(code: types.CodeType) -> set[str]:
    """Return the names of globals that code looks up, also in functions inside."""
    names = {str(i.argval) for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return names.union(*(globals_of(code) for code in inner))


def _is_typed(value: Any) -> bool:
    """Whether it is a function or class that lies in no file."""
    if not (inspect.isfunction(value) or inspect.isclass(value)):
        return False
    return value.__module__ == "__main__" and not Path(where_defined(value)).is_file()


def members(kind: type) -> dict[str, Any]:
    """Return what a class has itself, without the function that Python 3.14 writes for its annotations."""
    return {k: v for k, v in vars(kind).items() if k not in ("__annotate__", "__annotate_func__")}


def is_routine(value: Any) -> bool:
    """Whether it is a function or method; a partial, which Python 3.14 takes for one, is none."""
    return inspect.isroutine(value) and not isinstance(value, functools.partial)


def _is_imported(value: Any) -> bool:
    return is_routine(value) or inspect.isclass(value) or type(value).__module__ in ("typing", "types")


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)


def _written(value: Any) -> str:
    """Write it as text, in an order that does not depend on hashes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_written(k)}: {_written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(map(_written, value))) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_written, value)) + "]"
    return repr(value)
