"""SAM: the update's gradient is ∇L(θ + ρ ∇L(θ) / ‖∇L(θ)‖₂), of the same batch with the same draws."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Batch, Classifier, Output, Reservoir, Strategy, chain, make_strategy
from clbench.config import OptimConfig
from clbench.errors import IncompatibleError
from clbench.parts import CrossEntropy, ascent, perturbed
from clbench.testing import difference, tiny_benchmark, tiny_model, tiny_run
from clbench.testing.tools import everything


def test_half_a_squared_norm_by_hand() -> None:
    """L = ½‖θ‖² at (3, 4), ρ = 0.05: ε̂ = (0.03, 0.04), the gradient used (3.03, 4.04), and θ is itself again."""
    for dtype in (torch.float32, torch.float64):
        theta = torch.tensor([3.0, 4.0], dtype=dtype, requires_grad=True)
        (g,) = torch.autograd.grad((theta**2).sum() / 2, theta)
        (up,) = ascent([g], 0.05)
        torch.testing.assert_close(up, torch.tensor([0.03, 0.04], dtype=dtype))
        with perturbed([theta], [up]):
            (g,) = torch.autograd.grad((theta**2).sum() / 2, theta)
        torch.testing.assert_close(g, torch.tensor([3.03, 4.04], dtype=dtype))
        assert theta.tolist() == [3.0, 4.0]


def test_one_norm_over_all_tensors() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(shape, generator=generator) for shape in ((3, 4), (5,), (2, 1, 2))]
    norm = torch.cat([g.flatten().double() for g in gradients]).norm()
    found = ascent([gradients[0], None, *gradients[1:]], 0.3)
    assert found[1] is None
    for e, g in zip([found[0], *found[2:]], gradients, strict=True):
        torch.testing.assert_close(e.double(), 0.3 * g.double() / norm, rtol=1e-6, atol=1e-8)
    scaled = ascent([1024 * g for g in gradients], 0.3)
    assert difference(scaled, [found[0], *found[2:]]) is None


def test_without_a_gradient_nothing_moves() -> None:
    theta = [torch.ones(2), torch.ones(3)]
    by = ascent([torch.zeros(2), torch.tensor([float("inf"), float("nan"), 0.0])], 1.0)
    with perturbed(theta, by):
        assert difference(theta, [torch.ones(2), torch.ones(3)]) is None
    assert ascent([None, None], 1.0) == [None, None]


def test_weights_come_back_to_the_bit_also_after_an_error() -> None:
    """Adding and subtracting would not bring them back."""
    theta = [torch.randn(1000, generator=torch.Generator().manual_seed(0))]
    by, before = [torch.full((1000,), 1e3)], theta[0].clone()
    assert not torch.equal(before + by[0] - by[0], before)
    with perturbed(theta, by):
        assert torch.equal(theta[0], before + by[0])
    assert torch.equal(theta[0], before)
    with pytest.raises(KeyError), perturbed(theta, by):
        raise KeyError
    assert torch.equal(theta[0], before)


class Ridge(Strategy):
    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"ridge": 0.1 * torch.stack([(p**2).sum() for p in self.run.parameters().values()]).sum()}


def test_updates_against_a_loop_of_their_own() -> None:
    """Cross-entropy and what the chain adds, clipped after the second pass; weight decay is of θ."""
    benchmark = tiny_benchmark(experiences=1, examples=32)
    model = tiny_model(benchmark, norm=False)
    optim = OptimConfig(lr=0.1, weight_decay=0.01, clip=0.5)
    run = tiny_run(
        chain(CrossEntropy(), Ridge(), make_strategy("sam", rho=0.3)),
        benchmark,
        model=model,
        epochs=5,
        optim=optim,
    )
    x, y = benchmark.train[0].data.take(torch.arange(32))
    theta = {name: p.detach().clone() for name, p in model.named_parameters()}

    def gradient(at: dict[str, Tensor]) -> list[Tensor]:
        leaves = {name: p.clone().requires_grad_() for name, p in at.items()}
        hidden = F.relu(F.linear(x, leaves["backbone.1.weight"], leaves["backbone.1.bias"]))
        logits = F.linear(hidden, leaves["head.weight"], leaves["head.bias"])
        loss = F.cross_entropy(logits, y) + 0.1 * sum((p**2).sum() for p in leaves.values())
        return list(torch.autograd.grad(loss, list(leaves.values())))

    clipped = 0
    for _ in range(5):
        g = gradient(theta)
        norm = torch.cat([t.flatten() for t in g]).norm()
        above = {name: p + 0.3 * t / norm for (name, p), t in zip(theta.items(), g, strict=True)}
        g = gradient(above)
        norm = torch.cat([t.flatten() for t in g]).norm()
        clipped += int(norm > 0.5)
        scale = min(1.0, float(0.5 / (norm + 1e-6)))
        theta = {
            name: p - 0.1 * (scale * t + 0.01 * p) for (name, p), t in zip(theta.items(), g, strict=True)
        }
    run.fit()
    assert clipped
    for name, p in run.parameters().items():
        torch.testing.assert_close(p.detach(), theta[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("base", ["finetune", "er", "derpp", "ewc"])
def test_rho_0_is_the_base_bit_for_bit(base: str) -> None:
    runs = [
        tiny_run(make_strategy(f"{base}{more}", **params), tiny_benchmark(), batch_size=8)
        for more, params in (("", {}), ("+sam", {"rho": 0.0}))
    ]
    for run in runs:
        run.fit()
    assert difference(*(everything(run) for run in runs)) is None


class Noisy(Classifier):
    """Dropout and batch normalisation: every pass draws, and every pass moves statistics."""

    def __init__(self, classes: int) -> None:
        layers = nn.Sequential(nn.Flatten(), nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))
        super().__init__(layers, 16, classes)


class Keep(Strategy):
    """Draws in extend and in losses, and keeps what comes by."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []
        self.drawn: list[Tensor] = []

    def extend(self, batch: Batch) -> Batch:
        return batch.join(batch.x[:2], batch.y[:2], batch.task[:2], batch.raw[:2])

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        self.seen.append((batch.x, batch.y, out.logits.detach()))
        self.drawn.append(torch.rand(3, generator=self.run.rng("keep")))
        return {}


