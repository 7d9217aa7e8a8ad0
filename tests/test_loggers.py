"""Loggers write a run down elsewhere and cannot change it."""

from __future__ import annotations

import csv
import json
import socket
from pathlib import Path
from typing import Any

import pytest

import clbench
from clbench.ledger import Record

LOGS = ["csv", "tensorboard", pytest.param("wandb", marks=pytest.mark.filterwarnings("ignore"))]
TENSORBOARD = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def run(out: Path, log: list[str], **params: Any) -> Record:
    given = {"epochs": 1, "hidden": [8], "experiences": 2, "device": "cpu", "memory": 20, **params}
    return clbench.run("split-digits", "er", out=out, execution={"log": log, "threads": 1}, **given)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No host but this one may be asked for anything."""
    monkeypatch.chdir(tmp_path)
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


def test_csv_holds_every_loss_of_every_step(tmp_path: Path) -> None:
    folder = run(tmp_path, ["csv"]).folder
    assert folder is not None
    with (folder / "losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [(int(r["step"]), r["loss"], float(r["value"])) for r in rows] == [
        (r["step"], "fit", r["fit"]) for r in log
    ]


@TENSORBOARD
def test_tensorboard_holds_losses_and_accuracies(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = run(tmp_path, ["tensorboard"])
    assert record.folder is not None
    events = EventAccumulator(str(record.folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert len(events.Scalars("loss/fit")) == record.budget["steps"]
    assert [event.value for event in events.Scalars("accuracy/experience 0")][-1] == pytest.approx(
        record.curve.ticks().accuracy[-1, 0]
    )


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
