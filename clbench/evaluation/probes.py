"""What a language model remembers of sentences that it has studied: recognition, and recall.

Orhan, "Recognition, recall, and retention of few-shot memories in large language models", 2023, arXiv:2303.17557.
Retention is either one, asked again while the model goes on learning. Shapes: N sentences of L tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.types import IGNORED

AT_ONCE = 64
"""Sentences of one pass."""


@torch.no_grad()
def sentence_losses(model: nn.Module, tokens: Tensor, labels: Tensor | None = None) -> Tensor:
    """(N,) float64: the summed −log p of each sentence's tokens but the first, in nats.

    Args:
        model: (N, L) tokens → (N, L, V) logits of the next ones; it is asked as it is, so put it into eval mode.
        tokens: (N, L + 1) tokens; or (N, L) inputs, with `labels`.
        labels: (N, L) next tokens; `IGNORED` ones do not count.
    """
    x, y = (tokens[:, :-1], tokens[:, 1:]) if labels is None else (tokens, labels)
    found = []
    for part, right in zip(x.split(AT_ONCE), y.split(AT_ONCE), strict=True):
        nll = F.cross_entropy(
            model(part).flatten(0, 1), right.flatten(), ignore_index=IGNORED, reduction="none"
        )
        found.append(nll.view(right.shape).double().sum(1))
    return torch.cat(found)


def recognition(studied: Tensor, foils: Tensor) -> float:
    """Return the share of pairs in which the studied sentence is the likelier one; equal ones count half.

        (1/N) Σ_i ( [ℓ(s_i) < ℓ(f_i)] + ½ [ℓ(s_i) = ℓ(f_i)] )

    Losses are sums, so that the two of a pair should have as many tokens.

    Args:
        studied, foils: (N,) losses, as `sentence_losses` gives them.

    Raises:
        ValueError: other than pairs, or none.
    """
    if studied.shape != foils.shape or studied.ndim != 1 or not len(studied):
        raise ValueError(
            f"recognition compares pairs; there are losses of {tuple(studied.shape)} studied sentences and of "
            f"{tuple(foils.shape)} foils"
        )
    return float(((studied < foils).double() + 0.5 * (studied == foils).double()).mean())


@torch.no_grad()
def recall(model: nn.Module, tokens: Tensor, cue: int) -> float:
    """Return the share of sentences that the model ends word for word, when it is given their first tokens.

    It writes the likeliest token each time, up to the sentence's length.

    Args:
        model: as of `sentence_losses`.
        tokens: (N, L).
        cue: tokens that are given, 1 to L − 1.

    Raises:
        ValueError: a cue without tokens, or one that leaves nothing to recall.
    """
    length = tokens.shape[1]
    if not 1 <= cue < length:
        raise ValueError(f"of {length} tokens, 1 to {length - 1} can be a cue; {cue} was given")
    exact = []
    for part in tokens.split(AT_ONCE):
        written = part[:, :cue]
        while written.shape[1] < length:
            written = torch.cat([written, model(written)[:, -1:].argmax(2)], 1)
        exact.append((written == part).all(1))
    return float(torch.cat(exact).double().mean())
