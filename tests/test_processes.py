"""Scripts, sessions and their processes: which of them are started anew, and what is said where they cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

RUN = """
import clbench
print("started")
record = clbench.run("split-digits", {strategy!r}, iterations=4, hidden=[8], experiences=2, device="cpu", subset=20,
                     execution={execution!r}, **{more!r})
print(record.status)
"""
OWN = """
import clbench
from clbench.types import Data

class Flip:
    def __call__(self, x):
        return x.flip(-1)
    def describe(self):
        return {"flip": 1}

def flipped():
    import dataclasses
    plain = clbench.make_benchmark("split-digits", experiences=2)
    def turned(stream):
        return dataclasses.replace(stream, experiences=tuple(
            dataclasses.replace(exp, data=Data(tuple((pool, rows, Flip()) for pool, rows, _ in exp.data.parts)))
            for exp in stream.experiences))
    return dataclasses.replace(plain, name="flipped", train=turned(plain.train), test=turned(plain.test))
"""
OWN_RUN = """
record = clbench.run(flipped(), "finetune", iterations=4, hidden=[8], device="cpu", execution={"resident": "never"})
print(record.status)
"""
SUITE = """
clbench.suite({"strategies": ["finetune", "er"], "benchmarks": ["split-digits"], "seeds": 1}, workers=2,
              device="cpu", iterations=4, hidden=[8], experiences=2, subset=20)
"""
TOGETHER = """
import os, socket, clbench
from torch import multiprocessing

def one(rank, port):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    record = clbench.run("split-digits", "er", iterations=4, hidden=[8], experiences=2, device="cpu", subset=20,
                         execution={"resident": "never"}, memory=20)
    print(record.status, flush=True)

if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    multiprocessing.start_processes(one, args=(port,), nprocs=2, start_method="METHOD")
"""


def script(text: str, folder: Path, *, typed: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a program from a file, or typed into standard input."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if typed:
        return subprocess.run(
            [sys.executable, "-"], input=text, capture_output=True, text=True, cwd=folder, env=environment
        )
    (folder / "mine.py").write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "mine.py"], capture_output=True, text=True, cwd=folder, env=environment
    )


@pytest.mark.parametrize(
    ("execution", "typed"),
    [
        ({"resident": "never"}, False),
        pytest.param({"resident": "never"}, True, marks=pytest.mark.slow),
        ({"overlap": True}, False),
    ],
    ids=["workers", "workers, typed", "overlap"],
)
def test_a_script_needs_no_guard(execution: dict[str, object], typed: bool, tmp_path: Path) -> None:
    done = script(RUN.format(strategy="er", execution=execution, more={"memory": 20}), tmp_path, typed=typed)
    assert (done.stdout, done.stderr, done.returncode) == ("started\ndone\n", "", 0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.parametrize("execution", [{"resident": "never"}, {"overlap": True}], ids=["workers", "overlap"])
def test_a_script_may_have_chosen_how_processes_start(
    execution: dict[str, object], method: str, tmp_path: Path
) -> None:
    chosen = f"import multiprocessing\nmultiprocessing.set_start_method({method!r}, force=True)\n"
    text = RUN.format(strategy="er", execution=execution, more={"memory": 20})
    done = script(chosen + text, tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("started\ndone\n", "", 0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_suite_runs_in_a_script_that_has_chosen(method: str, tmp_path: Path) -> None:
    chosen = f"import clbench, multiprocessing\nmultiprocessing.set_start_method({method!r}, force=True)\n"
    done = script(chosen + SUITE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/**/record.json"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_a_script_starts_share_a_run(method: str, tmp_path: Path) -> None:
    """By torch's own means instead of torchrun's; each has loaders of its own."""
    done = script(TOGETHER.replace("METHOD", method), tmp_path)
    assert (done.stdout.count("done"), done.returncode) == (2, 0), done.stderr
    assert len(list(tmp_path.glob("runs/*/record.json"))) == 1


def test_a_guarded_script_s_own_classes_reach_the_workers(tmp_path: Path) -> None:
    guarded = OWN + 'if __name__ == "__main__":' + OWN_RUN.replace("\n", "\n    ")
    done = script(guarded, tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def test_a_script_whose_classes_are_needed_is_asked_for_a_guard(tmp_path: Path) -> None:
    done = script(OWN + OWN_RUN, tmp_path)
    assert done.returncode == 1
    assert 'Put what runs under `if __name__ == "__main__":`' in done.stderr


def test_what_is_typed_and_needed_elsewhere_is_refused(tmp_path: Path) -> None:
    done = script(OWN + OWN_RUN, tmp_path, typed=True)
    assert done.returncode == 1
    assert "ConfigError: 'Flip' is needed by another process, which cannot import it" in done.stderr
