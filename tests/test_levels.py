"""Levels of evaluation: how far each is from exact, that none changes training, and evaluation beside training."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Batch, Benchmark, Output, Strategy, make_strategy
from clbench.config import Execution, RunConfig
from clbench.engine.engine import Engine
from clbench.errors import ConfigError, EvaluatorError, IncompatibleError
from clbench.evaluation import evaluator, forward as forwards
from clbench.evaluation.forward import EvaluationCopy, portion, weights_of
from clbench.evaluation.speed.integers import has_int8
from clbench.evaluation.ticker import Tick
from clbench.machine import checkpoint
from clbench.machine.caching import keeping_nothing
from clbench.models import Classifier, make_model
from clbench.testing import difference, tiny_benchmark

LEVELS: list[dict[str, Any]] = [
    {"level": "exact"},
    {"level": "fast", "check": 2},
    {"level": "racing", "prefix": 4},
    {"level": "racing", "prefix": 4, "windows": [3]},
    {"level": "racing+fast", "prefix": 4, "windows": [3], "error": 0.2, "check": 3},
]


def network(benchmark: Benchmark) -> Classifier:
    body = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten()
    )
    return Classifier(body, 128, benchmark.num_classes)


def build(
    strategy: str | Strategy = "er", overlap: bool = False, model: Classifier | None = None, **evaluation: Any
) -> Engine:
    benchmark = tiny_benchmark(images=True)
    config = RunConfig.model_validate(
        {
            "benchmark": "tiny",
            "strategy": "x",
            "optim": {"lr": 0.05, "momentum": 0.9},
            "train": {"batch_size": 8},
            "evaluation": evaluation,
            "seeds": {"order": 0, "init": 0, "data": 0},
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = make_strategy(strategy) if isinstance(strategy, str) else strategy
        how = Execution(device="cpu", overlap=overlap, checkpoint_seconds=None)
        return Engine(benchmark, made, model or network(benchmark), config, how)


def fitted(*args: Any, **kwargs: Any) -> Engine:
    run = build(*args, **kwargs)
    run.fit()
    return run


def weights(run: Engine) -> dict[str, Tensor]:
    return checkpoint.clone(run.model.state_dict())  # type: ignore[no-any-return]


def key(evaluation: Mapping[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in evaluation.items())


# --- no level changes training, and full test sets are always exact ---


@pytest.mark.parametrize("evaluation", LEVELS, ids=key)
def test_training_is_the_same_at_every_level(evaluation: dict[str, Any]) -> None:
    silent, watched = fitted(every=0), fitted(**evaluation)
    assert difference(weights(silent), weights(watched)) is None


@pytest.mark.parametrize("evaluation", LEVELS[1:], ids=key)
def test_full_test_sets_are_evaluated_exactly(evaluation: dict[str, Any]) -> None:
    exact, other = fitted().evaluator.curve, fitted(**evaluation).evaluator.curve
    for column in ("step", "evaluated", "correct", "total", "loss"):
        ours, theirs = (getattr(curve, column)[curve.full] for curve in (other, exact))
        assert ours.tolist() == theirs.tolist()


def test_racing_finds_the_minima_of_a_run() -> None:
    exact, raced = (fitted(level=level, prefix=4).evaluator.curve.ticks() for level in ("exact", "racing"))
    old = exact.experience > 0
    assert raced.lowest[old, 0].min() == raced.highest[old, 0].min() == exact.accuracy[old, 0].min()
    assert raced.total.sum() < exact.total.sum()


@pytest.mark.parametrize("integers", [True, False])
def test_the_disagreement_of_fast_is_measured(integers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not integers:
        monkeypatch.setattr(forwards, "has_int8", lambda: False)
    found = fitted(level="fast", check=2).evaluator.describe()
    measured = found["disagreement"]
    assert measured["ticks_compared"] == 13  # 24 steps and step 0
    assert measured["examples_compared"] == 32 * (5 * 1 + 4 * 2 + 4 * 3)
    assert 0 <= measured["judged_differently"] <= 0.05
    assert abs(measured["mean_difference"]) <= measured["judged_differently"]


def test_weights_that_moved_are_taken_over_from_where_they_are() -> None:
    """What is recorded on a GPU reads the addresses of then."""
    run, replays = fitted(level="fast"), []
    ticker, live = run.evaluator._ticker, weights_of(run.model)
    ticker.loading = [w.data_ptr() for w in live], lambda: replays.append(run.step)
    tick = Tick(run.step, run.examples, run.experience, whole=False, check=False)
    ticker.tick(tick, live)
    assert len(replays) == 1
    moved = [w + 1 if w.is_floating_point() else w.clone() for w in live]
    counts = ticker.tick(tick, moved).counts
    assert len(replays) == 1
    ticker.loading = None
    assert torch.equal(counts, ticker.tick(tick, moved).counts)


def test_exact_has_no_disagreement_to_tell_of() -> None:
    found = fitted().evaluator.describe()
    assert found["level"] == "exact"
    assert "disagreement" not in found


def test_a_race_tells_what_it_evaluated() -> None:
    found = fitted(level="racing", prefix=4, error=0.1).evaluator.describe()
    assert 4 / 32 < found["share_evaluated"] < 1
    assert found["error"] == 0.1


# --- folding ---


@pytest.fixture
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folding alone, without rounding."""
    monkeypatch.setattr(forwards, "has_int8", lambda: False)
    monkeypatch.setattr(forwards, "_has_bf16", lambda device: False)


