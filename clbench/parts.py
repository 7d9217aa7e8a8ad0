"""Parts that more than one strategy is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from clbench.memory import Archive, Memory, Reservoir
from clbench.strategy import Strategy
from clbench.types import Batch, Experience, Output

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
        new = batch.stream()
        self.memory.add(self.run.rng("memory"), x=new.raw, y=new.y, task=new.task)


class Episodes(Strategy):
    """Keeps examples of every experience for later ones, chosen when it ends: an equal share of the memory each.

    With `first`, the share is the experience's first examples; otherwise they are drawn at random.
    """

    needs = frozenset({"boundaries", "memory"})
    state = ("memory", "counts")

    def __init__(self, capacity: int, first: bool = False) -> None:
        self.capacity, self.first = capacity, first
        self.counts: list[int] = []  # rows of each experience so far, in order

    def setup(self, run: Run) -> None:
        self.memory = Archive(self.capacity)

    def end_experience(self, exp: Experience) -> None:
        share, rest = divmod(self.capacity, len(self.run.train))
        n = min(share + (exp.index < rest), len(exp))
        self.counts.append(n)
        if n == 0:
            return
        rng = self.run.rng("episodes")
        chosen = (
            torch.arange(n) if self.first else torch.randperm(len(exp), generator=rng, device=rng.device)[:n]
        )
        x, y = exp.data.take(chosen.to("cpu"))
        y = y.to(self.run.device)
        self.memory.add(x=x.to(self.run.device), y=y, task=torch.full_like(y, exp.task))

    def by_experience(self) -> list[dict[str, Tensor]]:
        """The rows of each experience of which there are any."""
        if not len(self.memory):
            return []
        columns = {name: self.memory[name].split(self.counts) for name in ("x", "y", "task")}
        return [{name: rows[k] for name, rows in columns.items()} for k, n in enumerate(self.counts) if n]


class Keeper(Protocol):
    """A part that keeps examples: columns x, y and task at least."""

    @property
    def memory(self) -> Memory: ...


class ProjectAveraged(Strategy):
    """The step's gradient, if it points against that of kept examples, without the part that does (A-GEM).

    Args:
        keeper: whose memory it is.
        draw: kept examples that the reference gradient is taken on; a full batch if None.
    """

    def __init__(self, keeper: Keeper, draw: int | None = None) -> None:
        self.keeper, self.draw = keeper, draw

    def gradients(self) -> None:
        run, memory = self.run, self.keeper.memory
        n = min(run.batch_size if self.draw is None else self.draw, len(memory))
        if n:
            moved = with_gradients(run)
            reference = replayed_gradient(run, memory.draw(n, run.rng("projection")), moved)
            set_gradient(moved, projected_averaged(as_vector(gradients_of(moved)), reference))


class ProjectEach(Strategy):
    """The step's gradient, if it points against that of a past experience's examples, turned until it does not (GEM).

    Args:
        episodes: the memory. margin: γ, see `projected_each`.
    """

    def __init__(self, episodes: Episodes, margin: float) -> None:
        self.episodes, self.margin = episodes, margin

    def gradients(self) -> None:
        past = self.episodes.by_experience()
        if past:
            moved = with_gradients(self.run)
            references = torch.stack([replayed_gradient(self.run, old, moved) for old in past])
            set_gradient(moved, projected_each(as_vector(gradients_of(moved)), references, self.margin))


def projected_averaged(g: Tensor, reference: Tensor) -> Tensor:
    """g (P,) − ⟨g, r⟩ / (‖r‖² + 10⁻⁷) r where ⟨g, r⟩ < 0, else g; the device decides which."""
    along = g @ reference
    return torch.where(along < 0, g - along / (reference @ reference + 1e-7) * reference, g)


def projected_each(g: Tensor, references: Tensor, margin: float, ridge: float = 1e-3) -> Tensor:
    """g (P,) + Gᵀv where any ⟨G_i, g⟩ < 0, else g; v = argmin ½ vᵀ(GGᵀ + ridge · I)v + (Gg)ᵀv with v_i ≥ margin.

    With w = v − margin and LLᵀ the matrix, this is w = argmin ‖Lᵀw + L⁻¹(Gg + margin · LLᵀ1)‖ with w ≥ 0: non-negative
    least squares of k unknowns, solved on the CPU by an active set, which ends at the solution and not near it.
    """
    from scipy.optimize import nnls

    k = len(references)
    gram = references @ references.T + ridge * torch.eye(k, device=g.device)
    numbers = np.array(
        torch.cat([gram, (references @ g)[:, None]], 1).tolist()
    )  # (k, k + 1) the step's only wait
    matrix, along = numbers[:, :k], numbers[:, k]
    if (
        not np.isfinite(numbers).all() or (along >= 0).all()
    ):  # where fp16 overflowed there is no update to project
        return g
    lower = np.linalg.cholesky(matrix)
    w, _ = nnls(lower.T, -np.linalg.solve(lower, along + margin * matrix.sum(1)))
    return g + torch.as_tensor(w + margin, dtype=g.dtype, device=g.device) @ references


def replayed_gradient(run: Run, old: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> Tensor:
    """(P,) gradient of the mean cross-entropy of rows of a memory, augmented anew."""
    logits = run.forward(run.augment(old["x"]), old["task"]).logits
    scale = run.gradient_scale()
    loss = scale * F.cross_entropy(logits, old["y"])
    return as_vector(torch.autograd.grad(loss, parameters, materialize_grads=True)) / scale


def with_gradients(run: Run) -> list[nn.Parameter]:
    """The parameters that the step's loss depends on."""
    return [p for p in run.parameters().values() if p.grad is not None]


