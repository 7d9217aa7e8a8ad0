"""A registered name: what is known of it before its module is imported, read from the source without running it."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clbench.errors import ClbenchError, RegistryError, Stopped
from clbench.files.names import name_mistake, version_mistake
from clbench.registry.arguments import (
    check_arguments as check_arguments,
    hints_of,
    signature_of,
    type_name as type_name,
)
from clbench.registry.leaving import noting_threads
from clbench.registry.reads import File as File, with_files
from clbench.registry.rows import read_rows


class PluginWarning(UserWarning):
    """A plugin of another distribution that cannot be used as it is."""


@dataclass(frozen=True)
class Entry:
    """What is known of a registered name before (and after) its module is imported.

    Attributes:
        name, version: the version rises with every change that may move numbers; of another library's, it is that
            library's.
        module: where it is defined.
        summary: first sentence of its documentation.
        paper: reference, `arXiv:…` where there is one.
        null: parameters with which a strategy is plain fine-tuning, bit for bit; None if there are none.
        modifier: a strategy that only changes another one and cannot train alone.
        tiny: parameters with which the contract checks a strategy on its tiny network; None: the defaults.
        source: the file that defines it, or the cell of a notebook.
        origin: who brings it, for people: clbench, a distribution and its version, or a file.
        primary: of a benchmark, the metric that ranks strategies on it, where that is no average accuracy.
        reads: files and folders that the factory reads, as seen from where it is defined; what they hold counts.
        family: the group in which the documentation lists a strategy.
        build: the factory, once imported.
        takes: its parameters, as its source says; None where only an import can tell.
        made_of: of an object that a run was given, the files and texts of its code; None of others.
    """

    name: str
    version: int | str = 1
    module: str = ""
    summary: str = ""
    paper: str = ""
    null: dict[str, Any] | None = None
    modifier: bool = False
    source: str = ""
    origin: str = ""
    build: Callable[..., Any] | None = field(default=None, compare=False)
    tiny: dict[str, Any] | None = None
    reads: tuple[str, ...] = ()
    family: str = ""
    primary: str = "average_accuracy"
    takes: tuple[str, ...] | None = field(default=None, compare=False)
    made_of: tuple[Path | str, ...] | None = None

    @property
    def own(self) -> bool:
        """Whether it is clbench's, and no plug-in."""
        return self.module.partition(".")[0] == "clbench"

    def parameters(self) -> tuple[str, ...] | None:
        """Return the names of its parameters; None where only an import can tell."""
        return self.takes if self.build is None else tuple(self.signature().parameters)

    def files(self) -> dict[str, Path]:
        """Return where what it reads lies, by name."""
        source = Path(self.source)
        folder = source.parent if source.is_file() else Path()
        return {name: Path(os.path.abspath(folder / name)) for name in self.reads}

    def named(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the files and folders that its parameters name, by parameter and place in its list."""
        assert self.build is not None
        hints, found = hints_of(f"'{self.name}'", self.build), dict[str, str]()
        for key, value in values.items():
            with_files(hints.get(key), value, lambda at, path: found.setdefault(at, path), key)
        return found

    def signature(self) -> inspect.Signature:
        assert self.build is not None
        return signature_of(self.build)


def read_decorators(file: Path, module: str, decorator: str) -> list[Entry]:
    """Entries that a file registers, by decorators `@register("name", version=…)` and `@registers("table.yaml")`."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise RegistryError(f"{file} cannot be read: line {error.lineno}: {error.msg}") from error
    found: list[Entry] = []
    here: dict[str, Any] = {"source": str(file), "origin": "clbench"}
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        for call in node.decorator_list:
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
                continue
            if call.func.id not in (decorator, f"{decorator}s"):
                continue
            try:
                name = ast.literal_eval(call.args[0])
                options = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
            except (ValueError, IndexError):
                raise RegistryError(
                    f"{file}, line {call.lineno}: the arguments of @{decorator} must be literals, as clbench "
                    "reads them without running the file."
                ) from None
            if call.func.id != decorator:
                found += [
                    Entry(
                        *(row.name, row.version, module, first_sentence(row.says), row.paper),
                        takes=(*row.needs, *row.takes),
                        **here | options,
                    )
                    for row in read_rows(file.with_name(name))
                ]
                continue
            if wrong := name_mistake(name) or version_mistake(options.get("version", 1)):
                raise RegistryError(f"{file}, line {call.lineno}: {wrong}.")
            summary = first_sentence(ast.get_docstring(node))
            fields = ("version", "paper", "null", "modifier", "tiny", "family", "primary")
            known = {k: v for k, v in options.items() if k in fields}
            known["reads"] = tuple(options.get("reads", ()))
            known["takes"] = _parameters(node)
            found.append(Entry(name, module=module, summary=summary, **here, **known))
    return found


def _parameters(node: ast.FunctionDef | ast.ClassDef) -> tuple[str, ...] | None:
    """Return the names of a factory's parameters; None of a class that has them from elsewhere."""
    if isinstance(node, ast.ClassDef):
        own = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        return (_parameters(own[0]) or ())[1:] if own else None
    return tuple(a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs))


def read_constant(file: Path, name: str) -> Any:
    """Return the literal that a file gives a name at its top level, `NAME = …`; None where it gives none."""
    text = file.read_text(encoding="utf-8")
    for node in ast.parse(text).body if name in text else ():
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == [name]:
            return ast.literal_eval(node.value)
    return None


def check_factory(kind: str, entry: Entry) -> None:
    """Parameters are annotated keywords with defaults: the command line, configs and checks are read from
    them."""
    for name, parameter in entry.signature().parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            raise RegistryError(
                f"{kind} '{entry.name}' ({entry.source}) takes *args or **kwargs; name each parameter "
                "instead, with an annotation, so that configs can be checked."
            )
        if parameter.annotation is parameter.empty:
            raise RegistryError(
                f"{kind} '{entry.name}' ({entry.source}): parameter '{name}' has no annotation; write "
                f"'{name}: int = …', so that configs can be checked."
            )


def first_sentence(doc: str | None) -> str:
    if not doc:
        return ""
    text = " ".join(doc.strip().split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".") + "."


def distribution_of(point: importlib.metadata.EntryPoint) -> str:
    """Return the distribution that an entry point comes from, with its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


def module_file(module: str) -> Path | None:
    """Return the file of a module, found without importing it or its parents; None if there is none."""
    first, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for place in spec.submodule_search_locations or ():
        base = Path(place).joinpath(*rest)
        for file in (
            base.with_suffix(".py"),
            base / "__init__.py",
            *sorted(base.parent.glob(f"{base.name}.*.so")),
        ):
            if file.is_file():
                return file
    return None


def same_file(a: str, b: str) -> bool:
    return a == b or (Path(a).exists() and Path(b).exists() and Path(a).samefile(b))


@contextlib.contextmanager
def named(who: str, file: str) -> Iterator[None]:
    """Whatever is raised inside, an exit too, becomes an error that says `who` and where in `file`; signals do not."""
    try:
        with noting_threads(file) if file else contextlib.nullcontext():
            yield
    except (ClbenchError, KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:
        raise RegistryError(f"{who}{raised_by(error, file)}") from error


def raised_by(error: BaseException, file: str) -> str:
    """`line 3 raised ValueError: no`, with the line of `file` where it is known."""
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == file else None
    trace = error.__traceback__
    while trace is not None:
        if file and trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{f'line {line} ' if line else ''}raised {type(error).__name__}: {error}"
