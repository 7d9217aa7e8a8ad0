"""Skill-It: when the mixture changes, by which losses, what is drawn, and what is never trained on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clbench.strategies.skill_it import SkillMixture
from torch import Tensor
from torch.nn import functional as F

from clbench import Order, chain, make_strategy
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.parts import CrossEntropy, skill_weights
from clbench.testing import tiny_benchmark, tiny_run

GRAPH = ((1.0, 0.0, 0.0), (0.5, 1.0, 0.5), (0.0, 0.0, 1.0))


class Probe(SkillMixture):
    """Notes every p with the rows drawn by it, and every check."""

    def setup(self, run: Any) -> None:
        super().setup(run)
        self.noted: list[tuple[Tensor, Tensor]] = []
        self.found: list[Tensor] = []

    def order(self, exp: Any, epoch: int) -> Order | None:
        order = super().order(exp, epoch)
        assert order is not None
        self.noted.append((self.p, order.rows))
        return order

    def losses_of_groups(self) -> Tensor:
        self.found.append(super().losses_of_groups())
        return self.found[-1]


def fitted(**params: Any) -> tuple[Engine, Probe]:
    given = {"graph": GRAPH, "eta": 2.0, "update": 4, "check": 2, "window": 3, "held": 8, **params}
    part = Probe(**given)
    run = tiny_run(chain(part, CrossEntropy()), tiny_benchmark(), batch_size=16, epochs=1)
    run.fit()
    return run, part


def test_the_mixture_follows_the_last_checks() -> None:
    run, part = fitted()
    graph = torch.tensor(GRAPH, dtype=torch.float64)
    assert run.step == 12  # of three experiences with 64 rows, as of offline training
    assert len(part.noted) == 6
    assert len(part.found) == 5
    start = skill_weights(graph, [], 2.0)
    second, third = (skill_weights(graph, part.found[max(0, n - 3) : n], 2.0) for n in (2, 4))
    for (p, rows), expected in zip(part.noted, (start, start, second, second, third, third), strict=True):
        torch.testing.assert_close(p, expected)
        assert len(rows) == 32
    assert run.forwards == 12 * 16 + 5 * 3 * 8  # training, and five checks of three skills


def test_held_out_rows_are_measured_and_never_trained_on() -> None:
    run, part = fitted(eta=0.0)
    data = run.train[0].data
    trained = torch.cat([rows for _, rows in part.noted])
    free = torch.cat(part.queues)
    assert set(trained.tolist()) <= set(free.tolist())
    assert len(free) == 3 * 56
    held = [rows for rows in range(len(data)) if rows not in set(free.tolist())]
    found = part.losses_of_groups()
    run.model.eval()
    with torch.no_grad():
        for j in range(3):
            x, y = data.take(torch.tensor([row for row in held if row // 64 == j]))
            logits = run.model.head(run.model.features(x))  # type: ignore[operator]
            assert found[j].item() == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)


def test_rows_come_again_only_when_all_have_come() -> None:
    _, part = fitted()
    p = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    part.places[0] = len(part.queues[0])
    rows = part.draw(2 * 56, p)
    assert sorted(rows[:56].tolist()) == sorted(rows[56:].tolist()) == sorted(part.queues[0].tolist())
    shares = torch.bincount(part.draw(6000, torch.tensor([0.5, 0.2, 0.3])) // 64) / 6000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.2, 0.3]), atol=0.03, rtol=0)


def test_a_graph_of_another_size_is_refused() -> None:
    with pytest.raises(IncompatibleError, match=r"a graph of 3 rows with 3 numbers each.*rows of 2, 2"):
        tiny_run(make_strategy("skill-it", graph=((1.0, 0.0), (0.0, 1.0))), tiny_benchmark())
