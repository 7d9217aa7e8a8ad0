"""View-Batch Model (VBM).

Kang et al., "Do Your Best and Get Enough Rest for Continual Learning", CVPR 2025, arXiv:2503.18371.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, ClbenchError, Experience, Order, Output, Run, Strategy, register
from clbench.ranges import Count, Natural, NotNegative
from clbench.transforms.augment import auto_augment
from clbench.types import MASKED

Grouping = Literal["by_index", "by_label_run"]
Strong = Literal["autoaugment", "noise", "none"]
NOISE = 0.2
"""Amplitude of the additive noise of the last view, in normalised inputs."""


class ViewBatch(Strategy):
    """Each image comes in V views side by side, the first one weak, and the later ones must agree with it.

    `views` is weight · mean of KL(p of the first view ‖ p of a later one) over all later views of the batch.
    """

    needs = frozenset({"several passes"})
    state = ("epoch", "seen")
    parallel = True

    def __init__(
        self,
        views: int,
        grouping: Grouping,
        strong: Strong,
        weight: float,
        scale: Literal["sum", "mean"],
        start: int,
        detach: bool,
        block: int,
    ) -> None:
        self.views, self.grouping, self.strong, self.weight = views, grouping, strong, weight
        self.scale, self.start, self.detach, self.block = scale, start, detach, block
        self.epoch = 0

    def setup(self, run: Run) -> None:
        # (C,) among the labels so far
        self.seen = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)
        if run.batch_size % self.views:
            near = run.batch_size // self.views * self.views
            sizes = [str(size) for size in (near, near + self.views) if size]
            raise ClbenchError(
                f"{self} shows {self.views} views of an image side by side, which batches of "
                f"{run.batch_size} would tear apart; set batch_size={' or '.join(sizes)}."
            )

    def order(self, exp: Experience, epoch: int) -> Order | None:
        self.epoch = epoch
        if self.views == 1:
            return None
        shuffled = self.run.permutation(exp, epoch // self.views)
        return view_order(shuffled, self.views, epoch % self.views, self.block)

    def extend(self, batch: Batch) -> Batch:
        if self.views == 1:
            return batch
        batch = self._regroup(batch)
        if self.grouping == "by_label_run":
            batch = replace(batch, view=label_runs(batch.y, self.views))
        return batch.with_x(self._strengthened(batch))

    def _regroup(self, batch: Batch) -> Batch:
        """Show the first m/V of the m examples that have joined in V views each, so that the batch stays as large."""
        new, m = batch.new, len(batch) - batch.new
        if m == 0:
            return batch
        row, view = groups(m, self.views, batch.y.device)
        row = torch.cat([torch.arange(new, device=row.device), new + row])
        raw = batch.raw.index_select(0, row)
        again = self.run.augment(raw[new:])  # each view is augmented on its own
        y, task, index = batch.y[row], batch.task[row], batch.index[row]
        x, views = torch.cat([batch.x[:new], again]), torch.cat([batch.view[:new], view])
        return Batch(x, y, task, raw, index, views, new, batch.first)

    def _strengthened(self, batch: Batch) -> Tensor:
        """(B, …) the inputs, with later views strongly augmented where they are images or take noise."""
        x, rng = batch.x, self.run.rng("view-batch")
        later = (batch.view > 0).view(-1, *(1,) * (x.dim() - 1))
        if self.strong == "noise" and x.is_floating_point():
            level = batch.view.view(later.shape) * (NOISE / (self.views - 1))  # 0 for first views
            return x + level * torch.rand(x.shape, generator=rng, device=x.device)
        raw = batch.raw
        images = raw.dtype == torch.uint8 and raw.dim() == 4 and raw.shape[1] in (1, 3)
        if self.strong == "autoaugment" and images:
            weak = self.run.benchmark.transform.augment(raw, rng)
            return torch.where(later, self.run.normalise(auto_augment(weak, rng)), x)
        return x

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if self.views == 1 or self.weight == 0:
            return {}
        self.seen |= F.one_hot(batch.y, self.run.num_classes).amax(0).bool()
        if self.epoch < self.start:
            return {}
        divergence = agreement(out.logits.masked_fill(~self.seen, MASKED), batch.view, self.detach)
        if self.scale == "mean":
            divergence = divergence / self.seen.sum()
        return {"views": self.weight * divergence}


def view_order(shuffled: Tensor, views: int, turn: int, block: int) -> Order:
    """Pass `turn` (from 0) of the V passes that share one permutation (N,) of the rows.

    It emits n = ⌊N / block⌋ · block rows: ⌊n/V⌋ images in V views each and n mod V left over, in one view.
    Over the V passes, each of n images comes V times.
    """
    q, rest = divmod(len(shuffled) // block * block, views)
    rows = shuffled[turn * q : (turn + 1) * q].repeat_interleave(views)
    view = torch.arange(views).repeat(q)
    left_over = shuffled[views * q : views * q + rest]
    return Order(torch.cat([rows, left_over]), torch.cat([view, torch.zeros_like(left_over)]))


def groups(n: int, views: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each of n places, which image stands there and its view: ⌊n/V⌋ images V times, then single ones."""
    q = n // views
    place = torch.arange(n, device=device)
    whole = place < q * views
    image = torch.where(whole, place.div(views, rounding_mode="floor"), place - q * (views - 1))
    return image, torch.where(whole, place % views, 0)


