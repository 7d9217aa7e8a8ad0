"""Where a run takes place: machine, Python and libraries."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def environment(device: str, threads: int) -> dict[str, Any]:
    """Machine, Python, libraries and device."""
    versions: dict[str, str | None] = {}
    for package in ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    if "river" in sys.modules:
        versions["river"] = version("river")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "instructions": _instructions(),
        "device": device,
        "threads": threads,
        "libraries": versions,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _instructions() -> str:
    """Return the vector instructions that torch computes with, `AVX2` or `AVX512`: processors of one name may differ
    in them, and round otherwise then."""
    import torch

    return torch.backends.cpu.get_cpu_capability()
