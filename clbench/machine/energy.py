"""Joules that a machine's processors and a GPU take while a run goes on, where they can be read.

Both counters are of everything that runs there, other programs included. Processors: Linux's powercap (RAPL), whose
files only root may read on most systems (`chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj` lets others). GPU:
NVML, by `pynvml` (the package nvidia-ml-py) where it is installed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")
COUNTED = ("package", "dram")
"""Zones that are added up: packages, which hold their cores, and memory beside them. Not `psys`, which holds both."""
SECONDS = 1.0
"""Between two looks at the counters. They begin anew after some minutes (262 kJ), which must not pass unseen twice."""


@dataclass
class Zone:
    """A counter of microjoules that begins anew after `most`."""

    path: Path
    most: int
    last: int

    def since(self) -> int:
        """Microjoules since the last look."""
        now = _number(self.path / "energy_uj")
        spent = now - self.last if now >= self.last else now + self.most - self.last
        self.last = now
        return spent


def zones(root: Path = POWERCAP) -> list[Zone]:
    """Return the zones of this machine that are added up; none if one of them cannot be read."""
    found = []
    try:
        for path in sorted(root.glob("intel-rapl:*")):
            if (path / "name").read_text(encoding="ascii").startswith(COUNTED):
                most, last = _number(path / "max_energy_range_uj"), _number(path / "energy_uj")
                found.append(Zone(path, most, last))
    except (OSError, ValueError):
        return []
    return found


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def gpu_counter(device: torch.device) -> Callable[[], int] | None:
    """Millijoules of a GPU since its driver was loaded; None where nobody counts them."""
    if device.type != "cuda":
        return None
    try:
        import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return None
    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
        # By its UUID, as torch's numbers depend on CUDA_VISIBLE_DEVICES.
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError:  # no driver, an old GPU, or a part of one (MIG)
        return None

    return lambda: int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))


class Meter:
    """Adds up joules between `start` and `stop`, over as many stretches as there are.

    Attributes:
        cpu, gpu: joules so far; None where they cannot be read, or could not at some time.
    """

    def __init__(self, device: torch.device, root: Path = POWERCAP) -> None:
        self._zones, self._gpu = zones(root), gpu_counter(device)
        self.cpu: float | None = 0.0 if self._zones else None
        self.gpu: float | None = 0.0 if self._gpu else None
        self._running = False
        self._looked = 0.0
        self._millijoules = 0

    def start(self) -> None:
        """Count what is spent from now on."""
        self._look()
        self._running = True

    def look(self) -> None:
        """Take over what was spent, if the last look is some time ago."""
        if self._running and time.monotonic() - self._looked >= SECONDS:
            self._look()

    def stop(self) -> None:
        """Count nothing until the next `start`."""
        if self._running:
            self._look()
        self._running = False

    def _look(self) -> None:
        self._looked = time.monotonic()
        if self.cpu is not None:
            try:
                spent = sum([zone.since() for zone in self._zones])
            except (OSError, ValueError):  # no longer readable
                self.cpu = None
            else:
                self.cpu += 1e-6 * spent * self._running
        if self.gpu is not None and self._gpu is not None:
            now = self._gpu()
            self.gpu += 1e-3 * (now - self._millijoules) * self._running
            self._millijoules = now

    def state_dict(self) -> dict[str, float | None]:
        """Joules so far."""
        return {"cpu": self.cpu, "gpu": self.gpu}

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        """Go on from there; what could not be read then is not known now."""
        for name in ("cpu", "gpu"):
            before, here = state.get(name), getattr(self, name)
            setattr(self, name, None if before is None or here is None else before)
