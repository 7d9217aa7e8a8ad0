"""The contract as a tool: what it reports, what may be expected to fail, and what it asks of benchmarks."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clbench import Benchmark, Data, Experience, Strategy, Stream
from clbench.errors import ConfigError, RegistryError
from clbench.parts import CrossEntropy
from clbench.testing import CHECKS, check_benchmark, check_strategy, name_of, rule_of, tiny_benchmark
from clbench.testing.fair import with_other_tests
from clbench.testing.tools import attempt


def undocumented() -> Strategy:
    return CrossEntropy()


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.normal(size=(40, 5)).astype(np.float32),
        "y_train": np.arange(40) % 4,
        "x_test": rng.normal(size=(20, 5)).astype(np.float32),
        "y_test": np.arange(20) % 4,
    }


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


def test_a_crash_is_no_expected_failure() -> None:
    def crashes(subject: object) -> None:
        """A rule."""
        raise IndexError("list index out of range")

    assert attempt(crashes, None, "it breaks the rule").status == "failed"


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


def test_one_that_no_other_process_can_import_is_compared_here_only() -> None:
    def local() -> Strategy:
        return CrossEntropy()

    (result,) = check_strategy(local, only=["deterministic"])
    assert (result.status, "in one process only" in result.message) == ("skipped", True)


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("images", [False, True])
def test_in_what_judges_all_is_exchanged_but_what_it_is_about(images: bool, documents: bool) -> None:
    benchmark = tiny_benchmark(images=images, documents=documents)
    other = with_other_tests(benchmark)
    assert other.train is benchmark.train
    assert other.valid is not None
    for mine, theirs in zip(benchmark.test, other.test, strict=True):
        x, y = theirs.data.take(torch.arange(len(mine)))
        assert len(theirs) == len(mine) + 1
        assert theirs.classes == mine.classes
        assert (y != mine.data.y()).all()
        assert not torch.equal(x, mine.data.x())


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


def test_a_benchmark_that_needs_a_value_is_judged_with_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **arrays())
    results = check_benchmark("npz", path=str(tmp_path / "mine.npz"), experiences=2)
    assert {result.status for result in results} == {"passed"}


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("npz", {"pth": "a.npz"}, "has no parameter 'pth'. Did you mean 'path'?"),
        ("npz", {"path": "a.npz", "experiences": 0}, "'experiences' takes"),
        (tiny_benchmark(), {"path": "a.npz"}, "is built already; leave out path"),
    ],
)
def test_parameters_that_a_benchmark_does_not_take_are_refused(
    name: str | Benchmark, spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_benchmark(name, **spec)


def test_checks_leave_the_callers_random_state_alone() -> None:
    before = torch.get_rng_state()
    list(check_strategy("er"))
    assert torch.equal(before, torch.get_rng_state())
