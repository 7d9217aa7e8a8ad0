"""The upper bounds, joint and offline training: which data they see, and when."""

from __future__ import annotations

import torch

from clbench import make_strategy
from clbench.testing import difference, tiny_benchmark, tiny_run

BENCHMARK = tiny_benchmark()


def test_joint_brings_all_data_so_far() -> None:
    run = tiny_run(make_strategy("joint"), BENCHMARK)
    for i, exp in enumerate(run.train):
        assert torch.equal(exp.data.x(), torch.cat([past.data.x() for past in BENCHMARK.train[: i + 1]]))
        assert exp.classes == tuple(range(2 * (i + 1)))


def test_joint_takes_more_steps_as_data_grows() -> None:
    run = tiny_run(make_strategy("joint"), BENCHMARK, batch_size=32, epochs=1)
    run.fit()
    assert run.step == (64 + 128 + 192) // 32


def test_joint_begins_as_fine_tuning() -> None:
    """With a single experience there is no past."""
    one = tiny_benchmark(experiences=1)
    runs = [tiny_run(make_strategy(name), one) for name in ("joint", "finetune")]
    for run in runs:
        run.fit()
    assert difference(runs[0].model.state_dict(), runs[1].model.state_dict()) is None


def test_joint_keeps_what_is_tested_apart() -> None:
    """Seen test streams grow one by one, although the training data holds older classes as well."""
    run = tiny_run(make_strategy("joint"), BENCHMARK, every=1)
    run.fit()
    ticks = run.evaluator.curve.ticks()
    assert [int((ticks.total[ticks.experience == i][-1] > 0).sum()) for i in range(3)] == [1, 2, 3]


def test_offline_is_one_experience_with_everything() -> None:
    run = tiny_run(make_strategy("offline"), BENCHMARK)
    (exp,) = run.train
    assert torch.equal(exp.data.x(), torch.cat([past.data.x() for past in BENCHMARK.train]))
    assert (exp.classes, exp.tests) == (tuple(range(6)), (0, 1, 2))


def test_offline_shuffles_across_experiences() -> None:
    seen: list[set[int]] = []
    strategy = make_strategy("offline")
    loss = strategy.parts[-1].losses
    strategy.parts[-1].losses = lambda batch, out: seen.append(set(batch.y.tolist())) or loss(batch, out)
    tiny_run(strategy, BENCHMARK, batch_size=64, epochs=1).fit()
    assert all(len(classes) == 6 for classes in seen)
