"""The same batches through Avalanche 0.6 and through clbench give the same losses, weights and accuracies.

Avalanche trains first, on scikit-learn's digits cut into five experiences, and a plugin of it writes down the
rows of every mini-batch and its loss. clbench then runs as it always does, from raw data to accuracy matrix;
one more part in its chain serves the recorded rows in place of drawn ones. Initial weights are copied.

What comes out: Naive and Replay agree in every bit of every loss and weight over the whole run. EWC and LwF
add up the same terms in another order, so float32 rounds differently; left alone, a ReLU that flips on such a
difference sends two runs apart. For these, every step begins at Avalanche's weights, and its loss and the
weights after it agree within `TOLERANCE`. Accuracies agree in all: each test set has the same number right.

Avalanche's definitions, where they differ from clbench's defaults, and what makes clbench compute them:

1. Its replay memory is balanced over experiences, filled once per experience and shuffled by a loader that
   repeats; ours is a reservoir, offered every batch. The rows are therefore the recorded ones; what is
   compared is the loss.
2. Its EWC penalty is λ Σ F (θ − θ*)²; ours is λ/2 Σ F (θ − θ*)², as in the paper: `strength` = 2 λ.
3. Its Fisher information is the squared gradient of batch means over the experience in order, in eval mode,
   true labels, averaged over batches: `fisher="batch"`. The batch size is therefore a hyper-parameter of it.
4. Its online EWC must be given a decay, `decay_factor`; our `decay` is 1 unless given.
5. Its LwF is KL(teacher ‖ model), averaged over the batch, of probabilities normalised over the classes seen
   before and without the factor T²: our default, `columns="old"`.
6. Its LwF teacher stays in train mode; ours is in eval mode. It matters to models with batch norm or dropout,
   where Avalanche's teacher also updates its own statistics; the network here has neither.
7. Its optimizer keeps its momentum from one experience to the next: `optim.reset=false`.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.data import TensorDataset

from clbench import config
from clbench.config import Execution
from clbench.data import build, digits
from clbench.engine.engine import Engine
from clbench.engine.observer import Observer
from clbench.machine.optim import make_optimizer
from clbench.models import Classifier, make_model
from clbench.runs.building import make_strategy
from clbench.strategy import Strategy, chain
from clbench.types import Batch, Benchmark, Experience, Order, Output

BATCH_SIZE, EPOCHS, MEMORY = 16, 3, 60
SETTINGS: Mapping[str, Any] = {
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "reset": False,
    "batch_size": BATCH_SIZE,
    "epochs": EPOCHS,
    "every": 0,
}


@dataclass(frozen=True)
class Case:
    """One strategy in both libraries."""

    theirs: str
    their_params: Mapping[str, Any]
    ours: str
    our_params: Mapping[str, Any]
    exact: bool

    def __str__(self) -> str:
        return "-".join([self.ours, *(str(v) for v in self.our_params.values())])


# `draw=0` turns er's own draws off; the recorded rows take their place.
CASES = (
    Case("Naive", {}, "finetune", {}, exact=True),
    Case("Replay", {"mem_size": MEMORY}, "er", {"draw": 0}, exact=True),
    Case("EWC", {"ewc_lambda": 500.0}, "ewc", {"strength": 1000.0, "fisher": "batch"}, exact=False),
    Case(
        "EWC",
        {"ewc_lambda": 500.0, "mode": "online", "decay_factor": 0.9},
        "ewc",
        {"strength": 1000.0, "fisher": "batch", "online": True, "decay": 0.9},
        exact=False,
    ),
    Case("LwF", {"alpha": 2.0, "temperature": 2.0}, "lwf", {"alpha": 2.0, "temperature": 2.0}, exact=False),
)
TOLERANCE = 1e-6
"""Of a loss, absolute and relative, and of a weight, absolute; over 12 seeds neither exceeded 2e-7."""


@dataclass
class Trace:
    """What a run leaves behind.

    Attributes:
        rows: (experience, epoch) → (B,) rows of each mini-batch, numbered over the whole training stream.
        losses: total loss of every step.
        weights: all weights before the first step and after every step, as vectors.
        accuracies: (T, T), after experience i on test experience j.
        extra: of clbench, the largest value of what the strategy adds to the cross-entropy.
    """

    rows: dict[tuple[int, int], list[Tensor]] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    accuracies: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0))
    extra: float = 0.0


@pytest.fixture(scope="module")
def avalanche() -> ModuleType:
    """Avalanche, imported once: it takes seconds."""
    from clbench.machine.torchvision import torchvision

    torchvision()
    with unheard():
        module = pytest.importorskip("avalanche", reason="the parity with Avalanche needs avalanche-lib")
        for name in ("benchmarks.utils", "evaluation.metrics", "training.plugins", "training.supervised"):
            importlib.import_module(f"avalanche.{name}")
    return module  # type: ignore[no-any-return]


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Without the warnings of Avalanche and what it imports; recorded, since Avalanche resets the filters."""
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return build(digits(), name="digits", experiences=5)


