"""Retraining: with every corpus, from the first weights, on all documents so far and the labelled queries."""

from __future__ import annotations

import torch

from clbench import make_strategy
from clbench.config import OptimConfig
from clbench.testing import difference, tiny_benchmark, tiny_run
from clbench.testing.tools import learned


def test_what_it_trains_on() -> None:
    run = tiny_run(make_strategy("retrain"), tiny_benchmark(documents=True))
    assert [len(exp) for exp in run.train] == [64, 64 + 64, 64 + 64 + 64]
    assert [exp.documents for exp in run.train] == [32, 96, 160]
    given = [exp.data.x() for exp in run.benchmark.train]
    assert torch.equal(run.train[1].data.x(), torch.cat([given[0][:32], given[1], given[0][32:]]))


def test_every_corpus_begins_with_the_first_weights_and_a_fresh_optimizer() -> None:
    """Its weights after the last corpus are those of a run that saw nothing else."""
    optim = OptimConfig(name="adam", lr=0.01, reset=False)
    run = tiny_run(make_strategy("retrain"), tiny_benchmark(documents=True), optim=optim, epochs=1)
    start = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.fit()
    alone = tiny_run(make_strategy("finetune"), tiny_benchmark(documents=True), optim=optim, epochs=1)
    alone.model.load_state_dict(start)
    exp = run.train[2]
    for rows in run.permutation(exp, 0).split(32):
        x, y = exp.data.take(rows)
        alone.optimizer.zero_grad()
        torch.nn.functional.cross_entropy(alone.model(x), y).backward()
        alone.optimizer.step()
    assert difference(dict(alone.model.named_parameters()), dict(run.model.named_parameters())) is None


def test_the_first_corpus_is_fine_tuning() -> None:
    runs = [
        tiny_run(make_strategy(n), tiny_benchmark(documents=True, experiences=1))
        for n in ("finetune", "retrain")
    ]
    for run in runs:
        run.fit()
    assert difference(*(learned(run) for run in runs)) is None
