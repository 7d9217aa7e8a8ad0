"""What a strategy does at an experience's end is seen by its last tick, as it is by the full evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Benchmark, Experience, Output, Strategy, chain, make_strategy
from clbench.config import Execution, RunConfig
from clbench.engine.engine import Engine
from clbench.evaluation.forward import weights_of
from clbench.machine import checkpoint
from clbench.results import metrics
from clbench.results.curve import Curve
from clbench.results.schema import RULES
from clbench.testing import tiny_benchmark, tiny_model

LEVELS: list[dict[str, Any]] = [
    {},
    {"level": "racing", "prefix": 4},
    {"level": "racing", "prefix": 4, "windows": [3]},
]


REPAIRS, SPOILS, NOTHING = (50.0, -50.0), (0.0, 50.0), (0.0, 0.0)


class Turns(Strategy):
    """The head turns towards an experience's classes when it begins, and again when it ends."""

    def __init__(self, by: tuple[float, float]) -> None:
        self.by = by

    def begin_experience(self, exp: Experience) -> None:
        self._turn(exp, self.by[0])

    def end_experience(self, exp: Experience) -> None:
        self._turn(exp, self.by[1])

    @torch.no_grad()
    def _turn(self, exp: Experience, by: float) -> None:
        self.run.model.head.bias[list(exp.classes)] += by  # type: ignore[union-attr,operator,index]


class Loop(Turns):
    """The same in a loop of its own, which does not say how many steps it makes."""

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {}

    def train_experience(self, exp: Experience) -> None:
        run = self.run
        for _ in range(2):
            for rows in torch.arange(len(exp)).split(16):
                raw, y = exp.data.take(rows)
                loss = F.cross_entropy(run.model(run.normalise(raw)), y)
                run.optimizer.zero_grad()
                loss.backward()
                run.optimizer.step()
                run.stepped(len(y), {"fit": loss.detach()})


