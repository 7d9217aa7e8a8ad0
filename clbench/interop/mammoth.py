"""Methods written in Mammoth's style, a class with `observe(inputs, labels, not_aug_inputs)` and a buffer, in clbench.

    class Er(ContinualModel):
        def __init__(self, backbone, loss, args, transform, dataset=None):
            super().__init__(backbone, loss, args, transform, dataset)
            self.buffer = Buffer(self.args.buffer_size, self.device)

        def observe(self, inputs, labels, not_aug_inputs, epoch=None): ...

    @register("mammoth-er")
    def mammoth_er(buffer_size: int = 200, minibatch_size: int = 32) -> Strategy:
        return MammothStrategy(Er, buffer_size=buffer_size, minibatch_size=minibatch_size)

Only the interface is Mammoth's; nothing of it is installed or needed. `not_aug_inputs` are the inputs as clbench stores
them (uint8 images), and `transform` makes of them what the network sees in training: augmented and normalised.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import IncompatibleError
from clbench.machine.checkpoint import load_value, save_value
from clbench.memory import Reservoir
from clbench.strategy import Run, State, Strategy
from clbench.types import Batch, Experience, Output

Transform = Callable[[Tensor], Tensor]


class ContinualModel:
    """What a method derives from: the attributes that Mammoth's base class gives, and its points as no-ops.

    Attributes:
        net: the network; opt: its optimizer, the run's; loss: the criterion, (logits, labels) → scalar.
        args: hyper-parameters by name; transform: stored inputs (B, …) → what the network sees in training.
        device, dataset, num_classes, n_tasks, cpt: where, on what, C classes, T experiences, classes of each.
        current_task: index of the experience; n_past_classes, n_classes_current_task, n_seen_classes: up to it.
    """

    NAME = ""
    COMPATIBILITY: tuple[str, ...] | list[str] = ()  # none named: all

    net: nn.Module
    opt: torch.optim.Optimizer
    device: torch.device
    num_classes: int
    n_tasks: int
    cpt: int
    current_task = 0
    n_past_classes = 0
    n_classes_current_task = 0
    n_seen_classes = 0

    def __init__(
        self, backbone: nn.Module, loss: Any, args: Namespace, transform: Transform, dataset: Any = None
    ) -> None:
        self.net, self.loss, self.args = backbone, loss, args
        self.transform, self.dataset = transform, dataset
        self.device = next(backbone.parameters()).device

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) → (B, C) scores, in training and for classification."""
        scores: Tensor = self.net(x)
        return scores

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def begin_task(self, dataset: Any) -> None:
        """Before an experience."""

    def end_task(self, dataset: Any) -> None:
        """After an experience."""

    def observe(
        self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None
    ) -> Any:
        """One step: gradient and update. Returns the loss, as a number or a tensor."""
        raise NotImplementedError


class Buffer:
    """A reservoir with the calls of Mammoth's buffer. It draws from the run's generators, so that runs repeat.

    Args:
        buffer_size: examples it holds.
        device: where; the run's in any case.
    """

    def __init__(self, buffer_size: int, device: Any = None) -> None:
        self.buffer_size = buffer_size
        self.memory = Reservoir(buffer_size)
        self.rng: Callable[[str], torch.Generator] | None = None  # the adapter's to set

    def __len__(self) -> int:
        return len(self.memory)

    def is_empty(self) -> bool:
        return len(self) == 0

    def add_data(
        self,
        examples: Tensor,
        labels: Tensor | None = None,
        logits: Tensor | None = None,
        task_labels: Tensor | None = None,
    ) -> None:
        """Offer examples (n, …), as stored, with what goes with them; the same columns at every call."""
        columns = {"examples": examples, "labels": labels, "logits": logits, "task_labels": task_labels}
        self.memory.add(self._generator("memory"), **{k: v for k, v in columns.items() if v is not None})

    def get_data(
        self, size: int, transform: Transform | None = None, device: Any = None
    ) -> tuple[Tensor, ...]:
        """Up to `size` examples without replacement: inputs, then the other columns that are stored, in order."""
        drawn = self.memory.draw(min(size, len(self)), self._generator("replay"))
        inputs = drawn.pop("examples")
        return (inputs if transform is None else transform(inputs), *drawn.values())

    def state_dict(self) -> dict[str, Any]:
        return self.memory.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory.load_state_dict(state)

    def _generator(self, name: str) -> torch.Generator:
        if self.rng is None:
            raise RuntimeError("A Buffer draws within a run only; make it an attribute of the method.")
        return self.rng(name)


class TaskData:
    """What `begin_task` and `end_task` are given: the present experience's data, by the names that Mammoth uses."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.NAME = run.benchmark.name
        self.SETTING = _setting(run)
        self.N_TASKS, self.N_CLASSES = len(run.train), run.num_classes
        self.N_CLASSES_PER_TASK = max(len(exp.classes) for exp in run.train)

    @property
    def train_loader(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches (inputs, labels, not_aug_inputs) of the experience in order, inputs not augmented."""
        run, data = self._run, self._run.train[self._run.experience].data
        for rows in torch.arange(len(data)).split(run.batch_size):
            raw, y = data.take(rows)
            raw = raw.to(run.device)
            yield run.normalise(raw), y.to(run.device), raw


