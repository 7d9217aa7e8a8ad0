"""Every number has a range, which is checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from clbench import make_strategy
from clbench.config import resolve
from clbench.errors import ConfigError
from clbench.ranges import Count, Even, Fraction, Natural, Part, Percent, Positive, Real, Share
from clbench.registry import Registry, benchmarks, models, strategies
from clbench.registry.arguments import check_arguments, hints_of, type_name
from clbench.runs import building, lifecycle, suite, tuning
from clbench.testing.numbers import numbers_in

# --- in words ---


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "a whole number"),
        (float, "a number"),
        (bool, "true or false"),
        (str | None, "text or none"),
        (Literal["a", "b"], "one of 'a', 'b'"),
        (Count, "a whole number ≥ 1"),
        (Natural | None, "a whole number ≥ 0 or none"),
        (Even, "a whole number ≥ 2 and a multiple of 2"),
        (Percent, "a whole number from 0 to 100"),
        (Positive, "a number > 0"),
        (Share | Literal["convex"], "a number from 0 to 1 or 'convex'"),
        (Fraction, "a number ≥ 0 and < 1"),
        (Part, "a number > 0 and < 1"),
        (Real, "a number"),
        (Annotated[float, Field(gt=0, le=0.5)], "a number > 0 and ≤ 0.5"),
        (tuple[Count, ...], "a list of whole numbers ≥ 1"),
        (tuple[Fraction, Fraction], "a list of 2 numbers ≥ 0 and < 1"),
        (tuple[Natural, Count], "a list of a whole number ≥ 0; a whole number ≥ 1"),
        (Annotated[tuple[Real, ...], Field(min_length=1)], "a list of numbers, 1 or more"),
        (dict[str, Any], "`key: value` lines"),
    ],
    ids=str,
)
def test_what_a_hint_takes_in_words(hint: Any, words: str) -> None:
    assert type_name(hint) == words


# --- the mechanism ---


def plain(size: int = 1, rate: float = 1.0, sizes: tuple[int, ...] = (), either: float | str = 0.0) -> None:
    """A factory of somebody who knows of no ranges."""


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"size": True}, r"'size' takes a whole number; True was given \(no number\)\."),
        ({"size": 10**20}, r"100000000000000000000 was given \(beyond 2⁶³\)\."),
        ({"size": 10**5000}, r"a number of thousands of digits was given \(beyond 2⁶³\)\."),
        ({"size": math.nan}, "nan was given"),
        ({"rate": math.nan}, r"'rate' takes a number; nan was given \(not finite\)\."),
        ({"rate": "inf"}, r"'inf' was given \(not finite\)\."),
        ({"rate": -math.inf}, r"-inf was given \(not finite\)\."),
        ({"rate": 1e300}, r"1e\+300 was given \(beyond float32, whose largest number is 3.4e38\)\."),
        ({"rate": 10**400}, "'rate' takes a number; "),
        ({"rate": 1e-300}, r"1e-300 was given \(0 in float32\)\."),
        ({"rate": False}, r"False was given \(no number\)\."),
        ({"sizes": (1, 10**20)}, r"'sizes' takes a list of whole numbers; .* was given \(beyond 2⁶³\)\."),
        ({"either": math.inf}, "'either' takes a number or text; inf was given"),
    ],
)
def test_a_plain_annotation_takes_numbers_that_can_be_computed_with(
    given: Mapping[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        check_arguments("it", plain, dict(given))


def test_a_plain_annotation_takes_all_others() -> None:
    given = {"size": -5, "rate": -1e30, "sizes": [0, -1], "either": "any"}
    assert check_arguments("it", plain, given) == {**given, "sizes": (0, -1)}


def test_infinities_pass_where_they_are_asked_for() -> None:
    def build(bound: Annotated[float, Field(ge=0, allow_inf_nan=True)] = math.inf) -> None: ...

    assert check_arguments("it", build, {"bound": math.inf}) == {"bound": math.inf}
    with pytest.raises(ConfigError, match="'bound' takes a number ≥ 0; -1 was given"):
        check_arguments("it", build, {"bound": -1})


def test_a_range_of_pydantic_s_is_held_to_the_same() -> None:
    def build(share: Annotated[float, Field(gt=0)] = 1.0) -> None: ...

    with pytest.raises(ConfigError, match=r"'share' takes a number > 0; inf was given \(not finite\)"):
        check_arguments("it", build, {"share": math.inf})


def test_a_choice_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'columns' takes .*; 'olt' was given\. Did you mean 'old'\?"):
        make_strategy("lwf", columns="olt")


def not_ranged(registry: Registry[Any]) -> list[str]:
    """Numbers without a range, but for what clbench itself gives and numbers of classes."""
    given = ("input_shape", "num_classes", "class_order", "domain_order")
    return [
        f"{name}: {key}"
        for name in registry.names()
        if registry.peek(name).origin == "clbench"
        for key, hint in hints_of(name, registry.entry(name).build or print).items()
        if key not in given and not all(number.ranged for number in numbers_in(hint))
    ]


@pytest.mark.parametrize("registry", [strategies, benchmarks, models], ids=lambda r: r.plural)
def test_every_number_of_our_own_has_a_range(registry: Registry[Any]) -> None:
    assert not_ranged(registry) == []


# --- before anything is built ---

WRONG = [
    *(
        (name, {"draw": -1}, "'draw' takes a whole number ≥")
        for name in strategies.names()
        if "draw" in strategies.entry(name).signature().parameters
    ),
    ("gdumb", {"mini_batch": 0}, "'mini_batch' takes a whole number ≥ 1; 0 was given"),
    ("gdumb", {"passes": 0}, "'passes' takes a whole number ≥ 1; 0 was given"),
    ("gdumb", {"cutmix": 2}, "'cutmix' takes a number from 0 to 1; 2 was given"),
    ("gdumb", {"min_lr": 0.1}, "min_lr is at most lr, 0.05; 0.1 was given"),
    ("hpcr", {"period": 0}, "'period' takes a whole number ≥ 1; 0 was given"),
    ("hpcr", {"kappa_min": 2}, "kappa_min is at most kappa_max, 1.8; 2.0 was given"),
    ("scr", {"projection": -1}, "'projection' takes a whole number ≥ 1; -1 was given"),
    ("scr", {"projection": 0}, "'projection' takes a whole number ≥ 1; 0 was given"),
    ("er+ema", {"ema.momentum": 2}, "'momentum' takes a number ≥ 0 and < 1; 2 was given"),
    ("er+ema", {"ema.start": 5}, "'start' takes a number ≥ 0 and < 1; 5 was given"),
    ("er+ldam-drw", {"scale": 0}, "'scale' takes a number > 0; 0 was given"),
    ("si", {"xi": 0}, "'xi' takes a number > 0; 0 was given"),
    ("ewc", {"strength": math.nan}, "'strength' takes a number ≥ 0; nan was given"),
    ("ewc", {"decay": 1.5}, "'decay' takes a number from 0 to 1 or 'convex'; 1.5 was given"),
    ("l2p", {"top": 20}, "top is 1 to pool, 10; 20 was given"),
    (
        "er",
        {"optim.nesterov": True, "optim.momentum": 0},
        "nesterov looks ahead along the momentum, which is 0",
    ),
    ("er", {"schedule": "restarts", "cycle": 10, "rise": 12}, "a cycle of 10 passes cannot rise for 12"),
    ("er", {"milestones": [0.5, 0.2]}, "milestones rise from one to the next"),
    ("er", {"milestones": [0.5, 1.5]}, r"'optim\.milestones\.1' takes a number > 0 and < 1; 1\.5 was given"),
    ("er", {"betas": [2.0, -1]}, r"'optim\.betas\.0' takes a number ≥ 0 and < 1; 2\.0 was given"),
    ("er", {"lr": 1e300}, r"'optim\.lr' takes a number > 0; 1e\+300 was given \(beyond float32"),
    ("er", {"train.batch_size": 10**19}, r"'train\.batch_size' takes a whole number ≥ 1; .* \(beyond 2⁶³\)"),
    ("er", {"train.batch_size": True}, r"'train\.batch_size' takes a whole number ≥ 1; True was given"),
    ("er", {"later_iterations": 5}, "later_iterations goes with iterations"),
    ("er", {"evaluation.seed": -1}, r"'evaluation\.seed' takes a whole number ≥ 0; -1 was given"),
    ("er", {"evaluation.error": 1.0}, r"'evaluation\.error' takes a number ≥ 0 and < 1; 1\.0 was given"),
    ("er", {"stream.valid": 1.0}, "'valid' takes a number ≥ 0 and < 1; 1.0 was given"),
    ("er", {"experiences": 0}, "'experiences' takes a whole number ≥ 1; 0 was given"),
    ("er", {"hidden": [0]}, r"'hidden' takes a list of whole numbers ≥ 1; \[0\] was given"),
]


@pytest.mark.parametrize(("strategy", "settings", "says"), WRONG, ids=str)
def test_a_run_is_refused_before_data_are_read(
    strategy: str, settings: Mapping[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=says) as error:
        lifecycle.run("split-mnist", strategy, out=tmp_path / "runs", **settings)
    assert "{" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_suite_is_refused_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "make_benchmark", lambda *_, **__: pytest.fail("something was built"))
    made = suite.SuiteConfig.model_validate(
        {
            "strategies": [{"name": "gdumb", "settings": {"passes": 0}}, "er"],
            "benchmarks": ["split-digits"],
            "seeds": 1,
        }
    )
    with pytest.raises(ConfigError, match="'passes' takes a whole number ≥ 1"):
        suite.plan(made)


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"memory": {"int": [-5, 10]}}, "'memory' takes a whole number ≥ 0; -5 was given"),
        ({"optim.momentum": {"uniform": [0, 1]}}, "'optim.momentum' takes a number ≥ 0 and < 1"),
        ({"draw": {"choice": [5, -1]}}, "'draw' takes a whole number ≥ 0 or none; -1 was given"),
        ({"lr": {"log": [1e-3, 1e300]}}, "beyond float32"),
        ({"lr": {"uniform": [math.nan, 1]}}, "The space of 'lr'"),
        ({"memory": {"int": [1.5, 3]}}, "The space of 'memory'"),
        ({"lr": {"uniform": [False, True]}}, "The space of 'lr'"),
    ],
    ids=str,
)
def test_a_space_is_refused_before_the_first_trial(space: Mapping[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        tuning.try_ends(lambda given: resolve("split-digits", "er", given), tuning.space_of(space))


def test_what_means_none_is_allowed() -> None:
    for name, params in {
        "er": {"memory": 0, "draw": 0},
        "gem": {"margin": 0.0},
        "cmo": {"start": -1, "end": 0},
        "document-replay": {"share": 0.0, "rate": 0.0},
        "shrink-perturb": {"shrink": 0.0, "noise": 0.0},
        "finetune": {},
    }.items():
        make_strategy(name, **params)
    resolve("split-digits", "er", {"schedule": "restarts", "cycle": 10, "rise": 10, "floor": 0, "warmup": 0})
    resolve("split-digits", "er", {"momentum": 0.9, "nesterov": True, "weight_decay": 0})


def test_more_memory_than_there_is_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'scr' on split-digits needs more memory than there is"):
        lifecycle.run("split-digits", "scr", out=tmp_path, projection=10**17)
    assert list(tmp_path.iterdir()) == []


def test_sizes_beyond_all_data_are_the_size_of_the_data(tmp_path: Path) -> None:
    """A memory, a draw and a batch: as with the number of examples itself."""
    budget = {"experiences": 2, "iterations": 3, "every": 0}
    large, enough = (
        lifecycle.run(
            "split-digits", "er", out=tmp_path, **budget, memory=n, draw=n, **{"train.batch_size": n}
        )
        for n in (2**63 - 1, 3000)
    )
    assert large.metrics == enough.metrics
