"""Killed at any moment, a run continues to the bits it would have ended with."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from clbench import api
from clbench.engine import Run
from clbench.evaluation import ContinualEvaluator

COMMON = {"epochs": 2, "batch_size": 32, "hidden": [24], "lr": 0.05, "momentum": 0.9, "evaluation.subset": 20}
PLAN: dict[str, dict[str, Any]] = {
    "er": {"memory": 40},
    "derpp": {"memory": 40},
    "ewc": {"fisher": "batch"},
    "lwf": {},
    "joint": {"epochs": 1},
}


def carry_out(strategy: str, out: Path, kill: tuple[str, int] | None = None) -> None:
    """A run, in a process of its own, that kills itself at a call of something: `_iterate` is a step."""
    torch.set_num_threads(1)
    os.fsync = lambda fd: None  # a kill is no power cut, and waiting for the disk would be most of the time
    # Whoever edits a source while the tests run would give the continued run another id.
    api.code_identity = lambda files=(), typed=(): {"version": "test", "sources": "test"}
    if kill is not None:
        what, left = kill
        owner: Any = {"replace": os, "fsync": os, "_iterate": Run, "full": ContinualEvaluator}[what]
        original = getattr(owner, what)

        def deadly(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(owner, what, deadly)
    how = {"threads": 1, "checkpoint_seconds": 0, "log": ["csv"]}
    api.run("split-digits", strategy, out=out, device="cpu", execution=how, **{**COMMON, **PLAN[strategy]})


def in_process(*arguments: Any) -> int | None:
    """`carry_out` in a child of a server that has torch loaded; returns the exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["clbench.api", "sklearn.datasets", "pytest"])
    # By path: test modules have no name that another process could import.
    given = {"init_globals": {"JOB": arguments}, "run_name": "__child__"}
    process = context.Process(target=runpy.run_path, args=(__file__,), kwargs=given)
    process.start()
    process.join()
    return process.exitcode


def evidence(folder: Path) -> dict[str, Any]:
    """Everything of a run folder that may not depend on interruptions."""
    record = json.loads((folder / "record.json").read_text())
    kept = {key: record[key] for key in ("status", "metrics", "curve", "config", "seeds")}
    counts = (
        "steps",
        "updates",
        "stream_examples",
        "forward_examples",
        "memory_bytes",
        "strategy_state_bytes",
    )
    return {
        **kept,
        "budget": {key: record["budget"][key] for key in counts},
        "model": (folder / "model.safetensors").read_bytes(),
        "log": (folder / "log.jsonl").read_text(),
        "csv": (folder / "losses.csv").read_text(),
        "files": sorted(path.name for path in folder.iterdir() if not path.name.endswith(".part")),
    }


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Uninterrupted runs, made when they are first asked for."""

    class Made(dict[str, Path]):
        def __missing__(self, strategy: str) -> Path:
            out = tmp_path_factory.mktemp(strategy)
            assert in_process(strategy, out) == 0
            self[strategy] = next(out.iterdir())
            return self[strategy]

    return Made()


KILLS = [
    (("_iterate", 0), "before the first step"),
    (("_iterate", 1), "after one step"),
    (("_iterate", 20), "in the first step of an experience"),
    (("replace", 4), "while a checkpoint is put in place"),
    (("fsync", 61), "while a checkpoint is written"),
    (("_iterate", 37), "within an experience"),
    (("full", 3), "in the evaluation at an experience's end, after its last step's checkpoint"),
]


def check_kills(strategy: str, kills: Any, reference: Path, tmp_path: Path) -> None:
    for kill, when in kills:
        out = tmp_path / when
        assert in_process(strategy, out, kill) == -signal.SIGKILL
        folder = next(out.iterdir())
        assert not (folder / "record.json").exists()
        assert in_process(strategy, out) == 0
        assert evidence(folder) == evidence(reference), f"killed {when}"


@pytest.mark.parametrize("strategy", PLAN)
def test_a_killed_run_ends_with_the_same_bits(
    strategy: str, references: dict[str, Path], tmp_path: Path
) -> None:
    check_kills(strategy, KILLS[-1:], references[strategy], tmp_path)


@pytest.mark.parametrize(
    "strategy", [name if name == "er" else pytest.param(name, marks=pytest.mark.slow) for name in PLAN]
)
def test_a_run_may_be_killed_anywhere(strategy: str, references: dict[str, Path], tmp_path: Path) -> None:
    check_kills(strategy, KILLS[:-1], references[strategy], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", PLAN)
def test_a_run_killed_again_and_again_ends_with_the_same_bits(
    strategy: str, references: dict[str, Path], tmp_path: Path
) -> None:
    chance = random.Random(strategy)
    for attempt in range(10):
        out = tmp_path / str(attempt)
        while in_process(
            strategy, out, (chance.choice(["_iterate", "fsync", "replace"]), chance.randint(3, 60))
        ):
            pass
        assert evidence(next(out.iterdir())) == evidence(references[strategy])


# --- the same on the command line ---


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "clbench", *map(str, arguments)]


def run_command(strategy: str, out: Path, *more: str) -> list[str]:
    pairs = [f"{key}={value}" for key, value in {**COMMON, **PLAN[strategy]}.items()]
    fixed = ("--out", out, "--threads", "1", "--device", "cpu", "--checkpoint", "0", "--log", "csv")
    return command("run", "split-digits", strategy, *pairs, *more, *fixed)


def finish(arguments: list[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=True, **kwargs)


def test_a_killed_command_is_resumed(references: dict[str, Path], tmp_path: Path) -> None:
    """Also by the loggers that it began with."""
    process = subprocess.Popen(
        run_command("er", tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not any(tmp_path.glob("*/checkpoint.safetensors")):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.communicate()
    folder = next(tmp_path.iterdir())
    done = finish(command("resume", folder))
    assert "resumed at step" in done.stderr
    assert evidence(folder) == evidence(references["er"])


def test_two_processes_cannot_have_one_run(tmp_path: Path) -> None:
    long = run_command("er", tmp_path, "iterations=5000")
    process = subprocess.Popen(long, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not any(tmp_path.glob("*/checkpoint.safetensors")):
            assert process.poll() is None
            time.sleep(0.01)
        folder = next(tmp_path.iterdir())
        other = subprocess.run(command("resume", folder), capture_output=True, text=True)
    finally:
        process.kill()
        process.communicate()
    assert (other.returncode, other.stdout) == (2, "")
    assert other.stderr == (
        f"clbench: Run {folder} is in the hands of another process (pid {process.pid}); wait for it to end.\n"
    )


def test_a_killed_suite_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    plan = {"strategies": ["er", "lwf"], "benchmarks": ["split-digits"], "seeds": [0], "settings": COMMON}
    file.write_text(yaml.safe_dump(plan))
    out = tmp_path / "runs"
    arguments = command(
        "suite", file, "--out", out, "--workers", "2", "--checkpoint", "0", "--threads", "1", "--json"
    )
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(out.glob("*/checkpoint.safetensors"))) < 1:
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.communicate()
    finish(arguments)
    records = [json.loads(path.read_text()) for path in out.glob("*/record.json")]
    assert [record["status"] for record in records] == ["done", "done"]
    curves = {record["strategy"]["name"]: record["curve"]["sha256"] for record in records}
    for strategy, sha256 in curves.items():
        how = {"threads": 1}
        again = api.run(
            "split-digits", strategy, out=tmp_path / "whole", device="cpu", execution=how, **COMMON
        )
        assert again.curve_file["sha256"] == sha256


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


if __name__ == "__child__":
    carry_out(*JOB)  # type: ignore[name-defined]  # noqa: F821
