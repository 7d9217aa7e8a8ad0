"""HPCR: L = κ(i) L_PCR + [later than the first experience] (α PCD + β SCD)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clbench.strategies.hpcr import cycle, proxy_distillation, sample_contrast, sample_distillation
from torch import Tensor

from clbench import make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.parts import CosineHead, proxy_contrast
from clbench.testing import tiny_benchmark, tiny_run, watch
from clbench.testing.tools import learned, same


def double(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("i", "kappa"), [(0, 0.5625), (125, 1.18125), (250, 1.8), (499, 0.562549), (500, 0.5625)]
)
def test_kappa(i: int, kappa: float) -> None:
    assert cycle(i, 0.5625, 1.8, 500) == pytest.approx(kappa, abs=1e-6)


def test_proxy_distillation_golden() -> None:
    found = proxy_distillation(
        double([(1, 2, 3), (0, 0, 0)]), double([(1, 1, 1), (0, 0, 2)]), torch.tensor([0, 1, 1, 2])
    )
    assert found.item() == 1.25


@pytest.mark.parametrize(("tau", "expected"), [(1.0, 0.7739865846), (0.5, 0.9910433433)])
def test_sample_distillation_golden(tau: float, expected: float) -> None:
    now, stored = double([(1, 0), (0, 1), (1, 1)]), double([(1, 0), (1, 1), (0, 1)])
    assert sample_distillation(now, stored, tau).item() == pytest.approx(expected, abs=1e-6)


def test_sample_distillation_of_unchanged_features_is_their_entropy() -> None:
    now = double([(1, 0), (0, 1), (1, 1)]).requires_grad_()
    found = sample_distillation(now, now.detach(), 1.0)
    assert found.item() == pytest.approx(0.6539474356, abs=1e-6)
    (gradient,) = torch.autograd.grad(found, now)
    assert gradient.abs().max() < 1e-9


def test_sample_contrast_golden() -> None:
    z, w = double([(1, 0), (0, 2), (3, 3)]), double([(2, 0), (0, 1), (-1, 0)])
    found = sample_contrast(z, CosineHead(w, 0.5)(z), torch.tensor([0, 1, 1]), 0.5)
    assert found.item() == pytest.approx(1.1727815350, abs=1e-6)


def rows_of(seed: int, n: int = 10, classes: int = 4, size: int = 6) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    z, stored, w = (torch.randn((k, size), generator=generator, dtype=torch.float64) for k in (n, n, classes))
    return z, stored, w, torch.randint(classes - 1, (n,), generator=generator)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("tau", [0.09, 1.0])
def test_random_rows(seed: int, tau: float) -> None:
    """Each component row by row and entry by entry."""
    z, stored, w, y = rows_of(seed)
    n, unit = len(y), [row / (row.norm() + 1e-6) for row in z]
    old, proxy = [row / (row.norm() + 1e-6) for row in stored], [row / (row.norm() + 1e-6) for row in w]

    pairs = total = 0.0
    for i in range(n):
        terms = [((unit[i] @ unit[j]) / tau, y[j] == y[i]) for j in range(n) if j != i]
        terms += [((unit[i] @ proxy[y[j]]) / tau, y[j] == y[i]) for j in range(n)]
        among = torch.stack([u for u, _ in terms]).logsumexp(0)
        positives = torch.stack([among - u for u, positive in terms if positive])
        assert len(positives) == 2 * int((y == y[i]).sum()) - 1
        pairs += positives.mean() / n
        q = torch.stack([unit[i] @ unit[j] for j in range(n) if j != i]) / tau
        p = torch.stack([old[i] @ old[j] for j in range(n) if j != i]) / tau
        total -= (p.softmax(0) * q.log_softmax(0)).sum() / n
    scores = CosineHead(w, tau)(z).detach()
    torch.testing.assert_close(sample_contrast(z, scores, y, tau), pairs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sample_distillation(z, stored, tau), total, rtol=1e-6, atol=1e-6)

    before = CosineHead(w, tau)(stored).detach()
    expected = sum((scores[r, c] - before[r, c]) ** 2 for r in range(n) for c in y.tolist()) / n / n
    torch.testing.assert_close(proxy_distillation(scores, before, y), expected, rtol=1e-6, atol=1e-6)


def fitted(name: str, lr: float = 0.05, **params: Any) -> tuple[Engine, list[dict[str, Any]]]:
    steps: list[dict[str, Any]] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point == "losses":
            batch, out = arguments
            steps.append(
                {"batch": batch, "out": out, "experience": run.experience, "at": part.__dict__.copy()}
            )
            steps[-1]["losses"] = call()
            return steps[-1]["losses"]
        return call()

    strategy = make_strategy(name, memory=20, draw=12, **params)
    part = strategy.parts[2]
    watch(strategy, probe)
    run = tiny_run(strategy, tiny_benchmark(), batch_size=16, epochs=1, optim=OptimConfig(lr=lr))
    draw, forward = part.memory.draw, run.forward

    def drawn(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        steps[-1]["old"] = draw(n, generator)
        return steps[-1]["old"]

    def forwarded(x: Tensor, task: Tensor | None = None) -> Any:
        out = forward(x, task)
        if steps and "losses" not in steps[-1]:
            steps[-1]["past"] = out
        return out

    part.memory.draw, run.forward = drawn, forwarded
    run.fit()
    return run, steps


@pytest.mark.parametrize("contrast", [False, True])
def test_every_step(contrast: bool) -> None:
    _, steps = fitted("hpcr", alpha=0.3, beta=0.7, period=6, contrast=contrast)
    assert steps[0]["losses"] == {}
    for number, step in enumerate(steps):
        if not number:
            continue
        assert set(step["losses"]) == ({"contrast", "pcd", "scd"} if step["experience"] else {"contrast"})
        old, past, out = step["old"], step["past"], step["out"]
        y_old = torch.cat([old["y"], old["y"]])
        y = torch.cat([y_old, step["batch"].y])
        scores = torch.cat([past.logits, out.logits])
        base = (
            sample_contrast(torch.cat([past.features, out.features]), scores, y, 0.09)
            if contrast
            else proxy_contrast(scores, y)
        )
        kappa = cycle(number % 4, 0.5625, 1.8, 6)  # four steps an experience
        torch.testing.assert_close(step["losses"]["contrast"], kappa * base, rtol=1e-6, atol=1e-6)
        if step["experience"]:
            stored, features = old["logits"].repeat(2, 1), old["features"].repeat(2, 1)
            pcd = 0.3 * proxy_distillation(past.logits, stored, y)
            scd = 0.7 * sample_distillation(past.features, features, 0.09)
            torch.testing.assert_close(step["losses"]["pcd"], pcd, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(step["losses"]["scd"], scd, rtol=1e-6, atol=1e-6)


def test_memory_holds_what_the_model_said_of_the_plain_view() -> None:
    run, steps = fitted("hpcr")
    said = {
        raw.numpy().tobytes(): (logits, features)
        for step in steps
        for raw, logits, features in zip(
            step["batch"].raw[:16], step["out"].logits[:16], step["out"].features[:16], strict=True
        )
    }
    memory = run.strategy.parts[2].memory
    for raw, logits, features in zip(memory["x"], memory["logits"], memory["features"], strict=True):
        expected = said[raw.numpy().tobytes()]
        assert torch.equal(logits, expected[0])
        assert torch.equal(features, expected[1])
    assert memory["logits"].abs().max() <= 1 / 0.09 + 1e-4


def test_without_its_components_it_is_pcr() -> None:
    neutral = {"alpha": 0.0, "beta": 0.0, "kappa_min": 1.0, "kappa_max": 1.0}
    same(learned(fitted("pcr")[0]), learned(fitted("hpcr", **neutral)[0]), "they differ")


def test_a_constant_kappa_scales_the_learning_rate() -> None:
    scaled = fitted("hpcr", lr=0.05, alpha=0.0, beta=0.0, kappa_min=2.0, kappa_max=2.0)[0]
    same(learned(fitted("pcr", lr=0.1)[0]), learned(scaled), "they differ")
