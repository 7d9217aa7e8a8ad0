"""Choosing hyper-parameters: protocols, sealed test data, equal and repeatable searches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clbench
from clbench import config, make_benchmark
from clbench.config import Execution, RunConfig
from clbench.errors import ConfigError
from clbench.runs import tuning
from clbench.runs.suite import SuiteConfig, plan
from clbench.runs.tuning import DEFAULT_SPACE, Range, judged_by, protocol, sealed, space_of, tune, tune_suite

ONE = Execution(checkpoint_seconds=None)


def resolve(settings: Mapping[str, Any]) -> RunConfig:
    given = {"iterations": 6, "every": 0, "hidden": [16], "valid": 0.2, **settings}
    return config.resolve("split-digits", "finetune", given, seed=0)


def test_names_of_protocols() -> None:
    assert protocol("first-3-experiences").experiences == 3
    assert protocol("oracle").test
    with pytest.raises(ConfigError, match="Did you mean 'validation'"):
        protocol("validaton")
    with pytest.raises(ConfigError, match="no protocol 'first-0-experiences'"):
        protocol("first-0-experiences")


def test_the_first_experiences_are_judged_by_their_validation_data() -> None:
    benchmark = make_benchmark("split-digits", valid=0.2)
    seen = judged_by(benchmark, protocol("first-2-experiences"))
    assert len(seen.train) == len(seen.test) == 2
    assert benchmark.valid is not None
    assert torch.equal(seen.test[1].data.x(), benchmark.valid[1].data.x())
    assert len(judged_by(benchmark, protocol("validation")).train) == 5
    assert judged_by(benchmark, protocol("oracle")) is benchmark


@pytest.mark.parametrize("tested", ["together", "class"])
@pytest.mark.parametrize("own", [False, True])
def test_validation_data_are_those_of_what_is_tested(tested: str, own: bool, tmp_path: Path) -> None:
    """Where all experiences are tested together, or by class, validation data are cut like that, too."""
    lines = [
        "row,label,split,experience"
    ]  # classes 2 and 3 come first; class c has c + 2 validation examples
    for c in range(4):
        splits = ["train"] * (6 if own else 6 + c + 2) + ["test"] + ["val"] * own * (c + 2)
        experience = 1 - c // 2
        lines += [
            f"{len(lines) + k - 1},{c},{s},{experience if s == 'train' else ''}" for k, s in enumerate(splits)
        ]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(len(lines), 3)))
    benchmark = clbench.from_manifest(
        tmp_path / "m.csv", array=tmp_path / "x.npy", tested=tested, valid=0.0 if own else 0.3
    )
    seen = judged_by(benchmark, protocol("first-1-experiences"))
    assert [exp.tests for exp in seen.train] == [tuple(range(len(seen.test)))]
    assert [exp.index for exp in seen.test] == [*range(len(seen.test))]
    assert seen.test[0].classes == ((0, 1, 2, 3) if tested == "together" else (2,))
    if own:
        assert [len(exp) for exp in seen.test] == ([14] if tested == "together" else [4, 5])


def test_a_stream_without_validation_data_or_too_short_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"give valid=0\.2"):
        judged_by(make_benchmark("split-digits"), protocol("validation"))
    with pytest.raises(ConfigError, match="needs 9 experiences; split-digits has 5"):
        judged_by(make_benchmark("split-digits", valid=0.2), protocol("first-9-experiences"))


def test_touching_the_test_stream_raises_and_only_while_it_is_sealed() -> None:
    benchmark = make_benchmark("split-digits", valid=0.2)
    before = benchmark.test[0].data.x()
    with sealed(benchmark):
        for look in (benchmark.test[0].data.x, lambda: benchmark.test[1].data.take(torch.arange(2))):
            with pytest.raises(ConfigError, match="test stream was touched"):
                look()
        assert len(benchmark.train[0].data.x())
        assert benchmark.valid is not None
        assert len(benchmark.valid[0].data.x())
    assert torch.equal(benchmark.test[0].data.x(), before)


def test_a_search_under_a_protocol_never_opens_the_test_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strategy that peeks at the benchmark it was built from."""
    from clbench import Strategy
    from clbench.runs import building

    full = make_benchmark("split-digits", valid=0.2)
    monkeypatch.setattr(building, "make_benchmark", lambda *_, **__: full)
    monkeypatch.setattr(Strategy, "setup", lambda self, run: full.test[0].data.x())
    with pytest.raises(ConfigError, match="test stream was touched"):
        tune(resolve, protocol("validation"), DEFAULT_SPACE, 1, ONE)
    assert tune(resolve, protocol("oracle"), DEFAULT_SPACE, 1, ONE)


def test_the_same_search_tries_the_same_and_the_best_comes_first() -> None:
    def search(seed: int) -> list[tuple[float, float | None]]:
        found = tune(resolve, protocol("first-1-experiences"), DEFAULT_SPACE, 4, ONE, seed=seed)
        return [(trial.settings["lr"], trial.value) for trial in found]

    first = search(0)
    assert first == search(0)
    assert first != search(1)
    values = [value for _, value in first]
    assert values == sorted(values, key=lambda v: -1.0 if v is None else v, reverse=True)


def test_what_diverges_comes_last_and_the_search_goes_on() -> None:
    space = {"lr": Range(choices=(0.05, 1e25))}
    found = tune(resolve, protocol("validation"), space, 6, ONE)
    assert found[0].settings["lr"] == 0.05
    assert found[-1].value is None


