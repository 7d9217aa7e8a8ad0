"""What the plugins of this distribution keep: clbench's contract, and the paper's equation."""

import torch
from clbench_rings.norms import squared_distance

import clbench
from clbench.testing import check_benchmark, check_strategy, parametrize_with_checks, tiny_benchmark, tiny_run


@parametrize_with_checks(["l2-init"])
def test_the_strategy_keeps_the_contract(strategy: str, check) -> None:
    check(strategy)


def test_the_benchmark_keeps_the_contract() -> None:
    assert {result.status for result in check_benchmark("rings")} == {"passed"}


def test_the_model_can_be_learned_with() -> None:
    benchmark = clbench.make_benchmark("rings", experiences=1)
    results = check_strategy(
        "finetune",
        model=lambda b: clbench.make_model("fourier", b.input_shape, b.num_classes),
        only=["learns", "resumes"],
    )
    assert {result.status for result in results} == {"passed"}
    assert benchmark.num_classes == 2


def test_the_distance_by_hand() -> None:
    a, b = (
        {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)},
        {"w": torch.zeros(2), "b": torch.tensor(1.0)},
    )
    assert squared_distance(a, b) == 1 + 4 + 4


def test_the_loss_is_the_distance_from_the_initial_weights_times_its_strength() -> None:
    run = tiny_run(clbench.make_strategy("l2-init", strength=0.5), tiny_benchmark(experiences=1), epochs=1)
    start = {name: p.detach().clone() for name, p in run.parameters().items()}
    run.fit()
    (penalty,) = [part for part in run.strategy.parts if hasattr(part, "start")]
    moved = squared_distance(run.parameters(), start)
    assert moved > 0
    assert torch.equal(penalty.losses(None, None)["init"], 0.5 * moved)
