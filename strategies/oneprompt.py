"""OnePrompt, of "OVOR: OnePrompt with Virtual Outlier Regularization for Rehearsal-Free Class-Incremental Learning".

Huang et al., ICLR 2024, arXiv:2402.04129.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from clbench import Strategy, chain, register
from clbench.parts import (
    Blocks,
    GrowingHead,
    LocalCrossEntropy,
    Prompter,
    Prompting,
    Prompts,
    as_prefixes,
    check_layers,
)
from clbench.ranges import Even, Natural


class Shared(Prompter):
    """One prefix for each of some blocks, the same for all images; no query is asked.

    Attributes:
        prompts: block → (rows, D).
    """

    passes = 0

    def __init__(self, prompts: dict[int, Tensor]) -> None:
        super().__init__()
        self.prompts = nn.ParameterDict({str(layer): nn.Parameter(rows) for layer, rows in prompts.items()})

    def query(self, blocks: Blocks, x: Tensor) -> Tensor:
        """(B, 0): nothing is asked."""
        return torch.zeros((len(x), 0), device=x.device)

    def forward(self, query: Tensor) -> Prompts:
        n = len(query)
        shared = [(int(layer), rows.expand(n, -1, -1)) for layer, rows in self.prompts.items()]
        return Prompts(prefixes=as_prefixes(*shared))


class One(Prompting):
    """One set of prefixes is trained, experience by experience, for all images."""

    parallel = True

    def __init__(self, rows: dict[int, int]) -> None:
        self.rows = rows

    def make_prompter(self, blocks: Blocks) -> Prompter:
        check_layers(tuple(self.rows), blocks, self)
        how: Any = {"generator": self.run.rng("prompts"), "device": self.run.device}
        return Shared({layer: torch.rand((n, self.size), **how) for layer, n in self.rows.items()})


@register(
    "oneprompt", family="prompts", paper="arXiv:2402.04129", tiny={"early_layers": (0,), "late_layers": (1,)}
)
def oneprompt(
    early: Even = 10,
    late: Even = 40,
    early_layers: tuple[Natural, ...] = (0, 1),
    late_layers: tuple[Natural, ...] = (2, 3, 4),
) -> Strategy:
    """OnePrompt: one prompt for all experiences, and no query: the frozen transformer is passed once.

    Prefixes of blocks 0 and 1 and, longer ones, of blocks 2, 3 and 4 are trained by every experience in turn, with the
    cross-entropy of stream rows over the present experience's classes. `oneprompt+ovor` is OVOR.

    Args:
        early, late: rows of a prefix in the early and in the late blocks, half of them keys and half values.
        early_layers, late_layers: these blocks.

    Reference: Huang et al., "OVOR: OnePrompt with Virtual Outlier Regularization for Rehearsal-Free Class-Incremental
    Learning", ICLR 2024, arXiv:2402.04129.

    Differences from the authors' code:
        1. Outputs of classes not seen yet are no candidates, in training either.
        2. Images are as the benchmark gives them, and their mean and deviation removed.
        3. In an encoder of texts (BERT and its like), prefixes have no position and are met by every token, as in
           P-tuning v2; the feature is the encoder's, for many the mean over a text's tokens.
    """
    if both := sorted(set(early_layers) & set(late_layers)):
        raise ValueError(f"a block is early or late; {', '.join(map(str, both))} is both")
    rows = {**dict.fromkeys(early_layers, early), **dict.fromkeys(late_layers, late)}
    return chain(One(rows), GrowingHead(), LocalCrossEntropy())
