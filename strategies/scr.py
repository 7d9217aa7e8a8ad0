"""Supervised Contrastive Replay (SCR).

Mai et al., "Supervised Contrastive Replay: Revisiting the Nearest Class Mean Classifier in Online Class-Incremental
Continual Learning", CVPR Workshops 2021, arXiv:2103.13885.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Batch, Output, Run, Strategy, register
from clbench.memory import ReservoirKind
from clbench.parts import CrossEntropy, Rehearsal, SecondView, second_view, supervised_contrast
from clbench.ranges import Count, Natural, Positive
from clbench.strategy import State
from clbench.types import MASKED

CHUNK = 512
"""Stored examples in one forward pass when class means are taken."""


class ContrastiveReplay(Rehearsal):
    """Projected features of stream and memory, in two views, are contrasted; the nearest mean of a class predicts.

    `contrast` is the supervised contrastive loss over all views. The linear head is neither trained nor used. With an
    empty memory there is no update, and BatchNorm's statistics stay as they are.
    """

    replaces = (CrossEntropy,)  # the labels are learned here
    parallel = True
    capturable = True

    def __init__(
        self,
        capacity: int,
        draw: int,
        temperature: float,
        projection: int,
        second: SecondView,
        kind: ReservoirKind,
    ) -> None:
        super().__init__(capacity, draw, kind)
        self.temperature, self.size, self.second = temperature, projection, second

    def wrap(self, model: nn.Module) -> nn.Module:
        features: int = model.feature_size  # type: ignore[assignment]
        hidden, last = self._linear(features, features), self._linear(features, self.size)
        self.projection = nn.Sequential(hidden, nn.ReLU(), last)
        model.projection = self.projection  # so that it is trained, saved and counted with the model
        return model

    def _linear(self, size_in: int, size_out: int) -> nn.Linear:
        """Return a layer as torch initialises it, by a generator of its own."""
        made: nn.Linear = nn.utils.skip_init(nn.Linear, size_in, size_out, device=self.run.device)
        bound, generator = 1 / math.sqrt(size_in), self.run.rng("projection")
        nn.init.uniform_(made.weight, -bound, bound, generator=generator)
        nn.init.uniform_(made.bias, -bound, bound, generator=generator)
        return made

    def setup(self, run: Run) -> None:
        super().setup(run)
        self._means: tuple[int, Tensor] | None = None

    def extend(self, batch: Batch) -> Batch:
        """Return the first view: the stream's rows and a draw as they are."""
        plain = batch.with_x(self.run.normalise(batch.raw))
        n = self.due(batch)
        if n == 0:
            return plain
        old = self.memory.draw(n, self.run.rng("replay"))
        return plain.join(self.run.normalise(old["x"]), old["y"], old["task"], old["x"])

    def step(self, batch: Batch, inner: Callable[[Batch], Output]) -> Output:
        """Leave no trace of the pass of a batch from which nothing is learned."""
        with contextlib.nullcontext() if len(self.memory) else self.run.tentatively():
            return inner(batch)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if len(batch) == batch.new:
            return {}
        other = self.run.forward(second_view(self.run, batch.raw, self.second), batch.task)
        z = self.projection(torch.cat([out.features, other.features]))
        return {"contrast": supervised_contrast(F.normalize(z), batch.y.repeat(2), self.temperature)}

    def after_step(self, batch: Batch, out: Output) -> None:
        self.memory.add(self.run.rng("memory"), **batch.examples())

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        """Minus the squared distance between unit features and the classes' unit means."""
        features = F.normalize(self.run.forward(x).features)
        if not len(self.memory):
            return features.new_full((len(x), self.run.num_classes), MASKED)
        # One evaluation predicts in several calls; the means change with every step only.
        if self._means is None or self._means[0] != self.run.step:
            chunks = self.memory["x"].split(CHUNK)
            stored = torch.cat([self.run.forward(self.run.normalise(raw)).features for raw in chunks])
            self._means = self.run.step, class_means(stored, self.memory["y"], self.run.num_classes)
        means = self._means[1]
        scores = 2 * features @ means.T - 2
        absent = torch.ones_like(means[:, 0], dtype=torch.bool).index_fill(0, self.memory["y"], False)
        return self.run.mask_tasks(scores.masked_fill(absent, MASKED), task)

    def end_experience(self, exp: object) -> None:
        self._means = None  # another part may move weights here without a step

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._means = None


def class_means(features: Tensor, y: Tensor, classes: int) -> Tensor:
    """(C, D) unit means of unit features (N, D) by label; zeros for a class without a row."""
    member = F.one_hot(y, classes).to(features.dtype)  # (N, C)
    return F.normalize(member.T @ F.normalize(features))


@register("scr", family="contrast", version=2, paper="arXiv:2103.13885")
def scr(
    memory: Count = 200,
    draw: Natural = 100,
    temperature: Positive = 0.07,
    projection: Count = 128,
    second_view: Literal["strong", "kornia", "benchmark"] = "strong",
    fill: Literal["example", "batch"] = "example",
) -> Strategy:
    """Supervised Contrastive Replay: features of a class are drawn together, and the nearest class mean predicts.

    L = supervised contrastive loss over two views of stream and replayed examples, on unit projections of the features
    by a network of one hidden layer. The means are those of the stored examples' unit features, before projection.

    Args:
        memory: examples the reservoir holds.
        draw: replayed examples.
        temperature: τ.
        projection: size of the projected features.
        second_view: how the second view of a colour image is made: strong, by a random resized crop, a flip, colour
            jitter and greyscale of torchvision's; kornia, by those of kornia 0.4.1, as in the authors' code. Otherwise,
            and for other inputs, it is the benchmark's augmentation.
        fill: which slots of the reservoir an example may take: as many as there were examples up to itself, or up to
            its batch, as in the authors' code, which keeps late examples a little more often.

    Reference: Mai et al., "Supervised Contrastive Replay: Revisiting the Nearest Class Mean Classifier in Online
    Class-Incremental Continual Learning", CVPR Workshops 2021, arXiv:2103.13885. The defaults are the authors' for a
    stream of batches of 10.

    Differences from the paper:
        1. The second view of what is no colour image is the benchmark's augmentation; where that is nothing, both views
           are equal.
        2. A class of which nothing is stored cannot be predicted; the authors' code gives it a random mean.
        3. The model keeps its linear head, which gets no gradient.
        4. A strong view has torchvision's operations and an order of its own for every image's jitter; the authors'
           library has one order for a batch, adds brightness, and places crops a little off (`second_view=kornia`).
        5. The reservoir is exact (`fill`).
    """
    return ContrastiveReplay(memory, draw, temperature, projection, second_view, fill)
