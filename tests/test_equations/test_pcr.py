"""PCR: L = mean_i [ln Σ_c n_c e^{s_ic} − s_iy], s = cos(features, proxies) / τ, over two views of stream and memory.

It is supervised contrast in which the candidates and positives of a row are the proxies of all rows' labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Benchmark, make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.memory import BatchReservoir
from clbench.parts import CosineHead, proxy_contrast
from clbench.testing import tiny_benchmark, tiny_run, watch
from clbench.transforms.augment import Transform
from clbench.types import MASKED

Z = torch.tensor([(1.0, 0), (0, 2), (3, 3)], dtype=torch.float64)
W = torch.tensor([(2.0, 0), (0, 1), (-1, 0)], dtype=torch.float64)
Y = torch.tensor([0, 1, 1])


def loss(z: Tensor, w: Tensor, y: Tensor, tau: float = 0.09, **how: Any) -> Tensor:
    return proxy_contrast(CosineHead(w, tau)(z), y, **how)


def supervised_contrast(z: Tensor, w: Tensor, y: Tensor, tau: float) -> Tensor:
    """Row by row, positive by positive."""
    z = z / (z.norm(dim=1, keepdim=True) + 1e-6)
    w = w / (w.norm(dim=1, keepdim=True) + 1e-6)
    rows = []
    for i in range(len(y)):
        similar = [(z[i] @ w[y[j]]) / tau for j in range(len(y))]
        among = torch.stack(similar).logsumexp(0)
        positives = [among - similar[j] for j in range(len(y)) if y[j] == y[i]]
        rows.append(torch.stack(positives).mean())
    return torch.stack(rows).mean()


@pytest.mark.parametrize(
    ("tau", "expected", "uniform"),
    [
        (1.0, 0.8373509311, 0.4398905131),
        (0.5, 0.6989272652, 0.3156680905),
        (0.09, 0.5972660474, 0.2310596786),
    ],
)
def test_golden(tau: float, expected: float, uniform: float) -> None:
    """Values of the authors' loss; without counts it is the cross-entropy over the two classes at hand."""
    assert loss(Z, W, Y, tau).item() == pytest.approx(expected, abs=1e-9)
    assert loss(Z, W, Y, tau, weighting="uniform").item() == pytest.approx(uniform, abs=1e-9)


def test_golden_rows() -> None:
    """Of one row's contribution, by what the mean leaves when its features move."""
    scores = CosineHead(W, 1.0)(Z)
    shifted = scores + torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64).log()
    rows = shifted.logsumexp(1) - scores.gather(1, Y[:, None])[:, 0]
    torch.testing.assert_close(rows, torch.tensor([0.5514453, 0.8619950, 1.0986124], dtype=torch.float64))
    torch.testing.assert_close(rows.mean(), loss(Z, W, Y, 1.0))