def test_spaces_in_yaml() -> None:
    given = {
        "lr": {"log": [0.01, 1]},
        "draw": {"int": [1, 5]},
        "model": {"choice": ["mlp"]},
        "alpha": {"uniform": [0, 1]},
    }
    space = space_of(given)
    assert space["lr"] == Range(0.01, 1.0, log=True)
    assert space["draw"].whole
    assert space["model"].choices == ("mlp",)


@pytest.mark.parametrize(
    "given",
    [
        0.1,
        {"log": [0, 1]},
        {"log": [1, 0.1]},
        {"uniform": [1]},
        {"choice": []},
        {"grid": [1, 2]},
        {"int": "ab"},
    ],
)
def test_a_space_that_is_none_is_told_by_name(given: object) -> None:
    with pytest.raises(ConfigError, match="The space of 'lr'"):
        space_of({"lr": given})


def small_suite(**changes: Any) -> SuiteConfig:
    tree = {
        "strategies": [
            "finetune",
            {"name": "l2", "label": "held", "space": {"strength": {"log": [0.001, 0.1]}}},
        ],
        "benchmarks": ["split-digits"],
        "settings": {"iterations": 3, "hidden": [16], "every": 1},
        "space": {"optim.lr": {"log": [0.01, 0.1]}},
        **changes,
    }
    return SuiteConfig.model_validate(tree)


def test_every_strategy_of_a_suite_gets_as_many_trials_and_searches_its_own_space() -> None:
    tried: dict[str, list[Mapping[str, Any]]] = {}
    tuned = tune_suite(
        small_suite(),
        protocol("first-1-experiences"),
        3,
        ONE,
        told=lambda strategy, trial: tried.setdefault(strategy.label or strategy.name, []).append(
            trial.settings
        ),
    )
    assert {name: len(trials) for name, trials in tried.items()} == {"finetune": 3, "held": 3}
    plain, held = (strategy.settings for strategy in tuned.strategies)
    assert plain.keys() == {"optim.lr", "selection"}
    assert held.keys() == {"optim.lr", "strength", "selection"}
    chosen_for = {"protocol": "first-1-experiences", "benchmark": "split-digits"}
    assert plain["selection"] == {**chosen_for, "strategy": "finetune"}
    assert held["selection"] == {**chosen_for, "strategy": "l2"}
    assert plain["optim.lr"] in [float(f"{trial['optim.lr']:.3g}") for trial in tried["finetune"]]


def test_a_tuned_suite_runs_with_what_was_chosen_and_without_the_validation_split() -> None:
    tuned = tune_suite(small_suite(), protocol("first-1-experiences"), 2, ONE)
    cells = {cell.strategy: cell.resolved for cell in plan(tuned, seeds=[0])}
    assert cells["held"].selection == "first-1-experiences"
    assert cells["held"].params["l2"]["strength"] == tuned.strategies[1].settings["strength"]
    assert cells["held"].optim.lr == tuned.strategies[1].settings["optim.lr"]
    assert cells["held"].stream["valid"] == 0.0
    assert cells["held"].evaluation.every == 1


def test_a_suite_of_several_benchmarks_is_not_tuned() -> None:
    two = small_suite(benchmarks=["split-digits", "rotated-digits"])
    with pytest.raises(ConfigError, match="one benchmark, and this suite has split-digits, rotated-digits"):
        tune_suite(two, protocol("validation"), 1, ONE)


def test_a_strategy_of_a_suite_that_diverges_in_every_trial_is_named() -> None:
    wild = small_suite(space={"optim.lr": {"choice": [1e25]}})
    with pytest.raises(ConfigError, match="Every one of 1 trials of 'finetune' diverged"):
        tune_suite(wild, protocol("validation"), 1, ONE)


def test_a_setting_that_is_given_and_searched_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'optim.lr' is searched, so it cannot be 0.1"):
        tune_suite(small_suite(), protocol("validation"), 1, ONE, settings={"optim.lr": 0.1})


def test_a_metric_that_is_not_defined_chooses_nothing() -> None:
    with pytest.raises(ConfigError, match="'min_acc' is not defined for finetune on split-digits"):
        tune(resolve, protocol("validation"), DEFAULT_SPACE, 1, ONE, metric="min_acc")


def test_a_value_that_a_strategy_refuses_is_found_before_the_first_trial() -> None:
    """pred-kd takes alpha with another loss only."""
    suite = small_suite(strategies=["finetune", {"name": "pred-kd", "space": {"alpha": {"log": [0.1, 1]}}}])
    tried: list[object] = []
    with pytest.raises(ConfigError, match="alpha is of the softmax form only"):
        tune_suite(suite, protocol("validation"), 1, ONE, told=lambda *trial: tried.append(trial))
    assert not tried


def test_a_search_that_was_cut_off_goes_on_from_what_it_saved() -> None:
    how, saved = protocol("first-1-experiences"), list[SuiteConfig]()
    whole = tune_suite(small_suite(), how, 2, ONE, save=saved.append)
    assert [sum("selection" in s.settings for s in suite.strategies) for suite in saved] == [1, 2]
    tried: list[str] = []
    again = tune_suite(saved[0], how, 2, ONE, told=lambda strategy, _: tried.append(strategy.name))
    assert again == whole
    assert tried == ["l2", "l2"]


def test_a_benchmark_without_validation_examples_points_to_the_protocol_that_needs_none() -> None:
    with pytest.raises(ConfigError, match=r"random-labels-digits cannot be built with one .*'oracle'"):
        tuning.trial_settings(tuning.protocol("first-2-experiences"), "random-labels-digits")
    assert "stream.valid" not in tuning.trial_settings(tuning.protocol("oracle"), "random-labels-digits")
