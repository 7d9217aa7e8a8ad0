"""LwF: α/B Σ_b Σ_{c old} p_bc (ln p_bc − ln q_bc), p the teacher's, q the model's probabilities at T."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Batch, Classifier, Experience, Output, Strategy, chain, make_strategy
from clbench.engine.engine import Engine
from clbench.parts import teacher_of
from clbench.testing import tiny_benchmark, tiny_run

CLASSES = 6
Columns = Literal["old", "all"]


def constant(logits: list[float]) -> Classifier:
    """A network that says the same of every input."""
    model = Classifier(nn.Identity(), 8, CLASSES)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor(logits))
    return model


def distilling(teacher: nn.Module, old: int, **params: Any) -> Engine:
    """A run in which the first `old` classes were seen and this teacher learned them."""
    run = tiny_run(make_strategy("lwf", **params), tiny_benchmark())
    taught(run, teacher, old)
    return run


def taught(run: Engine, teacher: nn.Module, old: int) -> None:
    part = teacher_of(run)
    part.network, part.taught = teacher, True
    part.old[:old] = True


def distil(run: Engine, logits: Tensor, x: Tensor | None = None, replayed: int = 0) -> Tensor:
    n = len(logits)
    zeros = torch.zeros(n, dtype=torch.int64)
    inputs = torch.zeros((n, 8)) if x is None else x
    batch = Batch(inputs, zeros, zeros - 1, inputs, zeros, zeros, n - replayed)
    return run.strategy.parts[1].losses(batch, Output(logits, inputs))["distil"]


def test_old_columns_by_hand() -> None:
    """T = 2, p = (¾, ¼), q = (½, ½): ¾ ln 3/2 + ¼ ln 1/2. What new columns say does not matter."""
    run = distilling(constant([2 * math.log(3), 0, 9, -9, 9, 9]), old=2, temperature=2.0)
    logits = torch.tensor([[1.0, 1.0, 7.0, -3.0, 50.0, 0.0]] * 3)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert distil(run, logits).item() == pytest.approx(expected, rel=1e-5)


def test_all_columns_by_hand() -> None:
    """T = 1, p = (¼, ½, ¼, 0, 0, 0), q = ⅓ on the same: the terms of the old classes, ¼ ln ¾ + ½ ln 3/2."""
    far = -100.0
    run = distilling(constant([0, math.log(2), 0, far, far, far]), old=2, temperature=1.0, columns="all")
    logits = torch.tensor([[0.0, 0.0, 0.0, far, far, far]])
    expected = 0.25 * math.log(0.75) + 0.5 * math.log(1.5)
    assert distil(run, logits).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("columns", ["old", "all"])
@pytest.mark.parametrize(("seed", "alpha", "temperature"), [(0, 1.0, 2.0), (1, 0.3, 4.0)])
def test_random_logits(seed: int, alpha: float, temperature: float, columns: Columns) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher, x = Classifier(nn.Identity(), 8, CLASSES), torch.randn((5, 8), generator=generator)
    logits = 3 * torch.randn((5, CLASSES), generator=generator)
    run = distilling(teacher, 4, alpha=alpha, temperature=temperature, columns=columns)

    among = slice(0, 4) if columns == "old" else slice(None)
    p = (teacher(x).detach().double()[:, among] / temperature).exp()
    q = (logits.double()[:, among] / temperature).exp()
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    expected = alpha * (p * (p / q).log())[:, :4].sum() / 5
    torch.testing.assert_close(distil(run, logits, x).double(), expected, rtol=1e-5, atol=1e-6)


def test_gradient_is_that_of_the_papers_cross_entropy() -> None:
    """−Σ p ln q differs from the divergence by the teacher's entropy, which no weight of the model moves."""
    generator = torch.Generator().manual_seed(3)
    teacher, x = Classifier(nn.Identity(), 8, CLASSES), torch.randn((5, 8), generator=generator)
    logits = torch.randn((5, CLASSES), generator=generator, requires_grad=True)
    run = distilling(teacher, 4, temperature=2.0)
    (found,) = torch.autograd.grad(distil(run, logits, x), logits)
    p = (teacher(x).detach()[:, :4] / 2).softmax(1)
    (expected,) = torch.autograd.grad(F.cross_entropy(logits[:, :4] / 2, p), logits)
    torch.testing.assert_close(found, expected)


def test_agreement_costs_nothing() -> None:
    teacher, x = (
        Classifier(nn.Identity(), 8, CLASSES),
        torch.randn((5, 8), generator=torch.Generator().manual_seed(4)),
    )
    assert distil(distilling(teacher, 4), teacher(x).detach(), x).item() == pytest.approx(0, abs=1e-6)


def test_only_rows_of_the_stream_are_distilled() -> None:
    run = distilling(constant([1.0, 2.0, 0, 0, 0, 0]), old=2)
    logits = torch.randn((6, CLASSES), generator=torch.Generator().manual_seed(5))
    assert torch.equal(distil(run, logits, replayed=2), distil(run, logits[:4]))


def test_old_tasks_are_distilled_where_task_labels_mask_them() -> None:
    """The new task's cross-entropy may not see old classes; the divergence is about nothing else."""
    run = tiny_run(make_strategy("lwf", temperature=1.0), tiny_benchmark(shift="task"))
    taught(run, constant([math.log(3), 0, 9, -9, 9, 9]), 2)
    x = torch.randn((4, 8), generator=torch.Generator().manual_seed(6))
    ones = torch.ones(4, dtype=torch.int64)
    batch = Batch(x, 2 * ones, ones, x, ones, ones, 4)
    with run.evaluating():
        out = run.forward(x, batch.task)
        q = run.model(x)[:, :2].detach().double().softmax(1)
    p = torch.tensor([0.75, 0.25], dtype=torch.float64)
    expected = (p * (p / q).log()).sum() / 4
    torch.testing.assert_close(run.strategy.parts[1].losses(batch, out)["distil"].double(), expected)


def test_nothing_is_distilled_in_the_first_experience() -> None:
    run = tiny_run(make_strategy("lwf"), tiny_benchmark())
    unused: Any = None
    assert run.strategy.parts[1].losses(unused, unused) == {}


def test_teacher_is_the_model_of_the_last_end_in_eval_mode() -> None:
    run = tiny_run(make_strategy("lwf"), tiny_benchmark())
    run.fit()
    teacher = teacher_of(run).network
    assert all(
        torch.equal(a, b)
        for a, b in zip(teacher.state_dict().values(), run.model.state_dict().values(), strict=True)
    )
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())


def test_classes_become_old_at_the_end_of_their_experience() -> None:
    old: list[list[bool]] = []

    class Record(Strategy):
        def begin_experience(self, exp: Experience) -> None:
            old.append(teacher_of(self.run).old.tolist())

    lwf = make_strategy("lwf")
    tiny_run(chain(lwf, Record()), tiny_benchmark()).fit()
    assert old == [[True] * n + [False] * (6 - n) for n in (0, 2, 4)]
