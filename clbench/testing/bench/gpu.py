"""What a GPU does for clbench: one report within a given time, section by section, each of which stands alone.

A section for which no time is left, or that fails, says so in the report; the others stay. The first lines name the
device, so that no figure is read without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from clbench.config import Execution, resolve
from clbench.machine.device import present
from clbench.models import Classifier
from clbench.runs.building import build
from clbench.testing.bench.contenders import DIGIT, IMAGE, Case, avalanche
from clbench.testing.bench.measure import LEVELS, about, steps_of
from clbench.testing.bench.packing import packing
from clbench.testing.bench.show import grid, sections
from clbench.testing.subjects import subject
from clbench.testing.tools import difference, one_thread
from clbench.types import Benchmark

TEN = ("finetune", "er", "derpp", "er-ace", "ewc", "lwf", "mir", "scr", "pcr", "gem")
"""Strategies whose bits are looked at."""
STEPS = (Case("mlp", DIGIT, 10, replay=True), Case("slim-resnet18", IMAGE, 10, replay=True, share=0.5))


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        steps: laps of a contender, and steps of a run in each experience. rounds: evaluations.
        packed: seeds that share the device; 0 leaves them out.
        model: of whole runs. strategies: whose bits are looked at.
    """

    steps: int = 200
    rounds: int = 5
    packed: int = 8
    model: str = "slim-resnet18"
    strategies: Sequence[str] = TEN
    cases: Sequence[Case] = STEPS


DRY = Scale(steps=2, rounds=1, packed=0, model="mlp", strategies=TEN[:2], cases=STEPS[:1])
"""To see that the report can be made, not for its figures."""


def report(
    device: torch.device,
    scale: Scale = Scale(),
    seconds: float = 480.0,
    keep: Callable[[str], None] = lambda text: None,
) -> str:
    """Return the report as Markdown.

    Args:
        device: a GPU. seconds: after which no section begins; a section that began is carried to its end.
        keep: called with what there is after each section.
    """
    began = time.perf_counter()
    where = about(device)
    text = [
        f"# Performance on {torch.cuda.get_device_name(device)}",
        "",
        f"{where['device']}; torch {where['torch']}, CUDA {torch.version.cuda}, Python {where['python']}. Written by "
        "`clbench bench --gpu-report`; the sections' first rows are what the others are to be compared with.",
    ]
    longest = 0.0
    with one_thread(), present(device):
        for title, section in SECTIONS.items():
            start = time.perf_counter()
            text += ["", f"## {title}"]
            if start - began + longest > seconds:
                text += ["", "Left out: the time was up."]
            else:
                try:
                    text += list(section(device, scale))
                except Exception as error:  # the other sections are worth having
                    first = (str(error).splitlines() or [""])[0]
                    text += ["", f"Failed: {type(error).__name__}: {first[:300]}"]
            longest = max(longest, time.perf_counter() - start)
            keep("\n".join(text) + "\n")
    text += ["", f"All of it took {time.perf_counter() - began:.0f} s."]
    keep("\n".join(text) + "\n")
    return "\n".join(text) + "\n"


# --- the sections ---


def _steps(device: torch.device, scale: Scale) -> Iterator[str]:
    module = avalanche() if scale.packed else None
    rows = [
        steps_of(case, max(2, round(scale.steps * case.share)), device, module, None) for case in scale.cases
    ]
    yield from sections({"steps": rows})


def _kernels(device: torch.device, scale: Scale) -> Iterator[str]:
    """Of the engine's steps, eager: the kernels that take longest, and how much of the time one is at work."""
    run = _run(device, scale, {"iterations": scale.steps}, capture="never")
    if torch.version.cuda is None:
        run.fit()
        yield from ("", "This torch has no kernels to time.")
        return
    from torch.profiler import ProfilerActivity, profile

    start = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run.fit()
        torch.cuda.synchronize(device)
    wall = time.perf_counter() - start
    found = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in found)
    yield from (
        "",
        f"Kernels are at work {total / 1e4 / wall:.0f} % of {wall:.1f} s for {run.step} steps, eager.",
    )
    yield from grid(
        "kernel | times: | ms: | share of kernels' time:",
        [
            f"`{event.key[:70].replace('|', ' ')}` | {event.count} | {event.self_device_time_total / 1e3:.1f} | "
            f"{event.self_device_time_total / total:.0%}"
            for event in found[:12]
        ],
    )


def _precisions(device: torch.device, scale: Scale) -> Iterator[str]:
    rows = []
    for precision in ("fp32", "bf16", "fp16"):
        for capture in ("auto", "never"):
            run = _run(device, scale, {"iterations": scale.steps, "precision": precision}, capture=capture)
            run.fit()
            accuracy = float(run.evaluator.curve.matrix().R[-1].mean())
            ms = 1e3 * run.clock.seconds / run.step
            rows.append(f"{precision} | {run.gradients.describe()} | {ms:.3f} | {100 * accuracy:.1f}")
    yield from grid("precision | gradients | ms a step: | ACC:", rows)


