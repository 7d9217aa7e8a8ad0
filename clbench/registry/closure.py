"""The code that a run is made of: files with all that they import, without comments and docstrings.

Nothing is run or imported; imports are read from syntax trees. Those of clbench and of a file's own package or folder
are followed; what comes from elsewhere is told by its version, in the environment.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import itertools
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from clbench.files import sha256
from clbench.files.places import CHECKOUT, HOME, ROOT

Name = tuple[str, ...]
"""A dotted name, by its steps."""


def code_of(source: Path | str) -> frozenset[tuple[str, str]]:
    """Return where a file, or a text that lies in none, and all that it imports lie, each with the SHA-256 of its
    code."""
    if isinstance(source, Path):
        return frozenset(
            ("/".join(placed(file)[1]), _read(_content(file)).sha256) for file in closure(source)
        )
    code, here = _read(source.encode()), HOME / "__main__.py"  # from where clbench is seen, and nothing else
    files = itertools.chain(*(_reached(one, here, source.encode()) for one in code.imports))
    return frozenset({("", code.sha256)}).union(*map(code_of, files))


def closure(file: Path) -> set[Path]:
    """Return a file and those that it imports, inside functions too, theirs included.

    Imports for type checkers do not count, nor does the `__init__` of a package that only hands a name on:
    `from clbench.parts import CrossEntropy` leads to `clbench/parts/losses.py`. For a name that it does not hand on,
    it counts with all that it imports.
    """
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            content = _content(file)
            waiting += itertools.chain(*(_reached(one, file, content) for one in _read(content).imports))
    return found


def _reached(one: Import, importer: Path, content: bytes) -> Iterator[Path]:
    """Yield the files that an import leads to; none outside of clbench and of its file's own package or folder."""
    module = one.seen_from(importer)
    reached = _file_of(module, importer)
    if reached and reached.name != "__init__.py":
        yield reached
    elif one.taken:
        step = (*module, one.taken[0])
        if reached and (origins := _handed(step, reached)):
            for origin in origins:
                further = origin._replace(taken=origin.taken + one.taken[1:])
                yield from _reached(further, reached, _content(reached))
        elif _file_of(step, importer):
            yield from _reached(Import(0, step, one.taken[1:], one.bound), importer, content)
        elif reached:
            yield reached
    elif reached:
        for rest in _looked_up(one.bound, content) or [()]:
            yield from _reached(Import(0, module, rest), importer, content) if rest else [reached]


def _handed(name: Name, face: Path) -> list[Import]:
    """Return the imports by which a package only hands a name on, but for those of a module of its own."""
    origins = _read(_content(face)).handed.get(name[-1], [])
    return [one for one in origins if (*one.seen_from(face), *one.taken) != name]


def _file_of(module: Name, importer: Path) -> Path | None:
    """Return the file of a module that clbench's authors, or those of `importer`, may have written."""
    top, (first, *inner) = placed(importer)
    if module[:1] == ("clbench",):
        places = [base.joinpath(*module[1:]) for base in (HOME, ROOT)]
    elif module[:1] == (first,) if inner else not {"site-packages", "dist-packages"} & {*top.parts}:
        places = [top.joinpath(*module)]
    else:
        return None
    files = (file for place in places for file in (place / "__init__.py", place.with_suffix(".py")))
    return next((file for file in files if file.is_file()), None)


@functools.lru_cache(maxsize=4096)
def placed(file: Path) -> tuple[Path, Name]:
    """Return the folder above a file's package, and the file's place below it; the same in a checkout and in a
    wheel."""
    top = file.parent
    while (top / "__init__.py").is_file():
        top = top.parent
    names = file.relative_to(top).parts
    plugin = top == CHECKOUT and len(names) > 1 and names[0] != "clbench"  # `strategies/`, `benchmarks/`
    return top, ("clbench", *names) if plugin else names


def _content(file: Path) -> bytes:
    """Return what a file holds; one of clbench's, what it held when it was first asked for, since it is imported
    once."""
    return _kept(file) if placed(file)[1][0] == "clbench" else file.read_bytes()


@functools.cache
def _kept(file: Path) -> bytes:
    return file.read_bytes()


# --- one file ---


class Import(NamedTuple):
    """`from ..losses import f as g`: level 2, module ("losses",), taken ("f",), bound "g"."""

    level: int
    module: Name
    taken: Name = ()
    bound: str = ""

    def seen_from(self, file: Path) -> Name:
        """Return the module's whole name, imported by a file."""
        return (*placed(file)[1][: -self.level], *self.module) if self.level else self.module


