"""Recycling dormant neurons (ReDo).

Sokar, Agarwal, Castro, Evci, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", ICML 2023,
arXiv:2302.12902.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from clbench import Batch, Output, Run, Strategy, register
from clbench.errors import IncompatibleError
from clbench.parts import SeenOutputs
from clbench.ranges import Count, NotNegative


class Stage(NamedTuple):
    """A hidden layer.

    Attributes:
        into: the linear map into its units. norms: what stands between that and the activation and has a number for
            each unit.
        activation: that of its units.
        out: the linear map that comes next, the head at last.
    """

    into: nn.Linear
    norms: tuple[nn.Module, ...]
    activation: nn.Module
    out: nn.Linear


def stages(model: nn.Module) -> list[Stage]:
    """Return the hidden layers of a network. Norms and dropout may stand in between.

    Raises:
        IncompatibleError: the backbone is no row of linear layers with an activation each.
    """
    leaves = [module for module in model.backbone.modules() if not list(module.children())]  # type: ignore[union-attr]
    boxes = [module for module in model.backbone.modules() if list(module.children())]  # type: ignore[union-attr]
    head = model.head.inner if isinstance(model.head, SeenOutputs) else model.head
    linear = [*(m for m in leaves if isinstance(m, nn.Linear)), head]
    activations = [m for m in leaves if type(m).__module__ == "torch.nn.modules.activation"]
    fits = (
        all(type(box) is nn.Sequential for box in boxes)
        and all(isinstance(m, nn.Linear) for m in linear)
        and len(activations) == len(linear) - 1
        and not any(isinstance(m, nn.modules.conv._ConvNd) for m in leaves)
    )
    if not fits:
        raise IncompatibleError(
            "Units can be recycled in networks of linear layers in a row, each with an activation, and a linear head, "
            "such as the model 'mlp'; this one is built otherwise."
        )
    found = []
    for i, activation in enumerate(activations):
        between = leaves[leaves.index(linear[i]) + 1 : leaves.index(activation)]
        norms = tuple(m for m in between if [*m.parameters(), *m.buffers()])
        found.append(Stage(linear[i], norms, activation, linear[i + 1]))  # type: ignore[arg-type]
    return found


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
        self.layers = stages(run.model)

    def after_step(self, batch: Batch, out: Output) -> None:
        self.steps += 1
        if self.steps % self.period == 0:
            with self.run.evaluating():
                masks = self._dormant(batch.stream().x)
            for layer, dormant in zip(self.layers, masks, strict=True):
                self._renew(layer, dormant)
            # Only now, so that what goes from a dormant unit to another is 0 and not what was drawn for the latter.
            for layer, dormant in zip(self.layers, masks, strict=True):
                layer.out.weight.masked_fill_(dormant, 0.0)
                self.run.forget_moments({layer.out.weight: dormant.unsqueeze(0)})

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

    def _renew(self, layer: Stage, dormant: Tensor) -> None:
        """Draw what goes into the dormant units (U,) anew; bias, norms and moments as at the start."""
        into = layer.into.weight  # (U, I)
        rng = self.run.rng("redo")
        bound = into.shape[1] ** -0.5  # torch's initialisation of linear layers
        drawn = torch.rand(into.shape, generator=rng, device=into.device, dtype=into.dtype)
        fresh = drawn * 2 * bound - bound
        into.copy_(torch.where(dormant.unsqueeze(1), fresh, into))
        masks = {into: dormant.unsqueeze(1)}
        starts: list[tuple[Tensor | None, float]] = [(layer.into.bias, 0.0)]
        for norm in layer.norms:
            values = (getattr(norm, name, None) for name in ("weight", "bias", "running_mean", "running_var"))
            starts += zip(values, (1.0, 0.0, 0.0, 1.0), strict=True)
        for value, start in starts:
            if value is not None and value.shape == dormant.shape:
                value.masked_fill_(dormant, start)
                if isinstance(value, nn.Parameter):
                    masks[value] = dormant
        self.run.forget_moments(masks)


@register(
    "redo",
    family="plasticity",
    version=2,
    paper="arXiv:2302.12902",
    modifier=True,
    tiny={"threshold": 0.2, "period": 3},
)
def redo(threshold: NotNegative = 0.025, period: Count = 1000) -> Strategy:
    """ReDo: units that hardly ever respond are recycled, with fresh incoming and zero outgoing weights.

    A unit of a hidden layer is dormant if E|h_i| ≤ τ · mean over the layer's units k of E|h_k|. Every F steps, its
    incoming weights are drawn anew, then its bias and outgoing weights become 0, those to other dormant units, too, and
    so do the optimizer's moments of these entries. Around any other strategy, for networks of linear layers in a row
    (`mlp`).

    Args:
        threshold: τ.
        period: F, steps between two looks.

    Reference: Sokar, Agarwal, Castro, Evci, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", ICML 2023,
    arXiv:2302.12902.

    Differences from the paper:
        1. Activations are those of the batch at hand, in eval mode; the paper draws from its replay buffer.
        2. Convolutions are not recycled.
        3. Where a norm stands between a layer and its activation, as with `nap`, the unit's scale, offset and running
           statistics in it begin anew, too; the paper's networks have none.
    """
    return RecycleDormant(threshold, period)
