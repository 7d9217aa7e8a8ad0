"""A method written in Mammoth's style takes clbench's own steps: the same bits as the native strategy."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from clbench import make_strategy
from clbench.errors import IncompatibleError
from clbench.interop.mammoth import Buffer, ContinualModel, MammothStrategy
from clbench.registry import load_plugin
from clbench.runs import lifecycle
from clbench.strategy import Strategy
from clbench.testing import check_strategy, tiny_benchmark, tiny_run

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "mammoth_er.py"


@pytest.fixture(autouse=True)
def _example() -> None:
    load_plugin(EXAMPLE)


class Plain(ContinualModel):
    """Fine-tuning."""

    def observe(self, inputs: Any, labels: Any, not_aug_inputs: Any, epoch: int | None = None) -> float:
        self.opt.zero_grad()
        loss = self.loss(self.net(inputs), labels)
        loss.backward()
        self.opt.step()
        return float(loss.item())


@pytest.mark.parametrize(
    ("style", "native", "params"),
    [
        ("mammoth-er", "er", {"draw": 32}),
        ("mammoth-derpp", "derpp", {"draw": 32, "alpha": 0.1, "beta": 0.5}),
    ],
)
def test_its_curve_and_weights_are_the_native_strategys(
    style: str, native: str, params: dict[str, Any]
) -> None:
    runs = [
        tiny_run(strategy, tiny_benchmark(examples=80, images=True), every=1)
        for strategy in (make_strategy(style, buffer_size=50), make_strategy(native, memory=50, **params))
    ]
    for run in runs:
        run.fit()
    theirs, ours = runs
    assert theirs.updates == ours.updates == 18
    assert all(
        torch.equal(a, b)
        for a, b in zip(theirs.model.state_dict().values(), ours.model.state_dict().values(), strict=True)
    )
    assert (theirs.evaluator.curve.correct == ours.evaluator.curve.correct).all()
    assert (theirs.evaluator.curve.loss == ours.evaluator.curve.loss).all()
    assert theirs.budget()["memory_examples"] == ours.budget()["memory_examples"] == 50


@pytest.mark.parametrize("name", ["mammoth-er", "mammoth-derpp"])
def test_it_keeps_the_contract_but_for_precision(name: str) -> None:
    own = {"low_precision": "it makes its updates by itself"}
    results = list(check_strategy(name, expected_failures=own))
    assert [r for r in results if r.status == "failed"] == []


def test_a_run_of_it_is_recorded(tmp_path: Path) -> None:
    record = lifecycle.run("split-digits", "mammoth-er", out=tmp_path, buffer_size=40, every=50, subset=10)
    assert record.config["params"] == {"mammoth-er": {"buffer_size": 40, "minibatch_size": 32}}
    assert record.status == "done"


def test_it_is_told_of_tasks_by_mammoths_names() -> None:
    told: list[tuple[str, int, int, int, int]] = []

    class Listening(Plain):
        def begin_task(self, dataset: Any) -> None:
            told.append(
                ("begin", self.current_task, self.n_past_classes, self.n_seen_classes, dataset.N_TASKS)
            )

        def end_task(self, dataset: Any) -> None:
            assert sum(len(labels) for _, labels, _ in dataset.train_loader) == 64
            told.append(
                ("end", self.current_task, self.n_past_classes, self.n_seen_classes, dataset.N_CLASSES)
            )

    strategy = MammothStrategy(Listening)
    tiny_run(strategy, tiny_benchmark(), epochs=1).fit()
    assert strategy.all_needs() == {"boundaries"}
    assert told == [
        ("begin", 0, 0, 2, 3),
        ("end", 0, 0, 2, 6),
        ("begin", 1, 2, 4, 3),
        ("end", 1, 2, 4, 6),
        ("begin", 2, 4, 6, 3),
        ("end", 2, 4, 6, 6),
    ]


def test_it_gets_its_hyper_parameters_and_the_runs() -> None:
    strategy = MammothStrategy(Plain, alpha=0.5)
    tiny_run(strategy, tiny_benchmark())
    assert strategy.method.args == Namespace(alpha=0.5, lr=0.02, batch_size=32, n_epochs=2)


def test_the_epoch_is_told() -> None:
    epochs: list[int | None] = []

    class Counting(Plain):
        def observe(self, inputs: Any, labels: Any, not_aug_inputs: Any, epoch: int | None = None) -> float:
            epochs.append(epoch)
            return super().observe(inputs, labels, not_aug_inputs)

    tiny_run(MammothStrategy(Counting), tiny_benchmark(experiences=1), epochs=2).fit()
    assert epochs == [0, 0, 1, 1]


def test_a_setting_that_it_is_not_for_is_refused() -> None:
    class TaskOnly(Plain):
        COMPATIBILITY = ("task-il",)

    with pytest.raises(IncompatibleError, match="is for task-il; tiny is class-il"):
        tiny_run(MammothStrategy(TaskOnly), tiny_benchmark())


def test_a_class_without_observe_is_refused() -> None:
    class Nothing:
        def __init__(self, *_: Any) -> None: ...

    with pytest.raises(IncompatibleError, match=r"Nothing has no method observe"):
        tiny_run(MammothStrategy(Nothing), tiny_benchmark())


def test_it_cannot_be_chained() -> None:
    with pytest.raises(
        IncompatibleError, match=r"mammoth-er makes its updates by itself.* cannot be chained"
    ):
        tiny_run(make_strategy("mammoth-er+refresh"), tiny_benchmark())


def test_a_grant_of_memory_is_heeded() -> None:
    with pytest.raises(IncompatibleError, match="would keep 200 examples; tiny@1 grants 20"):
        tiny_run(make_strategy("mammoth-er"), tiny_benchmark(memory=20))


def test_a_buffer_draws_within_a_run_only() -> None:
    with pytest.raises(RuntimeError, match="within a run only"):
        Buffer(10).add_data(torch.zeros(2, 3))


def test_a_factory_makes_a_strategy() -> None:
    assert isinstance(make_strategy("mammoth-er"), Strategy)
