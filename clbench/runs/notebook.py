"""Progress in a notebook: a bar below the cell, which is HTML alone and needs no widgets."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from clbench.engine.observer import Observer, Watched
from clbench.reports.markup import tag

SECONDS = 0.2
"""Between two looks of the bar, at least."""


def bars() -> list[Observer]:
    """Return what shows progress where this is a notebook, and nothing elsewhere."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return [Bar()] if hasattr(shell, "kernel") else []


class Bar(Observer):
    """A bar with steps, experience and time left; below the cell, also once the run has ended."""

    def __init__(self) -> None:
        self._shown: Any = None
        self._last = 0.0

    def begin(self, run: Watched) -> None:
        from IPython.display import display

        self._begun, self._from = time.monotonic(), run.step
        self._of = f"{run.benchmark.name} · {run.config.strategy} · seed {run.config.seeds.data}"
        self._told = self._state(run)
        self._shown = display(self, display_id=True)

    def window(self, run: Watched, rows: Sequence[Mapping[str, Any]]) -> None:
        if time.monotonic() - self._last >= SECONDS:
            self._show(run)

    def end_experience(self, run: Watched) -> None:
        self._show(run)

    def end(self, run: Watched) -> None:
        self._show(run)

    def _show(self, run: Watched) -> None:
        self._last, self._told = time.monotonic(), self._state(run)
        self._shown.update(self)

    def _state(self, run: Watched) -> tuple[int, int, str]:
        """Return steps done, steps in all, and the rest in words."""
        done, total, spent = run.step, run.total_steps, time.monotonic() - self._begun
        here = f"experience {min(run.experience + 1, len(run.train))} of {len(run.train)}"
        if run.finished:
            return done, total, f"{here}, {_clock(spent)}"
        made = done - self._from
        left = f", {_clock(spent / made * (total - done))} left" if made else ""
        return done, total, here + left

    def __repr__(self) -> str:
        done, total, rest = self._told
        return f"{self._of}: step {done:,} of {total:,}, {rest}"

    def _repr_html_(self) -> str:
        done, total, rest = self._told
        bar = tag("progress", value=done, max=max(total, 1), style="width: 16em; vertical-align: middle")
        return str(tag("div", self._of, " ", bar, f" {done:,} of {total:,} steps, {rest}"))


def _clock(seconds: float) -> str:
    """Return hours, minutes and seconds: `0:01:05`."""
    return str(timedelta(seconds=round(seconds)))
