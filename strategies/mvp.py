"""Mask and Visual Prompt tuning (MVP).

Moon et al., "Online Class Incremental Learning on Stochastic Blurry Task Boundary via Mask and Visual Prompt Tuning",
ICCV 2023, arXiv:2308.09303.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Batch, Output, Strategy, register
from clbench.parts import (
    Blocks,
    CrossEntropy,
    Prompter,
    Prompting,
    Prompts,
    SeenOutputs,
    as_prefixes,
    check_layers,
    cosines,
)
from clbench.ranges import Count, Natural, NotNegative, Positive, Share

Contrast = Literal["paper", "released", "later", "pull"]
Focal = Literal["paper", "released", "none"]
Tuning = Literal["prompt", "prefix"]


@dataclass(frozen=True)
class Settings:
    """What `mvp` is asked for, which says what it means; `rows` and `layers` of general prompts, then of chosen ones.

    Attributes:
        scaling: μ; None where features are not divided.
    """

    pool: int
    rows: tuple[int, int]
    layers: tuple[tuple[int, ...], tuple[int, ...]]
    top: int
    mask: bool
    contrast: Contrast
    scaling: float | None
    focal: Focal
    alpha: float
    gamma: float
    last_block: bool
    tuning: Tuning


class CountedPool(Prompter):
    """Prompts with a key each; an image gets those nearest to its query, the less so the more often they were chosen.

    Attributes:
        general: (G blocks, rows, D). experts: (M, E blocks, rows, D). keys: (M, D).
        counts: (M,) how often a prompt was chosen in training.
    """

    counts: Tensor

    def __init__(self, general: Tensor, experts: Tensor, keys: Tensor, settings: Settings) -> None:
        super().__init__()
        self.general, self.experts, self.keys = (nn.Parameter(t) for t in (general, experts, keys))
        self.register_buffer("counts", torch.zeros(len(keys)))
        self.settings = settings

    def query(self, blocks: Blocks, x: Tensor) -> Tensor:
        """(B, D) the class token's state without the final norm, after the last block or the one before."""

        def state(x: Tensor, rows: Tensor | slice) -> Tensor:
            tokens = blocks.embed(x)
            for layer in range(blocks.depth - (not self.settings.last_block)):
                tokens = tokens.now(blocks.block(layer, tokens))
            return blocks.first(tokens)

        return blocks.by_portion(x, state)

    def forward(self, query: Tensor) -> Prompts:
        index = self.chosen(query)  # (B, k)
        note = torch.cat([query, index.to(query.dtype)], dim=1)
        general = self.general.unsqueeze(1).expand(-1, len(query), -1, -1)  # (G blocks, B, rows, D)
        general_layers, expert_layers = self.settings.layers
        rows = [*zip(general_layers, general, strict=True)]
        for place, layer in enumerate(expert_layers):
            rows += [(layer, rows) for rows in self.experts[index, place].unbind(1)]  # k times (B, rows, D)
        if self.settings.tuning == "prefix":  # before the projection
            return Prompts(prefixes=as_prefixes(*rows), projected=False, note=note)
        tokens: dict[int, Tensor] = {}
        for layer, more in rows:
            tokens[layer] = torch.cat([tokens[layer], more], dim=1) if layer in tokens else more
        return Prompts(tokens=tokens, note=note)

    def chosen(self, query: Tensor) -> Tensor:
        """(B, k) the prompts of smallest distance times mass, (1 − cos(q_b, k_m)) (c_m + 1)."""
        counts = self.counts * (self.settings.contrast != "pull")
        return choose(1 - cosines(query, self.keys), counts, self.settings.top)


def choose(distance: Tensor, counts: Tensor, top: int) -> Tensor:
    """Return the k prompts (B, k) of smallest d · (c + 1), from distances (B, M) and counts (M,)."""
    return (distance * (counts + 1)).topk(top, dim=1, largest=False).indices


def contrast(query: Tensor, keys: Tensor, counts: Tensor, index: Tensor, form: Contrast) -> Tensor:
    """Return the loss on the keys. With w the masses c + 1, d(b, m) = 1 − cos(q_b, k_m) and D the distances of keys:

    paper: −ln(A / (A + B) + 10⁻⁶), A the mean of exp(D[p, :] / w_p) and B that of exp(d(b, p) / w_p), over images b and
    their prompts p. released: the same with every image's distances divided by every image's masses. later:
    −ln(mean exp(D[p, p] / w_p) / A). pull: the mean of d(b, p).

    Args:
        query: (B, D). keys: (M, D). counts: (M,). index: (B, k) the prompts p of each image.
    """
    away = (1 - cosines(query, keys)).gather(1, index)  # (B, k)
    if form == "pull":
        return away.mean()
    between = 1 - F.cosine_similarity(keys.unsqueeze(1), keys, dim=2)  # (M, M)
    mass = (counts + 1)[index]  # (B, k)
    rows = between[index]  # (B, k, M)
    if form == "released":  # of one image's rows and another's masses, all pairs
        apart = (rows.unsqueeze(0) / mass.unsqueeze(1).unsqueeze(3)).exp().mean()
        near = (away.unsqueeze(0) / mass.unsqueeze(1)).exp().mean()
    else:
        apart, near = (rows / mass.unsqueeze(2)).exp().mean(), (away / mass).exp().mean()
    if form == "later":
        own = between.diagonal()[index]
        return -((own / mass).exp().mean() / apart).log()
    return -(apart / (apart + near) + 1e-6).log()


