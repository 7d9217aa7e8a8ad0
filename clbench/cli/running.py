"""`run`, `resume`, `suite`: what trains."""

from __future__ import annotations

import contextlib
import itertools
import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clbench.cli.common import (
    Benchmark,
    Checkpoint,
    Config,
    Deterministic,
    Device,
    Group,
    Json,
    KeepModels,
    Log,
    Out,
    Overlap,
    Pairs,
    Plugins,
    Precision,
    Project,
    Protocol,
    Seed,
    StrategyName,
    Suite,
    Threads,
    Trials,
    Watch,
    command,
    execution,
    importing,
    load,
    process,
    settings_of,
    show_record,
    warn,
    warn_unlogged,
)
from clbench.cli.progress import Line, SuiteProgress
from clbench.cli.terminal import console, fitted
from clbench.cli.watching import following, following_run

if TYPE_CHECKING:
    from clbench.config import RunConfig
    from clbench.results.ledger import Record
    from clbench.runs.cells import Cell
    from clbench.runs.launchers import Launcher
    from clbench.runs.tuning import Trial


CODES = {"failed": 2, "diverged": 3, "timeout": 1}
"""What a suite ends with, by what became of a run; the first that there is counts."""
SHARED = ("device", "plugin")
"""Options of a search without which what it chose would be used otherwise."""


def run(
    benchmark: Benchmark,
    strategy: StrategyName,
    settings: Pairs = None,
    seed: Seed = 0,
    out: Out = None,
    device: Device = "auto",
    precision: Precision = None,
    config: Config = None,
    plugin: Plugins = None,
    log: Log = None,
    project: Project = None,
    group: Group = None,
    threads: Threads = None,
    checkpoint: Checkpoint = 60.0,
    overlap: Overlap = False,
    deterministic: Deterministic = False,
    keep_models: KeepModels = False,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw the stability gap into the run's folder; nothing is opened.")
    ] = False,
    watch: Watch = False,
    as_json: Json = False,
) -> int:
    """Run a strategy on a benchmark; a run that is already there is only shown."""
    from clbench import config as configuration

    load(plugin)
    given = settings_of(settings, precision=precision, threads=threads)
    file = configuration.read_yaml(config) if config is not None else None
    with importing():
        resolved = configuration.resolve(benchmark, strategy, given, seed=seed, file=file)
        how = execution(
            device, log, checkpoint, overlap, deterministic, keep_models, project=project, group=group
        )

        from clbench.runs import lifecycle

    root = lifecycle.runs_folder(out)
    with following_run(resolved, root) if watch else contextlib.nullcontext():
        record = lifecycle.start(resolved, how, root, observers=[] if as_json else [Line()])
    code = show_record(record, as_json)
    if process() in ("", "0"):
        warn_unlogged(how, [root / record.id])
        if plot:
            _draw(record, as_json)
    return code


def _draw(record: Record, quiet: bool) -> None:
    """Draw the stability gap of a run into its folder, and name the file."""
    from clbench.reports import plots
    from clbench.results.measures import measure_of
    from clbench.runs.loggers import GAP

    assert record.folder is not None
    curve = record.curve
    if not len(curve.ticks()):
        warn(
            "There is nothing to plot: nothing was evaluated between the ends of experiences (evaluation.every=0)."
        )
        return
    title = f"{record.benchmark['name']}: {measure_of(curve).name} on the first experience"
    file = plots.stability_gap({record.strategy["name"]: [curve]}, record.folder / GAP, title=title)
    if not quiet:
        print(f"  {file}")


