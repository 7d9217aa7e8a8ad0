"""A strategy and how strategies are chained.

A strategy is a handful of *points* that the engine calls, each a no-op unless it is written. It gets values and
returns values; it never assigns to the engine. One step, seen from a strategy:

    extend(batch)                                      rows join: replay, views, generated examples
    step( gradient( forward → losses → backward )      the two *around* points wrap what lies inside them;
          → gradients → clip → update → after_update ) the first part of a chain is the innermost
    after_step(batch, out)                             memories take what they keep
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from clbench.errors import IncompatibleError
from clbench.machine.checkpoint import load_value, save_value
from clbench.types import NEEDS, Batch, Benchmark, Data, Experience, Order, Output, Stream

if TYPE_CHECKING:
    from clbench.config import Execution, RunConfig
    from clbench.machine.parallel import Ranks
    from clbench.machine.precision import Precision

State = dict[str, Any]
"""Nested dictionaries of tensors, numbers, strings, booleans, None and lists of them: what a checkpoint holds."""


@dataclass(frozen=True)
class Moment:
    """Where a run's randomness and the model's buffers stand (`Run.moment`).

    Attributes:
        buffers: copies of the model's buffers, in order.
        drawn: the state of each consumer's generator.
        noise: that of the global generators, dropout's.
    """

    buffers: list[Tensor]
    drawn: dict[str, Tensor]
    noise: dict[str, Tensor]


@dataclass
class Place:
    """Where a run stands.

    Attributes:
        phase: "start", before anything; "between" experiences, before the one that is named; "within" it; "done".
        experience: index of the present one. epoch: pass over it, from 0. batch: of the pass, from 0.
        done: iterations over the experience; step: over the whole stream.
    """

    phase: Literal["start", "between", "within", "done"] = "start"
    experience: int = 0
    epoch: int = 0
    batch: int = 0
    done: int = 0
    step: int = 0


class Run(Protocol):
    """All that a strategy or an evaluator may ask of a run. The engine carries it out (`clbench.engine.engine.Engine`).

    Attributes:
        benchmark, num_classes, input_shape: what is learned; a strategy sees no examples of the test stream.
        train: the training stream, after all parts have changed it.
        strategy: the chain that learns.
        config, execution: the run's settings, and how it is carried out.
        model: the network, after all parts have wrapped it; optimizer: of its trainable parameters.
        device: where everything lives.
        precision, ranks: in which forward passes are computed, and the processes that share them.
        place: where it stands: experience, epoch, step.
        examples: of the stream that have come; updates: of the optimizer.
        forwards: examples that have passed the network in training.
        batch_size: stream examples in a full batch of the present experience.
    """

    benchmark: Benchmark
    num_classes: int
    input_shape: tuple[int, ...]
    train: Stream
    strategy: Strategy
    config: RunConfig
    execution: Execution
    model: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    precision: Precision
    ranks: Ranks
    place: Place
    examples: int
    updates: int
    forwards: int
    batch_size: int

    def forward(self, x: Tensor, task: Tensor | None = None) -> Output:
        """Logits (B, C) and features (B, D), float32, under the run's precision and in the model's present
        mode.

        With task labels, classes of other tasks are out of the question (`MASKED`).
        """

    def count(self, x: Tensor, model: nn.Module | None = None) -> None:
        """Count in the budget that inputs x (B, …) pass the model, or another one; for who asks neither by the run.

        One pass for an example, and more where a network asks a query first.
        """

    def uncounted(self) -> contextlib.AbstractContextManager[None]:
        """What passes inside is no part of a method's price: predictions for the evaluator, and rehearsals."""

    def logits(self, features: Tensor) -> Tensor:
        """(B, C) float32 logits of features (B, D), of every class whatever the task."""

    def mask_tasks(self, logits: Tensor, task: Tensor | None) -> Tensor:
        """(B, C) logits with the classes of other tasks masked, where task labels are told."""

    def augment(self, raw: Tensor) -> Tensor:
        """Raw inputs (B, …), augmented and normalised as for training, by the generator `augment`."""

    def normalise(self, raw: Tensor) -> Tensor:
        """Raw inputs (B, …), normalised only, as for evaluation."""

    def rng(self, consumer: str) -> torch.Generator:
        """Return the private random stream of a consumer, on the run's device; one name, one stream, saved in
        checkpoints."""

    def generators(self) -> list[torch.Generator]:
        """Return the random streams of all consumers so far."""

    def permutation(self, exp: Experience, epoch: int) -> Tensor:
        """(N,) a random order of an experience's rows: that of pass `epoch` where no part orders.

        Drawn on the CPU, by seed, experience and number alone, so that it is the same on every device and
        whatever else draws. An ordered experience keeps the order that it has.
        """

    def frozen(self) -> nn.Module:
        """Return a copy of the model as it is now, in eval mode and without gradients: a teacher."""

    def anew(self, consumer: str) -> nn.Module:
        """Return a copy of the model whose layers are initialised again, as their classes do it, by a named random
        stream.

        Raises:
            IncompatibleError: a module has parameters and no way to initialise them (`reset_parameters`).
        """

    def output_of(self, model: nn.Module, x: Tensor, task: Tensor | None = None) -> Output:
        """Like `forward`, for another model such as a teacher, and without gradient."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by name."""

    def visit(self, data: Data, batch_size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Return all examples of some data in order, not augmented: inputs (B, …) and labels (B,); for what follows
        an experience (Fisher information, prototypes)."""

    def foresee(self, rows: int, size: int, what: str) -> None:
        """Refuse a pass that a part will make in training mode if batch normalisation cannot take its last batch.

        For `setup`, so that it is said before anything is trained.

        Args:
            rows: examples of the pass.
            size: of a batch.
            what: the pass, and which settings decide its numbers, for the message.

        Raises:
            IncompatibleError: the last batch is one example, and the network needs two.
        """

    def foresee_draw(self, capacity: int, draw: int | None) -> None:
        """`foresee` what is drawn from a memory and passed by itself, as many as the stream brings if None."""

    @property
    def norms_of_two(self) -> list[nn.modules.batchnorm._BatchNorm]:
        """The network's layers of batch normalisation that get one value per channel of an example."""

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """The model in eval mode, every module's own mode restored afterwards."""

    def tentatively(self) -> contextlib.AbstractContextManager[None]:
        """Draw inside what is drawn again afterwards, and leave the model's buffers as before.

        For a gradient that is taken more than once for one batch, such as by an around point that calls `inner` twice:
        the same replayed examples and the same dropout each time, and BatchNorm's statistics move once.
        """

    def repeating(self, moment: Moment) -> contextlib.AbstractContextManager[None]:
        """Draw inside what was drawn from a `moment` on; afterwards all goes on as if it had not been.

        For a second pass over a batch when the first one counts: the same replayed examples, the same dropout, and
        the model's buffers are afterwards as the first pass has left them.
        """

    def moment(self) -> Moment:
        """Return where all random streams and the model's buffers stand: what `repeating` goes back to."""

    def gradient_scale(self) -> Tensor:
        """() what the gradients that `gradient`'s inner leaves in `.grad` are multiplied by: 1 but under fp16."""

    def forget_moments(self, entries: Mapping[Tensor, Tensor]) -> None:
        """The optimizer's running averages of these entries back to 0; masks are bool and broadcast."""

    @property
    def classifier(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """The part's point that classifies in place of the model's head, if any does."""

    @property
    def task_classes(self) -> Tensor | None:
        """(T, C) bool, the classes of each task, where task labels are told."""

    def predict(self, x: Tensor, task: Tensor) -> Tensor:
        """(B, C) scores by which the run classifies, float32 and in full precision."""

    def optimise(
        self,
        batches: Callable[[int], Iterable[tuple[Tensor, Tensor, Tensor]]],
        epochs: int,
        lr: Callable[[int], float],
        features: bool = False,
        **optim: Any,
    ) -> None:
        """Train on other rows than the stream's, at an experience's end, with an optimizer of their own.

        Every batch goes through the chain's `step`, `gradient`, `losses`, `gradients` and `after_update`; `extend` and
        `after_step` are the stream's. Updates, forward passes and time count in the budget; stream time stands still.

        Args:
            batches: the batches of a pass, from 0: raw inputs (B, …), labels (B,) and task labels (B,) each.
            epochs: passes.
            lr: the learning rate of a pass.
            features: that the batches bring features (B, D) of the present experience in place of raw inputs; only the
                head is passed, and the rows count as the stream's.
            optim: fields of `OptimConfig`: the optimizer, SGD if none is named, and `clip`; not its schedule.

        Raises:
            DivergedError: a loss is not finite.
        """

    def renew_optimizer(self) -> None:
        """A fresh optimizer in place of the present one, for weights that begin anew."""

    @property
    def step(self) -> int:
        """Iterations done so far."""

    @property
    def experience(self) -> int:
        """Index of the present experience."""

    @property
    def epoch(self) -> int:
        """The pass over the present experience, from 0."""

    @property
    def epochs(self) -> int:
        """Passes over the present experience, a part of one counted whole."""

    @property
    def total_steps(self) -> int:
        """Iterations of the whole stream."""

    def stepped(self, examples: int, losses: Mapping[str, Tensor]) -> None:
        """Tell that an iteration is over: for a strategy with a loop of its own (`train_experience`), after each.

        Args:
            examples: of the stream, in the iteration's batch.
            losses: named scalars, for the log; one that is not finite ends the run as diverged.
        """

    def updated(self, losses: Mapping[str, Tensor]) -> None:
        """Count an update and log its losses; for a `step` that makes the update by itself, without `inner`.

        Args:
            losses: named scalars; one that is not finite ends the run as diverged.
        """

    def steps_of(self, exp: Experience) -> int:
        """Iterations over an experience."""

    def batch_size_of(self, exp: Experience) -> int:
        """Stream examples in a full batch of an experience."""

    def batches_of(self, n: int, size: int | None = None) -> int:
        """Batches of n examples, of the present experience's size unless another is named."""


class Strategy:
    """A continual-learning method, or a part of one. Write only the points you need.

    Class attributes:
        needs: what the setting must offer, of `clbench.types.NEEDS`; the engine refuses a setting that does not.
        state: names of attributes that a checkpoint must hold: tensors, modules, memories, numbers, dictionaries
            of these. Whatever changes during training and matters later belongs here.
        idempotent: that a second copy of the part in a chain changes nothing, so that it is dropped.
        replaces: parts that a chain leaves out where this one is in it: the default loss on the labels, by a part that
            learns the labels in another way.
        parallel: that several processes may share a step's forward passes (torchrun). True, or a sentence that says why
            not. It holds where whatever the part decides follows from what the engine gives it and from `run.rng`, and
            where `losses` takes no gradient of its own of what `run.forward` gave. A subclass declares it anew; an
            instance may say otherwise.
        capturable: that a GPU may record what it does in a step and do it again (`clbench.engine.capture`): in what it
            wraps, in `losses` and around gradient and update, the same operations at every step of an experience, on
            tensors, with no number asked of the device and no gradient kept after the update. A subclass declares it
            anew.
        waits: how often a GPU's host waits at most, in a step and in a part of an evaluation (`check --rehearse-gpu`).
        from_start: that it holds to the initial model from the first step on, so that not even its first experience
            is fine-tuning; an instance may say so. keeps_rows: that its `extend` gives exactly the rows that it got.
        exempt: checks of the contract that it cannot pass by itself, with the reasons; one that it passes is a failure.
        language: that it holds for language, too, where an example has a label for each of its positions.
        architecture: the kind of network that checks build for it: "vit", a vision transformer of timm; "clip", a dual
            encoder; "", any.

    Before `setup`, the engine sets `self.run`: `run.device`, `run.model`, `run.num_classes`, `run.forward(x, task)`,
    `run.augment(raw)`, `run.rng("name")` and the rest of `Run`.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    state: ClassVar[tuple[str, ...]] = ()
    idempotent: ClassVar[bool] = False
    replaces: ClassVar[tuple[type[Strategy], ...]] = ()
    exempt: ClassVar[Mapping[str, str]] = {}
    parallel: bool | str = False
    capturable: bool = False
    waits: int = 0
    from_start: bool = False
    keeps_rows: ClassVar[bool] = False
    language: ClassVar[bool] = False
    architecture: ClassVar[str] = ""
    name: str = ""
    run: Run

    # --- once ---

    def setup(self, run: Run) -> None:
        """Allocate state. The model exists and is on its device."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model to train in place of `model`: prompts, adapters, other heads, frozen parameters.

        It needs `features(x)` and `head`. A module that must stay in eval mode overrides `train`.
        """
        return model

    def stream(self, train: Stream) -> Stream:
        """Return the training stream to use in place of `train`; for bounds, which may see past data."""
        return train

    def optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer | None:
        """Return the optimizer of these parameters; None leaves it to the settings. One part of a chain at most.

        Asked for before `setup`, and again at later experiences unless `optim.reset` is false. Where the settings name
        a schedule they set its learning rate; `self.run.config.optim` says what they are.
        """
        return None

    # --- experiences; called only where boundaries are told, so a strategy that relies on them declares the need ---

    def begin_experience(self, exp: Experience) -> None:
        """Before the first step of an experience."""

    def order(self, exp: Experience, epoch: int) -> Order | None:
        """Return the rows of a pass, in order; None leaves it to a random permutation. One part of a chain at most."""
        return None

    def train_experience(self, exp: Experience) -> None:
        """All steps of an experience, in place of the engine's loop and of every point below `end_experience`.

        For methods that come with a loop of their own, such as other libraries'. It calls `self.run.stepped` after
        every iteration, and cannot be chained. A checkpoint is then written at experience ends only.
        """

    def end_experience(self, exp: Experience) -> None:
        """After the last step of an experience: Fisher information, teachers, herding. The experience's last tick and
        its full evaluation see the model that this leaves behind."""

    # --- steps ---

    def extend(self, batch: Batch) -> Batch:
        """Return the batch with more rows (`batch.join`) or other inputs (`batch.with_x`)."""
        return batch

    def step(self, batch: Batch, inner: Callable[[Batch], Output]) -> Output:
        """Around gradient and update: `inner(batch)` does both. May move weights before or after, or repeat."""
        return inner(batch)

    def gradient(self, batch: Batch, inner: Callable[[Batch], Output]) -> Output:
        """Around forward, losses and backward: `inner(batch)` leaves fresh gradients in `.grad`."""
        return inner(batch)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        """Named scalar losses; the engine adds them up. Nothing from any part means no step."""
        return {}

    def gradients(self) -> None:
        """After backward, gradients unscaled and in place: project, mask, rescale."""

    def after_update(self) -> None:
        """After every optimizer update, also those inside `step`: projections, averages of weights."""

    def after_step(self, batch: Batch, out: Output) -> None:
        """Once an iteration, without gradient: memories take rows of `batch.stream()`."""

    # --- prediction ---

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        """(B, C) scores that replace the model's at prediction. One part of a chain at most.

        Called in eval mode without gradient; must draw nothing and change nothing.
        """
        raise NotImplementedError

    # --- checkpoints ---

    def state_dict(self) -> State:
        """Return all state, by default the attributes named in `state`."""
        return {name: save_value(getattr(self, name)) for name in self.state}

    def load_state_dict(self, state: State) -> None:
        """Take `state` back; `setup` has run before."""
        for name in self.state:
            setattr(
                self, name, load_value(getattr(self, name), state[name], self.run.frozen, self.run.device)
            )

    # --- what there is to know about it ---

    @property
    def parts(self) -> tuple[Strategy, ...]:
        """The parts of a chain, in order; a strategy that is no chain is its only part."""
        return (self,)

    def frozen(self) -> Mapping[str, Tensor]:
        """By name, what the present experience may not change by a bit, beside parameters without gradient.

        Asked for after `begin_experience` and again after `end_experience`: buffers of a frozen network, prompts of
        earlier experiences.
        """
        return {}

    def all_needs(self) -> frozenset[str]:
        """Return the needs of all parts."""
        return frozenset[str]().union(*(part.needs for part in self.parts))

    def __str__(self) -> str:
        return self.name or type(self).__name__


class Chain(Strategy):
    """Several parts as one strategy; made by `chain`."""

    def __init__(self, parts: tuple[Strategy, ...]) -> None:
        self._parts = parts

    @property
    def parts(self) -> tuple[Strategy, ...]:
        return self._parts

    def __str__(self) -> str:
        return self.name or "+".join(str(part) for part in self._parts)


def chain(*strategies: Strategy) -> Strategy:
    """Return the parts of all strategies, in order, as one: associative and flat; plain `Strategy()` is its unit.

    Batches go through the parts' `extend` in order, their losses are merged (a repeated name is an error when the
    first step meets it), around points nest with the first part innermost, at most one part orders and at most one
    classifies. What a part `replaces` is left out.

    Raises:
        IncompatibleError: two parts order, classify, or make the optimizer; or one object is there twice.
    """
    meant = [s for s in strategies if type(s) is not Strategy]
    if not meant:
        return strategies[0] if strategies else Strategy()
    if len(meant) == 1:
        return meant[0]
    parts: list[Strategy] = []
    given = [part for strategy in meant for part in strategy.parts]
    replaced = {kind for part in given for kind in part.replaces}
    for part in given:
        if type(part) in replaced:
            continue
        if part.idempotent and any(
            type(p) is type(part) and _arguments(p) == _arguments(part) for p in parts
        ):
            continue
        if any(p is part for p in parts):
            raise IncompatibleError(f"{part} is in the chain twice, as one object with one state. Make two.")
        parts.append(part)
    single = {"order": "order the data", "logits": "classify", "optimizer": "make the optimizer"}
    for point, does in single.items():
        defining = [part for part in parts if overrides(part, point)]
        if len(defining) > 1:
            raise IncompatibleError(
                f"Only one part of a chain may {does}; {defining[0]} and {defining[1]} both define {point}()."
            )
    for part in parts:
        if overrides(part, "train_experience"):
            other = next(p for p in parts if p is not part)
            raise IncompatibleError(
                f"{part} trains by a loop of its own, in which no other part has a say; it cannot be chained to "
                f"{other}."
            )
    return Chain(tuple(parts))


def _arguments(part: Strategy) -> dict[str, Any]:
    """Return what a part was built with; the name that the registry gives it changes nothing it does."""
    return {key: value for key, value in vars(part).items() if key != "name"}


def overrides(part: Strategy, point: str) -> bool:
    """Whether a part writes a point; the engine does not call those it does not."""
    return getattr(type(part), point) is not getattr(Strategy, point)


POINTS = tuple(
    name
    for name, value in vars(Strategy).items()
    if inspect.isfunction(value) and name[0] != "_" and name != "all_needs"
)
"""The names of all points, and of the two methods of checkpoints."""


def mistake(strategy: Strategy, *, modifier: bool = False) -> str:
    """Return what is wrong with the points of a strategy's parts, as a sentence; empty if nothing can be seen.

    A method whose name is nearly that of a point would never be called, one that takes other arguments would
    fail at its first call, and a strategy without losses would learn nothing.

    Args:
        modifier: it only changes another strategy, so it need have no losses.
    """
    kinds: list[Any] = [type(part) for part in strategy.parts]
    if wrong := next(filter(None, map(_mistake_of, kinds)), ""):
        return wrong
    written = {point for part in strategy.parts for point in POINTS if overrides(part, point)}
    if not modifier and not written & {"losses", "logits"}:
        return (
            "no part of it defines losses(), so nothing would be learned; chain it with clbench.parts.CrossEntropy, or "
            "register it with modifier=True if it only changes another strategy."
        )
    unknown = sorted(strategy.all_needs() - set(NEEDS))
    if unknown:
        return f"it declares the need '{unknown[0]}'; needs are {', '.join(NEEDS)}."
    return ""


@functools.lru_cache(maxsize=1024)  # a suite builds the same few for thousands of runs
def _mistake_of(kind: type[Strategy]) -> str:
    for owner in kind.__mro__[: kind.__mro__.index(Strategy)]:
        for name, value in vars(owner).items():
            if inspect.isfunction(value) and name in POINTS:
                if wrong := _misfit(name, value):
                    return f"{kind.__name__}.{wrong}"
            elif (near := _nearly(name, value)) and getattr(kind, near) is getattr(Strategy, near):
                called = "is never called" if near in POINTS else "is never read"
                return (
                    f"{kind.__name__}.{name} {called}; did you mean '{near}'? If not, let its name begin with an "
                    "underscore."
                )
    return ""


def _misfit(point: str, method: Callable[..., Any]) -> str:
    wanted = list(inspect.signature(getattr(Strategy, point)).parameters)
    try:
        inspect.signature(method).bind(*wanted)
    except TypeError:
        given = ", ".join(list(inspect.signature(method).parameters)[1:])
        return f"{point}({given}) does not fit; clbench calls {point}({', '.join(wanted[1:])})."
    return ""


def _nearly(name: str, value: object) -> str:
    """Return the point, or the class attribute, that a name may have been meant for."""
    if name.startswith("_") or hasattr(Strategy, name):
        return ""
    if inspect.isfunction(value):
        known = [point for point in POINTS if not _misfit(point, value)]
    else:
        known = (
            []
            if callable(value)
            else [name for name in Strategy.__annotations__ if name not in ("name", "run")]
        )
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.8)), "")
