"""Blurry online streams: what lies where, that no boundary shows, and what is measured when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import clbench
from clbench import Batch, Output, Strategy, chain, make_benchmark, make_strategy
from clbench.config import EvaluationConfig, Execution, RunConfig, Seeds, TrainConfig
from clbench.data.blurry import Blurred, blurred, blurry_stream
from clbench.engine.engine import Engine
from clbench.engine.visible import seamless
from clbench.errors import ConfigError, IncompatibleError
from clbench.machine.checkpoint import load, save
from clbench.parts import CrossEntropy
from clbench.results.curve import Curve
from clbench.results.metrics import a_auc, a_auc_1000, compute
from clbench.testing import check_benchmark, tiny_model
from clbench.types import Benchmark, Experience, Order, Pool

SEEDS = (0, 3, 11, 2024)


def labels(classes: int = 20, each: int = 30, seed: int = 0) -> list[int]:
    """Mixed, as the examples of a data set are."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), each)).tolist()


# --- the stream ---


def by_lists(y: list[int], T: int, N: int, M: int, varying: bool, seed: int) -> list[list[int]]:
    """Steps 1 to 6 of the construction with lists and loops, drawing as the authors' sampler does."""
    g = torch.Generator().manual_seed(seed)
    C = len(set(y))
    n_dis = (C * N // 100) // T * T
    n_blur = (C - n_dis) // T * T
    perm = torch.randperm(C, generator=g).tolist()
    D, B = perm[:n_dis], perm[n_dis : n_dis + n_blur]

    def cut(things: list[int]) -> list[list[int]]:
        if not varying:
            k = len(things) // T
            return [things[i * k : (i + 1) * k] for i in range(T)]
        if not things:
            return [[] for _ in range(T)]
        at = [0, *sorted(torch.randint(0, len(things), (T - 1,), generator=g).tolist()), len(things)]
        return [things[at[i] : at[i + 1]] for i in range(T)]

    D_t, B_t = cut(D), cut(B)
    dis = [[i for i, c in enumerate(y) if c in D_t[t]] for t in range(T)]
    blur = [[i for i, c in enumerate(y) if c in B_t[t]] for t in range(T)]
    if varying:
        total = sum(len(b) for b in blur) * M // 100
        at = [0] * (T + 1)
        if total:
            at = [0, *sorted(torch.randint(0, total, (T - 1,), generator=g).tolist()), total]
        k = [at[t + 1] - at[t] for t in range(T)]
        back = k
    else:
        k = [len(b) * M // 100 for b in blur]
        back = [sum(k) // T] * T
        for t in range(sum(k) % T):
            back[t] += 1
    pool: list[int] = []
    for t in range(T):
        pool += blur[t][: k[t]]
        blur[t] = blur[t][k[t] :]
    pool = [pool[i] for i in torch.randperm(len(pool), generator=g).tolist()]
    tasks = []
    for t in range(T):
        blur[t], pool = blur[t] + pool[: back[t]], pool[back[t] :]
    for t in range(T):
        whole = dis[t] + blur[t]
        tasks.append([whole[i] for i in torch.randperm(len(whole), generator=g).tolist()])
    return tasks


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("varying", [True, False])
@pytest.mark.parametrize(("N", "M"), [(50, 10), (0, 30), (100, 10), (35, 100), (60, 0)])
def test_the_stream_is_that_of_the_definition(seed: int, varying: bool, N: int, M: int) -> None:
    y = labels(classes=23, seed=seed)
    found = blurred(y, tasks=5, disjoint=N, blurry=M, varying=varying, seed=seed)
    assert [rows.tolist() for rows in found.rows] == by_lists(y, 5, N, M, varying, seed)


def test_of_cifar100s_size() -> None:
    """25,000 blurry examples, 2,500 exchanged, 50,000 streamed."""
    y = labels(100, 500)
    for varying in (True, False):
        found = blurred(y, varying=varying, seed=4)
        assert sum(map(len, found.rows)) == 50_000
        assert sum(map(len, found.disjoint)) == sum(map(len, found.blurry)) == 50
        still = blurred(y, varying=varying, blurry=0, seed=4)
        assert still.blurry == found.blurry
        strayed = sum(
            int((~np.isin(np.array(y)[rows], [*home, *other])).sum())
            for rows, home, other in zip(found.rows, found.disjoint, found.blurry, strict=True)
        )
        assert 0 < strayed < 2500  # moved out; some come back by chance


def moved(y: list[int], **how: Any) -> tuple[int, Blurred]:
    """How many examples are in another task than their class's."""
    found = blurred(y, **how)
    home = {c: t for t in range(len(found.rows)) for c in (*found.disjoint[t], *found.blurry[t])}
    return sum(home[y[i]] != t for t, rows in enumerate(found.rows) for i in rows.tolist()), found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("varying", [True, False])
def test_every_retained_example_comes_once_and_disjoint_classes_in_one_task(seed: int, varying: bool) -> None:
    y = labels(classes=23)  # 10 disjoint, 10 blurry, 3 left out
    strays, found = moved(y, varying=varying, seed=seed, blurry=30)
    kept = {c for group in (*found.disjoint, *found.blurry) for c in group}
    assert len(kept) == 20
    streamed = [i for rows in found.rows for i in rows.tolist()]
    assert sorted(streamed) == [i for i, c in enumerate(y) if c in kept]
    for c in {c for group in found.disjoint for c in group}:
        assert sum(c in {y[i] for i in rows.tolist()} for rows in found.rows) == 1
    assert 0 < strays <= 300 * 30 // 100
    sizes = [len(group) for group in found.blurry]
    assert varying or sizes == [2] * 5


def test_a_seed_is_a_stream_and_another_seed_another() -> None:
    y = labels()
    first, again, other = (blurred(y, seed=seed) for seed in (5, 5, 6))
    assert all(map(torch.equal, first.rows, again.rows))
    assert [len(r) for r in first.rows] != [len(r) for r in other.rows]
    assert [len(g) for g in first.disjoint] != [len(g) for g in other.disjoint]


@pytest.mark.parametrize("varying", [True, False])
def test_limits(varying: bool) -> None:
    y = labels()
    assert moved(y, varying=varying, blurry=0)[0] == 0  # blurry classes stay in one task
    none = moved(y, varying=varying, disjoint=100)[1]
    assert not any(none.blurry)
    # All pooled and dealt out anew; but of a task that has fewer than were drawn for it, only what it has.
    strays = moved(y, varying=varying, disjoint=0, blurry=100, seed=1)[0]
    assert strays > (0.3 if varying else 0.7) * len(y)
    with pytest.raises(ConfigError, match="3 classes cannot be dealt out to 4 tasks; tasks may be 1 … 3"):
        blurred([0, 1, 2], tasks=4)
    with pytest.raises(ConfigError, match="percentages; 5, 101 and 10"):
        blurred(y, disjoint=101)


def test_one_task_is_all_examples_shuffled() -> None:
    (rows,) = blurred(labels(4, 5), tasks=1, seed=2).rows
    assert sorted(rows.tolist()) == list(range(20))
    assert rows.tolist() != list(range(20))


def test_a_data_set_that_lies_sorted_is_taken_in_turns() -> None:
    """Otherwise the first M % would be all examples of a class."""
    y = torch.arange(10).repeat_interleave(20)
    train = Pool(torch.arange(200.0).unsqueeze(1), y)
    test = Pool(torch.zeros(10, 1), torch.arange(10))
    streams = blurry_stream(train, test, disjoint=0, varying=False, blurry=50, seed=0)
    for exp in streams.train:  # 20 of each of the two classes of the task, 10 of which are exchanged
        assert (exp.data.y().bincount(minlength=10) >= 10).sum() >= 2
        assert torch.equal(exp.data.x().squeeze(1).long() // 20, exp.data.y())


def test_streams_are_ordered_experiences_and_a_test_stream_for_each_class() -> None:
    y = torch.tensor(labels(23, 6))
    train = Pool(torch.arange(len(y)).unsqueeze(1).float(), y)
    test = Pool(torch.zeros(46, 1), torch.arange(23).repeat(2))
    parts = blurred(y, seed=7)
    train_stream, test_stream, valid = blurry_stream(train, test, seed=7)
    assert valid is None
    full = [rows for rows in parts.rows if len(rows)]
    assert [exp.data.x().flatten().long().tolist() for exp in train_stream] == [r.tolist() for r in full]
    assert len(test_stream) == 20
    assert all(exp.ordered for exp in train_stream)
    for exp in train_stream:
        assert tuple(test_stream[i].classes[0] for i in exp.tests) == exp.classes
    whole, ends = seamless(train_stream)
    assert ends == tuple(np.cumsum([len(r) for r in full]))
    assert torch.equal(whole[0].data.y(), torch.cat([exp.data.y() for exp in train_stream]))


# --- benchmarks ---


@pytest.mark.parametrize("varying", [True, False])
def test_digits_keep_every_rule_of_benchmarks(varying: bool) -> None:
    given = make_benchmark("si-blurry-digits", varying=varying, seed=2)
    for benchmark in ("si-blurry-digits", given):
        for result in check_benchmark(benchmark):
            assert result.status != "failed", result


def test_registered_digits() -> None:
    one, other = make_benchmark("si-blurry-digits", seed=1), make_benchmark("si-blurry-digits", seed=2)
    assert (one.seed, one.primary, one.setting.passes) == (1, "a_auc", 1)
    assert one.fingerprint != other.fingerprint
    assert "boundaries" not in one.setting.offers()
    assert make_benchmark("si-blurry-digits", seed=1).fingerprint == one.fingerprint


def test_ones_own_arrays(tmp_path: Path) -> None:
    y = np.array(labels(10, 12))
    x = np.zeros((120, 6, 6), np.uint8)
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x[:10], y_test=np.arange(10))
    benchmark = make_benchmark("si-blurry-npz", path=str(tmp_path / "own.npz"), seed=3)
    rows = [r for r in blurred(y, seed=3).rows if len(r)]
    assert [e.data.y().tolist() for e in benchmark.train] == [y[r.numpy()].tolist() for r in rows]


# --- training ---


class Diary(Strategy):
    """Writes down what comes."""

    def __init__(self) -> None:
        self.batches: list[Tensor] = []
        self.inputs: list[Tensor] = []
        self.after: list[Tensor] = []

    def losses(self, batch: Batch, out: Output) -> dict[str, Tensor]:
        self.batches.append(batch.stream().y)
        self.inputs.append(batch.x)
        return {}

    def begin_experience(self, exp: Any) -> None:
        raise AssertionError("a boundary is told")

    end_experience = begin_experience

    def after_step(self, batch: Batch, out: Output) -> None:
        self.after.append(batch.y)


def run_of(
    strategy: Strategy,
    benchmark: Benchmark,
    *,
    batch_size: int = 16,
    updates: int = 1,
    evaluation: EvaluationConfig | None = None,
    execution: Execution | None = None,
) -> Engine:
    config = RunConfig(
        benchmark=benchmark.name,
        strategy=str(strategy),
        train=TrainConfig(batch_size=batch_size, updates=updates),
        evaluation=evaluation or EvaluationConfig(every_examples=100, subset=8),
        seeds=Seeds(order=0, init=0, data=0),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tiny_model(benchmark, norm=False)
        how = execution or Execution(device="cpu", checkpoint_seconds=None)
        return Engine(benchmark, strategy, model, config, how)


DIGITS = make_benchmark("si-blurry-digits", seed=1)
STREAM = torch.cat([exp.data.y() for exp in DIGITS.train])


def test_the_learner_sees_one_sequence_of_full_batches() -> None:
    diary = Diary()
    run_of(chain(CrossEntropy(), diary), DIGITS).fit()
    assert torch.equal(torch.cat(diary.batches), STREAM)
    assert {len(y) for y in diary.batches[:-1]} == {16}


@pytest.mark.parametrize("name", ["ewc", "lwf", "icarl", "si", "gdumb"])
def test_strategies_that_need_boundaries_are_refused(name: str) -> None:
    with pytest.raises(
        IncompatibleError, match=f"{name} needs .*boundaries .*si-blurry-digits@1 does not give"
    ):
        run_of(make_strategy(name), DIGITS)


@pytest.mark.parametrize("name", ["er", "er-ace", "ncm", "derpp", "finetune", "joint", "offline"])
def test_strategies_that_need_none_run(name: str) -> None:
    run = run_of(make_strategy(name), DIGITS, updates=2)
    run.fit()
    found = compute(run.evaluator.curve, ["a_avg", "a_last"])
    assert found["a_last"] is not None
    assert found["a_last"] > 0.2


def test_what_would_change_the_order_is_refused() -> None:

    class Sorting(Strategy):
        def order(self, exp: Experience, epoch: int) -> Order | None:
            return Order(exp.data.y().argsort())

    with pytest.raises(
        IncompatibleError, match=r"orders the examples, and those of .* an order of their own"
    ):
        run_of(chain(CrossEntropy(), Sorting()), DIGITS)

    class OwnLoop(Strategy):
        def train_experience(self, exp: Experience) -> None: ...

        def losses(self, batch: Batch, out: Output) -> dict[str, Tensor]:
            return {}

    with pytest.raises(IncompatibleError, match="a loop of its own, which does not keep to the order"):
        run_of(OwnLoop(), DIGITS)
    with pytest.raises(IncompatibleError, match=r"does not keep to train\.updates=2"):
        run_of(OwnLoop(), make_benchmark("split-digits"), updates=2)
    run = run_of(make_strategy("er"), DIGITS, evaluation=EvaluationConfig(level="racing"))
    with pytest.raises(IncompatibleError, match=r"evaluation\.level=racing keeps the extrema of tasks"):
        run.fit()


def test_several_updates_on_a_batch() -> None:
    """New inputs and new replayed examples each, and the batch is offered to memories once."""
    images = make_benchmark("si-blurry-digits", seed=1)
    object.__setattr__(images, "transform", clbench.transforms.augment.Transform(1 / 16, ops=("crop",)))
    diary = Diary()
    run = run_of(chain(make_strategy("er", memory=50), diary), images, updates=3)
    run.fit()
    batches = -(-len(STREAM) // 16)
    assert (run.step, run.updates, len(diary.after)) == (batches, 3 * batches, batches)
    assert [y.tolist() for y in diary.batches[::3]] == [y.tolist() for y in diary.batches[2::3]]
    assert not torch.equal(diary.inputs[0], diary.inputs[1])
    memory = next(part.memory for part in run.strategy.parts if hasattr(part, "memory"))
    assert len(memory) == 50
    assert run.examples == len(STREAM)


def test_one_update_is_what_it_was() -> None:
    runs = [run_of(make_strategy("er"), DIGITS, updates=n) for n in (1, 2)]
    for run in runs:
        run.fit()
    assert runs[0].updates * 2 == runs[1].updates
    assert runs[0].forwards < runs[1].forwards


# --- evaluation ---


def test_evaluation_is_due_when_the_count_exceeds_the_next_multiple() -> None:
    """Of batches of 64: after 1024, 2048, …, and not after 8000 but 8064."""
    due = EvaluationConfig(every_examples=1000).due
    counts = [n for n in range(64, 10_000, 64) if due(n // 64, n - 64, n)]
    expected, following = [], 1000
    for n in range(64, 10_000, 64):
        if n > following:
            expected.append(n)
            following += 1000
    assert counts == expected
    assert (1024 in counts, 8000 in counts, 8064 in counts) == (True, False, True)


@pytest.mark.parametrize("batch_size", [16, 7, 64])
def test_only_classes_of_examples_streamed_so_far_are_evaluated(batch_size: int) -> None:
    run = run_of(make_strategy("er"), DIGITS, batch_size=batch_size)
    run.fit()
    curve = run.evaluator.curve
    ticks = curve.ticks()
    for k in range(len(ticks)):
        so_far = set(STREAM[: ticks.examples[k]].tolist())
        tested = {DIGITS.test[i].classes[0] for i in np.flatnonzero(ticks.total[k])}
        assert tested == so_far
    ends = np.cumsum([len(exp) for exp in DIGITS.train])
    reached = np.minimum(-(-ends // batch_size) * batch_size, len(STREAM))
    full = curve.examples[curve.full]
    assert sorted(set(full.tolist())) == reached.tolist()
    assert len(curve.class_total) == len(ends)
    for end, totals in zip(reached, curve.class_total, strict=True):
        assert set(np.flatnonzero(totals)) == set(STREAM[:end].tolist())
    assert curve.experiences == len(ends)
    assert curve.finished


class Stubborn(Strategy):
    """Names the class that comes last in the stream."""

    def __init__(self) -> None:
        self.last = int(list(dict.fromkeys(STREAM.tolist()))[-1])

    def losses(self, batch: Batch, out: Output) -> dict[str, Tensor]:
        return {}

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        scores = torch.arange(10.0).repeat(len(x), 1)
        return scores.index_fill(1, torch.tensor([self.last]), 100.0)


def test_a_class_that_has_not_come_is_out_of_the_question() -> None:
    """Always the highest of the exposed classes is named, whatever the one to come scores."""
    run = run_of(Stubborn(), DIGITS, evaluation=EvaluationConfig(every_examples=100))
    run.fit()
    ticks, last = run.evaluator.curve.ticks(), Stubborn().last
    for k in range(len(ticks)):
        so_far = set(STREAM[: ticks.examples[k]].tolist())
        named = last if last in so_far else max(so_far)
        right = {DIGITS.test[i].classes[0] for i in np.flatnonzero(ticks.correct[k])}
        assert right == {named}
    assert any(last not in STREAM[:n].tolist() for n in ticks.examples)


def test_training_is_the_same_without_evaluation_and_in_pieces(tmp_path: Path) -> None:
    def learned(run: Engine) -> list[Tensor]:
        return [p.detach().clone() for p in run.model.parameters()]

    watched = run_of(make_strategy("er"), DIGITS)
    watched.fit()
    silent = run_of(make_strategy("er"), DIGITS, evaluation=EvaluationConfig(every=0))
    silent.fit()
    assert all(map(torch.equal, learned(watched), learned(silent)))
    half = run_of(make_strategy("er"), DIGITS, execution=Execution(device="cpu"))
    half.until = 40  # within the second segment
    with pytest.raises(KeyboardInterrupt):
        half.fit(lambda: save(tmp_path / "half.safetensors", half.state_dict()))
    again = run_of(make_strategy("er"), DIGITS)
    again.load_state_dict(load(tmp_path / "half.safetensors"))
    again.fit()
    assert all(map(torch.equal, learned(watched), learned(again)))
    assert again.evaluator.curve == watched.evaluator.curve


@pytest.mark.parametrize("how", [{"overlap": True}, {"level": "fast"}])
def test_levels_and_overlap_see_the_same(how: dict[str, Any]) -> None:
    overlap = how.pop("overlap", False)
    runs = [
        run_of(
            make_strategy("er"),
            DIGITS,
            evaluation=EvaluationConfig(every_examples=100, **other),
            execution=Execution(device="cpu", checkpoint_seconds=None, overlap=beside),
        )
        for other, beside in (({}, False), (how, overlap))
    ]
    for run in runs:
        run.fit()
    plain, other = (run.evaluator.curve for run in runs)
    assert np.array_equal(plain.total, other.total)
    if overlap:
        assert plain == other


# --- metrics ---


def test_metrics_by_hand() -> None:
    """Two classes, then three; evaluations after 1024, 2048 and 3008 examples, segments that end at 1500 and 3008."""
    curve = Curve()

    def add(examples: int, experience: int, correct: list[int], full: bool) -> None:
        curve.append(
            step=examples // 64,
            examples=examples,
            experience=experience,
            evaluated=np.arange(len(correct)),
            correct=np.array(correct),
            total=10,
            loss=0.0,
            full=full,
        )
        if full:
            seen = len(correct)
            curve.append_classes(
                np.array(correct + [0] * (3 - seen)), np.array([10] * seen + [0] * (3 - seen))
            )

    add(1024, 0, [8, 4], full=False)  # 0.6
    add(1536, 0, [8, 6], full=True)  # A_1 = 0.7
    add(2048, 1, [6, 6, 3], full=False)  # 0.5
    add(3008, 1, [6, 3, 9], full=False)  # 0.6
    add(3008, 1, [6, 3, 9], full=True)  # A_2 = 0.6
    found = compute(curve, ["a_auc", "a_avg", "a_last", "f_last"])
    assert found["a_auc"] == pytest.approx((0.6 + 0.5 + 0.6) / 3)
    assert found["a_avg"] == pytest.approx(0.65)
    assert found["a_last"] == pytest.approx(0.6)
    assert found["f_last"] == pytest.approx((0.2 + 0.3) / 2)  # the third class was not there before the end


def test_reaching_a_multiple_is_not_exceeding_it() -> None:
    curve = Curve()
    for n, correct in ((1000, 10), (1010, 4)):
        curve.append(
            step=n // 10,
            examples=n,
            experience=0,
            evaluated=0,
            correct=correct,
            total=10,
            loss=0.0,
            full=False,
        )
    curve.append(step=101, examples=1010, experience=0, evaluated=0, correct=4, total=10, loss=0.0, full=True)
    assert a_auc(curve) == pytest.approx(0.4)
    assert a_auc_1000(curve) == pytest.approx(1.0)


def test_records_hold_them(tmp_path: Path) -> None:
    record = clbench.run("si-blurry-digits", "er", seed=1, out=tmp_path, hidden=[16])
    for name in ("a_auc", "a_avg", "a_last", "f_last"):
        assert record.metrics[name] is not None
    plain = clbench.run("split-digits", "er", out=tmp_path, hidden=[16], epochs=1, every=50)
    assert "a_auc" not in plain.metrics
