"""Suites: what is planned, run, run again, and left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from clbench import suite
from clbench.config import Execution
from clbench.errors import ConfigError
from clbench.launchers import Local

SETTINGS = {"epochs": 1, "hidden": [8], "experiences": 2, "evaluation.every": 20}
HOW = Execution(device="cpu", threads=1)


def configured(**changes: Any) -> suite.SuiteConfig:
    given = {
        "strategies": ["finetune", "er"],
        "benchmarks": ["split-digits"],
        "seeds": 1,
        "settings": SETTINGS,
    }
    return suite.validate(suite.SuiteConfig, {**given, **changes})  # type: ignore[no-any-return]


# --- plans ---


def test_a_cell_for_every_strategy_benchmark_and_seed() -> None:
    cells = suite.plan(
        configured(
            benchmarks=[
                "split-digits",
                {"name": "split-digits", "label": "long", "settings": {"experiences": 5}},
            ],
            seeds=2,
        )
    )
    assert [(c.benchmark, c.strategy, c.seed) for c in cells] == [
        (b, s, seed) for b in ("split-digits", "long") for s in ("finetune", "er") for seed in (0, 1)
    ]


@pytest.mark.parametrize(("seeds", "expected"), [(3, [0, 1, 2]), ([7, 5], [7, 5])])
def test_seeds_are_a_number_or_a_list(seeds: Any, expected: list[int]) -> None:
    assert [cell.seed for cell in suite.plan(configured(strategies=["er"], seeds=seeds))] == expected


def test_the_last_setting_wins_whatever_it_is_called() -> None:
    strategies = [{"name": "er", "settings": {"optim.lr": 0.2}}]
    planned = configured(strategies=strategies, settings={**SETTINGS, "lr": 0.1})
    assert suite.plan(planned)[0].resolved.optim.lr == 0.2
    assert suite.plan(planned, {"lr": 0.3})[0].resolved.optim.lr == 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategies": []}, "'strategies' takes a list of `key: value` lines, 1 or more; "),
        (
            {"strategies": [{"name": "er", "setings": {}}]},
            r"There is no setting 'strategies\.0\.setings'\. Did you mean 'settings'",
        ),
        ({"strategies": [{"label": "x"}]}, r"'strategies\.0\.name' is missing"),
        ({"strategies": [3]}, r"'strategies\.0' takes `key: value` lines; 3 was given"),
        ({"seeds": 0}, "'seeds': takes a list of seeds or how many there are, 1 to 10000; 0 was given"),
        ({"seeds": [-1]}, r"'seeds\.0' takes a whole number ≥ 0; -1 was given"),
        ({"seed": 1}, "There is no setting 'seed'. Did you mean 'seeds'?"),
    ],
    ids=str,
)
def test_a_wrong_suite_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configured(**changes)


def test_one_run_twice_is_refused() -> None:
    planned = configured(strategies=["er", {"name": "er", "label": "again"}])
    message = (
        r"The suite holds a run twice: split-digits · er · seed 0 and split-digits · again · seed 0; give one"
    )
    with pytest.raises(ConfigError, match=message):
        suite.plan(planned)


def test_a_wrong_setting_of_one_cell_refuses_the_suite() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'memory'"):
        suite.plan(configured(strategies=["finetune", {"name": "er", "settings": {"memry": 5}}]))


def test_every_shipped_suite_can_be_read() -> None:
    for name in suite.suite_names():
        assert suite.load(name)[0] == name


# --- runs ---


def states(cells: list[suite.Cell]) -> dict[str, str]:
    return {cell.strategy: cell.state for cell in cells}


def test_a_suite_runs_only_what_is_missing(tmp_path: Path) -> None:
    planned = configured()
    suite.run(suite.plan(planned), tmp_path, HOW, launcher=Local(2))
    records = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/record.json")}
    assert len(records) == 2
    again = suite.plan(planned)
    suite.run(again, tmp_path, HOW, launcher=Local(2))
    assert states(again) == {"finetune": "done", "er": "done"}
    assert not any(cell.fresh for cell in again)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/record.json")} == records


def test_cells_that_end_badly_do_not_stop_the_others(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "import os\n"
        "from clbench import Strategy, register\n"
        "class Bad(Strategy):\n"
        "    def __init__(self, how): self.how = how\n"
        "    def losses(self, batch, out):\n"
        "        if self.how == 'die': os._exit(9)\n"
        "        raise KeyError('mine')\n"
        "@register('dies')\n"
        "def dies() -> Strategy: return Bad('die')\n"
        "@register('raises')\n"
        "def raises() -> Strategy: return Bad('raise')\n"
    )
    file = tmp_path / "bad.yaml"
    strategies = [{"name": "er", "label": "diverges", "settings": {"lr": 1e30}}, "dies", "raises", "er"]
    file.write_text(
        yaml.safe_dump(
            {"strategies": strategies, "benchmarks": ["split-digits"], "seeds": 1, "settings": SETTINGS}
        )
    )
    out = tmp_path / "runs"
    arguments = [
        "suite",
        file,
        "--plugin",
        plugin,
        "--out",
        out,
        "--workers",
        "2",
        "--retries",
        "0",
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "clbench", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={"COLUMNS": "200"},
    )
    assert done.returncode == 2
    assert "split-digits · diverges · seed 0: diverged: The loss is not finite at step 1" in done.stdout
    assert (
        "split-digits · dies · seed 0: failed: its process ended with code 9 before there was a record"
        in done.stdout
    )
    assert "split-digits · raises · seed 0: failed: KeyError: 'mine'" in done.stdout
    assert sorted(json.loads(p.read_text())["status"] for p in out.glob("*/record.json")) == [
        "diverged",
        "done",
    ]


def test_a_suite_of_diverging_runs_ends_with_3_and_prints_json_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    settings = {**SETTINGS, "lr": 1e30}
    file.write_text(
        yaml.safe_dump(
            {"strategies": ["er"], "benchmarks": ["split-digits"], "seeds": 1, "settings": settings}
        )
    )
    arguments = ["suite", file, "--out", tmp_path / "runs", "--threads", "1", "--device", "cpu", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "clbench", *map(str, arguments)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert json.loads(done.stdout)
