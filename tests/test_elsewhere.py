"""Other people's machines: data that are read-only, no home, no locale, temporary files on another file system."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SUITE = """title: klein
strategies: [finetune, er]
benchmarks: [split-digits]
seeds: 1
settings: {iterations: 4, hidden: [8], experiences: 2, evaluation.subset: 20}
"""
NOWHERE = {"HOME": "/proc/none", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
DECODED = """
import clbench
made = clbench.from_folder("photos", size=8, experiences=2)
record = clbench.run(made, "er", iterations=4, hidden=[8], memory=4, device="cpu", execution={"resident": "never"})
print(record.status)
"""


def program(
    *arguments: object, folder: Path, before: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    command = [*before, sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder whose name has spaces and letters beyond ASCII."""
    folder = tmp_path / "ein Ort für Läufe"
    folder.mkdir()
    return folder


@pytest.mark.slow
def test_data_that_are_decoded_may_be_read_only(place: Path) -> None:
    """Whoever asks is root perhaps, whom modes do not stop: the folder is mounted so."""
    from PIL import Image

    for number in range(8):
        file = place / "photos" / ("ant", "bee")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10), (number, 9, 9)).save(file)
    data = place / "Daten ä"
    data.mkdir()
    alone = ("unshare", "--mount", "--map-root-user", "sh", "-c", READ_ONLY, str(data))
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    refused = program("-c", DECODED, folder=place, before=alone, CLBENCH_DATA=str(data))
    assert refused.stderr.decode().endswith(
        ".npy cannot be written: Read-only file system.\n"
    )  # not decoded yet
    assert program("-c", DECODED, folder=place, CLBENCH_DATA=str(data)).returncode == 0
    done = program(
        "-c",
        DECODED.replace("iterations=4", "iterations=3"),
        folder=place,
        before=alone,
        CLBENCH_DATA=str(data),
    )
    assert (done.stdout.decode(), done.returncode) == ("done\n", 0), done.stderr.decode()


@pytest.mark.slow
def test_a_suite_and_its_report_need_no_home_and_no_locale(place: Path) -> None:
    """And temporary files may be on another file system."""
    (place / "Läufe.yaml").write_text(SUITE, encoding="utf-8")
    shm = Path("/dev/shm")
    there = shm if shm.is_dir() and shm.stat().st_dev != place.stat().st_dev else place
    elsewhere = {**NOWHERE, "TMPDIR": str(there), "CLBENCH_DATA": str(place / "Daten ä")}
    command = ("-m", "clbench", "suite", "Läufe.yaml", "--out", "some where")
    done = program(*command, folder=place, **{**elsewhere, "LC_ALL": "C.UTF-8"})
    assert done.returncode == 0, done.stderr.decode()
    command = ("-m", "clbench", "suite", "suite.yaml", "--out", "some where")
    (place / "suite.yaml").write_text(SUITE, encoding="utf-8")
    done = program(*command, folder=place, **elsewhere)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.isascii()
    assert len(list(place.glob("some where/*/record.json"))) == 2
    reports = list(place.glob("some where/**/report.html"))
    assert len(reports) == 2
    assert all("<html" in report.read_text(encoding="utf-8") for report in reports)
