"""What the engine costs: its step against a bare PyTorch loop, and an evaluation against a step.

The bare loop is what one would write by hand for this one purpose: gather uint8 rows, normalise, forward,
cross-entropy, backward, update, and nothing else. What the engine does beyond it is its overhead. The two
take turns, one step each, in one process and on one CPU thread, with the same initial weights, batch size and
optimizer, so that whatever else the machine does hits both alike. Inputs are random bytes, which cost as much
as images.
"""

from __future__ import annotations

import copy
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from clbench.api import make_model, make_strategy
from clbench.augment import Transform
from clbench.config import EvaluationConfig, Execution, OptimConfig, RunConfig, Seeds, TrainConfig
from clbench.device import pick_device
from clbench.engine import WINDOW, Run
from clbench.evaluation import portion
from clbench.models import Classifier
from clbench.optim import make_optimizer
from clbench.strategy import Strategy, chain
from clbench.types import Batch, Benchmark, Data, Experience, Output, Pool, Setting, Stream

CLASSES, MEMORY, WARM_UP = 10, 200, 20
"""Classes; examples a replay memory holds; first steps, which fill it and are not reported."""
STREAMS, IMAGES = 5, 1000
"""Test streams and examples in each, of the evaluation that is timed."""
MEAN, STD = 0.13, 0.31


@dataclass(frozen=True)
class Case:
    """A model and a batch; `share` of the steps asked for, since some models take long.

    With `replay`, as many remembered examples join the batch, and a reservoir takes the new ones.
    """

    model: str
    input_shape: tuple[int, ...]
    batch_size: int
    replay: bool = False
    share: float = 1.0

    def __str__(self) -> str:
        joined = f"{self.batch_size}+{self.batch_size}" if self.replay else str(self.batch_size)
        return f"{self.model}, batch {joined}"


DIGIT, IMAGE = (1, 28, 28), (3, 32, 32)
CASES = (
    Case("mlp", DIGIT, 10),
    Case("mlp", DIGIT, 128),
    Case("mlp", DIGIT, 10, replay=True),
    Case("slim-resnet18", IMAGE, 10, share=0.25),
    Case("slim-resnet18", IMAGE, 10, replay=True, share=0.25),
)


