"""Projections of gradients against those of kept examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.memory import Memory
from clbench.parts.replay import Episodes
from clbench.strategy import Strategy

if TYPE_CHECKING:
    from clbench.engine import Run


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

    parallel = True
    capturable = True

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

    parallel = True
    capturable = True

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

    Args:
        g: the step's gradient. references: (k, P) the gradients G_i of past experiences.
        margin: γ, least weight of every reference. ridge: added to the diagonal of GGᵀ, so that it can be solved.

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
    """The gradients of those of the parameters that have one, themselves and not copies."""
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
