"""The command line. Heavy modules are imported inside commands, so that `--help` and `list` answer at once.

Exit codes: 0 done · 1 the answer is no · 2 bad input · 3 the run diverged.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import clbench
from clbench.errors import ClbenchError, ConfigError, suggest
from clbench.observer import Observer

if TYPE_CHECKING:
    from clbench.config import Execution
    from clbench.engine import Run
    from clbench.ledger import Record
    from clbench.suite import Cell

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Benchmark continual-learning strategies, evaluated at every iteration.",
)
data_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Data sets: what is here, and fetching more."
)
app.add_typer(data_app, name="data")

INTERRUPTED = 130
KINDS = ("strategies", "benchmarks", "models", "metrics", "suites")
HEADLINE = (
    ("ACC", "average_accuracy"),
    ("forgetting", "forgetting"),
    ("AAA", "average_anytime_accuracy"),
    ("min-ACC", "min_acc"),
    ("WC-ACC", "wc_acc"),
    ("WF10", "wf10"),
)

Out = Annotated[Path | None, typer.Option(help="Folder for run folders.  [default: CLBENCH_RUNS or runs/]")]
Plugins = Annotated[
    list[str] | None, typer.Option("--plugin", help="Python file that registers something; repeatable.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …; auto takes CUDA if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else.")]
Log = Annotated[list[str] | None, typer.Option(help="Also log to csv, tensorboard or wandb; repeatable.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; kept when a run is resumed.")]
Checkpoint = Annotated[
    float, typer.Option(min=0, help="Seconds between checkpoints; 0 writes one every step.")
]
Pairs = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings: memory=200 lr=0.03 …")
]


def main() -> NoReturn:
    """Entry point: one clear message for every mistake, and no traceback."""
    # Threads that spin while they wait make runs that share cores twenty times slower; read when torch is
    # loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = app(prog_name="clbench", standalone_mode=False)
    except ClbenchError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        # Typer's own click raises its usage errors; they know how to show themselves.
        if not hasattr(error, "format_message"):
            _unexpected(error)
        if type(error).__name__ == "NoArgsIsHelpError":  # `clbench` alone: its message is the help
            print(error.format_message(), file=sys.stderr)
            sys.exit(2)
        _fail(error.format_message())
    if code == INTERRUPTED:  # which is also what Typer makes of an interrupt
        print(
            "clbench: interrupted; the same command again goes on from the last checkpoint.", file=sys.stderr
        )
    sys.exit(code if isinstance(code, int) else 0)


def _unexpected(error: Exception) -> NoReturn:
    """One line for what nobody foresaw, such as a plugin's own mistake; `CLBENCH_DEBUG=1` shows the traceback."""
    import traceback

    if os.environ.get("CLBENCH_DEBUG"):
        raise error
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(clbench.__file__).resolve().parent)
    outside = [f for f in frames if not f.filename.startswith((ours, sys.prefix, sys.base_prefix, "<"))]
    at = (outside or frames)[-1]
    _fail(
        f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'} "
        f"({at.filename}, line {at.lineno}). Set CLBENCH_DEBUG=1 to see the traceback."
    )


def _fail(message: str) -> NoReturn:
    print(
        f"clbench: {' '.join(message.split())}", file=sys.stderr
    )  # one line, whatever a library's message had
    sys.exit(2)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(clbench.__version__)
        raise typer.Exit


@app.command()
def run(
    benchmark: Annotated[str, typer.Argument(help="A benchmark's name; see `clbench list benchmarks`.")],
    strategy: Annotated[str, typer.Argument(help="A strategy's name, or a chain: derpp+refresh.")],
    settings: Pairs = None,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn.")] = 0,
    out: Out = None,
    device: Device = "auto",
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
    plugin: Plugins = None,
    log: Log = None,
    threads: Threads = None,
    checkpoint: Checkpoint = 60.0,
    as_json: Json = False,
) -> int:
    """Run a strategy on a benchmark; a run that is already there is only shown."""
    from clbench import config as configuration

    _load(plugin)
    given = configuration.parse_pairs(settings or [])
    if precision is not None:
        given["precision"] = precision
    file = configuration.read_yaml(config) if config is not None else None
    resolved = configuration.resolve(benchmark, strategy, given, seed=seed, file=file)
    how = _execution(device, threads, log, checkpoint)

    from clbench import api

    record = api.start(resolved, how, api.runs_folder(out), observers=[] if as_json else [_Line()])
    return _show_record(record, as_json)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="A run folder, runs/<id>.")],
    device: Annotated[
        str | None, typer.Option(help="Another device of the kind that the run began on.")
    ] = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> int:
    """Continue an interrupted run, to the bits it would have ended with."""
    from clbench import api

    _load(plugin)
    record = api.resume(folder, device=device, observers=[] if as_json else [_Line()])
    return _show_record(record, as_json)


