"""Temporal ensemble: θ̄ ← m θ̄ + (1 − m) θ after every update, for weights and BatchNorm statistics."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clbench import Benchmark, Classifier, make_strategy
from clbench.config import OptimConfig, TrainConfig
from clbench.engine.engine import Engine
from clbench.testing import difference, tiny_benchmark, tiny_model, tiny_run, watch
from clbench.testing.tools import everything


def averaging(benchmark: Benchmark | None = None, base: str = "finetune", **params: Any) -> Engine:
    return tiny_run(make_strategy(f"{base}+ema", **params), benchmark or tiny_benchmark(), every=1)


def test_of_a_constant_by_hand() -> None:
    """θ̄ = 0 at first and θ = 1: after n updates 1 − mⁿ, 0.65132 for m = 0.9 and n = 10."""
    model = Classifier(nn.Identity(), 8, 6)
    nn.init.zeros_(model.head.weight)
    run = tiny_run(make_strategy("finetune+ema", momentum=0.9), tiny_benchmark(), model=model)
    part = run.strategy.parts[1]
    nn.init.ones_(model.head.weight)
    for _ in range(10):
        part.after_update()
    torch.testing.assert_close(part.average.head.weight, torch.full((6, 8), 1 - 0.9**10))
    assert part.average.head.weight[0, 0].item() == pytest.approx(0.65132, abs=1e-5)


@pytest.mark.parametrize("warmup", [None, 0, 7])
def test_every_entry_over_a_run(warmup: int | None) -> None:
    """Weights (1 − m) m^j on what was j updates ago, m 0.9 in the warm-up, which is the first experience by default."""
    seen: list[dict[str, Tensor]] = []
    run = averaging(momentum=0.8, warmup=warmup)
    part = run.strategy.parts[1]
    expected = {k: v.double().clone() for k, v in run.model.state_dict().items()}
    call = part.after_update

    def recorded() -> None:
        seen.append({k: v.double().clone() for k, v in run.model.state_dict().items()})
        call()

    run.points.after_update = [recorded]
    run.fit()
    assert len(seen) == run.updates == 12
    for n, state in enumerate(seen):
        m = 0.9 if n < (4 if warmup is None else warmup) else 0.8
        for name, value in state.items():
            whole = name.endswith("num_batches_tracked")
            expected[name] = value if whole else m * expected[name] + (1 - m) * value
    for name, value in part.average.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-6)


def rates_of(strategy: str, benchmark: Benchmark, updates: int = 1) -> tuple[list[tuple[int, float]], Engine]:
    """The experience and m of every update."""
    found: list[tuple[int, float]] = []
    run = tiny_run(make_strategy(strategy, ema__momentum=0.8), benchmark)
    run.config = run.config.model_copy(
        update={"train": TrainConfig(batch_size=32, epochs=2, updates=updates)}
    )
    part = next(p for p in run.strategy.parts if hasattr(p, "average"))
    for call in run.points.after_update:
        if call.__self__ is part:

            def recorded(call: Any = call) -> None:
                call()
                found.append((run.experience, part.start if part.warming else part.momentum))

            run.points.after_update = [recorded]
    run.fit()
    return found, run


@pytest.mark.parametrize(("strategy", "updates"), [("finetune+ema", 3), ("er+ema", 2), ("gdumb+ema", 1)])
def test_the_warm_up_is_the_first_experience_however_many_updates_it_brings(
    strategy: str, updates: int
) -> None:
    found, run = rates_of(strategy, tiny_benchmark(), updates)
    assert len(found) == run.updates > 0
    assert found == [(i, 0.9 if i == 0 else 0.8) for i, _ in found]
    assert {i for i, _ in found} == {0, 1, 2}
    assert strategy == "gdumb+ema" or len(found) == 12 * updates


@pytest.mark.parametrize("updates", [1, 3])
def test_of_a_stream_in_one_piece_the_warm_up_is_as_long_as_the_average(updates: int) -> None:
    found, _ = rates_of(
        "finetune+ema", tiny_benchmark(boundaries=False, experiences=1, examples=192), updates
    )
    assert [m for _, m in found] == [0.9] * 5 + [0.8] * (12 * updates - 5)  # 1 / (1 − 0.8)


@pytest.mark.parametrize("base", ["finetune", "er", "derpp", "derpp+refresh"])
def test_training_is_the_same_bit_for_bit(base: str) -> None:
    plain = tiny_run(make_strategy(base), tiny_benchmark(), every=1)
    averaged = averaging(base=base)
    states = []
    for run in (plain, averaged):
        run.fit()
        state = everything(run)
        states.append({k: state[k] for k in ("model", "optimizer", "generators", "counters")})
    assert difference(*states) is None
    assert difference(everything(plain)["evaluator"], everything(averaged)["evaluator"]) is not None


def test_weights_that_stay_are_their_own_average() -> None:
    benchmark = tiny_benchmark()
    model = tiny_model(benchmark)
    for p in model.parameters():  # a step of 10⁻³⁰ is none for a weight that is not zero
        nn.init.uniform_(p, 0.1, 1.0)
    run = tiny_run(make_strategy("finetune+ema"), benchmark, model=model, optim=OptimConfig(lr=1e-30))
    run.fit()
    average = run.strategy.parts[1].average
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), average.parameters(), strict=True))


def test_the_average_predicts_in_eval_mode() -> None:
    run = averaging()
    run.fit()
    average = run.strategy.parts[1].average
    x = run.benchmark.test[0].data.x()
    assert not any(module.training for module in average.modules())
    with torch.no_grad(), run.evaluating():
        assert torch.equal(run.predict(x, torch.full((len(x),), -1)), average(x))
        assert not torch.equal(average(x), run.model(x))


def test_it_is_smoother_than_what_it_averages() -> None:
    """The largest change of the weights over one update."""
    steps: dict[str, list[Tensor]] = {"raw": [], "average": []}

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        call()
        if point == "after_update":
            steps["raw"].append(run.model.head.weight.detach().clone())
            steps["average"].append(part.average.head.weight.clone())

    strategy = make_strategy("finetune+ema")
    part = strategy.parts[1]
    watch(
        part,
        lambda point, arguments, call: probe(point, arguments, call) if point == "after_update" else call(),
    )
    run = tiny_run(strategy, tiny_benchmark())
    run.fit()
    largest = {
        name: max((b - a).norm().item() for a, b in itertools.pairwise(weights))
        for name, weights in steps.items()
    }
    assert largest["average"] < 0.3 * largest["raw"]
