"""NCM: the class whose mean feature, over all its examples as they are, is nearest."""

from __future__ import annotations

import pytest
import torch

from clbench import make_strategy
from clbench.testing import tiny_benchmark, tiny_run


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("epochs", [1, 3])
def test_predicts_the_nearest_mean(cosine: bool, epochs: int) -> None:
    benchmark = tiny_benchmark(experiences=2, examples=30)
    run = tiny_run(make_strategy("ncm", cosine=cosine), benchmark, epochs=epochs)
    run.fit()
    means = []
    with run.evaluating(), torch.no_grad():
        for c in range(4):
            rows = torch.cat([run.normalise(e.data.x()[e.data.y() == c]) for e in run.train])
            features = run.model.features(rows).double()
            if cosine:
                features = features / features.norm(dim=1, keepdim=True)
            means.append(features.mean(0))
        x = benchmark.test[1].data.x()
        features = run.model.features(run.normalise(x)).double()
        if cosine:
            means = [m / m.norm() for m in means]
            features = features / features.norm(dim=1, keepdim=True)
        distances = torch.stack([(features - m).norm(dim=1) for m in means], 1)
        predicted = run.predict(x, torch.full((len(x),), -1))
    torch.testing.assert_close(-predicted.double(), distances, rtol=1e-4, atol=1e-5)


def test_nothing_of_the_network_changes() -> None:
    run = tiny_run(make_strategy("ncm"), tiny_benchmark())
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.fit()
    assert run.updates == 0
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def test_classes_that_did_not_come_are_not_predicted() -> None:
    run = tiny_run(make_strategy("ncm"), tiny_benchmark())
    for part in run.strategy.parts:
        part.begin_experience(run.train[0])
    batch_x, y = run.train[0].data.take(torch.arange(8))
    from clbench import Batch

    zeros = torch.zeros_like(y)
    batch = Batch(batch_x, y, zeros - 1, batch_x, zeros, zeros, 8)
    with torch.no_grad(), run.evaluating():
        run.strategy.parts[1].after_step(batch, run.forward(batch.x))
        predicted = run.predict(run.train[2].data.x(), torch.full((len(run.train[2]),), -1)).argmax(1)
    assert set(predicted.tolist()) <= set(y.tolist())
