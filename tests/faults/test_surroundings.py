"""What a run stands in may change under it: data, disk, loggers, the clock, other programs."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from harness import References, carry_out, differences

import clbench
from clbench.cli import running
from clbench.config import Execution
from clbench.engine.observer import Observer, ObserverWarning
from clbench.errors import DataError, LedgerError
from clbench.files import locked, make_folder
from clbench.runs import identity, lifecycle, suite
from clbench.runs.cells import Cell
from clbench.runs.launchers import Local

TINY: dict[str, Any] = {"experiences": 2, "iterations": 6, "hidden": [8], "evaluation.subset": 10}


def run(
    out: Path, benchmark: str = "split-digits", observers: Sequence[Observer] = (), **settings: Any
) -> Any:
    how = {"checkpoint_seconds": 0}
    given = {**TINY, **settings}
    return clbench.run(benchmark, "er", out=out, device="cpu", execution=how, observers=observers, **given)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("curve.npz", "model.safetensors", "log.jsonl")}


class StopsAt(Observer):
    """Ends a run after its first experience, as an interrupt does."""

    def end_experience(self, run: Any) -> None:
        run.until = run.step + 2


# --- data ---


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 256, (80, 6, 6), dtype=np.uint8), np.arange(80) % 4
    file = tmp_path / "mine.npz"
    np.savez(file, x_train=x, y_train=y, x_test=x[:40], y_test=y[:40])
    return file


def test_data_that_vanishes_is_named_and_when_it_is_back_the_run_goes_on(npz: Path, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", "npz", path=str(npz)).folder
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "runs", "npz", [StopsAt()], path=str(npz))
    folder = next((tmp_path / "runs").iterdir())
    elsewhere = npz.rename(tmp_path / "elsewhere.npz")
    with pytest.raises(DataError, match=r"mine\.npz cannot be read: No such file"):
        lifecycle.resume(folder)
    shutil.copy(elsewhere, npz)
    lifecycle.resume(folder)
    assert contents(folder) == contents(whole)


def test_data_that_has_changed_is_another_run(npz: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "runs", "npz", [StopsAt()], path=str(npz))
    folder = next((tmp_path / "runs").iterdir())
    with np.load(npz) as file:
        arrays = dict(file)
    arrays["x_train"][0, 0, 0] ^= 1
    np.savez(npz, **arrays)
    with pytest.raises(LedgerError, match=r"this version would call the run"):
        lifecycle.resume(folder)
    assert run(tmp_path / "runs", "npz", path=str(npz)).folder != folder


# --- a small disk ---


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 64 KiB at first."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root only")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full_until_there_is_space(disk: Path, tmp_path: Path) -> None:
    """Whatever runs out of space, and however often: the message says so, and in the end nothing differs."""
    references = References(tmp_path / "references")
    size, messages = 16, set()
    while True:
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True)
        done = carry_out("er", disk / "runs")
        if done.code == 0:
            break
        assert done.code == 2, done.said
        assert "The disk is full: " in done.said
        messages.add(done.said.split(" could not")[0].rpartition("/")[2])
        size += 12
    assert len(messages) > 1, messages
    assert not differences(references.folder("er"), next((disk / "runs").iterdir()))


# --- loggers ---


class Acts(Observer):
    """Does something at one of its points."""

    def __init__(self, point: str) -> None:
        self.point, self.calls = point, 0

    def act(self) -> None:
        raise NotImplementedError

    def _called(self, point: str) -> None:
        self.calls += 1
        if point == self.point:
            self.act()

    def begin(self, run: Any) -> None:
        self._called("begin")

    def window(self, run: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        self._called("window")

    def end_experience(self, run: Any) -> None:
        self._called("end_experience")

    def end(self, run: Any) -> None:
        self._called("end")


class Breaks(Acts):
    """A logger that raises."""

    def act(self) -> None:
        raise ConnectionError("the server is gone")


@pytest.mark.parametrize("point", ["begin", "window", "end_experience", "end"])
def test_a_logger_that_fails_is_left_out_and_the_run_goes_on(point: str, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole").folder
    broken, other = Breaks(point), Breaks("never")
    message = (
        r"^Breaks failed at step \d+ and is left out from here on; .* ConnectionError: the server is gone$"
    )
    with pytest.warns(ObserverWarning, match=message) as warned:
        folder = run(tmp_path / "runs", observers=[broken, other]).folder
    assert len(warned) == 1
    assert other.calls >= broken.calls > 0
    assert contents(folder) == contents(whole)


def test_a_logger_s_own_refusal_ends_the_run(tmp_path: Path) -> None:
    """Such as a full disk: the run can go on when there is space."""

    class Refuses(Observer):
        def window(self, run: Any, rows: Sequence[Mapping[str, Any]]) -> None:
            raise LedgerError("The disk is full")

    with pytest.raises(LedgerError, match="The disk is full"):
        run(tmp_path / "runs", observers=[Refuses()])
    folder = run(tmp_path / "runs").folder
    assert contents(folder) == contents(run(tmp_path / "whole").folder)


# --- the clock ---


@pytest.mark.parametrize("jumps", ["backwards", "forwards", "both"])
def test_the_clock_may_jump(jumps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day in any direction; the steady clocks, as after a machine slept, by hours."""
    whole = run(tmp_path / "whole").folder
    chance, now = random.Random(jumps), {"day": time.time(), "steady": time.monotonic()}
    least, most = {"backwards": (-1e6, 0), "forwards": (0, 1e6), "both": (-1e6, 1e6)}[jumps]

    def day() -> float:
        now["day"] += chance.uniform(least, most)
        return now["day"]

    def steady() -> float:
        now["steady"] += chance.choice([0.0, 1e-3, 10_000.0])
        return now["steady"]

    monkeypatch.setattr(time, "time", day)
    monkeypatch.setattr(time, "monotonic", steady)
    monkeypatch.setattr(time, "perf_counter", steady)
    record = run(tmp_path / "runs")
    assert contents(record.folder) == contents(whole)
    assert record.budget["train_seconds"] >= 0
    assert record.budget["eval_seconds"] >= 0


