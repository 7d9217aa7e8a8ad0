"""The benchmark of clbench itself, for structure only: no test asserts a time."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from clbench import bench
from clbench.api import make_model
from clbench.bench import contenders
from clbench.bench.packing import packing
from clbench.bench.turns import Contender, Gate, take_turns

CPU = torch.device("cpu")
CASES = (bench.Case("mlp", (1, 4, 4), 4), bench.Case("mlp", (1, 4, 4), 4, replay=True, share=0.5))


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return bench.measure(steps=20, device="cpu", cases=CASES, rivals=False, rounds=0, run_steps=0)


def test_every_case_has_finite_figures(results: dict[str, Any]) -> None:
    assert [(row["case"], row["laps"]) for row in results["steps"]] == [
        ("mlp, batch 4", 20),
        ("mlp, batch 4+4", 10),
    ]
    for row in results["steps"]:
        assert set(row["ms"]) == {"bare loop", "clbench"}
        for ms in row["ms"].values():
            assert all(math.isfinite(value) and value >= 0 for value in ms.values())
            assert 0 < ms["q1"] <= ms["median"] <= ms["q3"]


def test_it_says_on_what_it_ran_and_is_json(results: dict[str, Any]) -> None:
    assert results["machine"]["threads"] == 1
    assert results["machine"]["torch"] == torch.__version__
    assert json.loads(json.dumps(results)) == results


def filled(results: dict[str, Any]) -> dict[str, Any]:
    """With made-up evaluations, of which Avalanche's takes 10 times as long as ours."""
    times = {"exact": 10.0, "Avalanche, PIL images, batch 256": 100.0}
    ms = {name: {"median": t, "q1": t, "q3": t, "cpu": t} for name, t in times.items()}
    row = {"ms": 5.0, "share": 0.25, "disagreement": None, "min_acc": 0.5, "wc_acc": 0.6, "wall_s": 1.0}
    other = {**row, "ms": 2.0, "disagreement": 0.002, "min_acc": 0.501}
    frozen = {"asked once": 4.0, "asked every time": 8.0}
    asked = {name: {"median": t, "q1": t, "q3": t, "cpu": t} for name, t in frozen.items()}
    return {
        **results,
        "frozen": [{"case": "l2p", "streams": 5, "images": 100, "rounds": 3, "ms": asked}],
        "evaluations": [{"case": "mlp", "streams": 5, "images": 1000, "rounds": 3, "ms": ms}],
        "runs": [
            {"benchmark": "split-digits", "case": "mlp", "steps": 4, "rows": {"exact": row, "fast": other}}
        ],
    }


def test_the_tables_hold_ratios(results: dict[str, Any]) -> None:
    lines = bench.table(filled(results)).splitlines()
    assert "| mlp | exact | 10.000 (10.000–10.000) | 10.0 | 10.0 |" in lines
    assert "| l2p | asked once | 4.000 (4.000–4.000) | 4.0 | 2.00 |" in lines
    assert "| fast | 2.0 | 50.0 | 25 % | 0.20 % | 50.10 (+0.10) | 60.00 | 1.0 |" in lines


def test_seeds_that_share_a_device_have_the_bits_of_those_alone() -> None:
    found = packing(2, 4, CPU, hidden=[8], experiences=2, subset=10)
    assert [row["at_once"] for row in found["rows"]] == [1, 2]
    assert all(row["same_bits"] for row in found["rows"])
    for row in found["rows"]:
        assert row["gain"] == pytest.approx(row["runs_per_second"] / found["rows"][0]["runs_per_second"])
    text = bench.table(
        {**bench.measure(0, device="cpu", rivals=False, rounds=0, run_steps=0), "packing": [found]}
    )
    assert text.count("| mlp | 2 |") == 2
    assert "| 1.00 | the same bits |" in text


def test_a_seed_that_fails_ends_the_measurement() -> None:
    with pytest.raises(RuntimeError, match="seed 0: diverged"):
        packing(1, 4, CPU, hidden=[8], experiences=2, lr=1e30)


def test_there_is_a_plot(results: dict[str, Any], tmp_path: Path) -> None:
    bench.plot(filled(results), tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_the_number_of_threads_is_given_back() -> None:
    from clbench.bench.measure import _one_thread

    before = torch.get_num_threads()
    with _one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("make", [contenders.bare, contenders.clbench])
def test_a_contender_takes_the_steps_that_are_counted(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[int] = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *a: updates.append(1) or step(self, *a))
    benchmark = contenders.random_benchmark(CASES[1], 12)
    take_turns([make(CASES[1], benchmark, make_model("mlp", (1, 4, 4), 10), CPU)], 10, CPU)
    assert len(updates) in (10, 11)  # ten laps, and with the engine the step before the first gate


@pytest.mark.parametrize(("stretch", "order"), [(1, "ababab"), (2, "aabbab"), (5, "aaabbb")])
def test_contenders_take_turns(stretch: int, order: str) -> None:
    done: list[str] = []

    def loop(name: str) -> Any:
        def run(gate: Gate) -> None:
            while True:
                gate()
                done.append(name)
                time.sleep(0.002 if name == "a" else 0)

        return run

    both = [Contender(name, loop(name)) for name in "ab"]
    take_turns(both, 3, CPU, stretch)
    assert "".join(done) == order
    assert [len(c.wall) for c in both] == [3, 3]
    assert min(both[0].wall) >= 0.002


def test_a_contender_that_fails_or_ends_early_is_told() -> None:
    def fails(gate: Gate) -> None:
        gate()
        raise KeyError("of its own")

    with pytest.raises(KeyError, match="of its own"):
        take_turns([Contender("broken", fails)], 3, CPU)

    def ends(gate: Gate) -> None:
        gate()
        gate()

    with pytest.raises(RuntimeError, match="short ended after 1 of 3 laps"):
        take_turns([Contender("short", ends)], 3, CPU)
