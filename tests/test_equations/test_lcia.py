"""LCIA: the coefficient of a tensor, what the trace makes of it, and what an experience leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clbench.strategies.lcia import coefficient, share_of
from torch import Tensor

from clbench import Experience, Strategy, chain, make_strategy
from clbench.testing import tiny_benchmark, tiny_run


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


TRACE, G, BEFORE = t(0.5, 2.5), t(0.2, -0.4), t(0.1, 0.1)


def stepped(theta: Tensor, g: Tensor = G, factor: float = 2.0, side: Any = "new") -> tuple[float, Tensor]:
    alpha = coefficient(theta, TRACE, g, BEFORE, factor)
    return alpha.item(), TRACE.lerp(theta, share_of(alpha, 0.01, side))


def test_numbers_of_the_reference() -> None:
    alpha, trace = stepped(t(1, 2))
    assert alpha == pytest.approx(5.333333333, abs=1e-9)  # refused
    torch.testing.assert_close(trace, t(0.505, 2.495))
    alpha, trace = stepped(t(10, 20))
    assert alpha == pytest.approx(0.197530864, abs=1e-9)
    torch.testing.assert_close(trace, t(2.376543210, 5.956790123), rtol=0, atol=1e-9)


def test_gradients_that_do_not_turn_and_weights_that_do_not_move_leave_the_fallback() -> None:
    for theta, g in ((t(10, 20), BEFORE), (TRACE, G)):
        torch.testing.assert_close(stepped(theta, g)[1], TRACE + 0.01 * (theta - TRACE))


def test_the_derived_form_multiplies_the_old_weights() -> None:
    alpha, trace = stepped(t(10, 20), factor=1.0, side="old")
    assert alpha == pytest.approx(0.197530864 / 2, abs=1e-9)
    torch.testing.assert_close(trace, alpha * TRACE + (1 - alpha) * t(10, 20))


class Look(Strategy):
    """An own trace, kept by the formula as it is written."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def begin_experience(self, exp: Experience) -> None:
        self.trace = {n: p.detach().clone() for n, p in self.run.parameters().items()}
        self.last: dict[str, Tensor] = {}
        self.live = self.trace

    def after_update(self) -> None:
        for name, p in self.run.parameters().items():
            assert p.grad is not None
            a, b = (p.detach() - self.trace[name]).abs().sum(), p.grad.abs().sum()
            c = (p.grad - self.last[name]).abs().sum() if name in self.last else torch.tensor(0.0)
            alpha = float(self.factor * (1 + b) / (a * c))
            alpha = alpha if 0 < alpha < 1 else 0.01
            self.trace[name] = (1 - alpha) * self.trace[name] + alpha * p.detach()
            self.last[name] = p.grad.clone()
        self.live = {n: p.detach().clone() for n, p in self.run.parameters().items()}

    def end_experience(self, exp: Experience) -> None:
        for name, p in self.run.parameters().items():
            kept = self.trace[name] if exp.index else self.live[name]
            torch.testing.assert_close(p.detach(), kept, rtol=1e-5, atol=1e-7)


def test_from_the_second_experience_on_the_trace_takes_the_weights_place() -> None:
    run = tiny_run(chain(make_strategy("finetune+lcia", factor=0.01), Look(0.01)), tiny_benchmark())
    run.fit()
    part: Any = run.strategy.parts[1]
    assert 0 < part.active["head.weight"] <= part.updates


@pytest.mark.parametrize("trace", ["start", "first-update"])
def test_where_a_trace_begins(trace: Any) -> None:
    """One update an experience: the trace is what it began as, and a hundredth of the rest."""

    class Ends(Strategy):
        def begin_experience(self, exp: Experience) -> None:
            self.begun = {n: p.detach().clone() for n, p in self.run.parameters().items()}

        def after_update(self) -> None:
            self.updated = {n: p.detach().clone() for n, p in self.run.parameters().items()}

        def end_experience(self, exp: Experience) -> None:
            for n, p in self.run.parameters().items():
                expected = self.updated[n]
                if trace == "start" and exp.index:
                    expected = self.begun[n].lerp(expected, 0.01)
                assert torch.equal(p, expected)

    run = tiny_run(chain(make_strategy("finetune+lcia", trace=trace), Ends()), tiny_benchmark(), epochs=1)
    run.config = run.config.model_copy(
        update={"train": run.config.train.model_copy(update={"iterations": 1})}
    )
    run.fit()


def test_a_head_that_is_left_out_stays_as_it_was_trained() -> None:
    class Ends(Strategy):
        def after_update(self) -> None:
            self.last = {n: p.detach().clone() for n, p in self.run.parameters().items()}

        def end_experience(self, exp: Experience) -> None:
            same = {n: torch.equal(p, self.last[n]) for n, p in self.run.parameters().items()}
            assert all(same[n] for n in same if n.startswith("head"))
            assert all(same.values()) == (exp.index == 0)

    strategy = chain(make_strategy("finetune+lcia", parameters="encoder"), Ends())
    tiny_run(strategy, tiny_benchmark(), epochs=1).fit()
