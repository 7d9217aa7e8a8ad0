"""Replay of a share of every batch: how many rows are old in each, which ones, and that nothing is added."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from clbench.strategies.replay_fraction import in_turn
from torch.nn import functional as F

from clbench import Batch, Benchmark, make_strategy
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.parts import exact, nearest
from clbench.testing import tiny_benchmark, tiny_run, watch

Rows = list[tuple[float, ...]]


def seen(benchmark: Benchmark, batch_size: int = 20, epochs: int = 1, **params: Any) -> tuple[Engine, Any]:
    """A run to its end, and of every step: the experience, the new rows and the old ones."""
    steps: list[tuple[int, Rows, Rows]] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        result = call()
        if point == "losses":
            batch: Batch = arguments[0]
            torch.testing.assert_close(result["fit"], F.cross_entropy(arguments[1].logits, batch.y))
            rows = [tuple(row) for row in batch.raw.tolist()]
            assert bool((batch.index[batch.new :] == -1).all())
            steps.append((run.experience, rows[: batch.new], rows[batch.new :]))
        return result

    strategy = watch(make_strategy("replay-fraction", **params), probe)
    run = tiny_run(strategy, benchmark, batch_size=batch_size, epochs=epochs)
    run.fit()
    return run, steps


def learned(steps: Any, experience: int) -> Rows:
    return [row for e, new, _ in steps if e == experience for row in new]


def replayed(steps: Any, experience: int) -> Rows:
    return [row for e, _, old in steps if e == experience for row in old]


def test_five_per_cent_of_twenty_rows_is_one_in_every_batch() -> None:
    run, steps = seen(tiny_benchmark(experiences=2, examples=1000), share=0.05)
    assert run.step == run.updates == 100
    assert [len(old) for e, _, old in steps if e == 1] == [1] * 50
    assert all(len(new) + len(old) == 20 for _, new, old in steps)
    assert not replayed(steps, 0)
    assert replayed(steps, 1) == learned(steps, 0)[:50]  # in the order in which they were learned
    assert run.examples == 1000 + 950
    assert len(run.strategy.parts[0].memory) == 50  # type: ignore[attr-defined]


def test_stored_order() -> None:
    benchmark = tiny_benchmark(experiences=2, examples=100)
    _, steps = seen(benchmark, share=0.25, order="stored")
    assert replayed(steps, 1) == [tuple(row) for row in benchmark.train[0].data.x()[:25].tolist()]


@pytest.mark.parametrize("share", [0.01, 0.07, 0.29, 0.5])
def test_what_is_no_whole_number_is_carried(share: float) -> None:
    run, steps = seen(tiny_benchmark(experiences=2, examples=250), batch_size=16, epochs=2, share=share)
    rows = old = 0
    for e, new, again in steps:
        if e:
            rows, old = rows + len(new) + len(again), old + len(again)
            assert abs(old - share * rows) <= 0.5
            if len(new) + len(again) == 16:
                assert len(again) in (int(share * 16), int(share * 16) + 1)
    assert rows == 500
    assert run.examples == 1000 - old


def test_rows_read_on_and_begin_again_at_the_end() -> None:
    """The third experience goes on where the second stopped; a memory that is too small is read from the start."""
    _, steps = seen(tiny_benchmark(examples=60), epochs=2, share=0.5)
    first = learned(steps, 0)[:60]
    assert replayed(steps, 1) == first
    third = replayed(steps, 2)  # 60 old rows, from two experiences in turn
    assert third[0::2] == first[:30]
    assert set(third[1::2]) <= set(learned(steps, 1))
    _, steps = seen(tiny_benchmark(experiences=2, examples=60), share=0.5, memory=7)
    kept = learned(steps, 0)[:7]
    assert replayed(steps, 1) == [kept[k % 7] for k in range(30)]


def test_turns_follow_the_weights() -> None:
    assert in_turn(6, [3, 3], [1.0, 1.0], [0, 2]).tolist() == [0, 5, 1, 3, 2, 4]
    assert in_turn(4, [2, 9], [1.0, 3.0], [0, 0]).tolist() == [2, 0, 3, 4]
    assert in_turn(3, [0, 2, 5], [1.0, 1.0, 0.0], [0, 0, 0]).tolist() == [0, 1, 0]
    assert in_turn(3, [0, 0], [1.0, 1.0], [0, 0]).tolist() == in_turn(3, [], [], []).tolist() == []
    taken = Counter((in_turn(1000, [10] * 4, [1.0, 2.0, 3.0, 4.0], [0] * 4) // 10).tolist())
    assert taken == {0: 100, 1: 200, 2: 300, 3: 400}


def test_weights_share_what_is_old() -> None:
    benchmark = tiny_benchmark(experiences=3, examples=80)
    _, steps = seen(benchmark, share=0.5, mixture=(3.0, 1.0))
    first, third = set(learned(steps, 0)), replayed(steps, 2)
    assert len(third) == 40
    assert sum(row in first for row in third) == 30
    with pytest.raises(IncompatibleError, match=r"has 3 weights for the 2 experiences .*mixture=null"):
        tiny_run(make_strategy("replay-fraction", mixture=(1.0, 1.0, 1.0)), benchmark)
    with pytest.raises(IncompatibleError, match="gives none to any experience"):
        tiny_run(make_strategy("replay-fraction", mixture=(0.0, 0.0)), benchmark)


def test_shares_are_what_is_written() -> None:
    assert nearest(exact(0.29), 100) == 29
    assert nearest(exact(0.1), 5) == 1
    assert nearest(exact(0.1), 4) == 0


def test_a_setting_grants_the_memory() -> None:
    run, _ = seen(tiny_benchmark(examples=60, memory=9), share=0.5)
    assert [part.memory.capacity for part in run.strategy.parts[:1]] == [9]  # type: ignore[attr-defined]
    with pytest.raises(IncompatibleError, match="would keep 50 examples"):
        tiny_run(
            make_strategy("replay-fraction", share=0.5, memory=50), tiny_benchmark(experiences=2, memory=9)
        )
