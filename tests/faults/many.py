"""Reports and boards of thousands of runs: shipped records under other seeds and learning rates, with other curves.

python tests/faults/many.py [ROWS] [SEEDS]

prints what reading a board of four tables of so many rows (25) and seeds (20), its site, a report of the same runs, and
planning a suite of as many take, with all that they import.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clbench.files import pretty_json, sha256
from clbench.reports import grouping
from clbench.reports.leaderboard import read_board, write_site
from clbench.reports.leaderboard.evidence import place
from clbench.reports.rows import Cell, is_bound
from clbench.reports.suite import write_report
from clbench.results.curve import Curve
from clbench.results.ids import run_id
from clbench.results.ledger import Record, parse_record
from clbench.results.metrics import compute
from clbench.results.traces import Trace
from clbench.runs import suite

PLANNED = ("split-digits", "rotated-digits", "random-labels-digits", "si-blurry-digits")
"""Benchmarks whose data come with clbench."""
BENCHMARKS = ("split-digits@1", "split-mnist@1", "split-fashion-mnist@1", "permuted-mnist@1")


def runs(board: Path, benchmarks: Sequence[str], rows: int, seeds: int) -> Iterator[tuple[Record, Curve]]:
    """Sound records that no run has made, with their curves.

    Args:
        board: the leaderboard that is shipped. rows: of each benchmark, its strategies in turn.
    """
    for benchmark in benchmarks:
        found: dict[str, list[Record]] = {}
        for path in sorted((board / "records" / benchmark).rglob("*.json")):
            record = replace(parse_record(path), folder=board / "curves")
            if record.status == "done" and not record.files:
                found.setdefault(record.strategy["name"], []).append(record)
        strategies = [sorted(of, key=lambda record: record.seeds["order"]) for of in found.values()]
        for row in range(rows):
            given = strategies[row % len(strategies)]
            for seed in range(seeds):
                yield _other(given[seed % len(given)], row, seed)


def _other(record: Record, row: int, seed: int) -> tuple[Record, Curve]:
    draw, old = np.random.default_rng([row, seed]), record.curve
    correct = np.clip(old.correct + draw.integers(-5, 6, len(old)), 0, old.total)
    tables: dict[str, Any] = {name: np.empty((0, 0), np.int64) for name in ("class_correct", "class_total")}
    curve = Curve.from_columns({**old.columns(), **tables, "correct": correct})
    config = record.config
    config = {
        **config,
        "optim": {**config["optim"], "lr": 0.01 + row / 1000},
        "seeds": dict.fromkeys(config["seeds"], seed),
        "stream": {**config["stream"], **({"seed": seed} if "seed" in config["stream"] else {})},
    }
    id = run_id(config, record.benchmark, record.strategy, record.model, record.code, record.files)
    named = {"file": f"{id}.npz", "sha256": curve.sha256()}
    seeds = dict.fromkeys(record.seeds, seed)
    return replace(record, id=id, config=config, seeds=seeds, metrics=compute(curve), curve_file=named), curve


def make_board(found: Iterator[tuple[Record, Curve]], root: Path) -> None:
    """A leaderboard of them, as if they had been submitted."""
    sums: dict[str, str] = {}
    for record, curve in found:
        path, there = root / place(record), root / "curves" / record.curve_file["file"]
        for file in (path, there):
            file.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record.to_json())
        curve.save(there)
        sums |= {file.relative_to(root).as_posix(): sha256(file.read_bytes()) for file in (path, there)}
    (root / "manifest.json").write_text(pretty_json(sums))


def cell(record: Record) -> Cell:
    """Of a report."""
    name, of = record.strategy["name"], record.benchmark
    return Cell(
        f"{of['name']}@{of['version']}",
        f"{name} lr={record.config['optim']['lr']:.3f}",
        record.seeds["data"],
        record.status,
        record.metrics,
        record.budget["train_seconds"],
        record.budget["eval_seconds"],
        lambda: record.curve,
        bound=is_bound(name),
        name=name,
        config=grouping.configuration(record.config, record.seeds["data"]),
    )


def _board(root: Path) -> object:
    return read_board(root)


def _site(root: Path) -> object:
    traces: dict[str, Trace] = {}
    return write_site(read_board(root, traces=traces), root, root / "site", traces)


def _report(root: Path) -> object:
    paths = sorted((root / "records").rglob("*.json"))
    cells = [cell(replace(parse_record(path), folder=root / "curves")) for path in paths]
    return write_report(cells, root / "report", "Many runs", "a command")


def _plan(root: Path) -> object:
    rows, seeds = _shape()
    names = ("finetune", "er", "ewc", "er-ace", "lwf")
    choices = [
        {"name": names[i % 5], "label": f"{i}", "settings": {"lr": (i + 1) / 100}} for i in range(rows)
    ]
    given = {"benchmarks": PLANNED, "strategies": choices, "seeds": seeds}
    return suite.plan(suite.SuiteConfig.model_validate(given))


def _shape() -> list[int]:
    """Rows and seeds that the command line asks for."""
    given = [int(number) for number in sys.argv[1:]]
    return given + [25, 20][len(given) :]


def _measured(what: Callable[[Path], object], root: Path) -> str:
    began, spent = time.perf_counter(), time.process_time()
    what(root)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return f"{time.perf_counter() - began:.1f} s, CPU {time.process_time() - spent:.1f} s, {peak} MB"


def main() -> None:
    rows, seeds = _shape()
    shipped = Path(__file__).resolve().parent.parent.parent / "leaderboard"
    with tempfile.TemporaryDirectory() as temporary:
        make_board(runs(shipped, BENCHMARKS, rows, seeds), Path(temporary))
        for what in (_board, _site, _report, _plan):
            with multiprocessing.get_context("spawn").Pool(1) as alone:  # whose memory is its own
                print(f"{what.__name__[1:]}: {alone.apply(_measured, (what, Path(temporary)))}", flush=True)


if __name__ == "__main__":
    main()
