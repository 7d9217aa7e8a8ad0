"""When streams are evaluated, and the curve that the counts go to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clbench.config import EvaluationConfig
from clbench.errors import IncompatibleError
from clbench.evaluation.forward import (
    EvaluationCopy,
    Forward,
    InPlace,
    has_onednn,
    obstacle,
    portion,
    weights_of,
)
from clbench.evaluation.plasticity import EXAMPLES, measure
from clbench.evaluation.prequential import Prequential
from clbench.evaluation.speed.overlap import Worker
from clbench.evaluation.speed.racing import Race, error_of_a_bound
from clbench.evaluation.testset import Examples, TestSet, arrivals, check_room, chosen, drawing, present_in
from clbench.evaluation.ticker import Result, Tick, Ticker
from clbench.machine.clock import Clock
from clbench.machine.parallel import ALONE
from clbench.results.curve import Curve
from clbench.results.measures import measured
from clbench.results.schema import RULES
from clbench.strategy import Run
from clbench.types import HIDDEN, Experience


class ContinualEvaluator:
    """Evaluates all seen test streams on a schedule and appends to a `Curve`.

    Ticks use a fixed subset of each stream, chosen by `config.seed`, and are computed as `config.level` says; full test
    sets are evaluated exactly, before training and at every experience's end. There the last tick is of the same model:
    the one that the strategy's `end_experience` leaves behind.

    A test stream is seen when the experience that names it begins; in an ordered one, when an example of each of its
    classes has come. Only seen ones are evaluated then, and classes of others are out of the question (`MASKED`).

    Attributes:
        clock: the seconds that evaluation took, by "ticks", waiting for another process included, and "full".
        segment: how many segments of the present experience have ended, of those that the learner is not told.
    """

    def __init__(self, run: Run, config: EvaluationConfig) -> None:
        self.run, self.config = run, config
        if run.benchmark.setting.language and config.level != "exact":
            raise IncompatibleError(
                f"{run.benchmark.name} is evaluated exactly, as all that its metrics know of is sums of losses; leave "
                f"out evaluation.level={config.level}."
            )
        if config.indexed and not run.benchmark.setting.documents:
            raise IncompatibleError(
                f"evaluation.indexed looks at documents, of which {run.benchmark.name} has none; set it to 0."
            )
        self.curve = Curve()
        self.clock = Clock(run.device)
        self.prequential = Prequential(run) if run.benchmark.prequential else None
        self.segment = 0
        self._seen: list[int] = []
        self._began = 0  # stream examples before the present experience
        self._arrivals: tuple[int, list[tuple[int, int]]] = (-1, [])  # of which experience, and its arrivals
        self._ticked = -1  # the step of the last tick
        self._last_step = -1  # of the experience
        self._pending: list[tuple[Tick, Result | int]] = []  # an int is the worker's number of it
        self._built_for: tuple[object, ...] = ()
        self._ticks: TestSet | None = None
        self._full: TestSet | None = None
        self._documents: TestSet | None = None  # of the corpora so far
        self._worker: Worker | None = None
        self._starts_worker = False  # with the first ticks' examples
        self._stream: torch.cuda.Stream | None = None  # beside the one that trains
        self._ticker_state: dict[str, Any] | None = None  # to go on with
        self._portions: dict[str, int] = {}
        self._checks = {"ticks": 0, "examples": 0, "differ": 0, "difference": 0.0, "largest": 0.0}
        self._notes: list[str] = []
        self._words = ""
        self._worker_seconds = 0.0

    # --- what the engine calls ---

    def begin_experience(self, exp: Experience) -> None:
        """The experience's test streams count as seen from now on."""
        self.fetch()
        self._began, self.segment = self.run.examples, 0
        if exp.ordered:
            if self.config.racing:
                raise IncompatibleError(
                    "evaluation.level=racing keeps the extrema of tasks, and here classes appear one by one; use exact "
                    "or fast."
                )
            return
        first = not self._seen
        self._see(exp.tests)
        if first and self.config.ticks and self.run.step == 0:
            self.tick()

    def _see(self, streams: Sequence[int]) -> None:
        new = [i for i in dict.fromkeys(streams) if i not in self._seen]
        if new:
            self.fetch()
            self._seen += new
            self._ticks = self._documents = None
            if self._answers is not None:  # with new answers, old test sets are asked anew
                self._full = None

    def _arrived(self) -> None:
        """In an ordered experience, the streams whose classes have come count as seen from now on."""
        run = self.run
        exp = run.train[run.experience]
        if not exp.ordered:
            return
        if self._arrivals[0] != run.experience:
            self._arrivals = run.experience, arrivals(exp, run.benchmark.test)
        come = run.examples - self._began
        self._see([i for position, i in self._arrivals[1] if position < come])

    @property
    def experience(self) -> int:
        """The experience that the curve counts: the run's, or the segment of a stream without boundaries."""
        return self.run.experience + self.segment

    def tick(self, *, whole: bool = False) -> None:
        """Evaluate the subsets of all seen streams; the counts stay where they are until `fetch`.

        Args:
            whole: all examples of them, also where a race decides.
        """
        run, config = self.run, self.config
        self._arrived()
        with self.clock.running("ticks"), run.evaluating():
            weights = weights_of(run.model)
            self._prepare(weights)
            self._gather_ticks()
            self._ticked = run.step
            tick = Tick(
                run.step,
                run.examples,
                self.experience,
                whole=whole,
                check=config.fast and run.step % config.check == 0,
            )
            self._pending.append((tick, self._evaluate(tick, weights)))

    def _evaluate(self, tick: Tick, weights: list[Tensor]) -> Result | int:
        """Evaluate here; or by the worker, where it has a place, or where its ticks depend on each other."""
        if self._worker is not None and (self.config.racing or self._worker.free):
            return self._worker.submit(tick, weights)
        if self._stream is None:
            return self._ticker.tick(tick, weights)
        present = torch.cuda.current_stream(self.run.device)
        self._stream.wait_stream(present)
        copied = torch.cuda.Event()
        with torch.cuda.stream(self._stream):
            result = self._ticker.tick(tick, weights, lambda: copied.record(self._stream))
        present.wait_event(copied)  # the next update must not overtake the copy of the weights
        return result

    def end_experience(self) -> None:
        """The last tick, whatever the schedule says, and full test sets of all streams: both of the model that the
        strategy leaves behind at the experience's end."""
        run, config = self.run, self.config
        # Without a tick, a curve takes stream j to be learned in experience j, so that all in one needs one to say it.
        said = config.ticks or len(run.train) < len(run.benchmark.test)
        if said and run.step != self._ticked:
            self.tick(whole=True)
        if config.looks(run.step) and run.step not in self.curve.indexed_step[-1:]:
            self.look_at_documents()
        self._arrived()
        self.full(self.experience)
        self.fetch()

    def end_segment(self) -> None:
        """The same at the end of a segment that the learner is not told."""
        self.end_experience()
        self.segment += 1

    def look_at_documents(self) -> None:
        """Which documents of the corpora so far are mapped to themselves now, by the exact forward pass."""
        run = self.run
        with self.clock.running("full"), run.evaluating(), torch.no_grad():
            weights = weights_of(run.model)
            self._prepare(weights)
            if self._documents is None:
                parts = []
                for exp in run.benchmark.train.experiences[: run.experience + 1]:
                    raw, y = exp.data.take(torch.arange(exp.documents or 0))
                    x, y = run.normalise(raw.to(run.device)), y.to(run.device)
                    parts.append(Examples(exp.index, x, y, torch.full_like(y, HIDDEN)))
                self._documents = TestSet(
                    parts, self._exact.dtype, self._exact.channels_last, self._answers, True
                )
            self._exact.load(weights)
            right = self._ticker.values(self._exact, self._documents, self._portions["exact"])[0]
            indexed = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)
            indexed[self._documents.y] = right > 0
            self.curve.append_indexed(run.step, indexed.cpu().numpy())

    def full(self, experience: int) -> None:
        """Evaluate the full test sets, with counts per class; experience −1 is before training."""
        self.fetch()
        run = self.run
        future = self.config.future and not self._gradual
        streams = list(range(len(run.benchmark.test))) if future else sorted(self._seen)
        if not streams:
            return
        with self.clock.running("full"), run.evaluating(), torch.no_grad():
            weights = weights_of(run.model)
            self._prepare(weights)
            if self._full is None or self._full.streams != streams:
                before, self._full = self._full, self._gather(streams, None, self._exact)
                if before is not None and before.streams == streams[: len(before.streams)]:
                    sizes = len(before), len(self._full)
                    self._ticker.kept.inherit(before, self._full, sizes, self._portions["exact"])
            test = self._full
            self._exact.load(weights)
            values = self._ticker.values(self._exact, test, self._portions["exact"])
            found, right = test.sums(values).cpu().numpy(), values[0]
            self.curve.append(
                step=run.step,
                examples=run.examples,
                experience=experience,
                evaluated=np.array(test.streams),
                correct=found[0].astype(np.int64),
                total=test.totals,
                loss=found[1],
                full=True,
                **test.more(found, 1),
            )
            if not run.benchmark.setting.language:
                # A class that was not taught yet and is named by chance has not been learned, so cannot be forgotten.
                named, of = (table * self._exposed() for table in test.by_class(right, run.num_classes))
                self.curve.append_classes(named, of, present_in(run.benchmark, run.train, experience))
            if self.config.network:
                self.curve.append_network(measure(run, test[:: max(1, len(test) // EXAMPLES)]))

    def fetch(self) -> None:
        """Bring the counts of all ticks since the last call into the curve, from the device in one copy."""
        if self._pending:
            with self.clock.running("ticks"):
                self._fetch()
        if self.prequential is not None:
            self.prequential.fetch(self.curve)
        self.clock.settle()

    def _fetch(self) -> None:
        test, worker = self._ticks, self._worker
        assert test is not None
        if self._stream is not None:
            torch.cuda.current_stream(self.run.device).wait_stream(self._stream)
        ticks = [tick for tick, _ in self._pending]
        results: list[Result] = []
        for _, result in self._pending:
            if isinstance(result, int):
                assert worker is not None
                result = worker.result(result)
            results.append(result)
        self._pending.clear()
        counts = (
            torch.stack([result.counts for result in results]).cpu().numpy()
        )  # (K, 2, S), or (K, 4, S) with ranks
        whole = test.totals
        k, s = len(ticks), len(test.streams)
        totals = np.array([whole if result.totals is None else result.totals for result in results])  # (K, S)
        steps, examples, experiences = np.array([[t.step, t.examples, t.experience] for t in ticks]).T
        self.curve.bound_error = self._bound_error
        self.curve.append(
            step=steps.repeat(s),
            examples=examples.repeat(s),
            experience=experiences.repeat(s),
            evaluated=np.tile(test.streams, k),
            correct=counts[:, 0].reshape(-1).astype(np.int64),
            total=totals.reshape(-1),
            loss=counts[:, 1].reshape(-1),
            full=False,
            of=np.tile(whole, k),
            **test.more(counts.swapaxes(0, 1), k),
        )
        for result in results:
            for stream, step, correct, total, loss in result.refined:
                self.curve.refine(step, stream, correct, total, loss)
            if result.check is not None:
                looked_at = whole if result.totals is None else np.array(result.totals)
                self._note_check(result.check.cpu().numpy(), looked_at)
            self._worker_seconds += result.seconds

    @property
    def settled(self) -> int:
        """Evaluations after fewer steps than this are in the curve as they will stay; a race may still look back."""
        if self.config.racing:
            return 0
        return self._pending[0][0].step if self._pending else self.run.step

    def cut(self, step: int) -> None:
        """Forget what was evaluated after more than `step` steps, to be evaluated again or because a loss was not
        finite; full evaluations come after the losses are checked."""
        self.fetch()
        self.curve, self._ticked = self.curve.before(step), min(self._ticked, step)

    def latest(self) -> dict[int, float]:
        """Accuracy, or loss, of each seen stream at the last full evaluation, as in the result; to show progress."""
        curve, seen = self.curve, np.isin(self.curve.evaluated, self._seen)
        at = curve.full & seen & (curve.experience == curve.experience[curve.full].max(initial=-1))
        return dict(zip(curve.evaluated[at].tolist(), measured(curve)[at].tolist(), strict=True))

    def close(self) -> None:
        """Let go of the other process; what it knew comes here."""
        if self._worker is None:
            return
        try:
            if self._worker.alive:
                self.fetch()
                if self.config.racing:
                    self._ticker_state = self._worker.state_dict()
        finally:
            self._leave_worker()
            self._pending.clear()
            self._built_for = ()

    def describe(self) -> dict[str, Any]:
        """Return how ticks were computed and how far they are from exact ones, for the record.

        For `fast`, over the ticks that were compared: the share of examples judged differently, the mean of the
        difference in accuracy (fast − exact), and its largest size in one stream at one tick.
        """
        config, checks = self.config, self._checks
        found: dict[str, Any] = {
            "rules": RULES,
            "level": config.level,
            "forward": self._words,
            "portions": dict(self._portions),
        }
        if self._notes:
            found["notes"] = list(dict.fromkeys(self._notes))
        if config.fast and checks["ticks"]:
            n = checks["examples"]
            found["disagreement"] = {
                "ticks_compared": checks["ticks"],
                "examples_compared": n,
                "judged_differently": checks["differ"] / n,
                "mean_difference": checks["difference"] / n,
                "largest_difference": checks["largest"],
            }
        ticks = ~self.curve.full
        if config.racing and ticks.any():
            found["share_evaluated"] = float(self.curve.total[ticks].sum() / self.curve.of[ticks].sum())
            found["error"] = config.error
        if self._built_for and (kept := self._ticker.kept.describe()):
            found["kept"] = kept
        if self._worker_seconds:
            found["other_process_seconds"] = round(self._worker_seconds, 3)
        return found

    def moved(self) -> list[str] | None:
        """Return the networks of the model that were said to stay as they are (`once`) and have not, by name; None
        where none was said to."""
        if not self._built_for:
            return None
        names = {module: name for name, module in self.run.model.named_modules()}
        asked = {names[net]: times for net, times in self._ticker.kept.moved().items() if net in names}
        return [name for name, times in asked.items() if times] if asked else None

    def state_dict(self) -> dict[str, Any]:
        self.fetch()
        columns = {name: torch.from_numpy(np.array(column)) for name, column in self.curve.columns().items()}
        ticker: dict[str, Any] = {}
        if self.config.racing and self._built_for:
            ticker = (self._worker or self._ticker).state_dict()
        return {
            "curve": columns,
            "seen": self._seen,
            "began": self._began,
            "segment": self.segment,
            "ticked": self._ticked,
            "seconds": self.clock.seconds,
            "portions": dict(self._portions),
            "checks": dict(self._checks),
            "ticker": ticker,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.curve = Curve.from_columns({name: column.numpy() for name, column in state["curve"].items()})
        if self.prequential is not None:
            self.prequential.go_on(self.curve)
        self._began, self.segment = state["began"], state["segment"]
        self._seen, self._ticked = list(state["seen"]), state["ticked"]
        self.clock.by = {"before": float(state["seconds"])}
        self._portions, self._checks = dict(state["portions"]), dict(state["checks"])
        self._ticker_state = state["ticker"] or None
        self._ticks = None
        self._built_for = ()
        self._pending.clear()

    # --- by which network ---

    def _prepare(self, weights: list[Tensor]) -> None:
        """Networks, race and worker, made when they are first needed and again when the model's form has changed."""
        model = self.run.model
        form = (*map(type, model.modules()), *(w.shape for w in weights))
        if form == self._built_for:
            return
        if self._built_for:
            self.fetch()
        state = self._ticker_state
        if state is None and self.config.racing and self._built_for:
            state = (self._worker or self._ticker).state_dict()
            if self._ticker.looks_back:
                raise IncompatibleError(
                    f"{self.run.strategy} changes the form of the network, so that its earlier weights cannot be "
                    "evaluated again; set evaluation.windows=[] or evaluation.level=exact."
                )
        self._leave_worker()
        self._build(weights)
        if state is not None:
            self._ticker.load_state_dict(state, self.run.device)
        self._ticker_state = None
        self._built_for = form

    def _build(self, weights: list[Tensor]) -> None:
        run, config = self.run, self.config
        against = obstacle(run)
        on_cpu = run.device.type == "cpu"
        overlap = run.execution.overlap and config.ticks
        exact: Forward = InPlace(run)
        forward = exact
        if against is None:
            classes = run.task_classes
            pays = any(isinstance(m, nn.Conv2d) for m in run.model.modules())  # as channels last are faster
            frozen = not any(p.requires_grad for p in run.model.backbone.parameters())  # type: ignore[union-attr]
            if overlap or config.windows or (on_cpu and (pays or frozen)):
                exact = EvaluationCopy(run.model, classes)
                forward = exact
            if config.fast:
                forward = fast = EvaluationCopy(run.model, classes, fast=True)
                self._notes += fast.notes
        else:
            if config.racing and config.windows:
                raise IncompatibleError(
                    f"evaluation.windows needs a copy of the network, and {against}; set evaluation.windows=[]."
                )
            if config.fast or overlap:
                wanted = " and ".join(["fast"] * config.fast + ["overlap"] * overlap)
                self._notes.append(
                    f"{wanted} evaluation needs a copy of the network, and {against}: left out"
                )
        self._exact, self._forward = exact, forward
        self._words = forward.describe() if isinstance(forward, EvaluationCopy) else "float32"
        if on_cpu and self._words.startswith("float32") and has_onednn():
            self._words += ", linear layers by oneDNN"
        for name, network in (("exact", exact), ("tick", forward)):
            size = config.batch_size or portion(network, run.device, run.input_shape, self._scores)
            self._portions.setdefault(name, size)
        race = None
        if config.racing:
            race = Race(config.prefix, config.windows, self._bound_error)
        self._ticker = Ticker(
            forward,
            self._portions["tick"],
            exact=exact if config.fast and forward is not exact else None,
            exact_portion=self._portions["exact"],
            race=race,
            weights=weights,
            ranks=run.ranks if config.level == "exact" else ALONE,  # others make each their own way
        )
        self._stream, self._starts_worker = None, False
        if overlap and against is None:
            if on_cpu:
                self._starts_worker = True
            elif config.racing:
                self._notes.append(
                    "racing decides on the host, so nothing overlaps on a GPU: overlap left out"
                )
            else:
                self._stream = torch.cuda.Stream(run.device)
        self._ticks = self._full = self._documents = None

    @property
    def _bound_error(self) -> float:
        """The probability that one bound fails, so that together they fail with `error` at most."""
        run, config = self.run, self.config
        if not config.racing or not config.error or not config.ticks:
            return 0.0
        if config.every_examples is not None:
            every = max(config.every_examples // run.batch_size, 1)
        else:
            every = config.every
        ticks = math.ceil(run.total_steps / every) + len(run.train) + 2
        sizes = [min(len(exp.data), config.subset or len(exp.data)) for exp in run.benchmark.test]
        return error_of_a_bound(config.error, ticks, sizes, config.prefix)

    # --- on which examples ---

    @property
    def _scores(self) -> int:
        """How many scores an example has."""
        run = self.run
        return run.num_classes * (run.input_shape[0] if run.benchmark.setting.language else 1)

    @property
    def _gradual(self) -> bool:
        """Whether classes appear within experiences."""
        return any(exp.ordered for exp in self.run.train)

    def _exposed(self) -> np.ndarray[Any, Any]:
        """(C,) int64, 1 for the classes of the seen streams."""
        exposed = np.zeros(self.run.num_classes, dtype=np.int64)
        exposed[[c for i in self._seen for c in self.run.benchmark.test[i].classes]] = 1
        return exposed

    @property
    def _answers(self) -> Tensor | None:
        """(C,) bool, the classes that are answers now; None where all are from the beginning."""
        if not (self._gradual or self.run.benchmark.setting.documents):
            return None
        return torch.from_numpy(self._exposed() > 0).to(self.run.device)

    def _gather_ticks(self) -> None:
        """The examples of ticks, where other streams are seen than at the last one."""
        if self._ticks is not None:
            return
        config, run, ticker = self.config, self.run, self._ticker
        self._ticks = self._gather(
            self._seen, config.subset, self._forward, shuffled=config.racing, before=ticker.test
        )
        exact = None
        if ticker.exact is not None:
            exact = self._gather(
                self._seen, config.subset, ticker.exact, shuffled=config.racing, before=ticker.exact_test
            )
        if self._starts_worker and self._worker is None:
            self._worker = Worker(ticker, weights_of(run.model))
        ticker.see(self._ticks, exact, self.experience)
        if self._worker is not None:
            self._worker.see(self._ticks, exact, self.experience)
        if config.fast and run.device.type == "cuda" and ticker.race is None:
            against = ticker.capture(weights_of(run.model))
            self._notes += [against] if against else []

    def _gather(
        self,
        indices: list[int],
        subset: int | None,
        by: Forward,
        *,
        shuffled: bool = False,
        before: TestSet | None = None,
    ) -> TestSet:
        """The test set of some streams, of which those of the set `before`, made the same way, are there already."""
        run, parts, transform = self.run, [], self.run.benchmark.transform
        there = {} if before is None else {part.stream: part for part in before.parts()}
        sizes = [len(run.benchmark.test[i].data) for i in indices]
        check_room(sum(n if subset is None else min(n, subset) for n in sizes), run.input_shape, run.device)
        for i in indices:
            if i in there:
                parts.append(there[i])
                continue
            stream = run.benchmark.test[i]
            data = chosen(stream.data, subset, self.config.seed, i)
            x, y = data.x().to(run.device), data.y().to(run.device)
            x = x if transform.resizes else run.normalise(x)
            also = data.also()
            also = None if also is None else also.to(run.device)
            if shuffled:
                order = torch.from_numpy(drawing("order", self.config.seed, i).permutation(len(y))).to(
                    run.device
                )
                x, y = x.index_select(0, order), y.index_select(0, order)
                also = None if also is None else also.index_select(0, order)
            told = run.benchmark.setting.task_labels == "always"
            task = torch.full_like(y, stream.task if told else HIDDEN)
            parts.append(Examples(i, x, y, task, also))
        documents = run.benchmark.setting.documents
        prepare = transform.normalise if transform.resizes else None
        spans: Any = run.benchmark.tokenizer if run.benchmark.setting.language else None
        return TestSet(parts, by.dtype, by.channels_last, self._answers, documents, prepare, spans)

    # --- bookkeeping ---

    def _note_check(self, check: np.ndarray[Any, Any], sizes: np.ndarray[Any, Any]) -> None:
        differ, here, there = check
        checks = self._checks
        checks["ticks"] += 1
        checks["examples"] += int(sizes.sum())
        checks["differ"] += int(differ.sum())
        checks["difference"] += float((here - there).sum())
        checks["largest"] = max(checks["largest"], float((abs(here - there) / sizes).max()))

    def _leave_worker(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None
