"""Mix-CPT: what is swapped, the divergence, and when the teacher is asked."""

from __future__ import annotations

import pytest
import torch
from clbench.strategies.mix_cpt import swapped, swapped_divergence
from torch.nn import functional as F

from clbench import make_strategy
from clbench.testing import difference, tiny_benchmark, tiny_run, watch


def sines(*shape: int, k: float = 0.0) -> torch.Tensor:
    """sin(1 + 0.7 i + k) for every flat index i."""
    flat = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (1 + 0.7 * flat + k).sin().view(shape)


TEACHER, STUDENT, Y = 2 * sines(5, 6, k=0.3), 2 * sines(5, 6), torch.tensor([0, 2, 5, 1, 3])


def test_golden_values() -> None:
    assert TEACHER.argmax(1).tolist() == [0, 3, 5, 0, 3]
    assert swapped_divergence(STUDENT, TEACHER, Y).item() == pytest.approx(0.096574477972, abs=1e-12)
    plain = F.kl_div(STUDENT.log_softmax(1), TEACHER.softmax(1), reduction="batchmean")
    assert plain.item() == pytest.approx(0.058418140339, abs=1e-12)
    assert swapped_divergence(TEACHER, TEACHER, TEACHER.argmax(1)).item() == 0


def test_the_truth_stands_first_and_the_values_are_kept() -> None:
    found = swapped(TEACHER, Y)
    assert torch.equal(found.argmax(1), Y)
    assert torch.equal(found.sort(1).values, TEACHER.sort(1).values)
    assert [bool(torch.equal(a, b)) for a, b in zip(found, TEACHER, strict=True)] == [
        True,
        False,
        True,
        False,
        True,
    ]
    tied = torch.tensor([[1.0, 1.0, 0.0]])
    assert swapped(tied, torch.tensor([2])).tolist() == [[0.0, 1.0, 1.0]]


def test_tokens_that_do_not_count() -> None:
    """Padding neither counts nor swaps: blocks (B, L) have the mean over their tokens that are labels."""
    y = torch.tensor([[0, 2, -1], [5, 1, 3]])
    student = torch.cat([STUDENT[:2], STUDENT[:1], STUDENT[2:]]).view(2, 3, 6)
    teacher = torch.cat([TEACHER[:2], TEACHER[3:4], TEACHER[2:]]).view(2, 3, 6)
    assert swapped_divergence(student, teacher, y).item() == pytest.approx(0.096574477972, abs=1e-12)
    assert torch.equal(swapped(teacher, y)[0, 2], teacher[0, 2])
    assert swapped_divergence(student, teacher, torch.full_like(y, -1)).item() == 0


def test_one_pass_of_the_teacher_from_the_second_experience_on() -> None:
    losses: list[set[str]] = []

    def probe(point, arguments, call):  # type: ignore[no-untyped-def]
        result = call()
        if point == "losses":
            losses.append(set(result))
        return result

    benchmark = tiny_benchmark(experiences=2)
    run = tiny_run(watch(make_strategy("mix-cpt"), probe), benchmark, epochs=1)
    run.fit()
    assert {"swap"} not in losses[:4]
    assert losses[4:] == [{"fit"}, {"swap"}] * 2
    assert run.forwards == 64 + 2 * 64


def test_a_model_that_comes_trained_distils_at_once() -> None:
    one = tiny_benchmark(experiences=1)
    runs = [
        tiny_run(make_strategy("mix-cpt", pretrained=pretrained), one, epochs=1)
        for pretrained in (False, True)
    ]
    plain = tiny_run(make_strategy("finetune"), one, epochs=1)
    for run in (*runs, plain):
        run.fit()
    weights = [run.model.state_dict() for run in (*runs, plain)]
    assert difference(weights[0], weights[2]) is None
    assert difference(weights[1], weights[2]) is not None
