"""Evaluation at every iteration, as a pure observer.

After an update, every test stream seen so far is classified as a whole, and counts (correct, total, summed
loss) are appended to the curve. Training with the evaluator is bit-identical to training without it: it draws
nothing, moves no BatchNorm statistics, and gives every module its own train/eval flag back.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.config import EvaluationConfig
from clbench.curve import COLUMNS, Curve
from clbench.network import EXAMPLES, measure
from clbench.types import HIDDEN, Data, Experience

if TYPE_CHECKING:
    from clbench.engine import Run


def portion(model: nn.Module, device: torch.device) -> int:
    """How many examples go through a model at once in evaluation, unless the configuration says.

    On a CPU, the feature maps of few images stay in the cache: in portions of 64, convolutional networks take
    two thirds of the time that they take in portions of 256. Matrix products gain a little from more rows.
    """
    if device.type == "cuda":
        return 2048
    return 64 if any(isinstance(module, nn.Conv2d) for module in model.modules()) else 256


class _TestSet:
    """Test examples of several streams, side by side on the device, normalised once.

    S streams, N examples in all, P the size of the largest stream.
    """

    def __init__(self, run: Run, streams: list[tuple[int, Data, int]]) -> None:
        self.streams = [index for index, _, _ in streams]
        sizes = [len(data) for _, data, _ in streams]
        self.x = torch.cat([run.normalise(data.x().to(run.device)) for _, data, _ in streams])  # (N, …)
        self.y = torch.cat([data.y() for _, data, _ in streams]).to(run.device)  # (N,)
        tasks = [task if run.benchmark.setting.task_labels == "always" else HIDDEN for _, _, task in streams]
        self.task = torch.tensor(tasks).repeat_interleave(torch.tensor(sizes)).to(run.device)  # (N,)
        # Sums per stream come from a (S, P) table with one place for every example: exact, in a fixed order,
        # and without a loop over streams.
        self._table = (len(sizes), max(sizes))
        starts = torch.arange(len(sizes)) * max(sizes)
        within = torch.cat([torch.arange(size) for size in sizes])
        self._place = (starts.repeat_interleave(torch.tensor(sizes)) + within).to(run.device)
        self.totals = np.array(sizes, dtype=np.int64)

    def sums(self, values: Tensor) -> Tensor:
        """(K, N) values of every example → (K, S) sums over each stream."""
        table = values.new_zeros((len(values), self._table[0] * self._table[1]))
        return table.index_copy_(1, self._place, values).view(len(values), *self._table).sum(2)


class ContinualEvaluator:
    """Evaluates all seen test streams on a schedule and appends to a `Curve`.

    Ticks use a fixed subset of each stream, chosen by `config.seed`; full test sets are evaluated before
    training and at every experience's end.
    """

    def __init__(self, run: Run, config: EvaluationConfig) -> None:
        self.run, self.config = run, config
        self.curve = Curve()
        self.seconds = 0.0
        self.batch_size = config.batch_size or portion(run.model, run.device)
        self._seen: list[int] = []
        self._ticked = -1  # the step of the last tick
        self._ticks: _TestSet | None = None
        self._full: _TestSet | None = None
        self._pending: list[
            tuple[int, int, int, Tensor]
        ] = []  # step, examples, experience, (2, S) correct and loss
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    # --- what the engine calls ---

    def begin_experience(self, exp: Experience) -> None:
        """The experience's test streams count as seen from now on."""
        self.fetch()
        first = not self._seen
        new = [i for i in exp.tests if i not in self._seen]
        if new:
            self._seen += new
            self._ticks = None
        if first and self.config.every and self.run.step == 0:
            self.tick()

    def after_step(self) -> None:
        """A tick, if the schedule says so."""
        if self.config.every and self.run.step % self.config.every == 0:
            self.tick()

    def tick(self) -> None:
        """Evaluate the subsets of all seen streams; the counts stay on the device until `fetch`."""
        with self._clock():
            if self._ticks is None:
                self._ticks = self._gather(self._seen, self.config.subset)
            run, self._ticked = self.run, self.run.step
            counts = self._count(self._ticks)[0]
            self._pending.append((run.step, run.examples, run.experience, counts))

    def end_experience(self) -> None:
        """Full test sets of all streams, and a last tick if the schedule missed the experience's end."""
        if self.config.every and self.run.step != self._ticked:
            self.tick()
        self.full(self.run.experience)
        self.fetch()

    def full(self, experience: int) -> None:
        """Evaluate the full test sets, with counts per class; experience −1 is before training."""
        self.fetch()
        streams = list(range(len(self.run.benchmark.test))) if self.config.future else sorted(self._seen)
        if not streams:
            return
        with self._clock():
            if self._full is None or self._full.streams != streams:
                self._full = self._gather(streams, None)
            test, run = self._full, self.run
            counts, right = self._count(test)
            correct = torch.zeros(run.num_classes, dtype=torch.float64, device=run.device)
            correct = correct.index_add_(0, test.y, right).long()
            total = torch.bincount(test.y, minlength=run.num_classes)
            self._append(run.step, run.examples, experience, test, counts.cpu().numpy(), full=True)
            # A class that was not taught yet and is named by chance has not been learned, so cannot be
            # forgotten.
            exposed = np.zeros(run.num_classes, dtype=np.int64)
            exposed[[c for i in self._seen for c in run.benchmark.test[i].classes]] = 1
            self.curve.append_classes(correct.cpu().numpy() * exposed, total.cpu().numpy() * exposed)
            if self.config.network:
                self.curve.append_network(measure(run, test.x[:: max(1, len(test.x) // EXAMPLES)]))

    def fetch(self) -> None:
        """Bring the counts of all ticks since the last call from the device into the curve, in one copy."""
        if self._pending:
            self._fetch()
        if self._events:
            torch.cuda.synchronize(self.run.device)
            self.seconds += sum(start.elapsed_time(end) for start, end in self._events) / 1e3
            self._events.clear()

    def _fetch(self) -> None:
        with self._clock():
            assert self._ticks is not None
            stacked = torch.stack([counts for *_, counts in self._pending]).cpu().numpy()  # (K, 2, S)
            k, s = len(self._pending), len(self._ticks.streams)
            steps, examples, experiences = np.array([p[:3] for p in self._pending], dtype=np.int64).T
            self.curve.append(
                step=steps.repeat(s),
                examples=examples.repeat(s),
                experience=experiences.repeat(s),
                evaluated=np.tile(self._ticks.streams, k),
                correct=stacked[:, 0].reshape(-1).astype(np.int64),
                total=np.tile(self._ticks.totals, k),
                loss=stacked[:, 1].reshape(-1),
                full=False,
            )
            self._pending.clear()

    def cut(self, step: int) -> None:
        """Forget what was evaluated after more than `step` steps; full evaluations come after the losses are
        checked."""
        self.fetch()
        columns = self.curve.columns()
        kept = self.curve.step <= step
        self.curve = Curve.from_columns({n: c[kept] if n in COLUMNS else c for n, c in columns.items()})

    def latest(self) -> dict[int, float]:
        """Accuracy of each seen stream at the last fetched tick; for progress displays."""
        ticks = ~self.curve.full
        if not ticks.any():
            return {}
        last = ticks & (self.curve.step == self.curve.step[ticks][-1])
        accuracy = self.curve.correct[last] / self.curve.total[last]
        return dict(zip(self.curve.evaluated[last].tolist(), accuracy.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        self.fetch()
        columns = {name: torch.from_numpy(np.array(column)) for name, column in self.curve.columns().items()}
        return {"curve": columns, "seen": self._seen, "ticked": self._ticked, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.curve = Curve.from_columns({name: column.numpy() for name, column in state["curve"].items()})
        self._seen, self._ticked, self.seconds = list(state["seen"]), state["ticked"], float(state["seconds"])
        self._ticks = None
        self._pending.clear()

    # --- how ---

    def _gather(self, indices: list[int], subset: int | None) -> _TestSet:
        test = self.run.benchmark.test
        chosen = [(i, self._subset(i, test[i].data, subset), test[i].task) for i in indices]
        return _TestSet(self.run, chosen)

    def _subset(self, stream: int, data: Data, size: int | None) -> Data:
        if size is None or size >= len(data):
            return data
        digest = hashlib.sha256(f"clbench evaluation subset {self.config.seed} {stream}".encode()).digest()
        rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
        return data.subset(torch.from_numpy(np.sort(rng.choice(len(data), size, replace=False))))

    def _count(self, test: _TestSet) -> tuple[Tensor, Tensor]:
        """(2, S) float64 correct and summed loss of each stream; (N,) float64 whether each example is
        right."""
        run = self.run
        with run.evaluating(), torch.no_grad():
            values = torch.empty((2, len(test.y)), dtype=torch.float64, device=run.device)
            for start in range(0, len(test.y), self.batch_size):
                rows = slice(start, start + self.batch_size)
                logits, y = run.predict(test.x[rows], test.task[rows]), test.y[rows]
                values[0, rows] = logits.argmax(1) == y
                values[1, rows] = F.cross_entropy(logits, y, reduction="none").double()
            return test.sums(values), values[0]

    def _append(
        self, step: int, examples: int, experience: int, test: _TestSet, counts: Any, *, full: bool
    ) -> None:
        self.curve.append(
            step=step,
            examples=examples,
            experience=experience,
            evaluated=np.array(test.streams),
            correct=counts[0].astype(np.int64),
            total=test.totals,
            loss=counts[1],
            full=full,
        )

    def _clock(self) -> _Clock:
        return _Clock(self)


class _Clock:
    """Evaluation's own time: by wall clock on a CPU, by events on a GPU, so that no step waits for it."""

    def __init__(self, evaluator: ContinualEvaluator) -> None:
        self.evaluator = evaluator

    def __enter__(self) -> None:
        if self.evaluator.run.device.type == "cuda":
            self.start = torch.cuda.Event(enable_timing=True)
            self.start.record()
        else:
            self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self.evaluator.run.device.type == "cuda":
            end = torch.cuda.Event(enable_timing=True)
            end.record()
            self.evaluator._events.append((self.start, end))
        else:
            self.evaluator.seconds += time.perf_counter() - self.began
