"""The contract catches bugs: each is planted in a strategy, and the check that must find it is named.

A bug of the method itself, such as a wrong sign or a lost factor, no general contract can see; the last test
plants one. Such bugs are what `test_equations` is for.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from clbench.strategies.ema import TemporalEnsemble
from clbench.strategies.ewc import Consolidate
from clbench.strategies.gdumb import Dumb
from clbench.strategies.si import PathIntegral
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Strategy, chain, make_strategy
from clbench.engine.engine import Engine
from clbench.parts import CrossEntropy, DarkReplay, Distil, Replay, Teacher, TrainOnly, once
from clbench.ranges import Count, NotNegative
from clbench.testing import check_strategy
from clbench.testing.elsewhere import HASH_SEEDS

Bug = Callable[..., Strategy]
BUGS: list[tuple[str, str, Bug, dict[str, Any] | None]] = []


def caught_by(check: str, says: str, null: dict[str, Any] | None = None) -> Callable[[Bug], Bug]:
    """A factory that must fail this check, for this reason; `null` are parameters with which it claims to be
    fine-tuning."""

    def add(bug: Bug) -> Bug:
        BUGS.append((check, says, bug, null))
        return bug

    return add


# --- state ---


@caught_by("null_parameters", "running_mean", null={"strength": 0.0})
def fisher_pass_moves_batch_norm(strength: float = 1.0) -> Strategy:
    class Bug(Consolidate):
        def end_experience(self, exp: Experience) -> None:
            for x, _ in self.run.visit(exp.data):
                self.run.forward(x)  # in train mode, and whatever the strength

    return chain(CrossEntropy(), Bug(strength, "sampled", False, 1.0))


@caught_by("resumes", "zip")
def forgotten_field() -> Strategy:
    class Bug(Consolidate):
        state = ("anchors",)  # and not `fishers`

    return chain(CrossEntropy(), Bug(10.0, "empirical", False, 1.0))


@caught_by("resumes", "ends differently")
def forgotten_counter() -> Strategy:
    class Bug(Strategy):
        calls = 0

        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            self.calls += 1
            return {"warm": out.logits.square().mean() / self.calls}

    return chain(CrossEntropy(), Bug())


@caught_by("resumes", "ends differently")
def generator_of_its_own() -> Strategy:
    class Bug(Strategy):
        def setup(self, run: Engine) -> None:
            self.generator = torch.Generator().manual_seed(1)

        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            return {"noise": out.logits.mean() * torch.rand((), generator=self.generator)}

    return chain(CrossEntropy(), Bug())


@caught_by("resumes", "ends differently")
def anchor_not_cloned() -> Strategy:
    class Bug(Consolidate):
        def end_experience(self, exp: Experience) -> None:
            super().end_experience(exp)
            self.anchors[-1] = {name: p.detach() for name, p in self.run.parameters().items()}

    return chain(CrossEntropy(), Bug(10.0, "empirical", False, 1.0))


@caught_by("resumes", "ends differently")
def teacher_in_train_mode() -> Strategy:
    class Bug(Teacher):
        def end_experience(self, exp: Experience) -> None:
            super().end_experience(exp)
            self.network.train()

    return chain(CrossEntropy(), Distil(1.0, 2.0, "old"), Bug())


# --- randomness ---


class GlobalDraw(Replay):
    def extend(self, batch: Batch) -> Batch:
        if not len(self.memory):
            return batch
        rows = self.rows(min(4, len(self.memory)))
        x, y, task = (self.memory[name][rows] for name in ("x", "y", "task"))
        return batch.join(self.run.augment(x), y, task, x)

    def rows(self, n: int) -> Tensor:
        return torch.randperm(len(self.memory))[:n]


@caught_by("private_randomness", "generator of torch")
def global_draw_of_torch(memory: int = 20) -> Strategy:
    return chain(GlobalDraw(memory), CrossEntropy())


@caught_by("private_randomness", "generator of numpy")
def global_draw_of_numpy(memory: int = 20) -> Strategy:
    class Bug(GlobalDraw):
        def rows(self, n: int) -> Tensor:
            return torch.from_numpy(np.random.permutation(len(self.memory))[:n])  # noqa: NPY002

    return chain(Bug(memory), CrossEntropy())


@caught_by("private_randomness", "generator of Python")
def global_draw_of_python(memory: int = 20) -> Strategy:
    class Bug(GlobalDraw):
        def rows(self, n: int) -> Tensor:
            return torch.tensor(random.sample(range(len(self.memory)), n))

    return chain(Bug(memory), CrossEntropy())


@caught_by("private_randomness", "depends on the state of a global generator")
def reads_a_global_generator_and_puts_it_back(memory: int = 20) -> Strategy:
    class Bug(GlobalDraw):
        def rows(self, n: int) -> Tensor:
            with torch.random.fork_rng(devices=[]):
                return super().rows(n)

    return chain(Bug(memory), CrossEntropy())


@caught_by("deterministic", "one seed differ")
def entropy_of_the_machine() -> Strategy:
    class Bug(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            return {"noise": out.logits.mean() * int.from_bytes(os.urandom(2), "little") / 2**16}

    return chain(CrossEntropy(), Bug())


@caught_by("deterministic", "two processes differ")
def order_of_a_set_of_strings() -> Strategy:
    class Bug(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            weights = {"plain": 0.1, "flipped": 0.2, "shifted": 0.3}
            return {"first": out.logits.square().mean() * weights[next(iter(set(weights)))]}

    return chain(CrossEntropy(), Bug())


@caught_by("deterministic", "two processes differ")
def number_of_the_process() -> Strategy:
    class Bug(Strategy):
        def setup(self, run: Engine) -> None:
            self.scale = os.getpid() / 2**22

        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            return {"scaled": out.logits.square().mean() * self.scale}

    return chain(CrossEntropy(), Bug())


@caught_by("deterministic", "in another process: ValueError")
def fails_in_other_processes() -> Strategy:
    class Bug(Strategy):
        def setup(self, run: Engine) -> None:
            if os.environ.get("PYTHONHASHSEED") == HASH_SEEDS[0]:
                raise ValueError("not here")

    return chain(CrossEntropy(), Bug())


# --- what it is judged by ---


@caught_by("test_unseen", "Bug looks at the examples of the test stream")
def trains_on_the_test_set() -> Strategy:
    class Bug(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            x, y = self.run.benchmark.test[self.run.experience].data.take(torch.arange(8))
            return {"test": F.cross_entropy(self.run.forward(self.run.normalise(x)).logits, y)}

    return chain(CrossEntropy(), Bug())


@caught_by("test_unseen", "Bug looks at the examples of the test stream")
def labels_of_the_test_set_at_setup() -> Strategy:
    class Bug(Strategy):
        def setup(self, run: Engine) -> None:
            self.labels = torch.cat([exp.data.y() for exp in run.benchmark.test])

    return chain(CrossEntropy(), Bug())


@caught_by("test_unseen", "Bug looks at the examples of the test stream")
def number_of_test_examples() -> Strategy:
    class Bug(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            return {"scaled": out.logits.square().mean() / len(self.run.benchmark.test[0])}

    return chain(CrossEntropy(), Bug())


@caught_by("test_unseen", "Bug looks at the examples of the valid stream")
def trains_on_the_validation_set() -> Strategy:
    class Bug(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            if self.run.benchmark.valid is None:
                return {}
            x, y = self.run.benchmark.valid[0].data.take(torch.arange(8))
            return {"valid": F.cross_entropy(self.run.forward(self.run.normalise(x)).logits, y)}

    return chain(CrossEntropy(), Bug())


@caught_by("test_unseen", "Bug looks at `run.evaluator`")
def slows_down_as_test_accuracy_rises() -> Strategy:
    class Bug(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            accuracies = self.run.evaluator.latest().values()
            return {"scaled": out.logits.square().mean() * (1 - max(accuracies, default=0.0))}

    return chain(CrossEntropy(), Bug())


@caught_by("test_unseen", "depends on what it is judged by")
def trains_on_the_test_set_by_a_back_door() -> Strategy:
    class Bug(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            engine = self.run.forward.__self__  # type: ignore[attr-defined]
            x, y = engine.benchmark.test[engine.experience].data.take(torch.arange(8))
            return {"test": F.cross_entropy(self.run.forward(x).logits, y)}

    return chain(CrossEntropy(), Bug())


@caught_by("test_unseen", "depends on what it is judged by")
def learns_from_what_it_is_asked() -> Strategy:
    class Bug(Strategy):
        mean = 0.0

        def logits(self, x: Tensor, task: Tensor) -> Tensor:
            self.mean = float(x.mean())
            return self.run.forward(x, task).logits

        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            return {"shifted": (out.logits.mean() - self.mean).square()}

    return chain(CrossEntropy(), Bug())


# --- what is counted ---


class Uncounted(Strategy):
    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"again": F.cross_entropy(self.ask(batch.x), batch.y)}

    def ask(self, x: Tensor) -> Tensor:
        raise NotImplementedError


@caught_by("forwards_counted", "768 examples pass the model in training, and the budget counts 384")
def asks_the_model_itself() -> Strategy:
    class Bug(Uncounted):
        def ask(self, x: Tensor) -> Tensor:
            return self.run.model(x)  # type: ignore[no-any-return]

    return chain(CrossEntropy(), Bug())


@caught_by("forwards_counted", "768 examples pass the model in training, and the budget counts 384")
def asks_for_features_itself() -> Strategy:
    class Bug(Uncounted):
        def ask(self, x: Tensor) -> Tensor:
            return self.run.logits(self.run.model.features(x))  # type: ignore[operator]

    return chain(CrossEntropy(), Bug())


@caught_by("forwards_counted", "the budget counts 384")
def asks_layer_by_layer() -> Strategy:
    class Bug(Uncounted):
        def ask(self, x: Tensor) -> Tensor:
            for layer in self.run.model.backbone:  # type: ignore[union-attr]
                x = layer(x)
            return self.run.logits(x)

    return chain(CrossEntropy(), Bug())


@caught_by("forwards_counted", "768 examples pass the model in training, and the budget counts 384")
def asks_a_copy_of_the_model() -> Strategy:
    class Bug(Uncounted):
        def setup(self, run: Engine) -> None:
            self.teacher = run.frozen()

        def ask(self, x: Tensor) -> Tensor:
            return self.teacher(x)

    return chain(CrossEntropy(), Bug())


@caught_by("forwards_counted", "576 examples pass the model in training, and the budget counts 384")
def predicts_in_training() -> Strategy:
    class Bug(Strategy):
        def end_experience(self, exp: Experience) -> None:
            for x, y in self.run.visit(exp.data):
                self.run.predict(x, torch.full_like(y, -1))

    return chain(CrossEntropy(), Bug())


@caught_by("forwards_counted", "384 examples pass the model in training, and the budget counts 0")
def takes_its_passes_back() -> Strategy:
    class Bug(Strategy):
        def after_step(self, batch: Batch, out: Output) -> None:
            self.run.forwards -= len(batch)

    return chain(CrossEntropy(), Bug())


# --- other people's tensors ---


@caught_by("inputs_untouched", "extend writes into batch.x")
def writes_into_the_batch() -> Strategy:
    class Bug(Strategy):
        def extend(self, batch: Batch) -> Batch:
            batch.x.clamp_(-1.0, 1.0)
            return batch

    return chain(Bug(), CrossEntropy())


@caught_by("inputs_untouched", "losses writes into output.logits")
def writes_into_the_output() -> Strategy:
    class Bug(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            out.logits.data[:, batch.y.unique()] += 1.0
            return {}

    return chain(Bug(), CrossEntropy())


@caught_by("modes_restored", "after_step leaves")
def leaves_the_model_in_eval_mode() -> Strategy:
    class Bug(Strategy):
        def after_step(self, batch: Batch, out: Output) -> None:
            self.run.model.eval()

    return chain(CrossEntropy(), Bug())


# --- evaluation ---


@caught_by("evaluation_silent", "evaluation changes")
def classifier_draws_from_the_memory(memory: int = 20) -> Strategy:
    class Bug(Replay):
        def logits(self, x: Tensor, task: Tensor) -> Tensor:
            if len(self.memory):
                self.memory.draw(4, self.run.rng("replay"))
            return self.run.forward(x, task).logits

    return chain(Bug(memory), CrossEntropy())


@caught_by("evaluation_silent", "running_mean")
def predicts_in_train_mode() -> Strategy:
    class Bug(Strategy):
        def logits(self, x: Tensor, task: Tensor) -> Tensor:
            self.run.model.train()
            return self.run.forward(x, task).logits

    return chain(CrossEntropy(), Bug())


@caught_by("prediction_alone", "what else is in the batch")
def normalises_over_the_evaluation_batch() -> Strategy:
    class Bug(Strategy):
        def logits(self, x: Tensor, task: Tensor) -> Tensor:
            logits = self.run.forward(x, task).logits
            return logits - logits.mean(0)

    return chain(CrossEntropy(), Bug())


@caught_by("prediction_alone", "what else is in the batch")
def most_chosen_prompts_of_the_batch() -> Strategy:
    return make_strategy("l2p", variant="pilot", selection="batch", pool=16, length=2, top=2)


@caught_by("evaluation_blind", "the experience that is under way")
def masks_by_the_experience_under_way() -> Strategy:
    class Bug(Strategy):
        def logits(self, x: Tensor, task: Tensor) -> Tensor:
            present = list(self.run.train[self.run.experience].classes)
            logits = self.run.forward(x, task).logits
            return logits.index_add(1, torch.tensor(present), torch.ones(len(x), len(present)))

    return chain(CrossEntropy(), Bug())


@caught_by("evaluation_blind", "the experience that is under way")
def predicts_with_the_prompt_of_the_task_it_is_told() -> Strategy:
    class Bug(Strategy):
        def logits(self, x: Tensor, task: Tensor) -> Tensor:
            return self.run.forward(x, task).logits + F.one_hot(task.clamp(min=0), self.run.num_classes)

    return chain(CrossEntropy(), Bug())


# --- frozen ---


@caught_by("frozen", "running_mean")
def frozen_backbone_in_train_mode() -> Strategy:
    class Bug(TrainOnly):
        def wrap(self, model: nn.Module) -> nn.Module:
            model.backbone.requires_grad_(False)  # type: ignore[union-attr]
            return model

        def frozen(self) -> Mapping[str, Tensor]:
            return dict(self.run.model.backbone.named_buffers())  # type: ignore[union-attr]

    return chain(Bug("head"), CrossEntropy())


@caught_by("frozen", "backbone.")
def average_written_into_frozen_weights() -> Strategy:
    class Bug(TrainOnly):
        def after_update(self) -> None:
            for p in self.run.model.parameters():
                p.mul_(0.999)

    return chain(Bug("head"), CrossEntropy())


@caught_by("frozen", "earlier slots")
def momentum_moves_earlier_slots() -> Strategy:
    class Bug(Strategy):
        """One parameter for all experiences, which SGD goes on moving where its gradient is 0."""

        needs = frozenset({"boundaries"})
        state = ("current",)
        current = 0

        def wrap(self, model: nn.Module) -> nn.Module:
            self.slots = nn.Parameter(torch.ones(4))
            model.slots = self.slots
            return model

        def begin_experience(self, exp: Experience) -> None:
            self.current = exp.index

        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            return {"slot": self.slots[self.current].square()}

        def frozen(self) -> Mapping[str, Tensor]:
            return {"earlier slots": self.slots[: self.current].detach()}

    return chain(CrossEntropy(), Bug())


# --- once ---


@caught_by("once", "'backbone.inner' is asked once")
def frozen_for_evaluation_only() -> Strategy:
    """It says that its trunk stays as it is, and moves it by hand."""

    class Bug(TrainOnly):
        def after_update(self) -> None:
            for p in self.run.model.backbone.parameters():  # type: ignore[union-attr]
                p.mul_(0.999)

    return chain(Bug("head"), CrossEntropy())


@caught_by("once", "not the same later")
def prompted_features_that_pass_for_the_frozen_ones() -> Strategy:
    class Shifted(nn.Module):
        """Its trunk stays, and what is learned beside it is asked once, too."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner.eval().requires_grad_(False)
            self.shift = nn.Parameter(torch.zeros(16))

        def train(self, mode: bool = True) -> Shifted:
            super().train(mode)
            self.inner.eval()
            return self

        def forward(self, x: Tensor) -> Tensor:
            return once("features", self.inner, x, lambda rows: self.inner(rows) + self.shift)

    class Bug(Strategy):
        def wrap(self, model: nn.Module) -> nn.Module:
            model.backbone = Shifted(model.backbone)  # type: ignore[arg-type]
            return model

    return chain(Bug(), CrossEntropy())


