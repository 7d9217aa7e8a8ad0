"""EASE: an adapter of its own for each experience, and class means in all their subspaces, the missing ones made up.

Zhou, Sun, Ye, Zhan, "Expandable Subspace Ensemble for Pre-Trained Model-Based Class-Incremental Learning", CVPR 2024,
arXiv:2403.12030.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Experience, Run, Strategy, chain, register
from clbench.parts import (
    Adapter,
    Cosine,
    Dropout,
    GrowingHead,
    LocalCrossEntropy,
    ScaleHead,
    Slots,
    Stage,
    draw_down,
    features_of,
    insert,
    once,
)
from clbench.ranges import Count, Fraction, NotNegative, Positive
from clbench.strategy import State
from clbench.types import MASKED


def completed(prototypes: Tensor, experience_of: Tensor, t: int) -> Tensor:
    """(C, S, D) prototypes by class and subspace, those of classes in later subspaces made up of later classes'.

    p̂_{c,s} = Σ_n softmax_n(cos(p_{c,i}, p_{n,i})) p_{n,s} for a class c of experience i < s, over classes n of the
    experiences s … t.

    Args:
        prototypes: real ones where s ≤ i.
        experience_of: (C,) i; −1 for classes that have not come.
        t: the last experience that has ended.
    """
    full = prototypes.clone()
    for i in range(t):
        old = experience_of == i
        for s in range(i + 1, t + 1):
            later = experience_of >= s
            if not (old.any() and later.any()):
                continue
            here, there = F.normalize(prototypes[old, i], dim=1), F.normalize(prototypes[later, i], dim=1)
            full[old, s] = (here @ there.T).softmax(dim=1) @ prototypes[later, s]
    return full


def reweighted(features: Tensor, prototypes: Tensor, experience_of: Tensor, alpha: float) -> Tensor:
    """(B, C) cos(φ_i, p_{c,i}) + (α / t) Σ_{s≠i} cos(φ_s, p_{c,s}) of features (B, t + 1, D), for classes of i."""
    t = features.shape[1] - 1
    unit, means = F.normalize(features, dim=2), F.normalize(prototypes[:, : t + 1], dim=2)
    cosines = torch.einsum("bsd,csd->bcs", unit, means)
    own = F.one_hot(experience_of.clamp(min=0), t + 1).to(cosines.dtype)  # (C, t + 1)
    return (cosines * (own + (1 - own) * (alpha / max(t, 1)))).sum(2)


class Subspaces(Strategy):
    """The present experience's adapters are trained by a head of cosines; prototypes of all subspaces predict.

    Args:
        width: of a bottleneck. alpha: of other subspaces. beta: of the pretrained network.
        dropout: in adapters.
    """

    architecture = "vit"
    needs = frozenset({"boundaries"})
    state = ("prototypes", "experience_of", "ended")
    parallel: bool | str = "its dropout would be drawn anew by each of them"

    def __init__(self, width: int, alpha: float, beta: float, dropout: float) -> None:
        self.width, self.alpha, self.beta, self.dropout = width, alpha, beta, dropout

    def wrap(self, model: nn.Module) -> nn.Module:
        rng, n = self.run.rng("adapters"), len(self.run.benchmark.train)
        dropout = Dropout(self.dropout, self.run.rng("dropout"))
        model.backbone.requires_grad_(False)
        self.stage = model.stage = Stage()

        def slots(width: int) -> Slots:
            made = [Adapter(draw_down(width, self.width, rng), dropout=dropout) for _ in range(n)]
            return Slots([*made], self.stage)

        blocks = insert(model.backbone, self, "mlp", slots)  # type: ignore[arg-type]
        # What answers of test examples in a subspace depend on.
        self.subspaces = [nn.ModuleList(block.slots[t] for block in blocks) for t in range(n)]  # type: ignore[index, misc]
        return model

    def setup(self, run: Run) -> None:
        size, n = int(run.model.feature_size), len(self.subspaces)  # type: ignore[arg-type]
        # The last subspace is that of the pretrained network.
        self.prototypes = torch.zeros(run.num_classes, n + 1, size, device=run.device)
        self.experience_of = torch.full((run.num_classes,), -1, device=run.device)
        self.ended = -1
        self._complete()
        self._pretrained = nn.ModuleList()

    @torch.no_grad()
    def begin_experience(self, exp: Experience) -> None:
        self.stage.current = exp.index
        for name, parameter in self.run.model.head.named_parameters():  # type: ignore[union-attr]
            if name.endswith("scale"):
                parameter.fill_(1.0)

    def frozen(self) -> Mapping[str, Tensor]:
        """Return the adapters of other experiences."""
        return {
            f"{t} {name}": p.detach()
            for t, adapters in enumerate(self.subspaces)
            if t != self.stage.current
            for name, p in adapters.named_parameters()
        }

    def end_experience(self, exp: Experience) -> None:
        places = [*range(exp.index + 1), *([-1] if self.beta else [])]
        for s in places:
            with self.stage.at(s):
                features, y = features_of(self.run, exp.data)
            for c in y.unique().tolist():
                self.prototypes[c, s] = features[y == c].double().mean(0).float()
                self.experience_of[c] = exp.index
        self.ended = exp.index
        self._complete()

    def features(self, x: Tensor, s: int) -> Tensor:
        """(B, …) → (B, D) in a subspace, for a test example once; −1 is the pretrained network."""

        def ask(rows: Tensor) -> Tensor:
            with self.stage.at(s):
                return self.run.forward(rows).features

        return once(f"subspace {s}", self.subspaces[s] if s >= 0 else self._pretrained, x, ask)

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        if self.ended < 0:  # in the first experience
            return self.run.forward(x, task).logits
        t = self.ended
        features = torch.stack([self.features(x, s) for s in range(t + 1)], dim=1)  # (B, t + 1, D)
        scores = reweighted(features, self._completed, self.experience_of, self.alpha)
        if self.beta:
            unit, means = F.normalize(self.features(x, -1), dim=1), F.normalize(self.prototypes[:, -1], dim=1)
            scores = scores + self.beta * unit @ means.T
        return self.run.mask_tasks(scores.masked_fill(self.experience_of < 0, MASKED), task)

    def _complete(self) -> None:
        """Make up prototypes once for all that is asked before the next experience ends; it has a GPU's host wait."""
        t = self.ended
        self._completed = completed(self.prototypes[:, : t + 1], self.experience_of, t)

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._complete()


