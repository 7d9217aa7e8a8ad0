"""Start processes beside a run's own, without running the caller's script again.

Python has every process that it starts import the caller's script, so that what the script defines is there. A script
without an `if __name__ == "__main__":` would then start its run again, inside a worker. Most workers need nothing of
it; those are started as if there were no script.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import pickle
import signal
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clbench.errors import ConfigError
from clbench.machine.stopping import SIGNALS

MAIN = "__main__"


@contextlib.contextmanager
def starting(*sent: object, preload: Sequence[str] = ()) -> Iterator[None]:
    """Start processes inside; they import the caller's script only if what they are sent is defined in it.

    Args:
        sent: what the processes are given. preload: modules that they are forked with, where none was yet.

    Raises:
        ConfigError: something of it is defined where no process can import it, such as in a notebook.
    """
    name = _defined_in_script(sent)
    script = sys.modules[MAIN]
    if name is None:
        sys.modules[MAIN] = types.ModuleType(MAIN)
    elif getattr(script, "__spec__", None) is None and not Path(getattr(script, "__file__", "")).is_file():
        raise ConfigError(
            f"'{name}' is needed by another process, which cannot import it from a notebook, a session or standard "
            "input. Put it into a module and import that, or run in one process: resident=always, and no overlap."
        )
    try:
        _start_server(preload)
        yield
    finally:
        sys.modules[MAIN] = script


def _start_server(preload: Sequence[str]) -> None:
    """Start the fork server so that a signal to the whole group of processes leaves it alone.

    It says of each process it has started when that ends; without it, all would seem to have.
    """
    multiprocessing.forkserver.set_forkserver_preload(["clbench.machine.forking", *preload])
    multiprocessing.resource_tracker.ensure_running()  # which unblocks signals when it has begun
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def refuse_while_importing() -> None:
    """Refuse to run in a process that is only importing the caller's script.

    Raises:
        ConfigError: names the guard that the script lacks.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        script = getattr(sys.modules[MAIN], "__file__", "the script")
        raise ConfigError(
            f"A process that needs what {script} defines imports it, and would start its run again. Put what runs "
            'under `if __name__ == "__main__":`, or what it defines into a module of its own.'
        )


def _defined_in_script(sent: object) -> str | None:
    """Return the first function or class that pickling `sent` would look up in the caller's script; None if there is
    none."""
    finder = _Finder(_Nowhere())
    # What cannot be pickled is told by whoever sends it.
    with contextlib.suppress(pickle.PicklingError, AttributeError, TypeError):
        finder.dump(sent)
    return finder.found


class _Nowhere:
    """Takes bytes and forgets them."""

    def write(self, content: bytes) -> int:
        return len(content)


class _Finder(pickle.Pickler):
    """Pickles everything but the data, only to see what is named on the way."""

    found: str | None = None

    def reducer_override(self, obj: Any) -> Any:
        import torch

        if isinstance(obj, torch.Tensor | torch.UntypedStorage):
            return int, ()
        if isinstance(obj, type | types.FunctionType) and obj.__module__ == MAIN and self.found is None:
            self.found = obj.__qualname__
        return NotImplemented
