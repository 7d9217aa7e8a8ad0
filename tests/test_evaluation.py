"""The evaluator: counts at every tick, on fixed examples, that change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Benchmark, Output, Strategy, make_strategy
from clbench.config import RunConfig
from clbench.engine.engine import Engine
from clbench.errors import ConfigError
from clbench.evaluation import evaluator, testset
from clbench.evaluation.testset import chosen
from clbench.results import metrics
from clbench.testing import tiny_benchmark, tiny_model
from clbench.types import MASKED, Data


class Still(Strategy):
    """Steps that move nothing."""

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"nothing": out.logits.sum() * 0}


def fitted(
    strategy: Strategy | None = None,
    benchmark: Benchmark | None = None,
    train: Mapping[str, Any] | None = None,
    norm: bool = True,
    **evaluation: Any,
) -> Engine:
    benchmark = benchmark or tiny_benchmark()
    config = RunConfig.model_validate(
        {
            "benchmark": "tiny",
            "strategy": "x",
            "train": {"batch_size": 16, **(train or {})},
            "evaluation": evaluation,
            "seeds": {"order": 0, "init": 0, "data": 0},
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        run = Engine(
            benchmark, strategy or make_strategy("finetune"), tiny_model(benchmark, norm=norm), config
        )
    run.fit()
    return run


def test_there_is_a_tick_for_every_update_and_seen_stream() -> None:
    run = fitted()
    ticks = ~run.evaluator.curve.full
    per_experience = [int((ticks & (run.evaluator.curve.experience == i)).sum()) for i in range(3)]
    assert run.updates == 12
    assert per_experience == [4 + 1, 4 * 2, 4 * 3]  # and one before the first update


def test_full_test_sets_are_evaluated_before_training_and_after_every_experience() -> None:
    curve = fitted(subset=5).evaluator.curve
    assert curve.experience[curve.full].tolist() == [-1] * 3 + [0] * 3 + [1] * 3 + [2] * 3
    assert set(curve.total[curve.full].tolist()) == {32}


@pytest.mark.parametrize("every", [1, 3, 4, 5, 100])
def test_every_experience_ends_with_a_tick(every: int) -> None:
    curve = fitted(every=every).evaluator.curve
    steps = sorted({*range(0, 13, every), 4, 8, 12})
    assert curve.ticks().steps.tolist() == steps


@pytest.mark.parametrize("level", ["exact", "fast"])
def test_a_new_stream_joins_those_that_are_there(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is brought to the device twice, and the set is the one that is gathered at once."""
    gathered: list[int] = []

    def noted(data: Data, size: int | None, seed: int, stream: int) -> Data:
        if size is not None:  # of ticks
            gathered.append(stream)
        return chosen(data, size, seed, stream)

    monkeypatch.setattr(evaluator, "chosen", noted)
    found = fitted(benchmark=tiny_benchmark(images=True), level=level, subset=20).evaluator
    sets = 2 if level == "fast" else 1  # one to compare with
    assert gathered == sorted([0, 1, 2] * sets)
    for test, by in ((found._ticks, found._forward), (found._ticker.exact_test, found._ticker.exact)):
        if test is None or by is None:
            continue
        whole = found._gather([0, 1, 2], 20, by)
        for name in ("x", "y", "task"):
            assert torch.equal(getattr(test, name), getattr(whole, name))
        assert test.x.stride() == whole.x.stride()
        assert (test.totals.tolist(), test.starts.tolist()) == (whole.totals.tolist(), whole.starts.tolist())


def test_no_ticks_where_none_are_wanted() -> None:
    assert len(fitted(every=0).evaluator.curve.ticks()) == 0


def test_what_is_learned_all_at_once_has_an_accuracy_without_ticks_too() -> None:
    """One tick, at the end, says that every test stream was learned in the one experience."""
    curve = fitted(strategy=make_strategy("offline"), every=0).evaluator.curve
    assert curve.ticks().steps.tolist() == [12]
    assert curve.learned.tolist() == [0, 0, 0]
    R = curve.correct[curve.full][-3:] / curve.total[curve.full][-3:]
    assert metrics.compute(curve, ["average_accuracy"]) == {"average_accuracy": pytest.approx(R.mean())}


