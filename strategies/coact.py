"""CoACT: low-rank branches, a contrast with a slow teacher, and upper blocks that join late; then prototypes.

Roy et al., "Consistency-guided Asynchronous Contrastive Tuning for Few-shot Class-incremental Tuning of Foundation
Models", TMLR 2025, arXiv:2405.16625.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Run, Strategy, chain, register
from clbench.parts import (
    CrossEntropy,
    FeaturesOf,
    GrowingHead,
    LowRankTuning,
    ScaleHead,
    SettleAfterFirst,
    Stage,
    as_it_is,
    block_of,
    feature_sums,
    linear_weight,
    members_of,
    reading,
    replace_head,
    scale_rate,
    supervised_contrast,
)
from clbench.ranges import Fraction, Natural, NotNegative, Positive

Later = Literal["none", "head", "lora", "both"]


class Asynchronous(LowRankTuning):
    """In the first experience branches and head are tuned against a teacher, and blocks join; later, what `later` says.

    `fit` is cross-entropy, `contrast` the supervised contrast of features with those of teachers, and `consistency` in
    later experiences the mean squared change of old classes' logits.

    Attributes:
        teacher: the backbone without branches, which follows what is tuned of its weights.
        pretrained: as it was at first. base: the model as the first experience has left it; both for later tuning.
        known: (C,) bool, classes that have a row in the head. old: (C,) those of the first experience.
        shared: pairs of a tuned weight of the blocks, and the teacher's.
    """

    replaces = (CrossEntropy,)
    needs = frozenset({"boundaries"})
    state = ("teacher", "base", "known", "old")
    parallel = True

    def __init__(
        self,
        branches: tuple[int, float, float, Sequence[int] | None],
        contrast: tuple[float, float],
        blocks: tuple[int, int | None, float],
        momentum: float,
        later: Later,
    ) -> None:
        rank, scale, dropout, where = branches
        super().__init__(rank, scale, dropout, blocks=where)
        (self.strength, self.temperature), self.momentum, self.later = contrast, momentum, later
        self.wait, self.last, self.factor = blocks

    def wrap(self, model: nn.Module) -> nn.Module:
        backbone: Any = model.backbone
        self.teacher, self.pretrained = as_it_is(backbone), as_it_is(backbone)
        replace_head(model, WithoutBias(linear_weight(model, self)))
        if self.rank:
            super().wrap(model)
        else:
            backbone.requires_grad_(False)
            self.stage = Stage()
        self._join(backbone)
        return model

    def _join(self, backbone: nn.Module) -> None:
        """Let the last blocks be trained; before they are to be, their gradients are left out."""
        own = dict(reading(backbone).named_parameters())
        of_teacher = dict(reading(self.teacher.inner).named_parameters())
        depth = 1 + max((number for name in own if (number := block_of(name)) is not None), default=0)
        self.shared: list[tuple[nn.Parameter, nn.Parameter]] = []
        for name, parameter in own.items():
            number = block_of(name)
            joins = self.last is None or (number is not None and number >= depth - self.last)
            if joins and name in of_teacher:
                parameter.requires_grad_(True)
                scale_rate(parameter, self.factor)
                self.shared.append((parameter, of_teacher[name]))

    def setup(self, run: Run) -> None:
        self.teacher.to(run.device), self.pretrained.to(run.device)
        self.base: nn.Module | None = None
        self.known = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)
        self.old = torch.zeros_like(self.known)
        tuned = {p for p, _ in self.shared}
        self.low = [p for n, p in run.parameters().items() if p not in tuned and not n.startswith("head")]

    def begin_experience(self, exp: Experience) -> None:
        super().begin_experience(exp)
        fresh = ~self.known
        self.known[list(exp.classes)] = True
        if exp.index == 0:
            self.old = self.known.clone()
        sums, counts = feature_sums(self.run, exp.data)
        fresh &= counts > 0
        with torch.no_grad():
            weight: Tensor = self.run.model.head.weight  # type: ignore[union-attr, assignment]
            weight.copy_(torch.where(fresh.unsqueeze(1), sums / counts.clamp(min=1).unsqueeze(1), weight))

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        first = self.run.experience == 0
        if not first and self.later == "none":
            return {}
        losses = {"fit": out.cross_entropy(batch.y)}
        x = self.run.augment(batch.raw)  # another view
        if self.strength:
            teachers = [self.teacher] if first else [self.teacher, self.pretrained]
            views = [out.features, *(self.run.output_of(FeaturesOf(t), x).features for t in teachers)]
            z = F.normalize(torch.cat(views))
            found = supervised_contrast(z, batch.y.repeat(len(views)), self.temperature)
            losses["contrast"] = self.strength * found
        if not first:
            assert self.base is not None
            held = self.run.output_of(self.base, batch.x).features
            change = self.run.logits(out.features) - self.base.head(held)  # type: ignore[operator]
            losses["consistency"] = change[:, self.old].square().mean()
        return losses

    def gradients(self) -> None:
        first = self.run.experience == 0
        held: list[nn.Parameter] = []
        if not first or self.run.epoch < self.wait:
            held += [p for p, _ in self.shared]
        if not first and self.later not in ("lora", "both"):
            held += self.low
        if not first and self.later not in ("head", "both"):
            held += members_of("head", self.run.parameters()).values()
        for parameter in held:
            parameter.grad = None

    @torch.no_grad()
    def after_update(self) -> None:
        if self.shared and self.run.experience == 0 and self.run.epoch >= self.wait:
            own, of_teacher = zip(*self.shared, strict=True)
            torch._foreach_lerp_(of_teacher, own, 1 - self.momentum)

    def end_experience(self, exp: Experience) -> None:
        if exp.index == 0 and self.later != "none":
            self.base = self.run.frozen()


class WithoutBias(nn.Module):
    """Scores (B, C) = W φ.

    Args:
        weight: (C, D) to begin with.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) → (B, C)."""
        return F.linear(features, self.weight)


@register("coact", family="low rank", paper="arXiv:2405.16625", tiny={"rank": 4, "wait": 1})
def coact(
    rank: Natural = 16,
    alpha: Positive = 16.0,
    dropout: Fraction = 0.1,
    blocks: tuple[Natural, ...] | None = None,
    contrast: NotNegative = 1.0,
    temperature: Positive = 0.07,
    wait: Natural = 10,
    last: Natural | None = 1,
    factor: Positive = 0.01,
    momentum: Fraction = 0.999,
    later: Later = "none",
    head: Positive = 1.0,
) -> Strategy:
    """CoACT: the first experience tunes branches against a teacher, upper blocks join late; later classes are means.

    First experience: L = CE(W φ) + SupCon([φ(x); φ_T(x')]), over two views of each example, with low-rank branches of q
    and v in φ. The teacher φ_T has no branches; its weights follow those of φ by θ_T ← m θ_T + (1 − m) θ, and so are
    the pretrained ones until the last blocks join after some passes, at a fraction of the rate. Rows of W begin as the
    mean features of their classes. Later experiences: the same rows for their classes, and no training, or, with
    `later`, L = CE + SupCon([φ; φ_T; φ_0]) + the mean squared change of the first experience's logits, φ_0 pretrained.
    `optim.later_lr` then sets their rate. It is made for few examples of a class, the first experience included. Rows
    of later classes are means and those of the first learn: where these grow much, they win always. Features of length
    1, as MiniLM's, let them; the rate must be small.

    Args:
        rank: r; 0 for no branches.
        alpha: α of α / r, the scale of branches.
        dropout: on their inputs.
        blocks: which have branches; all if none are named.
        contrast: weight of SupCon; 0 for cross-entropy alone.
        temperature: τ of it.
        wait: passes of the first experience before the last blocks join.
        last: how many blocks join: the authors' ℓ_s = 11 of 12 blocks is 1. 0 for none; everything if none is given,
            their −1.
        factor: on the learning rate of what joins.
        momentum: m.
        later: what later experiences train: none, head, lora or both.
        head: factor on the head's learning rate.

    Reference: Roy et al., "Consistency-guided Asynchronous Contrastive Tuning for Few-shot Class-incremental Tuning of
    Foundation Models", TMLR 2025, arXiv:2405.16625. Its base training is SGD of 0.001 to 0.1 with Nesterov's momentum
    of 0.9, weight decay of 5e-4 and a cosine, 25 to 50 passes in batches of 64; later experiences take a pass, or none.

    Differences from the authors' code:
        1. Classes to come have no output; there, their random rows compete.
        2. The logits that are held are those of the first experience's classes alone, where theirs include random rows.
        3. In later experiences teachers stay; there, the first model's goes on moving whenever it is asked.
        4. Features are contrasted as they are (their default), without a projection.
        5. Accuracy is that of the last weights, and not the largest of all passes on test data.
    """
    tuned = Asynchronous(
        (rank, alpha / max(rank, 1), dropout, blocks),
        (contrast, temperature),
        (wait, last, factor),
        momentum,
        later,
    )
    settled = [SettleAfterFirst()] if later == "none" else []
    scaled = [ScaleHead(head)] if head != 1.0 else []
    return chain(tuned, *settled, *scaled, GrowingHead())
