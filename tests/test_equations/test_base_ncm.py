"""NCM after base training: means of the trained network's features, all classes alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from clbench import make_strategy
from clbench.testing import difference, tiny_run
from clbench.types import MASKED, Benchmark


@pytest.mark.parametrize("cosine", [False, True])
def test_predicts_the_nearest_mean_of_the_settled_features(
    cosine: bool, few_shot_benchmark: Callable[..., Benchmark]
) -> None:
    run = tiny_run(make_strategy("base-ncm", cosine=cosine), few_shot_benchmark(), epochs=3)
    run.fit()
    with run.evaluating(), torch.no_grad():
        means = []
        for c in range(8):
            x = torch.cat([run.normalise(e.data.x()[e.data.y() == c]) for e in run.train])
            assert len(x) == (24 if c < 4 else 3)
            features = run.model.features(x).double()
            if cosine:
                features = features / features.norm(dim=1, keepdim=True)
            means.append(features.mean(0))
        x = torch.cat([e.data.x() for e in run.benchmark.test])
        features = run.model.features(run.normalise(x)).double()
        if cosine:
            means = [m / m.norm() for m in means]
            features = features / features.norm(dim=1, keepdim=True)
        distances = torch.stack([(features - m).norm(dim=1) for m in means], 1)
        predicted = run.predict(x, torch.full((len(x),), -1))
    torch.testing.assert_close(-predicted.double(), distances, rtol=1e-4, atol=1e-5)


def test_the_network_is_that_of_base_only(few_shot_benchmark: Callable[..., Benchmark]) -> None:
    runs = [tiny_run(make_strategy(name), few_shot_benchmark()) for name in ("base-ncm", "base-only")]
    for run in runs:
        run.fit()
    assert difference(*(run.model.state_dict() for run in runs)) is None


def test_classes_without_a_mean_are_out_of_the_question(few_shot_benchmark: Callable[..., Benchmark]) -> None:
    run = tiny_run(make_strategy("base-ncm"), few_shot_benchmark())
    means = run.strategy.parts[2]
    means.end_experience(run.train[1])
    x = run.train[0].data.x()
    with run.evaluating(), torch.no_grad():
        scores = run.predict(x, torch.full((len(x),), -1))
    assert (scores[:, [4, 5]] > MASKED).all()
    assert (scores[:, [0, 1, 2, 3, 6, 7]] == MASKED).all()
