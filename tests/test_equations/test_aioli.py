"""Aioli: the order of trials and rounds, and the mixture that follows from the drops of a round."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clbench.strategies.aioli import FittedMixture
from torch import Tensor

from clbench import chain, make_strategy
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.parts import CrossEntropy, aioli_graph, aioli_weights, normalised_graph, probe_mixtures
from clbench.testing import tiny_benchmark, tiny_run


class Probe(FittedMixture):
    """Notes the mixture and the size of every draw, and every check; losses are those of a list where one is given."""

    def setup(self, run: Any) -> None:
        super().setup(run)
        self.drawn: list[tuple[Tensor, int, int]] = []
        self.found: list[Tensor] = []

    def draw(self, rows: int, p: Tensor) -> Tensor:
        self.drawn.append((p, rows, self.trying))
        return super().draw(rows, p)

    def losses_of_groups(self) -> Tensor:
        self.found.append(super().losses_of_groups())
        return self.found[-1]


def fitted(ema: float | None = 0.1, update: int = 8) -> tuple[Engine, Probe]:
    part = Probe(eta=0.2, ema=ema, sweeps=2, steps=1, update=update, focus=0.625, held=8)
    run = tiny_run(chain(part, CrossEntropy()), tiny_benchmark(), batch_size=16, epochs=2)
    run.fit()
    return run, part


@pytest.mark.parametrize("ema", [0.1, None])
def test_rounds(ema: float | None) -> None:
    run, part = fitted(ema)
    mixtures, expected = probe_mixtures(3, 0.625), torch.full((3,), 1 / 3, dtype=torch.float64)
    assert run.step == 24
    assert [rows // 16 for _, rows, _ in part.drawn] == [1, 1, 1, 1, 1, 1, 2] * 3
    before = None
    for n in range(3):
        trials, (p, _, none) = part.drawn[7 * n : 7 * n + 6], part.drawn[7 * n + 6]
        assert none == -1
        tried = [group for *_, group in trials]
        assert sorted(tried[:3]) == sorted(tried[3:]) == [0, 1, 2]
        drops = torch.zeros(3, 3, dtype=torch.float64)
        checks = part.found[7 * n : 7 * n + 7]
        for step, (mixture, _, group) in enumerate(trials):
            assert torch.equal(mixture, mixtures[group])
            drops[:, group] += (checks[step] - checks[step + 1]) / 2
        graph = normalised_graph(aioli_graph(drops, 0.625))
        if ema is not None and before is not None:
            graph = 0.9 * graph + 0.1 * before
        before = graph
        expected = aioli_weights(graph, 0.2, None if ema is not None else expected)
        torch.testing.assert_close(p, expected)
    assert run.forwards == 24 * 16 + 21 * 24


def test_a_round_of_trials_alone() -> None:
    _, part = fitted(update=6)
    assert [rows // 16 for _, rows, _ in part.drawn] == [1] * 24
    assert len(set(part.p.tolist())) == 3


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="48 steps in all, and a round has 40; set update=48 or more"):
        tiny_run(make_strategy("aioli", update=40), tiny_benchmark())
    with pytest.raises(IncompatibleError, match="which is that of all 2"):
        tiny_run(make_strategy("aioli", focus=0.5), tiny_benchmark(experiences=2))
