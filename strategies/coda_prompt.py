"""CODA-Prompt.

Smith et al., "CODA-Prompt: COntinual Decomposed Attention-based Prompting for Rehearsal-Free Continual Learning",
CVPR 2023, arXiv:2211.13218.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Run, Strategy, chain, register
from clbench.errors import IncompatibleError
from clbench.parts import (
    Blocks,
    GrowingHead,
    LocalCrossEntropy,
    Prompter,
    Prompts,
    SlicedPrompter,
    SlicedPrompting,
    as_prefixes,
    check_layers,
)
from clbench.ranges import Count, Even, Natural, NotNegative

Init = Literal["gram-schmidt", "orthogonal"]
KINDS = ("prompts", "keys", "attentions")


class Components(SlicedPrompter):
    """Prompt components with a key and an attention vector each, a slice of them for every experience.

    Earlier slices enter detached, later ones are not read.

    Attributes:
        prompts: for each experience (layers, M / N, L, D). keys, attentions: (layers, M / N, D).
    """

    def __init__(self, layers: tuple[int, ...], experiences: int, each: int, length: int, size: int) -> None:
        super().__init__()
        self.layers = layers
        for kind, shape in zip(KINDS, ((length, size), (size,), (size,)), strict=True):
            slices = [nn.Parameter(torch.zeros(len(layers), each, *shape)) for _ in range(experiences)]
            setattr(self, kind, nn.ParameterList(slices))

    def slices(self) -> Mapping[str, Sequence[Tensor]]:
        """Return the prompts, their keys and their attention vectors."""
        return {kind: list(getattr(self, kind)) for kind in KINDS}

    def forward(self, query: Tensor) -> Prompts:
        used = zip(self.layers, *(self.used(kind) for kind in KINDS), strict=True)
        rows = [(layer, weighted(weights(query, keys, a), prompts)) for layer, prompts, keys, a in used]
        return Prompts(prefixes=as_prefixes(*rows))

    def used(self, kind: str) -> Tensor:
        """(layers, components, …) those of all experiences so far, only the present one's with gradient."""
        slices = getattr(self, kind)
        return torch.cat([*(past.detach() for past in slices[: self.current]), slices[self.current]], dim=1)

    @torch.no_grad()
    def draw(self, index: int, rng: torch.Generator) -> None:
        """Draw the slice of an experience anew: unit rows, by Gram–Schmidt against those of the experiences before."""
        for kind in KINDS:
            slices = getattr(self, kind)
            for layer, fresh in enumerate(slices[index]):
                rows = [past[layer].flatten(1) for past in slices[:index]]
                before = torch.cat(rows) if rows else fresh.flatten(1)[:0]
                fresh.copy_(orthonormal(before, len(fresh), rng).view_as(fresh))


def weights(query: Tensor, keys: Tensor, attentions: Tensor) -> Tensor:
    """Return α_bm = cos(q_b ⊙ a_m, k_m), (B, M), from queries (B, D), keys and attention vectors (M, D)."""
    products = query @ (attentions * F.normalize(keys, dim=1)).T
    lengths = (query.square() @ attentions.square().T).clamp(min=1e-24).sqrt()  # ‖q_b ⊙ a_m‖
    return products / lengths


def weighted(alpha: Tensor, prompts: Tensor) -> Tensor:
    """(B, L, D) Σ_m α_bm p_m, of α (B, M) and prompts (M, L, D)."""
    return torch.einsum("bm,mld->bld", alpha, prompts)


