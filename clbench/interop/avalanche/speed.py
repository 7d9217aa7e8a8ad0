"""How much faster an Avalanche strategy is in clbench than in Avalanche's own loop.

    python -m clbench.interop.avalanche.speed --benchmark split-mnist --rounds 3

All train the same strategy from the same weights in one process, one thread, in turn, and are timed by the CPU time
that the process uses, which other programs on the machine change little. Preparation (data, model, the first import)
is not timed. Avalanche is timed twice: on `to_avalanche`'s tensors, and on PIL images with `ToTensor` and
`Normalize`, as its SplitMNIST has them.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from clbench import config
from clbench.engine.engine import Engine
from clbench.interop.avalanche.benchmarks import to_avalanche
from clbench.interop.avalanche.lib import avalanche, quiet
from clbench.machine.torchvision import torchvision
from clbench.models import make_model
from clbench.runs import building
from clbench.types import Benchmark, Data, Stream

CASES: Mapping[str, Mapping[str, Any]]
CASES = {"Naive": {}, "Replay": {"mem_size": 200}, "EWC": {"ewc_lambda": 1.0}}
BATCH_SIZE = 32


def shortened(benchmark: Benchmark, train: int, test: int) -> Benchmark:
    """Return the benchmark with the first examples of every experience only."""

    def cut(stream: Stream, n: int) -> Stream:
        shorter = [replace(e, data=e.data.subset(torch.arange(min(n, len(e.data))))) for e in stream]
        return Stream(stream.name, tuple(shorter))

    return replace(benchmark, train=cut(benchmark.train, train), test=cut(benchmark.test, test))


def in_clbench(name: str, benchmark: Benchmark, model: nn.Module, every: int) -> Callable[[], Any]:
    """Training, ready to begin."""
    settings = {
        **CASES[name],
        "lr": 0.01,
        "batch_size": BATCH_SIZE,
        "epochs": 1,
        "every": every,
        "future": False,
    }
    resolved = config.resolve(benchmark.name, f"avalanche:{name}", settings, given_benchmark=True)
    execution = config.Execution(device="cpu", checkpoint_seconds=None)
    strategy = building.build_strategy(resolved.strategy, resolved.params)
    return Engine(benchmark, strategy, model, resolved, execution).fit  # type: ignore[arg-type]


class Pictures(Dataset[tuple[Any, int]]):
    """An experience's grey images as torchvision's MNIST gives them."""

    def __init__(self, data: Data) -> None:
        self.x, self.targets = data.x().numpy(), data.y().tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        return Image.fromarray(self.x[index, 0]), self.targets[index]


def with_pictures(benchmark: Benchmark) -> Any:
    """Return the benchmark in Avalanche with PIL images and torchvision's transforms."""
    torchvision()
    from torchvision.transforms import Compose, Normalize, ToTensor

    av, ours = avalanche(), benchmark.transform
    shown = Compose([ToTensor(), *([Normalize(ours.mean, ours.std)] if ours.mean else [])])
    utils = av.benchmarks.utils

    def dataset(data: Data) -> Any:
        labels = utils.DataAttribute(data.y().tolist(), "targets")
        tasks = utils.TaskLabels(utils.ConstantSequence(0, len(data)))
        groups = utils.TransformGroups({"train": (shown, None), "eval": (shown, None)})
        how = {"data_attributes": [labels, tasks], "transform_groups": groups}
        return utils.TaskAwareSupervisedClassificationDataset([Pictures(data)], **how)

    with quiet():
        streams = {"train": benchmark.train, "test": benchmark.test}
        made = {name: [dataset(exp.data) for exp in stream] for name, stream in streams.items()}
        scenario = av.benchmarks.benchmark_from_datasets(**made)
        return av.benchmarks.with_task_labels(av.benchmarks.with_classes_timeline(scenario))


def in_avalanche(name: str, scenario: Any, model: nn.Module, every: int) -> Callable[[], Any]:
    """Training as in a user's script, ready to begin."""
    av = avalanche()
    with quiet():
        metrics = av.evaluation.metrics.accuracy_metrics(experience=True)
        strategy = getattr(av.training.supervised, name)(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=BATCH_SIZE,
            train_epochs=1,
            eval_mb_size=256,
            evaluator=av.training.plugins.EvaluationPlugin(metrics, loggers=[]),
            eval_every=every or -1,
            peval_mode="iteration",
            **CASES[name],
        )

    def train() -> None:
        with quiet():
            for exp in scenario.train_stream:
                seen = list(scenario.test_stream)[: exp.current_experience + 1]
                strategy.train(exp, eval_streams=[seen])
                if not every:
                    strategy.eval(seen)  # as clbench does at every experience's end

    return train


def seconds(train: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    train()
    return time.process_time() - began


def measure(benchmark: Benchmark, name: str, every: int, rounds: int) -> list[float]:
    """Medians over rounds of the CPU seconds in clbench, in Avalanche on tensors, and on images; the first round,
    which warms up, is left out."""
    torch.manual_seed(0)
    model = make_model("mlp", benchmark.input_shape, benchmark.num_classes)
    taken: list[list[float]] = [[], [], []]
    for _ in range(rounds + 1):
        taken[0].append(seconds(in_clbench(name, benchmark, copy.deepcopy(model), every)))
        for column, scenario in enumerate((to_avalanche(benchmark), with_pictures(benchmark)), 1):
            taken[column].append(seconds(in_avalanche(name, scenario, copy.deepcopy(model), every)))
    return [statistics.median(column[1:]) for column in taken]


def main() -> None:
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("--benchmark", default="split-mnist")
    parser.add_argument("--train", type=int, default=640, help="training examples of each experience")
    parser.add_argument("--test", type=int, default=200, help="test examples of each experience")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    benchmark = shortened(building.make_benchmark(given.benchmark), given.train, given.test)
    print("CPU seconds, and how many times faster clbench is\n")
    print("| strategy | evaluation | clbench | Avalanche, tensors | | Avalanche, images | |")
    print("|" + " --- |" * 7)
    for name in CASES:
        for every, said in ((0, "at experience ends"), (1, "after every iteration")):
            ours, *theirs = measure(benchmark, name, every, given.rounds)
            others = " | ".join(f"{value:.2f} | {value / ours:.1f} ×" for value in theirs)
            print(f"| {name} | {said} | {ours:.2f} | {others} |", flush=True)


if __name__ == "__main__":
    main()
