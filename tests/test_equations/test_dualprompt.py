"""DualPrompt: whose E-prompt an image gets in training and in prediction, and what an experience trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from clbench import Experience, Strategy, chain, make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.parts import Prompted, Prompts, TimmBlocks
from clbench.parts.prompts import through_blocks
from clbench.testing import tiny_benchmark, tiny_run, tiny_vit

SMALL: dict[str, Any] = {"pool": 4, "general": 2, "expert": 4, "general_layers": (0,), "expert_layers": (1,)}


def run_of(*others: Strategy, optim: OptimConfig | None = None, **params: Any) -> Engine:
    benchmark = tiny_benchmark(images=True)
    strategy = chain(make_strategy("dualprompt", **{**SMALL, **params}), *others)
    return tiny_run(strategy, benchmark, model=tiny_vit(benchmark), optim=optim)


def dual(run: Engine) -> Any:
    return run.strategy.parts[0]


def expected_features(run: Engine, x: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """Of images with the E-prompts `slots` (B,), by the definition."""
    inner: Any = next(m for m in run.model.modules() if isinstance(m, Prompted)).inner
    p, n = dual(run).prompter, len(x)
    experts = torch.stack([p.experts[s][0] for s in slots.tolist()])  # (B, 4, D)
    general = p.general[0].expand(n, -1, -1)
    prefixes = {0: (general[:, :1], general[:, 1:]), 1: (experts[:, :2], experts[:, 2:])}
    blocks = TimmBlocks(inner)
    states = through_blocks(blocks, blocks.embed(x), Prompts(prefixes=prefixes)).x
    return inner.norm(states)[:, 0]


@pytest.mark.parametrize("variant", ["released", "pilot", "coda", "ovor"])
def test_training_takes_the_slot_of_the_experience_and_prediction_the_nearest_key(variant: str) -> None:
    run = run_of(variant=variant)
    run.fit()
    p = dual(run).prompter
    x = run.normalise(torch.cat([exp.data.x()[:3] for exp in run.benchmark.test]))
    with torch.no_grad():
        for current in (0, 1, 2):
            dual(run).current = current
            run.model.train()
            expected = expected_features(run, x, torch.full((9,), current))
            torch.testing.assert_close(run.forward(x).features[:, :32], expected, rtol=1e-4, atol=1e-5)
        query = run.model.backbone.inner(x)  # type: ignore[union-attr,operator]
        keys = torch.cat([p.keys[t] for t in range(3)])
        nearest = F.cosine_similarity(query[:, None], keys[None], dim=2).argmax(1)
        run.model.eval()
        torch.testing.assert_close(
            run.forward(x).features[:, :32], expected_features(run, x, nearest), rtol=1e-4, atol=1e-5
        )


def test_prediction_does_not_see_the_experience_that_is_trained() -> None:
    run = run_of(candidates="pool")
    run.fit()
    x = run.normalise(run.benchmark.test[0].data.x())
    task = torch.full((len(x),), -1)
    with torch.no_grad(), run.evaluating():
        reference = run.predict(x, task)
        for current in range(4):
            dual(run).current = current
            assert torch.equal(run.predict(x, task), reference)


@pytest.mark.parametrize(
    ("variant", "pull"),
    [
        ("released", lambda c: -c[:, 0].mean()),
        ("pilot", lambda c: -0.1 * c[:, 0].mean()),
        ("coda", lambda c: (1 - c).sum()),
        ("ovor", lambda c: (1 - c).mean()),
    ],
)
@pytest.mark.parametrize("layers", [(1,), (0, 1)])
def test_pull(variant: str, pull: Any, layers: tuple[int, ...]) -> None:
    run = run_of(variant=variant, expert_layers=layers)
    dual(run).current = 2
    out = run.forward(run.normalise(run.benchmark.train[0].data.x()[:6]))
    cosine = F.cosine_similarity(out.features[:, None, 32:], dual(run).prompter.keys[2][None], dim=2)
    assert cosine.shape == (6, len(layers) if variant in ("coda", "ovor") else 1)
    unused: Any = None
    torch.testing.assert_close(dual(run).losses(unused, out)["pull"], pull(cosine))


@pytest.mark.parametrize(("variant", "copies"), [("released", True), ("coda", False)])
def test_a_slot_begins_as_the_one_before_ended(variant: str, copies: bool) -> None:
    seen: list[bool] = []

    class Look(Strategy):
        def begin_experience(self, exp: Experience) -> None:
            if exp.index:
                experts = dual(self.run).prompter.experts
                seen.append(torch.equal(experts[exp.index], experts[exp.index - 1]))

    run_of(Look(), variant=variant).fit()
    assert seen == [copies] * 2


@pytest.mark.parametrize(
    "optim", [OptimConfig(lr=0.1, momentum=0.9, reset=False), OptimConfig(name="adam", lr=0.1)]
)
def test_an_experience_moves_its_own_slot_only(optim: OptimConfig) -> None:
    moved: list[list[bool]] = []

    class Look(Strategy):
        def begin_experience(self, exp: Experience) -> None:
            self.before = [p.detach().clone() for p in dual(self.run).prompter.experts]

        def end_experience(self, exp: Experience) -> None:
            experts = dual(self.run).prompter.experts
            moved.append([not torch.equal(p, b) for p, b in zip(experts, self.before, strict=True)])

    run_of(Look(), optim=optim).fit()
    assert moved == [[i == t for i in range(4)] for t in range(3)]


def test_slots_of_experiences_to_come_are_not_read() -> None:
    run = run_of()
    with torch.no_grad():
        for values in (dual(run).prompter.experts, dual(run).prompter.keys):
            values[3].fill_(torch.nan)
    run.fit()
    assert all(p.isfinite().all() for name, p in run.model.named_parameters() if ".3" not in name)
    assert run.evaluator.curve.loss[-1] < 1e3


def test_more_experiences_than_slots_are_refused() -> None:
    with pytest.raises(IncompatibleError, match=r"Set dualprompt.pool=3"):
        run_of(pool=2)
