"""Batch systems, spot machines and terminals that close ask before they kill: what runs ends with a checkpoint.

The checkpoints that are found are those of the signal: none is due within a test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import clbench

PATIENCE = 120
SETTINGS: dict[str, Any] = {
    "experiences": 2,
    "iterations": 800,
    "hidden": [8],
    "evaluation.subset": 10,
    "evaluation.every": 50,
}
FILES = ("curve.npz", "model.safetensors", "log.jsonl")

SLOW = """
import time
from clbench import Strategy, register

@register("slow")
class Slow(Strategy):
    def losses(self, batch, out):
        if self.run.step == 1:
            print("here", flush=True)
            time.sleep(600)
        return {"fit": out.logits.sum()}
"""


def begin(*arguments: object, **kwargs: Any) -> subprocess.Popen[str]:
    command = [sys.executable, *map(str, arguments)]
    # A group of its own, and signals as a terminal's program has them.
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **kwargs
    )


def run_command(out: Path) -> list[object]:
    pairs = [f"{key}={value}" for key, value in SETTINGS.items()]
    return ["-m", "clbench", "run", "split-digits", "er", *pairs, "--out", out, "--device", "cpu", "--json"]


def wait_for(process: subprocess.Popen[str], what: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said.splitlines()


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = clbench.run(
        "split-digits", "er", out=tmp_path_factory.mktemp("whole"), device="cpu", **SETTINGS
    ).folder
    assert folder is not None
    return contents(folder)


@pytest.mark.parametrize(
    ("number", "again"),
    [
        (signal.SIGTERM, "run"),
        pytest.param(signal.SIGHUP, "resume", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "resume", marks=pytest.mark.slow),
    ],
)
def test_a_run_ends_with_a_checkpoint_and_goes_on(
    number: signal.Signals, again: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    process = begin(*run_command(tmp_path))
    wait_for(process, lambda: any(tmp_path.glob("*/log.jsonl")))
    process.send_signal(number)
    code, said = ended(process)
    how = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    line = f"clbench: {how}; the same command again goes on from the last checkpoint."
    assert (code, said) == (128 + number, [line])
    [checkpoint] = tmp_path.glob("*/checkpoint.safetensors")
    assert not (checkpoint.parent / "record.json").exists()
    more = (
        run_command(tmp_path) if again == "run" else ["-m", "clbench", "resume", checkpoint.parent, "--json"]
    )
    assert ended(begin(*more))[0] == 0
    assert contents(checkpoint.parent) == whole


def suite(tmp_path: Path) -> tuple[list[object], Path]:
    file, out = tmp_path / "two.yaml", tmp_path / "runs"
    plan = {"strategies": ["er"], "benchmarks": ["split-digits"], "seeds": 3, "settings": SETTINGS}
    file.write_text(yaml.safe_dump(plan))
    how = ["--workers", 2, "--device", "cpu", "--json"]
    return ["-m", "clbench", "suite", file, "--out", out, *how], out


@pytest.mark.parametrize(
    "all_of_them",
    [pytest.param(False, marks=pytest.mark.slow), True],
    ids=["its-own-process", "the-whole-group"],
)
def test_a_suite_ends_with_a_checkpoint_of_each_run(
    all_of_them: bool, whole: dict[str, bytes], tmp_path: Path
) -> None:
    command, out = suite(tmp_path)
    process = begin(*command)
    wait_for(process, lambda: len(list(out.glob("*/log.jsonl"))) == 2)
    if all_of_them:
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.send_signal(signal.SIGTERM)
    code, said = ended(process)
    line = "clbench: ended by SIGTERM; the same command again goes on from the last checkpoint."
    assert (code, said) == (143, [line])
    assert len(list(out.glob("*/checkpoint.safetensors"))) == 2
    assert not list(out.glob("*/record.json"))
    assert len(list(out.glob("*/config.yaml"))) == 2  # no other was started
    code, said = ended(begin(*command))
    assert (code, said) == (0, [])
    records = [json.loads(path.read_text()) for path in out.glob("*/record.json")]
    [first] = [record["id"] for record in records if record["seeds"]["data"] == 0]
    assert len(records) == 3
    assert contents(out / first) == whole


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    plugin = tmp_path / "slow.py"
    plugin.write_text(SLOW)
    process = begin(
        "-m", "clbench", "run", "split-digits", "slow", "--plugin", plugin, "--out", tmp_path / "runs"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert process.poll() is None  # it waits for the step
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 143


@pytest.mark.slow
def test_a_second_signal_ends_the_runs_of_a_suite(tmp_path: Path) -> None:
    plugin, file = tmp_path / "slow.py", tmp_path / "one.yaml"
    plugin.write_text(SLOW)
    file.write_text(yaml.safe_dump({"strategies": ["slow"], "benchmarks": ["split-digits"], "seeds": 1}))
    process = begin("-m", "clbench", "suite", file, "--plugin", plugin, "--out", tmp_path / "runs", "--json")
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    cell = int(next((tmp_path / "runs").glob("*/lock")).read_text())
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 143
    state = Path(f"/proc/{cell}/status")
    assert not state.exists() or "\nState:\tZ" in state.read_text()


@pytest.mark.slow
def test_a_search_says_that_it_begins_anew(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    pairs = [f"{key}={value}" for key, value in SETTINGS.items() if key != "evaluation.every"]
    process = begin("-m", "clbench", "tune", "split-digits", "er", *pairs, "--trials", 1000)
    assert process.stdout is not None
    process.stdout.readline()  # of the first trial
    process.send_signal(signal.SIGTERM)
    code, said = ended(process)
    assert (code, said) == (
        143,
        ["clbench: ended by SIGTERM; the same command again searches from the beginning."],
    )


def test_a_script_ends_with_a_checkpoint(whole: dict[str, bytes], tmp_path: Path) -> None:
    """And begins no other run; what it does at its end, it does."""
    script = tmp_path / "mine.py"
    script.write_text(
        "import clbench\n"
        "try:\n"
        "    for seed in (0, 1):\n"
        f"        clbench.run('split-digits', 'er', seed=seed, out='runs', device='cpu', **{SETTINGS!r})\n"
        "finally:\n"
        "    print('cleaned up')\n"
    )
    process = begin(script, cwd=tmp_path)
    wait_for(process, lambda: any(tmp_path.glob("runs/*/log.jsonl")))
    process.send_signal(signal.SIGTERM)
    out, said = process.communicate(timeout=PATIENCE)
    line = "clbench: ended by SIGTERM; the same call goes on from the last checkpoint.\n"
    assert (process.returncode, out, said) == (143, "cleaned up\n", line)
    [checkpoint] = tmp_path.glob("runs/*/checkpoint.safetensors")
    clbench.run("split-digits", "er", out=tmp_path / "runs", device="cpu", **SETTINGS)
    assert contents(checkpoint.parent) == whole


@pytest.mark.slow
@pytest.mark.parametrize("beside", [{"overlap": True}, {"resident": "never"}], ids=["evaluator", "loaders"])
def test_a_signal_to_the_whole_group_spares_the_processes_beside_a_run(
    beside: dict[str, Any], tmp_path: Path
) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        "import clbench\n"
        f"clbench.run('split-digits', 'er', out='runs', device='cpu', execution={beside!r}, **{SETTINGS!r})\n"
    )
    process = begin(script, cwd=tmp_path)
    wait_for(process, lambda: any(tmp_path.glob("runs/*/log.jsonl")))
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGTERM)
    code, said = ended(process)
    assert (code, len(said)) == (143, 1), said
    assert list(tmp_path.glob("runs/*/checkpoint.safetensors"))


RAY = """
import signal, sys
from pathlib import Path
from clbench import suite
from clbench.config import Execution
from clbench.runs.launchers import Ray

out, sent = Path("runs"), []
plan = {"strategies": ["er"], "benchmarks": ["split-digits"], "seeds": 2, "settings": SETTINGS}
cells = suite.plan(suite.validate(suite.SuiteConfig, plan))

def watch(cells):
    if not sent and len(list(out.glob("*/log.jsonl"))) == 2:
        sent.append(True)
        signal.raise_signal(signal.SIGTERM)

suite.run(cells, out, Execution(device="cpu"), launcher=Ray(cpus=1), watch=watch)
"""


@pytest.mark.slow
def test_runs_on_a_cluster_end_with_a_checkpoint_each(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    script = tmp_path / "mine.py"
    script.write_text(RAY.replace("SETTINGS", repr({**SETTINGS, "iterations": 4000})))
    code, said = ended(begin(script, cwd=tmp_path))
    assert code == 143, said
    assert said[-1].startswith("clbench: ended by SIGTERM; ")
    assert len(list(tmp_path.glob("runs/*/checkpoint.safetensors"))) == 2
    assert not list(tmp_path.glob("runs/*/record.json"))
