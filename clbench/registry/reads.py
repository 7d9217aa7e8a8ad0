"""Files that a run reads: how they are declared, so that its id counts their content; and which were not.

    @register("mine")
    def mine(weights: clbench.File = "w.pt") -> Strategy: ...      a parameter names the file

    @register("mine", reads=["w.pt"])
    def mine() -> Strategy: ...                                    the file lies beside the one that says so

An id counts what is in a file, not how its path is spelled or where it lies; the record keeps the path. Whoever reads
another file while a run is built is refused: with other content the run would keep its id. Imports no torch.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import sys
import sysconfig
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

from clbench.errors import RegistryError
from clbench.files import file_sha256, sha256
from clbench.files.places import HOME, ROOT


class _Read:
    """Marks a parameter that names a file or a folder."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(_spelled, handler(source))


def _spelled(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


READ = _Read()
File = Annotated[str, READ]
"""The type of a parameter that names a file or a folder which is read, or of the members of a list of them; what these
hold counts, wherever they lie."""


def with_files(hint: Any, value: Any, change: Callable[[str, str], str], at: str = "") -> Any:
    """Return a parameter's value, with `change(where, path)` for every file or folder that it names by its type.

    Files may stand in lists, at `[0]` and so on; a word that the type lists is none.
    """
    if not value or not isinstance(value, str | list | tuple):
        return value
    notes = getattr(hint, "__metadata__", ())
    if notes and READ not in notes:
        return with_files(typing.get_args(hint)[0], value, change, at)
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if isinstance(value, list | tuple):
        for kind in kinds:
            if typing.get_origin(kind) in (list, tuple, Sequence) and (inside := typing.get_args(kind)):
                each = inside if len(inside) == len(value) and ... not in inside else inside[:1] * len(value)
                return [
                    with_files(inner, one, change, f"{at}[{i}]")
                    for i, (inner, one) in enumerate(zip(each, value, strict=True))
                ]
    if not isinstance(value, str):
        return value
    if any(typing.get_origin(kind) is Literal and value in typing.get_args(kind) for kind in kinds):
        return value
    return change(at, value) if any(READ in getattr(kind, "__metadata__", ()) for kind in kinds) else value


def located(path: str) -> str:
    """Return the whole path of what lies there; what does not is left as it is: a name in a data folder, or a
    mistake."""
    there = os.path.abspath(os.path.expanduser(path))
    return there if os.path.exists(there) else path


def digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder: of the names and contents of all files in it."""
    if not path.is_dir():
        return file_sha256(path)
    return sha256("\n".join(f"{name} {file_sha256(file)}" for name, file in sorted(_inside(path))))


def _inside(folder: Path) -> Iterator[tuple[str, Path]]:
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        stat = os.stat(place)
        if (stat.st_dev, stat.st_ino) in seen:  # a link back
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = [name for name in folders if name != "__pycache__"]
        for file in (Path(place, name) for name in files):
            if file.is_file():
                yield file.relative_to(folder).as_posix(), file


# --- what was not declared ---


class Watch:
    """What was opened to be read, by code that is no library's."""

    def __init__(self) -> None:
        self._read: dict[str, None] = {}
        self._written: set[str] = set()

    def note(self, path: Any, mode: str | None, flags: int) -> None:
        """Note a file that is opened, as Python's audit event `open` tells it."""
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a file that is open
        whole = os.path.abspath(os.fsdecode(path))
        if (mode or "r")[0] in "wxa" or flags & (os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
            self._written.add(whole)
        elif whole not in self._written and not _is_library(whole) and not _is_import():
            self._read[whole] = None

    def refuse(self, who: str, covered: Iterable[str | Path]) -> None:
        """Refuse what was read and is not among the files and folders that a run's id covers.

        Raises:
            RegistryError: names the file, and how it is declared.
        """
        known = [os.path.realpath(path) for path in covered]
        for path in filter(os.path.isfile, self._read):
            real = os.path.realpath(path)
            if not any(real == one or real.startswith(one + os.sep) for one in known):
                name = os.path.basename(path)
                raise RegistryError(
                    f"{who} reads {path}, which a run's id does not count: with other content the run would keep its "
                    "id, and its record would be another run's. Declare the file: as a parameter, "
                    f"`path: clbench.File = {name!r}`, or, beside the plug-in, with reads=[{name!r}] in the decorator "
                    "that registers it; weights of a network also by model.weights=FILE.safetensors."
                )


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Notice which files are opened inside, in this thread."""
    global _hooked
    if not _hooked:  # for good: Python takes no hook back
        sys.addaudithook(_hook)
        _hooked = True
    watch = Watch()
    token = _watching.set(watch)
    try:
        with _mapped():
            yield watch
    finally:
        _watching.reset(token)


def _hook(event: str, given: tuple[Any, ...]) -> None:
    if event == "open" and (watch := _watching.get()) is not None:
        watch.note(*given[:3])


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    """Files that torch maps into memory, as safetensors has it do, which Python is not told of."""
    storage = getattr(sys.modules.get("torch"), "UntypedStorage", None)
    if storage is None or "from_file" in vars(storage):
        yield
        return
    inner = storage.from_file

    def from_file(filename: Any, *args: Any, **kwargs: Any) -> Any:
        if (watch := _watching.get()) is not None:
            watch.note(filename, "r", 0)
        return inner(filename, *args, **kwargs)

    storage.from_file = from_file
    try:
        yield
    finally:
        del storage.from_file


_hooked = False
_watching: ContextVar[Watch | None] = ContextVar("watching", default=None)
_SOURCES = tuple(importlib.machinery.all_suffixes())
"""Ends of Python's own files, which count as code."""


def _is_library(path: str) -> bool:
    """Whether it is of Python, the system, an installed distribution, clbench, a cache or somebody's settings.

    Installed distributions are told by their versions, in the record; so is what they keep in caches.
    """
    installed = any(
        part == "site-packages" or part.endswith((".dist-info", ".egg-info")) for part in Path(path).parts
    )
    return installed or path.endswith(_SOURCES) or path.startswith(_libraries())


def _libraries() -> tuple[str, ...]:
    own = [HOME, *(ROOT / name for name in ("strategies", "benchmarks", "configs"))]
    names = ("XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "CLBENCH_DATA")
    caches = [os.environ[name] for name in names if os.environ.get(name)]
    system = ["/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/lib64", "/System", "/Library"]
    python = [*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix]
    folders = {os.path.abspath(folder) + os.sep for folder in (*map(str, own), *caches, *system, *python)}
    return (*folders, os.path.join(os.path.expanduser("~"), "."))


def _is_import() -> bool:
    """Whether a library opens it because it is being imported: nobody but itself has asked for the file."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib"):
            return True
        if name != __file__ and not name.startswith("<frozen") and not is_installed(name):
            return False
        frame = frame.f_back
    return False


def is_installed(source: str) -> bool:
    """Whether a source file is Python's own, or of an installed distribution."""
    paths = sysconfig.get_paths()
    of_python = source.startswith(tuple(paths[name] + os.sep for name in ("stdlib", "platstdlib")))
    return of_python or not {"site-packages", "dist-packages"}.isdisjoint(Path(source).parts)
