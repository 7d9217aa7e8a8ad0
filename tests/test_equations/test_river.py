"""River's learners: as River itself tests and trains them, row by row."""

from __future__ import annotations

import numpy as np
import pytest
from clbench.strategies.river import make

from clbench import make_strategy
from clbench.data import drift_stream
from clbench.testing import tiny_run


@pytest.mark.parametrize("learner", ["naive-bayes", "hoeffding-tree", "softmax-regression"])
def test_predicts_what_river_predicts(learner: str) -> None:
    pytest.importorskip("river")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 80)
    x = rng.normal(y[:, None], 1.5, (80, 4)).astype(np.float32)
    run = tiny_run(
        make_strategy("river", learner=learner),
        drift_stream(x, y, name="own"),
        batch_size=1,
        every=0,
        epochs=1,
    )
    run.fit()
    model, wanted = make(learner), []
    for row, label in zip(x.tolist(), y.tolist(), strict=True):
        features = dict(enumerate(row))
        wanted.append(model.predict_one(features) or 0)  # abstaining counts as class 0
        model.learn_one(features, label)
    assert run.evaluator.curve.predicted.tolist() == wanted
