"""Names, versions and where they come from.

A registry knows its built-in entries without importing them: it reads the decorators in the source, so
`clbench list` needs neither torch nor the plugins. An entry's module is imported when it is first made.

Entries come from four places: the project's own folder (`strategies/`, `benchmarks/`), modules of the core
    that
register (`clbench.models`), entry points of installed distributions (group `clbench.strategies`, …), and
files named with `--plugin` or classes registered in a notebook.
"""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Generic, TypeVar

from clbench.errors import ClbenchError, ConfigError, RegistryError, suggest

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


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
        source: file, for messages.
        build: the factory, once imported.
    """

    name: str
    version: int | str = 1
    module: str = ""
    summary: str = ""
    paper: str = ""
    null: dict[str, Any] | None = None
    modifier: bool = False
    source: str = ""
    build: Callable[..., Any] | None = field(default=None, compare=False)

    def signature(self) -> inspect.Signature:
        assert self.build is not None
        return inspect.signature(self.build)


class Registry(Generic[T]):
    """Entries of one kind.

    Args:
        kind: "strategy", "benchmark", "model": what messages call an entry.
        package: importable package or module whose decorators are read from the source.
        folder: file or folder of that source.
        decorator: name of the function that registers.
        group: entry-point group for other distributions.
        base: what a factory must return.
        libraries: prefix of a name, as in `avalanche:Replay` → module whose `entry(name)` knows what follows it.
    """

    def __init__(
        self,
        kind: str,
        *,
        plural: str,
        package: str,
        decorator: str,
        group: str,
        base: Callable[[], type],
        libraries: Mapping[str, str] | None = None,
    ) -> None:
        self.libraries = dict(libraries or {})
        self._borrowed: dict[str, Entry] = {}
        self.kind, self.plural, self.package, self.decorator, self.group = (
            kind,
            plural,
            package,
            decorator,
            group,
        )
        self._base = base
        self._made: dict[str, Entry] = {}
        self._failed: dict[str, str] = {}

    # --- what there is ---

    @functools.cached_property
    def _builtin(self) -> dict[str, Entry]:
        """Entries of the project itself, read from the syntax trees of its files."""
        spec = importlib.util.find_spec(self.package)
        if spec is None:
            return {}
        if spec.submodule_search_locations:
            files = [f for place in spec.submodule_search_locations for f in sorted(Path(place).glob("*.py"))]
            modules = {f: f"{self.package}.{f.stem}" for f in files if not f.stem.startswith("_")}
        else:
            modules = {Path(str(spec.origin)): self.package}
        found: dict[str, Entry] = {}
        for file, module in modules.items():
            for entry in _read_decorators(file, module, self.decorator):
                if entry.name in found:
                    raise RegistryError(
                        f"{self.kind} '{entry.name}' is registered twice: in {found[entry.name].source} and "
                        f"{entry.source}; rename one."
                    )
                found[entry.name] = entry
        return found

    @functools.cached_property
    def _foreign(self) -> dict[str, importlib.metadata.EntryPoint]:
        """Entry points of other distributions; not loaded yet."""
        return {point.name: point for point in importlib.metadata.entry_points(group=self.group)}

    def names(self, pattern: str = "*") -> list[str]:
        """All registered names that match a wildcard, sorted."""
        return sorted(n for n in {*self._builtin, *self._foreign, *self._made} if fnmatchcase(n, pattern))

    def knows(self, name: str) -> bool:
        """Whether a name is registered, or belongs to a library that is asked for it when it is made."""
        return name in self.names() or name.partition(":")[0] in self.libraries

    def _borrow(self, name: str) -> Entry | None:
        """The entry of another library's `library:name`; None where the name has no library's prefix."""
        library, colon, inner = name.partition(":")
        if not colon or library not in self.libraries:
            return None
        if name not in self._borrowed:
            self._borrowed[name] = importlib.import_module(self.libraries[library]).entry(inner)
        return self._borrowed[name]

    def peek(self, name: str) -> Entry:
        """What is known of a name without importing it."""
        if name in self._made:
            return self._made[name]
        if name in self._builtin:
            return self._builtin[name]
        if name in self._foreign:
            source = self._distribution(name)
            return Entry(name, module=self._foreign[name].value, summary=f"from {source}", source=source)
        raise self._unknown(name)

    def _distribution(self, name: str) -> str:
        """The distribution that an entry point comes from."""
        point = self._foreign[name]
        return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value

    def entry(self, name: str) -> Entry:
        """The entry with its factory imported.

        Raises:
            RegistryError: unknown name, or the module that defines it fails to import.
        """
        if (borrowed := self._borrow(name)) is not None:
            return borrowed
        if name not in self._made:
            if name in self._builtin and name in self._foreign:
                raise RegistryError(
                    f"{self.kind} '{name}' is registered twice: by {self._builtin[name].module} and by the "
                    f"entry point {self._foreign[name].value} of {self._distribution(name)}; rename the "
                    "latter or uninstall it."
                )
            if name in self._builtin:
                self._import(self._builtin[name].module, name)
            elif name in self._foreign:
                self._load(name, self._foreign[name])
            if name not in self._made:
                raise self._unknown(name)
        return self._made[name]

    def make(self, name: str, **params: Any) -> T:
        """Build what a name stands for.

        Raises:
            RegistryError: unknown name. ConfigError: unknown parameter, or a value of the wrong type.
        """
        entry = self.entry(name)
        assert entry.build is not None
        checked = check_arguments(f"{self.kind} '{name}'", entry.build, params)
        try:
            made: T = entry.build(**checked)
        except ClbenchError:
            raise
        except ValueError as error:  # how a factory refuses a value that its annotation allows
            raise ConfigError(f"{self.kind} '{name}': {error}") from error
        except Exception as error:
            raise RegistryError(
                f"{self.kind} '{name}' cannot be built: {entry.module} raised {type(error).__name__}: {error}"
            ) from error
        base = self._base()
        if not isinstance(made, base):
            raise RegistryError(
                f"{self.kind} '{name}' must return a {base.__name__}; {entry.module} returns a "
                f"{type(made).__name__}."
            )
        return made

    # --- registering ---

    def register(
        self,
        name: str,
        *,
        version: int = 1,
        paper: str = "",
        null: dict[str, Any] | None = None,
        modifier: bool = False,
    ) -> Callable[[F], F]:
        """Decorator: give a factory (a function or class with annotated keyword parameters) a name."""

        def add(build: F) -> F:
            module = getattr(build, "__module__", "?")
            source = inspect.getsourcefile(build) or module
            entry = Entry(
                name,
                version,
                module,
                _first_sentence(inspect.getdoc(build)),
                paper,
                null,
                modifier,
                source,
                build,
            )
            _check_factory(self.kind, entry)
            self._refuse_taken(entry)
            self._made[name] = entry
            return build

        return add

    def _refuse_taken(self, entry: Entry) -> None:
        """One name, one plugin. The same file imported again (a doctest, a reload) is no other plugin."""
        for other in (self._made.get(entry.name), self._builtin.get(entry.name)):
            if other is None or _same_file(other.source, entry.source):
                continue
            if other.module == "__main__" == entry.module:
                continue  # a notebook cell, run again
            raise RegistryError(
                f"{self.kind} '{entry.name}' is already registered by {other.module}; rename the one in "
                f"{entry.module} ({entry.source})."
            )
        point = self._foreign.get(entry.name)
        if point is not None and point.module != entry.module and entry.name not in self._made:
            raise RegistryError(
                f"{self.kind} '{entry.name}' is already registered by the entry point {point.value}; rename "
                f"the one in {entry.module} ({entry.source})."
            )

    # --- loading ---

    def _import(self, module: str, name: str) -> None:
        try:
            importlib.import_module(module)
        except ClbenchError:
            raise
        except Exception as error:
            raise RegistryError(
                f"{self.kind} '{name}' cannot be loaded: importing {module} raised {type(error).__name__}: "
                f"{error}"
            ) from error

    def _load(self, name: str, point: importlib.metadata.EntryPoint) -> None:
        try:
            loaded = point.load()
        except ClbenchError:
            raise
        except Exception as error:
            raise RegistryError(
                f"{self.kind} '{name}' cannot be loaded: its entry point {point.value} raised "
                f"{type(error).__name__}: {error}"
            ) from error
        if name not in self._made and callable(loaded):  # a plain factory without our decorator
            self.register(name)(loaded)

    def _unknown(self, name: str) -> RegistryError:
        known = self.names()
        return RegistryError(
            f"There is no {self.kind} named '{name}'.{suggest(name, known)} "
            f"Known: {', '.join(known) or 'none'}."
        )


def load_plugin(path: str | Path) -> str:
    """Import a file that registers something (`--plugin FILE`); returns its module name.

    Raises:
        ConfigError: there is no such file. RegistryError: it raised; the message names file and line.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise ConfigError(f"There is no plugin file {path}.")
    for name, module in list(sys.modules.items()):
        # Not getattr: some modules import all they have when an attribute is asked for.
        if (other := vars(module).get("__file__")) and _same_file(str(other), str(file)):
            return name
    name = f"clbench_plugin_{file.stem.replace('-', '_').replace('.', '_')}"
    if name in sys.modules:  # another file of that name in another folder
        name += f"_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"The plugin {path} is not a Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, ClbenchError | KeyboardInterrupt):
            raise
        trace, line = error.__traceback__, 0
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == str(file):
                line = trace.tb_lineno
            trace = trace.tb_next
        if isinstance(error, SyntaxError) and error.lineno:
            line = error.lineno
        raise RegistryError(
            f"The plugin {path} cannot be loaded: line {line} raised {type(error).__name__}: {error}"
        ) from error
    return name


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
        text = ", ".join(str(limit) for limit in limits)
        return f"{type_name(inner)} ({text})" if text else type_name(inner)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(a) for a in typing.get_args(hint))
    if origin is not None and origin in (typing.Union, getattr(__import__("types"), "UnionType", None)):
        return " or ".join(type_name(a) for a in typing.get_args(hint))
    return getattr(hint, "__name__", str(hint)) if origin is None else str(hint)


