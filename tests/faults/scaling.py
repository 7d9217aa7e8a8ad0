"""Two workers against one: runs that keep a core busy each, by processes of this machine and on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from clbench.config import Execution, cores, validate
from clbench.runs import suite
from clbench.runs.launchers import Launcher, Local, Ray

HOW = Execution(device="cpu", checkpoint_seconds=None)


def scaling(runs: int, steps: int, rounds: int, folder: Path, launchers: Sequence[str]) -> dict[str, Any]:
    """Seconds that so many runs take one worker and two, the fastest of some rounds, and whether bits are the same.

    A cluster's start is left out, and so is that of each worker, which loads torch: workers are warm.

    Args:
        runs: seeds of replay on the digits. steps: of each of their five experiences. rounds: of every measurement.
        folder: for the runs. launchers: local, ray.
    """
    rows = []
    bits: list[list[str]] = []
    for launcher in launchers:
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for number in range(rounds):
            for workers in seconds:
                place = folder / f"{launcher} {workers} {number}"
                with _started(launcher, workers) as started:
                    _carry_out(started, 2 * workers, 2, place / "warm up")
                    taken, curves = _carry_out(started, runs, steps, place)
                seconds[workers].append(taken)
                bits.append(curves)
        one, two = min(seconds[1]), min(seconds[2])
        rows.append(
            {
                "launcher": launcher,
                "one": round(one, 2),
                "two": round(two, 2),
                "efficiency": round(one / two / 2, 3),
                "all_seconds": {str(workers): [round(s, 2) for s in all] for workers, all in seconds.items()},
            }
        )
    same = all(curves == bits[0] for curves in bits)
    return {"runs": runs, "steps": 5 * steps, "cores": cores(), "same_bits": same, "rows": rows}


@contextmanager
def _started(launcher: str, workers: int) -> Iterator[Launcher]:
    if launcher == "local":
        yield Local(workers)
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        yield Ray()
    finally:
        ray.shutdown()


def _carry_out(launcher: Launcher, runs: int, steps: int, folder: Path) -> tuple[float, list[str]]:
    """Seconds, and the hash of every run's curve."""
    given = {
        "strategies": ["er"],
        "benchmarks": ["split-digits"],
        "seeds": runs,
        "settings": {"iterations": steps, "evaluation.every": 10},
    }
    cells = suite.plan(validate(suite.SuiteConfig, given))
    began = perf_counter()
    suite.run(cells, folder, HOW, launcher=launcher)
    taken = perf_counter() - began
    failed = [f"{cell}: {cell.state}: {cell.message}" for cell in cells if cell.state != "done"]
    if failed:
        raise RuntimeError("\n".join(failed))
    return taken, [cell.record.curve_file["sha256"] for cell in cells if cell.record is not None]
