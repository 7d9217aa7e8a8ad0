"""Maximally Interfered Retrieval (MIR).

Aljundi et al., "Online Continual Learning with Maximally Interfered Retrieval", NeurIPS 2019, arXiv:1908.04742.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from clbench import Batch, Output, Run, Strategy, chain, register
from clbench.memory import ReservoirKind
from clbench.parts import CrossEntropy, Rehearsal
from clbench.ranges import Count, Natural


class InterferedReplay(Rehearsal):
    """Replay those examples of a random draw whose loss a step on the stream's batch would raise most.

    `replay` is their mean cross-entropy, in a forward pass of their own.
    """

    parallel = "its loss takes a gradient of its own, of which each process would have a part"

    def __init__(self, capacity: int, draw: int | None, candidates: int, kind: ReservoirKind) -> None:
        super().__init__(capacity, draw, kind)
        self.candidates = candidates

    def setup(self, run: Run) -> None:
        run.foresee_draw(self.capacity, self.draw)
        super().setup(run)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        n = self.due(batch)
        if n == 0:
            return {}
        old = self.memory.draw(max(self.candidates, n), self.run.rng("replay"))
        x, y, task = self.run.augment(old["x"]), old["y"], old["task"]
        if len(y) > n:
            rise = interference(self.run, F.cross_entropy(out.logits, batch.y), x, y, task)
            chosen = rise.topk(n).indices
            x, y, task = x[chosen], y[chosen], task[chosen]
        return {"replay": F.cross_entropy(self.run.forward(x, task).logits, y)}


def interference(run: Run, loss: Tensor, x: Tensor, y: Tensor, task: Tensor) -> Tensor:
    """(B,) how much the cross-entropy of each row of x would rise by one plain gradient step on `loss`.

    Both passes are in the model's present mode, on copies of its running statistics.
    """
    now = {name: p.detach() for name, p in run.parameters().items()}
    theta, rate = list(run.parameters().values()), run.optimizer.param_groups[0]["lr"]
    gradients = torch.autograd.grad(loss, theta, retain_graph=True, materialize_grads=True)
    ahead = {name: p - rate * g for (name, p), g in zip(now.items(), gradients, strict=True)}
    before, after = (
        F.cross_entropy(run.output_of(Elsewhere(run.model, weights), x, task).logits, y, reduction="none")
        for weights in (now, ahead)
    )
    return after - before


class Elsewhere(nn.Module):
    """The logits of a model at other weights; the model itself, its running statistics included, stays as it is."""

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.model, self.head, self.passes = model, nn.Identity(), getattr(model, "passes", 1)
        self.tensors = {**{name: b.clone() for name, b in model.named_buffers()}, **weights}

    def features(self, x: Tensor) -> Tensor:
        """(B, …) → (B, C)."""
        logits: Tensor = functional_call(self.model, self.tensors, (x,))
        return logits


@register("mir", family="replay", paper="arXiv:1908.04742", null={"draw": 0})
def mir(
    memory: Natural = 200,
    draw: Natural | None = None,
    candidates: Count = 50,
    fill: Literal["example", "batch"] = "example",
) -> Strategy:
    """Replay of those stored examples that a step on the new batch would hurt most.

    L = CE(stream) + CE(replayed), in two forward passes. The replayed examples are those of a random draw of
    `candidates` for which CE(θ − η ∇CE(stream)) − CE(θ) is greatest, with η the learning rate.

    Args:
        memory: examples the reservoir holds.
        draw: replayed examples; as many as the stream brings if none is given.
        candidates: examples among which they are chosen.
        fill: which slots of the reservoir an example may take: as many as there were examples up to itself, or up to
            its batch, as in the authors' code, which keeps late examples a little more often.

    Reference: Aljundi et al., "Online Continual Learning with Maximally Interfered Retrieval", NeurIPS 2019,
    arXiv:1908.04742. This is its ER-MIR with the first of its two criteria; 50 candidates are the authors' choice.

    Differences from the paper:
        1. Candidates come from the whole memory; the authors' code leaves out the present experience, which a learner
           without boundaries does not know.
        2. The two passes that score candidates leave the model's running statistics alone.
        3. The step ahead is one of plain gradient descent with the run's learning rate under every optimizer.
        4. Where a benchmark augments, candidates are scored as they would be replayed, augmented once.
        5. The reservoir is exact (`fill`).
    """
    return chain(CrossEntropy(), InterferedReplay(memory, draw, candidates, fill))
