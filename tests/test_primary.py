"""The metric that a benchmark declares leads its tables, ranks its rows and is what tuning goes by."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clbench
from clbench import config, make_benchmark
from clbench.cli import looking
from clbench.cli.common import show_record
from clbench.config import Execution, RunConfig
from clbench.data import FEW_SHOT, build_few_shot, digits
from clbench.registry import benchmarks
from clbench.reports import tables
from clbench.reports.leaderboard import board
from clbench.reports.leaderboard.evidence import contradictions
from clbench.reports.leaderboard.page import table
from clbench.reports.plots import MOST, most
from clbench.reports.rows import Cell, Row, keys_of, table_rows
from clbench.results.ids import run_id
from clbench.results.ledger import Record, record_of
from clbench.results.metrics import METRICS
from clbench.runs.tuning import DEFAULT_SPACE, protocol, tune


def record(strategy: str, seed: int, metrics: Mapping[str, float], primary: str, **about: Any) -> Record:
    """A record with these numbers; a leaderboard would not take it, its tables ask no questions."""
    return Record(
        id=f"{strategy}{seed}",
        status="done",
        config={"stream": {"seed": seed}, "params": {}, "seeds": {"data": seed}},
        benchmark={"name": "toy", "version": 1, "fingerprint": "f", "primary": primary, **about},
        strategy={"name": strategy, "version": "1"},
        seeds={"order": seed, "init": seed, "data": seed},
        code={"version": "0.1", "sources": "s", "commit": None, "dirty": None},
        environment=dict.fromkeys(("python", "device", "processor", "system"), "x")
        | {"libraries": {}, "threads": 1},
        budget={
            "train_seconds": 1.0,
            "forward_examples": 100,
            "memory_bytes": 0,
            "strategy_state_bytes": 0,
            "parameters": 10,
        },
        metrics=metrics,
        curve_file={"file": "", "sha256": ""},
        selection="fixed",
        model={"name": "mlp"},
    )


def drawn(primary: str, rng: np.random.Generator, seeds: int = 5) -> list[Record]:
    """Records of six strategies, of which neighbours are hard to tell apart."""
    spread = rng.uniform(0.001, 0.1, 6)
    return [
        record(f"s{k}", seed, {primary: value, "average_accuracy": 0.5}, primary)
        for k in range(6)
        for seed, value in enumerate(rng.normal(0.5 + k / 50, spread[k], seeds).tolist())
    ]


def in_a_suite(records: Sequence[Record]) -> list[Row]:
    return table_rows([Cell.of(r, "toy", f"{r.strategy['name']}@1") for r in records])


@pytest.mark.parametrize("primary", ["average_accuracy", "harmonic_mean", "performance_drop"])
def test_the_same_seeds_are_told_apart_in_a_suite_as_on_the_leaderboard(primary: str) -> None:
    rng = np.random.default_rng(7)
    for _ in range(20):
        records = drawn(primary, rng)
        (rows,) = board.rows_of(records).values()
        suite = in_a_suite(records)
        assert {row.strategy: row.rank for row in rows} == {row.strategy: row.rank for row in suite}
        assert {row.strategy for row in rows if row.best} == {
            row.strategy for row in suite if primary in row.best
        }


@pytest.mark.parametrize("seeds", [2, 4])
def test_too_few_seeds_rank_in_neither(seeds: int) -> None:
    records = drawn("average_accuracy", np.random.default_rng(7), seeds)
    (rows,) = board.rows_of(records).values()
    assert not any(row.best or row.rank for row in (*rows, *in_a_suite(records)))


@pytest.mark.parametrize(
    ("primary", "first"),
    [("harmonic_mean", "high"), ("a_auc", "high"), ("hits_at_10", "high"), ("performance_drop", "low")],
)
def test_the_best_comes_first_whichever_way_is_better(primary: str, first: str) -> None:
    records = [
        record(name, seed, {primary: value + seed / 1000, "average_accuracy": 1 - value}, primary)
        for name, value in (("low", 0.2), ("high", 0.8))
        for seed in range(5)
    ]
    (rows,) = board.rows_of(records).values()
    assert (rows[0].cells[0].name, rows[0].rank) == (first, (1, 1))
    assert (
        table(rows).splitlines()[0].startswith(f"| rank | strategy | settings | {tables.head_of(primary)} |")
    )


def test_what_is_drawn_are_the_best_by_the_primary_metric() -> None:
    cells = [
        Cell("b", f"s{k}", 0, "done", {"performance_drop": k / 100}, primary="performance_drop")
        for k in range(MOST + 1)
    ]
    chosen, told = most(table_rows(cells), "rows")
    assert [row.strategy for row in chosen] == [f"s{k}" for k in range(MOST)]
    assert told == f" Of {MOST + 1} rows, the {MOST} with the lowest PD."


@pytest.mark.parametrize("name", ["split-digits", "si-blurry-digits", "random-labels-digits", "dsi-numpy"])
def test_what_is_declared_is_what_is_built(name: str) -> None:
    assert benchmarks.peek(name).primary == make_benchmark(name).primary


def test_every_family_declares_what_ranks_on_it() -> None:
    declared = {name: benchmarks.peek(name).primary for name in benchmarks.names()}
    few = build_few_shot(digits(), name="few", base=4, ways=2, shots=5, sessions=3)
    assert (few.primary, few.metrics) == ("harmonic_mean", FEW_SHOT)
    for begin, primary in {
        "fscil": few.primary,
        "few-shot": few.primary,
        "si-blurry": "a_auc",
        "i-blurry": "a_auc",
        "dsi": "hits_at_10",
        "random-labels": "learning_accuracy",
        "split": "average_accuracy",
    }.items():
        assert {declared[name] for name in declared if name.startswith(begin)} == {primary}


def test_it_is_listed_and_shown_without_building_anything(capsys: pytest.CaptureFixture[str]) -> None:
    looking.list_("benchmarks")
    lines = capsys.readouterr().out.splitlines()
    assert {
        line.split("@")[0].strip() for line in lines if line.endswith("(ranked by learning_accuracy)")
    } == {
        "random-labels-cifar10",
        "random-labels-digits",
        "random-labels-mnist",
    }
    looking.show("fscil-cifar100")
    assert "primary: harmonic_mean" in capsys.readouterr().out.splitlines()


@pytest.fixture(scope="module")
def blurry(tmp_path_factory: pytest.TempPathFactory) -> Record:
    out = tmp_path_factory.mktemp("runs")
    return clbench.run("si-blurry-digits", "finetune", out=out, every_examples=500, hidden=[8])


def test_a_record_carries_what_ranks_and_what_is_shown(
    blurry: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (blurry.primary, blurry.more) == ("a_auc", ("a_auc", "a_avg", "a_last", "f_last"))
    assert blurry.benchmark["about"]
    row = Row.of([Cell.of(blurry, "b", "s")])
    assert keys_of([row])[:5] == ["a_auc", "a_avg", "a_last", "f_last", "average_accuracy"]
    show_record(blurry, as_json=False)
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "A_AUC"


def test_neither_is_part_of_the_id(blurry: Record) -> None:
    other = {**blurry.benchmark, "primary": "average_accuracy", "metrics": [], "about": ""}
    rest = blurry.strategy, blurry.model, blurry.code, blurry.files
    assert run_id(blurry.config, other, *rest) == blurry.id


def test_an_older_record_goes_by_its_benchmark_where_that_is_registered(blurry: Record) -> None:
    bare = {key: blurry.benchmark[key] for key in ("name", "version", "fingerprint")}
    old = replace(blurry, benchmark=bare)
    assert record_of(json.loads(old.to_json()), Path("record.json")).primary == "a_auc"
    assert set(old.more) == {"a_auc", "a_avg", "a_last", "f_last"}
    assert replace(old, benchmark={**bare, "name": "nobody-knows"}).primary == "average_accuracy"


def test_a_record_cannot_choose_what_clbench_ranks_by(blurry: Record) -> None:
    forged = replace(blurry, benchmark={**blurry.benchmark, "primary": "average_accuracy"})
    assert "ranks by a_auc" in next(contradictions(forged, forged.curve))
    assert not any(contradictions(blurry, blurry.curve))


def test_tuning_goes_by_the_primary_metric() -> None:
    def resolve(settings: Mapping[str, Any]) -> RunConfig:
        given = {"experiences": 2, "examples": 40, "every": 0, "hidden": [8], "epochs": 2, **settings}
        return config.resolve("random-labels-digits", "finetune", given, seed=0)

    once = Execution(checkpoint_seconds=None)
    found = tune(resolve, protocol("oracle"), DEFAULT_SPACE, 3, once)
    values = [trial.value for trial in found if trial.value is not None]
    assert {trial.metric for trial in found} == {"learning_accuracy"}
    assert values == sorted(values, reverse=True)
    found = tune(resolve, protocol("oracle"), DEFAULT_SPACE, 3, once, metric="forgetting")
    values = [trial.value for trial in found if trial.value is not None]
    assert values == sorted(values)


def test_a_metric_is_one_file(tmp_path: Path) -> None:
    """Beside clbench's own, named nowhere: it is computed, shown in every table, and importable."""
    here = Path(clbench.__file__).parent
    new = tmp_path / "clbench" / "results" / "metrics"
    new.mkdir(parents=True)
    for folder in (here, here / "results", here / "results" / "metrics"):
        for file in folder.iterdir():
            place = tmp_path / "clbench" / file.relative_to(here)
            if not place.exists() and file.name != "__pycache__":
                place.symlink_to(file)
    (new / "depth.py").write_text(
        "from clbench.results.metrics.core import metric\n\n\n"
        "@metric('depth', title='D', higher_is_better=False, reference='here', shown='everywhere')\n"
        "def depth(curve):\n    return 0.25\n"
    )
    program = (
        "from clbench.results.curve import Curve\n"
        "from clbench.results.metrics import compute, depth\n"
        "from clbench.reports.rows import Cell, Row, keys_of\n"
        "found = compute(Curve())\n"
        "print(depth(Curve()), found['depth'], keys_of([Row.of([Cell('b', 's', 0, 'done', found)])]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
    )
    assert done.stdout.strip() == "0.25 0.25 ['average_accuracy', 'depth']"
    assert "depth" not in METRICS


def test_one_record_adds_no_column_to_the_table_of_all() -> None:
    plain = [record("er", seed, {"average_accuracy": 0.5}, "average_accuracy") for seed in range(4)]
    odd = record("ewc", 0, {"average_accuracy": 0.5, "f_last": 0.1, "a_last": 0.2}, "a_last")
    odd = replace(odd, benchmark=odd.benchmark | {"metrics": ["f_last"]})
    rows = [Row.of([Cell.of(r, "toy@1", r.strategy["name"]) for r in of]) for of in (plain, [odd])]
    assert not {"f_last", "a_last"} & {*keys_of(rows)}
    assert {"f_last", "a_last"} < {*keys_of(rows[1:])}
