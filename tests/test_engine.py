"""The engine: what decides a run's bits, and what does not."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clbench import Batch, Benchmark, Classifier, Output, Strategy, chain, make_strategy
from clbench.config import Execution, RunConfig
from clbench.engine.engine import Engine
from clbench.engine.observer import Observer
from clbench.errors import ConfigError, DivergedError, IncompatibleError
from clbench.machine import checkpoint
from clbench.machine.device import pick_device
from clbench.machine.optim import schedule_factor
from clbench.machine.randomness import derive_seed
from clbench.parts import CrossEntropy
from clbench.testing import difference, tiny_benchmark, tiny_run
from clbench.types import Experience, Order


def network(benchmark: Benchmark, dropout: float = 0.3) -> Classifier:
    """With everything that an evaluation could disturb: running statistics and draws."""
    size = torch.Size(benchmark.input_shape).numel()
    body = nn.Sequential(
        nn.Flatten(), nn.Linear(size, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout)
    )
    return Classifier(body, 16, benchmark.num_classes)


def build(
    strategy: str | Strategy = "er",
    benchmark: Benchmark | None = None,
    *,
    model: Classifier | None = None,
    seed: int = 0,
    seeds: Mapping[str, int] | None = None,
    execution: Mapping[str, Any] | None = None,
    observers: tuple[Observer, ...] = (),
    **sections: Any,
) -> Engine:
    benchmark = benchmark or tiny_benchmark()
    method = make_strategy(strategy) if isinstance(strategy, str) else strategy
    tree = {
        "benchmark": benchmark.name,
        "strategy": str(method),
        "optim": {"lr": 0.05, "momentum": 0.9},
        "train": {"batch_size": 16, "epochs": 2},
        "seeds": {"order": seed, "init": seed, "data": seed, **(seeds or {})},
    }
    config = RunConfig.model_validate({**tree, **sections})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seeds.init, "initialisation"))
        network_ = model or network(benchmark)
        how = Execution.model_validate({"device": "cpu", "checkpoint_seconds": None, **(execution or {})})
        return Engine(benchmark, method, network_, config, how, observers)


def fitted(*args: Any, **kwargs: Any) -> Engine:
    run = build(*args, **kwargs)
    run.fit()
    return run


def weights(run: Engine) -> dict[str, Tensor]:
    return run.model.state_dict()


def same(a: Engine, b: Engine) -> bool:
    return difference(weights(a), weights(b)) is None


class Recorder(Observer):
    """Every row of the log."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self.ended = 0

    def window(self, run: Engine, rows: Any) -> None:
        self.rows += rows

    def end(self, run: Engine) -> None:
        self.ended += 1


# --- the evaluator is silent ---


@pytest.mark.parametrize("evaluation", [{"every": 1}, {"every": 3}, {"every": 1, "subset": 7}], ids=str)
def test_training_with_the_evaluator_is_training_without(evaluation: dict[str, int]) -> None:
    silent = fitted(evaluation={"every": 0})
    watched = fitted(evaluation=evaluation)
    assert difference(weights(silent), weights(watched)) is None


def test_the_callers_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    fitted()
    assert torch.equal(before, torch.get_rng_state())


def test_the_callers_global_generator_decides_nothing() -> None:
    torch.manual_seed(3)
    first = fitted()
    torch.manual_seed(4)
    assert same(first, fitted())


# --- seeds ---


@pytest.mark.parametrize("anew", [True, False])
def test_what_stopped_goes_on_with_its_own_noise(anew: bool) -> None:
    """By the same engine, or by another one that is given its state after `fit`."""

    half = build()
    half.until = 5
    with pytest.raises(KeyboardInterrupt):
        half.fit()
    torch.rand(3)  # the caller's
    rest = build() if anew else half
    if anew:
        rest.load_state_dict(half.state_dict())
    rest.until = None
    rest.fit()
    assert same(fitted(), rest)


def test_the_same_seed_gives_the_same_bits() -> None:
    assert same(fitted(seed=5), fitted(seed=5))


def test_another_seed_gives_other_bits() -> None:
    assert not same(fitted(seed=5), fitted(seed=6))


def test_the_seed_of_the_initialisation_changes_the_weights_and_not_the_order() -> None:
    a, b = build(), build(seeds={"init": 1})
    assert not same(a, b)
    assert torch.equal(a._new_order(a.train[0], 0).rows, b._new_order(b.train[0], 0).rows)


