"""Benchmarks go from Avalanche to clbench and back with their examples, labels, experiences and tasks."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

import numpy as np
import pytest
import torch

if importlib.util.find_spec("avalanche") is None:
    pytest.skip("the conversions need avalanche-lib", allow_module_level=True)

from clbench.errors import DataError
from clbench.interop.avalanche import from_avalanche, to_avalanche
from clbench.interop.avalanche.lib import avalanche, quiet
from clbench.runs import building
from clbench.testing import tiny_benchmark, tiny_model, tiny_run
from clbench.transforms.augment import Transform
from clbench.types import Setting


class Images(torch.utils.data.Dataset[tuple[Any, int]]):
    """Grey PIL images of 4 × 4 pixels whose value is their number, with four labels in turn."""

    def __init__(self, n: int) -> None:
        self.targets = [i % 4 for i in range(n)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        return Image.fromarray(np.full((4, 4), index, dtype=np.uint8)), self.targets[index]


def transform() -> Any:
    from torchvision.transforms import Compose, Normalize, ToTensor

    return Compose([ToTensor(), Normalize((0.5,), (0.25,))])


def as_theirs(n: int) -> Any:
    with quiet():
        tuples = {"train": (transform(), None), "eval": (transform(), None)}
        return avalanche().benchmarks.utils.as_classification_dataset(Images(n), transform_groups=tuples)


def expected(values: torch.Tensor) -> torch.Tensor:
    """(N, 1, 4, 4) what ToTensor and Normalize make of images of these values."""
    return ((values.float() / 255 - 0.5) / 0.25)[:, None, None, None].expand(-1, 1, 4, 4)


# --- Avalanche's as ours ---


def test_a_classic_benchmark_of_new_classes() -> None:
    with quiet():
        scenario = avalanche().benchmarks.nc_benchmark(
            Images(40),
            Images(20),
            n_experiences=2,
            task_labels=False,
            fixed_class_order=[2, 0, 3, 1],
            shuffle=False,
            train_transform=transform(),
            eval_transform=transform(),
        )
    benchmark = from_avalanche(scenario)
    assert benchmark.setting == Setting(shift="class")
    assert [exp.classes for exp in benchmark.train] == [(0, 2), (1, 3)]
    assert benchmark.num_classes == 4
    for exp in benchmark.train:
        values = torch.tensor([i for i in range(40) if i % 4 in exp.classes])
        order = exp.data.x()[:, 0, 0, 0].argsort()
        torch.testing.assert_close(exp.data.x()[order], expected(values))
        assert exp.data.y()[order].tolist() == [int(v) % 4 for v in values]


def test_a_classic_benchmark_with_task_labels() -> None:
    with quiet():
        scenario = avalanche().benchmarks.nc_benchmark(
            Images(40),
            Images(20),
            n_experiences=2,
            task_labels=True,
            shuffle=False,
            eval_transform=transform(),
        )
    benchmark = from_avalanche(scenario)
    assert benchmark.setting == Setting(shift="task", task_labels="always")
    assert [exp.task for exp in benchmark.train] == [exp.task for exp in benchmark.test] == [0, 1]


def test_a_classic_benchmark_of_new_instances_with_one_test_experience() -> None:
    with quiet():
        scenario = avalanche().benchmarks.ni_benchmark(
            Images(40), Images(20), n_experiences=2, eval_transform=transform(), seed=1
        )
    benchmark = from_avalanche(scenario)
    assert benchmark.setting.shift == "domain"
    assert len(benchmark.test) == 1
    assert [exp.tests for exp in benchmark.train] == [(0,), (0,)]
    record = tiny_run(building.make_strategy("er"), benchmark, model=tiny_model(benchmark), epochs=1)
    record.fit()
    assert record.evaluator.curve.total.max() == 20


def test_a_new_style_class_incremental_benchmark() -> None:
    with quiet():
        scenario = avalanche().benchmarks.class_incremental_benchmark(
            {"train": as_theirs(40), "test": as_theirs(20)}, num_experiences=2, class_order=[3, 1, 0, 2]
        )
    benchmark = from_avalanche(scenario)
    assert benchmark.setting.shift == "class"
    assert [exp.classes for exp in benchmark.train] == [(1, 3), (0, 2)]
    assert len(benchmark.train[0].data) == 20


def test_a_new_style_task_incremental_benchmark() -> None:
    av = avalanche()
    with quiet():
        plain = av.benchmarks.benchmark_from_datasets(
            train=[_without_tasks(8), _without_tasks(8)], test=[_without_tasks(4), _without_tasks(4)]
        )
        scenario = av.benchmarks.task_incremental_benchmark(plain, reset_task_labels=True)
    benchmark = from_avalanche(scenario)
    assert benchmark.setting == Setting(shift="task", task_labels="always")
    assert [exp.task for exp in benchmark.train] == [0, 1]


def _without_tasks(n: int) -> Any:
    return as_theirs(n)


def test_raw_examples_with_a_transform_of_ours() -> None:
    with quiet():
        scenario = avalanche().benchmarks.nc_benchmark(
            Images(40),
            Images(20),
            n_experiences=2,
            task_labels=False,
            shuffle=False,
            eval_transform=transform(),
        )
    ours = Transform(mean=(0.5,), std=(0.25,), ops=("crop",), padding=1)
    benchmark = from_avalanche(scenario, transform=ours, name="grey")
    raw = benchmark.train[0].data.x()
    assert raw.dtype == torch.uint8
    assert raw.shape == (20, 1, 4, 4)
    assert benchmark.transform is ours
    torch.testing.assert_close(ours.normalise(raw), expected(raw[:, 0, 0, 0]))


def test_the_fingerprint_tells_data_apart() -> None:
    def fingerprint(order: list[int]) -> str:
        with quiet():
            scenario = avalanche().benchmarks.nc_benchmark(
                Images(40),
                Images(20),
                n_experiences=2,
                task_labels=False,
                fixed_class_order=order,
                shuffle=False,
                eval_transform=transform(),
            )
        return from_avalanche(scenario).fingerprint

    assert fingerprint([0, 1, 2, 3]) == fingerprint([0, 1, 2, 3]) != fingerprint([0, 2, 1, 3])


def test_streams_that_do_not_belong_together_are_refused() -> None:
    av = avalanche()
    with quiet():
        scenario = av.benchmarks.benchmark_from_datasets(
            train=[as_theirs(8)] * 3, test=[as_theirs(4), as_theirs(4)]
        )
    with pytest.raises(DataError, match="2 experiences and the training stream 3"):
        from_avalanche(scenario)
    with pytest.raises(DataError, match="no stream 'valid'; it has: train, test"):
        from_avalanche(scenario, test="valid")


# --- ours as Avalanche's ---


@pytest.mark.parametrize("shift", ["class", "domain", "task"])
def test_a_round_trip_keeps_everything(shift: Literal["class", "domain", "task"]) -> None:
    benchmark = tiny_benchmark(shift=shift, images=True)
    back = from_avalanche(to_avalanche(benchmark))
    assert back.setting.shift == shift
    assert back.num_classes == benchmark.num_classes
    for before, after in ((benchmark.train, back.train), (benchmark.test, back.test)):
        assert len(before) == len(after)
        for a, b in zip(before, after, strict=True):
            assert torch.equal(benchmark.transform.normalise(a.data.x()), b.data.x())
            assert torch.equal(a.data.y(), b.data.y())
            assert a.classes == b.classes
            assert b.task == (a.task if shift == "task" else 0)


def test_experiences_tell_what_avalanche_strategies_ask() -> None:
    scenario = to_avalanche(tiny_benchmark(shift="task", images=True))
    second = scenario.train_stream[1]
    assert second.task_label == 1
    assert second.classes_in_this_experience == [2, 3]
    assert second.previous_classes == {0, 1}
    assert second.future_classes == {4, 5}
    assert second.benchmark.n_classes_per_exp == [2, 2, 2]
    assert second.benchmark.classes_order == [0, 1, 2, 3, 4, 5]


def test_training_examples_are_augmented_and_others_are_not() -> None:
    benchmark = tiny_benchmark(images=True)
    object.__setattr__(benchmark, "transform", Transform(ops=("crop",), padding=2))
    exp = to_avalanche(benchmark).train_stream[0]
    plain = benchmark.transform.normalise(benchmark.train[0].data.x())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = torch.stack([exp.dataset.train()[i][0] for i in range(8)])
    assert not torch.equal(drawn, plain[:8])
    assert torch.equal(torch.stack([exp.dataset.eval()[i][0] for i in range(8)]), plain[:8])


def test_avalanche_trains_on_it() -> None:
    av, benchmark = avalanche(), tiny_benchmark(images=True)
    model = tiny_model(benchmark, norm=False)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        strategy = av.training.supervised.Naive(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
            criterion=torch.nn.CrossEntropyLoss(),
            train_mb_size=8,
            train_epochs=4,
            evaluator=av.training.plugins.EvaluationPlugin(
                av.evaluation.metrics.accuracy_metrics(experience=True), loggers=[]
            ),
        )
        scenario = to_avalanche(benchmark)
        strategy.train(scenario.train_stream[0])
        results = strategy.eval(scenario.test_stream[0])
    assert next(iter(results.values())) > 0.9