def resume(
    folder: Annotated[Path, typer.Argument(help="A run folder, runs/<id>.")],
    device: Annotated[
        str | None, typer.Option(help="Another device of the kind that the run began on.")
    ] = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> int:
    """Continue an interrupted run, to the bits it would have ended with."""
    from clbench.runs import lifecycle

    load(plugin)
    record = lifecycle.resume(folder, device=device, observers=[] if as_json else [Line()])
    return show_record(record, as_json)


def suite(
    context: typer.Context,
    name: Suite,
    settings: Pairs = None,
    out: Out = None,
    device: Device = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side.  [default: as many as cores bear]")
    ] = None,
    per_gpu: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time on each GPU, which they share.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="That many seeds from 0, in place of the suite's.")
    ] = None,
    launcher: Annotated[str, typer.Option(help="local, or ray: the cores and GPUs of a cluster.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster, or auto.  [default: one on this machine]")
    ] = None,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="With ray: cores of each run.  [default: its threads]")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="With ray: GPUs of each run; 0.25 puts four on one.")
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="How often a run whose process died goes on from its checkpoint.")
    ] = 3,
    time_limit: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which a run is ended; its checkpoint stays.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Metric to show in place of the suite's and the usual ones; repeatable."),
    ] = None,
    precision: Precision = None,
    config: Config = None,
    plugin: Plugins = None,
    log: Log = None,
    project: Project = None,
    group: Group = None,
    threads: Threads = None,
    checkpoint: Checkpoint = 60.0,
    overlap: Overlap = False,
    deterministic: Deterministic = False,
    keep_models: KeepModels = False,
    watch: Watch = False,
    as_json: Json = False,
) -> int:
    """Run strategies × benchmarks × seeds and report them; only what is missing is run."""
    from clbench.config import read_yaml
    from clbench.files import check_place
    from clbench.reports.suite import PAGE
    from clbench.runs import suite as suites
    from clbench.runs.lifecycle import runs_folder

    root = runs_folder(out)
    options = {"workers": workers, "per_gpu": per_gpu}, {"address": address, "cpus": cpus, "gpus": gpus}
    carry_out = _launcher(launcher, *options, retries, time_limit)
    load(plugin)
    short, loaded = suites.load(name)
    check_place(root / short / PAGE, file=True)
    columns = suites.metrics_named(metric or loaded.metrics)
    how = execution(
        device, log, checkpoint, overlap, deterministic, keep_models, project=project, group=group
    )
    given = settings_of(settings, precision=precision, threads=threads)
    file = read_yaml(config) if config is not None else {}
    cells = suites.plan(loaded, given, range(seeds) if seeds else None, file=file)

    page = following(cells, loaded.title or short, root) if watch else contextlib.nullcontext()
    with page, SuiteProgress(cells, quiet=as_json) as progress:
        suites.run(cells, root, how, launcher=carry_out, plugins=plugin or [], watch=progress.update)
    warn_unlogged(how, [root / cell.id for cell in cells if cell.state == "done"])
    return report(cells, root / short, loaded.title or short, command(context), as_json, columns)


def _launcher(
    name: str, local: Mapping[str, Any], ray: Mapping[str, Any], retries: int, seconds: float | None
) -> Launcher:
    from clbench.errors import ConfigError, choices
    from clbench.runs.launchers import Limits, Local, Ray

    theirs = {"local": local, "ray": ray}
    if name not in theirs:
        raise ConfigError(f"There is no launcher '{name}'.{choices(name, theirs)}")
    for other, options in theirs.items():
        given = [key for key, value in options.items() if value is not None]
        if other != name and given:
            raise ConfigError(
                f"--{given[0].replace('_', '-')} is for --launcher {other}; the launcher is {name}."
            )
    options = {key: value for key, value in theirs[name].items() if value is not None}
    return (Local if name == "local" else Ray)(**options, limits=Limits(retries, seconds))


def report(
    cells: Sequence[Cell],
    folder: Path,
    title: str,
    command: str,
    as_json: bool,
    columns: tuple[str, ...] = (),
) -> int:
    """Write a suite's report, and show its tables.

    Args:
        columns: the metrics that they show, if they were chosen.
    """
    from clbench.reports import rows, tables
    from clbench.reports.suite import write_report
    from clbench.runs.cells import reported

    runs = [reported(cell, columns) for cell in cells]
    page = write_report(runs, folder, title, command)
    if as_json:
        print(json.dumps(rows.summary(runs), indent=2, ensure_ascii=False))
    else:
        screen = console(sys.stdout, None if sys.stdout.isatty() else 100)
        for table in tables.rich_tables(runs):
            with screen.capture() as drawn:
                screen.print(*fitted(table, screen), sep="\n")
            # Rich pads every line to the table's width.
            screen.file.write("\n".join(line.rstrip() for line in drawn.get().split("\n")))
        for cell in cells:
            if cell.state != "done":
                why = cell.message or (cell.record.note if cell.record else "")
                screen.print(f"{cell}: {cell.state}: {why}")
        screen.print(f"report: {page}", soft_wrap=True)
    ended = {cell.state for cell in cells}
    return next((code for state, code in CODES.items() if state in ended), 0)


def pretrain(
    plan: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A shipped pretraining configuration, or a YAML file.")
    ],
    settings: Pairs = None,
    seed: Seed = 0,
    out: Out = None,
    weights: Annotated[
        Path | None, typer.Option(help="Folder for weights.  [default: CLBENCH_WEIGHTS or weights/]")
    ] = None,
    device: Device = "auto",
    plugin: Plugins = None,
    threads: Threads = None,
    checkpoint: Checkpoint = 60.0,
    as_json: Json = False,
) -> int:
    """Train a backbone and keep it under its hash, for runs to start from: model.weights=ID."""
    from clbench.runs import pretrain as pretraining

    load(plugin)
    made, record = pretraining.pretrain(
        pretraining.read(plan),
        seed=seed,
        out=out,
        folder=weights,
        device=device,
        execution={"checkpoint_seconds": checkpoint},
        observers=[] if as_json else [Line()],
        settings=settings_of(settings, threads=threads),
    )
    if as_json:
        print(json.dumps({"id": made.id, "path": str(made.path), "run": record.id, **made.about}, indent=2))
    else:
        there = made.id if weights is None else made.path  # ids are looked for where no folder is named
        print(f"{made.substrate}\n{made.path}\nuse it with: {shlex.quote(f'model.weights={there}')}")
    return 0