@app.command()
def suite(
    name: Annotated[str, typer.Argument(help="A shipped suite's name or a YAML file.")],
    settings: Pairs = None,
    out: Out = None,
    device: Device = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side.  [default: the number of cores]")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="That many seeds from 0, in place of the suite's.")
    ] = None,
    plugin: Plugins = None,
    log: Log = None,
    threads: Threads = None,
    checkpoint: Checkpoint = 60.0,
    as_json: Json = False,
) -> int:
    """Run strategies × benchmarks × seeds and report them; only what is missing is run."""
    from clbench import suite as suites

    _load(plugin)
    short, loaded = suites.load(name)
    how = _execution(device, threads, log, checkpoint)
    cells = suites.plan(loaded, settings or [], range(seeds) if seeds else None)

    from clbench.api import runs_folder
    from clbench.files import make_folder

    root = make_folder(runs_folder(out))
    with _SuiteProgress(cells, quiet=as_json) as progress:
        suites.run(cells, root, how, workers=workers, plugins=plugin or [], watch=progress.update)
    return _report(cells, root / short, loaded.title or short, f"clbench suite {name}", as_json)


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(help=" · ".join(KINDS))] = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """List strategies, benchmarks, models, metrics or suites."""
    if kind is not None and kind not in KINDS:
        raise ConfigError(
            f"There is no kind '{kind}' to list.{suggest(kind, KINDS)} Known: {', '.join(KINDS)}."
        )
    _load(plugin)
    kinds = (kind,) if kind else KINDS
    rows = {k: _entries(k) for k in kinds}
    if as_json:
        print(json.dumps(rows[kind] if kind else rows, indent=2, ensure_ascii=False))
        return
    for k in kinds:
        if kind is None:
            print(f"{k}:")
        width = max((len(str(row["name"])) for row in rows[k]), default=0)
        for row in rows[k]:
            version = f"@{row['version']}" if "version" in row else ""
            print(f"  {row['name'] + version:<{width + 3}}  {row['summary']}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A registered name, or a run folder.")],
    plugin: Plugins = None,
    as_json: Json = False,
) -> int:
    """Show all there is to know about a strategy, benchmark, model, metric, suite or run."""
    _load(plugin)
    if (Path(name) / "config.yaml").is_file() or (Path(name) / "record.json").is_file():
        from clbench.ledger import read_record

        return _show_record(read_record(Path(name)), as_json)
    found = [(kind, row) for kind in KINDS for row in _entries(kind) if row["name"] == name]
    if not found:
        known = [row["name"] for kind in KINDS for row in _entries(kind)]
        raise ConfigError(
            f"Nothing is registered as '{name}', and it is no run folder.{suggest(name, known)}"
        )
    described = [_describe(kind, row) for kind, row in found]
    if as_json:
        print(json.dumps(described if len(described) > 1 else described[0], indent=2, ensure_ascii=False))
        return 0
    for entry in described:
        head = f"{entry['kind']} {entry['name']}" + (f"@{entry['version']}" if "version" in entry else "")
        print(head, "=" * len(head), entry["documentation"], sep="\n")
        for parameter in entry.get("parameters", []):
            print(f"    {parameter['name']} = {parameter['default']!r}   ({parameter['type']})")
        for key in ("paper", "needs", "module"):
            if entry.get(key):
                print(f"{key}: {', '.join(entry[key]) if isinstance(entry[key], list) else entry[key]}")
        print()
    return 0


