"""Replay of documents: cross-entropy over new and old documents, at the steps and the batch size without it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import make_strategy
from clbench.testing import tiny_benchmark, tiny_run, watch


def test_every_batch() -> None:
    """Half of a later batch are old documents as they are stored; labelled queries are not among them."""
    seen: list[tuple[int, Any, Tensor]] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        result = call()
        if point == "losses":
            batch, out = arguments
            torch.testing.assert_close(result["fit"], F.cross_entropy(out.logits, batch.y))
            seen.append((run.experience, batch, out.logits))
        return result

    strategy = watch(make_strategy("document-replay", memory=500), probe)
    run = tiny_run(strategy, tiny_benchmark(documents=True, classes=6), batch_size=16, epochs=1)
    run.fit()
    documents = [exp.data.take(torch.arange(exp.documents or 0)) for exp in run.train]
    for experience, batch, _ in seen:
        assert len(batch) == 16
        assert batch.new == (8 if experience else 16)
        stored = {
            (tuple(row), label)
            for x, y in documents[:experience]
            for row, label in zip(x.tolist(), y.tolist(), strict=True)
        }
        for row, label in zip(batch.x[batch.new :].tolist(), batch.y[batch.new :].tolist(), strict=True):
            assert (tuple(row), label) in stored
    assert len(run.strategy.parts[0].memory) == 32 + 64 + 64  # type: ignore[attr-defined]


def test_labelled_queries_are_kept_on_request() -> None:
    strategy = make_strategy("document-replay", memory=500, queries=True)
    run = tiny_run(strategy, tiny_benchmark(documents=True), epochs=1)
    run.fit()
    assert len(run.strategy.parts[0].memory) == 64 + 64 + 64  # type: ignore[attr-defined]


def test_a_memory_that_is_too_small_holds_a_sample() -> None:
    run = tiny_run(make_strategy("document-replay", memory=30), tiny_benchmark(documents=True), epochs=1)
    run.fit()
    memory = run.strategy.parts[0].memory  # type: ignore[attr-defined]
    assert len(memory) == 30
    assert len(memory["y"].unique()) > 3
