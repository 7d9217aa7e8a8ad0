"""SCR: L = mean_i −1/|P_i| Σ_{p ∈ P_i} ln [exp(z_i·z_p/τ) / Σ_{a≠i} exp(z_i·z_a/τ)], and the nearest class mean."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from clbench.strategies.scr import class_means, supervised_contrast
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.memory import BatchReservoir, Reservoir
from clbench.testing import tiny_benchmark, tiny_run, watch
from clbench.transforms.augment import Transform
from clbench.types import MASKED


def row_by_row(z: Tensor, y: Tensor, tau: float) -> Tensor:
    rows = []
    for i in range(len(y)):
        among = torch.stack([z[i] @ z[a] / tau for a in range(len(y)) if a != i]).exp().sum()
        terms = [((z[i] @ z[p] / tau).exp() / among).log() for p in range(len(y)) if p != i and y[p] == y[i]]
        rows.append(-torch.stack(terms).mean())
    return torch.stack(rows).mean()


def test_by_hand() -> None:
    """Two classes at right angles, two equal views of each: ln(e + 2) − 1 at τ = 1."""
    z = torch.eye(2, dtype=torch.float64).repeat(2, 1)
    found = supervised_contrast(z, torch.tensor([0, 1, 0, 1]), 1.0)
    assert found.item() == pytest.approx(math.log(math.e + 2) - 1, abs=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("tau", [0.07, 0.175, 1.0])
def test_random_rows(seed: int, tau: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = F.normalize(torch.randn((7, 5), generator=generator, dtype=torch.float64)).repeat(2, 1)
    z = F.normalize(z + 0.3 * torch.randn(z.shape, generator=generator, dtype=torch.float64))
    z.requires_grad_()
    y = torch.randint(3, (7,), generator=generator).repeat(2)
    found, expected = supervised_contrast(z, y, tau), row_by_row(z, y, tau)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(*(torch.autograd.grad(loss, z)[0] for loss in (found, expected)))


def test_class_means_by_hand() -> None:
    """Rows (3, 0) and (0, 1) point to (1, 1)/√2 together, however long they are."""
    found = class_means(torch.tensor([[3.0, 0], [0, 1], [0, -2]]), torch.tensor([1, 1, 2]), 4)
    half = math.sqrt(0.5)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0], [half, half], [0, -1], [0, 0]]))


def traced(seed: int) -> tuple[Engine, list[dict[str, Any]]]:
    steps: list[dict[str, Any]] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point != "losses":
            return call()
        batch, out = arguments
        step: dict[str, Any] = {"batch": batch, "out": out, "passes": []}
        step["projection"] = {n: p.detach().clone() for n, p in strategy.projection.state_dict().items()}
        steps.append(step)
        step["losses"] = call()
        return step["losses"]

    strategy = make_strategy("scr", memory=30, draw=12, temperature=0.175)
    watch(strategy, probe)
    transform = Transform(mean=(0.5,), std=(0.25,), ops=("crop", "flip"), padding=1)
    benchmark = replace(tiny_benchmark(seed=seed, images=True), transform=transform)
    run = tiny_run(strategy, benchmark, batch_size=16, epochs=1, optim=OptimConfig(lr=0.05))
    forward = run.forward

    def forwarded(x: Tensor, task: Tensor | None = None) -> Any:
        out = forward(x, task)
        if steps and "losses" not in steps[-1]:
            steps[-1]["passes"].append(out)
            steps[-1]["view"] = x
        return out

    run.forward = forwarded  # type: ignore[method-assign]
    run.fit()
    return run, steps


@pytest.mark.parametrize("seed", [0, 1])
def test_every_step(seed: int) -> None:
    """The first view is the examples as they are, of stream and memory together; the second has a pass of its own."""
    run, steps = traced(seed)
    assert steps[0]["losses"] == {}
    for step in steps[1:]:
        batch, (second,) = step["batch"], step["passes"]
        assert torch.equal(batch.x, run.normalise(batch.raw))
        assert step["view"].shape == batch.x.shape
        assert bool((step["view"] != batch.x).flatten(1).any(1)[16:].any())  # also of replayed rows
        assert bool((step["view"] != batch.x).flatten(1).any(1)[:16].any())
        assert (batch.new, len(batch), len(second.features)) == (16, 28, 28)
        w = {name: p.double() for name, p in step["projection"].items()}
        h = torch.cat([step["out"].features, second.features]).detach().double()
        z = (h @ w["0.weight"].T + w["0.bias"]).clamp(min=0) @ w["2.weight"].T + w["2.bias"]
        z = z / z.norm(dim=1, keepdim=True)
        expected = row_by_row(z, batch.y.repeat(2), 0.175)
        torch.testing.assert_close(
            step["losses"]["contrast"].detach().double(), expected, rtol=1e-6, atol=2e-6
        )


def test_nothing_is_left_of_a_batch_that_meets_an_empty_memory() -> None:
    strategy = make_strategy("scr", memory=30)
    counts: list[int] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point == "after_step":
            counts.append(int(run.model.backbone[2].num_batches_tracked))  # type: ignore[index, union-attr]
        return call()

    watch(strategy, probe)
    run = tiny_run(strategy, tiny_benchmark(), batch_size=16, epochs=1)
    run.fit()
    assert counts[:3] == [0, 2, 4]  # both views have a pass


@pytest.mark.parametrize(("fill", "kind"), [("example", Reservoir), ("batch", BatchReservoir)])
@pytest.mark.parametrize("name", ["scr", "mir", "er-ace"])
def test_the_reservoir_may_be_that_of_released_code(name: str, fill: str, kind: type) -> None:
    run = tiny_run(make_strategy(name, memory=20, fill=fill), tiny_benchmark(experiences=1), epochs=1)
    assert type(run.strategy.parts[-1].memory) is kind


def test_prediction_is_the_nearest_class_mean() -> None:
    run, _ = traced(0)
    memory = run.strategy.memory
    x = run.normalise(run.benchmark.test[0].data.x())
    with torch.no_grad(), run.evaluating():
        found = run.predict(x, torch.full((len(x),), -1))
        stored = run.model.features(run.normalise(memory["x"]))
        features = run.model.features(x)
    stored, features = (rows / rows.norm(dim=1, keepdim=True) for rows in (stored, features))
    held = sorted(set(memory["y"].tolist()))
    for c in range(run.num_classes):
        if c not in held:
            assert bool((found[:, c] == MASKED).all())
            continue
        mean = stored[memory["y"] == c].mean(0)
        expected = -((features - mean / mean.norm()) ** 2).sum(1)
        torch.testing.assert_close(found[:, c], expected, rtol=1e-4, atol=1e-5)


def test_means_follow_the_weights() -> None:
    """Predictions of a run that is evaluated after every step are those of one that is evaluated at the end."""
    curves = []
    for every in (0, 1):
        run = tiny_run(make_strategy("scr", memory=30), tiny_benchmark(), batch_size=16, every=every)
        run.fit()
        x = run.normalise(run.benchmark.test[0].data.x())
        with torch.no_grad(), run.evaluating():
            curves.append(run.predict(x, torch.full((len(x),), -1)))
    assert torch.equal(*curves)


def test_the_projection_begins_as_torch_initialises_layers() -> None:
    """Within ±1/√inputs, uniformly; nothing of it comes from the global generator."""
    weights = []
    for number in (1, 2):
        run = tiny_run(make_strategy("scr"), tiny_benchmark())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            strategy = make_strategy("scr")
            strategy.run = run
            run._generators.clear()
            strategy.wrap(run.model)
        weights.append(strategy.projection[0].weight.detach())
    assert torch.equal(*weights)
    assert isinstance(strategy.projection[0], nn.Linear)
    assert 0.24 < weights[0].abs().max() <= 0.25
    assert abs(weights[0].std() - 0.25 / math.sqrt(3)) < 0.02
