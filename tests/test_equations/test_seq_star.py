"""SEQ*: an encoder that stays after its first passes, and rows of the head that stay when their classes are old."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Experience, Strategy, chain, make_strategy
from clbench.config import OptimConfig
from clbench.parts import NormalisedHead
from clbench.testing import tiny_benchmark, tiny_run


class Look(Strategy):
    def __init__(self) -> None:
        self.encoders: list[list[Tensor]] = []
        self.heads: list[Tensor] = []

    def after_step(self, batch: Any, out: Any) -> None:
        self.encoders.append([p.detach().clone() for p in self.run.model.backbone.parameters()])  # type: ignore[union-attr]

    def end_experience(self, exp: Experience) -> None:
        head: Any = self.run.model.head
        self.heads.append(next(head.parameters()).detach().clone())


def fitted(**params: Any) -> Look:
    look = Look()
    optim = OptimConfig(name="adamw", lr=0.05, weight_decay=0.1, reset=False)
    run = tiny_run(chain(make_strategy("seq-star", **params), look), tiny_benchmark(), epochs=3, optim=optim)
    look.start = [p.detach().clone() for p in run.model.backbone.parameters()]  # type: ignore[union-attr]
    run.fit()
    return look


@pytest.mark.parametrize("passes", [0, 2])
def test_the_encoder_learns_in_the_first_passes_and_stays(passes: int) -> None:
    look = fitted(warmup=passes)
    steps = 2 * passes  # two batches in a pass
    before = [look.start, *look.encoders]
    moved = [
        not all(torch.equal(a, b) for a, b in zip(x, y, strict=True))
        for x, y in zip(before, look.encoders, strict=False)
    ]
    assert moved == [True] * steps + [False] * (18 - steps)


@pytest.mark.parametrize("head", ["cosine", "linear"])
@pytest.mark.parametrize("preallocate", [False, True])
def test_old_rows_stay_to_the_bit_under_adam_and_decay(head: str, preallocate: bool) -> None:
    look = fitted(head=head, preallocate=preallocate)
    for t in (1, 2):
        same = (look.heads[t] == look.heads[t - 1]).all(dim=1).tolist()
        assert same[: 2 * t] == [True] * (2 * t)
        assert not any(same[2 * t : 2 * t + 2])


def test_cross_entropy_of_cosines_over_seen_classes_or_all() -> None:
    cosines = torch.tensor([[0.8, 0.1, 0.3, -0.4]])
    y = torch.tensor([0])
    assert F.cross_entropy(cosines, y).item() == pytest.approx(0.877263033, abs=1e-6)
    assert F.cross_entropy(cosines[:, :2], y).item() == pytest.approx(0.403186049, abs=1e-6)
    losses = {}
    for preallocate in (True, False):
        run = tiny_run(make_strategy("seq-star", preallocate=preallocate), tiny_benchmark())
        for part in run.strategy.parts:
            part.begin_experience(run.train[0])
        heads = [m for m in run.model.modules() if isinstance(m, NormalisedHead)]
        assert len(heads) == 1
        x, y = run.normalise(run.train[0].data.x()[:5]), run.train[0].data.y()[:5]
        losses[preallocate] = run.forward(x).logits
        columns = 6 if preallocate else 2
        cos = F.cosine_similarity(run.forward(x).features[:, None], heads[0].weight[None, :columns], dim=2)
        torch.testing.assert_close(losses[preallocate][:, :columns], cos)
    assert (losses[False][:, 2:] < -1000).all()
