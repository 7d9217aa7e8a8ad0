"""Schedules over an experience, the stream, or an open one; their phases; the anneal as a branch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import clbench
from clbench import Strategy, chain, make_strategy
from clbench.config import OptimConfig, RunConfig, resolve
from clbench.engine.engine import Engine
from clbench.errors import ConfigError, IncompatibleError
from clbench.machine import checkpoint
from clbench.machine.optim import phase_ends, phased_factor, power_factor, schedule_factor
from clbench.parts import CrossEntropy
from clbench.testing import difference, tiny_benchmark
from clbench.testing.tools import everything
from clbench.types import Batch, Experience, Output

INFINITE: dict[str, Any] = {"lr": 3e-4, "schedule": "infinite", "warmup": 0.01, "cooldown": 0.61}
"""Warm-up to step 10 of 1000, cooldown to 610, anneal from 860."""


def build(strategy: str | Strategy = "finetune", steps: int = 10, **given: Any) -> Engine:
    """Return a run of three experiences, before its first step."""
    benchmark = given.pop("benchmark", None) or tiny_benchmark()
    method = make_strategy(strategy) if isinstance(strategy, str) else strategy
    tree = {
        "benchmark": benchmark.name,
        "strategy": str(method),
        "optim": {"lr": 0.05, "momentum": 0.9, "reset": False, **given.pop("optim", {})},
        "train": {"batch_size": 16, "iterations": steps},
        "evaluation": {"every": given.pop("every", 0)},
        "seeds": {"order": 0, "init": 0, "data": 0},
    }
    torch.manual_seed(0)
    model = clbench.testing.tiny_model(benchmark)
    execution = clbench.config.Execution(device="cpu", checkpoint_seconds=given.pop("save", None))
    return Engine(benchmark, method, model, RunConfig.model_validate(tree), execution)


def rates(**optim: Any) -> list[float]:
    """Return the rate that the optimizer has in each step of three experiences of ten."""
    found = []

    class Sees(Strategy):
        def after_step(self, batch: Batch, out: Output) -> None:
            found.append(self.run.optimizer.param_groups[0]["lr"])

    build(chain(CrossEntropy(), Sees()), optim={"lr": 1.0, **optim}).fit()
    return found


# --- golden values ---


@pytest.mark.parametrize(
    ("t", "cosine", "inverse"),
    [
        (0, 0.0, 0.0),
        (5, 1.5e-4, 1.5e-4),
        (10, 3e-4, 3e-4),
        (155, 2.814628e-4, 2.112874e-4),
        (305, 2.342669e-4, 1.861832e-4),
        (455, 1.860361e-4, 1.733455e-4),
        *((t, 1.65e-4, 1.65e-4) for t in (610, 700, 860)),
        (930, 7.035624e-5, 7.035624e-5),
        (1000, 3e-5, 3e-5),
    ],
)
def test_infinite_by_the_published_numbers(t: int, cosine: float, inverse: float) -> None:
    for cooling, expected in (("cosine", cosine), ("inverse-sqrt", inverse)):
        optim = OptimConfig(**INFINITE, cooling=cooling)
        assert 3e-4 * phased_factor(optim, t, 1000) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("t", "rate"),
    [(5, 1.5e-4), (10, 3e-4), (257, 2.606108e-4), (505, 1.65e-4), (752, 6.969217e-5), (1000, 3e-5)],
)
def test_warm_cosine_by_the_published_numbers(t: int, rate: float) -> None:
    optim = OptimConfig(lr=3e-4, schedule="warm-cosine", warmup=0.01)
    assert 3e-4 * phased_factor(optim, t, 1000) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "factors"),
    [
        ("linear", (0.775, 0.55, 0.325)),
        ("1-sqrt", (0.55, 0.363604, 0.220577)),
        ("exponential", (0.562341, 0.316228, 0.177828)),
        ("cosine", (0.868198, 0.55, 0.231802)),
        ("inverse-linear", (0.307692, 0.181818, 0.129032)),
    ],
)
def test_wsd_by_the_published_numbers(shape: str, factors: tuple[float, ...]) -> None:
    optim = OptimConfig(schedule="wsd", warmup=0.05, anneal=0.8, shape=shape)
    found = [phased_factor(optim, t, 1000) for t in (0, 25, 800, 850, 900, 950, 1000)]
    assert found == pytest.approx([0, 0.5, 1, *factors, 0.1], abs=1e-6)


def test_rex_by_the_published_numbers() -> None:
    optim = OptimConfig(schedule="rex")
    found = [schedule_factor(optim, t, 100) for t in (0, 25, 50, 75, 90, 100)]
    assert found == pytest.approx([1, 0.857143, 0.666667, 0.4, 0.181818, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("n", "rate"),
    [
        (0, 0.02),
        (10**6, 0.02),
        (10**8, 0.02),
        (10**9, 0.013160426408),
        (10**10, 0.004066960562),
        (10**12, 0.000388391718),
    ],
)
@pytest.mark.parametrize("unit", [1, 1000])
def test_power_by_the_published_numbers(n: int, rate: float, unit: int) -> None:
    """Of n tokens so far, however many an example has."""
    optim = OptimConfig(lr=0.02, schedule="power", unit=unit)
    assert 0.02 * power_factor(optim, n // unit, 128) == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize(
    "optim",
    [
        *({**INFINITE, "cooling": cooling} for cooling in ("cosine", "inverse-sqrt")),
        *({"schedule": "wsd", "warmup": 0.1, "shape": s} for s in ("1-sqrt", "cosine", "inverse-linear")),
        {"schedule": "warm-cosine", "warmup": 0.2},
    ],
    ids=str,
)
def test_phases_meet_without_a_leap(optim: dict[str, Any]) -> None:
    given = OptimConfig.model_validate(optim)
    for border in phase_ends(given, 1000)[: 3 if given.schedule != "warm-cosine" else 1]:
        before, at, after = (phased_factor(given, border + d, 1000) for d in (-1e-9, 0, 1e-9))
        assert before == pytest.approx(at, abs=1e-4)
        assert after == pytest.approx(at, abs=1e-4)


def test_an_exponential_anneal_is_a_straight_line_of_logarithms() -> None:
    logs = [math.log(phased_factor(OptimConfig(**INFINITE), t, 1000)) for t in range(860, 1001, 20)]
    steps = [b - a for a, b in itertools.pairwise(logs)]
    assert steps == pytest.approx([math.log(0.1 / 0.55) / 7] * 7)


# --- clocks ---


def test_a_phased_schedule_begins_above_zero_and_ends_at_its_minimum() -> None:
    once = [phased_factor(OptimConfig(schedule="warm-cosine", warmup=0.2), t, 10) for t in range(1, 11)]
    assert rates(schedule="warm-cosine", warmup=0.2) == once * 3
    assert (once[0], once[1], once[-1]) == (0.5, 1.0, pytest.approx(0.1))


@pytest.mark.parametrize(
    "optim",
    [
        {"schedule": "cosine"},
        {"schedule": "linear", "warmup": 0.2},
        {"schedule": "steps", "milestones": (0.4, 0.8)},
        {"warmup": 0.5},
        {"schedule": "rex"},
        {"schedule": "warm-cosine", "warmup": 0.1},
        {"schedule": "infinite", "warmup": 0.1},
        {"schedule": "wsd", "anneal": 0.5, "shape": "linear"},
    ],
    ids=str,
)
def test_over_the_stream_a_schedule_is_one(optim: dict[str, Any]) -> None:
    given = OptimConfig.model_validate({"over": "stream", **optim})
    assert rates(**optim, over="stream") == [schedule_factor(given, k, 30) for k in range(30)]


def test_an_open_schedule_warms_up_and_cools_down_once() -> None:
    optim = {"schedule": "infinite", "warmup": 0.2, "cooldown": 0.5, "anneal": 0.8}
    first = [phased_factor(OptimConfig.model_validate(optim), t, 10) for t in range(1, 11)]
    later = [0.55] * 8 + first[8:]
    assert rates(**optim, over="open") == first + later * 2


def test_power_goes_by_the_examples_of_the_stream() -> None:
    """β a nᵇ of 16 in a step, at no cap but the first step's; the last tenth goes to 0 in a line."""
    found = rates(schedule="power", over="stream", gain=0.1, exponent=-1.0)
    assert found[:27] == pytest.approx([1.0] + [min(1.0, 16 * 0.1 / (16 * k)) for k in range(1, 27)])
    assert found[27:] == pytest.approx([1.6 / (16 * k) * f for k, f in ((27, 2 / 3), (28, 1 / 3), (29, 0))])