def gradients_of(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def set_gradient(parameters: Sequence[nn.Parameter], vector: Tensor) -> None:
    """Write a vector (P,) into the gradients of these parameters."""
    gradients = gradients_of(parameters)
    torch._foreach_copy_(gradients, like(gradients, vector))


def as_vector(tensors: Sequence[Tensor]) -> Tensor:
    """(P,) all entries in order."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def like(tensors: Sequence[Tensor], vector: Tensor) -> list[Tensor]:
    """The entries of a vector (P,) in the shapes of these tensors: the inverse of `as_vector`."""
    pieces = vector.split([tensor.numel() for tensor in tensors])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]


def quadratic_penalty(
    theta: Mapping[str, Tensor],
    anchors: Sequence[Mapping[str, Tensor]],
    weights: Sequence[Mapping[str, Tensor]],
) -> Tensor:
    """Σ_k Σ_j w_kj (θ_j − θ*_kj)², one term k for each pair of anchors θ*_k and weights w_k."""
    terms = [
        (weight[name] * (theta[name] - anchor[name]) ** 2).sum()
        for anchor, weight in zip(anchors, weights, strict=True)
        for name in anchor
    ]
    return torch.stack(terms).sum()


PER_EXAMPLE_FLOATS = 1 << 26
"""Gradient entries held at once while one gradient per example is taken: 256 MiB."""


def examples_at_once(run: Run) -> int:
    """How many examples' gradients may be held at once."""
    return max(1, PER_EXAMPLE_FLOATS // sum(p.numel() for p in run.parameters().values()))


def per_example_gradients(
    run: Run, loss: Callable[..., Tensor], x: Tensor, *rest: Tensor, model: nn.Module | None = None
) -> dict[str, Tensor]:
    """(B, …) the gradient of one loss per example, by parameter name.

    Args:
        loss: of an example's logits (1, C) and its rows of `rest`, a scalar.
        x: (B, …) inputs. rest: (B, …) what else the loss needs, labels for example.
        model: whose logits; the run's model in its present mode if None.
    """
    network = run.model if model is None else model
    names = run.parameters().keys()
    tensors = {name: tensor.detach() for name, tensor in network.named_parameters()}
    frozen = {name: t for name, t in [*tensors.items(), *network.named_buffers()] if name not in names}

    def of_one(theta: dict[str, Tensor], x1: Tensor, *rest1: Tensor) -> Tensor:
        return loss(functional_call(network, {**frozen, **theta}, (x1[None],)), *rest1)

    per_example = vmap(grad(of_one), in_dims=(None, 0, *(0 for _ in rest)), chunk_size=examples_at_once(run))
    found: dict[str, Tensor] = per_example({name: tensors[name] for name in names}, x, *rest)
    return found