def orthonormal(before: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """(n, D) unit rows, each of them normal noise less its projections onto the rows before it.

    Rows that came before, (s, D), need not be orthogonal to one another; new rows are then not quite orthogonal to
    them.
    """
    basis = before.double()
    for _ in range(n):
        row = torch.randn(before.shape[1], generator=rng, device=before.device, dtype=before.dtype).double()
        share = (basis @ row) / basis.square().sum(1).clamp(min=1e-30)
        basis = torch.cat([basis, (row - share @ basis).unsqueeze(0)])
    return F.normalize(basis[len(before) :], dim=1).to(before.dtype)


def orthogonality(rows: Tensor) -> Tensor:
    """Return the mean over the M² entries of (X Xᵀ − I)² for rows X (M, …), each flattened."""
    x = rows.flatten(1)
    return (x @ x.T - torch.eye(len(x), device=x.device)).square().mean()


class Decomposed(SlicedPrompting):
    """Components of prompts are trained, those of the present experience only, weighted by attention to the query.

    `orthogonality` is Σ over layers and over keys, attentions and prompts of the mean of (X Xᵀ − I)².
    """

    prompter: Components
    parallel = True

    def __init__(self, pool: int, length: int, layers: tuple[int, ...], strength: float, init: Init) -> None:
        self.pool, self.length, self.layers = pool, length, layers
        self.strength, self.init = strength, init

    def make_prompter(self, blocks: Blocks) -> Prompter:
        check_layers(self.layers, blocks, self)
        experiences = len(self.run.benchmark.train)
        each = self.pool // experiences
        if each == 0:
            raise IncompatibleError(
                f"{self.run.strategy} shares {self.pool} components among {experiences} experiences, so that none is "
                f"left for each. Set coda-prompt.pool={experiences} or more."
            )
        if each * experiences > self.size:
            raise IncompatibleError(
                f"{self.run.strategy} makes {each * experiences} keys of {self.size} numbers orthogonal, and there are "
                f"at most {self.size}. Set coda-prompt.pool={self.size} or less."
            )
        return Components(self.layers, experiences, each, self.length, self.size)

    def setup(self, run: Run) -> None:
        rng = run.rng("prompts")
        for index in range(len(run.benchmark.train) if self.init == "orthogonal" else 1):
            self.prompter.draw(index, rng)

    def begin_experience(self, exp: Experience) -> None:
        super().begin_experience(exp)
        if self.init == "gram-schmidt" and exp.index:
            self.prompter.draw(exp.index, self.run.rng("prompts"))

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if not self.strength:
            return {}
        terms = [orthogonality(rows) for kind in KINDS for rows in self.prompter.used(kind)]
        return {"orthogonality": self.strength * torch.stack(terms).sum()}


@register(
    "coda-prompt",
    family="prompts",
    paper="arXiv:2211.13218",
    tiny={"pool": 12, "length": 4, "layers": (0, 1)},
)
def coda_prompt(
    pool: Count = 100,
    length: Even = 8,
    layers: tuple[Natural, ...] = (0, 1, 2, 3, 4),
    orthogonality: NotNegative = 0.0,
    init: Init = "gram-schmidt",
) -> Strategy:
    """CODA-Prompt: an image's prompt is a sum of learned components, weighted by attention to its features.

    q(x) is the feature of the frozen transformer without prompts; α_m = cos(q ⊙ a_m, k_m) and p = Σ_m α_m p_m, whose
    first half are keys and whose second half values of a prefix. Each of N experiences has M / N components of its
    own; earlier ones stay as they are, later ones are not used. L = CE + λ Σ_{X ∈ {K, A, P}} mean((X Xᵀ − I)²), the
    cross-entropy of stream rows over the present experience's classes.

    Args:
        pool: M, components; those that N does not divide are left out.
        length: L, rows of a prompt, half of them keys and half values.
        layers: the blocks that prompts enter, each with components of its own.
        orthogonality: λ. 0 in the released code, whose new components begin orthogonal; the paper has 0.1.
        init: gram-schmidt, the components of an experience begin as unit rows orthogonal to those before, as released;
            orthogonal, all of them begin so together, as in the paper.

    Reference: Smith et al., "CODA-Prompt: COntinual Decomposed Attention-based Prompting for Rehearsal-Free Continual
    Learning", CVPR 2023, arXiv:2211.13218.

    Differences from the authors' code:
        1. An experience's components are parameters of their own, so that they are rewritten in place when it begins,
           and those of others have no gradient. Same updates.
        2. Gram–Schmidt is computed in double precision.
        3. Outputs of classes not seen yet are no candidates, in training either.
        4. Images are as the benchmark gives them, and their mean and deviation removed.
        5. In an encoder of texts (BERT and its like), prefixes have no position and are met by every token; query and
           feature are the encoder's, for many the mean over a text's tokens.
    """
    part = Decomposed(pool, length, tuple(layers), orthogonality, init)
    return chain(part, GrowingHead(), LocalCrossEntropy())