class _Module(NamedTuple):
    """A file, read: the SHA-256 of its code, its imports, and the names that it only hands on, with their origins."""

    sha256: str
    imports: frozenset[Import] = frozenset()
    handed: Mapping[str, list[Import]] = {}


@functools.lru_cache(maxsize=2048)
def _read(content: bytes) -> _Module:
    try:
        text = importlib.util.decode_source(content)
        statements = [*_statements(_tree(content).body)]
    except (SyntaxError, ValueError):  # compiled, or no Python
        return _Module(sha256(content))
    imports, made, told = set[Import](), set[str](), list[ast.Constant]()
    handed = defaultdict[str, list[Import]](list)
    for node, deep, typing in statements:
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound = [*_bound(node)]
            imports |= set() if typing else set(bound)
            for one in () if deep else bound:
                handed[one.bound].append(one)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            told.append(node.value)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not deep:
            made.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and not deep:
            made |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    code = _without(told, text.encode())
    return _Module(sha256(code), frozenset(imports), {k: v for k, v in handed.items() if k not in made})


def _tree(content: bytes) -> ast.Module:
    with warnings.catch_warnings(action="ignore"):  # of its strings, which its import gives as well
        return ast.parse(content)


def _statements(
    body: list[ast.stmt], deep: bool = False, typing: bool = False
) -> Iterator[tuple[ast.stmt, bool, bool]]:
    """Statements, those inside of others too; whether in a function or class, and whether for type checkers only."""
    for node in body:
        yield node, deep, typing
        inside = deep or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        test = node.test if isinstance(node, ast.If) else None
        checked = "TYPE_CHECKING" in (getattr(test, "id", ""), getattr(test, "attr", ""))
        yield from _statements(getattr(node, "body", []), inside, typing or checked)
        yield from _statements(getattr(node, "orelse", []), inside, typing)
        yield from _statements(getattr(node, "finalbody", []), inside, typing)
        for case in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
            yield from _statements(case.body, inside, typing)


def _bound(node: ast.Import | ast.ImportFrom) -> Iterator[Import]:
    """Yield what an import binds."""
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            module = Name(node.module.split(".")) if node.module else ()
            taken = () if alias.name == "*" else (alias.name,)
            yield Import(node.level, module, taken, alias.asname or alias.name)
        else:
            module = Name(alias.name.split("."))
            yield Import(0, module, (), alias.asname or alias.name)
            if not alias.asname:
                yield Import(0, module[:1], (), module[0])


@functools.lru_cache(maxsize=2048)
def _looked_up(name: str, content: bytes) -> set[Name]:
    """Return what a file looks up in a name: ("data", "load") for `clbench.data.load`, () where it uses it as it is."""
    first, *more = name.split(".")
    found = set[Name]()

    def visit(node: ast.AST, rest: Name = ()) -> None:
        if isinstance(node, ast.Attribute):
            visit(node.value, (node.attr, *rest))
        elif isinstance(node, ast.Name) and node.id == first:
            found.add(rest)
        else:
            for inner in ast.iter_child_nodes(node):
                visit(inner)

    visit(_tree(content))
    return {rest[len(more) :] for rest in found if rest[: len(more)] == (*more,)}


_QUOTED = (
    rb'(?P<triple>"""|\'\'\')(?:[^\\]|\\.)*?(?P=triple)',
    rb'"(?:[^"\\\n]|\\.)*+"',
    rb"'(?:[^'\\\n]|\\.)*+'",
)
_STRING = b"|".join(_QUOTED)
_COMMENT = re.compile(rb"(?P<string>" + _STRING + rb")|#[^\n]*", re.DOTALL)
_SPACE = re.compile(rb"(?P<string>" + _STRING + rb")|(?:[ \t\f]*\n)+", re.DOTALL)


def _without(told: list[ast.Constant], code: bytes) -> bytes:
    """Code without `told`, constants that are statements, without comments, and without space at the ends of lines."""
    starts = [0, *itertools.accumulate(len(line) + 1 for line in code.split(b"\n"))]
    for one in sorted(told, key=lambda one: (one.lineno, one.col_offset), reverse=True):
        end = starts[(one.end_lineno or 0) - 1] + (one.end_col_offset or 0)
        code = code[: starts[one.lineno - 1] + one.col_offset] + code[end:]
    code = _COMMENT.sub(lambda m: m["string"] or b"", code)
    return _SPACE.sub(lambda m: m["string"] or b"\n", b"\n" + code + b"\n").strip(b"\n")
