"""The contract as a tool: what it reports, what may be expected to fail, and what it asks of benchmarks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from clbench import Benchmark, Data, Experience, Strategy, Stream
from clbench.errors import ConfigError, RegistryError
from clbench.parts import CrossEntropy
from clbench.testing import CHECKS, check_benchmark, check_strategy, name_of, rule_of, tiny_benchmark


def undocumented() -> Strategy:
    return CrossEntropy()


def failed(benchmark: Benchmark) -> list[str]:
    return [result.check for result in check_benchmark(benchmark) if result.status == "failed"]


# --- strategies ---


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_a_rule_is_one_sentence(check: object) -> None:
    rule = rule_of(check)  # type: ignore[arg-type]
    assert rule.endswith(".")
    assert ". " not in rule


def test_an_expected_failure_gives_its_reason() -> None:
    (result,) = check_strategy(undocumented, only=["builds"], expected_failures={"builds": "a sketch"})
    assert (result.status, result.message) == ("expected", "a sketch")


def test_what_passes_against_expectation_fails() -> None:
    (result,) = check_strategy("er", only=["builds"], expected_failures={"builds": "old news"})
    assert (result.status, "old news" in result.message) == ("failed", True)


def test_an_unknown_check_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"There is no check 'resume'. Did you mean 'resumes'?"):
        check_strategy("er", expected_failures={"resume": "?"})


def test_an_unknown_strategy_is_refused_at_once() -> None:
    with pytest.raises(RegistryError, match=r"Did you mean 'derpp'?"):
        check_strategy("derp")


def test_a_registered_factory_has_the_null_parameters_of_its_name() -> None:
    from clbench.strategies.ewc import ewc

    (result,) = check_strategy(ewc, only=["null_parameters"])
    assert result.status == "passed"


def test_a_chain_is_checked_as_a_strategy() -> None:
    assert {result.status for result in check_strategy("er+lwf")} <= {"passed", "skipped"}


# --- benchmarks ---


@pytest.mark.parametrize("shift", ["class", "domain", "task"])
@pytest.mark.parametrize("images", [False, True])
def test_tiny_benchmarks_are_sound(shift: str, images: bool) -> None:
    assert failed(tiny_benchmark(shift=shift, images=images)) == []  # type: ignore[arg-type]


def test_testing_on_training_rows_is_found() -> None:
    benchmark = tiny_benchmark()
    assert failed(replace(benchmark, test=replace(benchmark.train, name="test"))) == ["rows_disjoint"]


def test_a_label_beyond_the_classes_is_found() -> None:
    assert failed(replace(tiny_benchmark(), num_classes=5)) == ["labels"]


def test_a_test_stream_before_its_classes_is_found() -> None:
    benchmark = tiny_benchmark()
    first, *rest = benchmark.train
    early = Experience(0, first.classes, first.data, first.task, tests=(2,))
    assert failed(replace(benchmark, train=Stream("train", (early, *rest)))) == ["streams_aligned"]


def test_inputs_of_another_shape_are_found() -> None:
    benchmark, images = tiny_benchmark(), tiny_benchmark(images=True)
    first, second, last = benchmark.train
    other = Experience(2, last.classes, Data(images.train[2].data.parts), last.task)
    assert failed(replace(benchmark, train=Stream("train", (first, second, other)))) == ["shapes"]


def test_the_same_call_builds_the_same_benchmark() -> None:
    fingerprints = [tiny_benchmark(seed=seed).fingerprint for seed in (0, 0, 1)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_registered_benchmarks_are_sound() -> None:
    assert {result.status for result in check_benchmark("split-digits")} == {"passed"}


def test_a_benchmark_that_needs_a_value_is_not_judged() -> None:
    assert {result.status for result in check_benchmark("npz")} == {"skipped"}


def test_checks_leave_the_callers_random_state_alone() -> None:
    before = torch.get_rng_state()
    list(check_strategy("er"))
    assert torch.equal(before, torch.get_rng_state())