def random(seed: int, rows: int = 12, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn((rows, 7), generator=generator, dtype=torch.float64).requires_grad_()
    w = torch.randn((classes, 7), generator=generator, dtype=torch.float64).requires_grad_()
    return z, w, torch.randint(classes - 1, (rows,), generator=generator)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("tau", [1.0, 0.09])
def test_random_rows(seed: int, tau: float) -> None:
    """Loss and gradients of the closed form are those of supervised contrast."""
    z, w, y = random(seed)
    head = CosineHead(w, tau)
    found, expected = proxy_contrast(head(z), y), supervised_contrast(z, w, y, tau)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for a, b in zip(
        torch.autograd.grad(found, [z, head.weight]), torch.autograd.grad(expected, [z, w]), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_absent_classes_change_nothing() -> None:
    z, w, y = random(0)
    head = CosineHead(w, 0.09)
    (gradient,) = torch.autograd.grad(proxy_contrast(head(z), y), head.weight)
    assert torch.equal(gradient[4], torch.zeros(7, dtype=torch.float64))
    assert torch.equal(loss(z, w[:4], y), loss(z, w, y))


def test_counts_weigh() -> None:
    """Every row twice adds ln 2; forty rows of one class give ln 40, and no gradient."""
    z, w, y = random(1)
    assert (loss(torch.cat([z, z]), w, torch.cat([y, y])) - loss(z, w, y)).item() == pytest.approx(
        math.log(2), abs=1e-9
    )
    z, w, _ = random(2, rows=40)
    head = CosineHead(w, 0.09)
    one_class = proxy_contrast(head(z), torch.full((40,), 3))
    assert one_class.item() == pytest.approx(3.6888794541, abs=1e-9)
    for gradient in torch.autograd.grad(one_class, [z, head.weight]):
        assert gradient.abs().max() < 1e-9


def test_lengths_do_not_matter() -> None:
    z, w, y = random(3)
    before = loss(z, w, y)
    assert (loss(10 * z, w, y) - before).abs() < 1e-4
    assert (loss(z, 10 * w, y) - before).abs() < 1e-4
    (gradient,) = torch.autograd.grad(before, z)
    assert (gradient * z).sum(1).abs().max() < 1e-4


def augmenting(seed: int) -> Benchmark:
    """Images that are cropped and flipped in training, so that two views differ."""
    transform = Transform(mean=(0.5,), std=(0.25,), ops=("crop", "flip"), padding=1)
    return replace(tiny_benchmark(seed=seed, images=True), transform=transform)


@dataclass
class Trace:
    steps: list[dict[str, Any]] = field(default_factory=list)


def traced(name: str = "pcr", seed: int = 0, **params: Any) -> tuple[Engine, Trace]:
    """A run that notes, step by step, the loss, the draw, and the rows of both forward passes."""
    trace = Trace()

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point != "losses":
            return call()
        batch, out = arguments
        step: dict[str, Any] = {"batch": batch, "out": out, "weight": run.model.head.weight.detach().clone()}
        trace.steps.append(step)
        step["losses"] = call()
        return step["losses"]

    strategy = make_strategy(name, **{"memory": 20, "draw": 12, **params})
    watch(strategy, probe)
    run = tiny_run(
        strategy,
        augmenting(seed),
        batch_size=16,
        epochs=1,
        optim=OptimConfig(lr=0.05),
    )
    memory = strategy.parts[2].memory
    draw, forward = memory.draw, run.forward

    def drawn(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        trace.steps[-1]["old"] = draw(n, generator)
        return trace.steps[-1]["old"]

    def forwarded(x: Tensor, task: Tensor | None = None) -> Any:
        out = forward(x, task)
        if trace.steps and "losses" not in trace.steps[-1]:
            trace.steps[-1]["x"], trace.steps[-1]["past"] = x, out
        return out

    memory.draw, run.forward = drawn, forwarded
    run.fit()
    return run, trace


@pytest.mark.parametrize("seed", [0, 1])
def test_every_step(seed: int) -> None:
    run, trace = traced(seed=seed)
    assert trace.steps[0]["losses"] == {}
    for step in trace.steps[1:]:
        batch, out, past, old = step["batch"], step["out"], step["past"], step["old"]
        # Two views of each example, stream and memory in forward passes of their own.
        assert len(batch) == len(out.features) == 32
        assert torch.equal(batch.x[:16], run.normalise(batch.raw[:16]))
        assert torch.equal(batch.raw[:16], batch.raw[16:])
        assert not torch.equal(batch.x[:16], batch.x[16:])
        assert torch.equal(step["x"][:12], run.normalise(old["x"]))
        assert not torch.equal(step["x"][:12], step["x"][12:])
        assert len(past.features) == 24
        z = torch.cat([past.features, out.features]).detach().double()
        y = torch.cat([old["y"], old["y"], batch.y])
        expected = supervised_contrast(z, step["weight"].double(), y, 0.09)
        torch.testing.assert_close(
            step["losses"]["contrast"].detach().double(), expected, rtol=1e-6, atol=2e-6
        )


def test_the_proxies_begin_as_the_linear_head() -> None:
    run = tiny_run(make_strategy("pcr"), tiny_benchmark())
    plain = tiny_run(make_strategy("finetune"), tiny_benchmark())
    assert torch.equal(run.model.head.weight, plain.model.head.weight)
    x = torch.randn((4, 8), generator=torch.Generator().manual_seed(0))
    out = run.forward(x)
    cosine = F.cosine_similarity(out.features.unsqueeze(1), run.model.head.weight.unsqueeze(0), dim=2)
    torch.testing.assert_close(out.logits, cosine / 0.09, rtol=1e-4, atol=1e-4)


def test_an_empty_memory_moves_statistics_only() -> None:
    run = tiny_run(make_strategy("pcr"), tiny_benchmark(experiences=1, examples=16), batch_size=16, epochs=1)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.fit()
    moved = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {f"backbone.2.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")}


@pytest.mark.parametrize("seen_only", [True, False])
def test_unseen_classes_are_out_of_the_question(seen_only: bool) -> None:
    run, _ = traced(seen_only=seen_only)
    proxies = run.strategy.parts[0]
    proxies.seen[4:] = False
    x = run.normalise(run.benchmark.test[2].data.x())
    with torch.no_grad(), run.evaluating():
        scores, plain = run.predict(x, torch.full((len(x),), -1)), run.model(x)
    torch.testing.assert_close(scores[:, :4], plain[:, :4])
    assert bool((scores[:, 4:] == MASKED).all()) == seen_only


def one_by_one(capacity: int, batches: list[list[int]], seed: int) -> list[int]:
    """Fill; afterwards every example draws one of as many slots as examples were seen before its batch."""
    rng, kept, seen = torch.Generator().manual_seed(seed), [], 0
    for batch in batches:
        draws = (
            torch.rand(len(batch), generator=rng, dtype=torch.float64).tolist()
            if seen + len(batch) > capacity
            else []
        )
        before = max(seen, capacity)
        for i, row in enumerate(batch):
            if len(kept) < capacity:
                kept.append(row)
            elif (slot := int(draws[i] * before)) < capacity:
                kept[slot] = row
        seen += len(batch)
    return kept


@pytest.mark.parametrize("batch", [1, 7, 10, 64])
@pytest.mark.parametrize("seed", [0, 1])
def test_memory(batch: int, seed: int) -> None:
    memory, rng = BatchReservoir(20), torch.Generator().manual_seed(seed)
    batches = [rows.tolist() for rows in torch.arange(200).split(batch)]
    for rows in batches:
        memory.add(rng, x=torch.tensor(rows))
    assert memory["x"].tolist() == one_by_one(20, batches, seed)


def test_memory_holds_unaugmented_examples() -> None:
    run, _ = traced()
    known = {row.numpy().tobytes() for exp in run.benchmark.train for row in exp.data.x()}
    assert all(row.numpy().tobytes() in known for row in run.strategy.parts[2].memory["x"])
