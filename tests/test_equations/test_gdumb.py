"""GDumb: a greedily balanced memory, and a network trained from its first weights on nothing else."""

from __future__ import annotations

import random

import pytest
import torch
from clbench.strategies.gdumb import cut_and_paste, greedy_balance, warm_restarts
from torch import nn
from torch.nn import functional as F

from clbench import make_strategy
from clbench.engine.engine import Engine
from clbench.errors import DivergedError, IncompatibleError
from clbench.testing import tiny_benchmark, tiny_run


def classes_kept(
    held: list[int], offered: list[int], capacity: int, seen: list[int], seed: int = 0
) -> list[int]:
    kept = greedy_balance(held, offered, capacity, seen, random.Random(seed))
    assert kept == sorted(set(kept))
    return [(held + offered)[i] for i in kept]


def test_a_class_alone_fills_the_memory_with_its_first_examples() -> None:
    assert greedy_balance([], [3] * 9, 4, [], random.Random(0)) == [0, 1, 2, 3]


def test_new_classes_push_out_of_the_largest_one() -> None:
    """4 | 0: [0 0 0 0] → 1 enters, 3|1; next 1: 1 < 4/2 → 2|2; next 1: 2 is not < 2. Then 2: of 0, the older, 1|2|1."""
    assert classes_kept([], [0, 0, 0, 0, 1, 1, 1], 4, []) == [0, 0, 1, 1]
    assert classes_kept([0, 0, 1, 1], [2], 4, [0, 1]) == [0, 1, 1, 2]
    # 4/3: 2 has 1 < 4/3 and enters again, now for one of class 1
    assert classes_kept([0, 0, 1, 1], [2, 2, 2], 4, [0, 1]) == [0, 1, 2, 2]


def test_the_one_that_leaves_is_drawn_uniformly() -> None:
    left = [greedy_balance([0] * 4, [1], 4, [0], random.Random(seed)) for seed in range(400)]
    gone = torch.tensor([next(i for i in range(4) if i not in kept) for kept in left])
    counts = torch.bincount(gone, minlength=4).float()
    assert ((counts - 100).square() / 100).sum() < 16.3  # χ² with 3 degrees of freedom, 1 in 1,000


def test_against_the_algorithm_example_by_example() -> None:
    rng = random.Random(7)
    for _ in range(50):
        capacity, offered = rng.randrange(1, 12), [rng.randrange(5) for _ in range(40)]
        count: dict[int, int] = {}
        for y in offered:
            if y not in count or count[y] < capacity / len(count):
                count.setdefault(y, 0)
                if sum(count.values()) >= capacity:
                    largest = max(count, key=lambda c: count[c])
                    count[largest] -= 1
                count[y] += 1
        found = classes_kept([], offered, capacity, [])
        assert {c: found.count(c) for c in count} == count


def test_no_room_at_all() -> None:
    assert greedy_balance([], [0, 1], 0, [], random.Random(0)) == []


def test_learning_rates_are_those_of_torch() -> None:
    """A tenth in pass 0, the highest in 1, and from 2 on torch's own warm restarts (T₀ = 1, doubling)."""
    parameter = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=0.05)
    torch_schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 1, 2, 0.0005)
    assert warm_restarts(0, 0.05, 0.0005) == pytest.approx(0.005)
    for epoch in range(1, 64):
        assert warm_restarts(epoch, 0.05, 0.0005) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        torch_schedule.step()


def test_a_box_is_pasted_and_its_share_is_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(6)
    x = y.float()[:, None, None, None].expand(6, 2, 9, 7).clone()  # every image is its own label
    shares = []
    for _ in range(60):
        mixed, pasted, share = cut_and_paste(x, y, 1.0, generator)
        foreign = mixed != x
        own = pasted == y
        assert torch.equal(mixed[foreign], pasted.float()[:, None, None, None].expand_as(x)[foreign])
        assert not foreign[own].any()
        for row in foreign[~own]:
            assert row.float().mean().item() == pytest.approx(1 - share.item(), abs=1e-6)
            inside = row[0].nonzero()
            if len(inside):  # a full rectangle
                high, wide = (inside.max(0).values - inside.min(0).values + 1).tolist()
                assert len(inside) == high * wide
        shares.append(share.item())
    assert min(shares) < 0.5 < max(shares)
    untouched, _, share = cut_and_paste(x, y, 0.0, generator)
    assert torch.equal(untouched, x)
    assert share == 1


def test_the_stream_itself_teaches_nothing() -> None:
    run = tiny_run(make_strategy("gdumb", memory=20, passes=1), tiny_benchmark(), epochs=2)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    seen: list[bool] = []
    end = run.points.end_experience[0]

    def at_the_end(exp: object) -> None:
        if not seen:
            seen.append(all(torch.equal(p, before[name]) for name, p in run.model.named_parameters()))
            assert run.updates == run.forwards == 0
        end(exp)

    run.points.end_experience[0] = at_the_end
    run.fit()
    assert seen == [True]


def test_training_is_plain_sgd_on_the_memory_from_the_first_weights() -> None:
    """By hand: same order, same schedule, torch's SGD, clipping at 10."""

    def fresh() -> Engine:
        return tiny_run(make_strategy("gdumb", memory=24, passes=4, mini_batch=10), tiny_benchmark())

    run, again = fresh(), fresh()
    run.fit()
    memory, model, rng = run.strategy.memory, again.model, again.rng("replay")  # type: ignore[attr-defined]
    experiences = len(run.train)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-6)
    for _ in range((experiences - 1) * 4):
        torch.randperm(24, generator=rng)
    for epoch in range(4):
        optimizer.param_groups[0]["lr"] = warm_restarts(epoch, 0.05, 0.0005)
        for rows in torch.randperm(24, generator=rng).split(10):
            loss = F.cross_entropy(model(run.normalise(memory["x"][rows])), memory["y"][rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
    for name, wanted in model.state_dict().items():
        assert torch.allclose(run.model.state_dict()[name], wanted, atol=1e-6), name
    assert run.updates == experiences * 4 * 3
    assert run.forwards == experiences * 4 * 24


def test_divergence_is_noticed() -> None:
    run = tiny_run(make_strategy("gdumb", memory=24, passes=3, lr=1e30), tiny_benchmark())
    with pytest.raises(DivergedError):
        run.fit()


def test_cutmix_wants_images() -> None:
    with pytest.raises(IncompatibleError, match="Set cutmix=0"):
        tiny_run(make_strategy("gdumb", cutmix=0.5), tiny_benchmark())
