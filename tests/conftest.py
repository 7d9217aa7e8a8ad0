"""What all tests share."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from clbench.machine import guard

REHEARSES = "--rehearse-gpu" in sys.argv
if REHEARSES:  # before torch is imported, which asks only then what devices there are
    guard.load()

import torch  # noqa: E402

OURS = ("CLBENCH_RUNS", "CLBENCH_WEIGHTS", "CLBENCH_DEBUG")
CACHES = {".git", ".pytest_cache", "__pycache__", ".mypy_cache", ".ruff_cache"}

# Hypothesis keeps examples, constants and tables of characters in the folder where the tests are started, which may
# be read-only: they get one of their own, and so do the processes that they start.
_hypothesis = tempfile.TemporaryDirectory(prefix=".hypothesis-")
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", _hypothesis.name)


# What is imported and collected stays: to look for garbage in it takes a quarter of the time of collecting, and then
# some of every test's.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rehearse-gpu", action="store_true", help="run the tests of a GPU on an imitation of one"
    )


def pytest_configure(config: pytest.Config) -> None:
    if REHEARSES and config.option.markexpr == "not slow and not gpu":  # that of pyproject.toml
        config.option.markexpr = "gpu"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Models in tests are so small that a second thread only waits, and a number of threads decides bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _nothing_is_left() -> Iterator[None]:
    """Nothing appears below the folder where the tests were started."""
    start = Path.cwd()
    before = everything_below(start)
    yield
    left = everything_below(start) - before
    assert not left, f"the tests left {sorted(left)} in {start}"


def everything_below(start: Path) -> set[str]:
    """Files and folders at any depth, but for caches, git's own and environments of Python."""
    found: set[str] = set()
    for folder, folders, files in os.walk(start):
        if "pyvenv.cfg" in files:
            folders.clear()
            continue
        folders[:] = [name for name in folders if name not in CACHES]
        below = folder[len(str(start)) + 1 :]
        found.update(os.path.join(below, name) for name in (*folders, *files) if name not in CACHES)
    return found


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path) -> Iterator[None]:
    """Every test starts in an empty folder, whatever lies in the checkout or in the home folder.

    By a monkeypatch of its own, which a test's `monkeypatch.undo()` leaves alone.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for name in OURS:
            patch.delenv(name, raising=False)
        if not os.environ.get("CLBENCH_DATA"):
            patch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
        yield
