"""Refresh: θ_k ← θ_k + δ (û_k + σ ξ_k) / (1 + λ F_k) before every step; in the paper θ ← θ + γ P ∇L + N(0, 2 γ P)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from clbench.strategies.refresh import Ascend, Information, Unlearn
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import (
    Batch,
    Benchmark,
    Classifier,
    Data,
    Experience,
    Output,
    Setting,
    Strategy,
    Stream,
    chain,
    make_strategy,
)
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.parts import fisher_of_labels
from clbench.testing import difference, tiny_benchmark, tiny_model, tiny_run
from clbench.testing.tools import everything
from clbench.transforms.augment import Transform
from clbench.types import Pool


def benchmark_of(x: Tensor, y: Tensor, experiences: int = 1) -> Benchmark:
    data = Data.of(Pool(x, y), torch.arange(len(x)))
    stream = Stream("train", tuple(Experience(i, (0, 1), data) for i in range(experiences)))
    return Benchmark("given", 1, Setting(), stream, stream, 2, Transform())


def linear(weight: list[list[float]], dtype: torch.dtype = torch.float64) -> Classifier:
    """Logits Wx, without a bias."""
    model = Classifier(nn.Identity(), 2, 2)
    model.head = nn.Linear(2, 2, bias=False, dtype=dtype)
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor(weight))
    return model


def batch_of(x: Tensor, y: Tensor, new: int | None = None) -> Batch:
    zeros = torch.zeros_like(y)
    return Batch(x, y, zeros - 1, x, zeros, zeros, len(y) if new is None else new)


def unlearning(model: Classifier, benchmark: Benchmark, **params: Any) -> tuple[Engine, Unlearn]:
    run = tiny_run(make_strategy("finetune+refresh", **params), benchmark, model=model)
    part = run.strategy.parts[1]
    assert isinstance(part, Unlearn)
    return run, part


# --- the released step ---


@pytest.mark.parametrize(
    ("fisher", "moved", "after"),
    [
        (0.0, [-3.8729833e-5, 3.8729833e-5], 2.1269962376),
        (1000.0, [-1.9364917e-5, 3.8729833e-5], 2.1269791810),
    ],
)
def test_step_by_hand(fisher: float, moved: list[float], after: float) -> None:
    """W = ((1, 2), (3, 4)), x = (1, 0), y = 0: only the first column has a gradient; a Fisher of 1000 halves a step."""
    x, y = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([0])
    run, part = unlearning(linear([[1, 2], [3, 4]]), benchmark_of(x, y), noise=0.0)
    if fisher:
        information = run.strategy.parts[2]
        information.fisher = {"head.weight": torch.tensor([[fisher, 0.0], [0.0, 0.0]], dtype=torch.float64)}
    weight = run.parameters()["head.weight"]
    before = weight.detach().clone()
    assert F.cross_entropy(x @ weight.T, y).item() == pytest.approx(2.1269280110, abs=1e-10)
    part.unlearn(batch_of(x, y))
    torch.testing.assert_close(
        weight.detach() - before, torch.tensor([[moved[0], 0], [moved[1], 0]]).double(), rtol=1e-6, atol=1e-12
    )
    assert F.cross_entropy(x @ weight.T, y).item() == pytest.approx(after, abs=1e-10)


@pytest.mark.parametrize("rate", [1e-3, 0.01, 1.0])
def test_every_tensor_moves_by_the_same_part_of_its_norm(rate: float) -> None:
    benchmark = tiny_benchmark()
    run, part = unlearning(tiny_model(benchmark), benchmark, noise=0.0, rate=rate)
    before = {name: p.detach().clone() for name, p in run.parameters().items()}
    part.unlearn(batch_of(*benchmark.train[0].data.take(torch.arange(32))))
    for name, p in run.parameters().items():
        norm, moved = before[name].norm(), (p.detach() - before[name]).norm()
        if name.endswith("1.bias"):  # a bias before BatchNorm has no gradient but rounding's
            continue
        if norm == 0:  # BatchNorm's bias at first
            assert moved == 0
        else:
            assert (moved / norm).item() == pytest.approx(1e-5, rel=2e-2)


def test_random_step_against_formula() -> None:
    """In float64, with Fisher information and a second tensor."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn((6, 2), generator=generator, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0])
    model = linear([[0.3, -1.0], [0.5, 2.0]])
    model.head = nn.Linear(2, 2, dtype=torch.float64)
    with torch.no_grad():
        for p in model.head.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    run, part = unlearning(model, benchmark_of(x, y), noise=0.0, delta=0.1, damping=0.5)
    theta = run.parameters()
    fisher = {
        name: torch.rand(p.shape, generator=generator, dtype=torch.float64) for name, p in theta.items()
    }
    run.strategy.parts[2].fisher = fisher
    gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(theta.values()))
    expected = {
        name: p.detach() + 0.1 * p.detach().norm() / g.norm() * g / (1 + 0.5 * fisher[name])
        for (name, p), g in zip(theta.items(), gradients, strict=True)
    }
    part.unlearn(batch_of(x, y))
    for name, p in theta.items():
        torch.testing.assert_close(p.detach(), expected[name], rtol=1e-6, atol=1e-8)


