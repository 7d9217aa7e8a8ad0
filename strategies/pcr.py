"""Proxy-based Contrastive Replay (PCR).

Lin et al., "PCR: Proxy-based Contrastive Replay for Online Class-Incremental Continual Learning", CVPR 2023,
arXiv:2304.04408.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from clbench import Batch, Output, Strategy, chain, register
from clbench.parts import (
    CrossEntropy,
    Proxies,
    Rehearsal,
    SecondView,
    TwoViews,
    proxy_contrast,
    replay_two_views,
)
from clbench.ranges import Count, Positive


class ProxyReplay(Rehearsal):
    """Rows of the stream and rows of a reservoir, each with a forward pass of their own, are contrasted together.

    `contrast` pulls every row to the proxy of its class, and away from the proxies of all rows' labels. With an empty
    memory there is nothing to contrast with, and no update.
    """

    replaces = (CrossEntropy,)  # the labels are learned here
    parallel = True
    capturable = True

    def __init__(
        self, capacity: int, draw: int | None, weighting: Literal["count", "uniform"], second: SecondView
    ) -> None:
        super().__init__(capacity, draw, "batch")
        self.weighting, self.second = weighting, second

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        n = self.due(batch)
        if n == 0:
            return {}
        old, past = replay_two_views(self.run, self.memory, n, self.second)
        scores, y = torch.cat([past.logits, out.logits]), torch.cat([old["y"], batch.y])
        return {"contrast": proxy_contrast(scores, y, self.weighting)}


@register("pcr", family="contrast", paper="arXiv:2304.04408")
def pcr(
    memory: Count = 200,
    draw: Count | None = None,
    temperature: Positive = 0.09,
    weighting: Literal["count", "uniform"] = "count",
    seen_only: bool = True,
    second_view: Literal["strong", "kornia", "benchmark"] = "strong",
) -> Strategy:
    """Proxy-based Contrastive Replay: stream and memory are contrasted with the proxies of the classes at hand.

    L = mean over rows of ln Σ_c n_c exp(s_ic) − s_iy, with s = cos(features, proxies) / τ and n_c the rows of class c
    among the two views of the stream's batch and of the draw. Classes without a row get no gradient.

    Args:
        memory: examples the reservoir holds.
        draw: replayed examples, two views of each; as many as the stream brings if none is given.
        temperature: τ.
        weighting: n_c as counted, as in the authors' code, or 1 for every class at hand.
        seen_only: whether classes not seen yet are out of the question at prediction, as in the authors' later code.
        second_view: how the second view of a colour image is made: strong, by a random resized crop, a flip, colour
            jitter and greyscale of torchvision's; kornia, by those of kornia 0.4.1, as in the authors' code. Otherwise,
            and for other inputs, it is the benchmark's augmentation.

    Reference: Lin et al., "PCR: Proxy-based Contrastive Replay for Online Class-Incremental Continual Learning", CVPR
    2023, arXiv:2304.04408.

    Differences from the paper:
        1. The second view of what is no colour image is the benchmark's augmentation; where that is nothing, both views
           are equal.
        2. The benchmark's normalisation is kept; the authors' inputs lie in [0, 1].
        3. The proxies begin as the weights of the linear head, which has their distribution.
        4. A class counts as seen from its first example on, in place of the end of its experience, as no boundaries
           are told.
        5. With task labels, the proxies of other tasks are out of the question.
        6. A batch that meets an empty memory makes no update at all; the authors' loss is 0 there, which is the same
           without momentum and weight decay.
        7. A strong view has torchvision's operations; `second_view=kornia` has those of the authors' library.
    """
    return chain(
        Proxies(temperature, seen_only),
        TwoViews(second_view),
        ProxyReplay(memory, draw, weighting, second_view),
    )
