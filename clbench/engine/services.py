"""What a strategy may ask of its run: passes, gradients' surroundings, random streams, predictions."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clbench.engine.batch_of_one import check_pass, norms
from clbench.engine.points import Points
from clbench.errors import IncompatibleError
from clbench.machine.clock import Clock
from clbench.machine.device import sent
from clbench.machine.precision import Precision
from clbench.machine.randomness import derive_seed, global_rng, global_rng_state, set_global_rng_state
from clbench.models.base import head_of
from clbench.strategy import Moment, Run
from clbench.types import MASKED, Data, Experience, Output


class Services(Run):
    """The part of the engine that answers; its loop is the other."""

    forwards: int
    precision: Precision
    _exact: Precision
    _format: torch.memory_format
    _generators: dict[str, torch.Generator]
    points: Points
    _steps: int
    _trainable: list[nn.Parameter]
    clock: Clock
    _task_classes: Tensor | None

    def forward(self, x: Tensor, task: Tensor | None = None) -> Output:
        self.count(x)
        head = head_of(self.model)
        if head.on_request and self._task_classes is None:
            return head.output(self._through(self.model, x, scored=False)[0], self.precision.autocast)
        features, logits = self._through(self.model, x)
        return Output(self.mask_tasks(logits, task), features)

    def _through(self, model: nn.Module, x: Tensor, scored: bool = True) -> tuple[Tensor, Tensor]:
        """Features (B, D) and logits (B, C), float32; within a gradient, the run's processes share the rows.

        Unless `scored`, the head is left out and the logits are (B, 0).
        """

        def network(rows: Tensor) -> tuple[Tensor, Tensor]:
            with self.precision.autocast():
                features = model.features(rows)  # type: ignore[operator]
                logits = model.head(features) if scored else features[:, :0]  # type: ignore[operator]
            return features.float(), logits.float()

        def portions(rows: Tensor) -> tuple[Tensor, Tensor]:
            size = self.config.train.micro_batch
            if size is None or len(rows) <= size or not torch.is_grad_enabled():
                return network(rows)
            # What lies between inputs and outputs is computed again on the way back, one portion at a time.
            found = [checkpoint(network, part, use_reentrant=False) for part in rows.split(size)]
            features, logits = map(torch.cat, zip(*found, strict=True))
            return features, logits

        return self.ranks.through(portions, model, x)

    def count(self, x: Tensor, model: nn.Module | None = None) -> None:
        passes: int = getattr(self.model if model is None else model, "passes", 1)
        self.forwards += len(x) * passes

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        counted = self.forwards
        try:
            yield
        finally:
            self.forwards = counted

    def logits(self, features: Tensor) -> Tensor:
        with self.precision.autocast():
            logits: Tensor = self.model.head(features)  # type: ignore[operator]
        return logits.float()

    def mask_tasks(self, logits: Tensor, task: Tensor | None) -> Tensor:
        if task is None or self._task_classes is None:
            return logits
        return logits.masked_fill(~self._task_classes[task], MASKED)

    def augment(self, raw: Tensor) -> Tensor:
        return self._shape(self.benchmark.transform.train(raw, self._augment_rng))

    def normalise(self, raw: Tensor) -> Tensor:
        return self._shape(self.benchmark.transform.normalise(raw))

    def rng(self, consumer: str) -> torch.Generator:
        if consumer not in self._generators:
            generator = torch.Generator(self.device)
            generator.manual_seed(derive_seed(self.config.seeds.data, consumer))
            self._generators[consumer] = generator
        return self._generators[consumer]

    def generators(self) -> list[torch.Generator]:
        return list(self._generators.values())

    def permutation(self, exp: Experience, epoch: int) -> Tensor:
        if exp.ordered:
            return torch.arange(len(exp.data))
        generator = torch.Generator()
        generator.manual_seed(derive_seed(self.config.seeds.data, f"order/{exp.index}/{epoch}"))
        return torch.randperm(len(exp.data), generator=generator)

    def frozen(self) -> nn.Module:
        # deepcopy keeps gradients, and a teacher needs none
        model = copy.deepcopy(self.model)
        for parameter in model.parameters():
            parameter.grad = None
        return model.eval().requires_grad_(False)

    def anew(self, consumer: str) -> nn.Module:
        model = copy.deepcopy(self.model)
        state = self.rng(consumer)
        seed = torch.randint(2**62, (), generator=state, device=state.device).item()
        with global_rng(self.device, int(seed), None):
            for module in model.modules():
                own = list(module.parameters(False))
                if own and not any(p.requires_grad for p in own):  # what stays as it is
                    continue
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()
                elif next(module.parameters(False), None) is not None:
                    raise IncompatibleError(
                        f"A {type(module).__name__} has parameters and no reset_parameters(), by which they would be "
                        "drawn again; give it one."
                    )
        return model

    def output_of(self, model: nn.Module, x: Tensor, task: Tensor | None = None) -> Output:
        self.count(x, model)
        with torch.no_grad():
            features, logits = self._through(model, x)
        return Output(self.mask_tasks(logits, task), features)

    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def visit(self, data: Data, batch_size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        size = batch_size or self.batch_size
        for rows in torch.arange(len(data)).split(size):
            raw, y = data.take(rows)
            yield self.normalise(sent(raw, self.device)), sent(y, self.device)

    def foresee(self, rows: int, size: int, what: str) -> None:
        check_pass(self, rows, size, what)

    def foresee_draw(self, capacity: int, draw: int | None) -> None:
        n = min(capacity, self.batch_size if draw is None else draw)
        self.foresee(n, n, "what is drawn from the memory (memory, draw)")

    @functools.cached_property
    def norms_of_two(self) -> list[nn.modules.batchnorm._BatchNorm]:
        return norms(self)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        modes = [(module, module.training) for module in self.model.modules()]
        for module, _ in modes:
            module.training = False
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode

    @contextlib.contextmanager
    def tentatively(self) -> Iterator[None]:
        before = self.moment()
        try:
            yield
        finally:
            self._return_to(before)

    @contextlib.contextmanager
    def repeating(self, moment: Moment) -> Iterator[None]:
        with self.tentatively():
            self._return_to(moment)
            yield

    def moment(self) -> Moment:
        drawn = {name: generator.get_state() for name, generator in self._generators.items()}
        return Moment([b.clone() for b in self.model.buffers()], drawn, global_rng_state(self.device))

    def _return_to(self, moment: Moment) -> None:
        with torch.no_grad():
            for buffer, value in zip(self.model.buffers(), moment.buffers, strict=True):
                buffer.copy_(value)
        for name in list(self._generators):
            if name in moment.drawn:
                self._generators[name].set_state(moment.drawn[name])
            else:  # first asked for since
                self._generators[name].manual_seed(derive_seed(self.config.seeds.data, name))
        set_global_rng_state(self.device, moment.noise)

    def gradient_scale(self) -> Tensor:
        return self.precision.scale(torch.ones((), device=self.device))

    def forget_moments(self, entries: Mapping[Tensor, Tensor]) -> None:
        for parameter, which in entries.items():
            for value in self.optimizer.state[parameter].values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.masked_fill_(which, 0.0)

    # --- where it stands, and how far it goes ---

    @property
    def step(self) -> int:
        return self.place.step

    @property
    def experience(self) -> int:
        return self.place.experience

    @property
    def epoch(self) -> int:
        return self.place.epoch

    @property
    def epochs(self) -> int:
        return -(-self._steps // self.batches_of(len(self.train[self.experience].data)))

    @property
    def total_steps(self) -> int:
        return sum(self.steps_of(exp) for exp in self.train)

    def steps_of(self, exp: Experience) -> int:
        train = self.config.train
        if train.iterations is not None:
            return train.iterations if exp.index == 0 else train.later_iterations or train.iterations
        epochs = train.epochs if exp.index == 0 else train.later_epochs or train.epochs
        return epochs * self.batches_of(len(exp.data), self.batch_size_of(exp))

    def batch_size_of(self, exp: Experience) -> int:
        train = self.config.train
        return train.batch_size if exp.index == 0 else train.later_batch_size or train.batch_size

    def batches_of(self, n: int, size: int | None = None) -> int:
        full, rest = divmod(n, size or self.batch_size)
        return full if self.config.train.drop_last and full else full + bool(rest)

    # --- prediction ---

    @property
    def classifier(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        return self.points.logits

    @property
    def task_classes(self) -> Tensor | None:
        return self._task_classes

    def predict(self, x: Tensor, task: Tensor) -> Tensor:
        if self.classifier is not None:
            kept, self.precision = self.precision, self._exact  # also for what the classifier asks of the run
            try:
                with self.uncounted():  # what evaluation costs is no part of a method's price
                    return self.classifier(x, task)
            finally:
                self.precision = kept
        logits = head_of(self.model).predict(self.model.features(x))  # type: ignore[operator]
        return self.mask_tasks(logits.float(), task)

    def _classes_of_tasks(self) -> Tensor | None:
        """(tasks, C) bool: which classes a task has; None where task labels are not told."""
        if self.benchmark.setting.task_labels == "never":
            return None
        tasks = max(exp.task for exp in self.benchmark.train) + 1
        table = torch.zeros((tasks + 1, self.num_classes), dtype=torch.bool)
        table[-1] = True  # HIDDEN is −1, the last row: nothing is ruled out
        for exp in self.benchmark.train:
            table[exp.task, list(exp.classes)] = True
        return table.to(self.device)

    def _shape(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self._format) if x.dim() == 4 else x

    @functools.cached_property
    def _augment_rng(self) -> torch.Generator:
        return self.rng("augment")