def test_the_last_tick_of_an_experience_is_its_full_evaluation_where_all_examples_are_used() -> None:
    curve = fitted().evaluator.curve
    for i in range(3):
        tick = ~curve.full & (curve.step == 4 * (i + 1))
        full = curve.full & (curve.experience == i) & (curve.evaluated <= i)
        assert curve.correct[tick].tolist() == curve.correct[full].tolist()


@pytest.mark.parametrize("evaluation", [{}, {"subset": 7}], ids=str)
def test_a_model_that_stays_as_it_is_shows_no_gap(evaluation: dict[str, int]) -> None:
    found = metrics.compute(fitted(Still(), norm=False, **evaluation).evaluator.curve)
    assert (found["wf10"], found["wp10"], found["forgetting"]) == (0.0, 0.0, 0.0)


def test_a_subset_is_the_same_at_every_tick_and_in_every_run() -> None:
    a, b = fitted(Still(), norm=False, subset=7), fitted(Still(), norm=False, subset=7)
    assert a.evaluator.curve == b.evaluator.curve
    assert len(set(a.evaluator.curve.ticks().correct[:, 0].tolist())) == 1


def test_another_seed_is_another_subset() -> None:
    a = fitted(Still(), subset=7)
    stream = a.benchmark.test[0].data
    rows = [chosen(stream, 7, seed, 0).parts[0][1].tolist() for seed in (0, 1)]
    assert rows[0] != rows[1]


def test_a_subset_larger_than_the_stream_is_the_stream() -> None:
    assert fitted(subset=1000).evaluator.curve == fitted().evaluator.curve


def test_counts_do_not_depend_on_the_batch_size() -> None:
    a, b = fitted().evaluator.curve, fitted(batch_size=5).evaluator.curve
    assert a.correct.tolist() == b.correct.tolist()
    np.testing.assert_allclose(a.loss, b.loss, rtol=1e-5)


def test_counts_and_losses_are_those_of_the_model() -> None:
    run = fitted()
    run.model.eval()
    curve = run.evaluator.curve
    for stream in range(3):
        data = run.benchmark.test[stream].data
        with torch.no_grad():
            logits = run.model(run.normalise(data.x()))
        row = curve.full & (curve.experience == 2) & (curve.evaluated == stream)
        assert int(curve.correct[row][0]) == int((logits.argmax(1) == data.y()).sum())
        assert float(curve.loss[row][0]) == pytest.approx(
            float(F.cross_entropy(logits, data.y(), reduction="sum")), rel=1e-5
        )


def test_classes_are_counted_from_when_they_are_taught() -> None:
    curve = fitted().evaluator.curve
    assert curve.class_total.tolist() == [[16] * 2 * seen + [0] * (6 - 2 * seen) for seen in range(4)]
    right = curve.correct[curve.full].reshape(4, 3)
    assert curve.class_correct.sum(1).tolist() == [right[seen, :seen].sum() for seen in range(4)]


@pytest.mark.parametrize(("labels", "told"), [("never", False), ("train", False), ("always", True)])
def test_task_labels_are_told_at_test_only_where_the_setting_says(labels: Any, told: bool) -> None:
    run = fitted(benchmark=tiny_benchmark(shift="task", task_labels=labels))
    data = run.benchmark.test[0].data
    task = run.evaluator._full.task[: len(data)]  # type: ignore[union-attr]
    logits = run.predict(run.normalise(data.x()), task)
    assert bool((logits == MASKED).any()) is told


def test_modules_have_their_own_modes_back() -> None:
    class Frozen(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            assert not self.run.model.backbone[2].training
            assert self.run.model.training
            return {"fit": F.cross_entropy(out.logits, batch.y)}

        def begin_experience(self, exp: Any) -> None:
            self.run.model.backbone[2].eval()

        def extend(self, batch: Batch) -> Batch:
            self.run.model.backbone[2].eval()
            return batch

    fitted(Frozen())


def test_its_own_time_is_not_training_time() -> None:
    run = fitted()
    assert run.evaluator.clock.seconds > 0
    assert run.clock.seconds > 0


def test_test_sets_for_which_a_gpu_has_no_room_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testset, "free_memory", lambda device: 10**9)
    testset.check_room(10**6, (1, 8, 8), torch.device("cpu"))
    with pytest.raises(
        ConfigError, match=r"1000 test examples of 3 × 224 × 224 take 1\.2 GB of cuda.* 1\.0 GB are free"
    ):
        testset.check_room(1000, (3, 224, 224), torch.device("cuda"))