def trained(name: str, shape: tuple[int, ...], **params: Any) -> Classifier:
    """With running statistics and scales that are not 0 and 1."""
    torch.manual_seed(0)
    model = make_model(name, shape, 5, **params)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, *shape))
    return model


@pytest.mark.usefixtures("_float32")
@pytest.mark.parametrize(
    ("name", "params", "folds"),
    [("slim-resnet18", {"width": 4}, 20), ("resnet18", {"width": 4}, 20), ("mlp", {"hidden": (8,)}, 0)],
)
def test_a_folded_copy_says_what_the_network_says(name: str, params: dict[str, Any], folds: int) -> None:
    model = trained(name, (3, 8, 8), **params)
    before = checkpoint.clone(model.state_dict())
    folded = EvaluationCopy(model, None, fast=True)
    folded.load(weights_of(model))
    x, task = torch.randn(16, 3, 8, 8), torch.full((16,), -1)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(folded.logits(x, task), model(x), rtol=1e-4, atol=1e-4)
    assert folded.folds == folds
    assert difference(before, model.state_dict()) is None


@pytest.mark.usefixtures("_float32")
def test_a_folded_copy_follows_the_network() -> None:
    model = trained("slim-resnet18", (3, 8, 8), width=4)
    folded = EvaluationCopy(model, None, fast=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    folded.load(weights_of(model))
    x, task = torch.randn(4, 3, 8, 8), torch.full((4,), -1)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(folded.logits(x, task), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("_float32")
def test_a_norm_after_a_linear_layer_is_folded() -> None:
    torch.manual_seed(0)
    model = Classifier(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False)), 6, 3)
    model(torch.randn(32, 4))
    folded = EvaluationCopy(model, None, fast=True)
    folded.load(weights_of(model))
    x = torch.randn(5, 4)
    with torch.no_grad():
        torch.testing.assert_close(folded.features(x), model.eval().features(x))
    assert folded.folds == 1


