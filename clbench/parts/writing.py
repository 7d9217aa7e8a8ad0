"""Text that a causal language model writes by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clbench.errors import IncompatibleError
from clbench.strategy import Run

AT_ONCE = 8
"""Batches that are written together: keys and values are a small part of what training keeps of a row."""


def check_writes(run: Run) -> None:
    """Refuse a model that cannot go on from what it has read.

    Raises:
        IncompatibleError: names what lacks `continuing`.
    """
    backbone = getattr(run.model, "backbone", run.model)
    if not hasattr(backbone, "continuing"):
        raise IncompatibleError(
            f"{run.strategy} has the model write text, token by token, and a {type(backbone).__name__} has no "
            "`continuing()`, by which it would go on from those so far. Take model=decoder, or model=hf:FOLDER."
        )


@torch.no_grad()
def written(run: Run, first: Tensor, length: int, top: int, rng: torch.Generator) -> Tensor:
    """(N, length + 1) tokens: a given one, and then what the model says comes next, a draw each (`drawn`).

    In eval mode and under the run's precision. A row is passed token by token, keys and values of those before are
    kept, and it counts as one example.

    Args:
        run: whose model writes.
        first: (N,) tokens.
        length: tokens to write; no more than the model reads.
        top: k, of `drawn`.
        rng: of the draws.
    """
    model: Any = run.model
    found = []
    with run.evaluating():
        for begun in first.split(AT_ONCE * run.batch_size):
            text = [begun]
            with model.backbone.continuing(), run.precision.autocast():
                for _ in range(length):
                    states = model.features(text[-1].unsqueeze(1))  # (B, 1, D)
                    logits = model.head(states[:, 0])[:, : run.num_classes]  # a head may have more outputs
                    text.append(drawn(logits.float(), top, rng))
            found.append(torch.stack(text, 1))
            run.count(found[-1])
    return torch.cat(found)


def drawn(logits: Tensor, top: int, rng: torch.Generator) -> Tensor:
    """(B,) tokens, each drawn by softmax among the k likeliest of logits (B, V): top-k sampling.

    Fan et al., "Hierarchical Neural Story Generation", ACL 2018, arXiv:1805.04833.

    Args:
        logits: of the next token.
        top: k; all tokens if there are not more.
        rng: of the draw.
    """
    best, tokens = logits.topk(min(top, logits.shape[1]), 1)
    below = best.softmax(1).cumsum(1)
    u = torch.rand((len(logits), 1), generator=rng, device=logits.device)
    # As torch.multinomial, for which the host waits. Where a sum is a little off 1, no token may take the rest.
    place = torch.searchsorted(below / below[:, -1:], u, right=True)
    return tokens.gather(1, place).squeeze(1)