class InstanceMasked(nn.Module):
    """A linear head whose outputs are multiplied by 2 σ(m), m the mask (C,) of an image's prompt.

    Args:
        inner: (B, D) → (B, C), linear.
        pool: M, prompts.
        top: k; where there are several, the mean of their masks counts.
        size: D.
        use: whether outputs are multiplied at all.
    """

    def __init__(self, inner: nn.Module, pool: int, top: int, size: int, use: bool) -> None:
        super().__init__()
        self.inner, self.top, self.size, self.use = inner, top, size, use
        weight: Tensor = inner.weight  # type: ignore[assignment]
        self.masks = nn.Parameter(weight.new_full((pool, len(weight)), -1.0))

    @property
    def weight(self) -> Tensor:
        """(C, D) of the linear head inside."""
        weight: Tensor = self.inner.weight  # type: ignore[assignment]
        return weight

    def mask(self, features: Tensor) -> Tensor:
        """Return the factors (B, C) of the outputs for features (B, D + D + k) whose last columns are the prompts."""
        if not self.use:
            return features.new_ones((len(features), self.masks.shape[1]))
        index = features[:, -self.top :].long()
        return 2 * self.masks[index].mean(dim=1).sigmoid()

    def forward(self, features: Tensor) -> Tensor:
        """(B, D + D + k) → (B, C)."""
        logits: Tensor = self.inner(features[:, : self.size])
        return logits * self.mask(features)


class MaskAndPrompt(Prompting):
    """Prompts, keys, masks and the head are trained on a stream without boundaries.

    `fit` is the cross-entropy of scaled features, weighted by how far an image's gradient is from its batch's;
    `contrast` is the loss on the keys.
    """

    replaces = (CrossEntropy,)  # the labels are learned here
    prompter: CountedPool
    parallel = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def make_prompter(self, blocks: Blocks) -> Prompter:
        s, how = self.settings, {"generator": self.run.rng("prompts"), "device": self.run.device}
        general, expert = (n * (2 if s.tuning == "prefix" else 1) for n in s.rows)
        general_layers, expert_layers = s.layers
        check_layers((*general_layers, *expert_layers), blocks, self)
        shapes = (
            (len(general_layers), general, self.size),
            (s.pool, len(expert_layers), expert, self.size),
            (s.pool, self.size),
        )
        prompts, experts, keys = (torch.randn(shape, **how) for shape in shapes)  # type: ignore[call-overload]
        return CountedPool(prompts, experts, keys, s)

    def make_head(self, head: nn.Module) -> nn.Module:
        s = self.settings
        self.masked = InstanceMasked(head.to(self.run.device), s.pool, s.top, self.size, s.mask)
        self.exposed = SeenOutputs(self.masked, self.run.num_classes)
        return self.exposed

    def extend(self, batch: Batch) -> Batch:
        self.exposed.seen.index_fill_(0, batch.y[: batch.new], True)
        return batch

    def step(self, batch: Batch, inner: Callable[[Batch], Output]) -> Output:
        out = inner(batch)
        with torch.no_grad():
            index = out.features[:, -self.settings.top :].long().flatten()
            self.prompter.counts.index_add_(0, index, torch.ones_like(index, dtype=torch.float32))
        return out

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        feature, query = out.features[:, : self.size], out.features[:, self.size : 2 * self.size]
        index, pool = out.features[:, 2 * self.size :].long(), self.prompter
        head, y, logits, s = self.masked.weight.detach(), batch.y, out.logits, self.settings
        if s.scaling is not None:
            scaled = feature / feature_scores(feature.detach(), head[y], s.scaling).unsqueeze(1)
            logits = self.run.logits(torch.cat([scaled, out.features[:, self.size :]], dim=1))
        each = F.cross_entropy(logits, y, reduction="none")  # (B,)
        fit = each.mean()
        if s.focal != "none":
            with torch.no_grad():
                seen = self.run.logits(out.features)
                ignored = gradient_scores(seen, feature, self.masked.mask(out.features), y) ** s.gamma
            weighted = each if s.focal == "paper" else fit
            fit = ((1 - s.alpha) * weighted + s.alpha * ignored * weighted).mean()
        key_loss = contrast(query, pool.keys, pool.counts, index, s.contrast)
        return {"fit": fit, "contrast": key_loss}


def feature_scores(feature: Tensor, own: Tensor, margin: float) -> Tensor:
    """Return 1 − cos(w_y, f) + μ (B,) for features (B, D) and the head's rows of their labels (B, D)."""
    return 1 - F.cosine_similarity(own, feature, dim=1) + margin


