"""The engine: one run of one strategy on one benchmark.

It owns the device, precision, backward, clipping, updates, schedules, randomness, clocks and checkpoints;
strategies own methods. One iteration:

    gather → augment → extend
    → step( gradient( forward → losses → backward ) → unscale → gradients → clip → update → after_update )
    → after_step → [training clock stops] evaluator
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from clbench.config import Execution, OptimConfig, RunConfig
from clbench.engine.batch_of_one import check_stream, explained, lasting
from clbench.engine.branch import Branch, load_trained, trained
from clbench.engine.capture import Gradients
from clbench.engine.costs import costs, memories_of, peak_memory
from clbench.engine.holding import Holding, weight_bytes
from clbench.engine.loading import Feed
from clbench.engine.observer import Observer, ObserverWarning
from clbench.engine.points import Points
from clbench.engine.rates import Rates
from clbench.engine.refusals import (
    check_batch,
    check_loop,
    check_losses,
    check_memory,
    check_needs,
    check_parallel,
    check_passes,
    check_step,
)
from clbench.engine.saving import Saving
from clbench.engine.services import Services
from clbench.engine.trace import Trace, is_finite, losses_of
from clbench.engine.visible import seamless, visible, without_examples
from clbench.errors import ClbenchError, DivergedError, IncompatibleError
from clbench.evaluation import ContinualEvaluator
from clbench.evaluation.forward import weights_of
from clbench.machine.clock import Clock
from clbench.machine.device import keep_freed_memory, present, sent
from clbench.machine.energy import Meter
from clbench.machine.numerics import deterministic, pinned
from clbench.machine.optim import make_optimizer
from clbench.machine.parallel import ALONE, Ranks
from clbench.machine.precision import Precision
from clbench.machine.randomness import derive_seed, global_rng, global_rng_state
from clbench.models.base import Classifier, head_of
from clbench.models.inputs import check_finite, fitted, reach
from clbench.models.running import Running
from clbench.strategy import Place, Strategy, overrides
from clbench.types import HIDDEN, Batch, Benchmark, Experience, Order, Output


class Engine(Services):
    """One run, from its first step to its last. Strategies see less of it (`clbench.engine.visible`)."""

    def __init__(
        self,
        benchmark: Benchmark,
        strategy: Strategy,
        model: Classifier,
        config: RunConfig,
        execution: Execution | None = None,
        observers: Sequence[Observer] = (),
        ranks: Ranks = ALONE,
    ) -> None:
        self.benchmark, self.strategy, self.config = benchmark, strategy, config
        self.execution = execution or Execution()
        self.observers = list(observers)
        self.ranks = ranks
        if not ranks.alone:
            check_parallel(strategy, self.execution)
        self.device = ranks.device(self.execution.device)
        self.precision, self._exact = Precision(config.precision, self.device), Precision("fp32", self.device)
        self.num_classes, self.input_shape = benchmark.num_classes, benchmark.input_shape
        self.batch_size = config.train.batch_size
        check_needs(strategy, benchmark)

        self.examples = 0  # of the stream
        self.forwards = 0  # examples through the model in training, replayed ones and teachers' excluded none
        self.updates = 0
        self.clock = Clock(self.device)  # of training, "train"
        self.energy = Meter(self.device)
        self.stop = False  # set by whoever wants the run to end after the present step, to be continued
        self.until: int | None = None  # or after this one
        self._from_features = False  # that batches bring features in place of inputs
        self._generators: dict[str, torch.Generator] = {}
        self.place = Place()
        self._steps = 0  # of the experience
        self._order: Order | None = None
        self._trace = Trace()
        self._constants: dict[int, tuple[Tensor, Tensor]] = {}
        self._global_rng: dict[str, Tensor] | None = None  # where a checkpoint, or `fit`, left it
        self._fitting = False  # whether it is lent

        model.prepare(without_examples(benchmark, str(strategy)))
        self.benchmark = fitted(benchmark, model)
        check_finite(self.benchmark, config.precision)
        parts, seen = strategy.parts, visible(self)
        for part in parts:
            part.run = seen
        self._running = Running(self.input_shape) if benchmark.transform.running else None
        self._format = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model: nn.Module = model.to(self.device, memory_format=self._format)  # type: ignore[call-overload]
        bare = weight_bytes(model) + weight_bytes(self._running)
        for part in parts:
            self.model = part.wrap(self.model)
        if self._running is not None:
            backbone: nn.Module = self.model.backbone  # type: ignore[assignment]
            self.model.backbone = nn.Sequential(self._running, backbone)
        self.model.to(self.device)
        self.train = benchmark.train
        for part in parts:
            self.train = part.stream(self.train)
        # In examples: where the stream's segments end, if the learner is not told.
        self.ends: tuple[int, ...] = ()
        if not benchmark.setting.boundaries and all(exp.ordered for exp in self.train):
            self.train, self.ends = seamless(self.train)
        check_passes(self)
        self.optimizer, self._clip = self._new_optimizer(), config.optim.clip
        self.evaluator = ContinualEvaluator(self, config.evaluation)
        self.points = Points(strategy, self._gradient, self._update)
        self._task_classes = self._classes_of_tasks()
        check_loop(self)
        self.rates, self.branch = Rates(self), Branch(self)
        for part in parts:
            part.setup(seen)
        check_memory(self, memories_of(strategy))
        self.holding = Holding(self, bare)
        if config.memory_budget is not None:  # what is refused is refused before anything is trained
            self.holding.look()
        check_stream(self, self.train[:1], [norm for norm in self.norms_of_two if norm.training])
        check_stream(self, self.train[1:], lasting(self))
        self.gradients = Gradients(self, self.backward)

    def optimise(
        self,
        batches: Callable[[int], Iterable[tuple[Tensor, Tensor, Tensor]]],
        epochs: int,
        lr: Callable[[int], float],
        features: bool = False,
        **optim: Any,
    ) -> None:
        chosen = OptimConfig(**optim)
        kept = self.optimizer, self._clip
        self._from_features = features
        self.optimizer, self._clip = make_optimizer(self._trainable, chosen), chosen.clip
        training = self.model.training
        self.model.train()
        self.gradients.forget()
        try:
            for epoch in range(epochs):
                self._lr = lr(epoch)
                for group in self.optimizer.param_groups:
                    group["lr"] = self._lr * group.get("lr_scale", 1.0)
                for raw, y, task in batches(epoch):
                    hidden, first_view = self._constants_for(len(y))
                    x, new = (raw, len(y)) if features else (self.augment(raw), 0)
                    self.points.step(Batch(x, y, task, raw, hidden, first_view, new))
                    if self._trace.full:
                        self._flush()
            self._flush()
        finally:
            self.optimizer, self._clip = kept
            self._from_features = False
            self.model.train(training)
            self.gradients.forget()

    def renew_optimizer(self) -> None:
        self.optimizer = self._new_optimizer()

    # --- the loop ---

    @property
    def finished(self) -> bool:
        return self.place.phase == "done"

    @property
    def at_last_step(self) -> bool:
        """Whether the present step is its experience's last; a foreign loop does not say which one is."""
        return self.points.train_experience is None and self.place.done + 1 >= self._steps

    def fit(self, checkpoint: Callable[[], None] | None = None) -> None:
        """Train over the stream, or over what is left of it after resuming.

        Args:
            checkpoint: called on the execution's schedule and after every experience.

        Raises:
            DivergedError: a loss is not finite; the curve and all counters are as of then.
        """
        if self.device.type == "cpu":
            keep_freed_memory()
        self._save = Saving(checkpoint, self.execution.checkpoint_seconds)
        seed = derive_seed(self.config.seeds.data, "model")
        lent = global_rng(self.device, seed, self._global_rng)
        as_wanted = deterministic(self.execution.deterministic, self.device)
        with pinned(self.config.threads), as_wanted, present(self.device), lent:
            self._fitting = True
            self._tell("begin")
            self.energy.start()
            try:
                with self.clock.running("train"):
                    self._fit()
            except ClbenchError:
                raise
            except Exception as error:
                self._flush()  # perhaps a method tripped over a NaN that nobody has looked at yet
                if "deterministic implementation" in str(error):
                    said = str(error).partition(",")[0]
                    raise IncompatibleError(f"{self._where()}: {said}; leave --deterministic out.") from error
                if (lone := explained(self, error, self._where())) is not None:
                    raise lone from error
                raise
            finally:
                self.energy.stop()
                self.evaluator.close()
                self._tell("end")
                self._global_rng, self._fitting = global_rng_state(self.device), False

    def _where(self) -> str:
        """Say between which points of the loop a run is, for a message."""
        place, exp = self.place, f"experience {self.experience + 1}"
        if place.phase != "within":
            return f"Before {exp} begins"
        return f"In step {self.step}" if place.done < self._steps else f"At the end of {exp}"

    def _tell(self, point: str, *given: Any) -> None:
        """Speak to every observer. One that fails is left out from there on: a logger may not end a run."""
        for observer in list(self.observers):
            try:
                getattr(observer, point)(self, *given)
            except ClbenchError:
                raise
            except Exception as error:
                self.observers.remove(observer)
                warnings.warn(
                    f"{type(observer).__name__} failed at step {self.step} and is left out from here on; the run goes "
                    f"on. {type(error).__name__}: {error}",
                    ObserverWarning,
                    stacklevel=2,
                )

    def _fit(self) -> None:
        if self.place.phase == "start":
            with self.clock.stopped():
                self.evaluator.full(-1)
            self.place.phase = "between"
        while self.experience < len(self.train):
            self._fit_experience(self.train[self.experience])
        self.place.phase, self.place.experience = "done", len(self.train) - 1

    def _fit_experience(self, exp: Experience) -> None:
        self.batch_size = self.batch_size_of(exp)
        feed = Feed(exp.data, self.device, self.execution)
        self._steps = self.steps_of(exp)
        visible = self._visible(exp)
        if self.place.phase == "between":
            if self.benchmark.setting.boundaries and self.config.optim.reset and self.experience > 0:
                self.optimizer = self._new_optimizer()
            self._admit(exp)
            self._call("begin_experience", visible)
            self.holding.look()
            self.gradients.forget()
            with self.clock.stopped():
                self.evaluator.begin_experience(exp)
            self.place = Place("within", exp.index, step=self.step)
        self.model.train()
        check_stream(self, [exp], [norm for norm in self.norms_of_two if norm.training])
        began = self.step
        trainer = self.points.train_experience
        if trainer is not None:
            self._schedule()
            trainer(visible)
        else:
            while self.place.done < self._steps:
                self._fit_epoch(visible, feed)
        self._order = None  # also where a checkpoint was written after the very last step
        self._flush()  # before methods compute with what they have learned: a NaN ends the run here
        self.ranks.agree(str(self.strategy), weights_of(self.model), self._trace.total)
        self.gradients.forget()
        self._call("end_experience", visible)
        with self.clock.stopped():
            self.holding.look()
            if trainer is not None and self.step > began:
                self.evaluator.cut(self.step - 1)  # only now known to be the last, it is evaluated again
            self.evaluator.end_experience()
            self._tell("end_experience")
        if self.branch.go_back():  # the live run has come to the experience's end, too
            self.gradients.forget()
            self._call("end_experience", visible)
        with self.clock.stopped():
            self.place = Place("between", self.experience + 1, step=self.step)
            if self._save.worth:
                self._save()

    def _fit_epoch(self, exp: Experience, feed: Feed) -> None:
        epoch, start = self.place.epoch, self.place.batch
        if self._order is None:
            self._order = self._new_order(exp, epoch)
        order = self._order
        if not len(order.rows):
            raise IncompatibleError(
                f"A pass over experience {exp.index + 1} of {self.benchmark.id} has no examples."
            )
        # One copy to the device per pass; every batch is then a slice of what is there.
        rows = sent(order.rows, self.device).split(self.batch_size)
        views = None if order.view is None else sent(order.view, self.device).split(self.batch_size)
        firsts = None if order.view is None else self._first_views(order.view)
        batches = self.batches_of(len(order.rows))
        last = min(batches, start + self._steps - self.place.done)
        task = self._task_of(exp)
        given = feed.batches(rows[start:last], order.rows.split(self.batch_size)[start:last])
        for number, (raw, y) in enumerate(given, start):
            hidden, first_view = self._constants_for(len(y))
            self._iterate(
                Batch(
                    x=self.augment(raw),
                    y=y,
                    task=hidden if task == HIDDEN else torch.full_like(y, task),
                    raw=raw,
                    index=rows[number],
                    view=first_view if views is None else views[number],
                    new=len(y),
                    first=None if firsts is None else firsts[number],
                )
            )
            self.place.batch = number + 1
            self.place.done += 1
            self.branch.begin()
            self._between_steps()
        if self.place.batch >= batches:
            self.place.epoch, self.place.batch, self._order = epoch + 1, 0, None

    def _iterate(self, batch: Batch) -> None:
        if self.evaluator.prequential is not None:
            with self.clock.stopped(), self.evaluator.clock.running("prequential"):
                self.evaluator.prequential.predict(batch)
        if self._running is not None:
            self._running.see(batch.x)
        self._schedule()
        for update in range(self.config.train.updates):
            given = batch if update == 0 else batch.with_x(self.augment(batch.raw))
            for extend in self.points.extend:
                given = extend(given)
                check_batch(given, extend)
            out = self.points.step(given)
        with torch.no_grad():
            for after_step in self.points.after_step:
                after_step(given, out)
        self._stepped(given.new)

    def _stepped(self, examples: int) -> None:
        """End an iteration: count it, look at its losses, evaluate."""
        self.place.step += 1
        self.examples += examples
        if self.step == 1:  # now memories tell how large their rows are
            self.holding.look()
        if self._trace.full:
            self._flush()
        evaluation, ends = self.config.evaluation, self.at_last_step  # the end is evaluated when all is done
        if evaluation.due(self.step, self.examples - examples, self.examples) and not ends:
            with self.clock.stopped():
                self.evaluator.tick()
        if evaluation.looks(self.step) and not ends:
            with self.clock.stopped():
                self.evaluator.look_at_documents()
        while (
            self.evaluator.segment < len(self.ends) - 1 and self.examples >= self.ends[self.evaluator.segment]
        ):
            with self.clock.stopped():
                self._flush()  # a full evaluation is never taken back
                self.evaluator.end_segment()

    def stepped(self, examples: int, losses: Mapping[str, Tensor]) -> None:
        self.updated(losses)
        self._stepped(examples)
        if self.stop:  # no checkpoint can be written here: where the foreign loop stands is not ours to save
            self._flush()
            raise KeyboardInterrupt

    def _gradient(self, batch: Batch) -> Output:
        """Return the innermost `gradient`: fresh gradients in `.grad`, of the scale of the precision."""
        with self.ranks.sharing(batch):
            out, self._losses = self.gradients(batch)
        self.ranks.average(self._trainable)
        return out

    def backward(self, batch: Batch) -> tuple[Output, dict[str, Tensor]]:
        """Forward, losses, backward: the output of a batch and its losses, gradients in `.grad`."""
        self.optimizer.zero_grad(set_to_none=True)
        if self._from_features:
            out = Output(self.mask_tasks(self.logits(batch.x), batch.task), batch.x)
        else:
            out = self.forward(batch.x, batch.task)
        losses: dict[str, Tensor] = {}
        for part in self.points.losing:
            named = part.losses(batch, out)
            check_losses(named, f"losses() of {type(part).__name__} in {self.strategy}")
            for name, loss in named.items():
                if name in losses:
                    raise IncompatibleError(
                        f"Two parts of {self.strategy} both add a loss named '{name}'; the second is {part}."
                    )
                losses[name] = loss
        if losses:
            terms = iter(losses.values())
            total = next(terms)
            for term in terms:
                total = total + term
            if not total.requires_grad:
                raise IncompatibleError(
                    f"The loss of {self.strategy} ({', '.join(losses)}) has no gradient, as it depends on nothing that "
                    "is trained. Compute it from `out` or `self.run.model` without detach(), item() or no_grad(), and "
                    "do not freeze all parameters."
                )
            self.precision.backward(total)
        return out, losses

    def _update(self, batch: Batch) -> Output:
        """Gradient and optimizer update: the innermost `step`."""
        out = self.points.gradient(batch)
        if not self._losses:  # a method without gradients, or a batch it does not learn from
            return out
        self.precision.unscale(self.optimizer)
        for gradients in self.points.gradients:
            gradients()
        if self._clip is not None:
            nn.utils.clip_grad_norm_(self._trainable, self._clip)
        self.precision.update(self.optimizer)
        self.updated(self._losses)
        with torch.no_grad():
            for after_update in self.points.after_update:
                after_update()
        return out

    def updated(self, losses: Mapping[str, Tensor]) -> None:
        check_losses(losses, f"{self.strategy}: updated()", "takes")
        self.updates += 1
        self._trace.add(self.step, self.experience, self._lr, losses)

    def _flush(self) -> None:
        """Fetch the losses since the last look in one copy per name; stop if one is not finite."""
        self.energy.look()
        if not (rows := self._trace.fetch()):
            return
        self.clock.settle()  # the losses were waited for
        bad = next((i for i, row in enumerate(rows) if not is_finite(row)), None)
        self._tell("window", rows[:bad])
        if bad is not None:
            row = rows[bad]
            self.evaluator.cut(row["step"])  # when it was noticed must not show in the curve
            raise DivergedError(row["step"], row["experience"], losses_of(row), reach(self.benchmark))

    # --- what the loop is made of ---

    def _admit(self, exp: Experience) -> None:
        """Let the head of a retrieval stream name the documents of this corpus and of those before."""
        if self.benchmark.setting.documents:
            known = [t for past in self.train.experiences[: exp.index + 1] for t in past.tests]
            head_of(self.model).admit([c for t in known for c in self.benchmark.test[t].classes])

    def _call(self, point: str, exp: Experience) -> None:
        if self.benchmark.setting.boundaries:
            for call in getattr(self.points, point):
                call(exp)

    def _task_of(self, exp: Experience) -> int:
        return exp.task if self.benchmark.setting.task_labels != "never" else HIDDEN

    def _visible(self, exp: Experience) -> Experience:
        """Return an experience as a strategy may see it: without the task label, where the setting tells none."""
        task = self._task_of(exp)
        return exp if exp.task == task else replace(exp, task=task)

    def _constants_for(self, n: int) -> tuple[Tensor, Tensor]:
        """Task −1 and view 0 for n rows, made once per size."""
        if n not in self._constants:
            zeros = torch.zeros(n, dtype=torch.int64, device=self.device)
            self._constants[n] = zeros + HIDDEN, zeros
        return self._constants[n]

    def _first_views(self, view: Tensor) -> list[Tensor]:
        """For every batch of a pass, the rows (n,) of it that are first views; one copy to the device."""
        rows = [(part == 0).nonzero().squeeze(1) for part in view.split(self.batch_size)]
        return list(sent(torch.cat(rows), self.device).split([len(part) for part in rows]))

    def _new_order(self, exp: Experience, epoch: int) -> Order:
        """Return the rows of a pass: a part's order, or a random one."""
        order = None if self.points.order is None else self.points.order(exp, epoch)
        if order is None:
            return Order(self.permutation(exp, epoch))
        return Order(order.rows.cpu(), None if order.view is None else order.view.cpu())

    def _new_optimizer(self) -> torch.optim.Optimizer:
        self._trainable = [p for p in self.model.parameters() if p.requires_grad]
        if not self._trainable:
            # Nothing to train (SLDA, NCM), and an optimizer wants something.
            self._trainable = [nn.Parameter(torch.zeros((), device=self.device))]
        own = [part for part in self.strategy.parts if overrides(part, "optimizer")]
        made = own[0].optimizer(self._trainable) if own else None
        if not isinstance(made, torch.optim.Optimizer | None):
            raise IncompatibleError(
                f"{type(own[0]).__name__}.optimizer must return a torch.optim.Optimizer or None; it returns a "
                f"{type(made).__name__}."
            )
        if made is not None:
            check_step(made, own[0])
        return made or make_optimizer(self._trainable, self.config.optim)

    def _schedule(self) -> None:
        optim = self.config.optim
        self._lr = self.rates.now()
        if optim.schedule != "constant" or optim.warmup or optim.later_lr is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self._lr * group.get("lr_scale", 1.0)
        else:  # a strategy's own optimizer has its own
            self._lr = float(self.optimizer.param_groups[0]["lr"])

    # --- checkpoints ---

    def _between_steps(self) -> None:
        """End here if that was asked for; write a checkpoint if it is time."""
        stop, due = self.ranks.any(
            self.stop or self.step == self.until, self._save.due
        )  # clocks and signals differ
        if stop or due:
            with self.clock.stopped():
                self._flush()
                self._save()
        if stop:
            raise KeyboardInterrupt

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the rest of the run, to the bit."""
        self._flush()
        order = self._order
        return {
            "place": asdict(self.place),
            "counters": {
                **{name: getattr(self, name) for name in self._COUNTERS},
                "train_seconds": self.clock.seconds,
            },
            "held_bytes": self.holding.most,
            "order": None if order is None else {"rows": order.rows, "view": order.view},
            **trained(self),
            **({} if self._fitting else {"global_rng": self._global_rng}),
            **({} if self.branch.live is None else {"branch": self.branch.live}),
            "evaluator": self.evaluator.state_dict(),
            "energy": self.energy.state_dict(),
        }

    _COUNTERS = ("examples", "forwards", "updates")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state back; `fit` then continues to the same bits, if that was on a device of the same kind: another
        kind rounds otherwise and draws other random numbers."""
        self.place = Place(**state["place"])
        for name in self._COUNTERS:
            setattr(self, name, state["counters"][name])
        self.holding.most = state.get("held_bytes", 0)  # older checkpoints do not know it
        self.clock.by = {"before": float(state["counters"]["train_seconds"])}
        order = state["order"]
        self._order = None if order is None else Order(order["rows"], order["view"])
        load_trained(self, state)
        self.branch.load_state_dict(state.get("branch"))
        self._global_rng = state["global_rng"]
        self.evaluator.load_state_dict(state["evaluator"])
        self.energy.load_state_dict(state.get("energy", {}))

    # --- what it cost ---

    def budget(self) -> dict[str, float | int | None]:
        """Return what the run cost so far, units in the names.

        Joules are those of the whole machine's processors and of the whole GPU while the run trained and evaluated,
        whatever else they did; None where they cannot be read, and for several processes.
        """
        return {
            **costs(self),
            "held_bytes": self.holding.most,
            "train_seconds": round(self.clock.seconds, 3),
            "eval_seconds": round(self.evaluator.clock.seconds, 3),
            "peak_memory_bytes": peak_memory(self.device),
            "whole_cpu_joules": self._joules(self.energy.cpu),
            "whole_gpu_joules": self._joules(self.energy.gpu),
        }

    def _joules(self, found: float | None) -> float | None:
        return None if found is None or not self.ranks.alone else round(found, 1)
