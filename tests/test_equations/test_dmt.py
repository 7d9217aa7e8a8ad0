"""Dual-stage mixed fine-tuning: what each stage holds, and that a share of 0 is fine-tuning."""

from __future__ import annotations

import pytest
import torch

from clbench import make_strategy
from clbench.errors import IncompatibleError
from clbench.testing import difference, tiny_benchmark, tiny_run


def test_nothing_mixed_in_is_fine_tuning_to_the_bit() -> None:
    two = tiny_benchmark(experiences=2)
    runs = [tiny_run(s, two, every=1) for s in (make_strategy("dmt", share=0.0), make_strategy("finetune"))]
    for run in runs:
        run.fit()
    assert difference(runs[0].model.state_dict(), runs[1].model.state_dict()) is None
    assert difference(runs[0].optimizer.state_dict(), runs[1].optimizer.state_dict()) is None


@pytest.mark.parametrize(
    ("share", "n"), [(1 / 256, 1), (0.01, 1), (0.0117, 1), (0.0118, 2), (0.5, 64), (1.0, 128)]
)
def test_rows_of_the_second_stage(share: float, n: int) -> None:
    """All but the last of three experiences are specialised: 128 rows."""
    three = tiny_benchmark()
    run = tiny_run(make_strategy("dmt", share=share), three, batch_size=7)
    first, second = run.train
    assert torch.equal(first.data.x(), torch.cat([exp.data.x() for exp in three.train[:2]]))
    assert (first.classes, first.tests, second.tests) == ((0, 1, 2, 3), (0, 1), (2,))
    x = second.data.x()
    assert torch.equal(x[:64], three.train[2].data.x())
    assert len(x) == 64 + n
    old = [tuple(row) for row in x[64:].tolist()]
    assert set(old) <= {tuple(row) for row in first.data.x().tolist()}
    assert len(set(old)) == n  # no row twice
    again = tiny_run(make_strategy("dmt", share=share), three, batch_size=7)
    assert torch.equal(again.train[1].data.x(), x)  # fixed by the seed


def test_both_stages_are_measured() -> None:
    run = tiny_run(make_strategy("dmt", specialised=1, share=0.5), tiny_benchmark(), epochs=1)
    run.fit()
    assert [exp.tests for exp in run.train] == [(0,), (1, 2)]
    curve = run.evaluator.curve
    assert sorted(set(curve.evaluated[curve.full & (curve.experience == 1)].tolist())) == [0, 1, 2]
    with pytest.raises(IncompatibleError, match=r"the stream has 3\. Set specialised=2 or less"):
        tiny_run(make_strategy("dmt", specialised=3), tiny_benchmark())
