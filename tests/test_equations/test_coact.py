"""CoACT: the contrast's numbers, what is trained when, what the teacher is, and rows that are class means."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from clbench import Experience, Strategy
from clbench.parts import FeaturesOf, features_of, supervised_contrast
from tests.test_equations.test_lora import run_of


def test_contrast_of_the_reference() -> None:
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1, 1])
    assert supervised_contrast(z, y, 1.0).item() == pytest.approx(math.log(1 + 2 / math.e), abs=1e-12)
    assert supervised_contrast(z, y, 0.1).item() == pytest.approx(9.0796e-5, rel=1e-4)


class Look(Strategy):
    """What each step moves, and class means as they were when an experience began."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, bool, bool, bool, bool]] = []
        self.heads: list[tuple[Tensor, Tensor]] = []

    @property
    def part(self) -> Any:
        return self.run.strategy.parts[0]

    def weights(self) -> list[Tensor]:
        low, shared = self.part.low, [p for p, _ in self.part.shared]
        of_teacher = [p for _, p in self.part.shared]
        groups = low, shared, of_teacher, [self.run.model.head.weight]
        return [torch.cat([p.detach().flatten() for p in group]) for group in groups]

    def begin_experience(self, exp: Experience) -> None:
        self.before = self.weights()
        features, y = features_of(self.run, exp.data)
        means = torch.stack([features[y == c].mean(0) for c in exp.classes])
        self.heads.append((self.run.model.head.weight.detach()[list(exp.classes)].clone(), means))

    def after_step(self, batch: Any, out: Any) -> None:
        now = self.weights()
        moved = [not torch.equal(a, b) for a, b in zip(now, self.before, strict=True)]
        if self.run.experience == 0:
            change = 0.001 * (now[1] - self.before[2])  # θ_T moves by (1 − m) of what lies between
            torch.testing.assert_close(now[2] - self.before[2], change, rtol=1e-2, atol=1e-7)
        self.rows.append((self.run.experience, self.run.epoch, *moved))
        self.before = now


def test_blocks_join_after_their_wait_and_the_teacher_follows() -> None:
    look = Look()
    run = run_of("coact", look, rank=2, wait=1, last=1, factor=1.0)
    run.fit()
    assert look.rows
    for experience, epoch, low, shared, teacher, head in look.rows:
        assert (low, head) == (experience == 0,) * 2
        assert (shared, teacher) == (experience == 0 and epoch >= 1,) * 2


def test_rows_of_new_classes_are_their_means_and_old_ones_stay() -> None:
    look = Look()
    run = run_of("coact", look, rank=2)
    run.fit()
    for rows, means in look.heads:
        torch.testing.assert_close(rows, means)
    head: Any = run.model.head
    assert torch.equal(head.weight[2:4], look.heads[1][0])
    assert torch.equal(head.weight[4:6], look.heads[2][0])


def test_at_the_start_the_student_says_what_its_teacher_says() -> None:
    run = run_of("coact", rank=2)
    x = run.normalise(run.train[0].data.x()[:4])
    part: Any = run.strategy.parts[0]
    with run.evaluating(), torch.no_grad():
        student, teacher = run.forward(x), run.output_of(FeaturesOf(part.teacher), x)
    torch.testing.assert_close(student.features, teacher.features, rtol=0, atol=1e-6)


@pytest.mark.parametrize("later", ["head", "lora", "both"])
def test_later_experiences_train_what_is_asked(later: str) -> None:
    look = Look()
    run_of("coact", look, rank=2, later=later).fit()
    for experience, _, low, _, _, head in look.rows:
        assert low == (experience == 0 or later != "head")
        assert head == (experience == 0 or later != "lora")


def test_losses_of_later_experiences() -> None:
    """In the second one's first step the first one's logits have not changed, and the pretrained teacher joins."""

    class Losses(Strategy):
        def begin_experience(self, exp: Experience) -> None:
            self.fresh = True

        def step(self, batch: Any, inner: Any) -> Any:
            part: Any = self.run.strategy.parts[0]
            with self.run.evaluating(), self.run.tentatively():
                given = part.losses(batch, self.run.forward(batch.x))
            expected = {"fit", "contrast"} | ({"consistency"} if self.run.experience else set())
            assert set(given) == expected
            if self.run.experience == 1 and self.fresh:
                assert given["consistency"] == 0
            self.fresh = False
            return inner(batch)

    run_of("coact", Losses(), rank=2, later="both").fit()
