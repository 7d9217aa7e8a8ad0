"""The reservoir: which rows it keeps, and never more than it may."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats

from clbench.machine import checkpoint
from clbench.memory import Archive, BatchReservoir, Chosen, Reservoir


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filled(capacity: int, offered: int, batch: int = 7, seed: int = 0) -> Reservoir:
    """A reservoir that was offered 0, 1, 2 … in batches."""
    memory, rng = Reservoir(capacity), generator(seed)
    for rows in torch.split(torch.arange(offered), batch):
        memory.add(rng, x=rows)
    return memory


def algorithm_r(capacity: int, offered: int, batch: int, seed: int) -> list[int]:
    """Vitter's algorithm R, one example after another, with the same uniform draws."""
    rng, kept, seen = generator(seed), [], 0
    for start in range(0, offered, batch):
        rows = range(start, min(start + batch, offered))
        still_filling = seen + len(rows) <= capacity
        draws = [] if still_filling else torch.rand(len(rows), generator=rng, dtype=torch.float64).tolist()
        for row, u in itertools.zip_longest(rows, draws):
            if seen < capacity:
                kept.append(row)
            elif (slot := int(u * (seen + 1))) < capacity:
                kept[slot] = row
            seen += 1
    return kept


@pytest.mark.parametrize("capacity", [1, 2, 5, 40])
@pytest.mark.parametrize("batch", [1, 3, 16, 100])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_sequential_algorithm_r(capacity: int, batch: int, seed: int) -> None:
    """Slot for slot; with small stores and large batches, rows of one batch fight for slots."""
    assert filled(capacity, 200, batch, seed)["x"].tolist() == algorithm_r(capacity, 200, batch, seed)


@pytest.mark.parametrize("batch", [8, 50])
def test_every_example_is_kept_with_the_same_probability(batch: int) -> None:
    counts = torch.zeros(120)
    for seed in range(1000):
        counts[filled(12, 120, batch, seed)["x"]] += 1
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


def test_fills_in_order_of_arrival() -> None:
    assert filled(10, 8, batch=3)["x"].tolist() == list(range(8))


@pytest.mark.parametrize("offered", [0, 1, 9, 10, 11, 300])
def test_never_holds_more_than_its_capacity(offered: int) -> None:
    memory = filled(10, offered)
    held = [len(rows) for rows in memory.state_dict()["columns"].values()]
    assert (len(memory), held) == (min(offered, 10), [min(offered, 10)] * len(held))


def test_counts_what_it_was_offered() -> None:
    assert filled(10, 33).seen == 33


def test_a_capacity_of_zero_keeps_nothing() -> None:
    memory = filled(0, 20)
    assert (len(memory), memory.nbytes, len(memory.draw(5, generator())["x"])) == (0, 0, 0)


def test_a_negative_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or more; -1 was given"):
        Reservoir(-1)


def test_columns_stay_row_for_row() -> None:
    memory, rng = Reservoir(10), generator()
    for rows in torch.split(torch.arange(100), 8):
        memory.add(rng, x=rows, y=-rows, z=rows[:, None].float() * torch.ones(3))
    drawn = memory.draw(10, rng)
    assert torch.equal(drawn["x"], -drawn["y"])
    assert torch.equal(drawn["x"].float(), drawn["z"][:, 1])


def test_a_draw_is_without_replacement_and_of_what_is_held() -> None:
    memory = filled(50, 20)
    assert sorted(memory.draw(20, generator())["x"].tolist()) == list(range(20))


@pytest.mark.parametrize(("asked", "got"), [(3, 3), (20, 20), (99, 20)])
def test_a_draw_is_no_larger_than_what_is_held(asked: int, got: int) -> None:
    assert len(filled(50, 20).draw(asked, generator())["x"]) == got


def test_draws_are_uniform() -> None:
    memory, rng = filled(20, 20), generator()
    counts = torch.zeros(20)
    for _ in range(2000):
        counts[memory.draw(5, rng)["x"]] += 1
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


def test_a_draw_is_a_copy() -> None:
    memory = filled(10, 10)
    memory.draw(10, generator())["x"].zero_()
    assert memory["x"].tolist() == list(range(10))


def test_keeps_values_not_references() -> None:
    memory, rows = Reservoir(4), torch.arange(4)
    memory.add(generator(), x=rows)
    rows.zero_()
    assert memory["x"].tolist() == [0, 1, 2, 3]


def test_keeps_no_graph() -> None:
    memory = Reservoir(4)
    for _ in range(2):  # while filling, and afterwards
        memory.add(generator(), z=torch.ones((4, 2), requires_grad=True) * 2)
    assert not memory["z"].requires_grad


@pytest.mark.parametrize("offered", [0, 5, 60])
def test_continues_from_its_state(offered: int) -> None:
    memory = filled(10, offered)
    again = Reservoir(10)
    again.load_state_dict(checkpoint.clone(memory.state_dict()))
    for one in (memory, again):
        one.add(generator(3), x=torch.arange(1000, 1040))
    assert torch.equal(memory["x"], again["x"])


def test_bytes_are_those_of_the_rows_it_may_hold() -> None:
    memory = Reservoir(10)
    memory.add(generator(), x=torch.zeros((3, 2, 2), dtype=torch.uint8), y=torch.zeros(3, dtype=torch.int64))
    assert memory.nbytes == 10 * (4 + 8)


@pytest.mark.parametrize("offered", [0, 4, 10, 25])
def test_an_archive_keeps_the_first(offered: int) -> None:
    memory = Archive(10)
    for rows in torch.split(torch.arange(offered), 4):
        memory.add(x=rows)
        assert len(memory) <= 10
    if offered:
        assert memory["x"].tolist() == list(range(min(offered, 10)))
    again = Archive(10)
    again.load_state_dict(checkpoint.clone(memory.state_dict()))
    assert len(again) == len(memory) == min(offered, 10)


@pytest.mark.parametrize("kind", [Reservoir, BatchReservoir])
def test_room_grows_with_what_comes_and_changes_nothing(kind: type[Reservoir]) -> None:
    """A capacity beyond all that comes costs no more than twice what is held; one that is reached is all there is."""
    memory, rng = kind(10**9), generator()
    for rows in torch.arange(1000).split(7):
        memory.add(rng, x=rows)
    assert memory["x"].tolist() == list(range(1000))
    assert 1001 <= len(memory._columns["x"]) <= 2001
    assert memory.nbytes == 8 * 10**9
    assert len(filled(40, 1000)._columns["x"]) == 41


def test_what_is_chosen_and_archived_needs_no_more_room_than_it_takes() -> None:
    chosen, archive = Chosen(10**9), Archive(10**9)
    for n in (5, 3, 20):
        chosen.keep(x=torch.arange(n))
        archive.add(x=torch.arange(n))
        assert chosen["x"].tolist() == list(range(n))
    assert archive["x"].tolist() == [*range(5), *range(3), *range(20)]
    assert max(len(memory._columns["x"]) for memory in (chosen, archive)) <= 60