class Twice(nn.Module):
    """One norm after one layer, both used twice; and what a layer gives is used beside its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.other, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.layer(self.norm(self.layer(x))))
        y = self.other(x)
        return self.last(y) + y  # type: ignore[no-any-return]


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) if x.sum() > 0 else x


@pytest.mark.usefixtures("_float32")
@pytest.mark.parametrize(("body", "note"), [(Twice, "2 of 2 batch norm"), (Branching, "cannot be traced")])
def test_what_cannot_be_folded_is_left_and_told(body: type[nn.Module], note: str) -> None:
    torch.manual_seed(0)
    model = Classifier(body(), 4, 3)
    model(torch.randn(32, 4))
    plain = EvaluationCopy(model, None, fast=True)
    plain.load(weights_of(model))
    x = torch.randn(5, 4)
    with torch.no_grad():
        torch.testing.assert_close(plain.features(x), model.eval().features(x))
    assert plain.folds == 0
    assert any(note in said for said in plain.notes)


def test_a_race_is_compared_on_what_it_looked_at() -> None:
    evaluator = fitted(level="racing+fast", prefix=4, check=1).evaluator
    ticks = ~evaluator.curve.full
    found = evaluator.describe()["disagreement"]
    assert found["ticks_compared"] == 25
    assert found["examples_compared"] == evaluator.curve.total[ticks].sum() < evaluator.curve.of[ticks].sum()


# --- linear layers ---


@pytest.mark.skipif(not forwards.has_onednn(), reason="this torch has no oneDNN for this processor")
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_go_by_onednn(bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 7, bias=bias), torch.randn(5, 3, 24)
    with torch.no_grad():
        expected = layer(x)
        with forwards.kernels(torch.device("cpu")), torch.profiler.profile(acc_events=True) as seen:
            found = layer(x)
            low = layer.bfloat16()(x.bfloat16())
    assert sum(event.count for event in seen.key_averages() if event.key == "mkldnn::_linear_pointwise") == 1
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(low.float(), expected, rtol=0.05, atol=0.05)


def test_a_strategy_may_train_while_it_is_asked() -> None:
    layer, x = nn.Linear(4, 2), torch.randn(3, 4)
    with torch.no_grad(), forwards.kernels(torch.device("cpu")), torch.enable_grad():
        layer(x).sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(2, 4))


def test_without_onednn_the_counts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, words = [], []
    for there in (forwards.has_onednn(), False):
        for module in (forwards, evaluator):
            monkeypatch.setattr(module, "has_onednn", lambda there=there: there)
        torch.manual_seed(0)
        run = build(model=make_model("mlp", (1, 4, 4), 6, hidden=(8,)))
        run.fit()
        counts.append(run.evaluator.curve.correct.tolist())
        words.append(run.evaluator.describe()["forward"])
    assert words[1] == "float32"
    assert counts[0] == counts[1]


# --- what cannot be copied ---


class Stateful(nn.Module):
    """Of nobody's package that is known to keep all in parameters and buffers, and it does not."""

    scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Rescales(Strategy):
    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"fit": F.cross_entropy(out.logits, batch.y)}

    def after_update(self) -> None:
        self.run.model.backbone[-1].scale = 0.0  # type: ignore[index, union-attr]


def stateful() -> Classifier:
    return Classifier(nn.Sequential(nn.Flatten(), Stateful()), 16, 6)


def test_hidden_state_of_a_foreign_module_is_seen() -> None:
    """The logits are the head's bias from the first update on, in the copy that there must not be."""
    run = fitted(Rescales(), model=stateful(), level="fast")
    ticks = run.evaluator.curve.ticks()
    assert set(ticks.accuracy[1:, 0].tolist()) <= {0.0, 0.5}
    (note,) = run.evaluator.describe()["notes"]
    assert note.startswith("fast evaluation needs a copy of the network, and ")
    assert "Stateful may hold more than parameters and buffers: left out" in note


def test_a_strategy_that_classifies_is_asked() -> None:
    plain, fast = fitted("icarl"), fitted("icarl", level="fast")
    assert plain.evaluator.curve == fast.evaluator.curve
    assert "icarl classifies by a rule of its own" in fast.evaluator.describe()["notes"][0]


def test_windows_need_a_copy() -> None:
    with pytest.raises(
        IncompatibleError, match=r"classifies by a rule of its own; set evaluation\.windows=\[\]"
    ):
        fitted("icarl", level="racing", windows=[10])


def test_a_network_that_changes_its_form_is_followed() -> None:
    class Grows(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            return {"fit": F.cross_entropy(out.logits, batch.y)}

        def end_experience(self, exp: Any) -> None:
            self.run.model.head = nn.Sequential(nn.Linear(128, 4), nn.Linear(4, 6))

    run = fitted(Grows(), level="fast")
    assert run.evaluator.curve.finished


# --- frozen trunks ---


def test_a_frozen_trunk_is_asked_once() -> None:
    asked: list[int] = []

    class Count(nn.Flatten):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(len(x))
            return super().forward(x)

    def model() -> Classifier:
        torch.manual_seed(0)
        made = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU()), 8, 6)
        made.backbone.requires_grad_(False)
        return made

    counting = model()
    counting.backbone[0] = Count()  # type: ignore[operator]
    Count.__module__ = "torch.nn.modules"  # so that nothing stands against a copy
    kept = fitted(model=counting, batch_size=32)
    evaluated = int(kept.evaluator.curve.total.sum())
    # Full sets once, ticks when a stream is new, and training itself; not at each of 25 ticks.
    assert sum(asked) <= 3 * 32 + (1 + 2 + 3) * 32 + kept.forwards
    assert evaluated > 3 * sum(asked) - kept.forwards
    with keeping_nothing():
        assert kept.evaluator.curve == fitted(model=model(), batch_size=32).evaluator.curve


