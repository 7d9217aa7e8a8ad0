"""Names, versions and where they come from.

A registry knows its built-in entries without importing them: it reads the decorators in the source, so
`clbench list` needs neither torch nor the plugins. An entry's module is imported when it is first made.

Entries come from four places: the project's own folder (`strategies/`, `benchmarks/`), modules of the core
that register (`clbench.models`), entry points of installed distributions (group `clbench.strategies`, …), and
files named with `--plugin` or classes registered in a notebook. Entry points are read like the project's own
files, without running them; what is wrong with one is told by name, and nothing else suffers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Generic, TypeVar

from clbench.errors import ClbenchError, ConfigError, IncompatibleError, RegistryError, choices
from clbench.files import expanded
from clbench.files.names import name_mistake, version_mistake
from clbench.registry.arguments import (
    check_arguments as check_arguments,
    type_name as type_name,
)
from clbench.registry.entry import (
    Entry,
    PluginWarning,
    check_factory,
    distribution_of,
    first_sentence,
    module_file,
    named,
    raised_by,
    read_constant,
    read_decorators,
    same_file,
)
from clbench.registry.leaving import noting_threads
from clbench.registry.reads import File as File, Watch, watched
from clbench.registry.rows import factory, read_rows
from clbench.registry.typed import where_defined

T = TypeVar("T")


F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[T]):
    """Entries of one kind.

    Args:
        kind: "strategy", "benchmark", "model": what messages call an entry.
        package: importable package or module whose decorators are read from the source.
        folder: file or folder of that source.
        decorator: name of the function that registers.
        group: entry-point group for other distributions.
        base: what a factory must return, by its address, since the registry lies below what is registered.
        mistake: address of a function that says what is wrong with what a factory returned, or nothing.
        adapters: package whose modules adapt other libraries, whose names begin with the library's, `library:name`.
            A module says by `LIBRARY = "library"` which one, by `entry(name)` what follows the colon, by `offers()`
            what runs (name → summary) and what does not (name → why), and by `RULES_NOT_KEPT` which checks of the
            contract its methods cannot pass (name → why).
        told_by_data: what a factory reads is told by what it returns, and need not be declared.
        reader: address of a function that says which entry reads a file or folder that was given as a name.
    """

    def __init__(
        self,
        kind: str,
        *,
        plural: str,
        package: str,
        decorator: str,
        group: str,
        base: str,
        mistake: str = "",
        adapters: str = "",
        told_by_data: bool = False,
        reader: str = "",
    ) -> None:
        self.told_by_data = told_by_data
        self.adapters = adapters
        self._borrowed: dict[str, Entry] = {}
        self.kind, self.plural, self.package, self.decorator, self.group = (
            kind,
            plural,
            package,
            decorator,
            group,
        )
        self._base, self._mistake, self._reader = base, mistake, reader
        self._made: dict[str, Entry] = {}

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
            for entry in read_decorators(file, module, self.decorator):
                if entry.name in found:
                    raise RegistryError(
                        f"{self.kind} '{entry.name}' is registered twice: in {found[entry.name].source} and "
                        f"{entry.source}; rename one."
                    )
                found[entry.name] = entry
        return found

    @functools.cached_property
    def _foreign(self) -> dict[str, importlib.metadata.EntryPoint]:
        """Entry points of other distributions, not loaded; where two have one name, neither is to be had."""
        return {name: points[0] for name, points in self._points.items() if len(points) == 1}

    @functools.cached_property
    def _points(self) -> dict[str, list[importlib.metadata.EntryPoint]]:
        """All entry points of the group, by name."""
        points: dict[str, list[importlib.metadata.EntryPoint]] = {}
        for point in importlib.metadata.entry_points(group=self.group):
            if not name_mistake(point.name) and point not in points.setdefault(point.name, []):
                points[point.name].append(point)
        return points

    @functools.cached_property
    def libraries(self) -> dict[str, str]:
        """Other libraries that are adapted → the adapter's module, read from the syntax trees."""
        spec = importlib.util.find_spec(self.adapters) if self.adapters else None
        places = (spec and spec.submodule_search_locations) or ()
        files = [file for place in places for file in sorted(Path(place).rglob("*.py"))]
        return {
            library: f"{self.adapters}.{file.parent.name if file.stem == '__init__' else file.stem}"
            for file in files
            if (library := read_constant(file, "LIBRARY")) is not None
        }

    def adapter(self, name: str) -> Any:
        """Return the module that adapts the library whose prefix a name has, which imports none of it; None where it
        has none.

        It is not imported before it is asked for.
        """
        module = self.libraries.get(name.partition(":")[0])
        return None if module is None else importlib.import_module(module)

    def problems(self) -> list[str]:
        """Return what is wrong with entry points of other distributions, as far as can be seen without running them."""
        found = [
            f"{self.kind} of {distribution_of(point)} ({point.value}) cannot be used: {wrong}."
            for point in importlib.metadata.entry_points(group=self.group)
            if (wrong := name_mistake(point.name))
        ]
        for name, points in sorted(self._points.items()):
            if len(points) > 1:
                found.append(self._contested(name))
            elif name in self._builtin:
                found.append(self._shadowed(name))
            else:
                try:
                    self._read_point(points[0])
                except RegistryError as error:
                    found.append(str(error))
        return found

    def _contested(self, name: str) -> str:
        who = " and ".join(distribution_of(point) for point in self._points[name])
        return f"{self.kind} '{name}' is registered by {who}; uninstall one of them. Neither is used."

    def _shadowed(self, name: str) -> str:
        point = self._foreign[name]
        return (
            f"{self.kind} '{name}' of {distribution_of(point)} ({point.value}) has the name of one of clbench's own, "
            "which is used; ask its authors to rename theirs."
        )

    def _read_point(self, point: importlib.metadata.EntryPoint) -> Entry:
        """Return what an entry point will register, read from its source.

        Raises:
            RegistryError: its module is not there or is no Python.
        """
        origin, file = distribution_of(point), module_file(point.module)
        who = f"{self.kind} '{point.name}' of {origin} ({point.value}) cannot be loaded: "
        if file is None:
            raise RegistryError(f"{who}there is no module {point.module}.")
        if file.suffix != ".py":  # compiled; only an import can tell
            return Entry(
                point.name, module=point.module, summary=f"from {origin}", source=str(file), origin=origin
            )
        try:
            entries = read_decorators(file, point.module, self.decorator)
        except RegistryError as error:
            raise RegistryError(f"{who}{error}") from error
        for entry in entries:
            if entry.name == point.name:
                return replace(entry, origin=origin)
        return Entry(
            point.name, module=point.module, summary=f"from {origin}", source=str(file), origin=origin
        )

    def names(self, pattern: str = "*") -> list[str]:
        """Return all registered names that match a wildcard, sorted."""
        names = {*self._builtin, *self._foreign, *self._made}
        return sorted(names if pattern == "*" else (name for name in names if fnmatchcase(name, pattern)))

    def knows(self, name: str) -> bool:
        """Whether a name is registered, or belongs to a library that is asked for it when it is made."""
        named = (self._builtin, self._foreign, self._made)
        return any(name in names for names in named) or name.partition(":")[0] in self.libraries

    @property
    def made(self) -> int:
        """How many names have their factories imported."""
        return len(self._made)

    def sources(self) -> set[str]:
        """Return the files that define factories which are imported and not clbench's."""
        return {entry.source for entry in self._made.values() if not entry.own}

    def ships(self, name: str) -> bool:
        """Whether clbench brings what has the name, itself or from a library that it adapts."""
        return name in self._builtin or name.partition(":")[0] in self.libraries

    def _borrow(self, name: str) -> Entry | None:
        """Return the entry of another library's `library:name`; None where the name has no library's prefix."""
        _, colon, inner = name.partition(":")
        if name not in self._borrowed and colon and (adapter := self.adapter(name)) is not None:
            self._borrowed[name] = adapter.entry(inner)
        return self._borrowed.get(name)

    def peek(self, name: str) -> Entry:
        """Return what is known of a name without importing it."""
        if name in self._made:
            return self._made[name]
        if name in self._builtin:
            return self._builtin[name]
        if name in self._foreign:
            try:
                return self._read_point(self._foreign[name])
            except RegistryError as error:
                origin = distribution_of(self._foreign[name])
                return Entry(name, module=self._foreign[name].module, summary=f"! {error}", origin=origin)
        raise self._unknown(name)

    def entry(self, name: str) -> Entry:
        """Return the entry with its factory imported.

        Raises:
            RegistryError: unknown name, or the module that defines it fails to import.

        Warns:
            PluginWarning: another distribution registers a name of clbench's own, too.
        """
        if (borrowed := self._borrow(name)) is not None:
            return borrowed
        if name not in self._made:
            if name in self._builtin:
                if name in self._foreign:
                    warnings.warn(self._shadowed(name), PluginWarning, stacklevel=2)
                self._import(self._builtin[name].module, name)
            elif name in self._foreign:
                self._load(name, self._foreign[name])
            elif name in self._points:
                raise RegistryError(self._contested(name))
            if name not in self._made:
                raise self._unknown(name)
        return self._made[name]

    def make(self, name: str, /, **params: Any) -> T:
        """Build what a name stands for.

        Raises:
            RegistryError: unknown name. ConfigError: unknown parameter, or a value of the wrong type.
        """
        entry = self.entry(name)
        assert entry.build is not None
        checked = check_arguments(f"{self.kind} '{name}'", entry.build, params)
        try:
            watching = contextlib.nullcontext() if entry.own or self.told_by_data else watched()
            with noting_threads(entry.source), watching as watch:
                made: T = entry.build(**checked)
        except ClbenchError:
            raise
        except ValueError as error:  # how a factory refuses a value that its annotation allows
            raise ConfigError(f"{self.kind} '{name}': {error}") from error
        except Exception as error:
            raise RegistryError(
                f"{self.kind} '{name}' of {entry.origin} cannot be built: {raised_by(error, entry.source)}"
            ) from error
        if watch is not None:
            defaults = {key: p.default for key, p in entry.signature().parameters.items()}
            known: list[str | Path] = [
                *entry.named({**defaults, **checked}).values(),
                *entry.files().values(),
            ]
            watch.refuse(f"{self.kind} '{name}' of {entry.origin}", known)
        base = _resolved(self._base)
        if not isinstance(made, base):
            raise RegistryError(
                f"{self.kind} '{name}' must return a {base.__name__}; that of {entry.origin} returns a "
                f"{type(made).__name__}."
            )
        mistake = _resolved(self._mistake) if self._mistake else None
        if mistake is not None and (wrong := mistake(made, modifier=entry.modifier)):
            raise RegistryError(f"{self.kind} '{name}' of {entry.origin}: {wrong}")
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
        tiny: dict[str, Any] | None = None,
        reads: Sequence[str] = (),
        family: str = "",
        primary: str = Entry.primary,
    ) -> Callable[[F], F]:
        """Decorator: give a factory (a function or class with annotated keyword parameters) a name.

        Files that the factory reads are named in `reads`, as seen from the file that it is written in, or are
        parameters of the type `clbench.File`; a run's id counts what they hold. `family` is the group in which
        the documentation lists a strategy of clbench's own. The metric that ranks strategies on a benchmark,
        `primary`, is that of the `Benchmark` that is made; here it is known before that is.
        """

        def add(build: F) -> F:
            module = getattr(build, "__module__", "?")
            source = where_defined(build)
            if wrong := name_mistake(name) or version_mistake(version):
                raise RegistryError(f"A {self.kind} of {source} cannot be registered: {wrong}.")
            entry = Entry(
                name,
                version,
                module,
                first_sentence(inspect.getdoc(build)),
                paper,
                null,
                modifier,
                source,
                self._origin(name, module, source),
                build,
                tiny,
                tuple(reads),
                family,
                primary,
            )
            check_factory(self.kind, entry)
            self._refuse_taken(entry)
            self._made[name] = entry
            return build

        return add

    def register_rows(self, table: str, *, primary: str = Entry.primary) -> Callable[[F], F]:
        """Decorator: give the function a name for each row of a table that lies beside it (`clbench.registry.rows`)."""

        def add(build: F) -> F:
            for row in read_rows(Path(where_defined(build)).with_name(table)):
                add_row = self.register(row.name, version=row.version, paper=row.paper, primary=primary)
                add_row(factory(row, build))
            return build

        return add

    def _origin(self, name: str, module: str, source: str) -> str:
        if module.partition(".")[0] == "clbench":
            return "clbench"
        point = self._foreign.get(name)
        if point is not None and point.module.partition(".")[0] == module.partition(".")[0]:
            return distribution_of(point)
        return "this session" if module == "__main__" and not Path(source).is_file() else source

    def _refuse_taken(self, entry: Entry) -> None:
        """Refuse a name that is taken. The same file imported again (a doctest, a reload) is no other plug-in."""
        for other in (self._made.get(entry.name), self._builtin.get(entry.name)):
            if other is None or same_file(other.source, entry.source):
                continue
            if other.module == "__main__" == entry.module:
                continue  # a notebook cell, run again
            raise RegistryError(
                f"{self.kind} '{entry.name}' is already registered by {other.module}; rename the one in "
                f"{entry.module} ({entry.source})."
            )
        point = None if entry.name in self._builtin else self._foreign.get(entry.name)
        if point is not None and entry.name not in self._made and entry.origin != distribution_of(point):
            defines = module_file(point.module)
            if defines is None or not same_file(str(defines), entry.source):
                raise RegistryError(
                    f"{self.kind} '{entry.name}' is already registered by {distribution_of(point)} ({point.value}); "
                    f"rename the one in {entry.module} ({entry.source})."
                )

    @contextlib.contextmanager
    def lending(self, entry: Entry) -> Iterator[None]:
        """Know an entry inside, that of an object in memory for one, and forget it afterwards."""
        self._made[entry.name] = entry
        try:
            yield
        finally:
            del self._made[entry.name]

    # --- loading ---

    def _import(self, module: str, name: str) -> None:
        with named(f"{self.kind} '{name}' cannot be loaded: importing {module} ", ""):
            importlib.import_module(module)

    def _load(self, name: str, point: importlib.metadata.EntryPoint) -> None:
        who = f"{self.kind} '{name}' of {distribution_of(point)} cannot be loaded: its entry point {point.value}"
        with named(f"{who}: ", str(module_file(point.module) or "")), watched() as watch:
            loaded = point.load()
        _refuse_undeclared(watch, who, point.module)
        if name in self._made:
            return
        if callable(loaded):  # a plain factory without our decorator
            self.register(name)(loaded)
            return
        here = [n for n, e in self._made.items() if e.module == point.module]
        raise RegistryError(
            f"{who} registers no {self.kind} of that name; write @{self.decorator}({name!r}) there"
            + (f" (it registers {', '.join(here)})." if here else ".")
        )

    def _unknown(self, name: str) -> RegistryError:
        if self._reader and os.path.exists(place := expanded(name)):
            kind, reads = "folder" if place.is_dir() else "file", _resolved(self._reader)(place)
            return RegistryError(
                f"'{name}' is a {kind} and no {self.kind}; {reads} reads it, with path={name}."
            )
        instead = choices(name, self.names(), f"clbench list {self.plural}")
        return RegistryError(f"There is no {self.kind} named '{name}'.{instead}")