# --- capture ---


@caught_by("capture", "computes something else")
def choice_that_changes_within_an_experience() -> Strategy:
    class Bug(Strategy):
        capturable = True

        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            return {"warm": out.logits.square().mean()} if self.run.epoch else {}

    return chain(CrossEntropy(), Bug())


@caught_by("capture", "what was recorded is off by")
def number_of_python_that_changes_within_an_experience() -> Strategy:
    class Bug(Strategy):
        state = ("calls",)
        capturable = True
        calls = 0

        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            self.calls += 1
            return {"warm": out.logits.square().mean() / self.calls}

    return chain(CrossEntropy(), Bug())


@caught_by("capture", "_local_scalar_dense.default waits for the device")
def question_to_the_device() -> Strategy:
    class Bug(Strategy):
        capturable = True

        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            loss = out.logits.square().mean()
            return {"large": loss * 2 if loss.item() > 1 else loss}

    return chain(CrossEntropy(), Bug())


@caught_by("capture", "index.Tensor waits for the device")
def rows_chosen_by_a_mask() -> Strategy:
    class Bug(Strategy):
        capturable = True

        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            return {"even": out.logits[batch.y % 2 == 0].square().sum()}

    return chain(CrossEntropy(), Bug())


# --- memory ---


@caught_by("memory_budget", "would keep 11 examples")
def store_one_slot_too_large(memory: int = 20) -> Strategy:
    return chain(Replay(memory + 1), CrossEntropy())


