"""Avalanche itself: imported where it is used, kept quiet, and kept from drawing where others draw."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import random
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from clbench.errors import RegistryError

SUPPORTED = "0.6"
MODULES = (
    "benchmarks",
    "benchmarks.utils",
    "models",
    "training.losses",
    "training.plugins",
    "training.supervised",
    "training.templates",
)


def version() -> str:
    """Return the installed version of avalanche-lib.

    Raises:
        RegistryError: there is none, or one that this adapter was not written for.
    """
    try:
        found = importlib.metadata.version("avalanche-lib")
    except importlib.metadata.PackageNotFoundError:
        raise RegistryError(
            "Avalanche's strategies need avalanche-lib 0.6, which is not installed: pip install 'clbench[avalanche]'."
        ) from None
    if not found.startswith(SUPPORTED + "."):
        raise RegistryError(
            f"clbench works with avalanche-lib {SUPPORTED}; {found} is installed: pip install 'avalanche-lib==0.6.0'."
        )
    return found


def avalanche() -> Any:
    """Return the module `avalanche` with the submodules in use; the first call takes seconds."""
    version()
    if "avalanche.training.templates" not in sys.modules:
        from clbench.machine.torchvision import torchvision

        torchvision()
        with quiet():
            for name in MODULES:
                importlib.import_module(f"avalanche.{name}")
    return sys.modules["avalanche"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Avalanche's deprecations, advice and prints go nowhere: standard output may be a record's.

    Warnings are recorded, not filtered, as Avalanche resets the filters.
    """
    with warnings.catch_warnings(record=True), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of Python and NumPy begin at `seed` inside and are the caller's again afterwards.

    Some of Avalanche's parts draw from them. torch's global generator is the run's already.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 – it is the global one that is lent
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
