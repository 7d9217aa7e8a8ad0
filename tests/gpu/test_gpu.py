"""What only a GPU can show: no hidden waiting, low precision, agreement with the CPU, equal bits."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clbench
from clbench import Benchmark, Classifier, make_strategy
from clbench.config import Execution, RunConfig
from clbench.engine.engine import Engine
from clbench.machine.randomness import derive_seed
from clbench.runs import lifecycle
from clbench.testing import difference, tiny_benchmark

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """TensorFloat-32 off, so that CPU and GPU may be compared."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def network(benchmark: Benchmark) -> Classifier:
    body = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    return Classifier(body, 64, benchmark.num_classes)


def build(strategy: str = "er", device: str = "cuda", **sections: Any) -> Engine:
    benchmark = tiny_benchmark(images=True)
    tree = {
        "benchmark": "tiny",
        "strategy": strategy,
        "optim": {"lr": 0.05, "momentum": 0.9, "clip": 1.0},
        "train": {"batch_size": 16, "epochs": 2},
        "seeds": {"order": 0, "init": 0, "data": 0},
    }
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(0, "initialisation"))
        how = Execution(device=device, checkpoint_seconds=None)
        config = RunConfig.model_validate({**tree, **sections})
        return Engine(benchmark, make_strategy(strategy), network(benchmark), config, how)


def fitted(*args: Any, **sections: Any) -> Engine:
    run = build(*args, **sections)
    run.fit()
    return run


def weights(run: Engine) -> dict[str, Tensor]:
    return {name: w.cpu() for name, w in run.model.state_dict().items()}


STRATEGIES = ["finetune", "er", "derpp", "ewc", "lwf", "er-ace", "mir", "scr", "pcr", "hpcr"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_step_waits_for_the_device(strategy: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16's scaler must ask whether a gradient overflowed; nothing else may ask for anything. Ticks have their own."""
    run = build(strategy, precision=precision, evaluation={"every": 0})
    iterate = run._iterate

    def strictly(batch: Any) -> None:
        if (
            run.step < 2 or len(run._trace._steps) >= 49
        ):  # first calls choose algorithms; windows fetch losses
            return iterate(batch)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return iterate(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(run, "_iterate", strictly)
    run.fit()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_low_precision_stays_finite_and_near(precision: str, channels_last: bool) -> None:
    full, low = fitted(), fitted(precision=precision, channels_last=channels_last)
    assert all(torch.isfinite(w).all() for w in weights(low).values())
    last = [float(run.evaluator.curve.matrix().R[-1].mean()) for run in (full, low)]
    assert last[0] == pytest.approx(last[1], abs=0.2)


@pytest.mark.parametrize("strategy", STRATEGIES[:1])
def test_cpu_and_gpu_agree_while_rounding_has_not_grown(strategy: str) -> None:
    """Strategies that draw have a stream of their own on each device; fine-tuning draws on the CPU alone."""
    train = {"batch_size": 16, "iterations": 2}
    cpu, gpu = (weights(fitted(strategy, device, train=train)) for device in ("cpu", "cuda"))
    for name, w in cpu.items():
        torch.testing.assert_close(w, gpu[name], rtol=1e-3, atol=1e-4)


def test_evaluation_changes_no_bit() -> None:
    silent, watched = (weights(fitted(evaluation={"every": every})) for every in (0, 1))
    assert difference(silent, watched) is None


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_gives_the_same_bits(strategy: str) -> None:
    assert difference(weights(fitted(strategy)), weights(fitted(strategy))) is None


def test_workers_bring_the_batches_that_residents_are() -> None:
    resident = fitted()
    fed = build()
    fed.execution = Execution(device="cuda", resident="never", workers=1, checkpoint_seconds=None)
    fed.fit()
    assert difference(weights(resident), weights(fed)) is None


def test_a_resumed_run_ends_with_the_same_bits() -> None:
    from clbench.machine import checkpoint

    states: list[dict[str, Any]] = []
    run = build()
    run.execution = Execution(device="cuda", checkpoint_seconds=0)
    run.fit(lambda: states.append(checkpoint.clone(run.state_dict())))
    fresh = build()
    fresh.load_state_dict(states[len(states) // 2])
    fresh.fit()
    assert difference(weights(run), weights(fresh)) is None


@pytest.mark.parametrize(("began", "goes_on"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_state_goes_on_on_another_kind_of_device(began: str, goes_on: str) -> None:
    states: list[dict[str, Any]] = []
    run = build(device=began)
    run.execution = Execution(device=began, checkpoint_seconds=0)
    run.fit(lambda: states.append(run.state_dict()))
    fresh = build(device=goes_on)
    fresh.load_state_dict(states[len(states) // 2])
    fresh.fit()
    assert fresh.step == run.step
    assert all(torch.isfinite(w).all() for w in weights(fresh).values())


def test_a_gpu_that_is_not_the_present_one_evaluates_as_the_first_does() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    first, second = (
        fitted(device=device, evaluation={"level": "fast"}).evaluator for device in ("cuda:0", "cuda:1")
    )
    assert second.curve.correct.tolist() == first.curve.correct.tolist()
    assert second.clock.by["ticks"] > 0


def test_the_callers_generators_are_left_alone() -> None:
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    fitted()
    assert torch.equal(before, torch.cuda.get_rng_state())


def test_a_run_lets_go_of_what_earlier_ones_of_its_process_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Engine]] = []
    there: list[list[bool]] = []
    plain = lifecycle.build

    def watched(*given: Any, **how: Any) -> Engine:
        there.append([earlier() is not None for earlier in made])
        engine = plain(*given, **how)
        made.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr(lifecycle, "build", watched)
    gc.disable()
    try:
        for seed in range(2):
            clbench.run("split-digits", "er", seed=seed, iterations=2, out=tmp_path, device="cuda")
    finally:
        gc.enable()
    assert there == [[], [False]]
