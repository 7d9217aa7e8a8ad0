"""Joules: added up over zones and stretches, over counters that begin anew, and unknown where they cannot be read."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clbench import make_strategy
from clbench.machine import energy
from clbench.machine.energy import Meter
from clbench.testing import tiny_benchmark, tiny_run

CPU = torch.device("cpu")
MOST = 1_000_000_000


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages, a core and memory within the first one, the platform around them, and another interface."""
    names = {"0": "package-0", "0:0": "core", "0:1": "dram", "1": "package-1", "2": "psys"}
    for number, name in names.items():
        zone = tmp_path / f"intel-rapl:{number}"
        zone.mkdir()
        (zone / "name").write_text(f"{name}\n")
        (zone / "max_energy_range_uj").write_text(f"{MOST}\n")
        write(zone, 100_000_000)
    (tmp_path / "intel-rapl-mmio:0").mkdir()
    return tmp_path


def write(zone: Path, microjoules: int) -> None:
    (zone / "energy_uj").write_text(f"{microjoules}\n")


def test_packages_and_memory_are_added_up_between_start_and_stop(powercap: Path) -> None:
    meter = Meter(CPU, powercap)
    write(powercap / "intel-rapl:0", 150_000_000)  # before the start: no part of it
    meter.start()
    for zone, microjoules in (
        ("0", 170_000_000),
        ("0:0", 900),
        ("0:1", 101_000_000),
        ("1", 102_000_000),
        ("2", 0),
    ):
        write(powercap / f"intel-rapl:{zone}", microjoules)
    meter.stop()
    assert meter.cpu == pytest.approx(20 + 1 + 2)
    write(powercap / "intel-rapl:0", 500_000_000)  # between two stretches
    meter.start()
    write(powercap / "intel-rapl:0", 500_500_000)
    meter.stop()
    assert meter.cpu == pytest.approx(23.5)
    assert meter.gpu is None


def test_a_counter_that_begins_anew_goes_on(powercap: Path) -> None:
    meter = Meter(CPU, powercap)
    write(powercap / "intel-rapl:1", MOST - 3_000_000)
    meter.start()
    write(powercap / "intel-rapl:1", 4_000_000)
    meter.stop()
    assert meter.cpu == pytest.approx(7)


def test_looks_are_some_time_apart_and_lose_nothing(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(energy.time, "monotonic", lambda: now)
    meter = Meter(CPU, powercap)
    meter.look()
    meter.start()
    write(powercap / "intel-rapl:0", 101_000_000)
    meter.look()
    assert meter.cpu == 0
    now += energy.SECONDS
    meter.look()
    assert meter.cpu == pytest.approx(1)
    write(powercap / "intel-rapl:0", 103_000_000)
    meter.stop()
    assert meter.cpu == pytest.approx(3)


@pytest.mark.parametrize("breaks", ["missing", "words", "none"])
def test_what_cannot_be_read_is_unknown(powercap: Path, breaks: str) -> None:
    if breaks == "none":
        assert Meter(CPU, powercap / "nowhere").cpu is None
        return
    file = powercap / "intel-rapl:1" / "energy_uj"
    meter = Meter(CPU, powercap)
    meter.start()
    file.unlink() if breaks == "missing" else file.write_text("?")
    assert Meter(CPU, powercap).cpu is None  # nor the part that can be read
    meter.stop()
    assert meter.cpu is None


def test_a_run_that_goes_on_adds_to_what_it_had(powercap: Path) -> None:
    before, after = Meter(CPU, powercap), Meter(CPU, powercap)
    before.start()
    write(powercap / "intel-rapl:0", 105_000_000)
    before.stop()
    after.load_state_dict(before.state_dict())
    after.start()
    write(powercap / "intel-rapl:0", 106_000_000)
    after.stop()
    assert after.cpu == pytest.approx(6)
    after.load_state_dict({})  # a checkpoint from before joules were read
    assert after.cpu is None


def nvml(**changes: Any) -> Any:
    class NVMLError(Exception):
        pass

    counts = iter([1000, 1000, 4500])
    given = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: next(counts),
        "NVMLError": NVMLError,
    }
    return SimpleNamespace(**{**given, **changes})


def test_a_gpu_is_asked_by_its_uuid(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setitem(
        sys.modules, "pynvml", nvml(nvmlDeviceGetHandleByUUID=lambda uuid: asked.append(uuid) or uuid)
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12-ab"))
    meter = Meter(torch.device("cuda", 0), powercap)
    meter.start()
    meter.stop()
    assert asked == ["GPU-12-ab"]
    assert meter.gpu == pytest.approx(3.5)


def test_a_gpu_that_counts_nothing_is_unknown(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = nvml()

    def unsupported(handle: str) -> int:
        raise module.NVMLError

    module.nvmlDeviceGetTotalEnergyConsumption = unsupported
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12-ab"))
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert Meter(torch.device("cuda", 0), powercap).gpu is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert Meter(torch.device("cuda", 0), powercap).gpu is None


def test_a_record_holds_what_was_read_or_null(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(make_strategy("finetune"), tiny_benchmark(experiences=1), epochs=1)
    run.energy = Meter(CPU, powercap)
    write(powercap / "intel-rapl:0", 200_000_000)
    end = run.energy.stop

    def ends() -> None:
        write(powercap / "intel-rapl:0", 212_340_000)
        end()

    monkeypatch.setattr(run.energy, "stop", ends)
    run.fit()
    assert run.budget()["whole_cpu_joules"] == 12.3
    assert run.budget()["whole_gpu_joules"] is None
