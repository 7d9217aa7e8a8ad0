"""Loggers write a run down elsewhere and cannot change it."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clbench
from clbench.config import Execution
from clbench.results.ledger import Record
from clbench.runs import suite as suites

ROOT = Path(__file__).resolve().parent.parent
PLOTS = ["stability gap", "seen accuracy", "accuracy matrix"]
LOGS = ["csv", "tensorboard", pytest.param("wandb", marks=pytest.mark.filterwarnings("ignore"))]
TENSORBOARD = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def run(out: Path, log: list[str], **params: Any) -> Record:
    given = {"epochs": 1, "hidden": [8], "experiences": 2, "device": "cpu", "memory": 20, **params}
    return clbench.run("split-digits", "er", out=out, execution={"log": log}, **given)


KILLED = """
import os, signal
import clbench
from clbench.engine.observer import Observer

class Kills(Observer):
    def window(self, run, rows):
        if run.step >= 50:
            os.kill(os.getpid(), signal.SIGKILL)

clbench.run("split-digits", "er", out={out!r}, epochs=1, hidden=[8], experiences=2, device="cpu", memory=20,
            observers=[Kills()], execution={{"log": {log!r}, "checkpoint_seconds": 0}})
"""


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No host but this one may be asked for anything."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    resolve, connect = socket.getaddrinfo, socket.socket.connect

    def local(host: Any, *args: Any, **kwargs: Any) -> Any:
        assert host in (None, "localhost", "127.0.0.1", "::1"), f"asked for {host}"
        return resolve(host, *args, **kwargs)

    def near(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            assert address[0] in ("localhost", "127.0.0.1", "::1"), f"connected to {address}"
        return connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", local)
    monkeypatch.setattr(socket.socket, "connect", near)


# --- reading back ---


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def events(record: Record) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert record.folder is not None
    return EventAccumulator(str(record.folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()


def tensorboard(record: Record) -> dict[str, dict[int, float]]:
    """Scalars by name and step; a step that is there twice fails."""
    found = events(record)
    scalars = {name: found.Scalars(name) for name in found.Tags()["scalars"]}
    values = {name: {event.step: event.value for event in told} for name, told in scalars.items()}
    assert all(len(values[name]) == len(told) for name, told in scalars.items())
    return values


def hparams(record: Record) -> dict[str, Any]:
    """The configuration in TensorBoard's files."""
    from tensorboard.plugins.hparams import plugin_data_pb2

    content = events(record).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    told = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in told.items()}


def metrics(record: Record) -> dict[str, float]:
    return {name: value for name, value in record.metrics.items() if value is not None}


def offline(record: Record) -> list[Path]:
    assert record.folder is not None
    return list(record.folder.glob("wandb/offline-run-*/*.wandb"))