def _levels(device: torch.device, scale: Scale) -> Iterator[str]:
    rows = []
    for overlap in (False, True):
        for name, settings in LEVELS.items():
            given = {"iterations": max(2, scale.steps // 5), "evaluation.every": 1, **settings}
            run = _run(device, scale, given, overlap=overlap)
            run.fit()
            curve, ticks = run.evaluator.curve, run.evaluator.clock.by["ticks"]
            many = max(1, len({int(step) for step in curve.step}))
            said = f"{name}, overlap" if overlap else name
            rows.append(f"{said} | {1e3 * ticks / many:.3f} | {1e3 * run.clock.seconds / run.step:.3f}")
    yield from grid("level | ms an evaluation: | ms a step beside it:", rows)


def _prefetch(device: torch.device, scale: Scale) -> Iterator[str]:
    """How long a step waits for its batch: against data that lie on the device as a whole."""
    rows, floor = [], 0.0
    ways: dict[str, dict[str, Any]] = {
        "on the device": {"resident": "always"},
        "gathered by the run itself": {"resident": "never", "workers": 0},
        "2 workers": {"resident": "never", "workers": 2},
        "4 workers": {"resident": "never", "workers": 4},
    }
    for name, how in ways.items():
        if not scale.packed and how.get("workers"):
            continue
        run = _run(device, scale, {"iterations": scale.steps}, **how)
        run.fit()
        ms = 1e3 * run.clock.seconds / run.step
        floor = floor or ms
        rows.append(f"{name} | {ms:.3f} | {max(0.0, 1 - floor / ms):.0%}")
    yield from grid("training data | ms a step: | of it waiting for batches:", rows)


def _packed(device: torch.device, scale: Scale) -> Iterator[str]:
    if not scale.packed:
        yield from ("", "Seeds that share a device are processes; left out.")
        return
    found = packing(scale.packed, scale.steps, device, model=scale.model)
    yield from sections({"packing": [found]})


def _bits(device: torch.device, scale: Scale) -> Iterator[str]:
    rows = []
    ways: dict[str, dict[str, Any]] = {
        "recorded": {},
        "eager": {"capture": "never"},
        "deterministic": {"deterministic": True},
    }
    for name in scale.strategies:
        runs = {how: [_weights(name, device, **s) for _ in range(2)] for how, s in ways.items()}
        again = [_same(*pair) for pair in runs.values()]
        rows.append(f"{name} | {' | '.join(again)} | {_same(runs['recorded'][0], runs['eager'][0])}")
    head = "strategy | recorded, twice | eager, twice | deterministic, twice | recorded and eager"
    yield from grid(head, rows)


SECTIONS: dict[str, Callable[[torch.device, Scale], Iterator[str]]] = {
    "Online replay, 10 + 10": _steps,
    "Precision, recorded and eager": _precisions,
    "The same bits": _bits,
    "Evaluation by level": _levels,
    "Waiting for batches": _prefetch,
    "Kernels": _kernels,
    "Seeds that share the device": _packed,
}
"""In the order of what is to be known first."""


def _run(device: torch.device, scale: Scale, settings: dict[str, Any], **how: Any) -> Any:
    """Return a run of replay on the digits, before its first step."""
    plain = {"model": scale.model, "batch_size": 10, "memory": 500, "lr": 0.05, "evaluation.future": False}
    config = resolve("split-digits", "er", {**plain, "evaluation.every": 0, **settings})
    return build(config, Execution(device=str(device), checkpoint_seconds=None, **how))


def _convolutional(benchmark: Benchmark) -> Classifier:
    """Return a network whose gradients cuDNN may sum in any order."""
    channels, height, width = benchmark.input_shape
    body = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten())
    return Classifier(body, 16 * height * width, benchmark.num_classes)


def _weights(strategy: str, device: torch.device, **how: Any) -> dict[str, torch.Tensor] | str:
    """Return the weights that a strategy ends with, on the CPU; or why it has none."""
    under_test = subject(strategy, model=_convolutional, device=str(device))
    try:
        run = under_test.fitted(under_test.benchmark(images=True), batch_size=16, **how)
    except Exception as error:  # is what is to be known
        return f"{type(error).__name__}: {str(error)[:80]}"
    return {name: w.cpu() for name, w in run.model.state_dict().items()}


def _same(a: dict[str, torch.Tensor] | str, b: dict[str, torch.Tensor] | str) -> str:
    """Say whether two runs end with the same bits, or how far apart they are."""
    for found in (a, b):
        if isinstance(found, str):
            return found
    assert not isinstance(a, str)
    assert not isinstance(b, str)
    if difference(a, b) is None:
        return "same"
    apart = max(float((w.double() - b[name].double()).abs().max()) for name, w in a.items())
    return f"up to {apart:.1e} apart"
