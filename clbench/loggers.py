"""Observers that write a run down elsewhere: CSV, TensorBoard, Weights & Biases. None can change a run."""

from __future__ import annotations

import csv
import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import ConfigError
from clbench.files import writing
from clbench.observer import Observer

if TYPE_CHECKING:
    from clbench.engine import Run


def observers(names: Sequence[str], folder: Path, id_: str) -> list[Observer]:
    """The named loggers, writing into a run folder.

    Raises:
        ConfigError: a logger's package is not installed.
    """
    made: dict[str, Callable[[], Observer]] = {
        "csv": lambda: CSVLog(folder / "losses.csv", folder / "log.jsonl"),
        "tensorboard": lambda: TensorBoardLog(folder / "tensorboard"),
        "wandb": lambda: WandbLog(folder, id_),
    }
    return [made[name]() for name in names]


class Progress(Observer):
    """Reports steps done and steps in all, at every window and at the end."""

    def __init__(self, report: Callable[[int, int], None]) -> None:
        self.report = report

    def begin(self, run: Run) -> None:
        self.report(run.step, run.total_steps)

    def window(self, run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
        self.report(run.step, run.total_steps)

    def end(self, run: Run) -> None:
        self.report(run.step, run.total_steps)


class CSVLog(Observer):
    """`losses.csv`: step, experience, lr, loss name, value; one line per loss and step.

    A run that goes on writes it anew from the run's own log, which was checked: the file may have been altered, or end
    in the middle of a line.
    """

    def __init__(self, path: Path, log: Path) -> None:
        self.path, self.log = path, log

    def begin(self, run: Run) -> None:
        with writing(self.path):
            self.path.write_text("step,experience,lr,loss,value\n", "utf-8")
            if run.step:
                with self.log.open(encoding="utf-8") as lines:
                    self._append(map(json.loads, lines))

    def window(self, run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
        with writing(self.path):
            self._append(rows)

    def _append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            for row in rows:
                for name in losses_of(row):
                    writer.writerow([row["step"], row["experience"], row["lr"], name, row[name]])


class TensorBoardLog(Observer):
    """Losses per step, and accuracy of every stream at experience ends, for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _missing("tensorboard") from None
        self._open = functools.partial(SummaryWriter, str(folder))

    def begin(self, run: Run) -> None:
        self.writer: Any = self._open(purge_step=run.step or None)

    def window(self, run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            for name in losses_of(row):
                self.writer.add_scalar(f"loss/{name}", row[name], row["step"])
        if rows:
            self.writer.add_scalar("lr", rows[-1]["lr"], rows[-1]["step"])

    def end_experience(self, run: Run) -> None:
        for stream, accuracy in run.evaluator.latest().items():
            self.writer.add_scalar(f"accuracy/experience {stream}", accuracy, run.step)
        self.writer.flush()

    def end(self, run: Run) -> None:
        self.writer.close()


class WandbLog(Observer):
    """Losses in windows, accuracies at experience ends, the resolved configuration; offline unless
    `WANDB_MODE` says otherwise. One log call per window: a call per step would cost more than the step."""

    def __init__(self, folder: Path, id_: str) -> None:
        try:
            import wandb
        except ImportError:
            raise _missing("wandb") from None
        self._wandb, self._folder, self._id = wandb, folder, id_

    def begin(self, run: Run) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self._log = self._wandb.init(
            project="clbench",
            id=self._id,
            name=f"{run.benchmark.name} {run.strategy} seed {run.config.seeds.data}",
            config=run.config.model_dump(mode="json"),
            dir=str(self._folder),
            mode=mode,
            resume="allow",
            settings=self._wandb.Settings(silent=True),
        )

    def window(self, run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:  # the very first step diverged
            return
        names = {name for row in rows for name in losses_of(row)}
        means = {
            f"loss/{n}": sum(row.get(n, 0.0) for row in rows) / sum(n in row for row in rows) for n in names
        }
        self._log.log({**means, "lr": rows[-1]["lr"], "experience": run.experience}, step=run.step)

    def end_experience(self, run: Run) -> None:
        latest = {f"accuracy/experience {stream}": value for stream, value in run.evaluator.latest().items()}
        self._log.log(latest, step=run.step)

    def end(self, run: Run) -> None:
        self._log.finish()


def losses_of(row: Mapping[str, Any]) -> list[str]:
    """The names of a row's losses."""
    return sorted(row.keys() - {"step", "experience", "lr"})


def _missing(package: str) -> ConfigError:
    return ConfigError(f"--log {package} needs the package {package}: pip install 'clbench[{package}]'.")
