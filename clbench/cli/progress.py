"""What is shown while runs go on, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clbench.cli.terminal import console
from clbench.engine.observer import Observer, Watched

if TYPE_CHECKING:
    from clbench.runs.cells import Cell


NARROW = 60
"""Columns of a terminal below which there is no room for bars."""


def _bars(**how: Any) -> Any:
    """Bars of Rich: what it is, how far it is, the time that has gone and about how much is left."""
    from rich import progress, table, text

    screen = console(sys.stderr)
    # On a narrow terminal there is no bar, and words are cut, not numbers.
    whole: dict[str, Any] = {"table_column": table.Column(no_wrap=True)}

    class Words(progress.ProgressColumn):
        def render(self, task: progress.Task) -> text.Text:
            return text.Text(task.description, no_wrap=True, overflow="ellipsis")

    class Times(progress.ProgressColumn):
        def render(self, task: progress.Task) -> text.Text:
            return text.Text(task.fields["times"]())

    bar = [progress.BarColumn(bar_width=16, **whole)] if screen.width >= NARROW else []
    columns = Words(table.Column()), *bar, progress.MofNCompleteColumn(**whole), Times(**whole)
    return progress.Progress(*columns, console=screen, **how)


def _clock(seconds: float) -> str:
    """`0:45`, `12:05`, `1:02:03`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


class _Pace:
    """Time that has gone since work began, and what is left of it at the pace so far.

    Attributes:
        waits: what happens until it begins.
    """

    def __init__(self) -> None:
        self.waits = ""
        self.begin(0.0)

    def begin(self, done: float) -> None:
        """Count from here on; so much was done before."""
        self._began, self._before = time.monotonic(), done
        self._end: float | None = None

    def see(self, done: float, total: float) -> None:
        """Take down how much is done by now."""
        new, now = done - self._before, time.monotonic()
        self._end = now + (now - self._began) * (total - done) / new if new > 0 else None

    @property
    def left(self) -> str:
        """`0:45 left`; nothing before there is a pace."""
        return "" if self._end is None else f"{_clock(max(self._end - time.monotonic(), 0.0))} left"

    def __str__(self) -> str:
        """`0:12 elapsed, 0:45 left`."""
        gone = f"{_clock(time.monotonic() - self._began)} elapsed"
        return self.waits or ", ".join(filter(None, (gone, self.left)))


class Line(Observer):
    """Progress of a single run: a bar on a terminal, a line per experience elsewhere; on standard error."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._pace = _Pace()

    def begin(self, run: Watched) -> None:
        from clbench.data import remarks

        for remark in remarks(run.benchmark):
            print(f"{run.benchmark.name}: {remark}", file=sys.stderr)
        self._pace.begin(run.step)
        if sys.stderr.isatty():
            self._bar = _bars(transient=True)
            self._task = self._bar.add_task(
                "", total=run.total_steps, completed=run.step, times=self._pace.__str__
            )
            self._bar.start()
        elif run.step:
            print(f"resumed at step {run.step} of {run.total_steps}", file=sys.stderr)

    def window(self, run: Watched, rows: Sequence[Any]) -> None:
        self._pace.see(run.step, run.total_steps)
        if self._bar is not None:
            self._bar.update(self._task, completed=run.step, description=_place(run))

    def end_experience(self, run: Watched) -> None:
        if self._bar is None:
            from clbench.results.measures import measure_of

            measure = measure_of(run.evaluator.curve)
            seen = " ".join(measure.told(value) for _, value in sorted(run.evaluator.latest().items()))
            place = f"{_place(run)}, step {run.step}/{run.total_steps}"
            print(f"{place}: {measure.name} {seen or '—'}", file=sys.stderr)

    def end(self, run: Watched) -> None:
        if self._bar is not None:
            self._bar.stop()


def _place(run: Watched) -> str:
    return f"experience {run.experience + 1}/{len(run.train)}"


class SuiteProgress:
    """Progress of a suite: bars on a terminal, a line per finished run elsewhere; on standard error."""

    def __init__(self, cells: Sequence[Cell], quiet: bool) -> None:
        self.cells, self.quiet = cells, quiet
        self._bar: Any = None
        self._told: set[str] = set()
        self._pace = _Pace()
        self._pace.waits = _starting(cells)

    def __enter__(self) -> SuiteProgress:
        if not self.quiet and sys.stderr.isatty():
            self._bar = _bars()
            self._all = self._bar.add_task("all runs", total=len(self.cells), times=self._pace.__str__)
            self._tasks: dict[str, Any] = {}
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, cells: Sequence[Cell]) -> None:
        if self.quiet:
            return
        ended = [cell for cell in cells if cell.state not in ("waiting", "running")]
        begun = [cell for cell in cells if cell.state == "running" and cell.total]
        fresh = [cell for cell in ended if cell.fresh]
        waits, self._pace.waits = self._pace.waits, "" if begun or fresh else _starting(cells)
        if self._pace.waits:
            self._pace.begin(len(ended))
        self._pace.see(len(ended) + sum(cell.steps / cell.total for cell in begun), len(cells))
        if self._bar is not None:
            self._bar.update(self._all, completed=len(ended))
            self._draw(cells, ended)
        else:
            self._tell(cells, ended)
            if self._pace.waits not in ("", waits):
                print(self._pace.waits, file=sys.stderr, flush=True)

    def _draw(self, cells: Sequence[Cell], ended: Sequence[Cell]) -> None:
        for cell in cells:
            if cell.state == "running":
                if cell.id not in self._tasks:
                    self._tasks[cell.id] = self._bar.add_task(str(cell), total=None, times=str)
                self._bar.update(self._tasks[cell.id], completed=cell.steps, total=cell.total or None)
        for cell in ended:
            if cell.id in self._tasks:
                self._bar.remove_task(self._tasks.pop(cell.id))

    def _tell(self, cells: Sequence[Cell], ended: Sequence[Cell]) -> None:
        from clbench.results.metrics import METRICS

        old = [cell for cell in ended if not cell.fresh and cell.id not in self._told]
        if old:
            print(f"{len(old)} of {len(cells)} runs are already there", file=sys.stderr)
            self._told |= {cell.id for cell in old}
        for cell in ended:
            if cell.id not in self._told:
                self._told.add(cell.id)
                result = cell.state
                if (
                    cell.record
                    and cell.state == "done"
                    and (value := cell.record.metrics.get(cell.record.primary)) is not None
                ):
                    metric = METRICS[cell.record.primary]
                    result = f"{metric.title} {metric.told(value, '.1f')}"
                left = f"; {self._pace.left}" if len(self._told) < len(cells) else ""
                print(f"[{len(self._told)}/{len(cells)}] {cell}: {result}{left}", file=sys.stderr)


def _starting(cells: Sequence[Cell]) -> str:
    """Return what happens before the first run has begun; nothing where none is to come."""
    workers = sum(cell.state == "running" for cell in cells)
    if workers:
        return f"starting {workers} worker{'s' if workers > 1 else ''} …"
    return "starting workers …" if any(cell.state == "waiting" for cell in cells) else ""
