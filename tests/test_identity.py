"""Ids of runs: which settings and which code they cover, in a copy of the checkout that is edited."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clbench.config import resolve
from clbench.files.places import HOME, ROOT
from clbench.registry import closure
from clbench.runs import identity

# --- settings ---


def id_of(*overrides: dict[str, Any], strategy: str = "er", seed: int = 0) -> str:
    return identity.identify(resolve("split-digits", strategy, *overrides, seed=seed)).id


def test_the_id_does_not_depend_on_how_a_setting_is_given() -> None:
    assert id_of({"optim.lr": 0.3}) == id_of({"lr": 0.3}) == id_of({"lr": "3e-1"})


@pytest.mark.parametrize(
    "change", [{"lr": 0.3}, {"memory": 7}, {"experiences": 2}, {"hidden": [3]}, {"every": 2}]
)
def test_another_setting_is_another_id(change: dict[str, Any]) -> None:
    assert id_of(change) != id_of()


def test_another_seed_is_another_id() -> None:
    assert id_of(seed=1) != id_of()


# --- code ---

KEEPS = {
    "a comment in the strategy": ("strategies/er.py", "\n# why\n"),
    "a comment in the engine": ("clbench/engine/engine.py", "\n    # why\n"),
    "a docstring of a part": ("clbench/parts/replay.py", '\n"""Says more."""\n'),
    "a part that er has not": ("clbench/parts/prompts.py", "\nx = 1\n"),
    "another strategy": ("strategies/ewc.py", "\nx = 1\n"),
    "another benchmark": ("benchmarks/retrieval.py", "\nx = 1\n"),
    "a strategy that is new": ("strategies/mine.py", "x = 1\n"),
    "a module that nobody imports": ("clbench/engine/mine.py", "x = 1\n"),
    "a metric": ("clbench/results/metrics/mine.py", "x = 1\n"),
    "the metrics": ("clbench/results/metrics/core.py", "\nx = 1\n"),
    "records": ("clbench/results/ledger.py", "\nx = 1\n"),
    "reports": ("clbench/reports/tables.py", "\nx = 1\n"),
    "the command line": ("clbench/cli/running.py", "\nx = 1\n"),
    "suites": ("clbench/runs/suite.py", "\nx = 1\n"),
    "the contract": ("clbench/testing/contract.py", "\nx = 1\n"),
    "names handed on": ("clbench/parts/__init__.py", "\nx = 1\n"),
    "a test": ("tests/test_x.py", "x = 1\n"),
}
CHANGES = {
    "the strategy": "strategies/er.py",
    "a part of it": "clbench/parts/replay.py",
    "the engine": "clbench/engine/engine.py",
    "evaluation": "clbench/evaluation/ticker.py",
    "the benchmark": "benchmarks/split.py",
    "what streams are made by": "clbench/data/streams.py",
    "the network": "clbench/models/own.py",
    "how a run is built": "clbench/runs/building.py",
}
PROGRAM = """
import json, sys
from pathlib import Path
import clbench
from clbench.config import resolve
from clbench.engine.observer import Observer
from clbench.registry import closure
from clbench.runs import building, identity, lifecycle

settings = {"experiences": 2, "iterations": 4, "hidden": [4], "subset": 10}

def id():
    closure._kept.cache_clear()
    identity.BUILDING = closure.code_of(Path(building.__file__))
    return identity.identify(resolve("split-digits", "er", settings)).id

class Stop(Observer):
    def end_experience(self, run):
        run.stop = run.experience == 0

if sys.argv[1:]:
    print(id(), lifecycle.resume(sys.argv[1]).status)
    sys.exit()
try:
    clbench.run("split-digits", "er", out="runs", observers=[Stop()], **settings)
except KeyboardInterrupt:
    pass
found = {"": id()}
for name, (file, text) in json.load(sys.stdin).items():
    path = Path(file)
    before = path.read_text() if path.is_file() else None
    path.parent.mkdir(exist_ok=True)
    path.write_text((before or "") + text)
    found[name] = id()
    path.unlink() if before is None else path.write_text(before)
print(json.dumps(found))
"""


def copied(folder: Path, *, wheel: bool = False) -> Path:
    """The checkout, or what a wheel makes of it, in a folder."""
    ignored = shutil.ignore_patterns("__pycache__", *(["strategies", "benchmarks"] if wheel else []))
    shutil.copytree(HOME, folder / "clbench", ignore=ignored)
    for name in ("strategies", "benchmarks", "configs"):
        place = folder / "clbench" / name if wheel else folder / name
        shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
    if not wheel:
        (folder / "pyproject.toml").touch()
    return folder


def program(folder: Path, text: str, *arguments: str, hashes: str = "0", **given: Any) -> str:
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONHASHSEED": hashes}
    done = subprocess.run(
        [sys.executable, "-c", text, *arguments], cwd=folder, env=env, capture_output=True, text=True, **given
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("identity") / "clbench")


@pytest.fixture(scope="module")
def ids(checkout: Path) -> dict[str, str]:
    """The id of a run after each edit alone; it has been begun and interrupted before."""
    edits = {**KEEPS, **{name: (file, "\nx = 1\n") for name, file in CHANGES.items()}}
    return dict(json.loads(program(checkout, PROGRAM, input=json.dumps(edits))))


@pytest.mark.parametrize("edit", KEEPS)
def test_what_a_run_does_not_execute_keeps_its_id(ids: dict[str, str], edit: str) -> None:
    assert ids[edit] == ids[""]


@pytest.mark.parametrize("edit", CHANGES)
def test_what_a_run_executes_decides_its_id(ids: dict[str, str], edit: str) -> None:
    assert ids[edit] != ids[""]


def test_a_run_is_resumed_after_edits_that_keep_its_id(checkout: Path, ids: dict[str, str]) -> None:
    for file, text in KEEPS.values():
        with (checkout / file).open("a") as opened:
            opened.write(text)
    assert program(checkout, PROGRAM, f"runs/{ids['']}", hashes="1").split() == [ids[""], "done"]


def test_a_checkout_and_a_wheel_are_the_same_code(tmp_path: Path) -> None:
    place = "from clbench.files.places import ROOT; from clbench.registry.closure import code_of; import sys;"
    text = place + "print(sorted(code_of(ROOT / 'strategies/er.py') | code_of(ROOT / 'benchmarks/split.py')))"
    first, second = (copied(tmp_path / name, wheel=name == "wheel") for name in ("checkout", "wheel"))
    assert program(first, text) == program(second, text) != "[]\n"


def test_code_that_a_plugin_imports_decides_the_id(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from .helper import x\n")
    (tmp_path / "helper.py").write_text("x = 1\n")
    before = identity.code_identity([tmp_path / "mine.py"])["sources"]
    (tmp_path / "other.py").write_text("x = 1\n")
    assert identity.code_identity([tmp_path / "mine.py"])["sources"] == before
    (tmp_path / "helper.py").write_text("x = 2\n")
    assert identity.code_identity([tmp_path / "mine.py"])["sources"] != before


def test_parts_that_a_notebook_imports_decide_the_id(tmp_path: Path) -> None:
    found = {name for name, _ in closure.code_of("from clbench.parts import CrossEntropy as C\nC()\n")}
    assert "clbench/parts/losses.py" in found
    assert "clbench/parts/replay.py" not in found