# --- other programs ---


def cells(seeds: int) -> list[Cell]:
    plan = {
        "strategies": ["er", "finetune"],
        "benchmarks": ["split-digits"],
        "seeds": seeds,
        "settings": TINY,
    }
    return suite.plan(suite.validate(suite.SuiteConfig, plan))


def test_a_suite_waits_for_a_run_in_other_hands(tmp_path: Path) -> None:
    """A folder that another process holds is asked for again, after all others."""
    planned, seen = cells(1), set()
    holding = contextlib.ExitStack()
    holding.enter_context(locked(make_folder(tmp_path / planned[0].id), "It"))

    def watch(_: Any) -> None:
        seen.add(planned[0].message)
        if planned[0].message and planned[1].state == "done":
            holding.close()

    how = Execution(device="cpu")
    suite.run(planned, tmp_path, how, launcher=Local(1), watch=watch)
    assert [cell.state for cell in planned] == ["done", "done"]
    assert [cell.attempts for cell in planned] == [1, 1]
    assert any("is in the hands of another process" in message for message in seen)


@pytest.mark.slow
def test_two_suites_share_a_folder(tmp_path: Path) -> None:
    """Both end well, and each run was carried out once."""
    file = tmp_path / "shared.yaml"
    plan = {"strategies": ["er", "lwf"], "benchmarks": ["split-digits"], "seeds": 3, "settings": TINY}
    file.write_text(yaml.safe_dump(plan))
    arguments = ["suite", file, "--out", tmp_path / "runs", "--workers", "2", "--threads", "1", "--json"]
    command = [sys.executable, "-m", "clbench", *map(str, arguments)]
    with ThreadPoolExecutor(2) as two:
        done = list(two.map(lambda _: subprocess.run(command, capture_output=True, text=True), range(2)))
    assert [(one.returncode, one.stderr) for one in done] == [(0, ""), (0, "")]
    assert done[0].stdout == done[1].stdout
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/record.json")]
    assert len(records) == 6
    for record in records:
        lines = (tmp_path / "runs" / record["id"] / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(12))


