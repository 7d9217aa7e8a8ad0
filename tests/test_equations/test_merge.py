"""Merging: TIES on the numbers of the authors' code, and what experiences leave by each way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clbench.strategies.merge import ties, trimmed
from torch import Tensor

from clbench import Experience, Strategy, chain, make_strategy
from clbench.errors import IncompatibleError
from clbench.parts import as_vector
from clbench.testing import tiny_benchmark, tiny_run


def sines(n: int, k: float = 0.0) -> Tensor:
    return torch.sin(1 + k + 0.7 * torch.arange(n, dtype=torch.float64))


VECTORS = torch.stack([sines(10), sines(10, 0.9), -sines(10, 2.2)])
OF_3 = "0.94630009 0.99166481 0.99369100 0 -0.99992326 -0.97753012 -0.89108138 -0.96988981 0 0.94073056"
OF_5 = (
    "0.89388554 0.83971548 0.99369100 0.83226744 -0.99992326 -0.87514730 -0.89108138 -0.96988981 0.93799998 "
    "0.89558359"
)


def numbers(text: str) -> Tensor:
    return torch.tensor([float(n) for n in text.split()], dtype=torch.float64)


@pytest.mark.parametrize(("keep", "expected"), [(0.2, OF_3), (0.4, OF_5)])
def test_ties_of_the_reference(keep: float, expected: str) -> None:
    torch.testing.assert_close(ties(VECTORS, keep), numbers(expected), rtol=0, atol=6e-9)


def test_sums_and_largest_entries_of_the_reference() -> None:
    for combine, value in (("sum", -1.78216275), ("max", -0.89870810)):
        expected = numbers(OF_3)
        expected[6] = value
        torch.testing.assert_close(ties(VECTORS, 0.2, combine), expected, rtol=0, atol=6e-9)  # type: ignore[arg-type]


def test_one_entry_more_than_the_share_is_kept_and_all_of_a_whole() -> None:
    assert (trimmed(VECTORS, 0.2) != 0).sum(1).tolist() == [3, 3, 3]
    assert torch.equal(trimmed(VECTORS, 1.0), VECTORS)


def test_where_signs_cancel_the_majority_of_entries_elects() -> None:
    vectors = torch.tensor([[1.0, -2.0, 3.0, -1.0], [-1.0, -2.0, -1.0, -1.0]])
    assert ties(vectors, 1.0).tolist() == [-1.0, -2.0, 3.0, -1.0]


def test_of_equal_vectors_the_mean_is_the_trimmed_one_and_order_does_not_matter() -> None:
    torch.testing.assert_close(ties(VECTORS[[0, 0, 0]], 0.4), trimmed(VECTORS[:1], 0.4)[0])
    assert torch.equal(ties(VECTORS[[2, 0, 1]], 0.4, "max"), ties(VECTORS, 0.4, "max"))


class Ends(Strategy):
    """What experiences begin with, have learned and leave; `before` stands before `merge` in a chain, and sees what it
    has not changed yet."""

    def __init__(self) -> None:
        self.begun: list[Tensor] = []
        self.ended: list[Tensor] = []

    def weights(self) -> Tensor:
        return as_vector([p.detach() for n, p in self.run.parameters().items() if not n.startswith("head")])

    def begin_experience(self, exp: Experience) -> None:
        self.begun.append(self.weights().clone())

    def end_experience(self, exp: Experience) -> None:
        self.ended.append(self.weights().clone())


def ends(**params: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """θ that experiences begin with, θ_t, θ̄_t."""
    before, after = Ends(), Ends()
    parts = make_strategy("finetune"), before, make_strategy("merge", **params).parts[-1], after
    tiny_run(chain(*parts), tiny_benchmark(), epochs=1).fit()
    return after.begun, before.ended, after.ended


def test_the_average_of_all_so_far_begins_the_next_one() -> None:
    begun, learned, left = ends(how="average")
    for n in range(3):
        torch.testing.assert_close(left[n], torch.stack(learned[: n + 1]).mean(0))
    assert torch.equal(left[0], learned[0])
    assert torch.equal(begun[2], left[1])


def test_from_the_origin_each_begins_with_the_same() -> None:
    begun, learned, left = ends(how="arithmetic", start="origin", scale=0.4)
    assert all(torch.equal(b, begun[0]) for b in begun)
    torch.testing.assert_close(left[2], begun[0] + 0.4 * sum(w - begun[0] for w in learned))


def test_the_moving_average() -> None:
    _, learned, left = ends(how="ema", rate=0.25)
    assert torch.equal(left[0], learned[0])
    torch.testing.assert_close(left[1], 0.75 * learned[0] + 0.25 * learned[1])


def test_ties_merges_what_each_has_changed() -> None:
    begun, learned, left = ends(how="ties", scale=0.5)
    vectors = torch.stack([a - b for a, b in zip(learned, begun, strict=True)])
    torch.testing.assert_close(left[2], begun[0] + 0.5 * ties(vectors, 0.2))


@pytest.mark.parametrize("start", ["origin", "merged"])
def test_arithmetic_of_scale_1_leaves_one_experience_as_it_is_and_of_scale_0_the_origin(start: str) -> None:
    _, learned, left = ends(how="arithmetic", start=start)
    assert torch.equal(left[0], learned[0])
    begun, _, left = ends(how="arithmetic", start=start, scale=0.0)
    assert torch.equal(left[2], begun[0])


def test_without_a_trained_encoder_nothing_can_be_merged() -> None:
    with pytest.raises(IncompatibleError, match="group 'encoder'"):
        tiny_run(make_strategy("linear-probe+merge"), tiny_benchmark())
