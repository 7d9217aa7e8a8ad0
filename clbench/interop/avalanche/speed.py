"""How much faster an Avalanche strategy is in clbench than in Avalanche's own loop.

    python -m clbench.interop.avalanche.speed --benchmark split-mnist --rounds 3

Both train the same strategy from the same weights in one process, one thread, in turn, and are timed by the CPU time
that the process uses, which other programs on the machine change little. Preparation (data, model, the first import)
is not timed.
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

from clbench import api, config
from clbench.engine import Run
from clbench.interop.avalanche.benchmarks import to_avalanche
from clbench.interop.avalanche.lib import avalanche, quiet
from clbench.types import Benchmark, Stream

CASES: Mapping[str, Mapping[str, Any]] = {
    "Naive": {},
    "Replay": {"mem_size": 200},
    "EWC": {"ewc_lambda": 1.0},
}
BATCH_SIZE = 32


def shortened(benchmark: Benchmark, train: int, test: int) -> Benchmark:
    """The benchmark with the first examples of every experience only."""

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
    strategy = api.build_strategy(resolved.strategy, resolved.params)
    return Run(benchmark, strategy, model, resolved, execution).fit  # type: ignore[arg-type]


def in_avalanche(name: str, benchmark: Benchmark, model: nn.Module, every: int) -> Callable[[], Any]:
    """Training as in a user's script, ready to begin."""
    av, scenario = avalanche(), to_avalanche(benchmark)
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


def measure(benchmark: Benchmark, name: str, every: int, rounds: int) -> tuple[float, float]:
    """Medians over rounds of the CPU seconds in clbench and in Avalanche; of both, the first round is left out."""
    torch.manual_seed(0)
    model = api.make_model("mlp", benchmark.input_shape, benchmark.num_classes)
    ours, theirs = [], []
    for _ in range(rounds + 1):
        ours.append(seconds(in_clbench(name, benchmark, copy.deepcopy(model), every)))
        theirs.append(seconds(in_avalanche(name, benchmark, copy.deepcopy(model), every)))
    return statistics.median(ours[1:]), statistics.median(theirs[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--benchmark", default="split-mnist")
    parser.add_argument("--train", type=int, default=640, help="training examples of each experience")
    parser.add_argument("--test", type=int, default=200, help="test examples of each experience")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    benchmark = shortened(api.make_benchmark(given.benchmark), given.train, given.test)
    print(
        "| strategy | evaluation | clbench, CPU s | Avalanche, CPU s | times faster |\n| --- | --- | --- | --- | --- |"
    )
    for name in CASES:
        for every, said in ((0, "at experience ends"), (1, "after every iteration")):
            ours, theirs = measure(benchmark, name, every, given.rounds)
            print(f"| {name} | {said} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