def label_runs(y: Tensor, views: int) -> Tensor:
    """(B,) the view that the released code takes a row for: its place in a run of one label, modulo V + 1."""
    place = torch.arange(len(y), device=y.device)
    begins = torch.cat([torch.ones_like(y[:1], dtype=torch.bool), y[1:] != y[:-1]])
    start = torch.where(begins, place, 0).cummax(0).values
    return (place - start) % (views + 1)


def agreement(logits: Tensor, view: Tensor, detach: bool) -> Tensor:
    """Mean of KL(p of the group's first view ‖ p of this view) over all later views of a batch, 0 without
    any.

    Args:
        logits: (B, C). view: (B,), a row of view v stands v rows below its first view.
        detach: whether the first view is a fixed target.
    """
    log_p = logits.log_softmax(1)
    first = log_p.index_select(0, torch.arange(len(view), device=view.device) - view)
    if detach:
        first = first.detach()
    divergence = F.kl_div(log_p, first, reduction="none", log_target=True).sum(1)  # (B,), 0 for first views
    later = view > 0
    return (divergence * later).sum() / later.sum().clamp(min=1)


@register("view-batch", family="training", paper="arXiv:2503.18371", null={"views": 1}, modifier=True)
def view_batch(
    views: Count = 4,
    grouping: Grouping = "by_index",
    strong: Strong = "autoaugment",
    weight: NotNegative = 1.0,
    scale: Literal["sum", "mean"] = "sum",
    start: Natural = 0,
    detach: bool = True,
    block: Count = 1,
) -> Strategy:
    """View-Batch Model: V views of each image side by side, and V times as long until it comes again.

    L = L(base, on all views) + 1 / (B (V−1)) Σ_i Σ_{j>1} KL(p_i^1 ‖ p_i^j). A pass shows N/V images in V
    views each, V passes show all: as many images and steps as without it. The first view is augmented as the
    benchmark does (weak), later ones by AutoAugment on top (strong). m/V of the m replayed examples come, in
    V views each; a memory takes an image once a pass, with the logits of its first view. Chain it last:
    `er+view-batch`.

    Args:
        views: V; it must divide the batch size.
        grouping: what counts as views of one image: the image (the paper), or a run of up to V + 1 equal
            labels, which joins neighbours of one class (the released code).
        strong: how later views are augmented: AutoAugment's CIFAR-10 policy; uniform noise on normalised
            inputs that grows with the view, up to 0.2; or not. Inputs that are no uint8 images of 1 or 3
            channels are not augmented by AutoAugment.
        weight: that of the KL divergence.
        scale: whether it is summed over classes (the paper) or averaged over those seen (the released code).
        start: pass of an experience, from 0, with which the divergence begins; 6 in the released code.
        detach: whether the first view is a fixed target, as in the released code; the paper does not say.
        block: a pass emits a multiple of so many images; 256 in the released code, so that up to 255 do not
            come.

    Reference: Kang et al., "Do Your Best and Get Enough Rest for Continual Learning", CVPR 2025,
    arXiv:2503.18371. The released code's own choices together: grouping=by_label_run, scale=mean, start=6,
    block=256.

    Differences from the paper:
        1. The number of passes is not divided by V: a pass shows N/V images, as in the released code, which
           comes to the same.
        2. Where V does not divide N, the N mod V images left over come once in each of V passes, in a weak
           view, so that the number of images and steps is the base's to the unit.
        3. Probabilities are over the classes whose labels have come so far, as in the released code.
        4. The permutations depend on seed and experience; in the released code they are equal for all.
        5. How views are made of replayed examples is not released. A strategy that draws them within its
           losses, as DER++ does, shows them in one weak view each. iCaRL's herding sees every image once.
        6. AutoAugment acts on the image itself; the released code undoes the normalisation with constants of
           other data, so that it acts on a contrast of 0.82. It uses RandAugment with colour jitter on
           Tiny-ImageNet and DomainNet.
    """
    return ViewBatch(views, grouping, strong, weight, scale, start, detach, block)
