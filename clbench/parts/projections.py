"""Projections of gradients against those of kept examples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.machine.device import sent
from clbench.memory import Memory
from clbench.parts.replay import Episodes
from clbench.strategy import Run, Strategy
from clbench.types import IGNORED, Batch


class Keeper(Protocol):
    """A part that keeps examples: columns x, y and task at least."""

    @property
    def memory(self) -> Memory: ...


class ProjectAveraged(Strategy):
    """Take the part out of the step's gradient that points against the gradient of kept examples (A-GEM).

    The reference gradient is taken before the stream's pass, in training mode; with `running`, after it, and
    BatchNorm layers use their running statistics and leave them alone.

    Args:
        keeper: whose memory it is.
        draw: kept examples that the reference gradient is taken on; a full batch if None, the replayed rows of the
            batch if "replayed".
        running: see above.
    """

    keeps_rows = True
    parallel = True
    capturable = True
    language = True

    def __init__(
        self, keeper: Keeper, draw: int | Literal["replayed"] | None = None, running: bool = False
    ) -> None:
        self.keeper, self.draw, self.running = keeper, draw, running
        self.replayed: Batch | None = None
        self.reference: Tensor | None = None  # between the passes and the update

    def extend(self, batch: Batch) -> Batch:
        self.replayed = batch
        self.reference = None if self.running else self._reference()
        return batch

    def gradients(self) -> None:
        reference = self._reference() if self.reference is None else self.reference
        if reference is not None:
            g, moved = moved_gradient(self.run)
            set_gradient(moved, projected_averaged(g, of_moved(self.run, reference)))
        self.replayed = self.reference = None

    def _reference(self) -> Tensor | None:
        """(P,) or None where nothing is kept."""
        run, memory = self.run, self.keeper.memory
        if self.draw == "replayed":
            batch = self.replayed
            if batch is None or len(batch) == batch.new:
                return None
            old = slice(batch.new, None)
            return replayed_gradient(run, batch.x[old], batch.y[old], batch.task[old], self.running)
        n = min(run.batch_size if self.draw is None else self.draw, len(memory))
        if n == 0:
            return None
        drawn = memory.draw(n, run.rng("projection"))
        return replayed_gradient(run, run.augment(drawn["x"]), drawn["y"], drawn["task"], self.running)


class ProjectEach(Strategy):
    """Turn the step's gradient until it points against that of no past experience's examples (GEM).

    Args:
        episodes: the memory.
        margin: γ, see `projected_each`.
        running: as of `ProjectAveraged`.
    """

    keeps_rows = True
    parallel = True
    capturable = True
    language = True
    waits = 1  # for the gradients' inner products

    def __init__(self, episodes: Episodes, margin: float, running: bool = False) -> None:
        self.episodes, self.margin, self.running = episodes, margin, running
        self.references: Tensor | None = None  # between the passes and the update

    def extend(self, batch: Batch) -> Batch:
        self.references = None if self.running else self._references()
        return batch

    def gradients(self) -> None:
        references = self._references() if self.references is None else self.references
        if references is not None:
            g, moved = moved_gradient(self.run)
            set_gradient(moved, projected_each(g, of_moved(self.run, references), self.margin))
        self.references = None

    def _references(self) -> Tensor | None:
        """(k, P) or None where nothing is kept."""
        run, past = self.run, self.episodes.by_experience()
        if not past:
            return None
        rows = ((run.augment(old["x"]), old["y"], old["task"]) for old in past)
        return torch.stack([replayed_gradient(run, *old, self.running) for old in rows])


def projected_averaged(g: Tensor, reference: Tensor) -> Tensor:
    """g (P,) − ⟨g, r⟩ / (‖r‖² + 10⁻⁷) r where ⟨g, r⟩ < 0, else g; the device decides which."""
    along = g @ reference
    return torch.where(along < 0, g - along / (reference @ reference + 1e-7) * reference, g)


def projected_each(g: Tensor, references: Tensor, margin: float, ridge: float = 1e-3) -> Tensor:
    """g (P,) + Gᵀv where any ⟨G_i, g⟩ < 0, else g; v = argmin ½ vᵀ(GGᵀ + ridge · I)v + (Gg)ᵀv with v_i ≥ margin.

    Args:
        g: the step's gradient.
        references: (k, P) the gradients G_i of past experiences.
        margin: γ, least weight of every reference.
        ridge: added to the diagonal of GGᵀ.

    v is also argmin ‖Gᵀv + g‖² + ridge ‖v‖², and so w = v − margin is non-negative least squares of k unknowns. It is
    solved on the CPU by an active set, which ends at the solution and not near it. All that it needs of gradients of
    any scale, collinear ones too, is their inner products, in float64; GGᵀ itself, whose rounding may exceed the
    ridge, is never factored.
    """
    from scipy.optimize import nnls

    products = np.array(inner_products(torch.cat([references, g[None]])).tolist())  # the step's only wait
    # Where fp16 overflowed, there is no update to project.
    if not np.isfinite(products).all() or (products[-1, :-1] >= 0).all():
        return g
    vectors = with_products(products)
    G, h = vectors[:, :-1], vectors[:, -1]  # (k + 1, k) and (k + 1,), as G_i and g to each other
    k = G.shape[1]
    # Each unknown counts in units in which its column has length 1, and the right side has length 1.
    unit = 1 / np.sqrt(products.diagonal()[:-1] + ridge)
    columns = np.concatenate([G, np.sqrt(ridge) * np.eye(k)]) * unit
    right = -np.concatenate([h, np.zeros(k)]) - columns @ (margin / unit)
    length = np.linalg.norm(right)
    w, _ = nnls(columns, right / length, maxiter=30 * k)
    v = torch.as_tensor(w * length * unit + margin, dtype=g.dtype)
    return g + sent(v, g.device) @ references


PIECE = 1 << 20
"""Entries of each gradient that are in float64 at once."""


def inner_products(vectors: Tensor) -> Tensor:
    """(n, n) float64 inner products of vectors (n, P)."""
    pieces = [piece.double() for piece in vectors.split(PIECE, dim=1)]
    return torch.stack([piece @ piece.T for piece in pieces]).sum(0)


def with_products(products: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(n, n) whose columns are vectors of n entries with these inner products (n, n)."""
    lengths = np.sqrt(products.diagonal())
    safe = np.where(lengths > 0, lengths, 1.0)
    values, basis = np.linalg.eigh(products / np.outer(safe, safe))  # of cosines, whatever the lengths are
    vectors: np.ndarray[Any, np.dtype[np.float64]]
    vectors = np.sqrt(values.clip(min=0))[:, None] * basis.T * lengths
    return vectors


