"""ER-ACE: L = CE(new, over the classes of their batch) + CE(replayed, over all), in two forward passes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from clbench.strategies.er_ace import within_batch
from torch import Tensor

from clbench import make_strategy
from clbench.config import OptimConfig
from clbench.testing import tiny_benchmark, tiny_run, watch


def cross_entropy(logits: Tensor, y: Tensor, classes: list[int]) -> Tensor:
    """Row by row, over some classes."""
    rows = [logits[i, classes].exp().sum().log() - logits[i, y[i]] for i in range(len(y))]
    return torch.stack(rows).mean()


def test_by_hand() -> None:
    """Classes 0 and 2 are at hand: −ln ¾ and −ln ½; what the logits of 1 and 3 are does not matter."""
    logits = torch.tensor([[math.log(3), 50.0, 0.0, 7.0], [1.0, -9.0, 1.0, 80.0]])
    found = within_batch(logits, torch.tensor([0, 2])).item()
    assert found == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2, abs=1e-6)


def test_absent_classes_get_no_gradient_and_one_class_costs_nothing() -> None:
    logits = torch.randn((5, 6), generator=torch.Generator().manual_seed(0), requires_grad=True)
    (gradient,) = torch.autograd.grad(within_batch(logits, torch.tensor([1, 4, 1, 4, 4])), logits)
    assert torch.equal(gradient[:, [0, 2, 3, 5]], torch.zeros(5, 4))
    assert bool((gradient[:, [1, 4]] != 0).all())
    assert within_batch(logits, torch.full((5,), 3)).item() == 0


def test_unseen_classes_may_compete() -> None:
    """Of labels 1 and 2 after 3: classes 1, 2 and, from the highest label on, 3, 4 and 5."""
    logits = torch.randn((2, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = within_batch(logits, torch.tensor([1, 2]), torch.tensor(3))
    torch.testing.assert_close(found, cross_entropy(logits, torch.tensor([1, 2]), [1, 2, 3, 4, 5]))


def test_the_highest_label_is_that_of_the_whole_stream() -> None:
    strategy = make_strategy("er-ace", memory=20, rivals="unseen")
    seen: list[tuple[list[int], int]] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        losses = call()
        if point == "losses":
            batch, out = arguments
            highest = max(int(batch.y.max()), seen[-1][1] if seen else 0)
            rivals = sorted({*batch.y.tolist(), *range(highest, 6)})
            torch.testing.assert_close(losses["new"], cross_entropy(out.logits, batch.y, rivals))
            seen.append((rivals, highest))
        return losses

    watch(strategy, probe)
    tiny_run(strategy, tiny_benchmark(), batch_size=16, epochs=1).fit()
    assert seen[0][0] == [0, 1, 2, 3, 4, 5]
    assert seen[-1][0] == [4, 5]


def test_the_head_may_be_cosine_of_scale_ten() -> None:
    run = tiny_run(make_strategy("er-ace", head="cosine"), tiny_benchmark())
    weight = run.model.head.weight  # type: ignore[union-attr]
    features = torch.randn((5, 16), generator=torch.Generator().manual_seed(0))
    features[0] = 0
    x = features / (features.norm(dim=1, keepdim=True) + 1e-5)
    expected = 10 * x @ (weight / (weight.norm(dim=1, keepdim=True) + 1e-5)).T
    torch.testing.assert_close(run.logits(features), expected)


@pytest.mark.parametrize(("alpha", "weights"), [(None, (1.0, 1.0)), (0.451, (0.451, 0.549))])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_step(seed: int, alpha: float | None, weights: tuple[float, float]) -> None:
    steps: list[dict[str, Any]] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point != "losses":
            return call()
        batch, out = arguments
        steps.append({"y": batch.y, "logits": out.logits.detach().double()})
        losses = call()
        steps[-1]["losses"] = {name: loss.detach().double() for name, loss in losses.items()}
        return losses

    strategy = make_strategy("er-ace", memory=20, draw=12, alpha=alpha)
    watch(strategy, probe)
    run = tiny_run(strategy, tiny_benchmark(seed=seed), batch_size=16, epochs=1, optim=OptimConfig(lr=0.05))
    draw, forward = strategy.memory.draw, run.forward

    def drawn(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows = draw(n, generator)
        steps[-1]["old"] = rows["y"]
        return rows

    def forwarded(x: Tensor, task: Tensor | None = None) -> Any:
        out = forward(x, task)
        if steps and "losses" not in steps[-1]:
            steps[-1]["replayed"] = out.logits.detach().double()
        return out

    strategy.memory.draw, run.forward = drawn, forwarded
    run.fit()
    assert set(steps[0]["losses"]) == {"new"}
    for step in steps:
        y = step["y"]
        expected = weights[0] * cross_entropy(step["logits"], y, sorted(set(y.tolist())))
        torch.testing.assert_close(step["losses"]["new"], expected, rtol=1e-6, atol=1e-6)
        if "old" in step:
            assert len(step["old"]) == 12
            expected = weights[1] * cross_entropy(step["replayed"], step["old"], list(range(6)))
            torch.testing.assert_close(step["losses"]["replay"], expected, rtol=1e-6, atol=1e-6)
    assert sum("old" in step for step in steps) == len(steps) - 1
