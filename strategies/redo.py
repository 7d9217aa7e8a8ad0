"""Recycling dormant neurons (ReDo).

Sokar, Agarwal, Castro, Evci, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", ICML 2023,
arXiv:2302.12902.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from clbench import Batch, Output, Strategy, register
from clbench.parts import stages
from clbench.ranges import Count, NotNegative

if TYPE_CHECKING:
    from clbench.engine import Run


class Hidden(NamedTuple):
    """A hidden layer: the weights into its units, its activation, and the weights that its units go to."""

    into: nn.Linear
    activation: nn.Module
    out: nn.Linear


class RecycleDormant(Strategy):
    """Every so many steps, units that hardly respond get fresh incoming weights and outgoing weights of zero.

    The score of unit i is the mean of |h_i| over the batch's stream rows, over its mean over the layer.
    """

    state = ("steps",)
    parallel = True

    def __init__(self, threshold: float, period: int) -> None:
        self.threshold, self.period = threshold, period
        self.steps = 0

    def setup(self, run: Run) -> None:
        self.layers = [Hidden(*stage) for stage in stages(run.model)]

    def after_step(self, batch: Batch, out: Output) -> None:
        self.steps += 1
        if self.steps % self.period == 0:
            with self.run.evaluating():
                masks = self._dormant(batch.stream().x)
            for layer, dormant in zip(self.layers, masks, strict=True):
                self._recycle(layer, dormant)

    def _dormant(self, x: Tensor) -> list[Tensor]:
        """(U,) bool for each layer."""
        means: list[Tensor] = []
        hooks = [
            layer.activation.register_forward_hook(lambda _, __, h: means.append(h.abs().mean(0)))
            for layer in self.layers
        ]
        self.run.forward(x)
        for hook in hooks:
            hook.remove()
        return [mean <= self.threshold * mean.mean() for mean in means]

    def _recycle(self, layer: Hidden, dormant: Tensor) -> None:
        into, out = layer.into.weight, layer.out.weight  # (U, I), (O, U)
        rng = self.run.rng("redo")
        bound = into.shape[1] ** -0.5  # torch's initialisation of linear layers
        fresh = (
            torch.rand(into.shape, generator=rng, device=into.device, dtype=into.dtype) * 2 * bound - bound
        )
        into.copy_(torch.where(dormant.unsqueeze(1), fresh, into))
        out.masked_fill_(dormant, 0.0)
        masks = {into: dormant.unsqueeze(1), out: dormant.unsqueeze(0)}
        if layer.into.bias is not None:
            layer.into.bias.masked_fill_(dormant, 0.0)
            masks[layer.into.bias] = dormant
        self.run.forget_moments(masks)


@register("redo", paper="arXiv:2302.12902", modifier=True, tiny={"threshold": 0.2, "period": 3})
def redo(threshold: NotNegative = 0.025, period: Count = 1000) -> Strategy:
    """ReDo: units that hardly ever respond are recycled, with fresh incoming and zero outgoing weights.

    A unit of a hidden layer is dormant if E|h_i| ≤ τ · mean over the layer's units k of E|h_k|. Every F steps, its
    incoming weights are drawn anew, its bias and outgoing weights become 0, and the optimizer's moments of these
    entries, too. Around any other strategy, for networks of linear layers in a row (`mlp`).

    Args:
        threshold: τ. period: F, steps between two looks.

    Reference: Sokar, Agarwal, Castro, Evci, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", ICML 2023,
    arXiv:2302.12902.

    Differences from the paper:
        1. Activations are those of the batch at hand, in eval mode; the paper draws from its replay buffer.
        2. Convolutions are not recycled.
    """
    return RecycleDormant(threshold, period)
