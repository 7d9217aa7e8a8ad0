"""Replay on drift: until the first drift it is er; a drift empties the memory."""

from __future__ import annotations

from typing import Any

import torch

from clbench import make_strategy
from clbench.engine.engine import Engine
from clbench.testing import tiny_benchmark, tiny_run


def trained(strategy: str, **params: Any) -> Engine:
    benchmark = tiny_benchmark(shift="domain", boundaries=False, passes=1)
    run = tiny_run(make_strategy(strategy, **params), benchmark, epochs=1, batch_size=16)
    run.fit()
    return run


def equal(one: Engine, other: Engine) -> bool:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_without_a_drift_it_is_er() -> None:
    er, found = trained("er", memory=20), trained("replay-on-drift", memory=20, detector="none")
    assert equal(er, found)
    memories = [next(p.memory for p in run.strategy.parts if hasattr(p, "memory")) for run in (er, found)]
    assert torch.equal(memories[0]["x"], memories[1]["x"])


def test_a_drift_empties_the_memory() -> None:
    run = trained("replay-on-drift", memory=500, detector="given", settings={"at": [100]})
    part = run.strategy.parts[0]
    rows = torch.cat([exp.data.x() for exp in run.benchmark.train])
    order = [run.permutation(exp, 0) + 64 * exp.index for exp in run.train]
    assert torch.equal(part.memory["x"], rows[torch.cat(order)[96:]])  # from the flagged batch on
    assert part.drifts == [100]


def test_replays_only_so_long_after_a_drift() -> None:
    params = {"memory": 50, "detector": "given", "settings": {"at": [100]}}
    never = {**params, "settings": {"at": []}, "steps": 3}
    assert equal(trained("replay-on-drift", **never), trained("finetune"))
    assert (
        equal(trained("replay-on-drift", **params, steps=100), trained("replay-on-drift", **params)) is False
    )
    some, more = (trained("replay-on-drift", **params, steps=n) for n in (1, 2))
    assert not equal(some, more)
