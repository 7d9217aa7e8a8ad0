"""Decoupled cosine: 16 · cos(features, weights), the weights of later classes being their mean features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from clbench import make_strategy
from clbench.parts import NormalisedHead
from clbench.testing import tiny_run
from clbench.types import MASKED, Benchmark


def test_scores_on_fresh_tensors() -> None:
    generator = torch.Generator().manual_seed(5)
    features, weight = (torch.randn(n, 7, generator=generator) for n in (9, 4))
    f, w = features.double(), weight.double()
    cosines = torch.stack([(f * row).sum(1) / (f.norm(dim=1) * row.norm()) for row in w], 1)
    torch.testing.assert_close(
        NormalisedHead(weight, 16.0)(features).double(), 16 * cosines, rtol=1e-6, atol=2e-6
    )


@pytest.mark.parametrize("base", ["learned", "means"])
def test_weights_after_the_stream(base: str, few_shot_benchmark: Callable[..., Benchmark]) -> None:
    run = tiny_run(make_strategy("decoupled-cosine", base=base), few_shot_benchmark(), epochs=3)
    run.fit()
    weight = run.model.head.weight.double()
    with run.evaluating(), torch.no_grad():
        for c in range(8):
            x = torch.cat([run.normalise(e.data.x()[e.data.y() == c]) for e in run.train])
            mean = run.model.features(x).double().mean(0)
            if c >= 4 or base == "means":
                torch.testing.assert_close(weight[c], mean, rtol=1e-5, atol=1e-6)
            else:
                assert not torch.allclose(weight[c], mean, rtol=1e-2)
        x = run.normalise(run.benchmark.test[2].data.x())
        scores = run.predict(x, torch.full((len(x),), -1))
        features = run.model.features(x).double()
        expected = 16 * F.cosine_similarity(features.unsqueeze(1), weight.unsqueeze(0), dim=2)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_session_teaches_at_its_end_only(few_shot_benchmark: Callable[..., Benchmark]) -> None:
    run = tiny_run(make_strategy("decoupled-cosine"), few_shot_benchmark())
    seen = []
    for exp in run.train:
        for part in run.strategy.parts:
            part.begin_experience(exp)
        x = run.normalise(exp.data.x())
        with run.evaluating(), torch.no_grad():
            seen.append(
                (run.predict(x, torch.full((len(x),), -1)) > MASKED / 2).all(0).nonzero().flatten().tolist()
            )
        for part in run.strategy.parts:
            part.end_experience(exp)
    assert seen == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]


def test_a_class_without_an_example_is_out_of_the_question(
    few_shot_benchmark: Callable[..., Benchmark],
) -> None:
    run = tiny_run(make_strategy("decoupled-cosine"), few_shot_benchmark())
    for exp in (run.train[0], replace(run.train[1], classes=(*run.train[1].classes, 7))):
        for part in run.strategy.parts:
            part.begin_experience(exp)
            part.end_experience(exp)
    x = run.normalise(run.train[1].data.x())
    with run.evaluating(), torch.no_grad():
        scores = run.predict(x, torch.full((len(x),), -1))
    assert (scores != MASKED).all(0).nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_nothing_is_trained_after_the_base_session(few_shot_benchmark: Callable[..., Benchmark]) -> None:
    run = tiny_run(make_strategy("decoupled-cosine"), few_shot_benchmark(), epochs=2)
    run.fit()
    assert run.updates == 2 * 3