def _read_decorators(file: Path, module: str, decorator: str) -> list[Entry]:
    """Entries that a file registers, by its decorators `@register("name", version=…)`."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise RegistryError(f"{file} cannot be read: line {error.lineno}: {error.msg}") from error
    found = []
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        for call in node.decorator_list:
            if not (
                isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == decorator
            ):
                continue
            try:
                name = ast.literal_eval(call.args[0])
                options = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
            except (ValueError, IndexError):
                raise RegistryError(
                    f"{file}, line {call.lineno}: the arguments of @{decorator} must be literals, as clbench "
                    "reads them without running the file."
                ) from None
            summary = _first_sentence(ast.get_docstring(node))
            known = {k: v for k, v in options.items() if k in ("version", "paper", "null", "modifier")}
            found.append(Entry(name, module=module, summary=summary, source=str(file), **known))
    return found


def _check_factory(kind: str, entry: Entry) -> None:
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


def _first_sentence(doc: str | None) -> str:
    if not doc:
        return ""
    text = " ".join(doc.strip().split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".") + "."


def _same_file(a: str, b: str) -> bool:
    return a == b or (Path(a).exists() and Path(b).exists() and Path(a).samefile(b))


def closest(name: str, known: list[str], n: int = 3) -> list[str]:
    """The nearest of the known names, best first."""
    return difflib.get_close_matches(name, known, n=n, cutoff=0.5)


def _strategy_base() -> type:
    from clbench.strategy import Strategy

    return Strategy


def _benchmark_base() -> type:
    from clbench.types import Benchmark

    return Benchmark


def _model_base() -> type:
    from clbench.models import Classifier

    return Classifier


strategies: Registry[Any] = Registry(
    "strategy",
    plural="strategies",
    package="clbench.strategies",
    decorator="register",
    group="clbench.strategies",
    base=_strategy_base,
    libraries={"avalanche": "clbench.interop.avalanche"},
)
benchmarks: Registry[Any] = Registry(
    "benchmark",
    plural="benchmarks",
    package="clbench.benchmarks",
    decorator="register_benchmark",
    group="clbench.benchmarks",
    base=_benchmark_base,
)
models: Registry[Any] = Registry(
    "model",
    plural="models",
    package="clbench.models",
    decorator="register_model",
    group="clbench.models",
    base=_model_base,
)

register = strategies.register
register_benchmark = benchmarks.register
register_model = models.register
