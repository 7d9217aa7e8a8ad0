"""The wheel and the sdist: what they hold, and that clbench runs from them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_site_packages_gains_clbench_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"clbench"}


def test_no_two_names_differ_by_case_alone(wheel: Path) -> None:
    """Where the file system does not tell them apart, one would take the other's place."""
    names = zipfile.ZipFile(wheel).namelist()
    assert len({name.lower() for name in names}) == len(names)


@pytest.mark.parametrize(
    "file",
    [
        "strategies/er.py",
        "benchmarks/split.py",
        "benchmarks/split.yaml",
        "configs/defaults.yaml",
        "py.typed",
        "reports/assets/chart.js",
        "reports/assets/page.css",
        "reports/assets/uplot-1.6.32/uPlot.iife.min.js",
        "reports/assets/uplot-1.6.32/LICENSE",
    ],
)
def test_the_wheel_holds(wheel: Path, file: str) -> None:
    assert f"clbench/{file}" in zipfile.ZipFile(wheel).namelist()


def test_clbench_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """Unpacked beside nothing of the checkout, from another folder."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import clbench; from pathlib import Path; assert 'site' in clbench.__file__, clbench.__file__; "
        "r = clbench.run('split-digits', 'er', seed=0, iterations=2, experiences=2, out='runs'); print(r.status)"
    )
    command = [
        sys.executable,
        "-P",
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); {code}",
    ]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "done", done.stderr
