"""CMO: a box of images drawn by inverse class frequency is pasted into the batch, and labels are mixed by area."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from clbench.strategies.cmo import Mix
from torch.nn import functional as F

from clbench import make_strategy
from clbench.errors import ConfigError
from clbench.parts import box
from clbench.strategy import Strategy
from clbench.testing import tiny_run, watch
from clbench.types import Benchmark


def test_the_box_is_cutmix() -> None:
    """Side int(W √(1 − λ)), halves int(side / 2) about the centre, clipped; λ' = 1 − area / (W H)."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        height, width = torch.randint(1, 40, (2,), generator=generator).tolist()
        share = torch.rand((), generator=generator)
        centre = torch.stack([torch.randint(n, (), generator=generator) for n in (height, width)])
        inside, left = box((height, width), share, centre)
        cut = math.sqrt(1 - share.item())
        spans = [
            np.clip([int(c) - int(n * cut) // 2, int(c) + int(n * cut) // 2], 0, n)
            for n, c in zip((height, width), centre, strict=True)
        ]
        expected = torch.zeros(height, width, dtype=torch.bool)
        expected[spans[0][0] : spans[0][1], spans[1][0] : spans[1][1]] = True
        assert torch.equal(inside, expected)
        assert left.item() == pytest.approx(1 - expected.float().mean().item(), abs=1e-6)


def test_of_a_vector_a_run_is_taken() -> None:
    inside, left = box((10,), torch.tensor(0.5), torch.tensor([5]))
    assert inside.nonzero().flatten().tolist() == [3, 4, 5, 6]
    assert left.item() == pytest.approx(0.6)


def _batches(
    strategy: Strategy, benchmark: Benchmark, epochs: int = 4
) -> list[tuple[int, int, object, object, Mix]]:
    """Experience, pass, and the batch before and after mixing, of every step."""
    seen = []

    def look(point, arguments, call):  # type: ignore[no-untyped-def]
        result = call()
        if point == "extend":
            seen.append((run.experience, run.epoch, arguments[0], result, mix._active))
        return result

    run = tiny_run(watch(strategy, look), benchmark, epochs=epochs)
    mix = next(part for part in strategy.parts if isinstance(part, Mix))
    run.fit()
    return seen


def test_when_batches_are_mixed(few_shot_benchmark: Callable[..., Benchmark]) -> None:
    strategy = make_strategy("joint+cmo", probability=1.0, start=1, end=1)
    seen = _batches(strategy, few_shot_benchmark(images=True), epochs=6)
    active = {(experience, epoch) for experience, epoch, _, _, on in seen if on}
    assert active == {(experience, epoch) for experience in (1, 2) for epoch in (2, 3, 4)}
    assert all((a.x is b.x) or torch.equal(a.x, b.x) for _, _, a, b, on in seen if not on)
    changed = [not torch.equal(a.x, b.x) for _, _, a, b, on in seen if on]
    assert sum(changed) > len(changed) / 2
    assert all(torch.equal(a.y, b.y) for _, _, a, b, _ in seen)


def test_foregrounds_are_drawn_by_inverse_class_frequency(
    few_shot_benchmark: Callable[..., Benchmark],
) -> None:
    run = tiny_run(make_strategy("joint+cmo"), few_shot_benchmark(images=True))
    mix = next(part for part in run.strategy.parts if isinstance(part, Mix))
    run.place.experience = 2
    _, y = mix._draw(8000)
    shares = torch.bincount(y, minlength=8) / 8000
    assert shares.tolist() == pytest.approx([1 / 8] * 8, abs=0.02)  # 24 of each base class, 3 of each other
    mix.power = 0.0
    mix.begin_experience(run.train[2])
    _, y = mix._draw(8000)
    shares = torch.bincount(y, minlength=8) / 8000
    assert shares.tolist() == pytest.approx([24 / 108] * 4 + [3 / 108] * 4, abs=0.02)


@pytest.mark.parametrize("also", ["", "+balanced-softmax", "+ldam-drw"])
def test_the_loss_is_mixed_by_area(also: str, few_shot_benchmark: Callable[..., Benchmark]) -> None:
    """λ L(y) + (1 − λ) L(y'), with what is left of a row's own image as λ."""
    run = tiny_run(
        make_strategy(f"joint+cmo{also}", cmo__probability=1.0, cmo__start=-1, cmo__end=0),
        few_shot_benchmark(images=True),
    )
    mix = next(part for part in run.strategy.parts if isinstance(part, Mix))
    loss = run.points.losing[0]
    run.place.experience, run._steps = 2, 8
    for part in run.strategy.parts:
        part.begin_experience(run.train[2])
    raw, y = run.train[2].data.take(torch.arange(0, 108, 9))
    from clbench import Batch

    zeros = torch.zeros_like(y)
    batch = mix.extend(Batch(run.normalise(raw), y, zeros - 1, raw, zeros, zeros, len(y)))
    out = run.forward(batch.x)
    other, share = mix._other, float(mix.share)
    assert 0 <= share < 1

    def of(labels: torch.Tensor) -> float:
        z = out.logits.detach().double()
        if also == "+balanced-softmax":
            z = z + torch.tensor([24] * 4 + [3] * 4).double().log()
        if also == "+ldam-drw":
            m = torch.tensor([24] * 4 + [3] * 4).double() ** -0.25
            z = 30 * (z - F.one_hot(labels, 8) * 0.5 * m / m.max())
        return float(F.cross_entropy(z, labels))

    expected = share * of(y) + (1 - share) * of(other)
    assert loss.losses(batch, out)["fit"].item() == pytest.approx(expected, rel=1e-5)


def test_without_probability_it_is_nothing() -> None:
    assert type(make_strategy("cmo", probability=0.0)) is Strategy
    with pytest.raises(ConfigError, match=r"'probability' takes a number from 0 to 1; 1\.5 was given"):
        make_strategy("cmo", probability=1.5)
