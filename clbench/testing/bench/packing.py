"""Several seeds on one device at once, against one after the other."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clbench.config import Execution, validate
from clbench.runs import suite
from clbench.runs.cells import Cell
from clbench.runs.launchers import Local

SETTINGS: Mapping[str, Any] = {
    "batch_size": 10,
    "memory": 500,
    "lr": 0.05,
    "momentum": 0.0,
    "evaluation.every": 10,
    "subset": 100,
}


def packing(most: int, steps: int, device: torch.device, **settings: Any) -> dict[str, Any]:
    """Return how many runs are done in a second with 1, 2, 4 … `most` of them at a time, and whether bits are the same.

    `most` seeds of replay on the digits, each a process with one thread; on a GPU they share it. The time is that of
    all of them, starts of processes included.

    Args:
        most: seeds. steps: of each experience. device: which they share. settings: of the runs, the model for example.
    """
    counts = [2**i for i in range(most.bit_length()) if 2**i < most] + [most]
    given = {
        "strategies": ["er"],
        "benchmarks": ["split-digits"],
        "seeds": most,
        "settings": {**SETTINGS, "iterations": steps, **settings},
    }
    config = validate(suite.SuiteConfig, given)
    with tempfile.TemporaryDirectory() as folder:
        _carry_out(config, Path(folder) / "warm up", device, 1, seeds=[0])
        rows: list[dict[str, Any]] = []
        alone: list[str] = []
        for count in counts:
            seconds, bits = _carry_out(config, Path(folder) / str(count), device, count)
            alone = alone or bits
            gain = (rows[0]["seconds"] if rows else seconds) / seconds
            found = {"at_once": count, "seconds": seconds, "runs_per_second": most / seconds}
            rows.append({**found, "gain": gain, "same_bits": bits == alone})
    return {"case": settings.get("model", "mlp"), "seeds": most, "steps": steps, "rows": rows}


def _carry_out(
    config: suite.SuiteConfig, folder: Path, device: torch.device, count: int, seeds: list[int] | None = None
) -> tuple[float, list[str]]:
    """Seconds of a suite with so many runs at a time, and the hash of every run's curve."""
    cells = suite.plan(config, seeds=seeds)
    launcher = Local(per_gpu=count) if device.type == "cuda" else Local(workers=count)
    began = time.perf_counter()
    how = Execution(device=str(device), checkpoint_seconds=None)
    suite.run(cells, folder, how, launcher=launcher)
    seconds = time.perf_counter() - began
    return seconds, [_bits(cell) for cell in cells]


def _bits(cell: Cell) -> str:
    if cell.record is None or cell.record.status != "done":
        raise RuntimeError(f"{cell}: {cell.state}: {cell.message}")
    return cell.record.curve_file["sha256"]