def gradient_scores(logits: Tensor, feature: Tensor, mask: Tensor, y: Tensor) -> Tensor:
    """(B,) 1 − cos(g_i, ḡ), the gradients of an image's and of the batch's mean cross-entropy w.r.t. row y_i of the
    head.

    With z = (W f + b) ⊙ mask, the gradient w.r.t. row c of an image's cross-entropy is (p_c − 1[c = y]) mask_c f.

    Args:
        logits: (B, C) z. feature: (B, D). mask: (B, C). y: (B,).
    """
    slopes = (logits.softmax(1) - F.one_hot(y, logits.shape[1])) * mask  # (B, C)
    own = slopes.gather(1, y.unsqueeze(1)) * feature  # (B, D)
    batch = (slopes.T @ feature / len(y))[y]  # (C, D) → (B, D)
    return 1 - F.cosine_similarity(own, batch, dim=1)


@register(
    "mvp",
    family="prompts",
    version=2,
    paper="arXiv:2308.09303",
    tiny={
        "pool": 2,
        "general": 1,
        "expert": 1,
        "general_layers": (0,),
        "expert_layers": (1,),
        "margin": 0.05,
        "alpha": 0.1,
    },
)
def mvp(
    pool: Count = 10,
    general: Count = 5,
    expert: Count = 20,
    general_layers: tuple[Natural, ...] = (0, 1),
    expert_layers: tuple[Natural, ...] = (2, 3, 4),
    top: Count = 1,
    mask: bool = True,
    contrast: Contrast = "paper",
    scaling: bool = True,
    margin: Positive = 0.5,
    focal: Focal = "paper",
    alpha: Share = 0.5,
    gamma: NotNegative = 2.0,
    last_block: bool = False,
    tuning: Tuning = "prompt",
) -> Strategy:
    """MVP: prompts and masks of outputs, chosen for each image, for streams that tell no boundaries.

    An image's prompt is argmin_m (1 − cos(q, k_m)) (c_m + 1), c_m counting how often m was chosen; its rows join the
    sequence in some blocks of the frozen transformer. Outputs are (W f + b) ⊙ 2 σ(m_p), those of classes not seen yet
    out of the question. In training f is divided by 1 − cos(w_y, f) + μ, an image's cross-entropy multiplied by
    1 − α + α (1 − cos(g_i, ḡ))^γ, with g_i and ḡ the gradients of its and its batch's cross-entropy w.r.t. w_y, and
    keys
    are pushed apart and towards their queries: −ln(A / (A + B)), A = mean exp(D_pm / (c_p + 1)), B = mean exp(d_p /
    (c_p + 1)).

    Args:
        pool: M, prompts with a key and a mask each.
        general, expert: rows in a block of the prompt that all images share, and of a chosen one; a prefix has so many
            keys and as many values.
        general_layers, expert_layers: the blocks they join; they are dropped after each.
        top: prompts that an image gets.
        mask: whether outputs are multiplied.
        contrast: the loss on the keys. paper, as above; released: with every image's distances divided by every image's
            masses, by a slip in broadcasting; later: as in the second release, −ln(mean exp(D_pp / (c_p + 1)) /
            A), in which no query is left; pull: the mean of d_p, as the authors' code has it without the contrast,
            where prompts are chosen by distance alone, whatever their counts.
        scaling: whether features are divided.
        margin: μ.
        focal: paper, as above; released: the mean cross-entropy times the mean factor; none.
        alpha: α.
        gamma: γ.
        last_block: whether the query passes the last block.
        tuning: prompt, as above; prefix: rows join those that a block makes keys of, and others those that it makes
            values of, so that they pass W_k and W_v as its normalised tokens do, and no query is formed for them.

    Reference: Moon et al., "Online Class Incremental Learning on Stochastic Blurry Task Boundary via Mask and Visual
    Prompt Tuning", ICCV 2023, arXiv:2308.09303. The defaults are those of the authors' launch script, losses as in
    the paper.

    Differences from the authors' code:
        1. If an image gets several prompts, all of them join, as tokens or as prefixes; there the first one only, and
           the contrast fails.
        2. Several updates for a batch are the run's (`train.updates`), not the method's.
        3. Gradients w.r.t. the head's rows are computed by their formula, not by one backward pass for each image.
        4. Without a class token, the query is the mean of the transformer's states of patches.
        5. `contrast=later` is the formula of the second release, each image's distances divided by its own mass; the
           file itself cannot be imported. Later copies of the code have one more form, which is not here: the paper's,
           with every query's distance divided by the masses of all prompts.
        6. In an encoder of texts (BERT and its like), rows join without position and are met by every token; the query
           is the first token's state, or the mean of all where the encoder's feature is one. BERT's blocks end with
           their norms, so that there is no final one to leave out.
    """
    if top > pool:
        raise ValueError(f"top is 1 to pool, {pool}; {top} was given")
    layers = (tuple(general_layers), tuple(expert_layers))
    scale = margin if scaling else None
    rows, losses = (general, expert), (contrast, scale, focal, alpha, gamma)
    return MaskAndPrompt(Settings(pool, rows, layers, top, mask, *losses, last_block, tuning))
