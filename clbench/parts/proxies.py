"""Contrast: of features with proxies, one learned vector for each class, and of features with one another."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.memory import Memory
from clbench.strategy import Run, Strategy
from clbench.transforms.views import contrastive_view, kornia_view
from clbench.types import MASKED, Batch, Output


class CosineHead(nn.Module):
    """Scores (B, C) = cos(features, proxies) / τ; one proxy (D,) for each class, learned.

    Args:
        proxies: (C, D) to begin with.
        temperature: τ.
        eps: see `unit`.
    """

    def __init__(self, proxies: Tensor, temperature: float, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(proxies.detach().clone())
        self.temperature, self.eps = temperature, eps

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) → (B, C)."""
        return F.linear(unit(features, self.eps), unit(self.weight, self.eps)) / self.temperature


def unit(rows: Tensor, eps: float = 1e-6) -> Tensor:
    """(B, D) rows over their lengths; eps, added to these, keeps a row of zeros finite."""
    lengths: Tensor = rows.norm(dim=1, keepdim=True)
    return rows / (lengths + eps)


class Proxies(Strategy):
    """A cosine head in place of the linear one, whose initial weights are the first proxies; it also predicts.

    Args:
        temperature: τ of the scores.
        seen_only: whether classes that no batch has brought yet are out of the question at prediction.
    """

    state = ("seen",)
    parallel = True
    capturable = True

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


SecondView = Literal["strong", "kornia", "benchmark"]
"""How the second view of an example is made: strongly, by one library or another, or as the benchmark augments."""


def second_view(run: Run, raw: Tensor, kind: SecondView) -> Tensor:
    """(B, …) raw inputs → (B, …) what the model sees of them as a second view.

    A strong view is a random resized crop with flip, colour jitter and greyscale, of colour images, by the operations
    of torchvision or of kornia 0.4.1 (`clbench.transforms.views`); other inputs are augmented as the benchmark does.
    """
    if kind != "benchmark" and raw.dtype == torch.uint8 and raw.dim() == 4 and raw.shape[1] == 3:
        view = contrastive_view if kind == "strong" else kornia_view
        return run.normalise(view(raw, run.rng("views")))
    return run.augment(raw)


class TwoViews(Strategy):
    """The stream's rows come as they are, and second views of the same examples join them, in the same order."""

    parallel = True
    capturable = True

    def __init__(self, second: SecondView) -> None:
        self.second = second

    def extend(self, batch: Batch) -> Batch:
        plain = batch.with_x(self.run.normalise(batch.raw))
        return plain.join(second_view(self.run, batch.raw, self.second), batch.y, batch.task, batch.raw)


def replay_two_views(
    run: Run, memory: Memory, n: int, second: SecondView
) -> tuple[dict[str, Tensor], Output]:
    """Return a draw of n examples, each twice (all as they are, then all second views), and what the model says of
    them.

    Args:
        run: the engine.
        memory: with columns x, y and task.
        n: examples drawn.
        second: how second views are made.

    Returns:
        The columns but x, (2n, …) each, and the output of 2n rows.
    """
    drawn = memory.draw(n, run.rng("replay"))
    x = torch.cat([run.normalise(drawn["x"]), second_view(run, drawn["x"], second)])
    old = {name: torch.cat([rows, rows]) for name, rows in drawn.items() if name != "x"}
    return old, run.forward(x, old["task"])


def proxy_contrast(scores: Tensor, y: Tensor, weighting: Literal["count", "uniform"] = "count") -> Tensor:
    """Mean over rows of ln Σ_c n_c exp(s_ic) − s_iy, with n_c the rows of class c: supervised contrast with proxies.

    The candidates of a row are the proxies of all rows' labels, with multiplicity; classes without a row are none.

    Args:
        scores: (N, C).
        y: (N,).
        weighting: "uniform" takes each class among the labels once.
    """
    counts = torch.zeros_like(scores[0]).index_add_(0, y, torch.ones_like(scores[:, 0]))  # (C,)
    if weighting == "uniform":
        counts = counts.clamp(max=1)
    own = scores.gather(1, y.unsqueeze(1)).squeeze(1)
    return ((scores + counts.log()).logsumexp(1) - own).mean()


def supervised_contrast(z: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Mean over rows i of −1/|P_i| Σ_{p ∈ P_i} ln [exp(z_i·z_p/τ) / Σ_{a ≠ i} exp(z_i·z_a/τ)].

    P_i are the other rows of i's class.

    Args:
        z: (N, D) of unit length, at least two rows of each class.
        y: (N,).
        temperature: τ.
    """
    oneself = torch.eye(len(y), dtype=torch.bool, device=y.device)
    similar = (z @ z.T / temperature).masked_fill(oneself, float("-inf"))  # (N, N)
    positive = (y.unsqueeze(0) == y.unsqueeze(1)) & ~oneself
    return (similar.logsumexp(1) - similar.masked_fill(~positive, 0).sum(1) / positive.sum(1)).mean()
