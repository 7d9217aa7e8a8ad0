"""What a strategy may ask of its run: passes, gradients' surroundings, random streams, predictions."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clbench.config import RunConfig
from clbench.errors import IncompatibleError
from clbench.lone import check_pass, norms
from clbench.models import Spelling, predicted
from clbench.parallel import Ranks
from clbench.precision import Precision
from clbench.randomness import derive_seed, global_rng, global_rng_state, set_global_rng_state
from clbench.types import MASKED, Benchmark, Data, Experience, LateOutput, Output


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


class Services:
    """The part of a `Run` that answers; the engine's loop is the other."""

    benchmark: Benchmark
    config: RunConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    precision: Precision
    ranks: Ranks
    num_classes: int
    batch_size: int
    forwards: int
    _exact: Precision
    _format: torch.memory_format
    _generators: dict[str, torch.Generator]
    _classifier: Callable[[Tensor, Tensor], Tensor] | None
    _task_classes: Tensor | None

    def forward(self, x: Tensor, task: Tensor | None = None) -> Output:
        """Logits (B, C) and features (B, D), float32, under the run's precision and in the model's present
        mode.

        With task labels, classes of other tasks are out of the question (`MASKED`).
        """
        self.count(x)
        head: nn.Module = self.model.head  # type: ignore[assignment]
        if isinstance(head, Spelling) and self._task_classes is None:
            return self._late(head, self._through(self.model, x, scored=False)[0])
        features, logits = self._through(self.model, x)
        return Output(self.mask_tasks(logits, task), features)

    def _through(self, model: nn.Module, x: Tensor, scored: bool = True) -> tuple[Tensor, Tensor]:
        """Features (B, D) and logits (B, C), float32; within a gradient, the run's processes share the rows.

        Not `scored`, the head is left out, and the logits are (B, 0).
        """

        def network(rows: Tensor) -> tuple[Tensor, Tensor]:
            with self.precision.autocast():
                features = model.features(rows)  # type: ignore[operator]
                logits = model.head(features) if scored else features[:, :0]  # type: ignore[operator]
            return features.float(), logits.float()

        return self.ranks.through(network, model, x)

    def count(self, x: Tensor, model: nn.Module | None = None) -> None:
        """Count in the budget that inputs x (B, …) pass the model, or another one; for who asks neither by the run.

        One pass for an example, and more where a network asks a query first.
        """
        passes: int = getattr(self.model if model is None else model, "passes", 1)
        self.forwards += len(x) * passes

    def _late(self, head: Spelling, features: Tensor) -> Output:
        """An output whose logits wait until they are asked for, under the precision that the run has now."""
        precision = self.precision

        def score() -> Tensor:
            with precision.autocast():
                logits: Tensor = head(features)
            return logits.float()

        def log_prob(y: Tensor) -> Tensor:
            with precision.autocast():
                return head.log_prob(features, y)

        return LateOutput(features, score, log_prob, next(head.parameters()))

    def logits(self, features: Tensor) -> Tensor:
        """(B, C) float32 logits of features (B, D), of every class whatever the task."""
        with self.precision.autocast():
            logits: Tensor = self.model.head(features)  # type: ignore[operator]
        return logits.float()

    def mask_tasks(self, logits: Tensor, task: Tensor | None) -> Tensor:
        """(B, C) logits with the classes of other tasks masked, where task labels are told."""
        if task is None or self._task_classes is None:
            return logits
        return logits.masked_fill(~self._task_classes[task], MASKED)

    def augment(self, raw: Tensor) -> Tensor:
        """Raw inputs (B, …), augmented and normalised as for training, by the generator `augment`."""
        return self._shape(self.benchmark.transform.train(raw, self._augment_rng))

    def normalise(self, raw: Tensor) -> Tensor:
        """Raw inputs (B, …), normalised only, as for evaluation."""
        return self._shape(self.benchmark.transform.normalise(raw))

    def rng(self, consumer: str) -> torch.Generator:
        """The private random stream of a consumer, on the run's device; one name, one stream, saved in
        checkpoints."""
        if consumer not in self._generators:
            generator = torch.Generator(self.device)
            generator.manual_seed(derive_seed(self.config.seeds.data, consumer))
            self._generators[consumer] = generator
        return self._generators[consumer]

    def generators(self) -> list[torch.Generator]:
        """The random streams of all consumers so far."""
        return list(self._generators.values())

    def permutation(self, exp: Experience, epoch: int) -> Tensor:
        """(N,) a random order of an experience's rows: that of pass `epoch` where no part orders.

        Drawn on the CPU, by seed, experience and number alone, so that it is the same on every device and
        whatever else draws. Of an ordered experience, the order that it has.
        """
        if exp.ordered:
            return torch.arange(len(exp.data))
        generator = torch.Generator()
        generator.manual_seed(derive_seed(self.config.seeds.data, f"order/{exp.index}/{epoch}"))
        return torch.randperm(len(exp.data), generator=generator)

    def frozen(self) -> nn.Module:
        """A copy of the model as it is now, in eval mode and without gradients: a teacher."""
        # deepcopy keeps gradients, and a teacher needs none
        model = copy.deepcopy(self.model)
        for parameter in model.parameters():
            parameter.grad = None
        return model.eval().requires_grad_(False)

    def anew(self, consumer: str) -> nn.Module:
        """A copy of the model whose layers are initialised again, as their classes do it, by a named random stream.

        Raises:
            IncompatibleError: a module has parameters and no way to initialise them (`reset_parameters`).
        """
        model = copy.deepcopy(self.model)
        state = self.rng(consumer)
        seed = torch.randint(2**62, (), generator=state, device=state.device).item()
        with global_rng(self.device, int(seed), None):
            for module in model.modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()
                elif next(module.parameters(False), None) is not None:
                    raise IncompatibleError(
                        f"A {type(module).__name__} has parameters and no reset_parameters(), by which they would be "
                        "drawn again; give it one."
                    )
        return model

    def output_of(self, model: nn.Module, x: Tensor, task: Tensor | None = None) -> Output:
        """Like `forward`, for another model such as a teacher, and without gradient."""
        self.count(x, model)
        with torch.no_grad():
            features, logits = self._through(model, x)
        return Output(self.mask_tasks(logits, task), features)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def visit(self, data: Data, batch_size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """All examples of some data in order, not augmented: inputs (B, …) and labels (B,); for what follows
        an experience (Fisher information, prototypes)."""
        size = batch_size or self.batch_size
        for rows in torch.arange(len(data)).split(size):
            raw, y = data.take(rows)
            yield self.normalise(raw.to(self.device)), y.to(self.device)

    def foresee(self, rows: int, size: int, what: str) -> None:
        """Refuse a pass that a part will make in training mode if batch normalisation cannot take its last batch.

        For `setup`, so that it is said before anything is trained.

        Args:
            rows: examples of the pass. size: of a batch.
            what: the pass, and which settings decide its numbers, for the message.

        Raises:
            IncompatibleError: the last batch is one example, and the network needs two.
        """
        check_pass(self, rows, size, what)  # type: ignore[arg-type]  # a run is the only one that serves

    def foresee_draw(self, capacity: int, draw: int | None) -> None:
        """`foresee` of what is drawn from a memory and passed by itself, as many as the stream brings if None."""
        n = min(capacity, self.batch_size if draw is None else draw)
        self.foresee(n, n, "what is drawn from the memory (memory, draw)")

    @functools.cached_property
    def norms_of_two(self) -> list[nn.modules.batchnorm._BatchNorm]:
        """The network's layers of batch normalisation that get one value per channel of an example."""
        return norms(self)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model in eval mode, every module's own mode restored afterwards."""
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
        """What is drawn inside is drawn again after it, and the model's buffers are then as before.

        For a gradient that is taken more than once for one batch, such as by an around point that calls `inner` twice:
        the same replayed examples and the same dropout each time, and BatchNorm's statistics move once.
        """
        before = self.moment()
        try:
            yield
        finally:
            self._return_to(before)

    @contextlib.contextmanager
    def repeating(self, moment: Moment) -> Iterator[None]:
        """What is drawn inside is what was drawn from a `moment` on, and afterwards all goes on as if it had not been.

        For a second pass over a batch of which the first one counts: the same replayed examples, the same dropout, and
        the model's buffers are afterwards as the first pass has left them.
        """
        now = self.moment()
        self._return_to(moment)
        try:
            yield
        finally:
            self._return_to(now)

    def moment(self) -> Moment:
        """Where all random streams and the model's buffers stand: what `repeating` goes back to."""
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
        """() what the gradients that `gradient`'s inner leaves in `.grad` are multiplied by: 1 but under fp16."""
        return self.precision.scale(torch.ones((), device=self.device))

    def forget_moments(self, entries: Mapping[Tensor, Tensor]) -> None:
        """The optimizer's running averages of these entries back to 0; masks are bool and broadcast."""
        for parameter, which in entries.items():
            for value in self.optimizer.state[parameter].values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.masked_fill_(which, 0.0)

    # --- prediction ---

    @property
    def classifier(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """The part's point that classifies in place of the model's head, if any does."""
        return self._classifier

    @property
    def task_classes(self) -> Tensor | None:
        """(T, C) bool, the classes of each task, where task labels are told."""
        return self._task_classes

    def predict(self, x: Tensor, task: Tensor) -> Tensor:
        """(B, C) scores by which the run classifies, float32 and in full precision."""
        if self._classifier is not None:
            kept = self.forwards, self.precision
            self.precision = self._exact  # also for what the classifier asks of the run
            try:
                return self._classifier(x, task)
            finally:
                self.forwards, self.precision = kept  # what evaluation costs is no part of a method's price
        logits = predicted(self.model.head, self.model.features(x))  # type: ignore[operator, arg-type]
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
