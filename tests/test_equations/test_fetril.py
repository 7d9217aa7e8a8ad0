"""FeTrIL: features moved from one mean to another, and a head that learns from them."""

from __future__ import annotations

import pytest
import torch
from clbench.strategies.fetril import Translated, donors, translated

from clbench import make_strategy
from clbench.testing import tiny_benchmark, tiny_run


def test_features_move_with_their_mean_and_keep_their_shape() -> None:
    own = torch.tensor([[1.0, 0], [3, 2]])
    moved = translated(own, own.mean(0), torch.tensor([10.0, 10]))
    assert moved.tolist() == [[9.0, 9], [11, 11]]
    torch.testing.assert_close(moved.T.cov(), own.T.cov())


def test_the_donor_has_the_most_similar_mean() -> None:
    old, new = torch.tensor([[1.0, 0], [0, 3]]), torch.tensor([[0.1, 0.2], [9.0, 1]])
    assert donors(old, new).tolist() == [1, 0]


@pytest.mark.parametrize("adapt", [False, True])
def test_the_head_learns_old_classes_without_their_examples(adapt: bool) -> None:
    """Rows that the head is trained on have length 1, and every class that came has some, of its mean's direction."""
    run = tiny_run(make_strategy("fetril", epochs=20, lr=0.5, adapt=adapt), tiny_benchmark())
    part = next(part for part in run.strategy.parts if isinstance(part, Translated))
    seen, inner = [], part._batches

    def look(epoch: int) -> object:
        if epoch == 0:
            seen.append(part._rows)
        return inner(epoch)

    part._batches = look  # type: ignore[method-assign, assignment]
    run.fit()
    assert [sorted(y.unique().tolist()) for _, y in seen] == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    for x, _ in seen:
        torch.testing.assert_close(x.norm(dim=1), torch.ones(len(x)))
    correct, total = run.evaluator.curve.correct[-1], run.evaluator.curve.total[-1]
    assert correct.sum() > 0.6 * total.sum()


def test_the_backbone_stays() -> None:
    run = tiny_run(make_strategy("fetril", epochs=2), tiny_benchmark())
    before = {name: value.clone() for name, value in run.model.backbone.state_dict().items()}
    run.fit()
    assert all(torch.equal(value, before[name]) for name, value in run.model.backbone.state_dict().items())
    assert run.updates > 0
