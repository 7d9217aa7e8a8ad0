"""Labels only: the previous label, and the class with most of the rows before."""

from __future__ import annotations

import numpy as np
import pytest

from clbench import make_strategy
from clbench.data import drift_stream
from clbench.testing import tiny_run

Y = [1, 1, 0, 0, 0, 2, 2, 1]


@pytest.mark.parametrize(
    ("rule", "size", "wanted"),
    [
        ("previous", 1, [0, 1, 1, 0, 0, 0, 2, 2]),
        ("previous", 3, [0, 0, 0, 0, 0, 0, 2, 2]),
        ("majority", 1, [0, 1, 1, 1, 0, 0, 0, 0]),
        ("majority", 2, [0, 0, 1, 1, 0, 0, 0, 0]),
    ],
)
def test_predicts_by_labels(rule: str, size: int, wanted: list[int]) -> None:
    benchmark = drift_stream(np.zeros((8, 2)), Y, name="own")
    run = tiny_run(make_strategy("labels-only", rule=rule), benchmark, batch_size=size, every=0, epochs=1)
    run.fit()
    assert run.evaluator.curve.predicted.tolist() == wanted