@caught_by("memory_budget", "holds 11 examples")
def keeps_the_latest_example_beside_the_memory(memory: int = 20) -> Strategy:
    class Bug(Replay):
        state: ClassVar[tuple[str, ...]] = ("memory", "latest")
        latest: Tensor | None = None

        def after_step(self, batch: Batch, out: Output) -> None:
            super().after_step(batch, out)
            self.latest = batch.raw[:1].clone()

    return chain(Bug(memory), CrossEntropy())


@caught_by("memory_budget", "may keep 10")
def keeps_normalised_copies_beside_the_memory(memory: int = 20) -> Strategy:
    class Bug(Replay):
        state: ClassVar[tuple[str, ...]] = ("memory", "kept")

        def setup(self, run: Engine) -> None:
            super().setup(run)
            self.kept: list[Tensor] = []

        def after_step(self, batch: Batch, out: Output) -> None:
            self.kept.append(batch.stream().x.clone())

    return chain(Bug(memory), CrossEntropy())


@caught_by("odd_batches", "last batch of one example")
def pairs_up_the_batch() -> Strategy:
    class Bug(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            one, other = out.features.view(2, -1, out.features.shape[1])
            return {"pairs": (one - other).square().mean()}

    return chain(CrossEntropy(), Bug())


# --- what is told and declared ---


@caught_by("declares_needs", "no need of boundaries")
def undeclared_boundaries() -> Strategy:
    class Bug(Teacher):
        needs = frozenset()

    return chain(CrossEntropy(), Distil(1.0, 2.0, "old"), Bug())


@caught_by("declares_needs", "would keep 20 examples")
def undeclared_memory(memory: int = 20) -> Strategy:
    class Bug(Replay):
        needs = frozenset()

    return chain(Bug(memory), CrossEntropy())


@caught_by("tasks_hidden", "may not know")
def looks_up_the_true_task() -> Strategy:
    class Bug(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            task = self.run.benchmark.train[self.run.experience].task
            return {"oracle": out.logits[:, task].square().mean()}

    return chain(CrossEntropy(), Bug())


@caught_by("first_experience", "not fine-tuning")
def anchored_at_initialisation() -> Strategy:
    class Bug(Consolidate):
        def setup(self, run: Engine) -> None:
            self.anchors = [{name: p.detach().clone() for name, p in run.parameters().items()}]
            self.fishers = [{name: torch.ones_like(p) for name, p in run.parameters().items()}]

    return chain(CrossEntropy(), Bug(1.0, "empirical", False, 1.0))


@caught_by("null_parameters", "running_mean", null={"alpha": 0.0, "beta": 0.0})
def forward_under_a_zero_coefficient(memory: int = 20, alpha: float = 0.1, beta: float = 0.5) -> Strategy:
    class Bug(DarkReplay):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            if not len(self.memory):
                return {}
            old, past = self.replayed(8)
            return {"dark": self.alpha * F.mse_loss(past.logits, old["logits"])}

    return chain(CrossEntropy(), Bug(memory, None, alpha, beta))


# --- losses ---


@caught_by("evaluation_silent", "forwards")
def counts_predictions_as_training() -> Strategy:
    class Bug(Strategy):
        def wrap(self, model: nn.Module) -> nn.Module:
            model.head.register_forward_hook(self._count)  # type: ignore[union-attr]
            return model

        def _count(self, head: nn.Module, given: tuple[Tensor, ...], logits: Tensor) -> None:
            self.run.forwards += len(logits)

    return chain(CrossEntropy(), Bug())


@caught_by("takes_effect", "class-incremental stream: it is fine-tuning")
def penalty_without_gradient() -> Strategy:
    class Bug(Consolidate):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            return {name: loss.detach() for name, loss in super().losses(batch, out).items()}

    return chain(CrossEntropy(), Bug(10.0, "empirical", False, 1.0))


@caught_by("takes_effect", "task-incremental stream: it is fine-tuning")
def distils_classes_that_the_task_masks() -> Strategy:
    class Bug(Distil):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            if not self.teacher.taught:
                return {}
            old = self.teacher.old
            teacher = self.run.output_of(self.teacher.network, batch.x, batch.task).logits[:, old]
            divergence = F.kl_div(
                out.logits[:, old].log_softmax(1), teacher.softmax(1), reduction="batchmean"
            )
            return {"distil": divergence}

    return chain(CrossEntropy(), Bug(1.0, 2.0, "old"), Teacher())


@caught_by("low_precision", "bfloat16 under bf16")
def divergence_in_bfloat16() -> Strategy:
    class Bug(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            logits = self.run.model.head(out.features.to(torch.bfloat16).float()).bfloat16()
            return {"entropy": (logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()}

    return chain(CrossEntropy(), Bug())


@caught_by("low_precision", "no scalar")
def loss_not_reduced() -> Strategy:
    class Bug(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            return {"fit": F.cross_entropy(out.logits, batch.y, reduction="none")}

    return Bug()


@caught_by("learns", "0.0 % right")
def wrong_labels() -> Strategy:
    class Bug(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            return {"fit": F.cross_entropy(out.logits, (batch.y + 1) % self.run.num_classes)}

    return Bug()


# --- what it is built from ---


@caught_by("builds", "can be changed")
def default_that_all_share(milestones: list[int] = [1, 2]) -> Strategy:  # noqa: B006
    """Is documented."""

    return CrossEntropy()


@caught_by("builds", "no default")
def parameter_without_default(weight: float) -> Strategy:
    """Is documented."""

    return CrossEntropy()


@caught_by("builds", "no such attribute")
def state_that_does_not_exist() -> Strategy:
    """Is documented."""

    class Bug(CrossEntropy):
        state = ("teachers",)

    return Bug()


# --- ranges of parameters ---


@caught_by("ranges", "'draw' = -1: KeyError")
def draw_below_zero(draw: int | None = None) -> Strategy:
    return chain(Replay(20, draw), CrossEntropy())


@caught_by("ranges", "'passes' = 0 gets")
def no_pass_over_its_memory(passes: int = 32) -> Strategy:
    return Dumb(100, passes, 16, 0.05, 0.0005, 0.0)


@caught_by("ranges", "'memory' takes a whole number ≥ 1; 0 was given")
def default_outside_its_range(memory: Count = 0) -> Strategy:
    return chain(Replay(memory), CrossEntropy())


@caught_by("ranges", "'xi' = 0.0: DivergedError")
def range_that_is_too_wide(xi: NotNegative = 0.1) -> Strategy:
    return chain(CrossEntropy(), PathIntegral(1.0, xi))


@caught_by("ranges", "'momentum' = 2.0")
def momentum_above_one(momentum: float = 0.5) -> Strategy:
    return chain(CrossEntropy(), TemporalEnsemble(momentum, momentum, None))


@pytest.mark.parametrize(
    ("check", "says", "bug", "null"), [pytest.param(*bug, id=bug[2].__name__) for bug in BUGS]
)
def test_planted_bug(check: str, says: str, bug: Bug, null: dict[str, Any] | None) -> None:
    (result,) = check_strategy(bug, null=null, only=[check])
    assert (result.status, says in result.message) == ("failed", True), result.message


# --- what the contract cannot see ---


def test_a_wrong_formula_passes() -> None:
    def ewc_without_the_half() -> Strategy:
        """EWC, but λ stands where λ/2 should: `test_equations/test_ewc.py` is what would fail."""

        class Bug(Consolidate):
            def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
                return {name: 2 * loss for name, loss in super().losses(batch, out).items()}

        return chain(CrossEntropy(), Bug(1.0, "empirical", False, 1.0))

    assert [r for r in check_strategy(ewc_without_the_half) if r.status == "failed"] == []