def test_a_frozen_trunk_whose_statistics_move_is_asked_again() -> None:
    """Nothing learns, but batch normalisation in train mode moves; the cached features would be old."""
    model = network(tiny_benchmark(images=True))
    model.backbone.requires_grad_(False)
    run = fitted("finetune", model=model)
    last = run.evaluator.curve.ticks()
    with run.evaluating(), torch.no_grad():
        data = run.benchmark.test[0].data
        right = int((run.model(run.normalise(data.x())).argmax(1) == data.y()).sum())
    assert last.correct[-1, 0] == right


# --- portions ---


def test_portions_come_from_the_cache_and_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The widest pair of maps is 4·32·32 in and out, 32 KiB; a quarter of 8 MiB holds 64 of them."""
    monkeypatch.setattr(forwards, "_cache_bytes", lambda: 8 << 20)
    model = make_model("slim-resnet18", (3, 32, 32), 10, width=4)
    copied = EvaluationCopy(model, None)
    assert portion(copied, torch.device("cpu"), (3, 32, 32)) == 64
    assert portion(copied, torch.device("cuda"), (3, 32, 32)) == 2048


@pytest.mark.skipif(not has_int8(), reason="this processor or this torch has no integer convolutions")
def test_scores_of_a_rounded_network_are_not_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the 8 bits of bfloat16 the highest scores would often be equal, and name no class."""
    monkeypatch.setattr(forwards, "_has_bf16", lambda device: True)
    model = make_model("mlp", (1, 8, 8), 10)
    copied = EvaluationCopy(model, None, fast=True)
    assert {p.dtype for p in copied.model.backbone.parameters()} == {torch.bfloat16}  # type: ignore[union-attr]
    copied.load(weights_of(model))
    x, task = torch.rand(50, 1, 8, 8), torch.full((50,), -1)
    with torch.no_grad():
        scores = copied.logits(x.bfloat16(), task)
        assert torch.equal(scores, model.head(copied.features(x.bfloat16()).float()))
    assert not torch.equal(scores, scores.bfloat16().float())


@pytest.mark.skipif(not forwards.has_onednn(), reason="this torch has no oneDNN for this processor")
def test_maps_in_bytes_may_fill_half_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwards, "has_int8", lambda: True)
    monkeypatch.setattr(forwards, "_cache_bytes", lambda: 2 << 20)
    model = make_model("slim-resnet18", (3, 32, 32), 10, width=4)
    assert portion(EvaluationCopy(model, None), torch.device("cpu"), (3, 32, 32)) == 16
    assert portion(EvaluationCopy(model, None, fast=True), torch.device("cpu"), (3, 32, 32)) == 128


def test_counts_do_not_depend_on_the_portion() -> None:
    a, b = (fitted(batch_size=size).evaluator.curve for size in (7, 32))
    assert a.correct.tolist() == b.correct.tolist()


# --- beside training ---


@pytest.mark.parametrize("evaluation", LEVELS, ids=key)
def test_overlap_changes_no_bit(evaluation: dict[str, Any]) -> None:
    alone, beside = fitted(**evaluation), fitted(overlap=True, **evaluation)
    assert alone.evaluator.curve.ticks().steps.tolist() == list(range(25))
    assert alone.evaluator.curve == beside.evaluator.curve
    assert difference(weights(alone), weights(beside)) is None


