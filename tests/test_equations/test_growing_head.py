"""Growing heads and local cross-entropy: which columns a row competes with, and which get a gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Strategy, chain, make_strategy
from clbench.config import OptimConfig
from clbench.parts import LocalCrossEntropy
from clbench.testing import check_strategy, tiny_benchmark, tiny_run


def local_loss(logits: Tensor, y: Tensor, present: list[bool], replayed: int = 0) -> Tensor:
    n = len(logits)
    zeros = torch.zeros(n, dtype=torch.int64)
    batch = Batch(logits, y, zeros - 1, logits, zeros, zeros, n - replayed)
    part = LocalCrossEntropy()
    part.present = torch.tensor(present)
    return part.losses(batch, Output(logits, logits))["fit"]


def test_local_cross_entropy_by_hand() -> None:
    """z = (5, 1, 2), label 1, class 0 masked: ln(1 + e), gradient (0, −σ(1), σ(1)), zero to the bit."""
    z = torch.tensor([[5.0, 1.0, 2.0]], requires_grad=True)
    loss = local_loss(z, torch.tensor([1]), [False, True, True])
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.item() == pytest.approx(1.3132617, abs=1e-6)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -0.7310586, 0.7310586]]))
    assert gradient[0, 0] == 0


def test_without_the_mask() -> None:
    z = torch.tensor([[5.0, 1.0, 2.0]], requires_grad=True)
    loss = local_loss(z, torch.tensor([1]), [True, True, True])
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.item() == pytest.approx(4.0658839, abs=1e-6)
    torch.testing.assert_close(gradient, torch.tensor([[0.9362395, -0.9828522, 0.0466126]]))


@pytest.mark.parametrize("seed", [0, 1])
def test_replayed_rows_compete_with_all_classes(seed: int) -> None:
    z = torch.randn((6, 5), generator=torch.Generator().manual_seed(seed))
    y = torch.tensor([3, 4, 3, 0, 1, 4])
    expected = sum(
        math.log(sum(math.exp(z[i, c]) for c in (range(5) if i >= 3 else (3, 4)))) - z[i, y[i]]
        for i in range(6)
    )
    found = local_loss(z, y, [False, False, False, True, True], replayed=3)
    torch.testing.assert_close(found, torch.as_tensor(expected / 6, dtype=torch.float32))


def test_growing_head_is_cross_entropy_over_seen_classes() -> None:
    run = tiny_run(make_strategy("finetune+growing-head"), tiny_benchmark())
    for exp in (run.train[0], run.train[1]):
        for part in run.strategy.parts:
            part.begin_experience(exp)
    x = torch.randn((5, 8), generator=torch.Generator().manual_seed(4))
    out = run.forward(x)
    plain = run.model.head.inner(out.features)[:, :4].detach()
    y = torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(F.cross_entropy(out.logits, y), F.cross_entropy(plain, y))
    assert (out.logits[:, 4:].softmax(1).sum() > 0) & (out.logits.softmax(1)[:, 4:] == 0).all()


@pytest.mark.parametrize("loss", ["local", "bce", "local-bce"])
def test_losses_of_fine_tuning_keep_the_contract(loss: str) -> None:
    def factory() -> object:
        """Fine-tuning with another loss."""
        return make_strategy("finetune", loss=loss)

    results = list(check_strategy(factory))  # type: ignore[arg-type]
    assert [r.message for r in results if r.status == "failed"] == []


def test_under_local_cross_entropy_old_rows_of_the_head_stay_to_the_bit() -> None:
    ends: list[Tensor] = []

    class Record(Strategy):
        def end_experience(self, exp: Experience) -> None:
            ends.append(dict(self.run.model.named_parameters())["head.inner.weight"].detach()[:2].clone())

    optim = OptimConfig(lr=0.05)  # momentum would go on moving them
    tiny_run(chain(make_strategy("finetune", loss="local"), Record()), tiny_benchmark(), optim=optim).fit()
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])
