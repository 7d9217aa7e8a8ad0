"""SLCA: a slow encoder, local cross-entropy, and a copy of the head that learns from draws of all classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from clbench.strategies.slca import SlowLearner, aligned_logits
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Output, Strategy, make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.machine.optim import make_optimizer, scale_rate
from clbench.testing import tiny_benchmark, tiny_run
from clbench.types import MASKED


def test_loss_of_the_reference() -> None:
    """Norms (5, 0) and (0, 10) of two experiences, so that n̄ is 2.5 and 5."""
    logits = torch.tensor([[3.0, 4, 0, 0], [0, 0, 6, 8]])
    found = aligned_logits(logits, torch.tensor([0, 0, 1, 1]), 0.1)
    torch.testing.assert_close(found, torch.stack([logits[0] / 0.25, logits[1] / 0.5]), rtol=1e-5, atol=0)
    assert F.cross_entropy(found, torch.tensor([1, 3])).item() == pytest.approx(0.018150, abs=1e-6)


def test_small_norms_are_raised_before_the_temperature() -> None:
    """As in the authors' code: (n̄ + 10⁻⁷) τ."""
    logits = torch.tensor([[3e-7, 4e-7]], dtype=torch.float64)
    found = aligned_logits(logits, torch.tensor([0, 0]), 0.1)
    torch.testing.assert_close(found, logits / (6e-7 * 0.1), rtol=1e-12, atol=0)


def test_classes_that_have_not_come_are_out_of_the_question() -> None:
    found = aligned_logits(torch.ones(1, 3), torch.tensor([0, 0, -1]), 1.0)
    assert found[0, 2] == MASKED
    assert found[0, 0] == pytest.approx(2**-0.5)


def test_an_experience_without_classes_of_its_own_has_no_norm() -> None:
    found = aligned_logits(torch.tensor([[3.0, 4, 0, 1]]), torch.tensor([0, 0, 2, 2]), 1.0)
    torch.testing.assert_close(found, torch.tensor([[1.0, 4 / 3, 0, 1 / 3]]))


def run_of(**params: Any) -> tuple[Engine, SlowLearner]:
    run = tiny_run(make_strategy("slca", **{"draws": 32, **params}), tiny_benchmark())
    part = run.strategy.parts[0]
    assert isinstance(part, SlowLearner)
    return run, part


def test_the_encoder_learns_a_hundred_times_slower() -> None:
    run, _ = run_of()
    rates = {group["lr_scale"]: group["lr"] for group in run.optimizer.param_groups}
    assert rates == {0.01: pytest.approx(0.0002), 1.0: 0.02}
    head = {id(p) for p in run.model.head.parameters()}
    assert {id(p) for p in run.optimizer.param_groups[1]["params"]} == head


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_scaled_rate_is_another_rate_under_any_optimizer(name: str) -> None:
    weights, optim = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)], OptimConfig(name=name, lr=0.1)  # type: ignore[arg-type]
    scale_rate(weights[0], 0.5)
    scale_rate(weights[0], 0.5)
    alone = torch.nn.Parameter(torch.ones(3))
    both, other = make_optimizer(weights, optim), make_optimizer([alone], OptimConfig(name=name, lr=0.025))  # type: ignore[arg-type]
    for _ in range(3):
        for weight in (*weights, alone):
            weight.grad = weight.detach() + 1
        both.step()
        other.step()
    assert torch.equal(weights[0], alone)
    assert not torch.equal(weights[1], alone)


def weights(run: Engine) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def test_the_alignment_leaves_encoder_and_head_as_they_are() -> None:
    """With and without it, training is the same to the bit: what is aligned is a copy."""
    found = []
    for align in (0, 3):
        run, part = run_of(align=align)
        run.fit()
        found.append((weights(run), part))
    assert all(torch.equal(value, found[1][0][name]) for name, value in found[0][0].items())
    assert not found[0][1].aligned
    assert found[1][1].aligned
    assert not torch.equal(found[1][1].head["weight"], found[1][0]["head.weight"])


class Local(Strategy):
    """Plain fine-tuning, by cross-entropy among the present classes."""

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        present = list(self.run.train[self.run.experience].classes)
        others = torch.ones(self.run.num_classes, dtype=torch.bool).index_fill(
            0, torch.tensor(present), False
        )
        return {"fit": F.cross_entropy(out.logits.masked_fill(others, MASKED), batch.y)}


def test_without_alignment_it_is_fine_tuning_on_the_present_classes() -> None:
    parts = make_strategy("slca", align=0, slow=1.0), Local()
    optim = OptimConfig(lr=0.02, momentum=0.0)  # which would move rows of other classes in one of them
    runs = [tiny_run(part, tiny_benchmark(), optim=optim) for part in parts]
    for run in runs:
        run.fit()
    found, expected = map(weights, runs)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    right, expected_right = (run.evaluator.curve.correct.tolist() for run in runs)
    assert right == expected_right


def test_what_is_aligned_forgets_less() -> None:
    ends = []
    for align in (0, 5):
        run, _ = run_of(align=align, lr=0.1)
        run.fit()
        ends.append(run.evaluator.curve.correct[-1].sum())
    assert ends[1] >= ends[0]


def test_rows_of_earlier_classes_stay_though_weights_decay() -> None:
    optim = OptimConfig(lr=0.02, momentum=0.9, weight_decay=0.1)
    run = tiny_run(make_strategy("slca", draws=8), tiny_benchmark(), optim=optim)
    rows = []

    class Look:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: name == "end_experience" and rows.append(run.model.head.weight.detach().clone())

    run.observers.append(Look())  # type: ignore[arg-type]
    run.fit()
    assert torch.equal(rows[0][:2], rows[2][:2])
    assert torch.equal(rows[1][2:4], rows[2][2:4])


def test_draws_have_the_mean_and_the_covariance_of_their_class() -> None:
    run, part = run_of(draws=20000)
    run.place.experience = 1
    part.experience_of[:4] = torch.tensor([0, 0, 1, 1])
    generator = torch.Generator().manual_seed(0)
    part.means[:4] = torch.randn(4, 16, generator=generator)
    part.factors[:4] = torch.randn(4, 16, 16, generator=generator).tril()
    batches = list(part._drawn(0))
    x, y = torch.cat([x for x, _, _ in batches]), torch.cat([y for _, y, _ in batches])
    for c, scale in ((0, 0.95), (3, 1.0)):
        own, deviation = x[y == c], part.factors[c].square().sum(1).sqrt()
        assert len(own) == 20000
        assert ((own.mean(0) - scale * part.means[c]).abs() < 5 * deviation / 20000**0.5).all()
        covariance = part.factors[c] @ part.factors[c].T
        torch.testing.assert_close(
            own.T.cov(), covariance, rtol=0.1, atol=0.05 * float(covariance.diagonal().max())
        )