@pytest.fixture(params=CASES, ids=str, scope="module")
def traces(
    request: pytest.FixtureRequest, avalanche: ModuleType, benchmark: Benchmark
) -> tuple[Case, Trace, Trace]:
    """A strategy in Avalanche, and in clbench on Avalanche's batches."""
    case: Case = request.param
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make_model("mlp", benchmark.input_shape, benchmark.num_classes, hidden=(64, 64))
        with unheard():
            theirs = run_avalanche(avalanche, case, benchmark, copy.deepcopy(model))
        ours = run_clbench(case, benchmark, model, theirs)
    return case, theirs, ours


def test_same_number_of_steps(traces: tuple[Case, Trace, Trace]) -> None:
    _, theirs, ours = traces
    assert len(ours.losses) == len(theirs.losses) > 200


def test_same_losses(traces: tuple[Case, Trace, Trace]) -> None:
    case, theirs, ours = traces
    if case.exact:
        assert ours.losses == theirs.losses
    else:
        np.testing.assert_allclose(ours.losses, theirs.losses, rtol=TOLERANCE, atol=TOLERANCE)


def test_same_weights(traces: tuple[Case, Trace, Trace]) -> None:
    case, theirs, ours = traces
    assert len(ours.weights) == len(theirs.weights)
    atol = 0.0 if case.exact else TOLERANCE
    for mine, its in zip(ours.weights, theirs.weights, strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=atol)


def test_same_accuracies(traces: tuple[Case, Trace, Trace]) -> None:
    _, theirs, ours = traces
    np.testing.assert_allclose(ours.accuracies, theirs.accuracies, rtol=0, atol=1e-12)


def test_the_recorded_batches_hold_what_they_should(
    traces: tuple[Case, Trace, Trace], benchmark: Benchmark
) -> None:
    """Guards the test itself: every pass covers its experience; replay adds rows from the second on."""
    case, theirs, _ = traces
    starts = first_rows(benchmark)
    for (e, _), batches in theirs.rows.items():
        rows = torch.cat(batches)
        stream = rows[rows >= starts[e]]
        assert stream.sort().values.tolist() == list(range(starts[e], starts[e + 1]))
        assert (len(rows) > len(stream)) == (case.ours == "er" and e > 0)


def test_the_compared_loss_is_more_than_cross_entropy(traces: tuple[Case, Trace, Trace]) -> None:
    """Guards the test itself: the penalty and the distillation are large enough to be seen in the total."""
    case, _, ours = traces
    assert (ours.extra > 0.1) == (case.ours in ("ewc", "lwf"))


# --- Avalanche ---


def run_avalanche(avalanche: Any, case: Case, benchmark: Benchmark, model: torch.nn.Module) -> Trace:
    """Avalanche's strategy on the benchmark's own normalised inputs."""
    starts = first_rows(benchmark)
    scenario = avalanche.benchmarks.benchmark_from_datasets(
        train=[dataset(avalanche, benchmark, exp, starts[exp.index]) for exp in benchmark.train],
        test=[dataset(avalanche, benchmark, exp, 0) for exp in benchmark.test],
    )
    trace = Trace(weights=[vector(model)])

    class Recorder(avalanche.training.plugins.SupervisedPlugin):  # type: ignore[misc]  # a class at run time only
        def after_backward(self, strategy: Any, **_: Any) -> None:
            place = (strategy.experience.current_experience, strategy.clock.train_exp_epochs)
            trace.rows.setdefault(place, []).append(strategy.mbatch[2].clone())
            trace.losses.append(strategy.loss.item())

        def after_update(self, strategy: Any, **_: Any) -> None:
            trace.weights.append(vector(strategy.model))

    metrics = avalanche.evaluation.metrics.accuracy_metrics(experience=True)
    strategy = getattr(avalanche.training.supervised, case.theirs)(
        model=model,
        optimizer=make_optimizer(list(model.parameters()), resolved(case).optim),
        criterion=F.cross_entropy,
        train_mb_size=BATCH_SIZE,
        train_epochs=EPOCHS,
        eval_mb_size=256,
        plugins=[Recorder()],
        evaluator=avalanche.training.plugins.EvaluationPlugin(metrics, loggers=[]),
        **case.their_params,
    )
    trace.accuracies = np.zeros((len(benchmark.train), len(benchmark.test)))
    for i, exp in enumerate(scenario.train_stream):
        strategy.train(exp)
        for name, value in strategy.eval(scenario.test_stream).items():
            found = re.fullmatch(r"Top1_Acc_Exp/eval_phase/test_stream/.*Exp(\d+)", name)
            if found:
                trace.accuracies[i, int(found[1])] = value
    return trace