def test_a_run_goes_on_within_a_cycle_to_the_same_bits(tmp_path: Path) -> None:
    optim = {"schedule": "infinite", "warmup": 0.1, "over": "stream"}
    resumed_equals(optim, lambda run: run.step == 13, tmp_path)


def resumed_equals(
    optim: dict[str, Any], when: Callable[[Engine], bool], folder: Path, strategy: str = "finetune"
) -> None:
    whole = build(strategy, optim=optim, every=1, save=0.0)

    def save() -> None:
        if when(whole):
            checkpoint.save(folder / "saved", whole.state_dict())

    whole.fit(save)
    again = build(strategy, optim=optim, every=1)
    again.load_state_dict(checkpoint.load(folder / "saved"))
    again.fit()
    assert difference(everything(whole), everything(again)) is None


# --- branches ---

WSD: dict[str, Any] = {"schedule": "wsd", "over": "open", "anneal": 0.6}
"""Of ten steps, six at the constant rate."""
LIVE = ("model", "optimizer", "precision", "strategy", "generators", "global_rng")


def between(run: Engine) -> list[dict[str, Any]]:
    """Return the states from which later experiences start."""
    found = []

    def save() -> None:
        if run.place.phase == "between":
            state = run.state_dict()
            found.append(checkpoint.clone({key: state[key] for key in LIVE}))

    run.fit(save)
    return found


