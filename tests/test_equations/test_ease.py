"""EASE: prototypes that are made up, scores by subspace, and adapters that stay."""

from __future__ import annotations

from typing import Any

import torch
from clbench.strategies.ease import completed, reweighted
from torch import Tensor
from torch.nn import functional as F

from clbench import Experience, Strategy
from clbench.machine.caching import keeping_nothing
from tests.test_equations.test_lora import run_of


def sines(*shape: int, a: float) -> Tensor:
    return torch.sin(a + torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).view(shape)


EXPERIENCE_OF = torch.tensor([0, 0, 1, 1, 2, 2])
REAL = sines(6, 9, a=0.4).view(6, 3, 3) * (torch.arange(3) <= EXPERIENCE_OF[:, None])[:, :, None]


def near(found: Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)


def test_completion_of_the_reference() -> None:
    full = completed(REAL, EXPERIENCE_OF, 2)
    near(
        full[:2, 1:].flatten(1),
        [
            [-0.068271150, -0.330126394, -0.288464954, 0.277770582, 0.385222486, 0.138502614],
            [-0.363490673, -0.125968567, 0.227368459, -0.012973744, 0.172423399, 0.199295264],
        ],
    )
    near(full[2:4, 2], [[-0.438382437, -0.138938075, 0.288245313], [0.570467814, 0.599450929, 0.077301624]])
    assert torch.equal(full[REAL != 0], REAL[REAL != 0])


def test_scores_of_the_reference() -> None:
    full, queries = completed(REAL, EXPERIENCE_OF, 2), sines(2, 9, a=1.9).view(2, 3, 3)
    near(
        reweighted(queries, full, EXPERIENCE_OF, 0.1),
        [
            [0.129410584, 0.356939034, -0.755428910, 1.014249080, -1.098085824, 0.973833247],
            [-0.576437957, 0.060929333, 0.355269543, -0.766152040, 1.026242076, -1.098252964],
        ],
    )


def test_without_alpha_a_class_is_scored_in_its_own_subspace() -> None:
    queries = sines(2, 9, a=1.9).view(2, 3, 3)
    own = F.cosine_similarity(queries[:, EXPERIENCE_OF], REAL[range(6), EXPERIENCE_OF][None], dim=2)
    torch.testing.assert_close(reweighted(queries, REAL, EXPERIENCE_OF, 0.0), own)


class Look(Strategy):
    def __init__(self) -> None:
        self.features: list[Tensor] = []
        self.moved: list[list[bool]] = []

    def adapters(self) -> list[Tensor]:
        part: Any = self.run.strategy.parts[0]
        return [torch.cat([p.detach().flatten() for p in s.parameters()]) for s in part.subspaces]

    def begin_experience(self, exp: Experience) -> None:
        self.before = self.adapters()

    def end_experience(self, exp: Experience) -> None:
        pairs = zip(self.before, self.adapters(), strict=True)
        self.moved.append([not torch.equal(a, b) for a, b in pairs])
        part: Any = self.run.strategy.parts[0]
        x = self.run.normalise(self.run.train[0].data.x()[:4])
        with torch.no_grad(), self.run.evaluating():
            self.features.append(part.features(x, 0))


def test_an_experience_moves_its_own_adapters_and_the_first_subspace_stays() -> None:
    look = Look()
    run = run_of("ease", look, width=4)
    run.fit()
    assert look.moved == [[i == t for i in range(3)] for t in range(3)]
    assert all(torch.equal(f, look.features[0]) for f in look.features)
    part: Any = run.strategy.parts[0]
    real = torch.arange(3) <= part.experience_of[:, None]
    assert torch.equal(part.prototypes[:, :3].any(2), real)


def test_what_is_asked_once_in_old_subspaces_changes_no_prediction() -> None:
    kept = run_of("ease", width=4)
    kept.fit()
    with keeping_nothing():
        anew = run_of("ease", width=4)
        anew.fit()
    assert (kept.evaluator.curve.correct == anew.evaluator.curve.correct).all()
    assert "subspace 0" in kept.evaluator.describe()["kept"]


def test_the_pretrained_network_may_join() -> None:
    run = run_of("ease", width=4, pretrained=1.0)
    run.fit()
    part: Any = run.strategy.parts[0]
    assert part.prototypes[:, 3].any()
    x = run.normalise(run.train[0].data.x()[:4])
    hidden = torch.full((4,), -1)
    with torch.no_grad(), run.evaluating():
        both = part.logits(x, hidden)
        part.beta = 0.0
        alone = part.logits(x, hidden)
        part.stage.current = -1
        base = run.forward(x).features
    expected = F.normalize(base, dim=1) @ F.normalize(part.prototypes[:, 3], dim=1).T
    torch.testing.assert_close(both - alone, expected, rtol=1e-4, atol=1e-5)