def test_the_seed_of_the_data_changes_the_order_and_not_the_weights() -> None:
    a, b = build(), build(seeds={"data": 1})
    assert same(a, b)
    assert not torch.equal(a._new_order(a.train[0], 0).rows, b._new_order(b.train[0], 0).rows)


def test_the_seed_of_the_stream_changes_nothing_in_the_engine() -> None:
    assert same(fitted(), fitted(seeds={"order": 1}))


def test_every_pass_has_an_order_of_its_own() -> None:
    run = build()
    orders = [run._new_order(exp, epoch).rows.tolist() for exp in run.train for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 6
    assert all(sorted(order) == list(range(64)) for order in orders)


# --- how batches come ---


class Sees(Strategy):
    """Keeps the rows of every batch."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def after_step(self, batch: Batch, out: Output) -> None:
        self.rows.append(batch.index[: batch.new].tolist())


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_bring_the_batches_that_residents_are(workers: int) -> None:
    def run(**execution: Any) -> tuple[Engine, Sees]:
        sees = Sees()
        benchmark = tiny_benchmark(experiences=2, images=True)
        return fitted(chain(make_strategy("er"), sees), benchmark, execution=execution), sees

    resident, seen = run(resident="always")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fed, seen_fed = run(resident="never", workers=workers)
    assert seen.rows == seen_fed.rows
    assert same(resident, fed)


def test_workers_end_with_their_experience() -> None:
    """And do not wait for the garbage collector, in which torch waits for them."""
    there: list[int] = []

    class Counts(Strategy):
        def begin_experience(self, exp: Experience) -> None:
            there.append(len(set(multiprocessing.active_children()) - before))

    before = set(multiprocessing.active_children())
    gc.disable()
    try:
        run = build(
            chain(make_strategy("er"), Counts()),
            tiny_benchmark(experiences=2),
            execution={"resident": "never", "workers": 1},
        )
        run.fit()
        there.append(len(set(multiprocessing.active_children()) - before))
    finally:
        gc.enable()
    assert there == [0, 0, 0]


def test_more_workers_than_cores_do_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted("er", tiny_benchmark(experiences=1), execution={"resident": "never", "workers": 2})


def test_an_epoch_is_one_pass() -> None:
    sees = Sees()
    run = fitted(chain(CrossEntropy(), sees), train={"batch_size": 20, "epochs": 2})
    assert run.step == 3 * 2 * math.ceil(64 / 20)
    assert sorted(row for rows in sees.rows[:4] for row in rows) == list(range(64))
    assert [len(rows) for rows in sees.rows[:4]] == [20, 20, 20, 4]


def test_drop_last_leaves_out_the_smaller_batch() -> None:
    sees = Sees()
    run = fitted(chain(CrossEntropy(), sees), train={"batch_size": 20, "epochs": 1, "drop_last": True})
    assert {len(rows) for rows in sees.rows} == {20}
    assert run.step == 9


def test_drop_last_keeps_a_batch_that_is_all_there_is() -> None:
    assert fitted(train={"batch_size": 100, "epochs": 1, "drop_last": True}).step == 3


def test_later_experiences_may_have_passes_of_their_own() -> None:
    """Four batches in the first pass of each of three experiences; `run.epochs` says how many passes there are."""
    passes: set[tuple[int, int]] = set()

    class Sees(Strategy):
        def after_step(self, batch: Batch, out: Output) -> None:
            passes.add((self.run.experience, self.run.epochs))

    run = fitted(chain(CrossEntropy(), Sees()), train={"batch_size": 16, "epochs": 1, "later_epochs": 3})
    assert run.step == 4 * (1 + 3 + 3)
    assert passes == {(0, 1), (1, 3), (2, 3)}
    assert fitted(train={"batch_size": 16, "epochs": 3, "later_epochs": 1}).step == 4 * (3 + 1 + 1)


def test_iterations_override_epochs() -> None:
    run = fitted(train={"batch_size": 16, "epochs": 1, "iterations": 7})
    assert (run.step, run.examples) == (21, 3 * 7 * 16)


def test_iterations_take_as_many_passes_as_they_need() -> None:
    sees = Sees()
    fitted(
        chain(CrossEntropy(), sees), tiny_benchmark(experiences=1), train={"batch_size": 32, "iterations": 5}
    )
    assert sorted(sees.rows[0] + sees.rows[1]) == sorted(sees.rows[2] + sees.rows[3]) == list(range(64))


def test_iterations_of_whole_passes_are_epochs() -> None:
    whole = fitted(train={"batch_size": 16, "epochs": 2})
    assert same(whole, fitted(train={"batch_size": 16, "iterations": 8}))


def test_a_pass_without_rows_is_refused() -> None:
    class Nothing(Strategy):
        def order(self, exp: Experience, epoch: int) -> Order:
            return Order(torch.empty(0, dtype=torch.int64))

    with pytest.raises(IncompatibleError, match=r"A pass over experience 1 of tiny@1 has no examples\."):
        fitted(chain(CrossEntropy(), Nothing()))


# --- what a setting allows ---


@pytest.mark.parametrize("train", [{"epochs": 2}, {"later_epochs": 2}, {"iterations": 5}], ids=str)
def test_too_many_passes_are_refused_before_anything_happens(train: dict[str, int]) -> None:
    with pytest.raises(IncompatibleError, match="tiny@1 allows 1 pass over an experience"):
        build(benchmark=tiny_benchmark(passes=1), train={"batch_size": 16, **train})


def test_one_pass_of_iterations_is_allowed_online() -> None:
    assert fitted(benchmark=tiny_benchmark(passes=1), train={"batch_size": 16, "iterations": 4}).step == 12


def test_a_need_that_the_setting_does_not_meet_is_named() -> None:
    with pytest.raises(IncompatibleError, match=r"^ewc needs boundaries .* which tiny@1 does not give"):
        build("ewc", tiny_benchmark(boundaries=False))


def test_a_strategy_that_learns_nothing_is_refused() -> None:
    class Idle(Strategy):
        pass

    with pytest.raises(IncompatibleError, match="neither adds a loss nor classifies"):
        build(Idle())


def test_without_boundaries_nobody_is_told_of_experiences() -> None:
    class Told(Strategy):
        told = 0

        def begin_experience(self, exp: Experience) -> None:
            self.told += 1

    told = Told()
    fitted(chain(CrossEntropy(), told), tiny_benchmark(boundaries=False))
    assert told.told == 0


# --- schedules, clipping, optimizers ---


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_later_experiences_may_have_a_rate_of_their_own(schedule: str) -> None:
    """The optimizer's as well as the log's, and with the schedule."""
    recorder, used = Recorder(), []

    class Sees(Strategy):
        def after_step(self, batch: Batch, out: Output) -> None:
            used.append(self.run.optimizer.param_groups[0]["lr"])

    fitted(
        chain(CrossEntropy(), Sees()),
        optim={"lr": 0.1, "later_lr": 0.01, "schedule": schedule},
        train={"iterations": 4},
        observers=(recorder,),
    )
    factors = [0.5 * (1 + math.cos(math.pi * k / 4)) if schedule == "cosine" else 1.0 for k in range(4)]
    expected = [lr * factor for lr in (0.1, 0.01, 0.01) for factor in factors]
    assert used == pytest.approx(expected)
    assert [row["lr"] for row in recorder.rows] == pytest.approx(expected)


def rates(**optim: Any) -> list[float]:
    recorder = Recorder()
    benchmark = tiny_benchmark(experiences=1)
    fitted("finetune", benchmark, optim={"lr": 0.1, **optim}, train={"iterations": 10}, observers=(recorder,))
    return [row["lr"] for row in recorder.rows]


@pytest.mark.parametrize(
    ("optim", "expected"),
    [
        ({}, lambda k: 0.1),
        ({"schedule": "cosine"}, lambda k: 0.05 * (1 + math.cos(math.pi * k / 10))),
        (
            {"schedule": "steps", "milestones": [0.3, 0.6], "gamma": 0.5},
            lambda k: 0.1 * 0.5 ** ((k >= 3) + (k >= 6)),
        ),
        ({"warmup": 0.4}, lambda k: 0.1 * min(1, (k + 1) / 4)),
        (
            {"schedule": "cosine", "warmup": 0.2},
            lambda k: 0.05 * (1 + math.cos(math.pi * k / 10)) * min(1, (k + 1) / 2),
        ),
    ],
    ids=["constant", "cosine", "steps", "warmup", "cosine-warmup"],
)
def test_schedules_follow_their_closed_forms(optim: dict[str, Any], expected: Callable[[int], float]) -> None:
    assert rates(**optim) == pytest.approx([expected(k) for k in range(10)])


def test_the_optimizer_uses_the_rate_of_the_schedule() -> None:
    run = build("finetune", tiny_benchmark(experiences=1), optim={"lr": 0.1, "schedule": "cosine"})
    used: list[float] = []
    step = run.optimizer.step

    def spy(*args: Any, **kwargs: Any) -> Any:
        used.append(run.optimizer.param_groups[0]["lr"])
        return step(*args, **kwargs)

    run.optimizer.step = spy  # type: ignore[method-assign]
    run.fit()
    assert used == pytest.approx([0.1 * schedule_factor(run.config.optim, k, 8) for k in range(8)])


def test_a_schedule_begins_anew_with_every_experience() -> None:
    recorder = Recorder()
    fitted("finetune", optim={"lr": 0.1, "schedule": "cosine"}, observers=(recorder,))
    by_experience = [[row["lr"] for row in recorder.rows if row["experience"] == i] for i in range(3)]
    assert by_experience[0] == by_experience[1] == by_experience[2]


def test_clipping_bounds_the_norm_of_the_whole_gradient() -> None:
    class Norms(Strategy):
        norms: list[float]

        def after_update(self) -> None:
            grads = [p.grad for p in self.run.model.parameters() if p.grad is not None]
            self.norms.append(float(torch.cat([g.flatten() for g in grads]).norm()))

    watcher = Norms()
    watcher.norms = []
    fitted(chain(CrossEntropy(), watcher), optim={"lr": 0.1, "clip": 0.05})
    assert max(watcher.norms) <= 0.05 * 1.0001


def momenta(reset: bool) -> list[bool]:
    """For each experience but the first, whether it begins with an empty optimizer."""
    empty: list[bool] = []

    class Watch(Strategy):
        def begin_experience(self, exp: Experience) -> None:
            if exp.index:
                empty.append(not self.run.optimizer.state)

    fitted(chain(CrossEntropy(), Watch()), optim={"lr": 0.1, "momentum": 0.9, "reset": reset})
    return empty


def test_the_optimizer_begins_anew_with_every_experience() -> None:
    assert momenta(reset=True) == [True, True]


def test_the_optimizer_is_carried_over_without_reset() -> None:
    assert momenta(reset=False) == [False, False]


def test_the_optimizer_is_carried_over_where_no_boundary_is_told() -> None:
    a = fitted(benchmark=tiny_benchmark(boundaries=False), optim={"momentum": 0.9, "reset": True})
    assert same(
        a, fitted(benchmark=tiny_benchmark(boundaries=False), optim={"momentum": 0.9, "reset": False})
    )


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_every_optimizer_learns(name: str) -> None:
    lr = 0.1 if name == "sgd" else 0.01
    run = fitted(
        "finetune", tiny_benchmark(experiences=1), optim={"name": name, "lr": lr}, train={"epochs": 10}
    )
    assert run.evaluator.curve.matrix().R[0, 0] > 0.9


# --- precision and memory format ---


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.filterwarnings("ignore:.*GradScaler.*")
def test_low_precision_stays_finite_and_near(precision: str) -> None:
    benchmark = tiny_benchmark(images=True)
    full = fitted(benchmark=benchmark, model=network(benchmark, 0.0))
    low = fitted(benchmark=benchmark, model=network(benchmark, 0.0), precision=precision)
    assert all(torch.isfinite(w).all() for w in weights(low).values() if w.is_floating_point())
    assert low.evaluator.curve.matrix().R[-1].mean() == pytest.approx(
        full.evaluator.curve.matrix().R[-1].mean(), abs=0.25
    )


def test_channels_last_gives_close_results() -> None:
    def conv(benchmark: Benchmark) -> Classifier:
        body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return Classifier(body, 8, benchmark.num_classes)

    benchmark = tiny_benchmark(images=True)

    def run(channels_last: bool) -> Engine:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = conv(benchmark)
        return fitted("finetune", benchmark, model=model, channels_last=channels_last)

    a, b = run(False), run(True)
    assert b.normalise(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)[:, :1]).dim() == 4
    for name, w in weights(a).items():
        torch.testing.assert_close(w, weights(b)[name].contiguous(), rtol=1e-3, atol=1e-4)


# --- losses that are not finite ---


class Explode(Strategy):
    """Not a number from some step on; and a method that cannot bear that."""

    def __init__(self, at: int, brittle: bool = False) -> None:
        self.at, self.brittle = at, brittle

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if self.brittle and self.run.step > self.at:
            raise RuntimeError("probability tensor contains nan")
        return {"boom": out.logits.sum() * (math.nan if self.run.step >= self.at else 0.0)}

    def end_experience(self, exp: Experience) -> None:
        if self.brittle and self.run.step > self.at:
            raise RuntimeError("probability tensor contains nan")


@pytest.mark.parametrize("at", [0, 5, 7, 8, 23])
def test_a_loss_that_is_not_finite_names_step_experience_and_terms(at: int) -> None:
    with pytest.raises(DivergedError) as caught:
        fitted(chain(CrossEntropy(), Explode(at)))
    error = caught.value
    assert (error.step, error.experience, set(error.terms)) == (at, at // 8, {"fit", "boom"})


def test_the_curve_of_a_run_that_diverged_ends_where_it_did() -> None:
    run = build(chain(CrossEntropy(), Explode(5)))
    with pytest.raises(DivergedError):
        run.fit()
    assert run.evaluator.curve.step.max() == 5


@pytest.mark.parametrize("at", [5, 7])
def test_a_method_that_trips_over_a_nan_has_diverged(at: int) -> None:
    with pytest.raises(DivergedError):
        fitted(chain(CrossEntropy(), Explode(at, brittle=True)))


def test_an_error_of_a_method_is_its_own() -> None:
    class Broken(Strategy):
        def after_step(self, batch: Batch, out: Output) -> None:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        fitted(chain(CrossEntropy(), Broken()))


def test_observers_are_told_of_the_end_also_when_a_run_diverges() -> None:
    recorder = Recorder()
    with pytest.raises(DivergedError):
        fitted(chain(CrossEntropy(), Explode(3)), observers=(recorder,))
    assert (recorder.ended, [row["step"] for row in recorder.rows]) == (1, [0, 1, 2])


def test_the_log_has_a_row_for_every_step() -> None:
    recorder = Recorder()
    run = fitted(observers=(recorder,))
    assert [row["step"] for row in recorder.rows] == list(range(run.step))


# --- checkpoints ---


def test_a_checkpoint_after_the_last_step_does_not_leave_its_order_behind() -> None:
    """The next experience would take the rows of this one."""
    states: list[dict[str, Any]] = []
    run = build(execution={"checkpoint_seconds": 0})
    run.fit(lambda: states.append(checkpoint.clone(run.state_dict())))
    within = [s for s in states if s["place"]["phase"] == "within" and s["place"]["done"] == 8]
    assert len(within) == 3
    fresh = build()
    fresh.load_state_dict(within[0])
    fresh.fit()
    assert same(run, fresh)


# --- devices ---


def test_what_is_done_tentatively_leaves_no_trace() -> None:
    """Draws, those of a stream first asked for inside too, and BatchNorm statistics."""
    run = tiny_run(make_strategy("er"), tiny_benchmark())
    run.rng("known")
    x = torch.ones((4, 8))
    drawn, outputs, before = [], [], dict(run.model.named_buffers())
    before = {name: buffer.clone() for name, buffer in before.items()}
    for _ in range(2):
        with run.tentatively():
            drawn.append(
                [torch.rand(3, generator=run.rng(name)) for name in ("known", "new")] + [torch.rand(3)]
            )
            outputs.append(run.forward(x + torch.arange(4)[:, None]).logits)
    assert difference(*drawn) is None
    assert torch.equal(*outputs)
    assert difference(before, dict(run.model.named_buffers())) is None


def test_gradients_are_scaled_by_the_scale_that_is_told() -> None:
    scales = {}
    for precision in ("fp32", "bf16", "fp16"):
        found: list[Tensor] = []

        class Look(Strategy):
            def gradient(self, batch: Batch, inner: Callable[[Batch], Output]) -> Output:
                out = inner(batch)
                loss = nn.functional.cross_entropy(self.run.forward(batch.x).logits, batch.y)
                (true,) = torch.autograd.grad(loss, [self.run.model.head.bias])
                given = self.run.model.head.bias.grad
                found.append((given / true).median() / self.run.gradient_scale())  # noqa: B023
                return out

        run = tiny_run(chain(CrossEntropy(), Look()), tiny_benchmark(), precision=precision)
        run.fit()
        scales[precision] = run.gradient_scale().item()
        assert torch.stack(found[:1]).allclose(torch.ones(1), rtol=0.1)
    assert scales["fp32"] == scales["bf16"] == 1 < scales["fp16"]


def test_auto_takes_what_there_is() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "mps", "meta", "cuda:99"])
def test_a_device_that_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        pick_device(name)


FAULTS = """
import ctypes, resource, sys
import torch
from clbench.machine.device import keep_freed_memory

for parameter in (-1, -3):  # glibc's first values, which it may raise by itself
    ctypes.CDLL(None).mallopt(parameter, 128 << 10)

if sys.argv[1] == "kept":
    keep_freed_memory()
for turn in range(14):
    if turn == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(1 << 20) for _ in range(6)]  # 24 MiB
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_need_not_be_asked_for_again() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", FAULTS, how], env=env, capture_output=True, check=True
            ).stdout
        )
        for how in ("kept", "default")
    }
    assert faults["kept"] < faults["default"] / 3


