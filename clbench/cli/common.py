"""What commands share: options, plugins, tables, how a record is shown."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clbench.files import expanded
from clbench.files.names import printable

if TYPE_CHECKING:
    from clbench.config import Execution
    from clbench.results.ledger import Record


def _registered(kind: str) -> Callable[[str], list[tuple[str, str]]]:
    """Return what completes the name of something registered, with its summary; of a chain, its last part."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        from clbench import registry

        entries = getattr(registry, kind)
        before, plus, _ = incomplete.rpartition("+")
        return [(before + plus + name, entries.peek(name).summary) for name in entries.names()]

    return complete


def _suites() -> list[str]:
    from clbench.config import suite_names

    return suite_names()


Benchmark = Annotated[
    str,
    typer.Argument(
        help="A benchmark's name; see `clbench list benchmarks`.", autocompletion=_registered("benchmarks")
    ),
]
StrategyName = Annotated[
    str,
    typer.Argument(
        help="A strategy's name, or a chain: derpp+refresh.", autocompletion=_registered("strategies")
    ),
]
Suite = Annotated[str, typer.Argument(help="A shipped suite's name or a YAML file.", autocompletion=_suites)]
Folders = Annotated[list[Path], typer.Argument(help="Run folders.")]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn.")]
Protocol = Annotated[str, typer.Option(help="first-k-experiences, validation or oracle.")]
Trials = Annotated[int, typer.Option(min=1, help="Configurations to try of every strategy.")]
Out = Annotated[Path | None, typer.Option(help="Folder for run folders.  [default: CLBENCH_RUNS or runs/]")]
Plugins = Annotated[
    list[str] | None, typer.Option("--plugin", help="Python file that registers something; repeatable.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …; auto takes CUDA if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else.")]
Log = Annotated[list[str] | None, typer.Option(help="Also log to csv, tensorboard or wandb; repeatable.")]
Project = Annotated[
    str | None, typer.Option(help="With --log wandb: its project.  [default: WANDB_PROJECT or clbench]")
]
Group = Annotated[
    str | None,
    typer.Option(help="With --log wandb: its group.  [default: WANDB_RUN_GROUP, or benchmark and strategy]"),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of a run: part of its id.  [default: 1]")
]
Checkpoint = Annotated[
    float, typer.Option(min=0, help="Seconds between checkpoints; 0 writes one every step.")
]
KeepModels = Annotated[
    bool,
    typer.Option("--keep-models", help="Keep the model after every experience, for `clbench export`."),
]
Watch = Annotated[
    bool, typer.Option("--watch", help="Print the address of a page on this machine that follows it.")
]
Overlap = Annotated[
    bool, typer.Option("--overlap", help="Evaluate beside training, in another process; same numbers.")
]
Deterministic = Annotated[
    bool,
    typer.Option("--deterministic", help="On a GPU, only operations whose bits are the same each time."),
]
Config = Annotated[
    Path | None,
    typer.Option(help="YAML file with settings: key: value, or the sections of a run's config.yaml."),
]
Precision = Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")]
Pairs = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings: memory=200 lr=0.03 …")
]


def process() -> str:
    """This process's number, where torchrun has started several."""
    return os.environ.get("RANK", "") if os.environ.get("WORLD_SIZE", "1") != "1" else ""


