"""PredKD: mean over rows and seen classes of BCE(σ(z), y), y = σ(ẑ) of the last model in past columns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from clbench import Batch, Classifier, Experience, Output, make_strategy
from clbench.engine.engine import Engine
from clbench.errors import ConfigError
from clbench.parts import BinaryCrossEntropy, CrossEntropy, Distil, binary_loss, teacher_of
from clbench.testing import check_strategy, tiny_benchmark, tiny_run
from clbench.testing.tools import learned, same


def part_of(run: Engine, kind: type) -> object:
    return next(part for part in run.strategy.parts if isinstance(part, kind))


def fit(run: Engine, logits: Tensor, y: Tensor) -> Tensor:
    zeros = torch.zeros_like(y)
    x = torch.zeros((len(y), 8))
    batch = Batch(x, y, zeros - 1, x, zeros, zeros, len(y))
    return next(p for p in run.strategy.parts if isinstance(p, BinaryCrossEntropy)).losses(
        batch, Output(logits, x)
    )["fit"]


def test_one_row_by_hand() -> None:
    """z = (0, 1, 2), the teacher's old logits (1, −1), label the third class: 0.62146515, gradient (σ(z) − y) / 3."""
    z = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64)
    seen, old = torch.tensor([True, True, True]), torch.tensor([True, True, False])
    loss = binary_loss(z, torch.tensor([2]), seen, old, teacher)
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.item() == pytest.approx(0.62146515, abs=1e-8)
    expected = torch.tensor([[-0.0770195, 0.1540391, -0.0397343]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-7)


def constant(logits: Tensor) -> Classifier:
    """A network that says the same of every input."""
    model = Classifier(nn.Identity(), 8, len(logits))
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(logits)
    return model


@pytest.mark.parametrize("seed", [0, 1])
def test_random_logits_in_a_chain(seed: int) -> None:
    """Classes 0 and 1 past, 2 and 3 present, 4 and 5 to come: the mean is over four columns."""
    generator = torch.Generator().manual_seed(seed)
    run = tiny_run(make_strategy("pred-kd"), tiny_benchmark())
    for part in run.strategy.parts:
        part.begin_experience(run.train[0])
        part.end_experience(run.train[0])
        part.begin_experience(run.train[1])
    said = torch.randn(6, generator=generator)
    teacher_of(run).network = constant(said)
    z = 2 * torch.randn((5, 6), generator=generator)
    y = torch.tensor([2, 3, 2, 2, 3])
    expected = 0.0
    for b in range(5):
        for v in range(4):
            target = 1 / (1 + math.exp(-said[v])) if v < 2 else float(y[b] == v)
            p = 1 / (1 + math.exp(-z[b, v]))
            expected -= (target * math.log(p) + (1 - target) * math.log(1 - p)) / 20
    assert fit(run, z, y).item() == pytest.approx(expected, rel=1e-5)


def test_the_first_experience_has_no_teacher() -> None:
    """It is the binary cross-entropy, bit for bit."""
    benchmark = tiny_benchmark(experiences=1)
    runs = [tiny_run(s, benchmark) for s in (make_strategy("pred-kd"), make_strategy("finetune", loss="bce"))]
    for run in runs:
        run.fit()
    same(learned(runs[0]), learned(runs[1]), "the first experience")


def test_agreement_with_the_teacher_leaves_past_columns_alone() -> None:
    z = torch.randn((4, 3), generator=torch.Generator().manual_seed(2)).requires_grad_()
    old = torch.tensor([True, True, False])
    loss = binary_loss(z, torch.tensor([2, 2, 2, 2]), torch.tensor([True, True, True]), old, z.detach())
    (gradient,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(gradient[:, :2], torch.zeros(4, 2), rtol=0, atol=1e-8)
    assert (gradient[:, 2] < 0).all()


def test_softmax_form_is_lwf() -> None:
    benchmark = tiny_benchmark()
    runs = [tiny_run(s, benchmark) for s in (make_strategy("pred-kd", loss="softmax"), make_strategy("lwf"))]
    for run in runs:
        run.fit()
    same(learned(runs[0]), learned(runs[1]), "pred-kd loss=softmax and lwf")


def test_a_weight_for_the_form_that_has_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="softmax form only"):
        make_strategy("pred-kd", alpha=2.0)


@pytest.mark.parametrize("other", ["l2", "ewc", "feat-kd", "si", "finetune", "er"])
def test_in_a_chain_there_is_one_loss_on_labels(other: str) -> None:
    for name in (f"pred-kd+{other}", f"{other}+pred-kd"):
        parts = make_strategy(name).parts
        assert sum(isinstance(part, BinaryCrossEntropy) for part in parts) == 1
        assert not any(isinstance(part, CrossEntropy) for part in parts)


def test_a_teacher_is_shared_and_asked_once_a_batch() -> None:
    """128 examples of experience 2, two epochs: each goes through the model and the teacher once."""
    run = tiny_run(make_strategy("pred-kd+feat-kd"), tiny_benchmark(experiences=1, examples=128), epochs=2)
    run.fit()
    assert run.forwards == 2 * 2 * 128


def test_unseen_classes_are_neither_trained_nor_predicted() -> None:
    """NaN in every row of the head that is still to come breaks nothing."""
    run = tiny_run(make_strategy("pred-kd+l2"), tiny_benchmark(), every=1)
    head = dict(run.model.named_parameters())["head.inner.weight"]
    before = head.detach().clone()
    exp: Experience = run.train[0]
    for part in run.strategy.parts:
        part.begin_experience(exp)
    x = torch.randn((4, 8), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        head[2:] = torch.nan
    logits = run.forward(x).logits
    assert logits.isfinite().all()
    assert logits.argmax(1).max() < 2
    assert torch.equal(before[:2], head[:2])


@pytest.mark.parametrize(
    "chain", ["pred-kd+l2", "pred-kd+ewc", "feat-kd+l2", "pred-kd+feat-kd", "er+pred-kd"]
)
def test_chains_keep_the_contract(chain: str) -> None:
    checks = ("deterministic", "resumes", "odd_batches", "low_precision", "evaluation_silent", "tasks_hidden")
    assert {r.status for r in check_strategy(chain, only=checks)} == {"passed"}


def test_distil_needs_a_teacher() -> None:
    from clbench.errors import IncompatibleError
    from clbench.strategy import chain

    with pytest.raises(IncompatibleError, match="has no teacher"):
        tiny_run(chain(CrossEntropy(), Distil(1.0, 2.0, "old")), tiny_benchmark())
