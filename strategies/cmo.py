"""Context-rich minority oversampling (CMO).

Park et al., "The Majority Can Help The Minority: Context-rich Minority Oversampling for Long-tailed Classification",
CVPR 2022, arXiv:2112.00412.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from clbench import Batch, Experience, Run, Strategy, chain, register
from clbench.parts import MixesLabels, PlainRows, box, sent
from clbench.ranges import Natural, NotNegative, Share


class Mix(MixesLabels):
    """CMO: with a probability, a box of other images is pasted into a batch, rare classes in front.

    The other images are drawn with replacement from the experience's examples, a class as often as any other; one box
    for the whole batch, as large as 1 − λ of the image with λ uniform. Where inputs are no images, it is a run of
    features.

    Args:
        probability: that a batch is mixed.
        power: q in the weights 1 / n_c^q by which an example of class c is drawn.
        start: mixing begins after so many passes, the first not counted; end: and ends so many before the last.
    """

    needs = frozenset({"boundaries"})
    state = ("deck", "dealt")
    parallel = True
    waits = 2  # where a deck ends: for the draw of the next one, and for it to come to the CPU

    def __init__(self, probability: float, power: float, start: int, end: int) -> None:
        self.probability, self.power, self.start, self.end = probability, power, start, end

    def setup(self, run: Run) -> None:
        self.deck = torch.zeros(0, dtype=torch.int64)  # rows of the experience, as they will be drawn
        self.dealt = 0
        self._active = False

    def begin_experience(self, exp: Experience) -> None:
        self.deck, self.dealt = self.deck[:0], 0

    def extend(self, batch: Batch) -> Batch:
        run = self.run
        self._active = run.experience > 0 and self.start < run.epoch < run.epochs - self.end
        if not self._active:
            return batch
        rng, device = run.rng("mix"), run.device
        raw, self._other = self._draw(len(batch))
        self.mixed = torch.rand((), generator=rng, device=device) < self.probability
        sides = batch.x.shape[2:] if batch.x.dim() == 4 else batch.x.shape[1:]
        share = torch.rand((), generator=rng, device=device)
        centre = torch.stack([torch.randint(n, (), generator=rng, device=device) for n in sides])
        inside, left = box(sides, share, centre)
        self.share = torch.where(self.mixed, left, 1.0)
        return batch.with_x(
            torch.where(inside & self.mixed, run.benchmark.transform.train(raw, rng), batch.x)
        )

    def other(self, batch: Batch) -> Tensor | None:
        if not self._active or batch.new == 0:  # what is trained on at an experience's end is not mixed
            return None
        return torch.cat([self._other, batch.y[len(self._other) :]])  # what joined later stands for itself

    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Raw inputs (n, …) and labels (n,) of the next rows; when a deck ends, a new one of as many as there are."""
        data = self.run.train[self.run.experience].data
        parts = []
        while n > 0:
            if self.dealt >= len(self.deck):
                y = data.y()
                weight = (1 / torch.bincount(y).double() ** self.power)[y]
                seed = self.run.rng("foreground")
                self.deck = torch.multinomial(
                    sent(weight, self.run.device), len(y), replacement=True, generator=seed
                ).to("cpu")
                self.dealt = 0
            part = self.deck[self.dealt : self.dealt + n]
            self.dealt += len(part)
            n -= len(part)
            parts.append(part)
        raw, y = data.take(torch.cat(parts).to("cpu"))
        return sent(raw, self.run.device), sent(y, self.run.device)


@register(
    "cmo",
    family="rare classes",
    paper="arXiv:2112.00412",
    modifier=True,
    null={"probability": 0.0},
    tiny={"start": 0, "end": 0},
)
def cmo(
    probability: Share = 0.5,
    power: NotNegative = 1.0,
    start: Annotated[int, Field(ge=-1)] = 3,
    end: Natural = 1,
) -> Strategy:
    """CMO: boxes of images of rare classes are pasted into a batch, whose rows then have two labels.

    With probability p a batch is mixed: x ← x outside a random box, x' inside, and the loss is λ ℓ(y) + (1 − λ) ℓ(y'),
    λ the area outside. x' are drawn with weights 1 / n_c^q, so that with q = 1 every class is drawn equally often.
    Around any other strategy, and beside `balanced-softmax`, `ldam-drw` and `imbsam`; from the second experience on.

    Args:
        probability: p; 0.5 by default in the authors' code, 0.2 in the best combination for few-shot streams.
        power: q.
        start: the first passes 0 … `start` over an experience are not mixed.
        end: nor are the last so many.

    Reference: Park et al., "The Majority Can Help The Minority: Context-rich Minority Oversampling for Long-tailed
    Classification", CVPR 2022, arXiv:2112.00412; for few-shot streams Kim et al., ICCV-W 2025, arXiv:2503.10003.

    Differences from the authors' code:
        1. λ is uniform, Beta(1, 1), their default; other Betas cannot be had.
        2. Inputs that are no images are mixed by a run of features.
        3. Rows that replay adds are mixed as the stream's are; x' come from the experience's examples.
    """
    if probability == 0:
        return Strategy()
    return chain(PlainRows(), Mix(probability, power, start, end))
