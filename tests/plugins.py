"""Plug-ins of one test are none of the next."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from clbench.registry import strategies


@contextlib.contextmanager
def forgotten() -> Iterator[None]:
    """Forget, afterwards, the files that are loaded inside and the strategies that they register."""
    before = {*sys.modules}
    yield
    new = {name for name in sys.modules if name.startswith("clbench_plugin") and name not in before}
    for name in [name for name, entry in strategies._made.items() if entry.module in new]:
        del strategies._made[name]
    for name in new:
        del sys.modules[name]
