"""Parts that more than one strategy is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.memory import Memory, Reservoir
from clbench.rehearsal import lag_weights as lag_weights
from clbench.strategy import Strategy
from clbench.types import MASKED, Batch, Output

if TYPE_CHECKING:
    from clbench.engine import Run


class CrossEntropy(Strategy):
    """Mean cross-entropy over all rows of the batch, stream and replayed alike: loss `fit`."""

    idempotent = True

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"fit": F.cross_entropy(out.logits, batch.y)}


class Replay(Strategy):
    """Examples drawn from a reservoir join every batch; the stream's examples are offered to it after the step.

    Args:
        capacity: examples the reservoir holds.
        draw: examples that join a batch; as many as the stream brings if None, fewer while there are not so many.
    """

    needs = frozenset({"memory"})
    state = ("memory",)

    def __init__(self, capacity: int, draw: int | None = None) -> None:
        self.capacity, self.draw = capacity, draw

    def setup(self, run: Run) -> None:
        self.memory = Reservoir(self.capacity)

    def extend(self, batch: Batch) -> Batch:
        n = min(batch.new if self.draw is None else self.draw, len(self.memory))
        if n == 0:
            return batch
        old = self.memory.draw(n, self.run.rng("replay"))
        return batch.join(self.run.augment(old["x"]), old["y"], old["task"], old["x"])

    def after_step(self, batch: Batch, out: Output) -> None:
        if self.draw == 0:  # nothing will ever be drawn
            return
        self.memory.add(self.run.rng("memory"), **batch.examples())


class DarkReplay(Strategy):
    """Two draws from a reservoir, each with its own forward pass: one must keep its logits, one its labels.

    `dark` is α · mean squared difference between stored and present logits, over all columns; `replay` is
    β · cross-entropy (eqs. 5 and 6 of Buzzega et al., arXiv:2004.07211). Stored logits are those of the step in
    which the example came.
    """

    needs = frozenset({"memory"})
    state = ("memory",)

    def __init__(self, capacity: int, draw: int | None, alpha: float, beta: float) -> None:
        self.capacity, self.draw, self.alpha, self.beta = capacity, draw, alpha, beta

    def setup(self, run: Run) -> None:
        self.memory = Reservoir(self.capacity)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        n = min(batch.new if self.draw is None else self.draw, len(self.memory))
        losses: dict[str, Tensor] = {}
        if n == 0:
            return losses
        # A forward pass in training mode moves BatchNorm statistics: a zero coefficient must not make one.
        if self.alpha:
            old, past = self._replay(n)
            losses["dark"] = self.alpha * F.mse_loss(past.logits, old["logits"])
        if self.beta:
            old, past = self._replay(n)
            losses["replay"] = self.beta * F.cross_entropy(past.logits, old["y"])
        return losses

    def _replay(self, n: int) -> tuple[dict[str, Tensor], Output]:
        """A draw of n examples, augmented anew, and what the model says of it now."""
        old = self.memory.draw(n, self.run.rng("replay"))
        return old, self.run.forward(self.run.augment(old["x"]), old["task"])

    def after_step(self, batch: Batch, out: Output) -> None:
        self.memory.add(self.run.rng("memory"), **batch.examples(), logits=batch.firsts(out.logits))


# --- proxies: PCR and HPCR ---


class CosineHead(nn.Module):
    """Scores (B, C) = cos(features, proxies) / τ; one proxy (D,) for each class, learned.

    Args:
        proxies: (C, D) to begin with.
        temperature: τ.
    """

    def __init__(self, proxies: Tensor, temperature: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(proxies.detach().clone())
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) → (B, C)."""
        return F.linear(unit(features), unit(self.weight)) / self.temperature


def unit(rows: Tensor) -> Tensor:
    """(B, D) rows over their lengths; 10⁻⁶ keeps a row of zeros finite."""
    lengths: Tensor = rows.norm(dim=1, keepdim=True)
    return rows / (lengths + 1e-6)


class Proxies(Strategy):
    """A cosine head in place of the linear one, whose initial weights are the first proxies; it also predicts.

    Args:
        temperature: τ of the scores.
        seen_only: whether classes that no batch has brought yet are out of the question at prediction.
    """

    state = ("seen",)

    def __init__(self, temperature: float, seen_only: bool) -> None:
        self.temperature, self.seen_only = temperature, seen_only

    def wrap(self, model: nn.Module) -> nn.Module:
        model.head = CosineHead(model.head.weight, self.temperature)  # type: ignore[union-attr,arg-type]
        return model

    def setup(self, run: Run) -> None:
        self.seen = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)  # (C,)

    def after_step(self, batch: Batch, out: Output) -> None:
        self.seen.index_fill_(0, batch.y[: batch.new], True)

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        scores = self.run.forward(x, task).logits
        return scores.masked_fill(~self.seen, MASKED) if self.seen_only else scores


class TwoViews(Strategy):
    """The stream's rows come as they are, and augmented rows of the same examples join them, in the same order."""

    def extend(self, batch: Batch) -> Batch:
        plain = batch.with_x(self.run.normalise(batch.raw))
        return plain.join(batch.x, batch.y, batch.task, batch.raw)


def replay_two_views(run: Run, memory: Memory, n: int) -> tuple[dict[str, Tensor], Output]:
    """A draw of n examples, each twice (all as they are, then all augmented), and what the model says of these rows."""
    drawn = memory.draw(n, run.rng("replay"))
    x = torch.cat([run.normalise(drawn["x"]), run.augment(drawn["x"])])
    old = {name: torch.cat([rows, rows]) for name, rows in drawn.items() if name != "x"}
    return old, run.forward(x, old["task"])


def proxy_contrast(scores: Tensor, y: Tensor, weighting: Literal["count", "uniform"] = "count") -> Tensor:
    """Mean over rows of ln Σ_c n_c exp(s_ic) − s_iy, with n_c the rows of class c: supervised contrast with proxies.

    The candidates of a row are the proxies of all rows' labels, with multiplicity; classes without a row are none.

    Args:
        scores: (N, C). y: (N,).
        weighting: "uniform" takes each class among the labels once.
    """
    counts = torch.zeros_like(scores[0]).index_add_(0, y, torch.ones_like(scores[:, 0]))  # (C,)
    if weighting == "uniform":
        counts = counts.clamp(max=1)
    own = scores.gather(1, y.unsqueeze(1)).squeeze(1)
    return ((scores + counts.log()).logsumexp(1) - own).mean()
