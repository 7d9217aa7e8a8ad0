"""EWC: λ/2 Σ_k Σ_j F_kj (θ_j − θ*_kj)², with four estimates of the diagonal Fisher information."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from clbench.strategies.ewc import Estimator, fisher_information
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import (
    Batch,
    Benchmark,
    Classifier,
    Data,
    Experience,
    Setting,
    Strategy,
    Stream,
    chain,
    make_strategy,
)
from clbench.engine.engine import Engine
from clbench.machine.randomness import derive_seed
from clbench.testing import difference, tiny_benchmark, tiny_run
from clbench.testing.tools import everything
from clbench.transforms.augment import Transform
from clbench.types import Pool

ESTIMATORS: list[Estimator] = ["sampled", "exact", "empirical", "batch"]


def benchmark_of(x: Tensor, y: Tensor, classes: int) -> Benchmark:
    """One experience with these examples."""
    data = Data.of(Pool(x, y), torch.arange(len(x)))
    stream = Stream("train", (Experience(0, tuple(range(classes)), data),))
    return Benchmark("given", 1, Setting(), stream, stream, classes, Transform())


def fisher_of_weights(rows: list[float], x: list[float], y: list[int], estimator: Estimator) -> Tensor:
    """(2,) Fisher information of the weights of a softmax regression on one feature."""
    model = Classifier(nn.Identity(), 1, 2)
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor(rows)[:, None])
        model.head.bias.zero_()
    benchmark = benchmark_of(torch.tensor(x)[:, None], torch.tensor(y), 2)
    run = tiny_run(make_strategy("ewc"), benchmark, model=model, batch_size=len(x))
    return fisher_information(run, run.train[0], estimator)["head.weight"].flatten()


# --- the Fisher information ---


@pytest.mark.parametrize(("estimator", "expected"), [("empirical", 0.25), ("exact", 0.25), ("batch", 0.0)])
def test_opposite_labels_at_zero_weights(estimator: Estimator, expected: float) -> None:
    """Gradients ±½ per example: their squares are ¼ each, and the square of their mean is 0."""
    fisher = fisher_of_weights([0.0, 0.0], [1.0, 1.0], [0, 1], estimator)
    torch.testing.assert_close(fisher, torch.full((2,), expected))


@pytest.mark.parametrize(
    ("estimator", "expected"), [("exact", 0.27375), ("empirical", 0.05125), ("batch", 0.050625)]
)
def test_three_to_one_odds(estimator: Estimator, expected: float) -> None:
    """p₀ = ¾ at x = 1 and 9/10 at x = 2, labels 0.

    exact: mean of x² p (1 − p) = (3/16 + 9/25) / 2. empirical: mean of x² (1 − p₀)² = (1/16 + 1/25) / 2.
    batch: (mean of x (1 − p₀))² = ((1/4 + 1/5) / 2)².
    """
    fisher = fisher_of_weights([math.log(3), 0.0], [1.0, 2.0], [0, 0], estimator)
    torch.testing.assert_close(fisher, torch.full((2,), expected))


def test_sampled_labels_are_unbiased() -> None:
    """Over 40,000 draws the mean is the exact expectation, within 4 of its standard errors (0.0013 each)."""
    fisher = fisher_of_weights([math.log(3), 0.0], [1.0, 2.0] * 20_000, [0, 0] * 20_000, "sampled")
    torch.testing.assert_close(fisher, torch.full((2,), 0.27375), rtol=0, atol=0.0052)


def loop_over_examples(run: Engine, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Empirical and exact Fisher information, one example and one class at a time."""
    parameters = run.parameters()
    empirical = {name: torch.zeros_like(p) for name, p in parameters.items()}
    exact = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for i in range(len(x)):
        log_p = run.model(x[i : i + 1]).log_softmax(1)[0]
        for label in range(len(log_p)):
            gradients = torch.autograd.grad(log_p[label], list(parameters.values()), retain_graph=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                exact[name] += log_p[label].exp().detach() * gradient**2 / len(x)
                if label == y[i]:
                    empirical[name] += gradient**2 / len(x)
    return empirical, exact


@pytest.mark.parametrize("seed", [0, 1])
def test_per_example_gradients_of_a_network(seed: int) -> None:
    """All weights of a network with batch normalisation, in eval mode, against a loop over examples."""
    benchmark = tiny_benchmark(seed=seed, experiences=2, examples=20)
    run = tiny_run(make_strategy("finetune"), benchmark, seed=seed, batch_size=7)
    run.fit()
    exp = run.train[1]
    with run.evaluating():
        empirical, exact = loop_over_examples(run, run.normalise(exp.data.x()), exp.data.y())
        for estimator, expected in (("empirical", empirical), ("exact", exact)):
            found = fisher_information(run, exp, estimator)
            for name in expected:
                torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-7)


# --- the penalty ---


def fitted(**params: Any) -> Engine:
    run = tiny_run(make_strategy("ewc", strength=3.0, **params), tiny_benchmark(experiences=3))
    run.fit()
    return run


