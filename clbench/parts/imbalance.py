"""Losses on labels of which some classes have far fewer examples than others, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.errors import IncompatibleError
from clbench.parts.losses import CrossEntropy
from clbench.parts.sharpness import ascent, perturbed
from clbench.strategy import Run, Strategy, overrides
from clbench.types import MASKED, Batch, Experience, Output


class RowLoss(Strategy):
    """A loss of every row on its label; `fit` is their mean, unless parts of the chain mix labels or split the rows.

    Another part `Mix` gives rows second labels; a part `TailSharpness` takes head and tail rows apart. Subclasses say
    what the loss of a row is.
    """

    replaces: ClassVar[tuple[type[Strategy], ...]] = (CrossEntropy,)

    def setup(self, run: Run) -> None:
        for part in run.strategy.parts:
            if part is not self and CrossEntropy in part.replaces and overrides(part, "losses"):
                raise IncompatibleError(
                    f"{self} and {part} both bring the loss on the labels; a chain may hold one of them."
                )
        self.mix = next((part for part in run.strategy.parts if isinstance(part, Mix)), None)
        self.split = next((part for part in run.strategy.parts if isinstance(part, TailSharpness)), None)

    def rows(self, logits: Tensor, y: Tensor) -> Tensor:
        """(B,) the loss of each row, for logits (B, C) and labels (B,)."""
        return F.cross_entropy(logits, y, reduction="none")

    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        """() their mean; of weighted rows, over the sum of the weights."""
        return F.cross_entropy(logits, y)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if self.split is not None:
            return {"fit": self.split.head(batch, out.logits)}
        other = self.mix.other(batch) if self.mix is not None else None
        own = self.mean(out.logits, batch.y)
        if self.mix is None or other is None:
            return {"fit": own}
        return {"fit": self.mix.share * own + (1 - self.mix.share) * self.mean(out.logits, other)}

    def mixed_rows(self, batch: Batch, logits: Tensor) -> Tensor:
        """(B,) the loss of each row on its labels, the second one included where rows are mixed."""
        rows = self.rows(logits, batch.y)
        other = self.mix.other(batch) if self.mix is not None else None
        if self.mix is None or other is None:
            return rows
        return self.mix.share * rows + (1 - self.mix.share) * self.rows(logits, other)


class PlainRows(RowLoss):
    """Cross-entropy, row by row: what is left where a chain shapes rows and names no other loss of them."""

    idempotent = True
    parallel = True


class Counts(Strategy):
    """How many examples each class has: the most that an experience has brought so far, old ones among them.

    Attributes:
        n: (C,) float; 0 for classes that have not come.
    """

    needs = frozenset({"boundaries"})
    state = ("n",)

    def setup(self, run: Run) -> None:
        super().setup(run)
        self.n = torch.zeros(run.num_classes, device=run.device)

    def begin_experience(self, exp: Experience) -> None:
        here = torch.bincount(exp.data.y(), minlength=len(self.n)).to(self.n)
        self.n = torch.maximum(self.n, here)


class InverseWeights(Counts, RowLoss):
    """Cross-entropy whose rows are weighted by the inverse of their class's number of examples."""

    replaces = (CrossEntropy, PlainRows)
    parallel = True

    def rows(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, weight=inverse_weights(self.n), reduction="none")

    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, weight=inverse_weights(self.n))


def inverse_weights(n: Tensor) -> Tensor:
    """(C,) 1 / n_c of counts (C,), scaled to a sum of 1; 0 for a class without an example."""
    inverse = torch.where(n > 0, 1 / n.double().clamp(min=1), 0.0)
    return (inverse / inverse.sum()).to(n.dtype)


class BalancedSoftmax(Counts, RowLoss):
    """Cross-entropy of logits that are shifted by the logarithm of each class's share of the examples."""

    replaces = (CrossEntropy, PlainRows)
    parallel = True

    def rows(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits + log_prior(self.n), y, reduction="none")

    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits + log_prior(self.n), y)


def log_prior(n: Tensor) -> Tensor:
    """(C,) ln n_c / Σ n of counts (C,); `MASKED` for a class without an example, which is then out of the question."""
    share = n.double() / n.sum()
    return torch.where(n > 0, share.log(), MASKED).to(n.dtype)


class Margins(Counts, RowLoss):
    """LDAM: each row's own score is lowered by its class's margin, all are multiplied by s; rare classes count more
    late.

    Args:
        margin: of the rarest class.
        scale: s.
        defer: passes over an experience before rows are weighted.
        beta: of the weights.
    """

    replaces = (CrossEntropy, PlainRows)
    parallel = True

    def __init__(self, margin: float, scale: float, defer: int, beta: float) -> None:
        self.margin, self.scale, self.defer, self.beta = margin, scale, defer, beta

    def rows(self, logits: Tensor, y: Tensor) -> Tensor:
        return self._loss(logits, y, "none")

    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        return self._loss(logits, y, "mean")

    def _loss(self, logits: Tensor, y: Tensor, reduction: str) -> Tensor:
        own = F.one_hot(y, logits.shape[1]) * ldam_margins(self.n, self.margin)  # (B, C)
        beta = self.beta if self.run.epoch >= self.defer else 0.0
        weight = effective_weights(self.n, beta)
        return F.cross_entropy(self.scale * (logits - own), y, weight=weight, reduction=reduction)


def ldam_margins(n: Tensor, largest: float) -> Tensor:
    """(C,) m_c = m · n_c^−¼ / max_k n_k^−¼ of counts (C,); 0 for a class without an example."""
    root = torch.where(n > 0, n.double().clamp(min=1) ** -0.25, 0.0)
    return (largest * root / root.max()).to(n.dtype)