def test_noise_is_absolute() -> None:
    """δ σ ξ: a tensor whose norm is 0 moves by it alone."""
    benchmark = tiny_benchmark()
    run, part = unlearning(tiny_model(benchmark), benchmark)
    bias = run.parameters()["backbone.2.bias"]
    assert bias.norm() == 0
    part.unlearn(batch_of(*benchmark.train[0].data.take(torch.arange(32))))
    assert 0.4e-8 < bias.detach().std() < 1.6e-8


def test_loss_rises_by_its_first_order() -> None:
    """Σ_k δ ‖θ_k‖ ‖g_k‖."""
    benchmark = tiny_benchmark()
    model = tiny_model(benchmark, norm=False).double()
    run, part = unlearning(model, benchmark, noise=0.0, delta=1e-4)
    x, y = benchmark.train[0].data.take(torch.arange(32))
    x = x.double()
    theta = list(run.parameters().values())
    before = F.cross_entropy(model(x), y)
    gradients = torch.autograd.grad(before, theta)
    predicted = sum(1e-4 * p.detach().norm() * g.norm() for p, g in zip(theta, gradients, strict=True))
    part.unlearn(batch_of(x, y))
    torch.testing.assert_close(F.cross_entropy(model(x), y) - before, predicted, rtol=1e-2, atol=0)


def test_nothing_else_moves() -> None:
    """Neither BatchNorm statistics nor the optimizer nor any other random stream."""
    benchmark = tiny_benchmark()
    run, part = unlearning(tiny_model(benchmark), benchmark)
    before = everything(run)
    part.unlearn(batch_of(*benchmark.train[0].data.take(torch.arange(32))))
    after = everything(run)
    names = dict(run.model.named_buffers())
    assert names
    for name in names:
        assert torch.equal(before["model"][name], after["model"][name])
    assert difference(before["optimizer"], after["optimizer"]) is None
    assert set(after["generators"]) - set(before["generators"]) == {"refresh"}


def test_only_the_stream_is_unlearned() -> None:
    """Rows that a memory has added make no difference."""
    benchmark = tiny_benchmark()
    x, y = benchmark.train[0].data.take(torch.arange(40))
    start = tiny_model(benchmark)
    weights = []
    for rows in (32, 40):
        run, part = unlearning(copy.deepcopy(start), benchmark, noise=0.0)
        part.step(batch_of(x[:rows], y[:rows], new=32), lambda batch: Output(batch.x, batch.x))
        weights.append({name: p.detach().clone() for name, p in run.parameters().items()})
    assert difference(*weights) is None
    assert difference(dict(start.named_parameters()), weights[0]) is not None


@pytest.mark.parametrize("base", ["finetune", "er", "derpp"])
def test_no_unlearning_is_the_base_bit_for_bit(base: str) -> None:
    benchmark = tiny_benchmark()
    runs = [
        tiny_run(make_strategy(base), benchmark, batch_size=8),
        tiny_run(make_strategy(f"{base}+refresh", steps=0), benchmark, batch_size=8),
    ]
    for run in runs:
        run.fit()
    assert runs[0].step >= 48
    assert difference(*(everything(run) for run in runs)) is None


def test_dark_logits_are_those_after_unlearning_and_before_the_update() -> None:
    """What a memory stores of a batch is what the moved weights say of it."""
    strategy = make_strategy("derpp+refresh", memory=500, delta=0.01)
    dark, part = strategy.parts[1:3]
    unlearn, said = part.unlearn, []

    def unlearned(batch: Batch) -> None:
        with torch.no_grad(), run.tentatively():
            before = run.forward(batch.x).logits
        unlearn(batch)
        with torch.no_grad(), run.tentatively():
            said.append(run.forward(batch.x).logits)
        assert not torch.allclose(said[-1], before, rtol=1e-3)

    part.unlearn = unlearned
    run = tiny_run(strategy, tiny_benchmark())
    run.fit()
    torch.testing.assert_close(dark.memory["logits"], torch.cat(said))


# --- the Fisher information ---


def test_fisher_by_hand() -> None:
    """W = 0, two examples x = (1, 0), y = 0, batches of 4: 2 · ½ · ¼ / 4; a second time 10⁻⁵ of the first remains."""
    x, y = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 0])
    benchmark = benchmark_of(x, y, experiences=2)
    strategy = make_strategy("finetune+refresh")
    run = tiny_run(strategy, benchmark, model=linear([[0, 0], [0, 0]], torch.float32), batch_size=4)
    information = strategy.parts[2]
    assert information.divisors() == []
    for expected in (0.0625, 0.0625 * (1 + 1e-5)):
        information.end_experience(run.train[0])
        torch.testing.assert_close(
            information.fisher["head.weight"],
            torch.tensor([[expected, 0.0], [expected, 0.0]]),
            rtol=1e-7,
            atol=0,
        )


