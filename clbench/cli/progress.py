"""What is shown while runs go on, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clbench.cli.terminal import console
from clbench.engine.observer import Observer, Watched

if TYPE_CHECKING:
    from clbench.runs.cells import Cell


def _bars(time: str, **how: Any) -> Any:
    """Bars of Rich, with one of its columns for the time."""
    from rich import progress

    text = progress.TextColumn("{task.description}", markup=False)
    columns = text, progress.BarColumn(), progress.MofNCompleteColumn(), getattr(progress, time)()
    return progress.Progress(*columns, console=console(sys.stderr), **how)


class Line(Observer):
    """Progress of a single run: a bar on a terminal, a line per experience elsewhere; on standard error."""

    def __init__(self) -> None:
        self._bar: Any = None

    def begin(self, run: Watched) -> None:
        from clbench.data import remarks

        for remark in remarks(run.benchmark):
            print(f"{run.benchmark.name}: {remark}", file=sys.stderr)
        if sys.stderr.isatty():
            self._bar = _bars("TimeRemainingColumn", transient=True)
            self._task = self._bar.add_task("", total=run.total_steps, completed=run.step)
            self._bar.start()
        elif run.step:
            print(f"resumed at step {run.step} of {run.total_steps}", file=sys.stderr)

    def window(self, run: Watched, rows: Sequence[Any]) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=run.step, description=f"experience {run.experience}")

    def end_experience(self, run: Watched) -> None:
        if self._bar is None:
            seen = " ".join(f"{100 * a:.1f}" for _, a in sorted(run.evaluator.latest().items()))
            place = f"experience {run.experience + 1}/{len(run.train)}, step {run.step}/{run.total_steps}"
            print(f"{place}: accuracy {seen or '—'}", file=sys.stderr)

    def end(self, run: Watched) -> None:
        if self._bar is not None:
            self._bar.stop()


class SuiteProgress:
    """Progress of a suite: bars on a terminal, a line per finished run elsewhere; on standard error."""

    def __init__(self, cells: Sequence[Cell], quiet: bool) -> None:
        self.cells, self.quiet = cells, quiet
        self._bar: Any = None
        self._told: set[str] = set()

    def __enter__(self) -> SuiteProgress:
        if not self.quiet and sys.stderr.isatty():
            self._bar = _bars("TimeElapsedColumn")
            self._all = self._bar.add_task("all runs", total=len(self.cells))
            self._tasks: dict[str, Any] = {}
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, cells: Sequence[Cell]) -> None:
        ended = [cell for cell in cells if cell.state not in ("waiting", "running")]
        if self._bar is not None:
            self._draw(cells, ended)
        elif not self.quiet:
            self._tell(cells, ended)

    def _draw(self, cells: Sequence[Cell], ended: Sequence[Cell]) -> None:
        self._bar.update(self._all, completed=len(ended))
        for cell in cells:
            if cell.state == "running":
                if cell.id not in self._tasks:
                    self._tasks[cell.id] = self._bar.add_task(str(cell), total=None)
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
                    result = (
                        f"{metric.title} {100 * value:.1f}" if metric.share else f"{metric.title} {value:.4g}"
                    )
                print(f"[{len(self._told)}/{len(cells)}] {cell}: {result}", file=sys.stderr)
