"""The benchmark of the engine itself, for structure only: no test asserts a time."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from clbench import bench
from clbench.api import make_model
from clbench.engine import WINDOW


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    cases = (bench.Case("mlp", (1, 4, 4), 4), bench.Case("mlp", (1, 4, 4), 4, replay=True, share=0.5))
    return bench.engine_overhead(steps=60, device="cpu", cases=cases)


def test_every_case_has_finite_figures(results: dict[str, Any]) -> None:
    assert [row["case"] for row in results["overhead"]] == ["mlp, batch 4", "mlp, batch 4+4"]
    assert [row["steps"] for row in results["overhead"]] == [60, 30]
    for row in results["overhead"]:
        for clock in ("wall_ms", "cpu_ms"):
            figures = row[clock]
            assert set(figures) == {"bare", "engine", "overhead"}
            assert all(map(math.isfinite, figures.values()))
            assert figures["bare"] > 0
            assert figures["engine"] > 0
            assert figures["overhead"] == pytest.approx(figures["engine"] - figures["bare"])


def test_the_evaluation_is_measured(results: dict[str, Any]) -> None:
    row = results["evaluation"]
    assert (row["streams"], row["images"], row["steps"]) == (5, 1000, 10)
    assert row["step_ms"] > 0
    assert row["forward_ms"] > 0


def test_it_says_on_what_it_ran_and_is_json(results: dict[str, Any]) -> None:
    assert results["machine"]["threads"] == 1
    assert results["machine"]["torch"] == torch.__version__
    assert json.loads(json.dumps(results)) == results


def test_the_tables_have_one_row_per_case(results: dict[str, Any]) -> None:
    rows = [line for line in bench.table(results).splitlines() if line.startswith("| mlp")]
    assert len(rows) == len(results["overhead"]) + 1
    widths = {line.count("|") for line in rows}
    assert widths == {8, 6}


def test_the_number_of_threads_is_given_back() -> None:
    before = torch.get_num_threads()
    with bench._one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_the_bare_loop_trains_too() -> None:
    """It is a rival only if it takes as many steps and moves the weights."""
    case = bench.Case("mlp", (1, 4, 4), 4, replay=True)
    benchmark = bench._benchmark(case, 10)
    model = make_model(case.model, case.input_shape, bench.CLASSES)
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    steps = sum(1 for _ in bench._bare(case, benchmark, model, torch.device("cpu")))
    assert steps == bench.WARM_UP + 10
    assert not torch.equal(torch.nn.utils.parameters_to_vector(model.parameters()), start)


def test_losses_are_fetched_in_the_laps_counted_for_it() -> None:
    """Laps 50, 100 … hold the fetch and count by their share: rare work is neither hidden nor doubled."""
    turns = bench._Turns(torch.device("cpu"), iter(()))
    turns.engine = [(0.051 if i % WINDOW == 0 and i else 0.001, 0.0) for i in range(150)]
    turns.bare = [(0.001, 0.0)] * 150
    assert turns.medians(0)["overhead"] == pytest.approx(1.0)