@pytest.mark.parametrize("evaluation", LEVELS[2:], ids=key)
def test_a_run_that_waits_for_a_race_helps_and_changes_no_bit(
    evaluation: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from clbench.evaluation.speed.overlap import Worker

    submit, helped, shares = Worker.submit, Worker._helped, []

    def submit_and_wait(self: Worker, tick: Any, weights: Any) -> int:
        number = submit(self, tick, weights)
        while number not in self._done:
            self._receive()
        return number

    monkeypatch.setattr(Worker, "submit", submit_and_wait)
    monkeypatch.setattr(Worker, "_helped", lambda self: shares.append(helped(self)) or shares[-1])
    alone, beside = (fitted(overlap=overlap, batch_size=3, **evaluation) for overlap in (False, True))
    assert len(shares) > 5
    assert all(shares)
    assert alone.evaluator.curve == beside.evaluator.curve
    assert {*beside.evaluator.describe().get("notes", ())} <= {"this cpu has no bfloat16"}


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("evaluation", LEVELS[-1:], ids=key)
def test_a_resumed_run_ends_with_the_same_curve(evaluation: dict[str, Any], overlap: bool) -> None:
    whole = fitted(**evaluation)
    states: list[dict[str, Any]] = []
    run = build(overlap=overlap, **evaluation)
    run.execution = run.execution.model_copy(update={"checkpoint_seconds": 0.0})
    run.fit(lambda: states.append(checkpoint.clone(run.state_dict())))
    for at in (3, 13, 20):
        fresh = build(overlap=overlap, **evaluation)
        fresh.load_state_dict(states[at])
        fresh.fit()
        assert fresh.evaluator.curve == whole.evaluator.curve


class Interrupts(Strategy):
    """Asks the run to end at step 11."""

    def after_step(self, batch: Batch, out: Output) -> None:
        self.run.stop = self.run.step == 11 and not self.asked
        self.asked = self.asked or self.run.stop

    asked = False


def test_an_interrupted_run_may_go_on() -> None:
    from clbench import chain

    evaluation, states = LEVELS[-1], []
    run = build(chain(make_strategy("er"), Interrupts()), overlap=True, **evaluation)
    run.execution = run.execution.model_copy(update={"checkpoint_seconds": 1e9})
    with pytest.raises(KeyboardInterrupt):
        run.fit(lambda: states.append(checkpoint.clone(run.state_dict())))
    assert run.evaluator._worker is None
    fresh = build(chain(make_strategy("er"), Interrupts()), **evaluation)
    fresh.load_state_dict(states[-1])
    fresh.fit()
    assert fresh.evaluator.curve == fitted(**evaluation).evaluator.curve


@pytest.fixture
def _no_child_left() -> Iterator[None]:
    import multiprocessing

    yield
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("_no_child_left")
def test_a_killed_evaluator_ends_the_run_with_a_message() -> None:
    class Kills(Strategy):
        def after_step(self, batch: Batch, out: Output) -> None:
            if self.run.step == 10:
                run: Any = self.run
                worker = run._run.evaluator._worker  # behind what a strategy may see
                assert worker is not None
                assert worker._process.pid is not None
                os.kill(worker._process.pid, signal.SIGKILL)

    from clbench import chain

    run = build(chain(make_strategy("er"), Kills()), overlap=True)
    with pytest.raises(EvaluatorError, match=r"ended with exit code -9.*clbench resume"):
        run.fit()


@pytest.mark.usefixtures("_no_child_left")
def test_a_mistake_in_the_evaluator_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from clbench.evaluation.speed import overlap

    submit = overlap.Worker.submit

    def wrong(self: Any, tick: Any, weights: Any) -> int:
        return submit(self, None, weights)  # type: ignore[arg-type]

    monkeypatch.setattr(overlap.Worker, "submit", wrong)
    with pytest.raises(EvaluatorError, match="The evaluator's process failed: AttributeError"):
        fitted(overlap=True)


# --- configuration ---


@pytest.mark.parametrize(
    ("name", "value"), [("level", "quick"), ("error", 1.0), ("windows", [1]), ("prefix", 0)]
)
def test_values_that_make_no_sense_are_refused(name: str, value: Any) -> None:
    from clbench import config

    with pytest.raises(ConfigError, match=f"evaluation.{name}"):
        config.resolve("split-digits", "er", {f"evaluation.{name}": value})
