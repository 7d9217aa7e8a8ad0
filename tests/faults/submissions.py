"""Changes of a leaderboard, each in a process of its own, which may be killed at a chosen moment."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from clbench.reports.leaderboard import store, submit

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [  # the last three are what the runs name, by which a submission checks their arguments
        "clbench.reports.leaderboard",
        "scipy.special",
        "clbench.benchmarks.split",
        "clbench.strategies.finetune",
        "clbench.models",
    ]
)
ONE = threading.Lock()
"""Of threads that start or join a process: each start looks after all of them, and one that is looked after twice at a
time has lost its exit code (255; of 1,200 short ones, eight threads lose 490)."""
LASTING = (os.unlink, os.fsync, os.replace, os.mkdir)


def taken(folders: list[Path], root: Path) -> list[str]:
    """The ids of runs that a submission says are on the board."""
    done = submit(folders, root)
    assert not [s.refused for s in done if s.refused]
    return [s.folder.name for s in done]


def removed(ids: list[str], root: Path) -> bool:
    return store.remove(ids, root)[1] == ""


def apart(act: Callable[..., Any], *given: Any, last: int | None = None, seconds: float | None = None) -> Any:
    """What it returns in a process of its own; None if that was killed.

    Args:
        last: how many calls that change what is on the disk it may make. seconds: how long it may take.
    """
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_child, args=(there, act, given, last))
    with ONE:
        process.start()
    there.close()
    try:
        here.recv()
        if seconds is not None and not here.poll(seconds):
            process.kill()
        return here.recv()
    except EOFError:
        return None
    finally:
        here.close()
        with ONE:
            process.join()
        assert process.exitcode in (0, -signal.SIGKILL), f"it ended with exit code {process.exitcode}"


def _child(told: Connection, act: Callable[..., Any], given: tuple[Any, ...], last: int | None) -> None:
    os.fsync = lambda fd: None  # a kill is no power cut, and waiting for the disk would be most of the time
    calls = 0

    def watch(frame: Any, event: str, called: Any) -> None:
        nonlocal calls
        if event == "c_call" and _lasts(called):
            if calls == last:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1

    told.send("begun")
    sys.setprofile(watch if last is not None else None)
    done = act(*given)
    sys.setprofile(None)
    told.send(done)


def _lasts(called: Any) -> bool:
    """Whether a C function changes what is on the disk."""
    own = getattr(called, "__self__", None)
    writes = isinstance(own, io.IOBase) and called.__name__ in ("write", "truncate", "flush")
    return called in LASTING or (writes and isinstance(getattr(own, "name", None), str))
