"""The observer by which a run can be watched while it runs."""

from __future__ import annotations

import errno
import itertools
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from clbench.engine.observer import Observer, Watched
from clbench.results.live import FORMAT, HOST, LIVE, packed

SECONDS = 1.0
"""Between two writes at least."""
SHARE = 200.0
"""The least time between two writes, in times of what the last one took, so that being watched costs 0.5 % at most,
also where counts are waited for: those of another process, or of a GPU."""


class Live(Observer):
    """Writes evaluations to `live.bin` in the run's folder, for `clbench watch`, about once a second.

    What a run measures stays as it is: counts come into the curve earlier than they otherwise would, with the training
    clock stopped. A race's are those of its first look.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LIVE
        self._file: IO[bytes] | None = None
        self._written = 0  # rows of the curve
        self._next = 0.0

    def begin(self, run: Watched) -> None:
        about = {
            "format": FORMAT,
            "benchmark": run.benchmark.name,
            "strategy": run.config.strategy,
            "seed": run.config.seeds.data,
            "by": "examples" if run.ends else "step",
            "ends": run.ends or list(itertools.accumulate(map(run.steps_of, run.train))),
            "domains": [exp.domain for exp in run.benchmark.test],
            "steps": run.total_steps,
            "from": run.step,
            "began": time.time(),
            "host": HOST,
        }
        self._file = self.path.open("wb", buffering=0)
        self._file.write(json.dumps(about).encode() + b"\n")
        self._written = 0
        self._write(run, run.step)
        self._next = time.monotonic() + SECONDS

    def window(self, run: Watched, rows: Sequence[Mapping[str, Any]]) -> None:
        began = time.monotonic()
        if began < self._next:
            return
        with run.clock.stopped():
            run.evaluator.fetch()
            self._write(run, run.step)  # what was evaluated at this very step may be evaluated again
        took = time.monotonic() - began
        self._next = began + took + max(SECONDS, SHARE * took)

    def end(self, run: Watched) -> None:
        if self._file is not None:
            self._write(run, run.step + 1)
            self._file.close()

    def _write(self, run: Watched, step: int) -> None:
        """Write the rows that are new, of evaluations after fewer than so many steps."""
        curve = run.evaluator.curve
        stop = int(np.searchsorted(curve.step, step))
        if self._file is not None and stop > self._written:
            rows = packed(curve, self._written, stop)
            if self._file.write(rows) < len(rows):  # later rows would not stand where they are read
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            self._written = stop
