"""Suites: what is planned, run, run again, and left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from clbench.config import Execution
from clbench.errors import ConfigError
from clbench.runs import suite
from clbench.runs.cells import Cell
from clbench.runs.launchers import Local

SETTINGS = {"epochs": 1, "hidden": [8], "experiences": 2, "evaluation.every": 20}
HOW = Execution(device="cpu")


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


def labels(**changes: Any) -> list[tuple[str, str]]:
    cells = suite.plan(configured(**changes), seeds=(0, 1))
    return list(dict.fromkeys((cell.benchmark, cell.strategy) for cell in cells))


@pytest.mark.parametrize(
    ("strategies", "expected"),
    [
        (
            [{"name": "er", "settings": {"memory": 20}}, {"name": "er", "settings": {"memory": 1000}}],
            ["er memory=20", "er memory=1000"],
        ),
        (
            [
                {"name": "er", "settings": {"lr": 0.2}},
                {"name": "er", "settings": {"model": "mlp", "hidden": [4], "lr": 0.1}},
            ],
            ["er hidden=[8] lr=0.2", "er hidden=[4] lr=0.1"],
        ),
        (["er", {"name": "er", "settings": {"seeds.init": 1}}], None),
        (["er", {"name": "er", "settings": {"seeds.init": 7}}], ["er", "er seeds.init=7"]),
        (
            [{"name": "er", "label": "x"}, {"name": "finetune", "label": "x"}, "derpp"],
            ["x (er)", "x (finetune)", "derpp"],
        ),
        ([{"name": "er", "label": "x"}, {"name": "er", "label": "y", "settings": {"memory": 9}}], ["x", "y"]),
        (
            [
                {"name": "er", "settings": {"memory": 9}},
                {"name": "er", "settings": {"selection": "validation", "memory": 7}},
            ],
            ["er memory=9", "er memory=7"],
        ),
        (
            ["er", {"name": "er", "settings": {"evaluation.seed": 3}}],
            ["er evaluation.seed=0", "er evaluation.seed=3"],
        ),
    ],
    ids=str,
)
def test_a_row_is_a_configuration_and_is_called_by_what_tells_it_apart(
    strategies: list[Any], expected: list[str] | None
) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match="holds a run twice"):
            labels(strategies=strategies)
        return
    assert [strategy for _, strategy in labels(strategies=strategies)] == expected


def test_a_search_tells_the_choices_of_a_suite_apart() -> None:
    choices = [
        {"name": "er", "settings": {"memory": 20}},
        {"name": "er", "settings": {"memory": 9}},
        "finetune",
    ]
    assert suite.named(configured(strategies=choices).strategies) == [
        "er memory=20",
        "er memory=9",
        "finetune",
    ]


def archives(folder: Path) -> list[Path]:
    """Two data sets."""
    import numpy as np

    made = []
    for name, classes in (("a", 4), ("b", 6)):
        y = np.arange(6 * classes) % classes
        x = np.eye(8, dtype=np.float32)[y]
        made.append(folder / f"{name}.npz")
        np.savez(made[-1], x_train=x, y_train=y, x_test=x, y_test=y)
    return made


def test_a_table_is_a_stream_and_is_called_by_what_tells_it_apart(tmp_path: Path) -> None:
    a, b = ({"path": str(path), "experiences": 2} for path in archives(tmp_path))
    settings = {"epochs": 1}

    def titles(*benchmarks: Any) -> list[str]:
        made = labels(benchmarks=list(benchmarks), strategies=["er"], settings=settings)
        return [" | ".join(label) for label in made]

    first, second = {"name": "npz", "settings": a}, {"name": "npz", "settings": b}
    assert titles(first, second) == ["npz path=a.npz | er", "npz path=b.npz | er"]
    assert titles({**first, "label": "mine"}, {**second, "label": "mine"}) == [
        "mine path=a.npz | er",
        "mine path=b.npz | er",
    ]
    # The same stream, said otherwise, is one table; what differs stands in the row.
    listed = {"name": "npz", "settings": {**a, "class_order": [0, 1, 2, 3]}}
    assert titles(first, listed) == ["npz | er class_order=natural", "npz | er class_order=[0, 1, 2, 3]"]
    assert titles(first, {"name": "npz", "settings": {**a, "lr": 0.3}}) == [
        "npz | er lr=0.1",
        "npz | er lr=0.3",
    ]
    shuffled = {"name": "npz", "settings": {**a, "class_order": "shuffled"}}
    assert titles(first, shuffled) == ["npz class_order=natural | er", "npz class_order=shuffled | er"]


def test_a_wrong_setting_of_one_cell_refuses_the_suite() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'memory'"):
        suite.plan(configured(strategies=["finetune", {"name": "er", "settings": {"memry": 5}}]))


def test_every_shipped_suite_can_be_read() -> None:
    for name in suite.suite_names():
        assert suite.load(name)[0] == name


# --- runs ---


def states(cells: list[Cell]) -> dict[str, str]:
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


def test_cells_planned_together_have_the_ids_of_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a benchmark is built once for all that differ in strategy alone: planning is linear."""
    from clbench.runs import identity

    built: list[str] = []
    make = identity.benchmarks.make

    def counted(name: str, **spec: Any) -> Any:
        built.append(name)
        return make(name, **spec)

    monkeypatch.setattr(identity.benchmarks, "make", counted)
    cells = suite.plan(configured(strategies=["finetune", "er", "er+ema", "ewc"], seeds=2))
    assert len(built) == 2  # the streams of two seeds
    assert [cell.id for cell in cells] == [identity.identify(cell.resolved).id for cell in cells]
