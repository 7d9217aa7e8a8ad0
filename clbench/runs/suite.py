"""Suites: strategies × benchmarks × seeds, run side by side by a launcher, reported together.

Every cell is a run with its own folder, named by what decides its numbers; a suite that is started again runs
only what is missing and continues what was interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from clbench import config
from clbench.config import Execution, config_file, read_yaml, suite_names, validate
from clbench.errors import ConfigError, choices, suggest
from clbench.files import expanded, make_folder
from clbench.files.names import one_line
from clbench.machine.processes import refuse_while_importing
from clbench.ranges import Count, Seed
from clbench.reports import grouping
from clbench.results.ledger import has_record
from clbench.results.metrics import METRICS
from clbench.runs.cells import Cell, settle

if TYPE_CHECKING:
    from clbench.runs.launchers import Launcher


MOST_SEEDS = 10_000
"""Seeds of a suite at most; more is a mistake, and would not fit into memory."""


def metrics_named(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of metrics, all registered and each once.

    Raises:
        ConfigError: names one that is not, and the nearest.
    """
    heads = {metric.head.lower(): name for name, metric in METRICS.items()}
    for name in names:
        if name not in METRICS:
            near = heads.get(name.lower())  # what tables call it
            meant = f" Did you mean '{near}'?" if near else choices(name, METRICS, "clbench list metrics")
            raise ConfigError(
                f"There is no metric '{name}'.{meant} One of your own comes with --plugin FILE."
            )
    return tuple(dict.fromkeys(names))


