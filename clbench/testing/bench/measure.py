"""Training steps and evaluations, clbench beside others."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from clbench.config import Execution, resolve
from clbench.engine import capture
from clbench.engine.trace import WINDOW
from clbench.machine.device import keep_freed_memory, pick_device
from clbench.models import make_model
from clbench.results import metrics
from clbench.runs.building import build
from clbench.testing.bench import contenders as make
from clbench.testing.bench.contenders import CASES, CLASSES, DIGIT, IMAGE, Case
from clbench.testing.bench.packing import packing
from clbench.testing.bench.turns import Contender, take_turns
from clbench.testing.tools import one_thread

STRETCH = 10
"""Training steps that a contender takes in a row, as a loop that runs alone finds its own weights in the caches."""
WARM_UP = 20
"""First steps, which fill a memory and are not reported; of long cases a share of them."""
STREAMS, IMAGES = 5, 1000
"""Test streams and examples in each, of the evaluation that is timed."""
PACKED: Mapping[str, Sequence[tuple[str, int]]] = {
    "cpu": (("mlp", 400), ("slim-resnet18", 10)),
    "cuda": (("mlp", 400), ("slim-resnet18", 200)),
}
"""Models of the seeds that share a device, and steps in each of the five experiences: some seconds a run."""
FROZEN = ("linear-probe", "ncm", "l2p", "dualprompt")
"""Strategies whose network, or a part of it, stays as it is."""
VIT, VIT_IMAGES = "timm:vit_tiny_patch16_224", 40
"""The network they are timed on, in 6 blocks, and test images of each stream."""
LEVELS: Mapping[str, Mapping[str, Any]] = {
    "exact": {},
    "fast": {"level": "fast"},
    "racing": {"level": "racing"},
    "racing, error 0.01": {"level": "racing", "evaluation.error": 0.01},
    "racing+fast": {"level": "racing+fast"},
    "racing+fast, error 0.01": {"level": "racing+fast", "evaluation.error": 0.01},
}


def measure(
    steps: int = 200,
    *,
    device: str = "auto",
    cases: Sequence[Case] = CASES,
    rivals: bool = True,
    rounds: int = 3,
    run_steps: int = 40,
    packed: int = 0,
    mammoth: Path | None = None,
    keep: Callable[[dict[str, Any]], None] = lambda results: None,
) -> dict[str, Any]:
    """Return all figures, JSON-able.

    Args:
        steps: laps of each contender in training; of long cases a share of them; 0 leaves training out.
        rivals: Avalanche as well, if it is installed.
        rounds: evaluations of each contender; 0 leaves evaluation out.
        run_steps: steps in each experience of the runs that compare levels; 0 leaves them out.
        packed: seeds that share the device, at most; 0 leaves them out.
        mammoth: a checkout of Mammoth, whose ER joins the steps with replay.
        keep: called with what there is after each row, as the whole takes minutes.
    """
    where = pick_device(device)
    keep_freed_memory()  # of all contenders alike, as a run does it for the whole process
    with one_thread():  # so that the figures are of work and not of waiting for another thread
        module = make.avalanche() if rivals else None
        er = make.mammoth(mammoth) if mammoth is not None else None
        results: dict[str, Any] = {
            "machine": about(where),
            "avalanche": None if module is None else str(module.__version__),
            "steps": [],
            "evaluations": [],
            "frozen": [],
            "runs": [],
            "packing": [],
        }
        for case in cases if steps else ():
            results["steps"].append(steps_of(case, max(10, round(steps * case.share)), where, module, er))
            keep(results)
        for case in (Case("mlp", DIGIT, 10), Case("slim-resnet18", IMAGE, 10)) if rounds else ():
            results["evaluations"].append(_evaluations(case, rounds, where, module))
            keep(results)
        for strategy in FROZEN if rounds else ():
            results["frozen"].append(_frozen(strategy, rounds, where))
            keep(results)
        runs = ("split-mnist", "mlp", run_steps), ("split-cifar10", "slim-resnet18", max(run_steps // 10, 2))
        for name, model, many in runs if run_steps else ():
            results["runs"].append(_runs(name, "split-digits", model, many, where))
            keep(results)
        for name, many in PACKED[where.type] if packed else ():
            results["packing"].append(packing(packed, many, where, model=name))
            keep(results)
        return results


def steps_of(
    case: Case, laps: int, device: torch.device, module: Any, er: type[Any] | None
) -> dict[str, Any]:
    """Training without evaluation."""
    warm_up = max(capture.WARM_UP + 2, round(WARM_UP * case.share))  # what is recorded is by then
    benchmark = make.random_benchmark(case, warm_up + laps + 2)
    model = make_model(case.model, case.input_shape, benchmark.num_classes)
    work = make.Work(case, benchmark, model, device)
    rivals = [make.bare(work), make.clbench(work)]
    if device.type == "cuda":
        rivals.append(make.clbench(work, name="clbench, eager", capture="never"))
    if module is not None and not case.language:
        rivals += [make.avalanche_training(module, work, images=images) for images in (False, True)]
    if er is not None and case.replay:
        rivals.append(make.mammoth_training(er, work))
    take_turns(rivals, warm_up + laps, device, STRETCH)
    return {
        "case": str(case),
        "laps": laps,
        # One lap of the engine in WINDOW fetches the losses; its excess is in the mean and not in the median.
        "window": WINDOW,
        "ms": {rival.name: rival.summary(warm_up) for rival in rivals},
    }


def _evaluations(case: Case, rounds: int, device: torch.device, module: Any) -> dict[str, Any]:
    """One evaluation of five streams of 1,000 images."""
    benchmark = make.random_benchmark(case, 1, STREAMS, IMAGES)
    model = make_model(case.model, case.input_shape, CLASSES)
    work = make.Work(case, benchmark, model, device)
    rivals = [make.evaluation(work, level, level) for level in ("exact", "fast")]
    if module is not None:
        best = 64 if case.model != "mlp" and device.type == "cpu" else 256
        how = ((True, 256), (False, best))
        rivals += [
            make.avalanche_evaluation(module, work, images=images, batch_size=size) for images, size in how
        ]
    return _timed(case.model, rivals, rounds, device, IMAGES)


def _frozen(strategy: str, rounds: int, device: torch.device) -> dict[str, Any]:
    """Ticks of a strategy on a transformer that stays as it is, which is asked once for each image, or every time."""
    case = Case(VIT, IMAGE, 10)
    benchmark = make.random_benchmark(case, 1, STREAMS, VIT_IMAGES)
    model = make_model(VIT, IMAGE, CLASSES, patch_size=4, depth=6)
    work = make.Work(case, benchmark, model, device)
    rivals = [
        make.evaluation(work, "exact", name, strategy=strategy, keep=keep)
        for name, keep in (("asked once", True), ("asked every time", False))
    ]
    return _timed(strategy, rivals, rounds, device, VIT_IMAGES)


def _timed(
    case: str, rivals: Sequence[Contender], rounds: int, device: torch.device, images: int
) -> dict[str, Any]:
    take_turns(rivals, 1 + rounds, device)
    times = {rival.name: rival.summary(1) for rival in rivals}
    return {"case": case, "streams": STREAMS, "images": images, "rounds": rounds, "ms": times}


def _runs(benchmark: str, instead: str, model: str, steps: int, device: torch.device) -> dict[str, Any]:
    """Runs of replay, evaluated after every step at each level; milliseconds for 5 × 1,000 images' worth of ticks.

    Real images where they are, as the share that a race evaluates depends on accuracies; scikit-learn's digits
    elsewhere.
    """
    from clbench.errors import ClbenchError

    try:
        found = _run(benchmark, model, steps, device)
    except ClbenchError:  # its data are not here, and a benchmark downloads nothing unasked
        benchmark = instead
        found = _run(benchmark, model, steps, device)
    rows = {"exact": found}
    for name, settings in LEVELS.items():
        if name != "exact":
            rows[name] = _run(benchmark, model, steps, device, **settings)
    _run(benchmark, model, 1, device, overlap=True)  # loads torch where other processes are forked from
    for name in ("exact", "fast", "racing+fast", "racing+fast, error 0.01"):
        rows[f"{name}, overlap"] = _run(benchmark, model, steps, device, overlap=True, **LEVELS[name])
    return {"benchmark": benchmark, "case": model, "steps": steps, "rows": rows}


def _run(
    benchmark: str, model: str, steps: int, device: torch.device, overlap: bool = False, **settings: Any
) -> dict[str, Any]:
    given = {"model": model, "iterations": steps, "batch_size": 10, "subset": IMAGES, "memory": 500}
    plain = {"lr": 0.05, "momentum": 0.0, "evaluation.future": False}
    config = resolve(benchmark, "er", {**given, **plain, **settings})
    run = build(config, Execution(device=str(device), overlap=overlap, checkpoint_seconds=None))
    began = time.perf_counter()
    run.fit()
    wall = time.perf_counter() - began
    curve = run.evaluator.curve
    ticks = ~curve.full
    whole = int(curve.of[ticks].sum())
    values = metrics.compute(curve, ("min_acc", "wc_acc"))
    return {
        **values,
        "ms": 1e3 * run.evaluator.clock.by["ticks"] / whole * STREAMS * IMAGES,
        "train_ms": 1e3 * run.clock.seconds / run.step,
        "wall_s": wall,
        "share": float(curve.total[ticks].sum() / whole),
        "disagreement": run.evaluator.describe().get("disagreement", {}).get("judged_differently"),
    }


def about(device: torch.device) -> dict[str, Any]:
    from clbench.config import cores
    from clbench.machine.environment import environment

    where = environment(str(device), 1)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else where["processor"]
    flags = Path("/proc/cpuinfo")
    text = flags.read_text(encoding="utf-8", errors="replace") if flags.is_file() else ""
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    found = [flag for flag in known if f" {flag} " in text]
    return {
        "device": f"{name}, {cores()} cores" + (f" ({', '.join(found)})" if found else ""),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": 1,
    }