@app.command()
def check(
    strategy: Annotated[str, typer.Argument(help="The name of a strategy, a chain, or a benchmark.")],
    plugin: Plugins = None,
    as_json: Json = False,
) -> int:
    """Put a strategy, or a benchmark, through the contract that all of clbench's pass."""
    from clbench import testing
    from clbench.registry import benchmarks

    _load(plugin)
    checking = testing.check_benchmark if strategy in benchmarks.names() else testing.check_strategy
    results = list(checking(strategy))
    failed = [r for r in results if r.status == "failed"]
    if as_json:
        print(json.dumps([r.as_dict() for r in results], indent=2, ensure_ascii=False))
    else:
        marks = {"passed": "ok  ", "failed": "FAIL", "skipped": "skip", "expected": "xfail"}
        for r in results:
            print(f"{marks[r.status]} {r.check:<26} {r.rule if r.status == 'passed' else r.message}")
        print(
            f"{strategy}: {len(failed)} of {len(results)} checks failed"
            if failed
            else f"{strategy}: all checks passed"
        )
    return 1 if failed else 0


@app.command()
def verify(folder: Annotated[Path, typer.Argument(help="A run folder.")], as_json: Json = False) -> int:
    """Recompute every metric of a run from its curve and compare with its record."""
    from clbench import metrics
    from clbench.ledger import read_record

    record = read_record(folder)
    again = metrics.compute(record.curve)
    wrong = {
        k: (record.metrics.get(k), again.get(k))
        for k in {*record.metrics, *again}
        if record.metrics.get(k) != again.get(k)
    }
    if as_json:
        print(json.dumps({"id": record.id, "agrees": not wrong, "differs": sorted(wrong)}))
    elif wrong:
        for key, (recorded, computed) in sorted(wrong.items()):
            print(f"{key}: the record says {recorded}, the curve says {computed}")
    else:
        print(f"{record.id}: {len(again)} metrics agree with the curve")
    return 1 if wrong else 0


@app.command()
def plot(
    folders: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path, typer.Option(help="PNG file, or a folder for all plots.")] = Path(
        "stability-gap.png"
    ),
) -> None:
    """Plot the stability gap of runs: accuracy of the first experience at every iteration.

    A PNG for each benchmark; folders without a finished run are left out.
    """
    from clbench import plots
    from clbench.ledger import has_record, read_record

    records = [read_record(folder) for folder in folders if has_record(folder)]
    for folder in folders:
        if not has_record(folder):
            print(f"clbench: {folder} holds no finished run; left out.", file=sys.stderr)
    if not records:
        raise ConfigError("There is nothing to plot: none of the folders holds a finished run.")
    curves: dict[str, dict[str, list[Any]]] = {}
    for record in records:
        of_benchmark = curves.setdefault(record.benchmark["name"], {})
        of_benchmark.setdefault(record.strategy["name"], []).append(record.curve)
    if out.suffix not in ("", ".png"):
        raise ConfigError(f"--out takes a PNG file or a folder; {out} was given.")
    for benchmark, by_strategy in curves.items():
        file = out if out.suffix else out / "stability-gap.png"
        if len(curves) > 1:
            file = file.with_name(f"{file.stem}-{benchmark}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        plots.stability_gap(by_strategy, file, title=f"{benchmark}: accuracy of the first experience")
        print(file)


@app.command()
def pretrain(
    config: Annotated[str, typer.Argument(help="A shipped pretraining configuration, or a YAML file.")],
    settings: Pairs = None,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn.")] = 0,
    out: Out = None,
    folder: Annotated[
        Path | None,
        typer.Option("--weights", help="Folder for weights.  [default: CLBENCH_WEIGHTS or weights/]"),
    ] = None,
    device: Device = "auto",
    plugin: Plugins = None,
    threads: Threads = None,
    checkpoint: Checkpoint = 60.0,
    as_json: Json = False,
) -> int:
    """Train a backbone and keep it under its hash, for runs to start from: model.weights=ID."""
    from clbench import config as configuration, pretrain as pretraining

    _load(plugin)
    how = {"threads": threads, "checkpoint_seconds": checkpoint}
    weights, record = pretraining.pretrain(
        pretraining.read(config),
        seed=seed,
        out=out,
        folder=folder,
        device=device,
        execution=how,
        observers=[] if as_json else [_Line()],
        settings=configuration.parse_pairs(settings or []),
    )
    if as_json:
        print(
            json.dumps(
                {"id": weights.id, "path": str(weights.path), "run": record.id, **weights.about}, indent=2
            )
        )
    else:
        print(f"{weights.substrate}\n{weights.path}\nuse it with: model.weights={weights.id}")
    return 0


@data_app.command("status")
def data_status(as_json: Json = False) -> None:
    """Which data sets are here, and where."""
    from clbench import data

    rows = data.status()
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False, default=str))
        return
    for row in rows:
        print("  ".join(str(value) for value in row.values()))


