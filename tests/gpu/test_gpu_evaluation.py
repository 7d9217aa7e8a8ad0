"""Evaluation on a GPU: folded, as one launch, on a second stream, without waiting."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from clbench.config import Execution
from clbench.testing import difference

pytestmark = pytest.mark.gpu


def _beside(name: str) -> ModuleType:
    """The test module of that name in this folder."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


gpu = _beside("test_gpu")


def fitted(overlap: bool = False, **evaluation: Any) -> Any:
    run = gpu.build(evaluation=evaluation)
    run.execution = Execution(device="cuda", overlap=overlap, checkpoint_seconds=None)
    run.fit()
    return run


@pytest.mark.parametrize("level", ["exact", "fast"])
def test_a_second_stream_changes_no_bit(level: str) -> None:
    alone, beside = fitted(level=level), fitted(True, level=level)
    assert difference(gpu.weights(alone), gpu.weights(beside)) is None
    if level == "fast":  # its forward pass is the same one; exact's is the training network's in place
        assert alone.evaluator.curve == beside.evaluator.curve
    assert alone.evaluator.curve.correct.tolist() == beside.evaluator.curve.correct.tolist()


def test_fast_is_captured_as_a_graph_and_near_exact() -> None:
    exact, fast = fitted(), fitted(level="fast", check=5)
    assert fast.evaluator._ticker.graph is not None
    assert not [note for note in fast.evaluator.describe().get("notes", []) if "graph" in note]
    assert fast.evaluator.describe()["disagreement"]["judged_differently"] < 0.05
    assert difference(gpu.weights(exact), gpu.weights(fast)) is None


@pytest.mark.parametrize("level", ["exact", "fast"])
@pytest.mark.parametrize("overlap", [False, True])
def test_no_tick_waits_for_the_device(level: str, overlap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run = gpu.build(evaluation={"level": level, "check": 10_000})
    run.execution = Execution(device="cuda", overlap=overlap, checkpoint_seconds=None)
    tick = run.evaluator.tick
    strict: list[int] = []

    def strictly(**how: Any) -> None:
        if run.evaluator._ticks is None or run.step < 3:  # gathers, captures, chooses algorithms
            return tick(**how)
        strict.append(run.step)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return tick(**how)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(run.evaluator, "tick", strictly)
    run.fit()
    assert strict


def test_racing_finds_the_minima() -> None:
    exact, raced = (fitted(level=level, prefix=4).evaluator.curve.ticks() for level in ("exact", "racing"))
    old = exact.experience > 0
    assert raced.lowest[old, 0].min() == exact.accuracy[old, 0].min()