def tune(
    context: typer.Context,
    benchmark: Benchmark,
    strategy: StrategyName,
    settings: Pairs = None,
    space: Annotated[
        Path | None, typer.Option(help="YAML file, `lr: {log: [0.001, 1]}` …  [default: just that line]")
    ] = None,
    protocol: Protocol = "first-2-experiences",
    trials: Trials = 20,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="YAML file to write the best settings to, for --config.")
    ] = None,
    device: Device = "auto",
    plugin: Plugins = None,
    threads: Threads = None,
    as_json: Json = False,
) -> int:
    """Choose settings by a protocol that does not look at the test stream."""
    from clbench import config as configuration
    from clbench.config.selection import Choice
    from clbench.config.yamls import dump
    from clbench.errors import ConfigError
    from clbench.files import atomic_write, check_place, make_folder
    from clbench.runs import tuning

    if out is not None:
        check_place(out, file=True)
    load(plugin)
    how = tuning.protocol(protocol)
    searched = tuning.space_of(configuration.read_yaml(space)) if space is not None else tuning.DEFAULT_SPACE
    given = settings_of(settings, threads=threads)
    tuning.refuse_both(given, searched)

    numbers = itertools.count(1)

    def told(trial: tuning.Trial) -> None:
        if not as_json:
            print(f"[{next(numbers)}/{trials}] {_value(trial):>8}  {_written(trial.settings)}", flush=True)

    def resolve(chosen: Mapping[str, Any]) -> RunConfig:
        over = (tuning.trial_settings(how, benchmark), given, chosen)
        return configuration.resolve(benchmark, strategy, *over, seed=seed)

    found = tuning.tune(resolve, how, searched, trials, execution(device), seed=seed, told=told)
    best = found[0]
    if best.value is None:
        raise ConfigError(f"Every one of {trials} trials diverged; search a smaller learning rate.")
    chosen = {**given, **best.settings}  # with what they were chosen beside
    tuned = {**chosen, "selection": Choice(how.name, benchmark, strategy).written()}
    if out is not None:
        atomic_write(make_folder(out.parent) / out.name, _chosen_by(context) + dump(tuned, sort_keys=True))
    if as_json:
        tried = [{"settings": dict(t.settings), t.metric: t.value} for t in found]
        print(json.dumps({"protocol": how.name, "best": tuned, "trials": tried}, indent=2))
    else:
        print(f"best of {trials} by {how.name}: {_value(best)}  {_written(chosen)}")
        if out is not None:
            print(f"use it with: {command(context, 'run', benchmark, strategy, only=SHARED, config=out)}")
    return 0


def tune_suite(
    context: typer.Context,
    suite: Suite,
    out: Annotated[Path, typer.Option(help="YAML file for the suite with the settings that were chosen.")],
    settings: Pairs = None,
    protocol: Protocol = "first-2-experiences",
    trials: Trials = 20,
    seed: Seed = 0,
    device: Device = "auto",
    plugin: Plugins = None,
    threads: Threads = None,
) -> int:
    """Choose settings for every strategy of a suite, by one protocol and as many trials each.

    What was cut off goes on where its file is tuned in place of the suite.
    """
    from clbench.config.yamls import dump
    from clbench.files import atomic_write, check_place, make_folder
    from clbench.runs import suite as suites, tuning

    check_place(out, file=True)
    load(plugin)
    how = tuning.protocol(protocol)

    numbers: dict[str, int] = Counter()

    def told(strategy: suites.Choice, trial: tuning.Trial) -> None:
        name = strategy.label or strategy.name
        numbers[name] += 1
        print(f"{name} [{numbers[name]}/{trials}]: {_value(trial)}  {_written(trial.settings)}", flush=True)

    def save(tuned: suites.SuiteConfig) -> None:
        tree = tuned.model_dump(mode="json", exclude_defaults=True)
        written = _chosen_by(context) + dump(tree, sort_keys=False, allow_unicode=True, width=120)
        atomic_write(make_folder(out.parent) / out.name, written)

    tuning.tune_suite(
        suites.load(suite)[1],
        how,
        trials,
        execution(device),
        settings=settings_of(settings, threads=threads),
        seed=seed,
        told=told,
        save=save,
    )
    again = command(context, "suite", out, *(settings or []), only=(*SHARED, "threads"))
    print(f"use it with: {again}")
    return 0


def _chosen_by(context: typer.Context) -> str:
    """Return the first lines of a file of settings."""
    return "".join(f"# {line}\n" for line in f"Chosen by `{command(context)}`.".splitlines())


def _value(trial: Trial) -> str:
    from clbench.results.metrics import METRICS

    return "diverged" if trial.value is None else METRICS[trial.metric].told(trial.value)


def _written(settings: Mapping[str, Any]) -> str:
    return " ".join(
        f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in settings.items()
    )
