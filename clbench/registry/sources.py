"""The source text behind a plugin, which a run's id covers: files with those they import, and definitions in notebooks.

Imports no torch, and runs nothing: what a file imports is read from its syntax tree.
"""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import linecache
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clbench.errors import RegistryError

PLAIN = (bool, int, float, complex, str, bytes, type(None))


def where_defined(build: Callable[..., Any]) -> str:
    """The file of a function or class; of one typed into a notebook or a session, the name of its cell."""
    build = inspect.unwrap(build)
    if build.__module__ == "__main__":  # whose file, if it has one, need not be where this was written
        written = (code.co_filename for code in _codes_of(build) if code.co_filename != "<string>")
        return next(written, "<__main__>")
    try:
        return inspect.getsourcefile(build) or inspect.getfile(build)
    except (TypeError, OSError):
        return f"<{build.__module__}>"


# --- files ---


def with_imports(file: Path) -> set[Path]:
    """A file and those of its own package or folder that it imports, theirs included: `.ewc`, `my_package.losses`.

    So are the adapters of `clbench.interop` that they import, which are no part of every run. What else comes from
    elsewhere is told by its version, in the environment.
    """
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        file = waiting.pop()
        if file in found or not file.is_file():
            continue
        found.add(file)
        waiting += _imported(file)
    return found


def _imported(file: Path) -> tuple[Path, ...]:
    top, package = file.parent, ""  # the folder from which absolute names are looked up; the file's package
    while (top / "__init__.py").is_file():
        top, package = top.parent, top.name
    return _imports_of(file, file.read_bytes(), top, package)


@functools.lru_cache(maxsize=1024)
def _imports_of(file: Path, content: bytes, top: Path, package: str) -> tuple[Path, ...]:
    """Where the modules may lie that a file of this content imports; parsing is slow, and thousands of runs ask."""
    return tuple(_places_of_imports(file, content, top, package))


def _places_of_imports(file: Path, content: bytes, top: Path, package: str) -> Iterator[Path]:
    def own(name: str) -> bool:
        """Whether an absolute name may mean something of the same author."""
        first = name.partition(".")[0]
        if first == "clbench" or not package:
            return first != "clbench" and not {"site-packages", "dist-packages"} & {*top.parts}
        return first == package

    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if own(alias.name):
                    yield from _module_files(top, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level or own(module):
                base, names = (
                    file.parents[node.level - 1] if node.level else top,
                    module.split(".") if module else [],
                )
                yield from _module_files(base, names)
                for alias in node.names:  # each may be a submodule
                    yield from _module_files(base, [*names, alias.name])
            elif module.startswith("clbench.interop."):  # an adapter counts where it takes part
                yield from _module_files(Path(__file__).parent.parent, module.split("."))


def _module_files(base: Path, names: list[str]) -> Iterator[Path]:
    """The files that an import of `names`, found in `base`, runs; none if it is not there."""
    if not names:
        yield base / "__init__.py"
        return
    for name in names:
        base = base / name
        yield base / "__init__.py"
    yield base.with_suffix(".py")


# --- notebooks and sessions ---


def typed_source(build: Callable[..., Any], who: str) -> str:
    """The text of a definition that lies in no file, and of all that it uses of the same notebook or session.

    Functions and classes count with their text, constants with their value.

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
        waiting += [base for base in bases if _is_typed(base)]
        for name, value in _used(one):
            if _is_typed(value):
                waiting.append(inspect.unwrap(value))
            elif _is_plain(value):
                texts.append(f"{name} = {_written(value)}")
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
                return "\n".join(cell.splitlines()[first - 1 : node.end_lineno])
    why = "it was typed into a session that keeps none"
    if inspect.isclass(one) and not list(_codes_of(one)):
        why = "it has no method by which its cell could be found"
    raise RegistryError(
        f"{who}: the source of {one.__name__} is not to be had, since {why}, and a run's id covers it. Put it into a "
        "file and name that with --plugin or clbench.registry.load_plugin, or define it, with a method, in a notebook."
    )


def _codes_of(one: Any) -> Iterator[types.CodeType]:
    """The code of a function, or of a class's own methods."""
    yield from (function.__code__ for function in _functions(one))


def _functions(one: Any) -> Iterator[types.FunctionType]:
    """A function, or a class's own methods, without what decorates them."""
    for value in vars(one).values() if inspect.isclass(one) else [one]:
        inner = inspect.unwrap(getattr(value, "__func__", None) or getattr(value, "fget", None) or value)
        if inspect.isfunction(inner) and inner.__module__ == one.__module__:
            yield inner


def _used(one: Any) -> Iterator[tuple[str, Any]]:
    """The globals and enclosing variables that a function, or a class's methods, look up, with their values."""
    if inspect.isclass(one):
        yield from (
            (f"{one.__name__}.{k}", v) for k, v in vars(one).items() if k[:2] != "__" and _is_plain(v)
        )
    for function in _functions(one):
        enclosed = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        yield from ((name, cell.cell_contents) for name, cell in enclosed if name != "__class__")
        for name in sorted(_globals_of(function.__code__)):
            if name in function.__globals__:
                yield name, function.__globals__[name]


def _globals_of(code: types.CodeType) -> set[str]:
    names = {str(i.argval) for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return names.union(*(_globals_of(code) for code in inner))


def _is_typed(value: Any) -> bool:
    """Whether it is a function or class that lies in no file."""
    if not (inspect.isfunction(value) or inspect.isclass(value)):
        return False
    return value.__module__ == "__main__" and not Path(where_defined(value)).is_file()


def _is_imported(value: Any) -> bool:
    known = inspect.ismodule(value) or inspect.isroutine(value) or inspect.isclass(value)
    return known or type(value).__module__ in ("typing", "types")


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)


def _written(value: Any) -> str:
    """As text, in an order that does not depend on hashes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_written(k)}: {_written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(map(_written, value))) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_written, value)) + "]"
    return repr(value)
