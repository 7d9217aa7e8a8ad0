"""Continued indexing: cl(D_n) is fine-tuning, cl(U_n) learns the documents of all corpora so far."""

from __future__ import annotations

import pytest
import torch

from clbench import make_strategy
from clbench.testing import difference, tiny_benchmark, tiny_run
from clbench.testing.tools import everything


def test_all_documents_and_no_old_queries() -> None:
    run = tiny_run(make_strategy("continued-indexing"), tiny_benchmark(documents=True))
    assert [len(exp) for exp in run.train] == [64, 32 + 64, 32 + 64 + 64]
    assert [exp.documents for exp in run.train] == [32, 96, 160]
    assert [exp.classes for exp in run.train] == [(0, 1), (0, 1, 2, 3), (0, 1, 2, 3, 4, 5)]
    given = run.benchmark.train
    documents = torch.cat([exp.data.x()[: exp.documents] for exp in given])
    assert torch.equal(run.train[2].data.x(), documents)
    assert torch.equal(run.train[0].data.x(), given[0].data.x())  # the first corpus with its queries


def test_new_documents_alone_are_fine_tuning() -> None:
    runs = [
        tiny_run(make_strategy(name, **params), tiny_benchmark(documents=True))
        for name, params in (("finetune", {}), ("continued-indexing", {"scope": "new"}))
    ]
    for run in runs:
        run.fit()
    assert difference(*(everything(run) for run in runs)) is None


def test_it_forgets_less_than_fine_tuning() -> None:
    accuracy = {}
    for name in ("finetune", "continued-indexing"):
        run = tiny_run(make_strategy(name), tiny_benchmark(documents=True, classes=6), epochs=20)
        run.fit()
        curve = run.evaluator.curve
        accuracy[name] = curve.matrix().R[-1]
    assert accuracy["continued-indexing"][0] > accuracy["finetune"][0] + 0.3


def test_a_share_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"'pseudo' takes a number from 0 to 1; 1\.5 was given"):
        make_strategy("continued-indexing", pseudo=1.5)
    with pytest.raises(ValueError, match="'span' takes a whole number ≥ 1; 0 was given"):
        make_strategy("continued-indexing", pseudo=0.5, span=0)
