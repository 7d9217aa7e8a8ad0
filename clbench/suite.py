"""Suites: strategies × benchmarks × seeds, run side by side in processes, reported together.

Every cell is a run with its own folder, named by what decides its numbers; a suite that is started again runs only
what is missing and continues what was interrupted.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from clbench import config
from clbench.config import Execution, RunConfig, config_file, parse_pairs, read_yaml, suite_names, validate
from clbench.errors import ClbenchError, ConfigError, suggest
from clbench.ledger import Record, has_record, read_record
from clbench.registry import load_plugin


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
    strategies: Annotated[tuple[str | Choice, ...], Field(min_length=1)]
    benchmarks: Annotated[tuple[str | Choice, ...], Field(min_length=1)]
    seeds: tuple[int, ...] | Annotated[int, Field(ge=1)] = 5
    settings: dict[str, Any] = Field(default_factory=dict)

    def seed_list(self) -> tuple[int, ...]:
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds


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
            f"There is no suite '{name}', neither shipped nor a file.{suggest(name, known)} Shipped: {', '.join(known)}."
        )
    return path.stem, validate(SuiteConfig, read_yaml(path), f"{path}: ")


def plan(suite: SuiteConfig, overrides: Sequence[str] = (), seeds: Sequence[int] | None = None) -> list[Cell]:
    """Every cell of a suite, resolved; refuses the whole suite if one cell's configuration is wrong.

    Raises:
        ClbenchError: names the cell's mistake.
    """
    from clbench.api import identify

    cells = []
    given = parse_pairs(overrides)
    for benchmark in map(_choice, suite.benchmarks):
        for strategy in map(_choice, suite.strategies):
            for seed in seeds or suite.seed_list():
                settings = {**suite.settings, **benchmark.settings, **strategy.settings, **given}
                resolved = config.resolve(benchmark.name, strategy.name, settings, seed=seed)
                cells.append(
                    Cell(
                        benchmark.label or benchmark.name,
                        strategy.label or strategy.name,
                        seed,
                        resolved,
                        identify(resolved).id,
                    )
                )
    twice = [cell for i, cell in enumerate(cells) if any(cell.id == other.id for other in cells[:i])]
    if twice:
        raise ConfigError(f"The suite holds a run twice: {twice[0]}; give one of them other settings or leave it out.")
    return cells


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

    A cell that fails or whose process dies does not stop the others. An interrupt ends the running ones after their
    last checkpoint; started again, the suite goes on from there.
    """
    for cell in cells:
        if has_record(root / cell.id):
            _finish(cell, root)
            cell.fresh = False
    waiting = [cell for cell in cells if cell.state == "waiting"]
    if not waiting:
        watch(cells)
        return
    workers = min(workers or os.cpu_count() or 1, len(waiting))
    threads = execution.threads or max(1, (os.cpu_count() or 1) // workers)
    execution = execution.model_copy(update={"threads": threads})
    # A fork server imports torch once; each cell is then a process of its own, which costs next to nothing and cannot
    # take another cell with it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["clbench.api", "sklearn.datasets"])
    news: Any = context.Queue()
    running: dict[int, tuple[Any, Cell]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                cell = waiting.pop(0)
                arguments = (cell.resolved.model_dump(mode="json"), execution.model_dump(), str(root), list(plugins), news)
                process = context.Process(target=_work, args=(cell.id, *arguments), daemon=False)
                process.start()
                cell.state = "running"
                running[process.sentinel] = (process, cell)
            ended = wait(list(running), timeout=0.2)
            _read(news, {cell.id: cell for _, cell in running.values()})
            for sentinel in ended:
                process, cell = running.pop(int(sentinel))  # type: ignore[arg-type]
                process.join()
                if has_record(root / cell.id):
                    _finish(cell, root)
                elif cell.state != "failed":
                    cell.state = "failed"
                    cell.message = f"its process ended with code {process.exitcode} before there was a record"
            watch(cells)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join()
        news.close()


def _finish(cell: Cell, root: Path) -> None:
    cell.record = read_record(root / cell.id)
    cell.state = cell.record.status


def _read(news: Any, cells: Mapping[str, Cell]) -> None:
    while True:
        try:
            id_, key, value = news.get_nowait()
        except queue.Empty:
            return
        if id_ in cells:
            cell = cells[id_]
            if key == "steps":
                cell.steps, cell.total = value
            else:
                cell.state, cell.message = "failed", value


def _work(
    id_: str, resolved: dict[str, Any], execution: dict[str, Any], root: str, plugins: Sequence[str], news: Any
) -> None:
    """A cell's process."""
    import signal

    from clbench import api
    from clbench.loggers import Progress, observers

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the suite's own process decides
    try:
        for plugin in plugins:
            load_plugin(plugin)
        how = Execution.model_validate(execution)
        last = 0.0

        def progress(steps: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last > 0.2:
                last = time.monotonic()
                news.put((id_, "steps", (steps, total)))

        watchers = [Progress(progress), *observers(how.log, Path(root) / id_, id_)]
        api.start(RunConfig.model_validate(resolved), how, Path(root), observers=watchers)
    except ClbenchError as error:
        news.put((id_, "failed", str(error)))
    finally:
        news.close()
        news.join_thread()


def _choice(given: str | Choice) -> Choice:
    return given if isinstance(given, Choice) else Choice(name=given)