def test_both_passes_see_the_same_and_the_second_leaves_no_trace() -> None:
    """With a step of next to no length all is as without SAM: draws, dropout, statistics, what a memory stores."""
    benchmark = tiny_benchmark()
    keeps, runs = [], []
    for more in (Strategy(), make_strategy("sam", rho=1e-30)):
        keep = Keep()
        torch.manual_seed(0)
        run = tiny_run(
            chain(make_strategy("derpp", memory=20), keep, more),
            benchmark,
            model=Noisy(benchmark.num_classes),
        )
        run.fit()
        keeps.append(keep)
        runs.append(run)
    plain, twice = keeps
    assert len(twice.seen) == 2 * len(plain.seen)
    for i, seen in enumerate(plain.seen):
        for again in twice.seen[2 * i : 2 * i + 2]:
            assert difference(again, seen) is None
        for drawn in twice.drawn[2 * i : 2 * i + 2]:
            assert torch.equal(drawn, plain.drawn[i])
    states = [everything(run) for run in runs]
    for state in states:
        state["counters"].pop("forwards")
        del state["strategy"][3:]  # SAM's own, which is empty
    assert difference(*states) is None
    assert runs[1].forwards == 2 * runs[0].forwards


def test_statistics_and_stored_logits_are_those_of_the_weights_themselves() -> None:
    """A long step, and the first iteration's statistics and logits are as without it."""
    found = []
    for rho in (0.0, 5.0):
        benchmark = tiny_benchmark(experiences=1, examples=32)
        torch.manual_seed(0)
        run = tiny_run(
            make_strategy("derpp+sam", rho=rho), benchmark, model=Noisy(benchmark.num_classes), epochs=1
        )
        run.fit()
        memory = run.strategy.parts[1].memory
        assert isinstance(memory, Reservoir)
        found.append((dict(run.model.named_buffers()), memory["logits"], run.parameters()["head.weight"]))
    assert difference(*(f[:2] for f in found)) is None
    assert not torch.equal(found[0][2], found[1][2])


def test_fp16_scales_make_no_difference_to_the_step() -> None:
    moved: list[float] = []

    class Look(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            theta = torch.cat([p.detach().flatten() for p in self.run.parameters().values()])
            if len(self.before) == 1:
                moved.append(float((theta - self.before.pop()).norm()))
            else:
                self.before.append(theta.clone())
            return {}

        before: list[Tensor]

    for precision in ("fp32", "bf16", "fp16"):
        look = Look()
        look.before = []
        sam = make_strategy("sam", rho=0.1)
        run = tiny_run(chain(CrossEntropy(), look, sam), tiny_benchmark(), precision=precision)
        run.fit()
        assert run.updates
    assert moved == pytest.approx([0.1] * len(moved), rel=1e-3)


def test_the_gradient_of_another_part_inside_is_refused() -> None:
    refresh = make_strategy("refresh", mode="paper")
    with pytest.raises(IncompatibleError, match="put sam before refresh"):
        tiny_run(chain(make_strategy("er"), refresh, make_strategy("sam")), tiny_benchmark())
    tiny_run(chain(make_strategy("er"), make_strategy("sam"), refresh), tiny_benchmark(), epochs=1).fit()


def test_images_and_an_optimizer_of_its_own() -> None:
    """GDumb trains through `run.optimise`; its passes are doubled, too."""
    runs = [tiny_run(make_strategy(n), tiny_benchmark(images=True), epochs=1) for n in ("gdumb", "gdumb+sam")]
    for run in runs:
        run.fit()
    assert runs[1].forwards == 2 * runs[0].forwards
    assert difference(runs[0].model.state_dict(), runs[1].model.state_dict()) is not None


def test_a_negative_rho_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'rho' takes a number ≥ 0; -0\.1 was given"):
        make_strategy("sam", rho=-0.1)
