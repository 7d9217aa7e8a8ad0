"""WA: loss by the share of old classes, and rows of new classes made as long as old ones."""

from __future__ import annotations

import pytest
import torch
from clbench.strategies.wa import alignment, distillation
from torch.nn import functional as F

from clbench import Batch, make_strategy
from clbench.testing import tiny_benchmark, tiny_run

OLD, NEW = torch.tensor([True, True, False, False]), torch.tensor([False, False, True, True])


def test_new_rows_get_the_mean_norm_of_old_ones() -> None:
    weight = torch.tensor([[3.0, 4], [0, 5], [6, 8], [0, 20]])
    assert alignment(weight, OLD, NEW).item() == pytest.approx(1 / 3)
    weight[NEW] *= alignment(weight, OLD, NEW)
    torch.testing.assert_close(weight[NEW], torch.tensor([[2, 8 / 3], [0, 20 / 3]]))
    assert alignment(weight, OLD, NEW).item() == pytest.approx(1)  # a second time changes nothing


def test_distillation_is_the_cross_entropy_with_the_teacher_over_old_classes() -> None:
    """Without T², and the teacher's own entropy where both agree."""
    old, z, other = (
        torch.tensor([True, True, False]),
        torch.tensor([[2.0, 0, 9]]),
        torch.tensor([[0.0, 2, -9]]),
    )
    assert distillation(z, other, old, 2.0).item() == pytest.approx(1.044320, abs=1e-6)
    assert distillation(z, z, old, 2.0).item() == pytest.approx(0.582203, abs=1e-6)


def test_rows_are_aligned_at_ends_before_the_teacher_is_taken() -> None:
    run = tiny_run(make_strategy("wa", memory=20), tiny_benchmark(experiences=2))
    run.fit()
    weight, teacher = run.model.head.weight, run.strategy.parts[-1].network.head.weight
    assert torch.equal(weight, teacher)
    assert alignment(weight, OLD, NEW).item() == pytest.approx(1, abs=1e-5)


def test_losses_weigh_by_the_share_of_old_classes() -> None:
    run = tiny_run(make_strategy("wa", memory=0), tiny_benchmark(experiences=2))
    part, teacher = run.strategy.parts[1], run.strategy.parts[2]
    part.begin_experience(run.train[0])
    batch = next(iter(run.train[0].data.x().split(8)))
    out = run.forward(run.normalise(batch))

    zeros = torch.zeros(8, dtype=torch.int64)
    first = Batch(run.normalise(batch), run.train[0].data.y()[:8], zeros - 1, batch, zeros, zeros, 8)
    fit = F.cross_entropy(out.logits[:, :2], first.y)
    assert part.losses(first, out).keys() == {"fit"}
    torch.testing.assert_close(part.losses(first, out)["fit"], fit)
    teacher.end_experience(run.train[0])
    part.begin_experience(run.train[1])
    found = part.losses(first, out)
    torch.testing.assert_close(found["fit"], 0.5 * F.cross_entropy(out.logits, first.y))
    expected = 0.5 * distillation(out.logits, teacher.output(first).logits, OLD, 2.0)
    torch.testing.assert_close(found["distil"], expected)
