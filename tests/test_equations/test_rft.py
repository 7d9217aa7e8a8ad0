"""Reinforcement fine-tuning: advantages, the policy gradient, and which rows are informative."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from clbench.strategies.rft import PolicyGradient, advantages
from torch import Tensor
from torch.nn import functional as F

from clbench import make_strategy
from clbench.testing import difference, tiny_benchmark, tiny_run, watch


def of(*rewards: float) -> Tensor:
    return torch.tensor([rewards], dtype=torch.float64)


@pytest.mark.parametrize(
    ("rewards", "eps", "deviation", "expected"),
    [
        ((1, 1, 1, 1), 1e-4, "population", (0, 0, 0, 0)),
        ((1, 1, 1, 1), 0.0, "sample", (0, 0, 0, 0)),
        ((1, 0, 0, 0), 0.0, "population", (1.7321, -0.5774, -0.5774, -0.5774)),
        ((1, 0, 0, 0), 1e-4, "population", (1.7317, -0.5772, -0.5772, -0.5772)),
        ((1, 0, 0, 0), 0.0, "sample", (1.5, -0.5, -0.5, -0.5)),
        ((1, 0, 0, 0), 1e-4, "sample", (1.4997, -0.4999, -0.4999, -0.4999)),
        ((1, 1, 0, 0), 0.0, "population", (1, 1, -1, -1)),
        ((1, 1, 0, 0), 0.0, "sample", (0.8660, 0.8660, -0.8660, -0.8660)),
        ((1,), 1e-4, "sample", (0,)),
    ],
)
def test_golden_advantages(rewards: Any, eps: float, deviation: Any, expected: Any) -> None:
    found = advantages(of(*rewards), eps, deviation)
    assert found[0].tolist() == pytest.approx(expected, abs=5e-5)
    assert found.sum().item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("p", "chance"), [(0.01, 0.0773), (0.05, 0.3366), (0.1, 0.5695), (0.3, 0.9423), (0.5, 0.9922)]
)
def test_a_row_is_informative_where_its_rewards_differ(p: float, chance: float) -> None:
    part = PolicyGradient(8, 1e-4, "population", 0.0, 1.0, False)
    logits = torch.tensor([[math.log(p), math.log(1 - p)]]).expand(20000, 2)
    rewards = (part.draw(logits, torch.Generator().manual_seed(0)) == 0).double()
    moved = (advantages(rewards, 1e-4) != 0).any(1).double().mean().item()
    assert moved == pytest.approx(chance, abs=0.015)
    assert rewards.var(1, correction=0).mean().item() == pytest.approx(p * (1 - p) * 7 / 8, rel=0.1)


def test_answers_follow_the_temperature() -> None:
    part = PolicyGradient(4, 0.0, "population", 0.0, 2.0, False)
    p = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    answers = part.draw(2 * p.log().expand(20000, 6), torch.Generator().manual_seed(0))
    shares = torch.bincount(answers.flatten(), minlength=6) / answers.numel()
    torch.testing.assert_close(shares, p, atol=0.01, rtol=0)
    assert shares[p == 0].sum() == 0


def test_losses() -> None:
    """−mean A ∇ ln π, of answers that are drawn anew, and the divergence from the last model."""
    seen: list[Any] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        rng = run.rng("rollouts")
        state = rng.get_state()
        result = call()
        if point == "losses" and run.experience == 1 and not seen:
            batch, out = arguments
            after, logits = rng.get_state(), out.logits
            rng.set_state(state)
            answers = run.strategy.parts[0].draw(logits, rng)  # type: ignore[attr-defined]
            rng.set_state(after)
            log_pi = logits.log_softmax(1)
            gains = advantages((answers == batch.y[:, None]).float(), 1e-4)
            expected = -(gains * log_pi.gather(1, answers)).mean()
            (found,) = torch.autograd.grad(result["policy"], logits, retain_graph=True)
            (wanted,) = torch.autograd.grad(expected, logits, retain_graph=True)
            torch.testing.assert_close(found, wanted)
            reference = run.strategy.parts[-1].output(batch).logits.log_softmax(1)  # type: ignore[attr-defined]
            kl = F.kl_div(reference, log_pi, reduction="batchmean", log_target=True)
            torch.testing.assert_close(result["kl"], 0.5 * kl)
            seen.append(True)
        return result

    benchmark = tiny_benchmark(shift="domain", experiences=2)
    run = tiny_run(watch(make_strategy("rft", rollouts=4, kl=0.5), probe), benchmark, epochs=1)
    run.fit()
    assert seen


def test_what_is_always_right_does_not_move() -> None:
    """Where p is 1 in float32, no answer is wrong, and the weights stay."""
    benchmark = tiny_benchmark(shift="domain", experiences=1)
    run = tiny_run(make_strategy("rft", first="reinforced"), benchmark, epochs=1)
    with torch.no_grad():
        run.model.head.weight.zero_()  # type: ignore[union-attr]
        run.model.head.bias.copy_(torch.tensor([200.0, 0.0]))  # type: ignore[union-attr]
    before = {name: p.detach().clone() for name, p in run.parameters().items()}
    run.fit()
    assert difference(before, {name: p.detach() for name, p in run.parameters().items()}) is None


def test_the_filter_keeps_rows_with_a_right_answer() -> None:
    benchmark = tiny_benchmark(shift="domain", experiences=2)
    trained: dict[int, set[int]] = {0: set(), 1: set()}

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point == "losses":
            trained[run.experience] |= set(arguments[0].index.tolist())
        return call()

    run = tiny_run(watch(make_strategy("rft", filter=True, rollouts=1), probe), benchmark, batch_size=8)
    run.fit()
    assert run.step == 2 * 2 * 8  # as many steps as without
    kept = set(run.strategy.parts[1].rows.tolist())  # type: ignore[attr-defined]
    assert trained == {0: set(range(64)), 1: kept}
    assert 0 < len(kept) < 64


def test_labels_come_first() -> None:
    """The first experience is fine-tuning, and on a second one with the same classes rewards teach."""
    one, two = tiny_benchmark(shift="domain", experiences=1), tiny_benchmark(shift="domain", experiences=2)
    runs = [tiny_run(make_strategy(name), one) for name in ("rft", "finetune")]
    for run in runs:
        run.fit()
    assert difference(runs[0].model.state_dict(), runs[1].model.state_dict()) is None
    run = tiny_run(make_strategy("rft"), two, epochs=8, batch_size=16)
    run.fit()
    curve = run.evaluator.curve
    last = curve.full & (curve.experience == 1) & (curve.evaluated == 1)
    assert (curve.correct[last] / curve.total[last]).item() > 0.9
