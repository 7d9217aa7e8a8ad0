"""Restart: the weights at the beginning of every experience are those of the first, to the bit."""

from __future__ import annotations

import torch

from clbench import make_strategy
from clbench.config import OptimConfig
from clbench.testing import tiny_benchmark, tiny_run


def test_every_experience_begins_alike() -> None:
    run = tiny_run(make_strategy("joint+restart"), tiny_benchmark(), optim=OptimConfig(lr=0.1, momentum=0.9))
    begun = []
    begin = run.evaluator.begin_experience

    def look(exp: object) -> None:
        begun.append({name: value.clone() for name, value in run.model.state_dict().items()})
        begin(exp)  # type: ignore[arg-type]

    run.evaluator.begin_experience = look  # type: ignore[method-assign, assignment]
    run.fit()
    assert len(begun) == 3
    for later in begun[1:]:
        assert all(torch.equal(value, later[name]) for name, value in begun[0].items())
    assert any("running_mean" in name for name in begun[0])


def test_joint_from_scratch_does_not_depend_on_earlier_experiences() -> None:
    """Its last experience alone gives the same weights."""
    benchmark = tiny_benchmark()
    run = tiny_run(make_strategy("joint+restart"), benchmark)
    run.fit()
    weights = [p.clone() for p in run.model.parameters()]
    short = tiny_run(make_strategy("joint+restart"), benchmark)
    short.place.experience, short.place.phase = 2, "between"  # nothing but the last experience
    short.fit()
    assert all(torch.equal(a, b) for a, b in zip(weights, short.model.parameters(), strict=True))