def test_seeds_are_the_same_on_every_machine() -> None:
    assert derive_seed(0, "order/0/0") == 5558966699269828078
    assert derive_seed(7, "replay") == 8625770507929510119


# --- losses ---


class Losing(Strategy):
    """Returns what it is told to."""

    def __init__(self, made: Callable[[Tensor], Any]) -> None:
        self.made = made

    def losses(self, batch: Batch, out: Output) -> Any:
        return self.made(out.logits)


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (lambda z: {"fit": z.mean(1)}, r"'fit' has shape \(16,\); reduce it, by \.mean\(\) for example"),
        (lambda z: {"fit": z}, r"'fit' has shape \(16, 6\); reduce it"),
        (lambda z: {"fit": z.mean()[None]}, r"'fit' has shape \(1,\); reduce it"),
        (lambda z: {"fit": z[:0, 0]}, r"'fit' has shape \(0,\); reduce it"),
        (lambda z: {"fit": z.mean(), "other": z.sum(0)}, r"'other' has shape \(6,\); reduce it"),
        (lambda z: {"fit": z.mean().item()}, r"'fit' is no tensor, but float "),
        (lambda z: {"fit": None}, r"'fit' is no tensor, but NoneType None"),
        (lambda z: {"fit": [z.mean()]}, r"'fit' is no tensor, but list "),
        (lambda z: {"fit": z.mean().to(torch.complex64)}, r"'fit' is complex; take its \.abs\(\)"),
        (lambda z: {0: z.mean()}, r"the name 0 is no text"),
        (lambda z: z.mean(), r"Tensor was given"),
        (lambda z: None, r"NoneType was given"),
    ],
)
def test_a_loss_that_is_no_scalar_tensor_is_named(made: Callable[[Tensor], Any], problem: str) -> None:
    run = build(chain(Losing(made)))
    message = rf"^losses\(\) of Losing in \S+ returns a dictionary of scalar tensors, .*: {problem}"
    with pytest.raises(IncompatibleError, match=message):
        run.fit()


@pytest.mark.parametrize(
    "made",
    [
        lambda z: {"fit": z.mean().detach()},
        lambda z: {"fit": torch.ones(())},
        lambda z: {"fit": z.argmax().float()},
        lambda z: {"fit": z.argmax()},
    ],
)
def test_a_loss_without_a_gradient_is_named(made: Callable[[Tensor], Any]) -> None:
    run = build(chain(Losing(made)))
    with pytest.raises(
        IncompatibleError, match=r"^The loss of \S+ \(fit\) has no gradient, .* without detach\(\)"
    ):
        run.fit()


@pytest.mark.parametrize(
    ("losses", "problem"),
    [
        ({"fit": torch.ones(3)}, r"'fit' has shape \(3,\)"),
        ({"fit": 0.5}, r"'fit' is no tensor, but float 0\.5"),
    ],
)
def test_losses_that_are_only_logged_are_scalar_tensors_too(losses: Any, problem: str) -> None:
    run = build("finetune")
    with pytest.raises(IncompatibleError, match=rf"^finetune: updated\(\) takes a dictionary .*: {problem}"):
        run.updated(losses)
    assert run.updates == 0
