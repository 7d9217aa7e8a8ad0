"""Learning to Prompt (L2P).

Wang et al., "Learning to Prompt for Continual Learning", CVPR 2022, arXiv:2112.08654.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from clbench import Batch, Output, Strategy, chain, register
from clbench.parts import (
    Blocks,
    GrowingHead,
    LocalCrossEntropy,
    Prompter,
    Prompting,
    Prompts,
    check_layers,
    cosines,
    halves,
)
from clbench.ranges import Count, Natural, NotNegative

Selection = Literal["instance", "batch"]
Pull = Literal["cosine", "pairs-sum", "pairs-mean"]


@dataclass(frozen=True)
class Settings:
    """What the codes of this method differ in.

    Attributes:
        pool: M, prompts. length: L, rows of each; where they enter as a prefix, half keys and half values.
        top: k, prompts that an image gets.
        layers: blocks they enter as a prefix, each with a pool of its own; none: as tokens at the start.
        pull, form: weight and form of the loss that pulls keys to queries.
        low, high: prompts and keys are drawn between these, evenly.
        placed: whether prompts at the start get the class token's position embedding.
    """

    pool: int
    length: int
    top: int
    layers: tuple[int, ...]
    pull: float
    form: Pull
    low: float
    high: float
    placed: bool = False


VARIANTS = {
    "released": Settings(10, 10, 4, (), 1.0, "cosine", 0.0, 0.01),
    "pilot": Settings(10, 5, 5, (), 0.1, "cosine", -1.0, 1.0, placed=True),
    "coda": Settings(30, 20, 5, (0,), 1.0, "pairs-sum", 0.0, 1.0),
    "coda-deep": Settings(30, 20, 5, (0, 1, 2, 3, 4), 1.0, "pairs-sum", 0.0, 1.0),
    "ovor": Settings(30, 20, 5, (0,), 1.0, "pairs-mean", 0.0, 1.0),
}


class Pool(Prompter):
    """Prompts with a key each; an image gets those whose keys are nearest to its query.

    Attributes:
        keys: (layers, M, D), one layer where prompts enter at the start.
        prompts: (layers, M, L, D).
    """

    def __init__(self, keys: Tensor, prompts: Tensor, settings: Settings, selection: Selection) -> None:
        super().__init__()
        self.keys, self.prompts = nn.Parameter(keys), nn.Parameter(prompts)
        self.settings, self.selection = settings, selection
        if not settings.layers:
            self.readout = "prompts"

    def forward(self, query: Tensor) -> Prompts:
        pools = zip(self.prompts, self.keys, strict=True)
        rows = [prompts[self.chosen(query, keys)] for prompts, keys in pools]  # (B, k, L, D) of each layer
        if not self.settings.layers:
            return Prompts(start=rows[0].flatten(1, 2), placed=self.settings.placed, note=query)
        prefixes = {}
        for layer, chosen in zip(self.settings.layers, rows, strict=True):
            keys, values = halves(chosen)  # (B, k, L / 2, D)
            prefixes[layer] = keys.flatten(1, 2), values.flatten(1, 2)
        return Prompts(prefixes=prefixes, note=query)

    def chosen(self, query: Tensor, keys: Tensor) -> Tensor:
        """(B, k) the prompts of each image, by queries (B, D) and keys (M, D)."""
        index = cosines(query, keys).topk(self.settings.top, dim=1).indices
        return majority(index, len(keys)) if self.selection == "batch" else index

    def pull(self, query: Tensor) -> Tensor:
        """Return the loss that pulls the keys of the chosen prompts to the queries (B, D), over all layers."""
        form = self.settings.form
        terms = [pull_loss(cosines(query, keys), self.chosen(query, keys), form) for keys in self.keys]
        return torch.stack(terms).mean() if form == "pairs-mean" else torch.stack(terms).sum()


def majority(index: Tensor, pool: int) -> Tensor:
    """(B, k) choices of each image → (B, k) for all of them the k that the batch chose most; ties to the first."""
    counts = torch.zeros(pool, device=index.device).index_add_(
        0, index.flatten(), index.new_ones(index.numel()).float()
    )
    most = counts.argsort(descending=True, stable=True)[: index.shape[1]]
    return most.expand(len(index), -1)


def pull_loss(cosine: Tensor, index: Tensor, form: Pull) -> Tensor:
    """Return how far queries are from the keys of chosen prompts.

    cosine: −(1/B) Σ_b Σ_{m chosen by b} cos(q_b, k_m). pairs-sum: Σ_b Σ_b' Σ_{m chosen by b'} (1 − cos(q_b, k_m)), all
    pairs of images. pairs-mean: their mean. Over several layers the first two are summed and means averaged.

    Args:
        cosine: (B, M). index: (B, k).
    """
    if form == "cosine":
        return -cosine.gather(1, index).sum() / len(index)
    pairs = 1 - cosine[:, index]  # (B, B, k)
    return pairs.sum() if form == "pairs-sum" else pairs.mean()


class LearnToPrompt(Prompting):
    """Prompts from a pool, chosen by the query of an image, are trained with their keys and the head.

    `pull` brings keys to the queries that chose them.
    """

    prompter: Pool
    parallel: bool | str = True

    def __init__(self, settings: Settings, selection: Selection) -> None:
        self.settings, self.selection = settings, selection
        if selection == "batch":
            self.parallel = (
                "all images of a batch choose their prompts together, and a process sees its share alone"
            )

    def make_prompter(self, blocks: Blocks) -> Prompter:
        s, rng = self.settings, self.run.rng("prompts")
        check_layers(s.layers, blocks, self)
        layers = max(len(s.layers), 1)
        prompts = torch.empty(layers, s.pool, s.length, self.size, device=self.run.device)
        keys = torch.empty(layers, s.pool, self.size, device=self.run.device)
        for drawn in (prompts, keys):
            drawn.uniform_(s.low, s.high, generator=rng)
        return Pool(keys, prompts, s, self.selection)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"pull": self.settings.pull * self.prompter.pull(out.features[:, self.size :])}


@register(
    "l2p", family="prompts", version=2, paper="arXiv:2112.08654", tiny={"pool": 4, "length": 2, "top": 2}
)
def l2p(
    variant: Literal["released", "pilot", "coda", "coda-deep", "ovor"] = "released",
    pool: Count | None = None,
    length: Count | None = None,
    top: Count | None = None,
    layers: tuple[Natural, ...] | None = None,
    pull: NotNegative | None = None,
    form: Pull | None = None,
    selection: Selection = "instance",
) -> Strategy:
    """L2P: prompts from a pool, chosen for each image by its features, are all that is learned beside the head.

    q(x) is the feature of the frozen transformer without prompts, and γ_m = cos(q(x), k_m). The k prompts of largest γ
    join the embedded patches; the head sees the mean of their last states. L = CE − λ (1/B) Σ_b Σ_{m chosen} γ_bm,
    the cross-entropy of stream rows over the present experience's classes.

    Args:
        variant: whose settings stand where no other is given. released: the authors' code, in JAX; pilot: the toolbox
            PILOT, where prompts get the class token's position embedding; coda: the code of CODA-Prompt ("L2P++"),
            where prompts enter block 0 as a prefix, the head sees the class token and the pull is Σ (1 − γ) over all
            pairs of images and choices in a batch; coda-deep: that in blocks 0 to 4; ovor: the code of OVOR, where the
            pull is their mean.
        pool: M; 10, of coda and ovor 30.
        length: L, rows of a prompt; 10, 5 (pilot), 20 (coda, ovor: 10 keys and 10 values).
        top: k; 4, of the others 5.
        layers: blocks that prompts enter as a prefix, each with a pool of its own; empty: as tokens at the start.
        pull: λ; 1, or 0.1 for pilot.
        form: how the pull is computed: cosine, as above; pairs-sum; pairs-mean, which is a mean over layers, too,
            where there are several and the others are summed.
        selection: instance, each image gets its own prompts; batch, all images of a batch get those that most of them
            chose, in training and prediction, as the authors do. The latter leaks: predictions of test images that come
            one experience at a time know of each other.

    Reference: Wang et al., "Learning to Prompt for Continual Learning", CVPR 2022, arXiv:2112.08654. The pull of coda
    sums over all pairs by a slip in indexing, so it grows with the square of the batch.

    Differences from the authors' code:
        1. Prompts are chosen for each image, unless `selection=batch`; see there.
        2. Outputs of classes not seen yet are no candidates.
        3. Without a class token, query and feature are what the transformer gives: a mean of its tokens, for
           example.
        4. Images are as the benchmark gives them, neither enlarged to 224 × 224 nor left without mean and deviation.
        5. In an encoder of texts (BERT and its like), prompts at the start join the embedded words behind the norm of
           the embeddings, without position; those of pilot are embedded as words at the first position. The head sees
           the mean of their last states, of length 1 where the encoder's features are.
    """
    given = {"pool": pool, "length": length, "top": top, "layers": layers, "pull": pull, "form": form}
    settings = replace(VARIANTS[variant], **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    if settings.top > settings.pool:
        raise ValueError(f"top is 1 to pool, {settings.pool}; {settings.top} was given")
    if settings.layers and (settings.length < 2 or settings.length % 2):
        raise ValueError(
            f"a prefix has as many keys as values, so its rows are 2, 4, 6 …; {settings.length} was given"
        )
    return chain(LearnToPrompt(settings, selection), GrowingHead(), LocalCrossEntropy())
