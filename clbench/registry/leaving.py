"""End although a plug-in has left a thread running.

Python waits, before it ends, for every thread that is no daemon. One that a plug-in has started while it was imported,
or while what it registers was built, does no command's work, and if it never ends, neither would `clbench list`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

from clbench.files.names import printable

GRACE = 1.0
"""Seconds that such threads have left when everything else has ended."""

_left: list[tuple[str, threading.Thread]] = []


@contextlib.contextmanager
def noting_threads(who: str) -> Iterator[None]:
    """Note threads that begin inside as `who`'s; nothing waits for them longer than `GRACE`."""
    before = {*threading.enumerate()}
    try:
        yield
    finally:
        _left.extend((who, t) for t in threading.enumerate() if t not in before and not t.daemon)


def let_go(code: int) -> None:
    """Let Python end as ever, or with this exit code after `GRACE` if plug-ins' threads keep it. Call it last."""
    if any(thread.is_alive() for _, thread in _left):
        threading.Thread(target=_end, args=(code,), daemon=True).start()


def _end(code: int) -> None:
    known = {threading.main_thread(), *(thread for _, thread in _left)}
    for other in threading.enumerate():
        if other not in known and not other.daemon:
            other.join()
    until = time.monotonic() + GRACE
    for _, thread in _left:
        thread.join(max(until - time.monotonic(), 0.0))
    for who, thread in _left:
        if thread.is_alive():
            warning = (
                f"clbench: warning: {who} started the thread '{thread.name}' when it was loaded, which does not end "
                "and is left behind; start it in setup(), or with daemon=True."
            )
            print(printable(warning), file=sys.stderr)
    if any(thread.is_alive() for _, thread in _left):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
