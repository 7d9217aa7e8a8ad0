"""Progress in a notebook: a bar below the cell, which is HTML alone and needs no widgets."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from clbench.engine.observer import Observer, Watched
from clbench.reports.markup import tag
from clbench.runs.cells import Cell

SECONDS = 0.2
"""Between two looks of a bar, at least."""


def here() -> bool:
    """Whether this is a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


class Bar:
    """A bar with counts, and the time left; it stays below the cell when all is done.

    Args:
        title: before the bar. total: how much there is to do. unit: of what. done: before it began.
    """

    def __init__(self, title: str, total: int, unit: str, done: int = 0) -> None:
        from IPython.display import display

        self.title, self.total, self.unit, self.done, self.rest = title, total, unit, done, ""
        self._from, self._begun, self._last = done, time.monotonic(), 0.0
        self._handle = display(self, display_id=True)

    def update(self, done: int, rest: str) -> None:
        """Show how much is done, and what is to be said beside it; not every time, unless all is done."""
        now = time.monotonic()
        if now - self._last < SECONDS and done < self.total:
            return
        self._last, self.done = now, done
        spent, made = now - self._begun, done - self._from
        if done >= self.total:
            rest = f"{rest}, {_clock(spent)}"
        elif made:
            rest = f"{rest}, {_clock(spent / made * (self.total - done))} left"
        self.rest = rest
        self._handle.update(self)

    def __repr__(self) -> str:
        return f"{self.title}: {self._counts()}"

    def _repr_html_(self) -> str:
        style = "width: 16em; vertical-align: middle"
        bar = tag("progress", value=self.done, max=max(self.total, 1), style=style)
        return str(tag("div", self.title, " ", bar, " ", self._counts()))

    def _counts(self) -> str:
        return f"{self.done:,} of {self.total:,} {self.unit}" + f", {self.rest}" * bool(self.rest)


class RunBar(Observer):
    """The bar of a run: its steps, and which experience it is in."""

    def begin(self, run: Watched) -> None:
        title = f"{run.benchmark.name} · {run.config.strategy} · seed {run.config.seeds.data}"
        self._bar = Bar(title, run.total_steps, "steps", run.step)

    def window(self, run: Watched, rows: Sequence[Mapping[str, Any]]) -> None:
        place = min(run.experience + 1, len(run.train))
        self._bar.update(run.step, f"experience {place} of {len(run.train)}")

    def end(self, run: Watched) -> None:
        self.window(run, ())


class SuiteBar:
    """The bar of a suite: its runs that have ended, and how many are running."""

    def __init__(self) -> None:
        self._bar: Bar | None = None

    def update(self, cells: Sequence[Cell]) -> None:
        if self._bar is None:
            self._bar = Bar("all runs", len(cells), "runs", sum(not cell.fresh for cell in cells))
        running = sum(cell.state == "running" for cell in cells)
        ended = sum(cell.state not in ("waiting", "running") for cell in cells)
        self._bar.update(ended, f"{running} running" if running else "all ended")


def _clock(seconds: float) -> str:
    """Return hours, minutes and seconds: `0:01:05`."""
    return str(timedelta(seconds=round(seconds)))