class Choice(BaseModel):
    """A strategy or benchmark of a suite with settings of its own.

    Attributes:
        name: registered name; for strategies also a chain.
        label: what tables and plots call it; the name if empty.
        settings: `key: value`, as on the command line.
        space: what `clbench tune-suite` searches, over the suite's: `strength: {log: [0.01, 10]}`.
        seeds: how many of the suite's, the first ones, where nothing is drawn; all if None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    label: Annotated[str, AfterValidator(one_line)] = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, Any] = Field(default_factory=dict)
    seeds: Count | None = None

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
        space: what `clbench tune-suite` searches for every strategy: `optim.lr: {log: [0.01, 1]}`.
        metrics: the columns of its tables, in place of the usual ones; see `clbench list metrics`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str = ""
    description: str = ""
    strategies: Annotated[tuple[Choice, ...], Field(min_length=1)]
    benchmarks: Annotated[tuple[Choice, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = tuple(range(5))
    settings: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, Any] = Field(default_factory=dict)
    metrics: Annotated[tuple[str, ...], AfterValidator(metrics_named)] = ()

    @field_validator("seeds", mode="before")
    @classmethod
    def _from_count(cls, given: Any) -> Any:
        if isinstance(given, int) and not isinstance(given, bool):
            if not 1 <= given <= MOST_SEEDS:
                raise ValueError(f"takes a list of seeds or how many there are, 1 to {MOST_SEEDS}")
            return tuple(range(given))
        return given


def load(name: str) -> tuple[str, SuiteConfig]:
    """Return a suite's short name and configuration, by shipped name or YAML file.

    Raises:
        ConfigError: no such suite or file, or a mistake in it.
    """
    path = config_file("suites", f"{name}.yaml") or expanded(name)
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
    """Return every cell of a suite, resolved; refuse the whole suite if one cell's configuration is wrong.

    A label that several streams or configurations have is completed by what tells them apart: `er memory=20`.

    Args:
        suite: as loaded.
        overrides: `key → value` of every run, over all else.
        seeds: in place of the suite's.
        file: a configuration as read from YAML, over the suite's own settings.

    Raises:
        ClbenchError: names the cell's mistake.
    """
    from clbench.runs.identity import Known, identify

    known = Known()
    cells: dict[str, Cell] = {}
    trees: list[dict[str, Any]] = []
    runs: list[tuple[Choice, grouping.Run]] = []
    for i, benchmark in enumerate(suite.benchmarks):
        for j, strategy in enumerate(suite.strategies):
            layers = (suite.settings, benchmark.settings, strategy.settings)
            for seed in (seeds or suite.seeds)[: strategy.seeds][: benchmark.seeds]:
                resolved = config.resolve(
                    benchmark.name, strategy.name, overrides or {}, seed=seed, file=file, suite=layers
                )
                labels = benchmark.label or benchmark.name, strategy.label or strategy.name
                what = identify(resolved, known=known)
                cell = Cell(*labels, seed, resolved, what.id)
                if cell.id in cells:
                    raise ConfigError(
                        f"The suite holds a run twice: {cells[cell.id]} and {cell}; give one of them other "
                        "settings or leave it out."
                    )
                cells[cell.id] = cell
                trees.append(resolved.model_dump(mode="json"))
                run = grouping.Run.of(trees[-1]["stream"], resolved.seeds.order, what.benchmark, f"{i}, {j}")
                runs.append((benchmark, run))
    _complete(list(cells.values()), trees, runs)
    return list(cells.values())


def _complete(
    cells: Sequence[Cell], trees: Sequence[Mapping[str, Any]], runs: Sequence[tuple[Choice, grouping.Run]]
) -> None:
    """Labels that tell all tables of a suite apart, and all rows of a table.

    Runs of one stream are a table, unless the suite calls them otherwise.

    Args:
        trees: the configurations of the cells, as records hold them. runs: what each choice has made of them.
    """
    tables: dict[tuple[int, str], dict[str, list[int]]] = {}
    for k, stream in enumerate(grouping.streams([run for _, run in runs])):
        choice, run = runs[k]
        tables.setdefault((stream, choice.label), {}).setdefault(run.row, []).append(k)
    titled = []
    for rows in tables.values():
        members = [k for row in rows.values() for k in row]
        cell, streams = cells[members[0]], [trees[k]["stream"] for k in members]
        of_table = [runs[k][1] for k in members]
        titled.append(grouping.of_stream(cell.benchmark, cell.resolved.benchmark, streams, of_table))
    for title, rows in zip(grouping.names(titled), tables.values(), strict=True):
        entries = []
        for row in rows.values():
            cell, settings = cells[row[0]], dict[str, Any]()
            for k in row:  # a seed that the settings fix is by chance the run's own in one of them
                settings |= grouping.configuration(trees[k], cells[k].seed)
            entries.append(grouping.Named(cell.strategy, cell.resolved.strategy, settings))
        for name, row in zip(grouping.names(entries), rows.values(), strict=True):
            for k in row:
                cells[k].benchmark, cells[k].strategy = title, name


def named(choices: Sequence[Choice]) -> list[str]:
    """Return a name for each choice of a suite, which tells it from the others."""
    return grouping.names([grouping.Named(c.label or c.name, c.name, c.settings) for c in choices])


def run(
    cells: Sequence[Cell],
    root: Path,
    execution: Execution,
    *,
    launcher: Launcher | None = None,
    plugins: Sequence[str] = (),
    watch: Callable[[Sequence[Cell]], None] = lambda cells: None,
) -> None:
    """Run the cells that have no record yet; each cell's state says what became of it.

    A cell that fails or whose process dies does not stop the others. A signal ends the running ones with a
    checkpoint; started again, the suite goes on from there.

    Args:
        launcher: what carries the runs out; processes of this machine by default.
    """
    refuse_while_importing()
    if config.place()[1] > 1:
        raise ConfigError(
            "torchrun starts processes for one run, and a suite starts its own; run it without torchrun."
        )
    make_folder(root)
    for cell in cells:
        if has_record(root / cell.id):
            settle(cell, root)
            cell.fresh = False
    waiting = [cell for cell in cells if cell.state == "waiting"]
    if waiting:
        from clbench.runs.launchers import Job, Local

        jobs = [
            (cell, Job(cell.id, cell.resolved, _grouped(execution, cell), root, tuple(plugins)))
            for cell in waiting
        ]
        (launcher or Local()).launch(jobs, lambda: watch(cells))
    watch(cells)


def _grouped(execution: Execution, cell: Cell) -> Execution:
    """Return how a cell is carried out: in Weights & Biases, the seeds of a row are a group unless one is given."""
    if "wandb" not in execution.log or execution.group or os.environ.get("WANDB_RUN_GROUP"):
        return execution
    return execution.model_copy(update={"group": f"{cell.benchmark} {cell.strategy}"})
