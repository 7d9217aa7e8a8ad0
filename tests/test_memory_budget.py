"""One number of bytes for all that a strategy holds: what counts, when it is refused, and what a record says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

import clbench
from clbench import chain
from clbench.config import Execution, resolve
from clbench.engine.holding import ADDED
from clbench.errors import ClbenchError, ConfigError, IncompatibleError
from clbench.parts import CrossEntropy
from clbench.reports.rows import held_bytes
from clbench.runs.building import build
from clbench.strategy import Strategy
from clbench.testing import tiny_benchmark, tiny_run

ROW = 64 + 8 + 8  # an image of Split Digits in bytes, its label and its task
NETWORK = 4 * 17610


def engine(strategy: str, **settings: Any) -> Any:
    return build(resolve("split-digits", strategy, {"epochs": 1, **settings}), Execution(device="cpu"))


@pytest.mark.parametrize(
    ("strategy", "row"), [("er", ROW), ("derpp", ROW + 40), ("gem", ROW), ("icarl", ROW), ("gdumb", ROW)]
)
def test_a_memory_that_is_too_large_is_refused_before_the_first_step(strategy: str, row: int) -> None:
    """And the largest that fits is named: it does, and one example more does not."""
    small = engine(strategy, memory=10).holding
    rest = sum(small.kinds().values()) - 10 * row
    budget = 50 * row + rest
    with pytest.raises(
        IncompatibleError, match=rf"memory {60 * row:,}.* grants {budget:,}\. memory=50 is the largest"
    ):
        engine(strategy, memory=60, memory_budget=budget)
    engine(strategy, memory=50, memory_budget=budget)
    with pytest.raises(IncompatibleError, match="memory=50 is the largest"):
        engine(strategy, memory=51, memory_budget=budget)


def test_what_only_a_step_tells_is_refused_after_the_first() -> None:
    """`hpcr` stores logits and features, too."""
    run = engine("hpcr", memory=100, memory_budget=100 * ROW + 10)
    with pytest.raises(IncompatibleError, match=r"hpcr would hold .* \(HolisticReplay\.memory"):
        run.fit()
    assert run.step == 1


def test_a_teacher_is_refused_when_there_is_one() -> None:
    """`lwf` has it from the start, `icarl` from the end of the first experience."""
    with pytest.raises(
        IncompatibleError, match=rf"network {NETWORK:,}.*Give memory_budget={NETWORK + 10} or more"
    ):
        engine("lwf", memory_budget=NETWORK)
    run = engine("icarl", memory=10, memory_budget=NETWORK)
    with pytest.raises(IncompatibleError, match=rf"icarl would hold .* \(\w+\.teacher {NETWORK:,}"):
        run.fit()
    assert (run.experience, run.at_last_step) == (0, True)


def test_a_memory_counts_no_more_examples_than_the_stream_brings() -> None:
    run = engine("er", memory=10**9)
    assert sum(run.holding.kinds().values()) == ROW * sum(len(exp) for exp in run.train)


def test_what_a_part_adds_to_the_network_counts_once() -> None:
    class Branch(Strategy):
        state = ("branch",)

        def wrap(self, model: nn.Module) -> nn.Module:
            self.branch = model.branch = nn.Linear(3, 5, bias=False)
            return model

    kinds = tiny_run(chain(Branch(), CrossEntropy()), tiny_benchmark()).holding.kinds()
    assert +kinds == {ADDED: 4 * 3 * 5}


class Peak(Strategy):
    """Holds 400 bytes more in its first experience than afterwards."""

    needs = frozenset({"boundaries"})
    state = ("held",)

    def setup(self, run: Any) -> None:
        self.held = run.model.head.weight.new_zeros(100)

    def end_experience(self, exp: Any) -> None:
        self.held = self.held[:0].clone()


def test_a_record_says_the_most_that_was_held() -> None:
    run = tiny_run(chain(Peak(), CrossEntropy()), tiny_benchmark(), epochs=1)
    run.fit()
    assert (run.budget()["held_bytes"], run.budget()["strategy_state_bytes"]) == (400, 0)


def test_the_most_that_was_held_is_resumed() -> None:
    run, again = (tiny_run(chain(Peak(), CrossEntropy()), tiny_benchmark(), epochs=1) for _ in range(2))
    run.fit()
    again.holding.most = 0
    again.load_state_dict(run.state_dict())
    assert again.budget()["held_bytes"] == 400


def test_an_older_record_counts_its_state_at_the_end() -> None:
    assert held_bytes({"strategy_state_bytes": 3}) == 3
    assert held_bytes({"strategy_state_bytes": 3, "held_bytes": 5}) == 5


@pytest.mark.parametrize(
    ("given", "size"), [(7, 7), ("512", 512), ("10MB", 10**7), ("1.5 GiB", 3 << 29), ("64 kb", 64000), (0, 0)]
)
def test_a_budget_is_given_in_bytes_or_as_a_size(given: Any, size: int) -> None:
    assert resolve("split-digits", "er", {"memory_budget": given}).memory_budget == size


@pytest.mark.parametrize(
    ("given", "said"),
    [("10 MO", "such as 10MB"), ("much", "such as 10MB"), (-1, "a whole number"), (1.5, "a whole number")],
)
def test_what_is_no_size_is_refused(given: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"'memory_budget'.*{said}"):
        resolve("split-digits", "er", {"memory_budget": given})


def test_without_a_budget_a_configuration_is_as_before_there_were_any() -> None:
    """So that ids and rows stay; a budget is part of the configuration, and its text is not."""
    plain, *held = (
        resolve("split-digits", "er", given).model_dump(mode="json")
        for given in ({}, {"memory_budget": "10MB"}, {"memory_budget": 10**7})
    )
    assert "memory_budget" not in plain
    assert held[0] == held[1] == {**plain, "memory_budget": 10**7}


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ClbenchError, match="memory=6 is the largest"):
        clbench.run("split-digits", "er", memory_budget=6 * ROW, out=tmp_path)
    assert not list(tmp_path.iterdir())
