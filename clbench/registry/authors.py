"""Whose a line of a program is: a library's, or somebody's who wrote what is registered, be it installed or not."""

from __future__ import annotations

import functools
import os
import sysconfig
from pathlib import Path

from clbench.registry.closure import placed
from clbench.registry.entries import benchmarks, models, strategies
from clbench.registry.reads import is_installed

_REGISTRIES = (strategies, benchmarks, models)


def is_library(file: str) -> bool:
    """Whether a source file is Python's, or of an installed distribution, unless that has registered something.

    An author looks for mistakes in what he wrote, and an installed plug-in lies among libraries.
    """
    return _is_library(file, *(registry.made for registry in _REGISTRIES))


@functools.lru_cache(maxsize=4096)
def _is_library(file: str, *made: int) -> bool:
    if file.startswith(("<", sysconfig.get_paths()["scripts"] + os.sep)):
        return True
    return is_installed(file) and not file.startswith(_plugins(*made))


@functools.lru_cache(maxsize=8)
def _plugins(*made: int) -> tuple[str, ...]:
    """Return the folders of installed packages that have registered something, and the files that are no package's.

    Args:
        made: how many names of each kind have their factories imported.
    """
    found = dict.fromkeys(
        file for registry in _REGISTRIES for file in registry.sources() if is_installed(file)
    )
    return tuple(_package(file) for file in found)


def _package(file: str) -> str:
    top, (first, *inner) = placed(Path(file))
    return str(top / first) + os.sep if inner else file