@pytest.mark.parametrize("strategy", ["er", "icarl", "derpp+refresh+lawa"])
def test_a_branch_leaves_the_live_run_alone(strategy: str) -> None:
    """Where the next experience starts, all is as in a run that never makes the steps of the branch."""
    branched = between(build(strategy, optim={**WSD, "branch": True}, save=0.0))
    without = between(build(strategy, steps=6, save=0.0))
    assert len(branched) == 3
    assert difference(branched[:2], without[:2]) is None


def test_without_a_branch_the_annealed_weights_go_on() -> None:
    """WSD-S; what WSD evaluates at the first experience's end is the same."""
    weights: dict[bool, list[Any]] = {True: [], False: []}
    ends = []
    for branch in (True, False):

        class Sees(Strategy):
            def begin_experience(self, exp: Experience) -> None:
                weights[branch].append(checkpoint.clone(self.run.model.state_dict()))  # noqa: B023

        run = build(chain(CrossEntropy(), Sees()), optim={**WSD, "branch": branch})
        run.fit()
        curve = run.evaluator.curve
        ends.append(curve.loss[curve.full & (curve.step == 10)].tolist())
    assert ends[0] == ends[1]
    assert difference(weights[True][0], weights[False][0]) is None
    assert difference(weights[True][1], weights[False][1]) is not None


def test_steps_of_a_branch_count_and_are_recorded() -> None:
    run = build(optim={**WSD, "branch": True}, every=1)
    run.fit()
    assert run.branch.describe()["branches"] == [
        {"experience": i, "from_step": 10 * i + 6, "to_step": 10 * i + 10} for i in range(3)
    ]
    assert (run.step, run.updates, run.examples) == (30, 30, 480)
    steps = run.evaluator.curve.step
    assert (steps[1:] >= steps[:-1]).all()
    assert {*steps.tolist()} == {*range(31)}


