"""Memory, length, and the price of checkpoints, measured in processes of their own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

MB = 1 << 20


def alone(function: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
    """What a function returns in a fresh child of a server that has torch loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["clbench.runs.lifecycle", "clbench.parts", "pytest"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(there, function, given))
    process.start()
    there.close()
    found: dict[str, Any] = here.recv()
    process.join()
    return found


def _child(told: Connection, function: Callable[..., dict[str, Any]], given: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    told.send(function(*given))


def resident() -> int:
    """Bytes of memory that this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    """Bytes of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu() -> float:
    return time.process_time()


# --- a long curve ---


def curve_of(rows: int, folder: Path) -> dict[str, Any]:
    """A curve of so many rows, ten streams a tick: appended tick by tick, written, read, and turned into metrics."""
    from clbench.results import metrics
    from clbench.results.curve import Curve

    before, began = resident(), cpu()
    curve, ticks, streams = Curve(), rows // 10, np.arange(10)
    for tick in range(ticks):
        at = {"step": tick + 1, "examples": 10 * tick, "experience": 10 * tick // ticks}
        curve.append(**at, evaluated=streams, correct=streams % 7, total=10, loss=1.0, full=False)
    appended, held = cpu(), resident() - before
    curve.save(folder / "curve.npz")
    saved = cpu()
    same = Curve.load(folder / "curve.npz") == curve
    loaded = cpu()
    metrics.compute(curve)
    return {
        "rows": len(curve),
        "same": same,
        "held_mb": round(held / MB),
        "peak_mb": round((peak() - before) / MB),
        "file_mb": round((folder / "curve.npz").stat().st_size / MB, 1),
        "append_microseconds_a_row": round(1e6 * (appended - began) / len(curve), 2),
        "save_seconds": round(saved - appended, 2),
        "load_seconds": round(loaded - saved, 2),
        "metrics_seconds": round(cpu() - loaded, 2),
    }


# --- a long stream ---


def stream_of(experiences: int, folder: Path) -> dict[str, Any]:
    """A stream of so many experiences, two steps each, every seen one evaluated after every step."""
    import clbench
    from clbench.engine.observer import Observer
    from clbench.testing import tiny_benchmark

    benchmark = tiny_benchmark(shift="domain", experiences=experiences, examples=16)
    ends: list[tuple[float, int]] = []

    class Ends(Observer):
        def end_experience(self, run: Any) -> None:
            ends.append((run.clock.seconds, resident()))

    before, began = resident(), cpu()
    record = clbench.run(
        benchmark,
        "er",
        out=folder,
        device="cpu",
        observers=[Ends()],
        **{"memory": 100, "iterations": 2, "hidden": [8], "evaluation.subset": 1, "evaluation.future": False},
    )
    assert record.status == "done"
    fifth = max(experiences // 5, 1)
    return {
        "experiences": experiences,
        "rows": len(record.curve),
        "memory_mb": round((peak() - before) / MB),
        "cpu_seconds": round(cpu() - began, 1),
        "late_to_early_training": round((ends[-1][0] - ends[-fifth][0]) / (ends[fifth][0] - ends[0][0]), 2),
        "curve_file_mb": round((record.folder / "curve.npz").stat().st_size / MB, 1),  # type: ignore[operator]
    }


# --- leaks ---


def steps_of(strategy: str, steps: int, folder: Path) -> dict[str, Any]:
    """Memory over so many steps: its slope after the first fifth and in the second half, and what the curve takes."""
    import clbench
    from clbench.engine.observer import Observer

    held: list[tuple[int, int]] = []

    class Watches(Observer):
        def window(self, run: Any, rows: Any) -> None:
            held.append((run.step, resident()))

    record = clbench.run(
        "split-digits",
        strategy,
        out=folder,
        device="cpu",
        observers=[Watches()],
        **{
            "experiences": 2,
            "iterations": steps // 2,
            "hidden": [32],
            "evaluation.every": 50,
            "evaluation.subset": 20,
        },
    )
    at, size = np.array(held, dtype=float).T

    def slope(since: int) -> float:
        late = at >= since
        return round(float(np.polyfit(at[late], size[late], 1)[0]) * 1000 / 1024, 1)

    return {
        "strategy": strategy,
        "steps": record.budget["steps"],
        "resident_mb": round(float(size[-1]) / MB, 1),
        "kb_per_1000_steps": slope(steps // 5),
        "late_kb_per_1000_steps": slope(steps // 2),
        "curve_kb_per_1000_steps": round(72 * len(record.curve) / record.budget["steps"] * 1000 / 1024, 1),
    }


# --- checkpoints ---

CHECKPOINTS: list[tuple[str, dict[str, Any]]] = [
    ("er", {}),
    ("er", {"memory": 1000, "hidden": [400, 400]}),
    ("ewc", {"hidden": [400, 400]}),
    ("er", {"model": "slim-resnet18"}),
]
"""Strategies and settings whose checkpoints are weighed."""


def checkpoints_of(benchmark: str, strategy: str, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Size of a checkpoint, and processor time to write and to read one, beside that of a training step."""
    from clbench import config
    from clbench.machine import checkpoint
    from clbench.runs import building

    resolved = config.resolve(benchmark, strategy, {"evaluation.every": 0, **settings})
    run = building.build(resolved, config.Execution(device="cpu", checkpoint_seconds=None))
    run.until, began = 30, cpu()
    with contextlib.suppress(KeyboardInterrupt):
        run.fit()
    step = run.clock.seconds / run.step
    path, times = folder / "checkpoint.safetensors", []
    for _ in range(3):
        before = cpu(), time.perf_counter()
        checkpoint.save(path, {"run": run.state_dict()})
        times.append((cpu() - before[0], time.perf_counter() - before[1]))
    before_load = cpu()
    checkpoint.load(path)
    return {
        "run": " ".join([strategy, *(f"{key}={value}" for key, value in settings.items())]),
        "parameters": run.budget()["parameters"],
        "size_mb": round(path.stat().st_size / MB, 2),
        "save_seconds": round(sorted(t for t, _ in times)[1], 4),
        "save_wall_seconds": round(sorted(t for _, t in times)[1], 4),
        "load_seconds": round(cpu() - before_load, 4),
        "steps_a_save": round(sorted(t for _, t in times)[1] / step, 1),
        "share_of_a_minute": round(sorted(t for _, t in times)[1] / 60, 5),
        "cpu_seconds": round(cpu() - began, 1),
    }