# --- folders that cannot be, and folders that go ---


class Removes(Acts):
    """Takes a run's folder away."""

    def __init__(self, out: Path, point: str) -> None:
        super().__init__(point)
        self.out = out

    def act(self) -> None:
        for folder in self.out.glob("*/"):
            shutil.rmtree(folder)


@pytest.mark.parametrize("point", ["begin", "window", "end_experience", "end"])
@pytest.mark.parametrize("seconds", [0.0, 600.0])
def test_a_folder_that_is_removed_ends_its_run_in_a_sentence(
    point: str, seconds: float, tmp_path: Path
) -> None:
    how = {"checkpoint_seconds": seconds, "log": ["csv"]}
    removes = Removes(tmp_path, point)
    with pytest.raises(LedgerError, match=r"was removed meanwhile\. If it was a run's, the same command"):
        clbench.run(
            "split-digits", "er", out=tmp_path, device="cpu", execution=how, observers=[removes], **TINY
        )
    assert run(tmp_path).status == "done"


def test_a_suite_goes_on_where_a_folder_is_removed(tmp_path: Path) -> None:
    """The whole place goes when the first run has begun: it fails, and the next one finds its own anew."""
    planned = cells(1)
    removed: list[bool] = []

    def watch(_: Any) -> None:
        first = tmp_path / "runs" / planned[0].id
        if not removed and (first / "checkpoint.safetensors").is_file():
            first.rename(tmp_path / "gone")
            removed.append(True)

    planned[0].resolved = planned[0].resolved.model_copy(
        update={"train": planned[0].resolved.train.model_copy(update={"iterations": 3000})}
    )
    planned[0].id = identity.identify(planned[0].resolved).id
    how = Execution(device="cpu", checkpoint_seconds=0)
    suite.run(planned, tmp_path / "runs", how, launcher=Local(1), watch=watch)
    assert removed
    assert [cell.state for cell in planned] == ["failed", "done"]
    assert "was removed meanwhile" in planned[0].message


BAD_PLACES = {
    "a file": "file",
    "below a file": "file/a/b",
    "a dangling link": "nowhere",
    "below a dangling link": "nowhere/a",
    "a loop": "loop",
    "below a loop": "loop/a",
    "a long name": "x" * 500,
    "below a long name": "x" * 500 + "/a",
    "a long path": "/".join(["x" * 200] * 30),
    "nul": "a\0b",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """What bad places are named in."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return tmp_path


CONTEXT = typer.Context(typer.core.TyperCommand("clbench"))


@pytest.mark.parametrize("what", BAD_PLACES)
@pytest.mark.parametrize("how", ["run", "suite"])
def test_a_place_where_nothing_can_be_is_refused_before_anything_is_built(
    what: str, how: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = place / BAD_PLACES[what]
    before = sorted(place.iterdir())
    monkeypatch.setattr(lifecycle, "identify", None)
    monkeypatch.setattr(suite, "plan", None)
    start = {"run": lambda: run(out), "suite": lambda: running.suite(CONTEXT, "table", out=out)}[how]
    with pytest.raises(LedgerError, match=r"cannot be written: ") as refused:
        start()
    assert len(str(refused.value)) < 1000
    assert sorted(place.iterdir()) == before


def test_a_search_is_refused_where_its_file_cannot_be(place: Path) -> None:
    with pytest.raises(LedgerError, match=r"cannot be written: .*/file is a file, not a folder"):
        running.tune(CONTEXT, "split-digits", "er", out=place / "file" / "a")
    with pytest.raises(LedgerError, match=r"is a folder; name a file in it"):
        running.tune_suite(CONTEXT, "table", out=place)


def test_a_folder_that_was_never_made_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"is no run folder"):
        lifecycle.resume(tmp_path / ("x" * 500))