@data_app.command("fetch")
def data_fetch(names: Annotated[list[str], typer.Argument(help="Data sets, such as mnist cifar10.")]) -> None:
    """Download data sets, check their hashes, and cache them decoded."""
    from clbench import data

    for name in names:
        print(data.fetch(name))


@app.command()
def bench(
    as_json: Json = False, steps: Annotated[int, typer.Option(min=10, help="Steps a measurement.")] = 200
) -> None:
    """Measure the engine against a bare PyTorch loop, side by side in one process."""
    from clbench import bench as benching

    results = benching.engine_overhead(steps=steps)
    print(json.dumps(results, indent=2) if as_json else benching.table(results))


# --- what commands share ---


def _load(plugins: Sequence[str] | None) -> None:
    from clbench.registry import load_plugin

    for plugin in plugins or ():
        load_plugin(plugin)


def _execution(device: str, threads: int | None, log: list[str] | None, checkpoint: float) -> Execution:
    from clbench.config import Execution, validate

    given = {"device": device, "threads": threads, "log": log or [], "checkpoint_seconds": checkpoint}
    how: Execution = validate(Execution, given)
    return how


def _entries(kind: str) -> list[dict[str, Any]]:
    """What `list` knows of a kind, without importing plugins or torch."""
    if kind == "metrics":
        from clbench.metrics import METRICS

        return [{"name": m.name, "summary": m.summary} for m in METRICS.values()]
    if kind == "suites":
        from clbench.config import config_file, read_yaml, suite_names

        paths = {name: config_file("suites", f"{name}.yaml") for name in suite_names()}
        texts = {
            name: read_yaml(path).get("description", "") for name, path in paths.items() if path is not None
        }
        return [{"name": name, "summary": " ".join(text.split())} for name, text in texts.items()]
    from clbench import registry

    entries = getattr(registry, kind)
    peeked = [entries.peek(name) for name in entries.names()]
    rows = [
        {"name": e.name, "version": e.version, "summary": e.summary, "paper": e.paper, "module": e.module}
        for e in peeked
    ]
    if kind == "strategies":
        for row, e in zip(rows, peeked, strict=True):
            row["modifier"] = e.modifier
    return rows


