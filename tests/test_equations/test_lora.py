"""LoRA: what is trained, what stays, and that without a rank it is the linear probe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from clbench import Strategy, chain, make_strategy
from clbench.engine.engine import Engine
from clbench.testing import tiny_benchmark, tiny_run, tiny_vit


def run_of(name: str, *others: Strategy, **params: Any) -> Engine:
    benchmark = tiny_benchmark(images=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tiny_vit(benchmark)
    return tiny_run(chain(make_strategy(name, **params), *others), benchmark, model=model)


def state(run: Engine) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in run.model.state_dict().items()}


def test_branches_and_head_move_and_nothing_else() -> None:
    run = run_of("lora", rank=2)
    before = state(run)
    run.fit()
    moved = {k for k, v in run.model.state_dict().items() if not torch.equal(v, before[k])} - {
        "stage._extra_state",
        "head.seen",
    }
    assert all(".branches." in k or k.startswith("head.") for k in moved)
    assert len([k for k in moved if ".branches." in k]) == 2 * 2 * 2  # blocks, targets, maps


@pytest.mark.parametrize("name", ["lora", "o-lora", "sd-lora", "inflora", "mora"])
def test_rank_0_is_the_linear_probe_on_the_present_classes(name: str) -> None:
    run, probe = run_of(name, rank=0), run_of("linear-probe", make_strategy("finetune", loss="local"))
    run.fit(), probe.fit()
    pairs = zip(run.model.parameters(), probe.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_head_may_learn_at_another_rate() -> None:
    run = run_of("lora", rank=2, head=20.0)
    assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([0.02, 0.4])


@pytest.mark.parametrize("other", ["er", "ewc", "lwf"])
def test_plain_combinations_train(other: str) -> None:
    run, alone = run_of("lora", make_strategy(other), rank=2), run_of("lora", rank=2)
    run.fit(), alone.fit()
    pairs = zip(run.model.parameters(), alone.model.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)