def replayed_gradient(run: Run, x: Tensor, y: Tensor, task: Tensor, running: bool = False) -> Tensor:
    """Return the gradient (P,) of the mean cross-entropy of inputs x (B, …) in all trainable parameters.

    Args:
        run: the engine.
        x, y, task: the rows.
        running: whether BatchNorm layers use their running statistics and leave them alone.
    """
    theta = list(run.parameters().values())
    with by_running_statistics(run.model) if running else contextlib.nullcontext():
        logits = run.forward(x, task).logits
    scale = run.gradient_scale()
    loss = scale * F.cross_entropy(logits.flatten(0, -2), y.flatten(), ignore_index=IGNORED)
    return as_vector(torch.autograd.grad(loss, theta, materialize_grads=True)) / scale


@contextlib.contextmanager
def by_running_statistics(model: nn.Module) -> Iterator[None]:
    """BatchNorm layers in eval mode, all others as they are."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


def moved_gradient(run: Run) -> tuple[Tensor, list[nn.Parameter]]:
    """Return the step's gradient (P',) and its parameters: those that the step's loss depends on."""
    moved = with_gradients(run)
    return as_vector(gradients_of(moved)), moved


def of_moved(run: Run, vectors: Tensor) -> Tensor:
    """(…, P) of all trainable parameters → (…, P') of those that the step's loss depends on."""
    theta = list(run.parameters().values())
    pieces = vectors.split([p.numel() for p in theta], dim=-1)
    kept = [piece for piece, p in zip(pieces, theta, strict=True) if p.grad is not None]
    return vectors if len(kept) == len(theta) else torch.cat(kept, -1)


def with_gradients(run: Run) -> list[nn.Parameter]:
    """Return the parameters that the step's loss depends on."""
    return [p for p in run.parameters().values() if p.grad is not None]


def gradients_of(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return the gradients of the parameters that have one: the tensors themselves, no copies."""
    return [p.grad for p in parameters if p.grad is not None]


def set_gradient(parameters: Sequence[nn.Parameter], vector: Tensor) -> None:
    """Write a vector (P,) into the gradients of these parameters."""
    gradients = gradients_of(parameters)
    torch._foreach_copy_(gradients, like(gradients, vector))


def as_vector(tensors: Sequence[Tensor]) -> Tensor:
    """(P,) all entries in order."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def like(tensors: Sequence[Tensor], vector: Tensor) -> list[Tensor]:
    """Return the entries of a vector (P,) in the shapes of these tensors: the inverse of `as_vector`."""
    pieces = vector.split([tensor.numel() for tensor in tensors])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]