_resolved = functools.lru_cache(maxsize=64)(pkgutil.resolve_name)


def chain_parts(name: str) -> list[str]:
    """Return the names of a chain, `"er+refresh"` → `["er", "refresh"]`.

    Raises:
        RegistryError: nothing stands on one side of a plus. IncompatibleError: one stands there twice that is not
            `idempotent`.
    """
    parts = name.split("+")
    if not all(parts):
        named = "+".join(part for part in parts if part)
        raise RegistryError(
            f"'{name}' is no chain of strategies: a name is missing beside a '+'."
            + (f" Did you mean '{named}'?" if named else " `clbench list strategies` shows all.")
        )
    for part in parts:
        if parts.count(part) > 1 and not all(made.idempotent for made in strategies.make(part).parts):
            raise IncompatibleError(
                f"'{name}' holds {part} more than once, and the second would learn or remember beside the first; name "
                f"it once: '{'+'.join(dict.fromkeys(parts))}'."
            )
    return parts


strategies: Registry[Any] = Registry(
    "strategy",
    plural="strategies",
    package="clbench.strategies",
    decorator="register",
    group="clbench.strategies",
    base="clbench.strategy.Strategy",
    mistake="clbench.strategy.mistake",
    adapters="clbench.interop",
)


benchmarks: Registry[Any] = Registry(
    "benchmark",
    plural="benchmarks",
    package="clbench.benchmarks",
    decorator="register_benchmark",
    group="clbench.benchmarks",
    base="clbench.types.Benchmark",
    told_by_data=True,
    reader="clbench.data.reader_of",
)