def at_home(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Return a command in whose paths `~` is the home folder, and that ends as by SIGPIPE where nobody reads it."""

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(one) for one in value]
        return expanded(value) if isinstance(value, Path) else value

    @functools.wraps(command)
    def called(*arguments: Any, **options: Any) -> int | None:
        try:
            return command(*arguments, **{name: whole(value) for name, value in options.items()})
        except BrokenPipeError:  # of which Typer makes the code 1; what is still to be written goes nowhere
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            return 128 + signal.SIGPIPE

    return called


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage while torch is imported, and never again in what stays: a tenth of the time to a first
    step."""
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def load(plugins: Sequence[str] | None) -> None:
    """Import the files named with `--plugin`."""
    from clbench.registry import load_plugin

    for plugin in plugins or ():
        load_plugin(plugin)


def command(context: typer.Context, *words: object, only: Sequence[str] | None = None, **more: object) -> str:
    """Return what was asked of the command line, for a shell: all that was given, in the order of the command's
    parameters.

    Paths stay as they were given, so it is for the folder where it was given. `--json` and `--watch`, which only show,
    are left out.

    Args:
        words: another command and its arguments, for one that follows. only: the options that it shares, by parameter.
        more: options of its own.
    """
    arguments: list[object] = [context.command.name]
    options: list[object] = [part for name, value in more.items() for part in (f"--{name}", value)]
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params.get(str(parameter.name))
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name in ("as_json", "watch"):
            continue
        values = value if isinstance(value, list | tuple) else [value]
        if parameter.param_type_name == "argument":
            arguments += values
        elif only is None or name in only:
            flag = parameter.opts[0]
            options += [flag] if value is True else [part for one in values for part in (flag, one)]
    name, *rest = map(str, words or arguments)
    # A word that begins as an option does is none behind `--`.
    order = ["--", *rest] if any(word.startswith("-") for word in rest) else []
    return shlex.join(["clbench", name, *([] if order else rest), *map(str, options), *order])


def warn(message: str) -> None:
    """A line on standard error that ends nothing."""
    print(f"clbench: warning: {printable(' '.join(message.split()))}", file=sys.stderr)


def warn_unlogged(how: Execution, folders: Sequence[Path]) -> None:
    """Say which of the loggers that were asked for have nothing of runs that were already there."""
    from clbench.runs.lifecycle import unlogged

    missing = [lacking for folder in folders if (lacking := unlogged(folder, how))]
    if missing:
        names = ", ".join(sorted({name for lacking in missing for name in lacking}))
        runs = "1 run that was" if len(missing) == 1 else f"{len(missing)} runs that were"
        warn(f"{names} has nothing of {runs} already there; another --out makes and logs all anew.")


def columns(rows: Sequence[Sequence[str]], indent: int = 2) -> str:
    """Rows as lines with aligned columns and no blanks at their ends."""
    rows = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (" " * indent + "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def settings_of(pairs: Sequence[str] | None, **options: Any) -> dict[str, Any]:
    """Return the settings of a command: its `key=value` pairs, and those that have an option of their own.

    Raises:
        ConfigError: one of them is given both ways.
    """
    from clbench.config import parse_pairs
    from clbench.errors import ConfigError

    given = parse_pairs(pairs or [])
    for key, value in options.items():
        if value is not None and given.setdefault(key, value) != value:
            raise ConfigError(f"'{key}' is given twice: {given[key]} and --{key} {value}.")
    return given


def execution(
    device: str,
    log: list[str] | None = None,
    checkpoint: float = 60.0,
    overlap: bool = False,
    deterministic: bool = False,
    keep_models: bool = False,
    **wandb: str | None,
) -> Execution:
    """Return how runs are carried out.

    Args:
        wandb: project and group there.

    Raises:
        ConfigError: one of them is given, and wandb is not logged to.
    """
    from clbench.config import Execution, validate
    from clbench.errors import ConfigError

    for name, value in wandb.items():
        if value is not None and "wandb" not in (log or []):
            raise ConfigError(f"--{name} is for Weights & Biases; give --log wandb, too, or leave it out.")
    given = {"device": device, "log": log or [], "checkpoint_seconds": checkpoint, "overlap": overlap}
    given |= {"deterministic": deterministic, "keep_models": keep_models}
    how: Execution = validate(Execution, {**given, **wandb})
    return how


def show_record(record: Record, as_json: bool) -> int:
    """Print a record; of several processes, the first does. Returns its exit code."""
    from clbench.results.metrics import METRICS
    from clbench.results.metrics.core import shown

    if process() not in ("", "0"):
        pass
    elif as_json:
        sys.stdout.write(record.to_json())
    else:
        name = f"{record.benchmark['name']}@{record.benchmark['version']}  {record.strategy['name']}"
        print(f"{name}  seed {record.seeds['data']}  {record.status}")
        told = [METRICS[key] for key in shown(record.primary, record.more) if key in record.metrics]
        wide = max([12, *(len(metric.head) + 1 for metric in told)])
        for metric in told:
            print(f"  {metric.head:<{wide}}{metric.told(record.metrics[metric.name])}")
        seconds = record.budget["train_seconds"], record.budget["eval_seconds"]
        print(f"  {record.budget['steps']} steps, {seconds[0]:.1f} s training, {seconds[1]:.1f} s evaluation")
        if not record.budget["updates"] and record.status == "done":
            print("  no step had a loss, so no weight was trained")
        for note in record.benchmark.get("notes", ()):
            print(f"  {note}")
        if record.note:
            print(f"  {record.note}")
        print(f"  {record.folder}")
    return 3 if record.status == "diverged" else 0
