"""The Python reference: what is public, with its documentation."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import re
from types import ModuleType
from typing import Any, ForwardRef

PYTHON = {
    "clbench": "",
    "clbench.types": "",
    "clbench.parts": "",
    "clbench.memory": "",
    "clbench.ranges": "",
    "clbench.errors": "",
    "clbench.data": "",
    "clbench.metrics": "clbench.results.metrics",
    "clbench.results.metrics.core": "",
    "clbench.results.metrics.repetition": "",
    "clbench.results.anytime": "",
    "clbench.evaluation.probes": "",
    "clbench.plots": "clbench.reports.plots",
    "clbench.testing": "",
    "clbench.interop.avalanche": "",
    "clbench.interop.mammoth": "",
    "clbench.machine.torchvision": "",
}
"""Modules whose public names make up the Python reference, and where those lie that have a shorter name."""


def page() -> str:
    """What modules export, with its documentation."""
    lines = [
        "# Python reference",
        "",
        "What is exported, with its documentation. All else may change without notice.",
    ]
    where: dict[int, str] = {}
    for short, module_name in PYTHON.items():
        module = importlib.import_module(module_name or short)
        lines += ["", f"## {short}", "", "```text", inspect.getdoc(module) or "", "```"]
        for name in public_names(module):
            thing, full = getattr(module, name), f"{short}.{name}"
            if isinstance(thing, ModuleType):
                told = [f"The module `{full}`, below."]
            elif _is_code(thing) and where.setdefault(id(thing), full) != full:
                told = [f"The same as `{where[id(thing)]}`."]
            else:
                shown = _described(name, thing) if _is_code(thing) else _constant(module, name)
                told = ["```text", *shown, "```"]
            lines += ["", f"### {full}", "", *told]
    return "\n".join(lines) + "\n"


def public_names(module: ModuleType) -> list[str]:
    """What a module offers, sorted: what it says, else what it defines or hands on by `import x as x`."""
    said = getattr(module, "__all__", None)
    handed = (
        alias.name
        for node in _tree(module).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    )
    made = (name for name, thing in vars(module).items() if _defined_in(thing, module))
    names = {*made, *_constants(module), *handed} if said is None else {*said}
    return sorted(
        name for name in names if not name.startswith("_") and (said is None or name not in explained(module))
    )


def explained(module: ModuleType) -> set[str]:
    """Constants that the docstring of their module explains."""
    return {
        name
        for name in getattr(module, "__all__", ())
        if not _is_code(getattr(module, name))
        and re.search(rf"^ *{name}  ", module.__doc__ or "", re.MULTILINE)
    }


def _is_code(thing: Any) -> bool:
    return inspect.isclass(thing) or inspect.isroutine(thing)


def _defined_in(thing: Any, module: ModuleType) -> bool:
    return _is_code(thing) and thing.__module__ == module.__name__


@functools.cache
def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))


def _constants(module: ModuleType) -> dict[str, str]:
    """Name → what the string below it says, of constants that a module defines."""
    found = {}
    for node, after in itertools.pairwise(_tree(module).body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        said = after.value if isinstance(after, ast.Expr) else None
        if isinstance(target, ast.Name) and isinstance(said, ast.Constant) and isinstance(said.value, str):
            found[target.id] = inspect.cleandoc(said.value)
    return found


def _constant(module: ModuleType, name: str) -> list[str]:
    """A constant with its value, where that is short, and what is said of it where it is defined."""
    for node in ast.walk(_tree(module)):
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            if (alias.asname or alias.name) == name:
                _, *told = _constant(importlib.import_module(node.module), alias.name)
                return [name, *told]
    value = repr(getattr(module, name))
    shown = (
        f"{name} = {value}" if len(value) <= 80 and "<" not in value else name
    )  # no object with an address
    return [shown, "", _constants(module).get(name, "")]


def _described(name: str, thing: Any) -> list[str]:
    try:
        signature = _signature(thing)
    except (TypeError, ValueError):  # an exception, a Protocol
        signature = ""
    lines = [f"{name}{signature}", "", inspect.getdoc(thing) or ""]
    if inspect.isclass(thing):
        for method, value in vars(thing).items():
            inner = getattr(value, "__func__", value)
            if method[0] == "_" or not inspect.getdoc(inner):
                continue
            if inspect.isfunction(inner):
                lines += ["", f"{method}{_signature(inner)}", *_indented(inspect.getdoc(inner) or "")]
            elif isinstance(inner, property | functools.cached_property):
                lines += ["", method, *_indented(inspect.getdoc(inner) or "")]
    return lines


class _Bare(str):
    """An annotation that is shown without quotes."""

    def __repr__(self) -> str:
        return str(self)


def _signature(thing: Any) -> str:
    found = inspect.signature(thing)
    shown = [p.replace(annotation=_bare(p.annotation)) for p in found.parameters.values()]
    return str(found.replace(parameters=shown, return_annotation=_bare(found.return_annotation)))


def _bare(annotation: Any) -> Any:
    if isinstance(annotation, ForwardRef):  # of a named tuple, before Python 3.14
        annotation = annotation.__forward_arg__
    return _Bare(annotation) if isinstance(annotation, str) else annotation


def _indented(text: str) -> list[str]:
    return [f"    {line}".rstrip() for line in text.splitlines()]