def engine_overhead(
    steps: int = 200, *, device: str = "auto", cases: Sequence[Case] = CASES
) -> dict[str, Any]:
    """Milliseconds of a step in the engine and in a bare loop, and of an evaluation; all JSON-able.

    Args:
        steps: steps of each side; of long cases a share of them.
    """
    where = pick_device(device)
    with _one_thread():
        return {
            "machine": _machine(where),
            "overhead": [_compare(case, max(10, round(steps * case.share)), where) for case in cases],
            "evaluation": _evaluate(cases[0], max(10, steps // 10), where),
        }


def table(results: dict[str, Any]) -> str:
    """The results as two Markdown tables."""
    machine = results["machine"]
    versions = f"torch {machine['torch']}, Python {machine['python']}"
    lines = [
        f"{machine['device']}, {versions}, {machine['threads']} thread; medians, in ms",
        "",
        "| a step of | steps | bare loop | engine | overhead | overhead, % | overhead, CPU time |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in results["overhead"]:
        wall, cpu = row["wall_ms"], row["cpu_ms"]
        percent = 100 * wall["overhead"] / wall["bare"]
        lines.append(
            f"| {row['case']} | {row['steps']} | {wall['bare']:.3f} | {wall['engine']:.3f} "
            f"| {wall['overhead']:+.3f} | {percent:+.1f} | {cpu['overhead']:+.3f} |"
        )
    row = results["evaluation"]
    lines += [
        "",
        f"| {row['streams']} streams × {row['images']} images | training step | evaluation "
        "| forward passes alone | evaluation ÷ step |",
        "|---|---:|---:|---:|---:|",
        f"| {row['case']} | {row['step_ms']:.3f} | {row['evaluation_ms']:.2f} | {row['forward_ms']:.2f} "
        f"| {row['evaluation_ms'] / row['step_ms']:.1f} |",
    ]
    return "\n".join(lines)


# --- taking turns ---


class _Turns(Strategy):
    """Lets `other` take a step after each of the engine's, and times both; last in a chain.

    A lap of the engine is all that it does from one `after_step` to the next: count, fetch losses, evaluate
    if it is to, gather, augment, and the whole step.
    """

    def __init__(self, device: torch.device, other: Iterator[None]) -> None:
        self.device, self.other = device, other
        self.engine: list[tuple[float, float]] = []
        self.bare: list[tuple[float, float]] = []

    def begin_experience(self, exp: Experience) -> None:
        self.start = self.now()

    def after_step(self, batch: Batch, out: Output) -> None:
        between = self.now()
        with torch.enable_grad():
            next(self.other)
        end = self.now()
        self.engine.append((between[0] - self.start[0], between[1] - self.start[1]))
        self.bare.append((end[0] - between[0], end[1] - between[1]))
        self.start = self.now()

    def now(self) -> tuple[float, float]:
        """Seconds by the wall clock and of the process's CPU time, when the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter(), time.process_time()

    def medians(self, clock: int) -> dict[str, float]:
        """Median laps in ms. The engine's laps that fetch losses, one in `WINDOW`, count by their share."""
        engine, bare = [[1e3 * lap[clock] for lap in laps] for laps in (self.engine, self.bare)]
        fetching = [lap for i, lap in enumerate(engine) if i > WARM_UP and i % WINDOW == 0]
        others = [lap for i, lap in enumerate(engine) if i >= WARM_UP and i % WINDOW]
        mine, its = statistics.median(others), statistics.median(bare[WARM_UP:])
        if fetching:
            mine += (statistics.median(fetching) - mine) / WINDOW
        return {"bare": its, "engine": mine, "overhead": mine - its}


def _take_turns(
    case: Case,
    benchmark: Benchmark,
    model: Classifier,
    device: torch.device,
    other: Iterator[None],
    every: int,
) -> _Turns:
    """A run of clbench, evaluated at every so many steps, in turns with another loop."""
    turns = _Turns(device, other)
    strategy = make_strategy("er", memory=MEMORY) if case.replay else make_strategy("finetune")
    resolved = RunConfig(
        benchmark="bench",
        strategy=strategy.name,
        train=TrainConfig(batch_size=case.batch_size),
        evaluation=EvaluationConfig(every=every),
        seeds=Seeds(order=0, init=0, data=0),
    )
    execution = Execution(device=str(device), checkpoint_seconds=None)
    Run(benchmark, chain(strategy, turns), model, resolved, execution).fit()
    return turns


# --- what is compared ---


def _compare(case: Case, steps: int, device: torch.device) -> dict[str, Any]:
    """Engine and bare loop, without evaluation."""
    benchmark = _benchmark(case, steps)
    model = make_model(case.model, case.input_shape, CLASSES)
    bare = _bare(case, benchmark, copy.deepcopy(model).to(device), device)
    turns = _take_turns(case, benchmark, model, device, bare, every=0)
    return {"case": str(case), "steps": steps, "wall_ms": turns.medians(0), "cpu_ms": turns.medians(1)}


def _bare(case: Case, benchmark: Benchmark, model: Classifier, device: torch.device) -> Iterator[None]:
    """Steps of a loop written for this case alone."""
    optimizer = make_optimizer(list(model.parameters()), OptimConfig())
    data = benchmark.train[0].data
    x, y = data.x().to(device), data.y().to(device)
    gain, shift = torch.tensor(1 / 255 / STD, device=device), torch.tensor(-MEAN / STD, device=device)
    memory_x = torch.zeros((MEMORY, *case.input_shape), dtype=torch.uint8, device=device)
    memory_y = torch.zeros(MEMORY, dtype=torch.int64, device=device)
    seen = 0
    shuffle, draws = torch.Generator(), torch.Generator(device)
    for rows in torch.randperm(len(x), generator=shuffle).to(device).split(case.batch_size):
        raw, labels = x.index_select(0, rows), y.index_select(0, rows)
        inputs, targets = raw.mul(gain).add_(shift), labels
        if case.replay and seen:
            drawn = torch.randperm(min(seen, MEMORY), generator=draws, device=device)[: case.batch_size]
            old = memory_x.index_select(0, drawn).mul(gain).add_(shift)
            inputs, targets = torch.cat([inputs, old]), torch.cat([labels, memory_y.index_select(0, drawn)])
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        if case.replay:
            position = torch.arange(seen, seen + len(rows), device=device)
            drawn = (torch.rand(len(rows), generator=draws, device=device) * (position + 1)).long()
            slot = torch.where(position < MEMORY, position, drawn)
            kept = slot < MEMORY
            memory_x[slot[kept]], memory_y[slot[kept]] = raw[kept], labels[kept]
            seen += len(rows)
        yield


def _evaluate(case: Case, steps: int, device: torch.device) -> dict[str, Any]:
    """Steps with an evaluation after each, in turns with bare forward passes over the same images."""
    benchmark = _benchmark(case, steps, streams=STREAMS, images=IMAGES)
    model = make_model(case.model, case.input_shape, CLASSES)
    forwards = _forwards(benchmark, copy.deepcopy(model).to(device), device)
    without = _take_turns(case, benchmark, copy.deepcopy(model), device, forwards, every=0).medians(0)
    evaluated = _take_turns(case, benchmark, model, device, forwards, every=1).medians(0)
    return {
        "case": str(case),
        "streams": STREAMS,
        "images": IMAGES,
        "steps": steps,
        "step_ms": without["engine"],
        "evaluation_ms": evaluated["engine"] - without["engine"],
        "forward_ms": evaluated["bare"],
    }


@torch.no_grad()
def _forwards(benchmark: Benchmark, model: Classifier, device: torch.device) -> Iterator[None]:
    """Passes of a model over all test images, in the evaluator's portions, and no more."""
    x = torch.cat([benchmark.transform.normalise(exp.data.x().to(device)) for exp in benchmark.test])
    model.eval()
    while True:
        for part in x.split(portion(model, device)):
            model(part)
        yield


# --- what both share ---


def _benchmark(case: Case, steps: int, streams: int = 1, images: int = 10) -> Benchmark:
    """One experience of random bytes, so many batches after those of warm-up; all test streams are seen."""
    generator = torch.Generator().manual_seed(0)

    def data(n: int) -> Data:
        x = torch.randint(256, (n, *case.input_shape), dtype=torch.uint8, generator=generator)
        return Data.of(Pool(x, torch.randint(CLASSES, (n,), generator=generator)), torch.arange(n))

    classes, tests = tuple(range(CLASSES)), tuple(range(streams))
    train = Experience(0, classes, data((WARM_UP + steps) * case.batch_size), tests=tests)
    test = tuple(Experience(i, classes, data(images)) for i in tests)
    return Benchmark(
        "bench",
        1,
        Setting("domain"),
        Stream("train", (train,)),
        Stream("test", test),
        CLASSES,
        Transform(mean=(MEAN,), std=(STD,)),
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """One CPU thread, so that the figures are of work and not of waiting for another thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    return {"device": name, "torch": torch.__version__, "python": platform.python_version(), "threads": 1}