def dataset(avalanche: Any, benchmark: Benchmark, exp: Experience, start: int) -> Any:
    """An experience as Avalanche takes it; every example carries its row, numbered from `start`."""
    x, y = benchmark.transform.normalise(exp.data.x()), exp.data.y()
    utils = avalanche.benchmarks.utils
    attributes = [
        utils.DataAttribute(y.tolist(), "targets"),
        utils.DataAttribute([0] * len(y), "targets_task_labels", use_in_getitem=True),
    ]
    rows = TensorDataset(x, y, torch.arange(start, start + len(y)))
    return utils.TaskAwareClassificationDataset([rows], data_attributes=attributes)


# --- clbench ---


class Recorded(Strategy):
    """Serves recorded mini-batches: stream rows in the recorded order, replayed rows as they joined.

    Args:
        follow: put the recorded weights in place before every step and at experience ends.
    """

    def __init__(self, benchmark: Benchmark, trace: Trace, follow: bool) -> None:
        self.trace, self.follow, self.starts = trace, follow, first_rows(benchmark)
        self.raw = torch.cat([exp.data.x() for exp in benchmark.train])
        self.y = torch.cat([exp.data.y() for exp in benchmark.train])

    def setup(self, run: Engine) -> None:
        self.weights = [vector(run.model)]

    def order(self, exp: Experience, epoch: int) -> Order:
        start = self.starts[exp.index]
        batches = self.trace.rows[exp.index, epoch]
        self.replayed = iter([rows[rows < start] for rows in batches])
        return Order(torch.cat([rows[rows >= start] for rows in batches]) - start)

    def extend(self, batch: Batch) -> Batch:
        old = next(self.replayed)
        if not len(old):
            return batch
        raw, y = self.raw[old], self.y[old]
        return batch.join(self.run.augment(raw), y, torch.full_like(y, -1), raw)

    def step(self, batch: Batch, inner: Callable[[Batch], Output]) -> Output:
        self.put_recorded()
        out = inner(batch)
        self.weights.append(vector(self.run.model))
        return out

    def end_experience(self, exp: Experience) -> None:
        self.put_recorded()

    def put_recorded(self) -> None:
        if self.follow:
            vector_to_parameters(
                self.trace.weights[len(self.weights) - 1].clone(), self.run.model.parameters()
            )


class Losses(Observer):
    """The total loss of every step, added up in float32 as in the engine, and the largest term but `fit`."""

    def __init__(self) -> None:
        self.totals: list[float] = []
        self.extra = 0.0

    def window(self, run: Engine, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            terms = {k: torch.tensor(v) for k, v in row.items() if k not in ("step", "experience", "lr")}
            self.totals.append(float(sum(terms.values())))
            self.extra = max([self.extra, *(float(v) for k, v in terms.items() if k != "fit")])


def run_clbench(case: Case, benchmark: Benchmark, model: Classifier, theirs: Trace) -> Trace:
    """clbench's strategy, on recorded batches and otherwise as always."""
    recorded, losses = Recorded(benchmark, theirs, follow=not case.exact), Losses()
    strategy = chain(recorded, make_strategy(case.ours, **case.our_params))
    run = Engine(benchmark, strategy, model, resolved(case), Execution(device="cpu"), [losses])
    run.fit()
    accuracies = run.evaluator.curve.matrix().R
    return Trace(theirs.rows, losses.totals, recorded.weights, accuracies, losses.extra)


def resolved(case: Case) -> config.RunConfig:
    return config.resolve("digits", case.ours, SETTINGS, given_benchmark=True)


# --- both ---


def first_rows(benchmark: Benchmark) -> list[int]:
    """(T + 1) number of each training experience's first row, and of all rows."""
    return [0, *np.cumsum([len(exp.data) for exp in benchmark.train]).tolist()]


def vector(model: torch.nn.Module) -> Tensor:
    return parameters_to_vector(model.parameters()).detach()
