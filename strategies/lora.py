"""Sequential LoRA: one low-rank branch for each layer, trained on every experience in turn.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv:2106.09685.
"""

from __future__ import annotations

from typing import Literal

from clbench import Strategy, chain, register
from clbench.parts import LowRankTuning, Target, TrainOnly, label_losses
from clbench.ranges import Fraction, Natural, Positive


@register("lora", family="low rank", paper="arXiv:2106.09685", tiny={"rank": 4})
def lora(
    rank: Natural = 8,
    alpha: Positive = 16.0,
    targets: tuple[Target, ...] = ("q", "v"),
    dropout: Fraction = 0.0,
    head: Positive = 1.0,
    loss: Literal["local", "softmax"] = "local",
) -> Strategy:
    """LoRA: low-rank branches of a frozen transformer and a head are trained on each experience in turn.

    y = W x + b + (α / r) · B A x in every layer of the targets; W and b stay as they are, B begins as 0. Nothing
    else is done about forgetting: a baseline, which others' parts join: `lora+er`, `lora+ewc`, `lora+lwf`. EWC holds A,
    B and the head; (c B, A / c) is the same function with another penalty.

    Args:
        rank: r; 0 leaves the head alone, as `linear-probe` does.
        alpha: α.
        targets: the layers: q, k, v, the projections of attention; proj, the one after it; fc1, fc2 of the perceptron.
        dropout: on x, in the branches only.
        head: factor on the head's learning rate; low-rank branches stand smaller ones.
        loss: local, cross-entropy over the present experience's classes for rows of the stream; softmax, over all.

    Reference: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv:2106.09685; SeqLoRA in
    Wang et al., "Orthogonal Subspace Learning for Language Model Continual Learning", EMNLP 2023, arXiv:2310.14152.

    Differences from the authors' code:
        1. Where q, k and v are one layer, each target has a branch of its own for its rows.
    """
    tuned = LowRankTuning(rank, alpha / rank, dropout, targets) if rank else TrainOnly("head")
    return chain(tuned, label_losses(loss, head))