def _describe(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    import inspect

    from clbench import registry

    singular = {
        "strategies": "strategy",
        "benchmarks": "benchmark",
        "models": "model",
        "metrics": "metric",
        "suites": "suite",
    }
    described = {"kind": singular[kind], **row, "documentation": row["summary"]}
    if kind == "metrics":
        from clbench.metrics import METRICS

        described["documentation"] = inspect.getdoc(METRICS[row["name"]].function) or row["summary"]
    if kind in ("metrics", "suites"):
        return described
    entry = getattr(registry, kind).entry(row["name"])
    described["documentation"] = inspect.getdoc(entry.build) or ""
    described["parameters"] = [
        {"name": name, "default": None if p.default is p.empty else p.default, "type": str(p.annotation)}
        for name, p in entry.signature().parameters.items()
    ]
    if kind == "strategies":
        described["needs"] = sorted(registry.strategies.make(row["name"]).all_needs())
    return described


def _show_record(record: Record, as_json: bool) -> int:
    if as_json:
        sys.stdout.write(record.to_json())
    else:
        name = f"{record.benchmark['name']}@{record.benchmark['version']}  {record.strategy['name']}"
        print(f"{name}  seed {record.seeds['data']}  {record.status}")
        for label, key in HEADLINE:
            value = record.metrics.get(key)
            print(f"  {label:<12}{'—' if value is None else format(100 * value, '.2f')}")
        seconds = record.budget["train_seconds"], record.budget["eval_seconds"]
        print(f"  {record.budget['steps']} steps, {seconds[0]:.1f} s training, {seconds[1]:.1f} s evaluation")
        if not record.budget["updates"] and record.status == "done":
            print("  no step had a loss, so no weight was trained")
        if record.note:
            print(f"  {record.note}")
        print(f"  {record.folder}")
    return 3 if record.status == "diverged" else 0


def _report(cells: Sequence[Cell], folder: Path, title: str, command: str, as_json: bool) -> int:
    from clbench import tables
    from clbench.report import write_report

    rows = [tables.Cell.of(cell) for cell in cells]
    page = write_report(rows, folder, title, command)
    if as_json:
        print(json.dumps(tables.summary(rows), indent=2, ensure_ascii=False))
    else:
        from rich.console import Console

        console = Console() if sys.stdout.isatty() else Console(width=100)
        for table in tables.rich_tables(rows):
            console.print(table)
        for cell in cells:
            if cell.state not in ("done",):
                console.print(
                    f"{cell}: {cell.state}: {cell.message or (cell.record.note if cell.record else '')}",
                    markup=False,
                )
        console.print(f"report: {page}", soft_wrap=True, markup=False)
    if any(cell.state == "failed" for cell in cells):
        return 2
    return 3 if any(cell.state == "diverged" for cell in cells) else 0


class _Line(Observer):
    """Progress of a single run: a bar on a terminal, a line per experience elsewhere; on standard error."""

    def __init__(self) -> None:
        self._bar: Any = None

    def begin(self, run: Run) -> None:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=run.total_steps, completed=run.step)
            self._bar.start()
        elif run.step:
            print(f"resumed at step {run.step} of {run.total_steps}", file=sys.stderr)

    def window(self, run: Run, rows: Sequence[Any]) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=run.step, description=f"experience {run.experience}")

    def end_experience(self, run: Run) -> None:
        if self._bar is None:
            seen = " ".join(f"{100 * a:.1f}" for _, a in sorted(run.evaluator.latest().items()))
            place = f"experience {run.experience + 1}/{len(run.train)}, step {run.step}/{run.total_steps}"
            print(f"{place}: accuracy {seen or '—'}", file=sys.stderr)

    def end(self, run: Run) -> None:
        if self._bar is not None:
            self._bar.stop()


class _SuiteProgress:
    """Progress of a suite: bars on a terminal, a line per finished run elsewhere; on standard error."""

    def __init__(self, cells: Sequence[Cell], quiet: bool) -> None:
        self.cells, self.quiet = cells, quiet
        self._bar: Any = None
        self._told: set[str] = set()

    def __enter__(self) -> _SuiteProgress:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._all = self._bar.add_task("all runs", total=len(self.cells))
            self._tasks: dict[str, Any] = {}
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, cells: Sequence[Cell]) -> None:
        if self._bar is not None:
            self._draw(cells)
        elif not self.quiet:
            self._tell(cells)

    def _draw(self, cells: Sequence[Cell]) -> None:
        ended = [cell for cell in cells if cell.state not in ("waiting", "running")]
        self._bar.update(self._all, completed=len(ended))
        for cell in cells:
            if cell.state == "running":
                if cell.id not in self._tasks:
                    self._tasks[cell.id] = self._bar.add_task(str(cell), total=None)
                self._bar.update(self._tasks[cell.id], completed=cell.steps, total=cell.total or None)
        for cell in ended:
            if cell.id in self._tasks:
                self._bar.remove_task(self._tasks.pop(cell.id))

    def _tell(self, cells: Sequence[Cell]) -> None:
        ended = [cell for cell in cells if cell.state not in ("waiting", "running")]
        old = [cell for cell in ended if not cell.fresh and cell.id not in self._told]
        if old:
            print(f"{len(old)} of {len(cells)} runs are already there", file=sys.stderr)
            self._told |= {cell.id for cell in old}
        for cell in ended:
            if cell.id not in self._told:
                self._told.add(cell.id)
                acc = cell.record.metrics.get("average_accuracy") if cell.record else None
                result = f"ACC {100 * acc:.1f}" if acc is not None and cell.state == "done" else cell.state
                print(f"[{len(self._told)}/{len(cells)}] {cell}: {result}", file=sys.stderr)
