"""`check`, `verify`, `plot`, `bench`: what is said of plugins, results and the engine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clbench.cli.common import Json, Plugins, load
from clbench.errors import ConfigError

if TYPE_CHECKING:
    from clbench.testing import Result


def check(
    strategy: Annotated[str, typer.Argument(help="The name of a strategy, a chain, or a benchmark.")],
    plugin: Plugins = None,
    as_json: Json = False,
) -> int:
    """Put a strategy, or a benchmark, through the contract that all of clbench's pass."""
    from clbench import testing
    from clbench.registry import benchmarks

    load(plugin)
    checking: Callable[[str], Iterable[Result]] = testing.check_strategy
    if strategy in benchmarks.names():
        checking = testing.check_benchmark
    results = list(checking(strategy))
    failed = [r for r in results if r.status == "failed"]
    if as_json:
        print(json.dumps([r.as_dict() for r in results], indent=2, ensure_ascii=False))
    else:
        for line in _told_once(results):
            print(line)
        print(
            f"{strategy}: {len(failed)} of {len(results)} checks failed"
            if failed
            else f"{strategy}: all checks passed"
        )
    return 1 if failed else 0


def _told_once(results: Sequence[Result]) -> Iterator[str]:
    """A line for each check; a mistake that stops several of them is told with the first."""
    marks = {"passed": "ok  ", "failed": "FAIL", "skipped": "skip", "expected": "xfail"}
    stopped: dict[str, list[str]] = {}
    for r in results:
        if r.status == "failed":
            stopped.setdefault(r.raised or r.message, []).append(r.check)
    for r in results:
        if r.status != "failed":
            yield f"{marks[r.status]} {r.check:<26} {r.rule if r.status == 'passed' else r.message}"
            continue
        first, *others = stopped[r.raised or r.message]
        if r.check == first:
            yield f"{marks[r.status]} {r.check:<26} {r.message}"
            if others:
                yield f"     {'':<26} The same stops {', '.join(others)}."


def verify(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    steps: Annotated[int, typer.Option(min=0, help="How many first steps to train again; 0 for none.")] = 20,
    plugin: Plugins = None,
    as_json: Json = False,
) -> int:
    """Recompute every metric of a run from its curve, train its first steps again, and compare both with its record."""
    from clbench import metrics
    from clbench.ledger import read_record

    load(plugin)
    record = read_record(folder)
    again = metrics.compute(record.curve)
    wrong = {
        k: (record.metrics.get(k), again.get(k))
        for k in {*record.metrics, *again}
        if record.metrics.get(k) != again.get(k)
    }
    begun = None
    if steps:
        from clbench.leaderboard.again import first_steps

        begun = first_steps(record, steps)
    agrees = not wrong and (begun is None or begun.agrees)
    if as_json:
        found = {"id": record.id, "agrees": agrees, "differs": sorted(wrong)}
        if begun is not None:
            found |= {"steps": begun.steps, "rows": begun.rows, "rows_differing": begun.differing}
        print(json.dumps(found))
        return int(not agrees)
    for key, (recorded, computed) in sorted(wrong.items()):
        print(f"{key}: the record says {recorded}, the curve says {computed}")
    if not wrong:
        print(f"{record.id}: {len(again)} metrics agree with the curve")
    if begun is not None:
        same = f"{begun.rows - begun.differing} of {begun.rows} evaluations of the first {begun.steps} steps agree"
        far = f", accuracies up to {100 * begun.largest:.2f} points apart" if begun.differing else ""
        where = f"; recorded elsewhere: other {', '.join(begun.elsewhere)}" if begun.elsewhere else ""
        print(f"{record.id}: {same}{far}{where}")
    return int(not agrees)


def plot(
    folders: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path, typer.Option(help="PNG file, or a folder for all plots.")] = Path(
        "stability-gap.png"
    ),
    plugin: Plugins = None,
) -> None:
    """Plot the stability gap of runs: accuracy of the first experience at every iteration.

    A PNG for each benchmark; folders without a finished run are left out.
    """
    from clbench import plots
    from clbench.ledger import has_record, read_record

    load(plugin)
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


def bench(
    as_json: Json = False, steps: Annotated[int, typer.Option(min=10, help="Steps a measurement.")] = 200
) -> None:
    """Measure the engine against a bare PyTorch loop, side by side in one process."""
    from clbench import bench as benching

    results = benching.engine_overhead(steps=steps)
    print(json.dumps(results, indent=2) if as_json else benching.table(results))
