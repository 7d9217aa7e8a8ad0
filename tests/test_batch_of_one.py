"""Batches of one example, where batch normalisation needs two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clbench import Batch, Classifier, Experience, Output, Strategy, chain, make_strategy
from clbench.config import EvaluationConfig, Execution, RunConfig, Seeds, TrainConfig
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.parts import CrossEntropy, TrainOnly
from clbench.testing import tiny_benchmark, tiny_model
from clbench.types import Benchmark

ONE = "batch normalisation over 16 channels of one value each has no statistics of a single example"


def run(
    strategy: str | Strategy,
    examples: int = 17,
    benchmark: Benchmark | None = None,
    model: Classifier | None = None,
    **train: Any,
) -> Engine:
    """On experiences of so many examples, in batches of 8, through a network with batch normalisation."""
    benchmark = benchmark or tiny_benchmark(examples=examples)
    method = make_strategy(strategy) if isinstance(strategy, str) else strategy
    config = RunConfig(
        benchmark="tiny",
        strategy=str(method),
        train=TrainConfig(**{"batch_size": 8, "epochs": 2, **train}),
        evaluation=EvaluationConfig(every=0),
        seeds=Seeds(order=0, init=0, data=0),
    )
    execution = Execution(device="cpu", checkpoint_seconds=None)
    return Engine(benchmark, method, model or tiny_model(benchmark), config, execution)


def made(name: str, **params: Any) -> Strategy:
    return make_strategy(name, **params)


@pytest.mark.parametrize(
    ("strategy", "params"),
    [
        ("finetune", {}),
        ("derpp", {}),
        ("gem", {}),
        ("finetune+sam", {}),
        ("lwf", {}),
        ("joint", {"examples": 33}),
    ],
)
def test_a_last_batch_of_one_is_refused_before_the_first_step(strategy: str, params: dict[str, Any]) -> None:
    with pytest.raises(
        IncompatibleError, match=rf"experience 1 of tiny@1, .* 8 at a time.*{ONE}.*drop_last=true"
    ):
        run(strategy, **params)


def test_it_names_the_nearest_sizes_that_leave_none() -> None:
    with pytest.raises(IncompatibleError, match=r"train\.batch_size=7 or 9; or a network without"):
        run("finetune")
    with pytest.raises(
        IncompatibleError, match=r"Set train\.batch_size=3; or"
    ):  # of 17, two at a time leave one
        run("finetune", batch_size=1)
    with pytest.raises(IncompatibleError, match=r"experience 2 .* train\.later_batch_size=7 or 9; or"):
        run("finetune", batch_size=6, later_batch_size=8)
    with pytest.raises(IncompatibleError, match=r"experience 1 .* train\.batch_size=7 or 9; or"):
        run("finetune", later_batch_size=6)


def test_a_later_experience_is_seen_before_the_first_step() -> None:
    benchmark = tiny_benchmark(examples=16)
    first, *others = benchmark.train
    longer = Experience(
        1, others[0].classes, first.data.union([first.data, first.data.subset(torch.arange(1))])
    )
    object.__setattr__(benchmark.train, "experiences", (first, longer))
    with pytest.raises(
        IncompatibleError, match="In experience 2 of tiny@1, the 17 examples come 8 at a time"
    ):
        run("finetune", benchmark=benchmark)


@pytest.mark.parametrize(
    "train",
    [{"drop_last": True}, {"batch_size": 9}, {"iterations": 2}, {"batch_size": 17}, {"batch_size": 32}],
)
def test_what_leaves_none_runs(train: dict[str, Any]) -> None:
    run("finetune", **train).fit()


@pytest.mark.parametrize("strategy", ["er", "scr"])
def test_rows_that_join_a_batch_count(strategy: str) -> None:
    run(made(strategy, memory=8)).fit()


def test_maps_of_several_pixels_and_other_norms_need_no_second_example() -> None:
    benchmark = tiny_benchmark(images=True, examples=17)
    for norm in (nn.BatchNorm2d(4), nn.GroupNorm(2, 4)):
        body = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten())
        model = Classifier(body, 16, benchmark.num_classes)
        run("finetune", benchmark=benchmark, model=model).fit()


def test_layers_in_eval_mode_need_none() -> None:
    run(chain(CrossEntropy(), TrainOnly("head"))).fit()


def test_what_settles_later_is_asked_when_it_is_there() -> None:
    run("finetune+freeze-after-first", batch_size=16, later_batch_size=8, examples=25).fit()


@pytest.mark.parametrize(
    ("strategy", "examples", "said"),
    [
        (
            made("gdumb", memory=9, mini_batch=8),
            16,
            "gdumb .* the rest of 9 that come 8 .*mini_batch.*batches of 7 or 9",
        ),
        (made("derpp", draw=1), 16, "derpp .* comes alone: what is drawn from the memory"),
        (made("der", memory=1), 16, "der .* comes alone"),
        (made("er-ace", draw=1), 16, "er-ace .* comes alone"),
        (made("mir", draw=1), 16, "mir .* comes alone"),
    ],
)
def test_passes_of_a_strategy_are_foreseen(strategy: Strategy, examples: int, said: str) -> None:
    with pytest.raises(IncompatibleError, match=f"{said}.*{ONE}" if "batches" not in said else said):
        run(strategy, examples)


def test_a_fisher_pass_in_training_mode_is_foreseen() -> None:
    with pytest.raises(IncompatibleError, match="the rest of 17 that come 8 at a time: fisher=pycil"):
        run(made("ewc", fisher="pycil"), 17, drop_last=True)
    run(made("ewc", fisher="batch"), 17, drop_last=True).fit()


class Own(CrossEntropy):
    """Passes some rows by itself, in training mode."""

    def __init__(self, at: str) -> None:
        self.at = at

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if self.at == "step":
            self.run.forward(batch.x[:1])
        return super().losses(batch, out)

    def begin_experience(self, exp: Experience) -> None:
        if self.at == "begin":
            self.run.forward(next(self.run.visit(exp.data, 1))[0])

    def end_experience(self, exp: Experience) -> None:
        if self.at == "end":
            raw, y = exp.data.take(torch.arange(9))
            self.run.optimise(
                lambda _: zip(raw.split(8), y.split(8), (y - y - 1).split(8), strict=True), 1, lambda _: 0.1
            )


@pytest.mark.parametrize(
    ("at", "where"),
    [("step", "In step 0"), ("begin", "Before experience 1 begins"), ("end", "At the end of experience 1")],
)
def test_what_only_a_step_knows_is_told_there(at: str, where: str) -> None:
    strategy = Own(at)
    with pytest.raises(
        IncompatibleError,
        match=rf"{where}, Own has passed a batch of a single example .*train\.batch_size=8.*drop_last",
    ):
        run(strategy, 16).fit()


def test_other_mistakes_are_left_as_they_are() -> None:
    class Wrong(CrossEntropy):
        def step(self, batch: Batch, inner: Callable[[Batch], Output]) -> Output:
            raise ValueError("of my own")

    with pytest.raises(ValueError, match="of my own"):
        run(Wrong(), 16).fit()