class MammothStrategy(Strategy):
    """A method of that style as a strategy.

    Args:
        method: the class, or a factory with the arguments (backbone, loss, args, transform, dataset).
        needs: what the setting must offer, such as `{"memory"}`; boundaries are needed by whoever writes
            `begin_task` or `end_task`.
        args: hyper-parameters, the method's `self.args`.
    """

    parallel = "its `observe` makes the whole step by itself"

    def __init__(
        self, method: Callable[..., Any], *, needs: frozenset[str] | set[str] = frozenset(), **args: Any
    ) -> None:
        self.make, self.args = method, args
        told = any(_writes(method, point) for point in ("begin_task", "end_task"))
        self._needs = frozenset(needs) | (frozenset({"boundaries"}) if told else frozenset())

    def all_needs(self) -> frozenset[str]:
        return self._needs

    def setup(self, run: Run) -> None:
        self._check(run)
        self.data = TaskData(run)
        given = {"lr": run.config.optim.lr, "batch_size": run.batch_size, "n_epochs": run.config.train.epochs}
        args = Namespace(**{**given, **self.args})
        # The budget's forward passes: those of training, as the run takes back what predictions count.
        run.model.backbone.register_forward_pre_hook(lambda _, given: run.count(given[0]))  # type: ignore[union-attr]
        self.method = method = self.make(run.model, F.cross_entropy, args, run.augment, self.data)
        if not callable(getattr(method, "observe", None)):
            raise IncompatibleError(
                f"{self}: {type(method).__name__} has no method observe(inputs, labels, not_aug_inputs)."
            )
        supported = tuple(getattr(method, "COMPATIBILITY", ()))
        if supported and self.data.SETTING not in supported:
            raise IncompatibleError(
                f"{self} is for {', '.join(supported)}; {run.benchmark.name} is {self.data.SETTING}."
            )
        method.num_classes, method.n_tasks = run.num_classes, len(run.train)
        method.cpt = self.data.N_CLASSES_PER_TASK
        method.opt = run.optimizer
        for name, buffer in self._buffers().items():
            buffer.rng = run.rng
            setattr(self, f"memory_{name}", buffer.memory)  # by which grants are checked and budgets told

    def _check(self, run: Run) -> None:
        config = run.config
        if others := [part for part in run.strategy.parts if part is not self]:
            raise IncompatibleError(
                f"{self} makes its updates by itself, in which no other part has a say; it cannot be chained to "
                f"{others[0]}."
            )
        if config.precision != "fp32" or config.optim.clip is not None:
            raise IncompatibleError(
                f"{self} makes its updates by itself: it knows neither precision nor optim.clip."
            )

    def _buffers(self) -> dict[str, Buffer]:
        return {name: value for name, value in vars(self.method).items() if isinstance(value, Buffer)}

    # --- the points ---

    def begin_experience(self, exp: Experience) -> None:
        method, run = self.method, self.run
        self._tell(exp.index)
        method.opt = run.optimizer  # a fresh one, where the run resets it
        if hasattr(method, "begin_task"):
            method.begin_task(self.data)

    def _tell(self, index: int) -> None:
        """Where in the stream the method is, by Mammoth's names."""
        classes = [set(exp.classes) for exp in self.run.train.experiences[: index + 1]]
        past: set[int] = set().union(*classes[:-1])
        told = (index, len(past), len(classes[-1]), len(past | classes[-1]))
        for name, value in zip(_TOLD, told, strict=True):
            setattr(self.method, name, value)

    def step(self, batch: Batch, inner: Callable[[Batch], Output]) -> Output:
        run = self.run
        loss = self.method.observe(batch.x, batch.y, batch.raw, epoch=run.epoch)
        run.updated({"loss": loss.reshape(()) if isinstance(loss, Tensor) else torch.tensor(float(loss))})
        nothing = batch.x.new_empty((len(batch), 0))  # nobody asks for it: no other part takes part
        return Output(nothing, nothing)

    def end_experience(self, exp: Experience) -> None:
        if hasattr(self.method, "end_task"):
            self.method.end_task(self.data)

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        scores = self.method.forward(x) if hasattr(self.method, "forward") else self.method.net(x)
        return self.run.mask_tasks(scores.float(), task)

    # --- checkpoints ---

    def state_dict(self) -> State:
        """Return the method's attributes: buffers, tensors, numbers, copies of the network, and containers of them."""
        kept = vars(self.method).keys() - _GIVEN - set(_TOLD)
        return {name: save_value(value) for name, value in vars(self.method).items() if name in kept}

    def load_state_dict(self, state: State) -> None:
        for name, saved in state.items():
            setattr(
                self.method,
                name,
                load_value(getattr(self.method, name, None), saved, self.run.frozen, self.run.device),
            )
        if self.run.benchmark.setting.boundaries and self.run.experience < len(self.run.train):
            self._tell(self.run.experience)


_GIVEN = frozenset(("net", "loss", "args", "transform", "dataset", "device", "opt", "original_transform"))
"""Attributes of a method that it is given anew whenever it is built."""
_TOLD = ("current_task", "n_past_classes", "n_classes_current_task", "n_seen_classes")
"""Attributes that say where in the stream a method is."""


def _writes(method: Any, point: str) -> bool:
    """Whether a class writes one of its base's points."""
    own = getattr(method, point, None)
    return own is not None and own is not getattr(ContinualModel, point)


def _setting(run: Run) -> str:
    return {"class": "class-il", "domain": "domain-il", "task": "task-il"}[run.benchmark.setting.shift]
