"""Observers that write a run down elsewhere: CSV, TensorBoard, Weights & Biases. None can change a run.

Each holds every step and every evaluation once. A run that goes on writes all anew from its own log and curve, which
were checked: what a killed process left elsewhere may lack the last steps, or have some that are done again.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clbench.engine.observer import Observer, Watched
from clbench.errors import ConfigError
from clbench.files import writing

if TYPE_CHECKING:
    from clbench.config import Execution
    from clbench.results.curve import Curve

GAP = "stability-gap.png"
"""The plot of a run in its folder."""


def observers(execution: Execution, folder: Path, id_: str) -> list[Observer]:
    """Return the loggers that an execution names, writing into a run folder.

    Raises:
        ConfigError: a logger's package is not installed.
    """
    log = folder / "log.jsonl"
    made: dict[str, Callable[[], Observer]] = {
        "csv": lambda: CSVLog(folder, log),
        "tensorboard": lambda: TensorBoardLog(folder / "tensorboard", log),
        "wandb": lambda: WandbLog(folder, log, id_, execution.project, execution.group),
    }
    return [made[name]() for name in dict.fromkeys(execution.log)]  # each once, however often it is named


class Progress(Observer):
    """Reports steps done and steps in all, at every window and at the end."""

    def __init__(self, report: Callable[[int, int], None]) -> None:
        self.report = report

    def begin(self, run: Watched) -> None:
        self.report(run.step, run.total_steps)

    def window(self, run: Watched, rows: Sequence[Mapping[str, Any]]) -> None:
        self.report(run.step, run.total_steps)

    def end(self, run: Watched) -> None:
        self.report(run.step, run.total_steps)


class _Log(Observer):
    """Writes losses and evaluations down, in order and each once.

    Args:
        log: the run's own log of losses.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self._written = 0  # rows of the curve
        self._waiting: dict[int, dict[str, Any]] = {}  # by step

    def begin(self, run: Watched) -> None:
        self.open(run)
        if run.step:
            with self.log.open(encoding="utf-8") as lines:
                self.losses(map(json.loads, lines))
        self._write(run)

    def window(self, run: Watched, rows: Sequence[Mapping[str, Any]]) -> None:
        self.losses(rows)
        self._write(run)

    def end_experience(self, run: Watched) -> None:
        self._write(run)

    def end(self, run: Watched) -> None:
        self._write(run, all_=True)
        self.close(run)

    def _write(self, run: Watched, all_: bool = False) -> None:
        """Write the rows of the curve to which nothing is added any more."""
        curve, start = run.evaluator.curve, self._written
        final = len(curve) if all_ else int(np.searchsorted(curve.step, run.evaluator.settled))
        self._written = max(start, final)
        self.evaluations(curve, range(start, self._written))

    # --- what a logger writes ---

    def open(self, run: Watched) -> None:
        """Begin before the first row, also in a run that goes on: what was there before is left out."""
        raise NotImplementedError

    def losses(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows of the run's log: step, experience, lr and the losses by name."""
        raise NotImplementedError

    def evaluations(self, curve: Curve, rows: range) -> None:
        """Rows of the curve."""
        raise NotImplementedError

    def close(self, run: Watched) -> None:
        """End: the run has ended, or stops for now."""


class CSVLog(_Log):
    """`losses.csv`: step, experience, lr, loss name, value; a line for each loss of a step.

    `evaluations.csv`: a line for each evaluation of a stream, on its subset (tick) or on the full test set.
    """

    def __init__(self, folder: Path, log: Path) -> None:
        super().__init__(log)
        self.folder = folder

    def open(self, run: Watched) -> None:
        for name, columns in (
            ("losses", "step,experience,lr,loss,value"),
            ("evaluations", "step,examples,experience,evaluated,set,correct,total,loss"),
        ):
            path = self.folder / f"{name}.csv"
            with writing(path):
                path.write_text(columns + "\n", "utf-8")

    def losses(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._append(
            "losses", ([r["step"], r["experience"], r["lr"], n, r[n]] for r in rows for n in losses_of(r))
        )

    def evaluations(self, curve: Curve, rows: range) -> None:
        part = slice(rows.start, rows.stop)
        kinds = np.where(curve.full[part], "full", "tick")
        columns = (curve.step, curve.examples, curve.experience, curve.evaluated)
        found = [c[part].tolist() for c in columns]
        found += [kinds.tolist(), *(c[part].tolist() for c in (curve.correct, curve.total, curve.loss))]
        self._append("evaluations", zip(*found, strict=True))

    def _append(self, name: str, lines: Iterable[Sequence[Any]]) -> None:
        path = self.folder / f"{name}.csv"
        with writing(path), path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)


class _Rows(_Log):
    """A logger that knows a row for each step: the losses of the step, and evaluations of the model before it, with
    their mean. Experiences are counted from 1, as in tables and plots."""

    def losses(self, rows: Iterable[Mapping[str, Any]]) -> None:
        several: dict[int, list[Mapping[str, Any]]] = {}
        for row in rows:
            several.setdefault(row["step"], []).append(row)
        for step, updates in several.items():  # more than one where `train.updates` says so
            values = self._waiting.setdefault(step, {})
            values |= {"lr": updates[-1]["lr"], "experience": updates[-1]["experience"] + 1}
            for name in dict.fromkeys(name for row in updates for name in losses_of(row)):
                found = [row[name] for row in updates if name in row]
                values[f"loss/{name}"] = sum(found) / len(found)

    def evaluations(self, curve: Curve, rows: range) -> None:
        for i in rows:
            test, on = "test " * bool(curve.full[i]), f"experience {curve.evaluated[i] + 1}"
            values = self._waiting.setdefault(int(curve.step[i]), {})
            values[f"{test}accuracy/{on}"] = curve.correct[i] / curve.total[i]
            if curve.of_language:  # nats per token
                values[f"{test}loss/{on}"] = curve.loss[i] / curve.total[i]

    def _write(self, run: Watched, all_: bool = False) -> None:
        super()._write(run, all_)
        below = run.step + 1 if all_ else min(run.step, run.evaluator.settled)
        for step in sorted(step for step in self._waiting if step < below):
            values = self._waiting.pop(step)
            for kind in ("accuracy", "loss"):
                start = f"{kind}/experience "
                if seen := [value for name, value in values.items() if name.startswith(start)]:
                    values[f"{kind}/mean"] = sum(seen) / len(seen)
            self.row(step, values)

    def row(self, step: int, values: Mapping[str, Any]) -> None:
        """Write what is known of a step, complete."""
        raise NotImplementedError


class TensorBoardLog(_Rows):
    """Losses, learning rate and evaluations, and at the end the metrics, beside the configuration, and the plots."""

    def __init__(self, folder: Path, log: Path) -> None:
        super().__init__(log)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _missing("tensorboard") from None
        self.folder, self._open = folder, SummaryWriter

    def open(self, run: Watched) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.writer: Any = self._open(str(self.folder))

    def row(self, step: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def end_experience(self, run: Watched) -> None:
        super().end_experience(run)
        self.writer.flush()

    def close(self, run: Watched) -> None:
        if run.finished:
            metrics = {f"metrics/{name}": value for name, value in _summary(run).items()}
            settings = _settings(run.config.model_dump(mode="json"))
            self.writer.add_hparams(settings, metrics, run_name=".", global_step=run.step)
            for title, image in _plots(run, self.folder.parent):
                self.writer.add_image(title, _pixels(image), run.step, dataformats="HWC")
        self.writer.close()


class WandbLog(_Rows):
    """The same for Weights & Biases, with the resolved configuration; offline unless `WANDB_MODE` says otherwise.

    Args:
        id_: the run's.
        project: where it goes; `WANDB_PROJECT` or clbench if None.
        group: what it stands with; `WANDB_RUN_GROUP`, or benchmark and strategy, if None.
    """

    def __init__(self, folder: Path, log: Path, id_: str, project: str | None, group: str | None) -> None:
        super().__init__(log)
        try:
            import wandb
        except ImportError:
            raise _missing("wandb") from None
        self._wandb, self._folder, self._id = wandb, folder, id_
        self._project, self._group = project or os.environ.get("WANDB_PROJECT", "clbench"), group

    def open(self, run: Watched) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        if mode == "offline":  # else the server keeps the steps that it has, and takes the others
            for begun in (self._folder / "wandb").glob(f"offline-run-*-{self._id}"):
                shutil.rmtree(begun)
        what = f"{run.benchmark.name} {run.strategy}"
        self._log = self._wandb.init(
            project=self._project,
            group=self._group or os.environ.get("WANDB_RUN_GROUP", what),
            id=self._id,
            name=f"{what} seed {run.config.seeds.data}",
            config=run.config.model_dump(mode="json"),
            dir=str(self._folder),
            mode=mode,
            resume="allow",
            settings=self._wandb.Settings(silent=True),
        )

    def row(self, step: int, values: Mapping[str, Any]) -> None:
        self._log.log(dict(values), step=step)

    def close(self, run: Watched) -> None:
        if run.finished:
            self._log.summary.update(_summary(run))
            images = {title: self._wandb.Image(str(image)) for title, image in _plots(run, self._folder)}
            self._log.log(images, step=run.step)
        self._log.finish(exit_code=int(not run.finished))


def losses_of(row: Mapping[str, Any]) -> list[str]:
    """Return the names of a row's losses."""
    return sorted(row.keys() - {"step", "experience", "lr"})


def _summary(run: Watched) -> dict[str, float]:
    """Return the metrics that are defined, as in the record."""
    from clbench.results import metrics

    curve = run.evaluator.curve
    found = metrics.compute(curve) | metrics.compute(curve, (run.benchmark.primary, *run.benchmark.metrics))
    return {name: value for name, value in found.items() if value is not None}


def _settings(tree: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """Return a configuration as TensorBoard takes one: a word, a number or a truth by each dotted key."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _settings(value, f"{within}{key}.")
        else:
            flat[within + key] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return flat


def _plots(run: Watched, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield title and file of a run's plots, drawn in its folder, so far as there is something to draw."""
    from clbench.reports import plots
    from clbench.results.traces import Mean, Trace

    drawn = {str(run.strategy): Mean.of([Trace.of(run.evaluator.curve)])}
    (of,) = drawn.values()
    if of.ticks:
        yield "stability gap", plots.stability_gap(drawn, folder / GAP)
        name = of.measure.name
        yield f"seen {name}", plots.seen_accuracy(drawn, folder / f"seen-{name}.png")
    if of.matrices:
        matrix = {name: of.matrix for name, of in drawn.items()}
        name, file = of.measure.name, folder / f"{of.measure.name}-matrix.png"
        yield f"{name} matrix", plots.accuracy_matrix(matrix, file, measure=of.measure)


def _pixels(image: Path) -> np.ndarray[Any, Any]:
    """(height, width, 3) uint8."""
    from PIL import Image

    with Image.open(image) as opened:
        return np.asarray(opened.convert("RGB"))


def _missing(package: str) -> ConfigError:
    return ConfigError(f"--log {package} needs the package {package}: pip install 'clbench[{package}]'.")
