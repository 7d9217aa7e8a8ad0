"""Training on a subset for several passes, to shorten the stability gap of continual pre-training.

Guo, Fu, Zhang, Zhao, Shen, "Efficient Continual Pre-training by Mitigating the Stability Gap", 2024, arXiv:2406.14833.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from clbench import Data, Experience, Strategy, Stream, register
from clbench.errors import IncompatibleError
from clbench.ranges import Count, Positive, Share
from clbench.types import IGNORED

Choice = Literal["random", "perplexity"]
Reference = Literal["first", "own"]


class Subset(Strategy):
    """Later experiences bring a part of their data: a random one, or what a model of n-grams finds likeliest."""

    parallel = True
    language = True

    def __init__(
        self, share: float, choose: Choice, reference: Reference, order: int, smoothing: float
    ) -> None:
        self.share, self.choose, self.reference = share, choose, reference
        self.length, self.smoothing = order, smoothing

    def stream(self, train: Stream) -> Stream:
        if self.choose == "perplexity" and not self.run.benchmark.setting.language:
            raise IncompatibleError(
                f"choose=perplexity ranks blocks of tokens by how likely they are; {self.run.benchmark.id} has none. "
                "Take choose=random, or a benchmark of language."
            )
        return Stream(train.name, tuple(self._part(exp, train[0]) for exp in train))

    def _part(self, exp: Experience, first: Experience) -> Experience:
        n = max(1, int(self.share * len(exp) + 0.5))
        if exp.index == 0 or n == len(exp):
            return exp
        if self.choose == "random":
            rng = self.run.rng("subset")
            chosen = torch.randperm(len(exp), generator=rng, device=rng.device)[:n].to("cpu")
        else:
            model = NGrams(self.length, self.run.benchmark.num_classes, self.smoothing)
            model.fit(exp.data if self.reference == "own" else first.data)
            chosen = model.loss(exp.data).sort(stable=True).indices[:n]
        rows = chosen.sort().values
        documents = None if exp.documents is None else int((rows < exp.documents).sum())
        return replace(exp, data=exp.data.subset(rows), documents=documents)


class NGrams:
    """p_k(w | h) = (c(h w) + μ p_{k−1}(w | h′)) / (c(h) + μ), h the last k tokens and h′ the last k − 1.

    p_{−1} = 1 / V. A token has as many tokens before it as there are in its block, k < n of them at most.

    Args:
        order: n. tokens: V. smoothing: μ.
    """

    def __init__(self, order: int, tokens: int, smoothing: float) -> None:
        if tokens**order >= 1 << 62:
            raise IncompatibleError(
                f"n-grams of {order} of {tokens} tokens are more than can be numbered; take a smaller order."
            )
        self.order, self.tokens, self.smoothing = order, tokens, smoothing
        self.counts: list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]] = []

    def fit(self, data: Data) -> None:
        """Count the n-grams of all blocks, and their contexts."""
        for _, context, token in self._places(data.x(), data.y()):
            grams = context * self.tokens + token
            self.counts.append(
                (torch.unique(grams, return_counts=True), torch.unique(context, return_counts=True))
            )

    def loss(self, data: Data) -> Tensor:
        """(N,) float64, the mean −ln p of each block's labels that count."""
        y = data.y()
        p = torch.full(y.shape, 1 / self.tokens, dtype=torch.float64)
        for (at, context, token), (grams, contexts) in zip(
            self._places(data.x(), y), self.counts, strict=True
        ):
            together, alone = _found(grams, context * self.tokens + token), _found(contexts, context)
            p[at] = (together + self.smoothing * p[at]) / (alone + self.smoothing)
        counts = y != IGNORED
        return -(p.log() * counts).sum(1) / counts.sum(1).clamp(min=1)

    def _places(self, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each length k of a context: where (N, L) a label counts and has one, its context's number, the label."""
        found = []
        context = torch.zeros_like(y)
        for k in range(self.order):
            at = y != IGNORED
            at[:, : max(k - 1, 0)] = False
            if k:  # the token k − 1 places before the last is the new first one
                context[:, k - 1 :] += x[:, : x.shape[1] - k + 1] * self.tokens ** (k - 1)
            found.append((at, context[at], y[at]))
        return found


def _found(counted: tuple[Tensor, Tensor], codes: Tensor) -> Tensor:
    """(n,) how often each code was counted."""
    known, times = counted
    place = torch.searchsorted(known, codes).clamp(max=max(len(known) - 1, 0))
    return torch.where(known[place] == codes, times[place], 0) if len(known) else torch.zeros_like(codes)


@register("subset", family="mixtures", paper="arXiv:2406.14833", modifier=True, null={"share": 1.0})
def subset(
    share: Share = 0.1,
    choose: Choice = "random",
    reference: Reference = "first",
    order: Count = 3,
    smoothing: Positive = 1.0,
) -> Strategy:
    """Later experiences are learned from a part of their data, in more passes; around any other strategy.

    The three ways of the paper against the dip after a switch of domains: a random subset, several times; the subset of
    the highest quality; and a mixture with the old data. The first two are this one's, with `train.later_epochs`: a
    share of 0.1 in 4 passes takes 40 % of the steps of one pass over all. For the third, chain replay, with a mixture:
    `replay-fraction+subset`.

    Quality is a low perplexity under n-grams: p_k(w | h) = (c(h w) + μ p_{k−1}(w | h′)) / (c(h) + μ), from 1/V on.

    Args:
        share: of an experience's rows, from the second experience on; ⌊share · rows + ½⌋, at least one.
        choose: random; or perplexity, the blocks of tokens with the lowest one, for streams of language.
        reference: what the n-grams are counted on: first, the first experience; own, the experience itself.
        order: n, 3 for a token and two before it.
        smoothing: μ.

    Reference: Guo, Fu, Zhang, Zhao, Shen, "Efficient Continual Pre-training by Mitigating the Stability Gap", 2024,
    arXiv:2406.14833. They take a tenth of the data in four passes.

    Differences from the paper:
        1. Its n-grams are KenLM's, of five tokens with Kneser-Ney smoothing, counted on a corpus of high quality; these
           are of tokens of the stream.
        2. A subset is drawn once; that of the paper's dynamic mixture is drawn anew in every pass.
    """
    return Subset(share, choose, reference, order, smoothing)
