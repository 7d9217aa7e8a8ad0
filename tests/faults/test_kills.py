"""Killed at any moment, a run continues to the bits it would have ended with."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import Fault, References, all_strategies, carry_out, differences, survives

from clbench.errors import LedgerError
from clbench.runs import lifecycle

SEED = 0


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    return References(tmp_path_factory.mktemp("references"))


@pytest.mark.parametrize(
    ("strategy", "points"),
    [
        ("er", 6),
        *(pytest.param(name, 4, marks=pytest.mark.slow) for name in all_strategies()),
    ],
)
def test_a_run_may_be_killed_anywhere(
    strategy: str, points: int, references: References, tmp_path: Path
) -> None:
    """At moments in the opening of its folder, in steps, at boundaries, within checkpoints and the record's writing."""
    chance = random.Random(f"{SEED} {strategy} {points}")
    wrong = {
        str(moment): problem
        for number, moment in enumerate(references.moments(strategy, chance, points))
        if (problem := survives(references, strategy, Fault("kill", moment), tmp_path / str(number)))
    }
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["er", "derpp", "ewc", "er+refresh"])
def test_a_run_killed_again_and_again_ends_with_the_same_bits(
    strategy: str, references: References, tmp_path: Path
) -> None:
    chance = random.Random(f"{SEED} {strategy}")
    for number in range(3):
        out, attempts = tmp_path / str(number), 0
        while (
            code := carry_out(strategy, out, Fault("kill", references.moments(strategy, chance, 1)[0])).code
        ) != 0:
            assert code == -signal.SIGKILL
            attempts += 1
            assert attempts < 100
        assert not differences(references.folder(strategy), next(out.iterdir()))


@pytest.mark.parametrize("points", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_a_disk_may_be_full_at_any_write(points: int, references: References, tmp_path: Path) -> None:
    """The write fails as if it were; the message says so, and with space again the run goes on to the same bits."""
    chance = random.Random(f"{SEED} full")
    wrong = {
        str(moment): problem
        for number, moment in enumerate(references.moments("er", chance, points, "writes"))
        if (problem := survives(references, "er", Fault("full", moment), tmp_path / str(number)))
    }
    assert not wrong


# --- the same on the command line ---

COMMON = {
    "epochs": 1,
    "batch_size": 32,
    "hidden": [24],
    "optim.lr": 0.05,
    "optim.momentum": 0.9,
    "evaluation.subset": 20,
}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "clbench", *map(str, arguments)]


def run_command(strategy: str, out: Path, *more: str) -> list[str]:
    pairs = [f"{key}={value}" for key, value in COMMON.items()]
    fixed = ("--out", out, "--threads", "1", "--device", "cpu", "--checkpoint", "0", "--log", "csv")
    return command("run", "split-digits", strategy, *pairs, *more, *fixed)


def undisturbed(strategy: str, out: Path, seed: int = 0) -> Path:
    how = {"checkpoint_seconds": 0.0, "log": ["csv"]}
    folder = lifecycle.run(
        "split-digits", strategy, seed=seed, out=out, device="cpu", execution=how, **COMMON
    ).folder
    assert folder is not None
    return folder


def finish(arguments: list[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=True, **kwargs)


def test_a_killed_command_is_resumed(tmp_path: Path) -> None:
    """Also by the loggers that it began with."""
    out = tmp_path / "runs"
    process = subprocess.Popen(run_command("er", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not any(out.glob("*/checkpoint.safetensors")):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.communicate()
    folder = next(out.iterdir())
    done = finish(command("resume", folder))
    assert "resumed at step" in done.stderr
    assert not differences(undisturbed("er", tmp_path / "whole"), folder)


def test_two_processes_cannot_have_one_run(tmp_path: Path) -> None:
    long = run_command("er", tmp_path, "iterations=5000")
    process = subprocess.Popen(long, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not any(tmp_path.glob("*/checkpoint.safetensors")):
            assert process.poll() is None
            time.sleep(0.01)
        folder = next(tmp_path.iterdir())
        with pytest.raises(LedgerError) as refused:
            lifecycle.resume(folder)
    finally:
        process.kill()
        process.communicate()
    assert str(refused.value) == (
        f"Run {folder} is in the hands of another process (pid {process.pid}); wait for it to end."
    )


def suite_command(folder: Path, strategies: list[str], seeds: int) -> list[str]:
    file = folder / "several.yaml"
    plan = {"strategies": strategies, "benchmarks": ["split-digits"], "seeds": seeds, "settings": COMMON}
    file.write_text(yaml.safe_dump(plan))
    how = (
        "--workers",
        "2",
        "--checkpoint",
        "0",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--log",
        "csv",
        "--json",
    )
    return command("suite", file, "--out", folder / "runs", *how)


def finished(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.glob("*/record.json")}


@pytest.mark.parametrize(
    ("strategies", "seeds", "kills"),
    [(["er", "lwf"], 1, 1), pytest.param(["er", "lwf", "derpp", "er+refresh"], 2, 8, marks=pytest.mark.slow)],
)
def test_a_killed_suite_goes_on_where_it_was(
    strategies: list[str], seeds: int, kills: int, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    arguments = suite_command(tmp_path, strategies, seeds)
    chance = random.Random(SEED)
    for _ in range(kills):
        done = finished(out)
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        began = time.time_ns()
        while not any(path.stat().st_mtime_ns > began for path in out.glob("*/checkpoint.safetensors")):
            if process.poll() is not None:  # it had nothing left to do
                break
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 1) if kills > 1 else 0)
        process.kill()
        process.communicate()
        assert {path: finished(out)[path] for path in done} == done
    finish(arguments)
    records = [json.loads(content) for content in finished(out).values()]
    assert [record["status"] for record in records] == ["done"] * (len(strategies) * seeds)
    for record in records:
        whole = undisturbed(record["strategy"]["name"], tmp_path / "whole", record["seeds"]["data"])
        assert not differences(whole, out / record["id"])


def test_cells_end_with_their_suite(tmp_path: Path) -> None:
    """A cell that went on would hold its folder's lock, and nobody would know of it."""
    file = tmp_path / "one.yaml"
    file.write_text(
        "strategies: [er]\nbenchmarks: [split-digits]\nseeds: 1\nsettings: {iterations: 100000}\n"
    )
    out = tmp_path / "runs"
    suite = subprocess.Popen(
        command("suite", file, "--out", out, "--json"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not any(out.glob("*/execution.json")):
        assert suite.poll() is None
        time.sleep(0.01)
    cell = int(next(out.glob("*/lock")).read_text())
    suite.kill()
    suite.communicate()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(cell, 0)
        except ProcessLookupError:
            return
        if "\nState:\tZ" in Path(f"/proc/{cell}/status").read_text():
            return
        time.sleep(0.05)
    pytest.fail("the cell is still running")
