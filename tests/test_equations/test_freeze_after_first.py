"""A backbone that settles: trained in the first experience as without, and then not a bit of it moves."""

from __future__ import annotations

from collections.abc import Callable

import torch

from clbench import make_strategy
from clbench.config import OptimConfig
from clbench.testing import difference, tiny_benchmark, tiny_run
from clbench.types import Benchmark


def test_the_first_experience_is_trained_as_without_it() -> None:
    one = tiny_benchmark(experiences=1)
    runs = [tiny_run(make_strategy(name), one) for name in ("finetune", "finetune+freeze-after-first")]
    for run in runs:
        run.fit()
    assert all(
        torch.equal(a, b) for a, b in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True)
    )


def test_then_only_the_head_moves(few_shot_benchmark: Callable[..., Benchmark]) -> None:
    """Weight decay and momentum leave the backbone alone as well, as do statistics of batch normalisation."""
    optim = OptimConfig(lr=0.1, momentum=0.9, weight_decay=0.1, reset=False)
    run = tiny_run(make_strategy("finetune+freeze-after-first"), few_shot_benchmark(), optim=optim)
    after = []
    end = run.evaluator.end_experience

    def look() -> None:
        after.append({name: value.clone() for name, value in run.model.state_dict().items()})
        end()

    run.evaluator.end_experience = look  # type: ignore[method-assign]
    run.fit()
    inner = [{n: v for n, v in state.items() if n.startswith("backbone.inner")} for state in after]
    assert len(inner[0]) > 5
    assert difference(inner[0], inner[1]) is None
    assert difference(inner[0], inner[2]) is None
    assert not torch.equal(after[1]["head.weight"], after[2]["head.weight"])
