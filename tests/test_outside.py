"""A distribution outside clbench: built as a wheel, installed beside clbench's wheel, found, run and checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ROOT / "examples" / "clbench-rings"
Clbench = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow


def build(project: Path, into: Path) -> None:
    """The wheel of a project, without network."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)]
    subprocess.run(command, cwd=project, check=True, capture_output=True)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the two wheels, and the libraries of this one within reach."""
    folder = tmp_path_factory.mktemp("outside")
    build(ROOT, folder / "wheels")
    build(OUTSIDE, folder / "wheels")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    # At the end of the path, and unlike in a folder of its own, no .pth file in there is read: the checkout
    # that is installed there stays unseen.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wheels = map(str, (folder / "wheels").glob("*.whl"))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--no-index",
        "--no-deps",
        *wheels,
    ]
    subprocess.run(pip, check=True, capture_output=True)
    return python


@pytest.fixture
def clbench(python: Path, tmp_path: Path) -> Clbench:
    """The command of that environment, in an empty folder."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CLBENCH"))}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(python.parent / "clbench"), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return call


def test_clbench_is_the_installed_one(python: Path, clbench: Clbench, tmp_path: Path) -> None:
    code = "import clbench, clbench_rings; print(clbench.__file__, clbench_rings.__file__)"
    done = subprocess.run(
        [str(python), "-P", "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True
    )
    assert all(str(python.parent.parent) in file for file in done.stdout.split()), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "name"), [("strategies", "l2-init"), ("benchmarks", "rings"), ("models", "fourier")]
)
def test_it_is_listed_with_what_its_source_says(clbench: Clbench, kind: str, name: str) -> None:
    done = clbench("list", kind, "--json")
    row = {row["name"]: row for row in json.loads(done.stdout)}[name]
    assert (done.returncode, done.stderr) == (0, "")
    assert (row["version"], row["origin"]) == (1, "clbench-rings 0.1.0")
    assert row["summary"] not in ("", "from clbench-rings 0.1.0")


def test_its_strategy_runs_on_its_benchmark_with_its_model(clbench: Clbench) -> None:
    done = clbench("run", "rings", "l2-init", "model=fourier", "epochs=1", "--threads", "1", "--json")
    record = json.loads(done.stdout)
    assert (record["status"], record["model"]) == ("done", {"name": "fourier", "version": 1})
    assert record["benchmark"]["name"] == "rings"


@pytest.mark.parametrize("name", ["l2-init", "rings"])
def test_it_keeps_the_contract(clbench: Clbench, name: str) -> None:
    done = clbench("check", name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_own_tests_pass(python: Path, tmp_path: Path) -> None:
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(OUTSIDE / "tests")]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_leaderboard_takes_its_runs(clbench: Clbench, tmp_path: Path) -> None:
    clbench("run", "rings", "l2-init", "model=fourier", "epochs=1", "--threads", "1", "--out", "runs")
    (folder,) = (tmp_path / "runs").iterdir()
    clbench("submit", f"runs/{folder.name}", "--root", "board")
    clbench("leaderboard", "--root", "board")
    assert "l2-init" in (tmp_path / "board" / "README.md").read_text(encoding="utf-8")


def test_all_its_files_are_in_a_run_s_id(python: Path, clbench: Clbench) -> None:
    """Also those that no entry point names."""
    run = ("run", "rings", "l2-init", "iterations=1", "--threads", "1", "--json")
    first = json.loads(clbench(*run).stdout)["id"]
    norms = next(python.parent.parent.glob("lib/*/site-packages/clbench_rings/norms.py"))
    text = norms.read_text()
    norms.write_text(text + "\nMORE = 1\n")
    try:
        assert json.loads(clbench(*run).stdout)["id"] != first
    finally:
        norms.write_text(text)
