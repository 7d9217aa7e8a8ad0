"""End on a signal after the present step, with a checkpoint; a second signal ends at once.

SIGINT is Ctrl-C. SIGTERM and SIGHUP come from batch systems, spot machines and terminals that close, some seconds
before they kill. Imports no torch.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from clbench.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

ONE_REQUEST = 0.5
"""Seconds within which SIGTERM and SIGHUP are one request: a shell repeats what its terminal sends."""


_stops: list[Callable[[], object]] = []


@contextlib.contextmanager
def stoppable(stop: Callable[[], object]) -> Iterator[None]:
    """Let the first signal inside call `stop`, so that what runs ends where it can go on from; then end the program.

    A signal whose handler is not the default one keeps it, and all do in threads beside the main one.

    Args:
        stop: asks what runs to end soon; called within a signal handler, so it may only take a note.

    Raises:
        KeyboardInterrupt: SIGINT has come. Stopped: SIGTERM or SIGHUP has.
    """
    taken = {}
    if threading.current_thread() is threading.main_thread():
        default = (signal.SIG_DFL, signal.default_int_handler, _end)
        taken = {n: handler for n in SIGNALS if (handler := signal.getsignal(n)) in default}
    asked: list[int] = []
    at = 0.0

    def restore() -> None:
        for number, handler in taken.items():
            signal.signal(number, handler)

    def handle(number: int, frame: object) -> None:
        nonlocal at
        if not asked:
            asked.append(number)
            at = time.monotonic()
            stop()
        elif number == signal.SIGINT or time.monotonic() - at > ONE_REQUEST:
            restore()
            signal.raise_signal(number)

    for number in taken:
        signal.signal(number, handle)
    _stops.append(stop)
    try:
        yield
    except KeyboardInterrupt:
        if not asked:
            raise
    finally:
        _stops.remove(stop)
        restore()
    if asked:
        if (
            taken[signal.Signals(asked[0])] is signal.SIG_DFL
        ):  # a script's; the command line speaks for itself
            print(
                f"clbench: {ended_by(asked[0])}; the same call goes on from the last checkpoint.",
                file=sys.stderr,
            )
        _end(asked[0])


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Give back the handlers that another package takes inside."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def ask() -> bool:
    """Ask all that is `stoppable` in this process to end; return whether there was something."""
    for stop in (stops := [*_stops]):
        stop()
    return bool(stops)


def ended_by(number: int) -> str:
    """Name what ended it, for a message."""
    return "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"


def _end(number: int, frame: object = None) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(number)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `Stopped` inside, as SIGINT raises `KeyboardInterrupt` in any Python program."""
    taken: list[int] = []
    if threading.current_thread() is threading.main_thread():
        taken = [n for n in SIGNALS if signal.getsignal(n) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def ignore() -> None:
    """Ignore signals in a process beside a run's own: the run decides when it ends."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
