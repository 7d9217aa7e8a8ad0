"""`check`, `verify`, `plot`, `bench`: what is said of plugins, results and the engine."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clbench.cli.common import Device, Folders, Json, Plugins, load
from clbench.errors import ConfigError
from clbench.machine import guard

if TYPE_CHECKING:
    from clbench.testing import Result


def check(
    name: Annotated[str, typer.Argument(help="A strategy, a chain, or a benchmark.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Of a benchmark: what to build it with, path=my.npz …"),
    ] = None,
    plugin: Plugins = None,
    rehearse_gpu: Annotated[
        bool, typer.Option("--rehearse-gpu", help="A strategy on an imitation of a GPU, which is stricter.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Put a strategy, or a benchmark, through the contract that all of clbench's pass.

    The exit code is 0 if no check failed, 1 if one did, and 2 if none could be made.
    """
    if rehearse_gpu and (reason := guard.load()):
        raise ConfigError(f"No check of {name} could be made: {reason}")

    from clbench import testing
    from clbench.config import parse_pairs
    from clbench.registry import benchmarks, strategies

    load(plugin)
    given = parse_pairs(settings or [])
    if name in benchmarks.names():
        if rehearse_gpu:
            raise ConfigError(f"--rehearse-gpu is of strategies; {name} is a benchmark.")
        spec = {key.removeprefix("stream."): value for key, value in given.items()}
        results: list[Result] = testing.check_benchmark(name, **spec)
    elif given:
        testing.subject(name)
        raise ConfigError(f"A strategy is checked with its defaults; leave out {' '.join(settings or [])}.")
    else:
        adapter = strategies.adapter(name)
        expected = None if adapter is None else adapter.RULES_NOT_KEPT
        put_through = testing.rehearse if rehearse_gpu else testing.check_strategy
        results = list(put_through(name, expected_failures=expected))
    if as_json:
        print(json.dumps([r.as_dict() for r in results], indent=2, ensure_ascii=False))
    else:
        for line in _told_once(results):
            print(line)
        print(f"{name}: {_counted(results)}")
    if all(r.status == "skipped" for r in results):
        reasons = " · ".join(dict.fromkeys(r.message for r in results))
        raise ConfigError(f"No check of {name} could be made: {reasons}")
    return int(any(r.status == "failed" for r in results))


MARKS = {"passed": "ok  ", "failed": "FAIL", "skipped": "skip", "expected": "xfail"}


def _counted(results: Sequence[Result]) -> str:
    """`20 passed, 3 skipped, 0 failed`, with those that may fail where there are any."""
    found = Counter(r.status for r in results)
    known = f", {found['expected']} known to fail" if found["expected"] else ""
    return f"{found['passed']} passed, {found['skipped']} skipped, {found['failed']} failed{known}"


def _told_once(results: Sequence[Result]) -> Iterator[str]:
    """Yield a line for each check; what fails several of them, or why several are skipped, is told with the first."""
    said = {"failed": "The same stops", "skipped": "So are"}
    alike: dict[tuple[str, str], list[str]] = {}
    for r in results:
        alike.setdefault((r.status, r.raised or r.message), []).append(r.check)
    for r in results:
        if r.status not in said:
            yield f"{MARKS[r.status]} {r.check:<26} {r.rule if r.status == 'passed' else r.message}"
            continue
        first, *others = alike[r.status, r.raised or r.message]
        if r.check == first:
            yield f"{MARKS[r.status]} {r.check:<26} {r.message}"
            if others:
                yield f"     {'':<26} {said[r.status]} {', '.join(others)}."


def verify(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    steps: Annotated[int, typer.Option(min=0, help="How many first steps to train again; 0 for none.")] = 20,
    plugin: Plugins = None,
    as_json: Json = False,
) -> int:
    """Recompute every metric of a run from its curve, train its first steps again, and compare both with its record."""
    from clbench.reports.leaderboard.evidence import contradicted, contradictions, recomputed
    from clbench.results.ledger import is_whole, read_record
    from clbench.runs.again import first_steps, outdated

    load(plugin)
    record, whole = read_record(folder, altered=True), is_whole(folder)
    if other := outdated([record], record.id):
        print(other, file=sys.stderr if as_json else sys.stdout, flush=True)
    curve = record.curve
    contrary = list(contradictions(record, curve))
    again = {} if contrary else recomputed(record, curve)
    wrong = contradicted(record.metrics, again) if again else {}
    begun = first_steps(record, steps) if steps and not contrary else None
    agrees = whole and not contrary and not wrong and (begun is None or begun.agrees)
    if as_json:
        found = {"id": record.id, "agrees": agrees, "altered": not whole, "differs": sorted(wrong)}
        found |= {"contradictions": contrary, "outdated": other}
        if begun is not None:
            found |= {"steps": begun.steps, "rows": begun.rows, "rows_differing": begun.differing}
            found["elsewhere"] = list(begun.elsewhere)
        print(json.dumps(found))
        return int(not agrees)
    for key, (recorded, computed) in sorted(wrong.items()):
        print(f"{key}: the record says {recorded}, the curve says {computed}")
    if not whole:
        print(f"{record.id}: the record was altered: its SHA-256 is not the one that it names")
    for said in contrary:
        print(f"{record.id}: the record contradicts itself: {said}")
    if again and not wrong:
        print(f"{record.id}: {len(again)} metrics agree with the curve")
    if begun is not None:
        same = f"{begun.rows - begun.differing} of {begun.rows} evaluations of the first {begun.steps} steps agree"
        far = f", accuracies up to {100 * begun.largest:.2f} points apart" if begun.differing else ""
        where = f"; recorded elsewhere: other {', '.join(begun.elsewhere)}" if begun.elsewhere else ""
        print(f"{record.id}: {same}{far}{where}")
    return int(not agrees)