class Flat(nn.Module):
    """(B, 1, 4, 4) → (B, 8) by a convolution whose maps BatchNorm normalises; one number of each map remains."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x))).amax((2, 3))


@pytest.mark.parametrize("images", [True, False])
def test_fisher_one_example_at_a_time(images: bool) -> None:
    """Batches of one through a copy in train mode, where BatchNorm can do that; its running statistics where not."""
    benchmark = tiny_benchmark(images=images)
    model = Classifier(Flat(), 8, benchmark.num_classes) if images else tiny_model(benchmark)
    run = tiny_run(make_strategy("finetune+refresh"), benchmark, model=model, batch_size=24)
    run.fit()
    before = everything(run)
    exp = run.train[1]
    found = fisher_of_labels(run, exp, "refresh/augment")
    assert difference(before["model"], run.model.state_dict()) is None
    run.model.train(images)
    expected = {name: torch.zeros_like(p) for name, p in run.parameters().items()}
    for x, y in run.visit(exp.data, 1):
        log_p = run.model(x).log_softmax(1)[0, y[0]]
        gradients = torch.autograd.grad(log_p, list(run.parameters().values()))
        for name, g in zip(expected, gradients, strict=True):
            expected[name] += log_p.exp().detach() * g**2 / (3 * 24)  # 64 examples are 3 batches of 24
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-6)


# --- the paper's step ---


def test_langevin_step_by_hand() -> None:
    """One weight per class, L = CE + what the chain adds, here θ²: θ + γ (∇CE + 2 θ) / (1 + λ F), then the step."""

    class Ridge(Strategy):
        def losses(self, batch: Batch, out: Any) -> dict[str, Tensor]:
            return {"ridge": sum((p**2).sum() for p in self.run.parameters().values()).float()}  # type: ignore[union-attr]

    x, y = torch.tensor([[1.0, 0.0], [0.5, -1.0]], dtype=torch.float64), torch.tensor([0, 1])
    start = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    fisher = torch.tensor([[1.0, 0.0], [2.0, 0.5]], dtype=torch.float64)
    refresh = make_strategy("refresh", mode="paper", gamma=0.02, steps=2, noise=0.0, damping=1.0)
    strategy = chain(make_strategy("finetune"), Ridge(), refresh)
    model, optim = linear(start.tolist()), OptimConfig(lr=0.1)
    run = tiny_run(strategy, benchmark_of(x, y), model=model, epochs=1, optim=optim)
    run.strategy.parts[3].fisher = {"head.weight": fisher}

    def gradient(w: Tensor) -> Tensor:
        w = w.clone().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(x @ w.T, y) + (w**2).sum(), w)
        return g

    w = start
    for _ in range(2):
        w = w + 0.02 * gradient(w) / (1 + fisher)
    w = w - 0.1 * gradient(w)
    run.fit()
    torch.testing.assert_close(run.parameters()["head.weight"].detach(), w, rtol=1e-6, atol=1e-7)


def test_langevin_noise() -> None:
    """σ (2 γ / (1 + λ F))^½ ξ: its spread over many weights."""
    model = Classifier(nn.Identity(), 2, 2)
    model.head = nn.Linear(2, 50_000)
    run = tiny_run(
        make_strategy("finetune+refresh", mode="paper", gamma=0.02, noise=0.5, damping=1.0),
        benchmark_of(torch.zeros((2, 2)), torch.tensor([0, 1])),
        model=model,
    )
    ascend, information = run.strategy.parts[1:]
    assert isinstance(ascend, Ascend)
    assert isinstance(information, Information)
    information.fisher = {name: torch.full_like(p, 3.0) for name, p in run.parameters().items()}
    before = model.head.weight.detach().clone()
    for p in run.parameters().values():
        p.grad = torch.zeros_like(p)
    ascend.ascend()
    assert (model.head.weight.detach() - before).std().item() == pytest.approx(
        0.5 * (2 * 0.02 / 4) ** 0.5, rel=0.01
    )


def test_langevin_steps_see_the_same_replayed_examples() -> None:
    """All gradients of an iteration are of one draw, and BatchNorm statistics move as without."""
    strategy = make_strategy("derpp+refresh", mode="paper", steps=2, noise=0.0, gamma=0.0)
    plain = make_strategy("derpp")
    runs = [tiny_run(s, tiny_benchmark(), batch_size=16) for s in (plain, strategy)]
    for run in runs:
        run.fit()
    states = [
        {k: v for k, v in everything(run).items() if k in ("model", "optimizer", "evaluator")} for run in runs
    ]
    assert difference(*states) is None
    assert runs[1].forwards > 2 * runs[0].forwards


def test_without_damping_no_boundaries_are_needed() -> None:
    assert "boundaries" in make_strategy("refresh").all_needs()
    assert not make_strategy("refresh", damping=0.0).all_needs()
    tiny_run(make_strategy("finetune+refresh", damping=0.0), tiny_benchmark(boundaries=False)).fit()