@pytest.mark.parametrize(
    ("step", "strategy"),
    [(6, "er"), (8, "icarl"), (10, "er"), (12, "er")],
    ids=["start", "within", "end", "after"],
)
def test_a_run_goes_on_within_a_branch_to_the_same_bits(step: int, strategy: str, tmp_path: Path) -> None:
    optim = {**WSD, "branch": True}
    resumed_equals(optim, lambda run: run.step == step and run.place.phase == "within", tmp_path, strategy)


def test_a_record_names_the_branches(tmp_path: Path) -> None:
    given = {"optim.branch": True, **{f"optim.{key}": value for key, value in WSD.items()}}
    record = clbench.run("split-digits", "finetune", out=tmp_path, iterations=5, every=0, **given)
    assert record.evaluation["branches"][0] == {"experience": 0, "from_step": 3, "to_step": 5}
    assert record.config["optim"]["branch"] is True


# --- settings ---


def test_without_phases_a_configuration_is_as_before_there_were_any() -> None:
    """So that ids and rows stay."""
    tree = resolve("split-digits", "er", {"optim.schedule": "cosine"}).model_dump(mode="json")["optim"]
    assert [*tree] == [
        *(
            "name",
            "lr",
            "later_lr",
            "momentum",
            "nesterov",
            "betas",
            "weight_decay",
            "schedule",
            "milestones",
        ),
        *("gamma", "cycle", "rise", "floor", "warmup", "clip", "reset"),
    ]
    given = OptimConfig(schedule="infinite", over="open", branch=True)
    assert OptimConfig.model_validate(given.model_dump(mode="json")) == given


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        (
            {"minimum": 0.1, "schedule": "cosine"},
            "minimum is of schedule=warm-cosine or infinite or wsd or power",
        ),
        ({"over": "open"}, "over=open goes with schedule=infinite or wsd"),
        ({"over": "stream", "schedule": "restarts"}, "counts the passes over an experience"),
        ({"branch": True, "schedule": "wsd"}, "give over=open"),
        ({**INFINITE, "anneal": 0.14}, "points in time where they end .* not their lengths"),
        ({"schedule": "wsd", "warmup": 0.95}, "warmup=0.95, anneal=0.9 are the points in time"),
        ({**INFINITE, "plateau": 0.05}, "minimum=0.1 is above the rate 0.05"),
        ({"schedule": "wsd", "minimum": 0.0}, "never comes to 0"),
        ({**WSD, "branch": True, "anneal": 1.0}, "anneal=1 leaves no step to a branch"),
    ],
)
def test_what_does_not_go_together_is_refused(optim: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve("split-digits", "finetune", {f"optim.{key}": value for key, value in optim.items()})


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        (
            {"schedule": "wsd"},
            r"The 4 steps of experience 1 leave none to the anneal, from 0\.9 to 1, of optim\.schedule=wsd",
        ),
        ({"schedule": "wsd", "anneal": 0.1, "over": "open", "branch": True}, "what comes before the branch"),
        ({"schedule": "infinite", "warmup": 0.5, "cooldown": 0.55}, "the cooldown, from 0.5 to 0.55,"),
        ({"schedule": "warm-cosine", "warmup": 0.99}, "the cosine after a warm-up of 0.99"),
    ],
)
def test_phases_without_a_step_are_refused_before_the_first_step(optim: dict[str, Any], message: str) -> None:
    with pytest.raises(IncompatibleError, match=message):
        build(steps=4, optim=optim)


def test_a_branch_where_no_boundary_is_told_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="which tiny@1 does not tell"):
        build(benchmark=tiny_benchmark(boundaries=False), optim={**WSD, "branch": True})


def test_a_loop_of_its_own_follows_no_phases() -> None:
    class Own(Strategy):
        def train_experience(self, exp: Experience) -> None:
            pass

        def logits(self, x: Tensor, task: Tensor) -> Tensor:
            return x

    with pytest.raises(IncompatibleError, match=r"leave out optim\.schedule=wsd"):
        build(Own(), optim={"schedule": "wsd"})
