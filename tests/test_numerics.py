"""A run's numbers are its own: whatever the caller has set, they are the same, and the caller has it again."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import backends

import clbench
from clbench.errors import ConfigError
from clbench.machine.numerics import SWITCHES, WORKSPACE, describe, deterministic, pinned
from clbench.reports.leaderboard.board import row_id

Made = contextlib.AbstractContextManager[Any]


@contextlib.contextmanager
def said(change: Callable[[], object], back: Callable[[], object]) -> Iterator[None]:
    change()
    try:
        yield
    finally:
        back()


def flag(of: Any, name: str, value: Any) -> Callable[[], Made]:
    back = getattr(of, name)
    return lambda: said(lambda: setattr(of, name, value), lambda: setattr(of, name, back))


def switched(change: Callable[[Any], object], value: Any, back: Any) -> Callable[[], Made]:
    return lambda: said(lambda: change(value), lambda: change(back))


CALLERS: dict[str, Callable[[], Made]] = {
    "float32_matmul": switched(torch.set_float32_matmul_precision, "medium", "highest"),
    "fp32_precision": flag(backends, "fp32_precision", "bf16"),
    "mkldnn.conv": flag(backends.mkldnn.conv, "fp32_precision", "bf16"),  # type: ignore[attr-defined]
    "mkldnn.matmul": flag(backends.mkldnn.matmul, "fp32_precision", "bf16"),  # type: ignore[attr-defined]
    "cudnn.fp32_precision": flag(backends.cudnn, "fp32_precision", "tf32"),
    "cudnn.benchmark": flag(backends.cudnn, "benchmark", True),
    "mkldnn.enabled": flag(backends.mkldnn, "enabled", False),
    "attention": switched(backends.cuda.enable_flash_sdp, False, True),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default_dtype": switched(torch.set_default_dtype, torch.float64, torch.float32),
    "default_device": switched(torch.set_default_device, "meta", None),
    "device": lambda: torch.device("meta"),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "deterministic": switched(torch.use_deterministic_algorithms, True, False),
    "anomaly": switched(torch.set_anomaly_enabled, True, False),
    "flush_denormal": switched(torch.set_flush_denormal, True, False),
    "numpy": lambda: np.errstate(all="raise"),
    "threads": switched(torch.set_num_threads, 2, 1),
}


def standing() -> list[Any]:
    return [
        *(switch.read() for switch in SWITCHES),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_num_threads(),
        np.geterr(),
    ]


def run(out: Path, **settings: Any) -> clbench.Record:
    given = {"model": "slim-resnet18", "width": 4, "iterations": 4, "every": 2, "memory": 20, **settings}
    return clbench.run("split-digits", "er", out=out, device="cpu", **given)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> clbench.Record:
    return run(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("caller", CALLERS)
def test_a_run_has_its_numbers_whatever_the_caller_has_set(
    caller: str, plain: clbench.Record, tmp_path: Path
) -> None:
    with CALLERS[caller]():
        before = standing()
        record = run(tmp_path)
        assert standing() == before
    assert record.id == plain.id
    assert record.curve.sha256() == plain.curve.sha256()
    assert record.environment["numerics"] == plain.environment["numerics"]


@pytest.mark.parametrize("caller", CALLERS)
def test_a_caller_has_it_again_after_an_exception(caller: str) -> None:
    with CALLERS[caller]():
        before = standing()
        with pytest.raises(RuntimeError, match="inside"):
            look_and_raise()
        assert standing() == before


def look_and_raise() -> None:
    with pinned(3):
        assert [switch.read() for switch in SWITCHES] == [switch.wanted for switch in SWITCHES]
        assert torch.get_num_threads() == 3
        raise RuntimeError("inside")


@pytest.mark.parametrize("caller", ["default_dtype", "device", "inference_mode"])
def test_data_and_networks_are_made_as_ever(caller: str) -> None:
    x, y = torch.rand(40, 6), torch.arange(40) % 4
    torch.manual_seed(0)
    plain = clbench.make_model("mlp", (6,), 4, hidden=[5])
    torch.manual_seed(0)
    with CALLERS[caller]():
        benchmark = clbench.from_arrays(x, y, x, y, experiences=2)
        model = clbench.make_model("mlp", (6,), 4, hidden=[5])
    assert benchmark.fingerprint == clbench.from_arrays(x, y, x, y, experiences=2).fingerprint
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_of_two_runs_in_one_process_the_last_gives_back() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with pinned():
            entered.set()
            leave.wait()

    with CALLERS["default_dtype"]():
        thread = threading.Thread(target=other)
        with pinned():
            thread.start()
            entered.wait()
        assert torch.get_default_dtype() == torch.float32  # the other one is at work
        leave.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64


def test_a_record_says_how_the_switches_stood(plain: clbench.Record) -> None:
    numerics = plain.environment["numerics"]
    assert (numerics["float32_matmul"], numerics["fp32.mkldnn.matmul"]) == ("highest", "ieee")
    with pinned():
        assert numerics == describe()


# --- threads ---


def test_a_run_has_one_thread_and_any_other_number_is_another_run(
    plain: clbench.Record, tmp_path: Path
) -> None:
    two = run(tmp_path, threads=2)
    assert (plain.config["threads"], two.config["threads"]) == (1, 2)
    assert (plain.environment["threads"], two.environment["threads"]) == (1, 2)
    assert two.id != plain.id
    assert row_id(two) != row_id(plain)
    old = {key: value for key, value in plain.config.items() if key != "threads"}
    assert row_id(replace(plain, config=old)) == row_id(plain)  # older records leave it out


def test_threads_are_no_part_of_how_a_run_is_carried_out(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'threads' is a setting of the run, and part of its id: threads=2"
    ):
        clbench.run("split-digits", "er", out=tmp_path, execution={"threads": 2})


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_gpu_is_deterministic_where_that_is_wanted(
    wanted: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORKSPACE, ":16:8")
    before = describe()
    with pinned(), deterministic(wanted, torch.device(kind)):
        told = describe()
    assert (told["deterministic"], told["cudnn.deterministic"]) == (
        (2, True) if wanted and kind == "cuda" else (0, False)
    )
    assert describe() == before


def test_a_setting_of_cublas_that_forbids_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":8:8")
    with pytest.raises(ConfigError, match=r"CUBLAS_WORKSPACE_CONFIG=:4096:8 or :16:8, and it is :8:8"):
        deterministic(True, torch.device("cuda")).__enter__()
