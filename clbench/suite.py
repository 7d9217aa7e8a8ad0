"""Suites: strategies × benchmarks × seeds, run side by side in processes, reported together.

Every cell is a run with its own folder, named by what decides its numbers; a suite that is started again runs
only what is missing and continues what was interrupted.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from clbench import config
from clbench.config import (
    Execution,
    RunConfig,
    Seed,
    config_file,
    cores,
    read_yaml,
    suite_names,
    validate,
)
from clbench.errors import ClbenchError, ConfigError, suggest
from clbench.ledger import Record, has_record, read_record
from clbench.registry import load_plugin

PRELOAD = ["clbench.api", "torch._dynamo", "sklearn.datasets"]
"""What cells are forked with. torch imports `_dynamo` when the first optimizer is made, which takes over a second."""


class Choice(BaseModel):
    """A strategy or benchmark of a suite with settings of its own.

    Attributes:
        name: registered name; of strategies also a chain.
        label: what tables and plots call it; the name if empty.
        settings: `key: value`, as on the command line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    label: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given


class SuiteConfig(BaseModel):
    """A suite as read from YAML.

    Attributes:
        title, description: for the report.
        strategies, benchmarks: names, or names with settings.
        seeds: a list, or how many from 0.
        settings: `key: value` of every run, as on the command line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str = ""
    description: str = ""
    strategies: Annotated[tuple[Choice, ...], Field(min_length=1)]
    benchmarks: Annotated[tuple[Choice, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = tuple(range(5))
    settings: dict[str, Any] = Field(default_factory=dict)

    @field_validator("seeds", mode="before")
    @classmethod
    def _from_count(cls, given: Any) -> Any:
        if isinstance(given, int) and not isinstance(given, bool):
            if given < 1:
                raise ValueError("takes a list of seeds or how many there are, 1 or more")
            return tuple(range(given))
        return given


@dataclass
class Cell:
    """One run of a suite: what it is, and what became of it.

    Attributes:
        benchmark, strategy: labels. seed: of the run. resolved: its configuration. id: its run folder's name.
        state: waiting, running, done, diverged, failed.
        message: of a failure.
        steps, total: progress.
    """

    benchmark: str
    strategy: str
    seed: int
    resolved: RunConfig
    id: str
    state: str = "waiting"
    message: str = ""
    steps: int = 0
    total: int = 0
    fresh: bool = True
    record: Record | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.benchmark} · {self.strategy} · seed {self.seed}"


def load(name: str) -> tuple[str, SuiteConfig]:
    """A suite's short name and configuration, by shipped name or YAML file.

    Raises:
        ConfigError: no such suite or file, or a mistake in it.
    """
    path = config_file("suites", f"{name}.yaml") or Path(name)
    if not path.is_file():
        known = suite_names()
        raise ConfigError(
            f"There is no suite '{name}', neither shipped nor a file.{suggest(name, known)} "
            f"Shipped: {', '.join(known)}."
        )
    return path.stem, validate(SuiteConfig, read_yaml(path), f"{path}: ")


def plan(
    suite: SuiteConfig,
    overrides: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    *,
    file: Mapping[str, Any] | None = None,
) -> list[Cell]:
    """Every cell of a suite, resolved; refuses the whole suite if one cell's configuration is wrong.

    Args:
        suite: as loaded.
        overrides: `key → value` of every run, over all else.
        seeds: in place of the suite's.
        file: a configuration as read from YAML, over the suite's own settings.

    Raises:
        ClbenchError: names the cell's mistake.
    """
    from clbench.api import identify

    cells: dict[str, Cell] = {}
    for benchmark in suite.benchmarks:
        for strategy in suite.strategies:
            layers = (suite.settings, benchmark.settings, strategy.settings)
            for seed in seeds or suite.seeds:
                resolved = config.resolve(
                    benchmark.name, strategy.name, overrides or {}, seed=seed, file=file, suite=layers
                )
                labels = benchmark.label or benchmark.name, strategy.label or strategy.name
                cell = Cell(*labels, seed, resolved, identify(resolved).id)
                if cell.id in cells:
                    raise ConfigError(
                        f"The suite holds a run twice: {cells[cell.id]} and {cell}; give one of them other "
                        "settings or leave it out."
                    )
                cells[cell.id] = cell
    return list(cells.values())


def run(
    cells: Sequence[Cell],
    root: Path,
    execution: Execution,
    *,
    workers: int | None = None,
    plugins: Sequence[str] = (),
    watch: Callable[[Sequence[Cell]], None] = lambda cells: None,
) -> None:
    """Run the cells that have no record yet, `workers` at a time; each cell's state says what became of it.

    A cell that fails or whose process dies does not stop the others. An interrupt ends the running ones after
    their last checkpoint; started again, the suite goes on from there.
    """
    for cell in cells:
        if has_record(root / cell.id):
            _finish(cell, root)
            cell.fresh = False
    waiting = [cell for cell in cells if cell.state == "waiting"]
    if not waiting:
        watch(cells)
        return
    workers = min(workers or cores(), len(waiting))
    threads = execution.threads or max(1, cores() // workers)
    execution = execution.model_copy(update={"threads": threads})
    # A fork server imports torch once; each cell is then a process of its own, which costs next to nothing
    # and cannot take another cell with it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    running: dict[int, tuple[Any, Connection, Cell]] = {}  # by sentinel: process, its news, cell
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                cell = waiting.pop(0)
                # A pipe each: of a queue that all share, a process that is killed may take the lock with it.
                news, send = context.Pipe(duplex=False)
                job = _Job(cell.id, cell.resolved, execution, root, tuple(plugins))
                process = context.Process(target=_work, args=(job, send), daemon=False)
                process.start()
                send.close()
                cell.state = "running"
                running[process.sentinel] = (process, news, cell)
            ended = wait(list(running), timeout=0.2)
            for _, news, cell in running.values():
                _read(news, cell)
            for sentinel in ended:
                process, news, cell = running.pop(int(sentinel))  # type: ignore[arg-type]
                process.join()
                news.close()
                if has_record(root / cell.id):
                    _finish(cell, root)
                elif cell.state != "failed":
                    cell.state = "failed"
                    cell.message = f"its process ended with code {process.exitcode} before there was a record"
            watch(cells)
    finally:
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            process.join()


def _finish(cell: Cell, root: Path) -> None:
    try:
        cell.record = read_record(root / cell.id)
    except ClbenchError as error:
        cell.state, cell.message = "failed", str(error)
        return
    cell.state = cell.record.status


def _read(news: Connection, cell: Cell) -> None:
    """What a cell's process has told since the last time."""
    try:
        while news.poll():
            key, value = news.recv()
            if key == "steps":
                cell.steps, cell.total = value
            else:
                cell.state, cell.message = "failed", value
    except (EOFError, OSError):  # the process has ended, perhaps in the middle of a word
        return


@dataclass(frozen=True)
class _Job:
    """What a cell's process needs to know."""

    id: str
    resolved: RunConfig
    execution: Execution
    root: Path
    plugins: tuple[str, ...]


def _work(job: _Job, news: Connection) -> None:
    """A cell's process."""
    import signal
    import threading

    from clbench import api
    from clbench.loggers import Progress

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the suite's own process decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    last = 0.0

    def progress(steps: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 0.2:
            last = time.monotonic()
            news.send(("steps", (steps, total)))

    try:
        for plugin in job.plugins:
            load_plugin(plugin)
        record = api.start(job.resolved, job.execution, job.root, observers=[Progress(progress)])
        if record.id != job.id:
            news.send(("failed", "the code or the data changed while the suite ran; start it again"))
    except ClbenchError as error:
        news.send(("failed", str(error)))
    except Exception as error:
        news.send(("failed", f"{type(error).__name__}: {error}"))
        raise  # the traceback, to standard error


def _end_with_parent() -> None:
    """A suite that is killed must not leave runs behind that nobody knows of, with their folders locked."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
