"""APER: means and cosines of pretrained and adapted features side by side, and one experience that adapts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Experience, Strategy, chain, make_strategy
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.models import Classifier
from clbench.testing import tiny_benchmark, tiny_model, tiny_run, tiny_vit
from clbench.types import Benchmark

VIT = ["adapter", "lora", "ssf", "vpt", "vpt-shallow", "finetune"]


def vit(benchmark: Benchmark) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny_vit(benchmark)


def run_of(*others: Strategy, name: str = "aper", epochs: int = 2, **params: Any) -> Engine:
    benchmark = tiny_benchmark(images=True)
    strategy = chain(make_strategy(name, **params), *others)
    return tiny_run(strategy, benchmark, model=vit(benchmark), epochs=epochs)


def moves(name: str) -> bool:
    """Whether an entry of a model's state is more than where the run stands."""
    return "settled" not in name and "extra_state" not in name


def data(run: Engine) -> tuple[Tensor, Tensor]:
    x = torch.cat([exp.data.x() for exp in run.benchmark.train])
    return run.normalise(x), torch.cat([exp.data.y() for exp in run.benchmark.train])


def test_prototypes_are_means_of_both_halves_as_they_are_and_scores_their_cosines() -> None:
    run = run_of(size=4)
    run.fit()
    part: Any = run.strategy.parts[-1]
    x, y = data(run)
    pretrained = vit(run.benchmark).eval()
    with torch.no_grad(), run.evaluating():
        psi = torch.cat([pretrained.features(x), run.model.features(x)], dim=1)  # type: ignore[operator]
        means = torch.stack([psi[y == c].mean(0) for c in range(6)])
        torch.testing.assert_close(part.classes.means().float(), means, rtol=1e-4, atol=1e-5)
        scores = run.predict(x[:5], torch.full((5,), -1))
        expected = F.cosine_similarity(psi[:5, None], means[None], dim=2)
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(psi[:, :32], psi[:, 32:])


@pytest.mark.parametrize("adapt", VIT)
def test_the_first_experience_adapts_and_nothing_moves_afterwards(adapt: str) -> None:
    seen: list[dict[str, Tensor]] = []

    class Look(Strategy):
        def end_experience(self, exp: Experience) -> None:
            seen.append({k: v.clone() for k, v in self.run.model.state_dict().items() if moves(k)})

    run = run_of(Look(), adapt=adapt)
    start = {k: v.clone() for k, v in run.model.state_dict().items()}
    run.fit()
    first, *later = seen
    base = vit(run.benchmark).state_dict()
    moved = {k for k, v in first.items() if not torch.equal(v, start[k])}
    assert moved
    if adapt != "finetune":  # of the transformer itself, nothing
        kept = [v for k, v in first.items() if k not in moved and k.startswith("backbone")]
        for name, weight in base.items():
            if name.startswith("backbone"):
                assert any(w.shape == weight.shape and torch.equal(w, weight) for w in kept), name
    assert all(torch.equal(v, first[k]) for state in later for k, v in state.items())
    assert all(torch.equal(v, start[k]) for k, v in first.items() if k.startswith("pretrained"))


def test_without_a_step_it_is_simple_cil() -> None:
    """Both halves are equal: cosines of doubled vectors."""

    class NoStep(Strategy):
        def gradients(self) -> None:
            for p in self.run.model.parameters():
                p.grad = None

    run, plain = run_of(NoStep()), run_of(name="simple-cil")
    run.fit(), plain.fit()
    x, _ = data(run)
    hidden = torch.full((len(x),), -1)
    with torch.no_grad(), run.evaluating(), plain.evaluating():
        torch.testing.assert_close(run.predict(x, hidden), plain.predict(x, hidden), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("adapt", VIT[:5])
def test_ranpac_adapts_likewise(adapt: str) -> None:
    run = run_of(name="ranpac", projection=64, adapt=adapt)
    run.fit()
    assert run.budget()["trainable_parameters"] < 0.5 * run.budget()["parameters"]  # type: ignore[operator]
    assert run.evaluator.curve.correct[-1].sum() > 0


class BranchesAtEnds(Strategy):
    def __init__(self) -> None:
        self.ends: list[list[Tensor]] = []

    def end_experience(self, exp: Experience) -> None:
        self.ends.append(
            [p.detach().clone() for n, p in self.run.model.named_parameters() if ".branches." in n]
        )


@pytest.mark.parametrize("first", [True, False])
def test_branches_of_another_part_learn_the_first_experience_and_stay(first: bool) -> None:
    look, lora = BranchesAtEnds(), make_strategy("lora", rank=2)
    benchmark = tiny_benchmark(images=True)
    parts = [lora, make_strategy("ranpac", projection=64)]
    run = tiny_run(chain(*(parts if first else parts[::-1]), look), benchmark, model=vit(benchmark))
    run.fit()
    assert any(up.any() for up in look.ends[0])
    assert all(torch.equal(a, b) for end in look.ends[1:] for a, b in zip(look.ends[0], end, strict=True))
    assert run.evaluator.curve.correct[-1].sum() > 0


def test_a_network_without_blocks_is_refused() -> None:
    benchmark = tiny_benchmark()
    with pytest.raises(IncompatibleError, match="a Sequential is none"):
        tiny_run(make_strategy("aper"), benchmark, model=tiny_model(benchmark))
