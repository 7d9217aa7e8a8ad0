"""Running from Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import clbench
from clbench import Benchmark, Strategy
from clbench.errors import ConfigError, IncompatibleError, LedgerError
from clbench.results.ledger import Record
from clbench.runs import lifecycle
from clbench.testing import tiny_benchmark

TINY: dict[str, Any] = {"epochs": 1, "hidden": [8], "experiences": 2, "device": "cpu"}


def run(strategy: str = "er", **params: Any) -> Record:
    return clbench.run("split-digits", strategy, **{**TINY, **params})


def test_a_record_has_all_metrics_and_its_evidence() -> None:
    record = run(memory=20)
    assert record.status == "done"
    assert 0 < record.metrics["average_accuracy"] <= 1  # type: ignore[operator]
    assert record.curve.sha256() == record.curve_file["sha256"]
    assert record.folder == Path("runs") / record.id


def test_running_twice_returns_the_same_record() -> None:
    assert run() == run()


def test_a_run_folder_holds_what_is_promised() -> None:
    folder = run().folder
    assert folder is not None
    names = {path.name for path in folder.iterdir()}
    assert {
        "config.yaml",
        "environment.json",
        "curve.npz",
        "log.jsonl",
        "record.json",
        "model.safetensors",
    } <= names
    assert "checkpoint.safetensors" not in names


def test_the_log_has_a_line_for_every_step() -> None:
    record = run()
    assert record.folder is not None
    rows = [json.loads(line) for line in (record.folder / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(record.budget["steps"]))
    assert set(rows[0]) == {"step", "experience", "lr", "fit"}


def test_the_weights_are_in_a_file_that_others_can_read() -> None:
    from safetensors.torch import load_file

    record = run()
    assert record.folder is not None
    weights = load_file(record.folder / "model.safetensors")
    model = clbench.make_model("mlp", (1, 8, 8), 10, hidden=(8,))
    model.load_state_dict(weights)


@pytest.mark.parametrize("where", ["argument", "environment", "default"])
def test_runs_go_where_they_are_wanted(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "environment":
        monkeypatch.setenv("CLBENCH_RUNS", str(tmp_path / "there"))
    record = run(**({"out": tmp_path / "there"} if where == "argument" else {}))
    assert record.folder is not None
    assert record.folder.resolve().parent == tmp_path / ("runs" if where == "default" else "there")


def test_loggers_are_an_option_of_python_callers_too() -> None:
    folder = run(execution={"log": ["csv"]}).folder
    assert folder is not None
    assert (folder / "losses.csv").read_text().startswith("step,experience,lr,loss,value\n0,0,0.")


def test_the_number_of_threads_is_the_callers_again() -> None:
    before = torch.get_num_threads()
    run(threads=2)
    assert torch.get_num_threads() == before


def test_a_benchmark_of_one_s_own_runs() -> None:
    record = clbench.run(tiny_benchmark(), "er", epochs=1, hidden=[8], device="cpu")
    assert record.benchmark["name"] == "tiny"
    assert record == clbench.run(tiny_benchmark(), "er", epochs=1, hidden=[8], device="cpu")


def test_other_data_of_one_s_own_is_another_run() -> None:
    a, b = (clbench.run(tiny_benchmark(seed=s), "finetune", hidden=[8], device="cpu") for s in (0, 1))
    assert a.id != b.id


def test_a_run_that_is_refused_leaves_nothing_behind() -> None:
    with pytest.raises(IncompatibleError):
        clbench.run(tiny_benchmark(boundaries=False), "ewc", hidden=[8], device="cpu")
    assert not Path("runs").exists()


def test_a_run_that_diverges_is_a_record() -> None:
    record = run(lr=1e30)
    assert record.status == "diverged"
    assert "not finite at step 1 in experience 1: fit = nan" in record.note
    assert record.curve.step.max() == 1
    assert run(lr=1e30) == record


def test_a_run_on_an_object_says_how_it_is_continued() -> None:
    folder = clbench.run(tiny_benchmark(), "er", epochs=1, hidden=[8], device="cpu").folder
    assert folder is not None
    (folder / "record.json").unlink()
    with pytest.raises(LedgerError, match=r"if it was an object in memory, call clbench\.run with it again"):
        lifecycle.resume(folder)


def test_a_run_cannot_change_the_kind_of_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from clbench.machine import checkpoint

    folder = run().folder
    assert folder is not None
    (folder / "record.json").unlink()
    begun = {
        "id": folder.name,
        "device": "cuda",
        "run": None,
        "log": {"bytes": 0, "sha256": ""},
    }
    checkpoint.save(folder / "checkpoint.safetensors", begun)
    with pytest.raises(LedgerError, match="began on cuda and cannot go on to the same bits on cpu"):
        lifecycle.resume(folder)


# --- making parts ---


def test_a_chain_takes_parameters_by_owner() -> None:
    parts = clbench.make_strategy("er+ewc", memory=7, ewc__strength=2.0).parts
    assert [type(part).__name__ for part in parts] == ["Replay", "CrossEntropy", "Consolidate"]
    assert parts[0].capacity == 7  # type: ignore[attr-defined]


def test_a_parameter_of_two_parts_is_ambiguous() -> None:
    with pytest.raises(
        ConfigError, match=r"^'memory' could mean er__memory or derpp__memory; write which\.$"
    ):
        clbench.make_strategy("er+derpp", memory=7)


def test_names_make_what_they_stand_for() -> None:
    assert isinstance(clbench.make_strategy("er"), Strategy)
    benchmark = clbench.make_benchmark("split-digits", experiences=2)
    assert isinstance(benchmark, Benchmark)
    assert len(benchmark.train) == 2


def test_a_log_without_a_checkpoint_is_written_anew() -> None:
    """A run that was killed before its first checkpoint has written lines that it now repeats."""
    folder = run().folder
    assert folder is not None
    whole = (folder / "log.jsonl").read_text()
    (folder / "record.json").unlink()
    (folder / "log.jsonl").write_text(whole[:300])
    run()
    assert (folder / "log.jsonl").read_text() == whole