@register("ease", family="low rank", paper="arXiv:2403.12030", tiny={"width": 4})
def ease(
    width: Count = 64,
    alpha: NotNegative = 0.1,
    pretrained: NotNegative = 0.0,
    dropout: Fraction = 0.1,
    head: Positive = 1.0,
) -> Strategy:
    """EASE: each experience trains adapters of its own, and class means in all of their subspaces predict together.

    Adapters stand beside the perceptrons of a frozen transformer; an experience's learn by cross-entropy on σ · cos
    over its classes, alone, and then stay. s_c(x) = cos(φ_i, p_{c,i}) + (α / t) Σ_{s≠i} cos(φ_s, p_{c,s}) for a class
    of experience i. A class has no mean in the subspaces of later experiences; it gets p̂_{c,s} = Σ_n w_n p_{n,s} of
    later classes, with w the softmax of their cosines to it in subspace i. A test example takes a pass for each
    experience, and adapters grow with their number.

    Args:
        width: of an adapter's bottleneck.
        alpha: α, of subspaces of other experiences.
        pretrained: β, of the cosine to class means of the network without adapters; 0 but in one of the presets.
        dropout: in the adapters.
        head: factor on the learning rate of the head that trains them.

    Reference: Zhou, Sun, Ye, Zhan, "Expandable Subspace Ensemble for Pre-Trained Model-Based Class-Incremental
    Learning", CVPR 2024, arXiv:2403.12030.

    Differences from the authors' code:
        1. Until an experience ends, its classes cannot be predicted; in the first one, the head of its training does.
        2. A class that comes again belongs to its last experience, with means of its last examples.
        3. Adapters of all experiences are there from the start, and counted.
    """
    scaled = [ScaleHead(head)] if head != 1.0 else []
    return chain(
        Subspaces(width, alpha, pretrained, dropout), Cosine(), *scaled, GrowingHead(), LocalCrossEntropy()
    )
