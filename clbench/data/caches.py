"""Caches: what was made of other files, can be made again, and may be removed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypedDict

from clbench.data.decoded import CACHE
from clbench.data.files import data_folder
from clbench.data.known import Status
from clbench.errors import ConfigError, DataError, choices
from clbench.machine.answers import FOLDER

CACHES = {CACHE: "images decoded from folders", FOLDER: "what frozen encoders say of texts"}
"""Name of a cache, which is a folder of `$CLBENCH_DATA`, and what it holds."""
_OURS = re.compile(r"[0-9a-f]{32}\.npy|\.[0-9a-f]{32}\.npy\.[^.]+")
"""What `clbench.data.decoded` and `clbench.machine.answers` call their files, and those that were being written when a
process was killed."""


class Cleared(TypedDict):
    """What was removed.

    Attributes:
        path: the folder of the cache.
        what: it held.
        files, megabytes: how many were removed, and their size.
    """

    path: str
    what: str
    files: int
    megabytes: int


def caches() -> list[Status]:
    """Return the caches that hold something, as `status` returns data sets."""
    found = []
    for name, what in CACHES.items():
        if files := _files(data_folder() / name):
            note = f"{what}: {len(files)} file{'s' * (len(files) != 1)}; `clbench data clear {name}` removes them"
            path = str(data_folder() / name)
            found.append(Status(name=name, state="cache", path=path, megabytes=_megabytes(files), note=note))
    return found


def clear(name: str) -> Cleared:
    """Remove the files of a cache, and no other file that lies beside them.

    Raises:
        ConfigError: there is no such cache. DataError: a file cannot be removed.
    """
    if name not in CACHES:
        raise ConfigError(f"There is no cache '{name}'.{choices(name, CACHES)}")
    folder = data_folder() / name
    files = _files(folder)
    cleared = Cleared(path=str(folder), what=CACHES[name], files=len(files), megabytes=_megabytes(files))
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{file} cannot be removed: {error.strerror or error}.") from error
    return cleared


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if _OURS.fullmatch(file.name) and file.is_file())


def _megabytes(files: list[Path]) -> int:
    """Return their size, rounded up: what holds something is not shown as nothing."""
    return -(-sum(file.stat().st_size for file in files) // 1_000_000)