def plot(
    folders: Folders,
    out: Annotated[
        Path | None, typer.Option(help="PNG, SVG or PDF file, or a folder for all.  [default: FIGURE.png]")
    ] = None,
    figure: Annotated[
        str, typer.Option(help="stability-gap, seen-accuracy, accuracy-matrix or plasticity.")
    ] = "stability-gap",
    plugin: Plugins = None,
) -> None:
    """Plot runs: accuracy of the first experience at every iteration, or another figure.

    A file for each benchmark; folders without a finished run are left out.
    """
    from clbench.files import check_place
    from clbench.reports import plots
    from clbench.reports.grouping import Named, names
    from clbench.reports.leaderboard.board import names_of, rows_of, slug
    from clbench.reports.rows import experiences_of
    from clbench.results.ledger import has_record, read_record

    out = Path() if out is None else out
    if out.suffix.removeprefix(".").lower() not in ("", *plots.FORMATS):
        raise ConfigError(f"--out takes a PNG, SVG or PDF file, or a folder; {out} was given.")
    check_place(out if out.suffix else out / f"{figure}.png", file=True)
    load(plugin)
    records = [read_record(folder) for folder in folders if has_record(folder)]
    for folder in folders:
        if not has_record(folder):
            print(f"clbench: {folder} holds no finished run; left out.", file=sys.stderr)
    if not records:
        raise ConfigError("There is nothing to plot: none of the folders holds a finished run.")
    tables = rows_of(records)
    versions = {rows[0].benchmark for rows in tables.values()}
    plain = {version: version.partition("@")[0] for version in versions}
    if len(set(plain.values())) < len(plain):  # two versions of one benchmark
        plain = {}
    titles = [
        title.replace(version := rows[0].benchmark, plain.get(version, version), 1)
        for title, rows in tables.items()
    ]
    endings = names([Named(slug(title), "", {}) for title in titles])
    for title, ending, rows in zip(titles, endings, tables.values(), strict=True):
        file = out if out.suffix else out / f"{figure}.png"
        if len(tables) > 1:
            file = file.with_name(f"{file.stem}-{ending}{file.suffix}")
        of = names_of(rows)
        curves = {name: [r.curve for r in row.records] for name, row in zip(of, rows, strict=True)}
        look, domains = plots.styles(of, of), experiences_of(rows)
        plots.draw(figure, curves, file, title=title, styles=look, names=domains)
        print(file)


def bench(
    as_json: Json = False,
    steps: Annotated[int, typer.Option(min=0, help="Training steps a measurement; 0: none.")] = 200,
    rounds: Annotated[int, typer.Option(min=0, help="Evaluations a measurement; 0: none.")] = 3,
    run_steps: Annotated[
        int, typer.Option(min=0, help="Steps in each experience of whole runs; 0: none.")
    ] = 40,
    packed: Annotated[
        int,
        typer.Option(min=0, max=64, help="Seeds that share the device: 1, 2, 4 … up to so many; 0: none."),
    ] = 0,
    rivals: Annotated[bool, typer.Option(help="Other libraries as well, where they are installed.")] = True,
    mammoth: Annotated[
        Path | None, typer.Option(help="A checkout of Mammoth, whose ER joins the steps with replay.")
    ] = None,
    device: Device = "auto",
    gpu_report: Annotated[
        Path | None,
        typer.Option(help="Write only this: what a GPU does, as Markdown, in eight minutes."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for bench.json, bench.md and bench.png.")] = None,
) -> None:
    """Measure steps and evaluations beside a bare PyTorch loop and other libraries, in turns in one process."""
    from clbench.files import atomic_write, check_place, make_folder, pretty_json
    from clbench.testing import bench as benching

    if gpu_report is not None:
        from clbench.machine.device import pick_device
        from clbench.testing.bench import gpu

        where, place = pick_device(device), check_place(gpu_report, file=True)
        if where.type != "cuda":
            raise ConfigError("--gpu-report is of a GPU, and torch finds none here.")
        print(gpu.report(where, keep=lambda text: atomic_write(place, text)))
        return
    folder = make_folder(check_place(out / "bench.json", file=True).parent) if out is not None else None

    def keep(results: dict[str, Any]) -> None:
        if folder is not None:
            atomic_write(folder / "bench.json", pretty_json(results))
            atomic_write(folder / "bench.md", benching.table(results) + "\n")

    results = benching.measure(
        steps,
        device=device,
        rivals=rivals,
        rounds=rounds,
        run_steps=run_steps,
        packed=packed,
        mammoth=mammoth,
        keep=keep,
    )
    if folder is not None and (results["steps"] or results["evaluations"] or results["runs"]):
        benching.plot(results, folder / "bench.png")
    print(json.dumps(results, indent=2) if as_json else benching.table(results))
