"""View-Batch Model: L + w / (B (V−1)) Σ_i Σ_{j>1} KL(p_i^1 ‖ p_i^j), V views side by side, equal compute."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from clbench.strategies.view_batch import agreement, groups, label_runs, view_order
from torch import Tensor

from clbench import Batch, ClbenchError, Output, make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.runs.building import build_strategy
from clbench.testing import tiny_benchmark, tiny_run, watch
from clbench.transforms.augment import Transform


def recorded(
    name: str, images: bool = True, batch_size: int = 16, epochs: int = 4, examples: int = 64, **params: Any
) -> tuple[Engine, list[tuple[Batch, Output]], list[dict[str, Tensor]]]:
    """A run, the batch and output of every step, and the losses of the modifier."""
    steps: list[tuple[Batch, Output]] = []
    losses: list[dict[str, Tensor]] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        result = call()
        if point == "losses":
            steps.append(
                (arguments[0], Output(*(t.detach() for t in (arguments[1].logits, arguments[1].features))))
            )
            losses.append({k: v.detach() for k, v in result.items()})
        return result

    given: dict[str, dict[str, Any]] = {"view-batch": params}
    strategy = build_strategy(name, {part: given.get(part, {}) for part in name.split("+")})
    watch(strategy.parts[-1], probe)
    benchmark = tiny_benchmark(images=images, examples=examples)
    run = tiny_run(strategy, benchmark, batch_size=batch_size, epochs=epochs, optim=OptimConfig(lr=0.05))
    run.fit()
    return run, steps, losses


# --- the divergence ---


def pairwise(logits: Tensor, view: Tensor) -> Tensor:
    """The mean over later views of KL(first ‖ later), one pair at a time, in double precision."""
    p = logits.double().softmax(1)
    first, terms = p[0], []
    for row, v in zip(p, view.tolist(), strict=True):
        if v == 0:
            first = row
        else:
            terms.append((first * (first / row).log()).sum())
    return torch.stack(terms).mean() if terms else torch.zeros((), dtype=torch.float64)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([[0.0, 1, 2], [0, 1, 2], [2, 1, 0]], 0.5752103826),
        ([[0.0, 1, 2], [2, 1, 0]], 1.1504207652),
        ([[0.0, 0, 2], [1, 0, 0]], 0.7793650531),  # 0.8403338218 in the other direction
    ],
)
def test_divergence_by_hand(logits: list[list[float]], expected: float) -> None:
    z = torch.tensor(logits)
    value = agreement(z, torch.arange(len(z)), detach=True)
    assert float(value) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [([[0.0, 1, 2], [0, 1, 2], [2, 1, 0]], 0.1917367942), ([[0.0, 0, 2], [1, 0, 0]], 0.2597883510)],
)
def test_released_scale_is_the_mean_over_seen_classes(logits: list[list[float]], expected: float) -> None:
    """Of six classes, those three count whose labels have come."""
    z = torch.cat([torch.tensor(logits), torch.full((len(logits), 3), 5.0)], 1)
    strategy = make_strategy("view-batch", views=len(z), scale="mean")
    run = tiny_run(build_strategy("finetune", {}), tiny_benchmark(), batch_size=2 * len(z))
    strategy.run = run
    strategy.setup(run)
    strategy.seen[:3] = True  # type: ignore[attr-defined]
    n, zeros = len(z), torch.zeros(len(z), dtype=torch.int64)
    batch = Batch(z, zeros, zeros - 1, z, zeros, torch.arange(n), n)
    assert float(strategy.losses(batch, Output(z, z))["views"]) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_divergence_on_random_logits(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = 3 * torch.randn((22, 7), generator=generator)
    view = torch.cat([torch.arange(4).repeat(5), torch.zeros(2, dtype=torch.int64)])
    torch.testing.assert_close(agreement(z, view, True).double(), pairwise(z, view), rtol=1e-5, atol=1e-7)
    runs = label_runs(torch.randint(3, (22,), generator=generator), 4)
    torch.testing.assert_close(agreement(z, runs, True).double(), pairwise(z, runs), rtol=1e-5, atol=1e-7)


def test_gradient_flows_through_later_views_alone() -> None:
    z = torch.randn((8, 5), generator=torch.Generator().manual_seed(0)).requires_grad_()
    view = torch.arange(4).repeat(2)
    (gradient,) = torch.autograd.grad(agreement(z, view, True), z)
    assert not gradient[[0, 4]].any()
    assert gradient[[1, 2, 3, 5, 6, 7]].abs().amax(1).gt(0).all()
    (both,) = torch.autograd.grad(agreement(z, view, False), z)
    assert both[[0, 4]].abs().amax(1).gt(0).all()
    same = z.detach()[:1].expand(8, -1).clone().requires_grad_()
    loss = agreement(same, view, True)
    assert not loss.detach().any()
    assert torch.autograd.grad(loss, same)[0].abs().max() < 1e-7


# --- grouping ---


def scanned(labels: list[int], views: int) -> list[int]:
    """The released scan: a row joins the group above while it has its label and the counter is below V."""
    found, current, counter = [], None, 0
    for y in labels:
        if y == current and counter < views:
            counter += 1
        else:
            current, counter = y, 0
        found.append(counter)
    return found


def test_label_runs() -> None:
    assert label_runs(torch.zeros(8, dtype=torch.int64), 4).tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    for seed in range(5):
        y = torch.randint(2, (60,), generator=torch.Generator().manual_seed(seed)).repeat_interleave(3)
        assert label_runs(y, 4).tolist() == scanned(y.tolist(), 4)


def test_groups() -> None:
    image, view = groups(8, 4, torch.device("cpu"))
    assert (image.tolist(), view.tolist()) == ([0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 2, 3, 0, 1, 2, 3])
    image, view = groups(7, 3, torch.device("cpu"))
    assert (image.tolist(), view.tolist()) == ([0, 0, 0, 1, 1, 1, 2], [0, 1, 2, 0, 1, 2, 0])


# --- the order ---


def test_released_blocks_of_images() -> None:
    """N = 10 000, V = 4, batch 32: 9 984 rows, 2 496 images four times each, disjoint over four passes."""
    pi = torch.randperm(10_000, generator=torch.Generator().manual_seed(0))
    passes = [view_order(pi, 4, turn, 256) for turn in range(4)]
    seen: Counter[int] = Counter()
    for order in passes:
        assert len(order.rows) == 9984
        assert len(order.rows.split(32)) == 312
        counts = Counter(order.rows.tolist())
        assert len(counts) == 2496
        assert set(counts.values()) == {4}
        assert not seen.keys() & counts.keys()
        seen += counts
        for rows in order.rows.split(32):
            assert torch.equal(rows, rows[::4].repeat_interleave(4))
            assert len(rows.unique()) == 8
    assert len(seen) == 9984
    assert torch.equal(
        view_order(torch.arange(700), 4, 3, 256).rows, torch.arange(384, 512).repeat_interleave(4)
    )
    assert len(view_order(torch.arange(200), 4, 0, 256).rows) == 0


@pytest.mark.parametrize("n", [1, 3, 17, 64, 701])
@pytest.mark.parametrize("views", [2, 3, 4])
def test_a_pass_is_as_long_as_without_views(n: int, views: int) -> None:
    """N rows a pass, and each image V times in V passes."""
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    passes = [view_order(shuffled, views, turn, 1) for turn in range(views)]
    assert all(len(order.rows) == n for order in passes)
    total = Counter(row for order in passes for row in order.rows.tolist())
    assert total == Counter(dict.fromkeys(range(n), views))


@pytest.mark.parametrize("views", [2, 4, 8])
def test_equal_compute(views: int) -> None:
    """70 examples in batches of 16: the number of steps, images and forwards of the base."""
    run, *_ = recorded("finetune+view-batch", examples=70, views=views)
    base, *_ = recorded("finetune+view-batch", examples=70, views=1)
    for count in ("step", "updates", "examples", "forwards"):
        assert getattr(run, count) == getattr(base, count)


def test_an_image_comes_again_after_v_passes() -> None:
    _, steps, _ = recorded("finetune+view-batch", epochs=8)
    when: dict[int, list[int]] = {}
    for number, (batch, _) in enumerate(steps[:32]):  # the first experience: 8 passes of 4 steps
        for row in batch.index.tolist():
            when.setdefault(row, []).append(number)
    assert len(when) == 64
    for times in when.values():
        assert len(times) == 8  # two groups of four
        assert len(set(times)) == 2
        assert times[0] < 16 <= times[-1]


def test_order_depends_on_the_experience() -> None:
    _, steps, _ = recorded("finetune+view-batch", epochs=4)
    assert not torch.equal(steps[0][0].index, steps[16][0].index)


def test_a_batch_that_tears_views_apart_is_refused() -> None:
    for batch_size, said in ((32, r"set batch_size=30 or 33\."), (2, r"set batch_size=3\.")):
        strategy = build_strategy("finetune+view-batch", {"view-batch": {"views": 3}})
        with pytest.raises(ClbenchError, match=said):
            tiny_run(strategy, tiny_benchmark(), batch_size=batch_size)


# --- what a step sees ---


def test_loss_of_a_step() -> None:
    _, steps, losses = recorded("er+view-batch", weight=0.7)
    seen: set[int] = set()
    for (batch, out), loss in zip(steps, losses, strict=True):
        seen |= set(batch.y.tolist())
        expected = 0.7 * pairwise(out.logits[:, sorted(seen)], batch.view)
        torch.testing.assert_close(loss["views"].double(), expected, rtol=1e-4, atol=1e-6)


def test_views_of_one_image_stand_side_by_side() -> None:
    """For the stream's and for replayed examples alike; first views are a quarter."""
    _, steps, _ = recorded("er+view-batch")
    for number, (batch, _) in enumerate(steps):
        assert len(batch) == (16 if number == 0 else 16 + min(16, 4 * number))
        assert batch.view.tolist() == [0, 1, 2, 3] * (len(batch) // 4)
        for group in batch.raw.split(4):
            assert torch.equal(group, group[:1].expand_as(group))
        assert batch.replayed.sum() == len(batch) - 16


def test_a_memory_takes_first_views_alone() -> None:
    for name, part in (("er+view-batch", 0), ("derpp+view-batch", 1)):
        run, steps, _ = recorded(name)
        memory = run.strategy.parts[part].memory  # type: ignore[attr-defined]
        assert memory.seen == 3 * 64  # each image once in four passes
        assert len({row.numpy().tobytes() for row in memory["x"]}) == len(
            {r.numpy().tobytes() for b, _ in steps for r in b.raw[:16:4]}
        )
        if name.startswith("derpp"):
            first = torch.cat([out.logits[:16:4] for _, out in steps])
            assert torch.equal(memory["logits"], first)


def test_later_views_are_strong() -> None:
    for strong, changed in (("autoaugment", True), ("noise", True), ("none", False)):
        run, steps, _ = recorded("finetune+view-batch", strong=strong)
        plain = [run.normalise(batch.raw) for batch, _ in steps]
        differs = torch.cat([(b.x != p).flatten(1).any(1) for (b, _), p in zip(steps, plain, strict=True)])
        later = torch.cat([batch.view > 0 for batch, _ in steps])
        assert not differs[~later].any()
        assert differs[later].any() == changed
        if strong == "noise":
            noise = torch.cat([b.x - p for (b, _), p in zip(steps, plain, strict=True)])
            view = torch.cat([batch.view for batch, _ in steps])
            for v in range(1, 4):
                assert noise[view == v].min() >= 0
                assert 0.9 * 0.2 * v / 3 < noise[view == v].max() <= 0.2 * v / 3 + 1e-5


def test_strong_views_are_augmented_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strong view crops its image otherwise than the weak view beside it."""
    benchmark = tiny_benchmark(images=True)
    object.__setattr__(benchmark, "transform", Transform(ops=("crop",), padding=1))
    monkeypatch.setattr("clbench.strategies.view_batch.auto_augment", lambda raw, rng: raw)
    seen: list[Batch] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point == "losses":
            seen.append(arguments[0])
        return call()

    strategy = build_strategy("finetune+view-batch", {})
    watch(strategy.parts[-1], probe)
    tiny_run(strategy, benchmark, batch_size=16, epochs=1).fit()
    distinct = [len(group.flatten(1).unique(dim=0)) for batch in seen for group in batch.x.split(4)]
    assert sum(distinct) / len(distinct) > 2.5  # of nine crops, four draws hold 3.4 on average


def test_released_grouping_marks_rows_by_label() -> None:
    _, steps, losses = recorded("finetune+view-batch", grouping="by_label_run", scale="mean", start=2)
    seen: set[int] = set()
    for number, ((batch, out), loss) in enumerate(zip(steps, losses, strict=True)):
        seen |= set(batch.y.tolist())
        assert batch.view.tolist() == scanned(batch.y.tolist(), 4)
        if number % 16 < 8:  # passes 0 and 1 of every experience
            assert loss == {}
        else:
            expected = pairwise(out.logits[:, sorted(seen)], batch.view) / len(seen)
            torch.testing.assert_close(loss["views"].double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("base", ["finetune", "er", "derpp"])
def test_one_view_is_the_base_to_the_bit(base: str) -> None:
    run, *_ = recorded(f"{base}+view-batch", views=1)
    plain = tiny_run(
        build_strategy(base, {}),
        tiny_benchmark(images=True),
        batch_size=16,
        epochs=4,
        optim=OptimConfig(lr=0.05),
    )
    plain.fit()
    for name, p in plain.model.state_dict().items():
        assert torch.equal(p, run.model.state_dict()[name])