def penalty(run: Engine) -> Tensor:
    unused: Any = None
    return run.strategy.parts[1].losses(unused, unused)["ewc"]


def move(run: Engine) -> None:
    """The weights to somewhere else."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in run.parameters().values():
            p += 0.1 * torch.randn(p.shape, generator=generator)


def test_penalty_of_one_weight() -> None:
    """λ = 0.1, F = 1, θ − θ* = ½: λ/2 · ¼ = 0.0125, and its gradient λ · ½ = 0.05."""
    run = tiny_run(
        make_strategy("ewc", strength=0.1), tiny_benchmark(), model=Classifier(nn.Identity(), 8, 6)
    )
    theta = run.parameters()["head.bias"]
    apart = torch.zeros_like(theta)
    apart[2] = 0.5
    part = run.strategy.parts[1]
    part.anchors, part.fishers = (
        [{"head.bias": theta.detach() - apart}],
        [{"head.bias": torch.ones_like(theta)}],
    )
    value = penalty(run)
    (gradient,) = torch.autograd.grad(value, theta)
    torch.testing.assert_close(value, torch.tensor(0.0125))
    torch.testing.assert_close(gradient, 0.1 * apart)


@pytest.mark.parametrize("fisher", ESTIMATORS)
def test_penalty_sums_over_experiences(fisher: Estimator) -> None:
    run = fitted(fisher=fisher)
    part = run.strategy.parts[1]
    move(run)
    expected = sum(
        (part.fishers[k][name].double() * (theta.detach() - part.anchors[k][name]).double() ** 2).sum()
        for k in range(3)
        for name, theta in run.parameters().items()
    )
    torch.testing.assert_close(penalty(run).double(), 3.0 / 2 * expected, rtol=1e-4, atol=1e-8)


def test_gradient_of_the_penalty() -> None:
    """λ Σ_k F_k (θ − θ*_k)."""
    run = fitted()
    part = run.strategy.parts[1]
    move(run)
    theta = run.parameters()
    gradients = torch.autograd.grad(penalty(run), list(theta.values()))
    for (name, p), gradient in zip(theta.items(), gradients, strict=True):
        terms = [part.fishers[k][name] * (p.detach() - part.anchors[k][name]) for k in range(3)]
        torch.testing.assert_close(gradient, 3.0 * torch.stack(terms).sum(0), rtol=1e-4, atol=1e-7)


def test_penalty_is_zero_at_the_only_anchor() -> None:
    run = tiny_run(make_strategy("ewc"), tiny_benchmark(experiences=1))
    run.fit()
    assert penalty(run) == 0


def test_anchors_are_the_weights_at_each_end() -> None:
    ends: list[dict[str, Tensor]] = []

    class Record(Strategy):
        def end_experience(self, exp: Experience) -> None:
            ends.append({name: p.detach().clone() for name, p in self.run.parameters().items()})

    ewc = make_strategy("ewc")
    tiny_run(chain(ewc, Record()), tiny_benchmark()).fit()
    for anchor, end in zip(ewc.parts[1].anchors, ends, strict=True):
        assert all(torch.equal(anchor[name], end[name]) for name in end)


def test_online_has_one_decayed_penalty() -> None:
    """F ← γ F + F_k, around the latest weights; the estimates F_k are taken along the same trajectory."""
    alone: list[dict[str, Tensor]] = []

    class Estimate(Strategy):
        def end_experience(self, exp: Experience) -> None:
            with self.run.evaluating():
                alone.append(fisher_information(self.run, exp, "exact"))

    ewc = make_strategy("ewc", online=True, decay=0.5, fisher="exact")
    run = tiny_run(chain(ewc, Estimate()), tiny_benchmark())
    run.fit()
    (anchor,), (fisher,) = ewc.parts[1].anchors, ewc.parts[1].fishers
    for name, p in run.parameters().items():
        assert torch.equal(anchor[name], p)
        torch.testing.assert_close(
            fisher[name], 0.25 * alone[0][name] + 0.5 * alone[1][name] + alone[2][name]
        )


def test_loss_of_the_stream_is_cross_entropy() -> None:
    run = tiny_run(make_strategy("ewc"), tiny_benchmark())
    x = torch.randn((5, 8), generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 3, 4])
    zeros = torch.zeros(5, dtype=torch.int64)
    batch = Batch(x, y, zeros - 1, x, zeros, zeros, 5)
    out = run.forward(x)
    expected = -F.log_softmax(out.logits.double(), 1)[torch.arange(5), y].mean()
    torch.testing.assert_close(run.strategy.parts[0].losses(batch, out)["fit"].double(), expected)


# --- estimators of other libraries ---


def weights_of(rows: list[float], x: list[float], y: list[int], batch_size: int) -> Engine:
    model = Classifier(nn.Identity(), 1, 2)
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor(rows)[:, None])
        model.head.bias.zero_()
    benchmark = benchmark_of(torch.tensor(x)[:, None], torch.tensor(y), 2)
    return tiny_run(make_strategy("ewc"), benchmark, model=model, batch_size=batch_size)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        # p₀ = ¾ at x = 1 and 9/10 at x = 2, labels 0; gradients −x (1 − p₀) = −¼, −⅕.
        ("mammoth", (0.75 / 16 + 0.9 / 25) / 4),  # one batch of 4, of which 2 are there
        ("van-de-ven", 0.27375 * 2),  # divided by the last index, 1
        ("predicted", 0.05125),  # class 0 is the likelier one, as the labels say
        ("pycil", 1e-4),
    ],
)
def test_three_to_one_odds_in_other_libraries(estimator: Estimator, expected: float) -> None:
    run = weights_of([math.log(3), 0.0], [1.0, 2.0], [0, 0], batch_size=4)
    fisher = fisher_information(run, run.train[0], estimator)["head.weight"].flatten()
    torch.testing.assert_close(fisher, torch.full((2,), expected))


def test_mammoth_takes_one_augmented_example_at_a_time_in_training_mode() -> None:
    """As its code does, but that nothing is left of it in running statistics and in the random streams of training."""
    transform = Transform(mean=(0.5,), std=(0.25,), ops=("crop", "flip"), padding=1)
    benchmark = replace(tiny_benchmark(images=True), transform=transform)
    backbone = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model = Classifier(backbone, 4, benchmark.num_classes)
    run = tiny_run(make_strategy("ewc", fisher="mammoth"), benchmark, model=model, batch_size=24)
    exp, before = run.train[0], everything(run)
    found = fisher_information(run, exp, "mammoth")
    assert difference(before["model"], run.model.state_dict()) is None
    assert "augment" not in run._generators
    run.model.train()
    total = {name: torch.zeros_like(p) for name, p in run.parameters().items()}
    rng = torch.Generator().manual_seed(derive_seed(run.config.seeds.data, "ewc/augment"))
    for rows in torch.arange(len(exp)).split(24):
        raw, y = exp.data.take(rows)
        x = transform.train(raw, rng)
        for i in range(len(y)):
            log_p = run.model(x[i : i + 1]).log_softmax(1)[0, y[i]]
            gradients = torch.autograd.grad(log_p, list(run.parameters().values()))
            for name, g in zip(total, gradients, strict=True):
                total[name] += log_p.exp().detach() * g**2 / (3 * 24)  # 64 examples are 3 batches of 24
    for name, value in total.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-6)


def test_closer_look_by_hand() -> None:
    """Batches {1, 2} and {3}, labels 0: B times the squared gradient of the mean over rows and classes of BCE.

    At W = (ln 3, 0): σ(z₀) = ¾, 9/10, 27/28 and σ(z₁) = ½. Gradients of the mean over B · 2 terms:
    row 0 of W: (−¼ · 1 − 1/10 · 2) / 4 and −1/28 · 3 / 2; row 1: (½ + 1) / 4 and 3/4.
    """
    run = weights_of([math.log(3), 0.0], [1.0, 2.0, 3.0], [0, 0, 0], batch_size=2)
    fisher = fisher_information(run, run.train[0], "closer-look")["head.weight"].flatten()
    first = (2 * (0.45 / 4) ** 2 + (3 / 56) ** 2) / 2
    second = (2 * (1.5 / 4) ** 2 + 0.75**2) / 2
    torch.testing.assert_close(fisher, torch.tensor([first, second]))


def test_closer_look_leaves_other_experiences_columns_out() -> None:
    run = tiny_run(make_strategy("ewc"), tiny_benchmark())
    fisher = fisher_information(run, run.train[1], "closer-look")["head.bias"]
    assert (fisher[[0, 1, 4, 5]] == 0).all()
    assert (fisher[[2, 3]] > 0).all()


def test_a_pass_in_training_mode_leaves_no_trace() -> None:
    run = tiny_run(make_strategy("finetune"), tiny_benchmark())
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    fisher_information(run, run.train[0], "pycil")
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def test_convex_merging() -> None:
    """Two past of four seen classes: half of the old and half of the new information; then 4/6 and 2/6."""
    ewc = make_strategy("ewc", online=True, decay="convex", fisher="exact")
    alone: list[dict[str, Tensor]] = []

    class Estimate(Strategy):
        def end_experience(self, exp: Experience) -> None:
            alone.append(fisher_information(self.run, exp, "exact"))

    tiny_run(chain(ewc, Estimate()), tiny_benchmark()).fit()
    (fisher,) = ewc.parts[1].fishers
    for name in fisher:
        expected = (alone[0][name] / 2 + alone[1][name] / 2) * 4 / 6 + alone[2][name] * 2 / 6
        if name.startswith("head."):  # a class has no old information before its experience has ended
            expected[2:4] = alone[1][name][2:4] * 4 / 6 + alone[2][name][2:4] * 2 / 6
            expected[4:] = alone[2][name][4:]
        torch.testing.assert_close(fisher[name], expected)


def test_a_group_only() -> None:
    run = tiny_run(make_strategy("ewc", parameters="encoder"), tiny_benchmark(experiences=1))
    run.fit()
    (anchor,) = run.strategy.parts[1].anchors
    assert set(anchor) == {n for n in run.parameters() if not n.startswith("head.")}