def build(
    strategy: Strategy, *, overlap: bool = False, benchmark: Benchmark | None = None, **evaluation: Any
) -> Engine:
    benchmark = benchmark or tiny_benchmark()
    config = RunConfig.model_validate(
        {
            "benchmark": "tiny",
            "strategy": "x",
            "optim": {"lr": 0.05},
            "train": {"batch_size": 16, "epochs": 2},
            "evaluation": evaluation,
            "seeds": {"order": 0, "init": 0, "data": 0},
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        how = Execution(device="cpu", overlap=overlap, checkpoint_seconds=None)
        return Engine(benchmark, strategy, tiny_model(benchmark), config, how)


def curve_of(strategy: Strategy, **how: Any) -> Curve:
    run = build(strategy, **how)
    run.fit()
    return run.evaluator.curve


def trained(foreign: bool = False, by: tuple[float, float] = REPAIRS) -> Strategy:
    return Loop(by) if foreign else chain(make_strategy("finetune"), Turns(by))


@pytest.mark.parametrize("every", [0, 1, 3, 8])
@pytest.mark.parametrize("evaluation", LEVELS, ids=str)
@pytest.mark.parametrize("foreign", [False, True])
def test_the_last_tick_is_of_the_model_that_the_end_leaves(
    evaluation: dict[str, Any], foreign: bool, every: int
) -> None:
    curve = curve_of(trained(foreign), every=every, **evaluation)
    steps = {*range(0, 25, every), 8, 16, 24} if every else ()
    assert curve.ticks().steps.tolist() == sorted(steps)
    for i in range(3 if every else 0):
        tick = ~curve.full & (curve.step == 8 * (i + 1))
        full = curve.full & (curve.experience == i) & (curve.evaluated <= i)
        assert curve.correct[tick].tolist() == curve.correct[full].tolist()
        assert curve.total[tick].tolist() == curve.total[full].tolist()


@pytest.mark.parametrize("foreign", [False, True])
def test_the_gap_lies_no_higher_than_the_end_of_the_run(foreign: bool) -> None:
    """Of a model that is spoiled at the ends and was better at every tick before."""
    curve = curve_of(trained(foreign, SPOILS))
    found = metrics.compute(curve, ["min_acc", "wc_acc", "average_accuracy", "stability"])
    assert found["min_acc"] <= found["stability"] + 1e-12  # type: ignore[operator]
    assert found["wc_acc"] <= found["average_accuracy"] + 1e-12  # type: ignore[operator]
    R = curve.matrix().R
    assert found["min_acc"] == pytest.approx(np.mean([R[1:, 0].min(), R[2:, 1].min()]))


@pytest.mark.parametrize("foreign", [False, True])
def test_an_end_that_changes_nothing_moves_no_number(foreign: bool) -> None:
    """What the tick after the last step shows is what one before the end would have."""
    before: dict[int, int] = {}

    class Before(Loop if foreign else Strategy):  # type: ignore[misc]
        def end_experience(self, exp: Experience) -> None:
            run: Any = self.run
            data, step = run._run.benchmark.test[0].data, run.step  # behind what a strategy may see
            with torch.no_grad(), self.run.evaluating():
                logits = self.run.predict(self.run.normalise(data.x()), torch.full((len(data),), -1))
            before[step] = int((logits.argmax(1) == data.y()).sum())

    looks = Before(NOTHING) if foreign else chain(make_strategy("finetune"), Before())
    for every in (1, 3, 8):
        ticks = curve_of(looks, every=every).ticks()
        assert {
            int(s): int(c) for s, c in zip(ticks.steps, ticks.correct[:, 0], strict=True)
        }.items() >= before.items()


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("by", [REPAIRS, SPOILS, NOTHING], ids=["repairs", "spoils", "nothing"])
@pytest.mark.parametrize("evaluation", LEVELS[1:], ids=str)
def test_a_race_knows_the_tick_after_the_end_and_not_the_one_before(
    evaluation: dict[str, Any], by: tuple[float, float], foreign: bool
) -> None:
    exact, raced = (
        curve_of(trained(foreign, by), benchmark=tiny_benchmark(examples=256), **how)
        for how in ({}, evaluation)
    )
    for name in ("min_acc", "wc_acc"):
        assert metrics.METRICS[name].function(raced) == metrics.METRICS[name].function(exact)
    ticks = raced.ticks()
    assert not ticks.complete
    whole = ticks.total == ticks.of  # also those that were asked again, by the weights that they had
    assert (ticks.correct == exact.ticks().correct)[whole].all()
    if evaluation.get("windows"):  # the largest drop, from a peak to a tick two later, lies within the bounds
        a = exact.ticks().accuracy
        for j in range(3):
            own = a[~np.isnan(a[:, j]), j]
            n = len(own)
            drops = [own[m] - own[k] for m in range(n) for k in range(m, min(m + 3, n))]
            low, high = ticks.lowest[-n:, j], ticks.highest[-n:, j]
            known = [low[m] - high[k] for m in range(n) for k in range(m, min(m + 3, n))]
            assert max(known) == pytest.approx(max(drops))


def test_the_weights_that_a_race_keeps_are_those_of_its_ticks() -> None:
    run = build(Loop(SPOILS), **LEVELS[2])
    tick, seen = run.evaluator.tick, {}

    def keeping(**how: Any) -> None:
        seen[run.step] = [w.clone() for w in weights_of(run.model)]
        tick(**how)

    run.evaluator.tick = keeping  # type: ignore[method-assign]
    run.fit()
    ticker = run.evaluator._ticker
    for block, step in zip(ticker.ring, (24, 23, 22), strict=True):
        assert all(map(torch.equal, ticker.layout.views(block), seen[step]))


def test_another_process_sees_it_too() -> None:
    how = {"level": "racing", "prefix": 4, "windows": [3]}
    for evaluation in ({}, how):
        alone = curve_of(trained(), **evaluation)
        assert alone == curve_of(trained(), overlap=True, **evaluation)


@pytest.mark.parametrize("evaluation", LEVELS, ids=str)
def test_a_run_continues_between_the_last_step_and_the_end(evaluation: dict[str, Any]) -> None:
    whole, states = curve_of(trained(), **evaluation), []
    run = build(trained(), **evaluation)
    run.execution = run.execution.model_copy(update={"checkpoint_seconds": 0.0})
    run.fit(lambda: states.append(checkpoint.clone(run.state_dict())))
    between = [s for s in states if s["place"]["done"] == 8]
    assert len(between) == 3
    for state in between:
        fresh = build(trained(), **evaluation)
        fresh.load_state_dict(state)
        fresh.fit()
        assert fresh.evaluator.curve == whole


@pytest.mark.parametrize("foreign", [False, True])
def test_documents_are_looked_at_after_the_end(foreign: bool) -> None:
    benchmark = tiny_benchmark(documents=True, classes=6)
    run = build(trained(foreign, SPOILS), benchmark=benchmark, every=0, indexed=4)
    run.fit()
    curve = run.evaluator.curve
    assert curve.indexed_step.tolist() == list(range(4, 25, 4))
    indexed = torch.zeros(18, dtype=torch.bool)
    for exp in benchmark.train:
        x, y = exp.data.take(torch.arange(exp.documents or 0))
        with torch.no_grad(), run.evaluating():
            indexed[y] = run.predict(x, torch.full_like(y, -1)).argmax(1) == y
    assert curve.indexed[-1, :18].tolist() == indexed.tolist()


@pytest.mark.parametrize("evaluation", [{}, {"every": 0}, {"subset": 5}], ids=str)
def test_what_progress_shows_is_what_the_result_says(evaluation: dict[str, Any]) -> None:
    run = build(trained(), **evaluation)
    assert run.evaluator.latest() == {}
    run.fit()
    assert run.evaluator.latest() == pytest.approx(dict(enumerate(run.evaluator.curve.matrix().R[-1])))


def test_a_record_tells_the_rules_of_its_counts() -> None:
    assert build(make_strategy("finetune")).evaluator.describe()["rules"] == RULES == 2


def test_steps_of_a_loop_that_makes_none_take_nothing_back() -> None:
    class Idle(Loop):
        def train_experience(self, exp: Experience) -> None:
            if exp.index != 1:
                super().train_experience(exp)

    curve = curve_of(Idle(NOTHING))
    assert curve.experience[curve.full].tolist() == [-1] * 3 + [0] * 3 + [1] * 3 + [2] * 3
    assert curve.ticks().steps.tolist() == list(range(17))


def test_the_network_may_change_its_form_at_the_end() -> None:
    class Grows(Loop):
        def end_experience(self, exp: Experience) -> None:
            super().end_experience(exp)
            if exp.index == 0:
                self.run.model.backbone.append(torch.nn.Identity())  # type: ignore[union-attr,operator]

    for evaluation in LEVELS[:2]:
        assert curve_of(Grows(REPAIRS), **evaluation) == curve_of(Loop(REPAIRS), **evaluation)