def effective_weights(n: Tensor, beta: float) -> Tensor:
    """(C,) (1 − β) / (1 − β^n_c) of counts (C,), scaled to mean 1 over the classes with examples; 0 for others."""
    there = n > 0
    few = n.double().clamp(min=1)  # in single precision 1 − β and 1 − β^n would be rounded away
    weight = torch.where(there, (1 - beta) / (1 - beta**few), 0.0)
    return (weight * there.sum() / weight.sum()).to(n.dtype)


class Mix(Strategy):
    """CMO: with a probability, a box of other images is pasted into a batch, rare classes in front.

    The other images are drawn with replacement from the experience's examples, a class as often as any other; one box
    for the whole batch, as large as 1 − λ of the image with λ uniform. Of inputs that are no images, a run of features.

    Attributes:
        mixed: () bool, whether the present batch is mixed. share: () λ, what is left of each row's own image.

    Args:
        probability: that a batch is mixed.
        power: q, of the weights 1 / n_c^q that an example of class c is drawn by.
        start: mixing begins after so many passes, the first not counted.
        end: and ends so many before the last.
    """

    needs = frozenset({"boundaries"})
    state = ("deck", "dealt")
    parallel = True

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
        """(B,) second labels of a batch's rows; None where it may not be mixed."""
        if (
            not self._active or batch.new == 0
        ):  # rows that are trained on at an experience's end are not mixed
            return None
        return torch.cat(
            [self._other, batch.y[len(self._other) :]]
        )  # rows that joined later stand for themselves

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
                    weight.to(self.run.device), len(y), replacement=True, generator=seed
                ).to("cpu")
                self.dealt = 0
            part = self.deck[self.dealt : self.dealt + n]
            self.dealt += len(part)
            n -= len(part)
            parts.append(part)
        raw, y = data.take(torch.cat(parts).to("cpu"))
        return raw.to(self.run.device), y.to(self.run.device)


def box(sides: Sequence[int], share: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Which places of an input lie in a box, and the share of places that do not.

    The box has (1 − λ)^(1/k) of each of the k sides, in whole steps of two, and is cut where the input ends.

    Args:
        sides: of the input, (H, W) of images.
        share: () λ.
        centre: (k,) int64, a place of the input.

    Returns:
        Places of shape `sides`, bool, and what is left, (). Tensors both, so that nothing waits for the device.
    """
    inside, area = torch.ones((), dtype=torch.bool, device=share.device), torch.ones((), device=share.device)
    for axis, size in enumerate(sides):
        half = (size * (1 - share) ** (1 / len(sides))).floor().div(2, rounding_mode="floor")
        low, high = (centre[axis] - half).clamp(0, size), (centre[axis] + half).clamp(0, size)
        place = torch.arange(size, device=share.device)
        inside = inside & ((place >= low) & (place < high)).view(-1, *(1 for _ in sides[axis + 1 :]))
        area = area * (high - low) / size
    return inside, 1 - area


class TailSharpness(Strategy):
    """ImbSAM: rows of rare classes are fitted where their loss is about worst within ρ of the weights, and count twice.

    Rare are the classes that came after the first experience. The gradient is g_head(θ) + g_tail(θ + ε) with
    ε = ρ g_tail(θ) / ‖g_tail(θ)‖₂, of Σ_head ℓ / B and 2 Σ_tail ℓ / B. Other losses of the chain go with the head.
    """

    needs = frozenset({"boundaries"})
    state = ("rare",)
    parallel = True

    def __init__(self, rho: float) -> None:
        self.rho = rho

    def setup(self, run: Run) -> None:
        self.rare = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)  # (C,)
        self.loss = next(part for part in run.strategy.parts if isinstance(part, RowLoss))

    def begin_experience(self, exp: Experience) -> None:
        if exp.index == 0:
            self.rare = torch.ones_like(self.rare)
            self.rare[list(exp.classes)] = False

    def tail(self, batch: Batch) -> Tensor:
        """(B,) bool, rows of which a label is of a rare class."""
        rows, mix = self.rare[batch.y], self.loss.mix
        other = mix.other(batch) if mix is not None else None
        return rows if mix is None or other is None else rows | (self.rare[other] & mix.mixed)

    def head(self, batch: Batch, logits: Tensor) -> Tensor:
        """() Σ_head ℓ / B."""
        return (self.loss.mixed_rows(batch, logits) * ~self.tail(batch)).sum() / len(batch)

    def gradient(self, batch: Batch, inner: Callable[[Batch], Output]) -> Output:
        if not bool(
            self.tail(batch).any()
        ):  # one look at the device saves two passes, and most batches have none
            return inner(batch)
        run = self.run
        before = run.moment()
        out = inner(batch)
        theta = list(run.parameters().values())
        with run.repeating(before):
            up = ascent(self._tail_gradient(batch, theta), self.rho)
        with run.repeating(before), perturbed(theta, up):
            worst = self._tail_gradient(batch, theta)
        scale = run.gradient_scale()
        for p, g in zip(theta, worst, strict=True):
            if g is not None:
                p.grad = g * scale if p.grad is None else p.grad + g * scale
        return out

    def _tail_gradient(self, batch: Batch, theta: list[torch.nn.Parameter]) -> list[Tensor | None]:
        """The gradient of 2 Σ_tail ℓ / B where the weights are."""
        rows = self.loss.mixed_rows(batch, self.run.forward(batch.x, batch.task).logits)
        loss = 2 * (rows * self.tail(batch)).sum() / len(batch)
        return list(torch.autograd.grad(loss, theta, allow_unused=True))