def history(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of an offline file of W&B, and what it says of the run.

    The file is a log of LevelDB's format behind seven bytes: blocks of 32 KiB, in them fragments with a header of
    checksum, length and type (1 whole, 2 first, 3 middle, 4 last).
    """
    from wandb.proto import wandb_internal_pb2

    content, place, record, rows = file.read_bytes(), 7, b"", []
    told: dict[str, Any] = {"config": {}, "summary": {}}
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind not in (1, 4):
            continue
        said = wandb_internal_pb2.Record()
        said.ParseFromString(record)
        record = b""
        if said.WhichOneof("record_type") == "history":
            rows.append(
                {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in said.history.item}
            )
        elif said.WhichOneof("record_type") == "run":
            told |= {"project": said.run.project, "group": said.run.run_group}
            told["config"] |= {i.key: json.loads(i.value_json) for i in said.run.config.update}
        elif said.WhichOneof("record_type") == "summary":
            told["summary"] |= {
                ".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in said.summary.update
            }
    return rows, told


def by_name(rows: list[dict[str, Any]]) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in row.items():
            found.setdefault(name, {})[row["_step"]] = value
    return found


def assert_evaluations(record: Record, found: dict[str, dict[int, float]]) -> None:
    """Every evaluation of the curve is there."""
    curve, wanted = record.curve, dict[str, dict[int, float]]()
    for i in range(len(curve)):
        name = f"{'test accuracy' if curve.full[i] else 'accuracy'}/experience {curve.evaluated[i] + 1}"
        wanted.setdefault(name, {})[int(curve.step[i])] = curve.correct[i] / curve.total[i]
    named = {name for name in found if name.startswith(("accuracy/", "test accuracy/"))}
    assert named == {*wanted, "accuracy/mean"}
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values), name
    at: dict[int, list[float]] = {}
    for name, values in wanted.items():
        for step, value in values.items() if name.startswith("accuracy/") else ():
            at.setdefault(step, []).append(value)
    assert found["accuracy/mean"] == pytest.approx({step: np.mean(values) for step, values in at.items()})


@pytest.mark.parametrize("log", LOGS)
@TENSORBOARD
def test_a_logger_changes_nothing(log: str, tmp_path: Path) -> None:
    if log != "csv":
        pytest.importorskip(log)
    plain, logged = run(tmp_path / "plain", []), run(tmp_path / "logged", [log])
    assert (plain.id, plain.curve_file) == (logged.id, logged.curve_file)
    assert plain.folder is not None
    assert logged.folder is not None
    model = "model.safetensors"
    assert (plain.folder / model).read_bytes() == (logged.folder / model).read_bytes()
    files = {
        "csv": "losses.csv",
        "tensorboard": "tensorboard/events*",
        "wandb": "wandb/offline-run-*/*.wandb",
    }
    assert list(logged.folder.glob(files[log]))


@pytest.mark.parametrize("log", [["csv"], ["csv", "csv"]])
def test_csv_holds_every_loss_and_every_evaluation(log: list[str], tmp_path: Path) -> None:
    record = run(tmp_path, log)
    assert record.folder is not None
    rows = table(record.folder / "losses.csv")
    losses = [json.loads(line) for line in (record.folder / "log.jsonl").read_text().splitlines()]
    assert [(int(r["step"]), r["loss"], float(r["value"])) for r in rows] == [
        (r["step"], "fit", r["fit"]) for r in losses
    ]
    found = table(record.folder / "evaluations.csv")
    for name in ("step", "examples", "experience", "evaluated", "correct", "total"):
        assert [int(r[name]) for r in found] == getattr(record.curve, name).tolist()
    assert [r["set"] == "full" for r in found] == record.curve.full.tolist()


@TENSORBOARD
def test_tensorboard_holds_what_was_evaluated_at_every_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    record = run(tmp_path, ["tensorboard"])
    found = tensorboard(record)
    assert len(found["loss/fit"]) == record.budget["steps"]
    summary = {name: values for name, values in found.items() if name.startswith("metrics/")}
    last = record.budget["steps"]
    assert summary == {
        f"metrics/{name}": {last: pytest.approx(value)} for name, value in metrics(record).items()
    }
    assert_evaluations(record, found)
    assert events(record).Tags()["images"] == PLOTS
    settings = hparams(record)
    assert (settings["optim.name"], settings["params.er.memory"]) == ("sgd", 20)
    assert settings["model.params.hidden"] == "[8]"


@pytest.mark.filterwarnings("ignore")
def test_wandb_holds_what_was_evaluated_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    record = run(tmp_path, ["wandb"])
    (file,) = offline(record)
    rows, told = history(file)
    assert [row["_step"] for row in rows] == list(range(record.budget["steps"] + 1))
    assert_evaluations(record, by_name(rows))
    assert (told["project"], told["group"]) == ("mine", "split-digits er")
    for name, value in metrics(record).items():
        assert told["summary"][name] == pytest.approx(value), name
    assert {name: told["config"][name] for name in record.config} == record.config
    assert record.folder is not None
    for title in PLOTS:
        assert rows[-1][f"{title}._type"] == "image-file"
        assert list(record.folder.glob(f"wandb/offline-run-*/files/{rows[-1][f'{title}.path']}"))


@pytest.mark.filterwarnings("ignore")
def test_wandb_has_the_project_and_group_that_are_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    given = {"log": ["wandb"], "project": "gaps", "group": "small"}
    record = clbench.run("split-digits", "er", out=tmp_path, execution=given, iterations=2, experiences=2)
    (file,) = offline(record)
    _, told = history(file)
    assert (told["project"], told["group"]) == ("gaps", "small")


def test_the_seeds_of_a_row_of_a_suite_are_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    strategies = [{"name": "er", "settings": {"memory": memory}} for memory in (20, 50)]
    tree = {"strategies": strategies, "benchmarks": ["split-digits"], "seeds": 2}
    cells = suites.plan(suites.SuiteConfig.model_validate(tree))
    groups = [suites._grouped(Execution(log=("wandb",)), cell).group for cell in cells]
    assert groups == [f"split-digits er memory={memory}" for memory in (20, 20, 50, 50)]
    assert suites._grouped(Execution(log=("wandb",), group="mine"), cells[0]).group == "mine"
    assert suites._grouped(Execution(log=("csv",)), cells[0]).group is None


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_was_killed_and_goes_on_has_every_step_once(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    pytest.importorskip("tensorboard")
    log = ["csv", "tensorboard", "wandb"]
    program = KILLED.format(out=str(tmp_path), log=log)
    others = {
        name: value for name, value in os.environ.items() if not name.startswith("WANDB")
    }  # its service
    environment = {**others, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", program], env=environment)
    assert killed.returncode == -signal.SIGKILL
    record = run(tmp_path, log)
    steps = list(range(record.budget["steps"]))
    assert record.folder is not None
    assert [int(row["step"]) for row in table(record.folder / "losses.csv")] == steps
    found = table(record.folder / "evaluations.csv")
    assert [int(row["step"]) for row in found] == record.curve.step.tolist()
    assert sorted(tensorboard(record)["loss/fit"]) == steps
    assert_evaluations(record, tensorboard(record))
    (file,) = offline(record)
    rows, _ = history(file)
    assert [row["_step"] for row in rows] == [*steps, len(steps)]
    assert_evaluations(record, by_name(rows))


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_diverges_closes_its_loggers(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    import wandb

    assert run(tmp_path, ["wandb", "csv"], lr=1e30).status == "diverged"
    assert wandb.run is None


@pytest.mark.parametrize("package", ["wandb", "tensorboard"])
def test_a_package_that_is_missing_is_named(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in ("wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(clbench.ClbenchError, match=rf"pip install 'clbench\[{package}\]'"):
        run(tmp_path, [package])
    assert not list(tmp_path.iterdir())