models: Registry[Any] = Registry(
    "model",
    plural="models",
    package="clbench.models",
    decorator="register_model",
    group="clbench.models",
    base="clbench.models.base.Classifier",
)


register = strategies.register


register_benchmark = benchmarks.register
register_benchmarks = benchmarks.register_rows


register_model = models.register


def load_plugin(path: str | Path) -> str:
    """Import a file that registers something (`--plugin FILE`); returns its module name.

    Raises:
        ConfigError: there is no such file. RegistryError: it raised; the message names file and line.
    """
    file = expanded(path).resolve()
    if not file.is_file():
        raise ConfigError(f"There is no plugin file {path}.")
    if (loaded := _module_of(str(file))) is not None:
        return loaded
    name = f"clbench_plugin_{file.stem.replace('-', '_').replace('.', '_')}"
    if name in sys.modules:  # another file of that name in another folder
        name += f"_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"The plugin {path} is not a Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with named(f"The plugin {path} cannot be loaded: ", str(file)), watched() as watch:
            spec.loader.exec_module(module)
        _refuse_undeclared(watch, f"The plugin {path}", name)
    except BaseException:
        del sys.modules[name]
        for registry in (strategies, benchmarks, models):  # what it registered before it failed
            for registered in [n for n, e in registry._made.items() if e.module == name]:
                del registry._made[registered]
        raise
    return name


def _refuse_undeclared(watch: Watch, who: str, module: str) -> None:
    """Refuse what a plug-in has read while it was imported; where it brings benchmarks only, the data counts."""
    entries = [entry for registry in (strategies, models) for entry in registry._made.values()]
    if any(entry.module == module for entry in entries):
        entries += benchmarks._made.values()
        watch.refuse(f"{who}, as it is imported,", [path for e in entries for path in e.files().values()])


def _module_of(file: str) -> str | None:
    """Return the name of the module that was imported from a file."""
    place = _place(os.stat(file))
    for name, module in list(sys.modules.items()):
        # Not getattr: some modules import all they have when an attribute is asked for.
        other = str(vars(module).get("__file__") or "")
        if other == file or (other and _place_of(other) == place and same_file(other, file)):
            return name
    return None


def _place(status: os.stat_result) -> tuple[int, int]:
    """Return the same for two names of one file."""
    return status.st_dev, status.st_ino


@functools.cache
def _place_of(module_file: str) -> tuple[int, int] | None:
    """Return where a module's file lay when it was first asked for: a look at every module for every plug-in is
    slow."""
    try:
        return _place(os.stat(module_file))
    except OSError:
        return None
