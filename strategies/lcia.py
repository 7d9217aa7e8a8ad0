"""LCIA: a moving average of the weights, as fast as each tensor's gradients say, takes their place at experience ends.

Qiao et al., "Large Continual Instruction Assistant", ICML 2025, arXiv:2410.10868.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from clbench import Experience, Run, Strategy, register
from clbench.parts import Group, members_of
from clbench.ranges import NotNegative, Share

Side = Literal["new", "old"]


def coefficient(theta: Tensor, trace: Tensor, gradient: Tensor, previous: Tensor, factor: float) -> Tensor:
    """() f (1 + ‖g‖₁) / (‖θ − θ*‖₁ ‖g − g'‖₁) of one tensor; not finite where it has not moved or g has not turned."""
    moved, turned = (theta - trace).abs().sum(), (gradient - previous).abs().sum()
    return factor * (1 + gradient.abs().sum()) / (moved * turned)


def share_of(alpha: Tensor, fallback: float, side: Side) -> Tensor:
    """() how much of the new weights the trace takes: α or 1 − α if 0 < α < 1, else the fallback."""
    new = alpha if side == "new" else 1 - alpha
    return torch.where((alpha > 0) & (alpha < 1), new, fallback)


class GradientAverage(Strategy):
    """A trace follows the weights within an experience, tensor by tensor, and is what the experience leaves.

    Attributes:
        trace: by name. previous: gradients of the last update, of tensors that had some.
        active: by name, in how many updates the formula was taken. updates: of how many.
    """

    needs = frozenset({"boundaries"})
    state = ("trace", "previous", "active", "updates", "on")
    parallel = True
    language = True

    def __init__(
        self, factor: float, side: Side, fallback: float, late: bool, first: bool, group: Group
    ) -> None:
        self.factor, self.side, self.fallback = factor, side, fallback
        self.late, self.first, self.group = late, first, group

    def setup(self, run: Run) -> None:
        self.trace: dict[str, Tensor] = {}
        self.previous: dict[str, Tensor] = {}
        self.active = {name: torch.zeros((), device=run.device) for name in self._averaged()}
        self.updates, self.on = 0, False

    def _averaged(self) -> dict[str, nn.Parameter]:
        parameters = self.run.parameters()
        return parameters if self.group == "all" else members_of(self.group, parameters)

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self._averaged().items()}

    def begin_experience(self, exp: Experience) -> None:
        self.on = self.first or exp.index > 0
        self.trace = self._weights() if self.on and not self.late else {}
        self.previous = {}

    @torch.no_grad()
    def after_update(self) -> None:
        if not self.on:
            return
        if not self.trace:
            self.trace = self._weights()
        self.updates += 1
        for name, theta in self._averaged().items():
            gradient, previous, trace = theta.grad, self.previous.pop(name, None), self.trace[name]
            if gradient is None or previous is None:
                trace.lerp_(theta, self.fallback)
            else:
                alpha = coefficient(theta, trace, gradient, previous, self.factor)
                trace.lerp_(theta, share_of(alpha, self.fallback, self.side))
                self.active[name] += (alpha > 0) & (alpha < 1)
            if gradient is not None:
                self.previous[name] = gradient.clone()

    @torch.no_grad()
    def end_experience(self, exp: Experience) -> None:
        parameters = self.run.parameters()
        for name, trace in self.trace.items():
            parameters[name].copy_(trace)
        self.trace, self.previous, self.on = {}, {}, False


@register(
    "lcia",
    family="training",
    paper="arXiv:2410.10868",
    modifier=True,
    null={"factor": 0.0, "fallback": 1.0},
)
def lcia(
    factor: NotNegative = 2.0,
    side: Side = "new",
    fallback: Share = 0.01,
    trace: Literal["start", "first-update"] = "start",
    first: bool = False,
    parameters: Group = "all",
) -> Strategy:
    """LCIA: each experience leaves a moving average of its weights, whose rate follows from gradients, by tensor.

    After every update, for every trained tensor by itself, θ* ← (1 − α) θ* + α θ with
    α = f (1 + ‖g‖₁) / (‖θ − θ*‖₁ ‖g − g'‖₁), g and g' the last two gradients, if that is between 0 and 1, and 0.01 if
    not. θ* begins as the weights before the experience, and takes their place at its end: much of what is learned is
    lost again with what would have been forgotten, so look at learning accuracy beside forgetting. Around any other
    strategy and model, as `lora+lcia`. Norms grow with a tensor's size: large matrices are averaged by the formula
    nearly always, biases by the fallback. Beside the weights it holds them twice, θ* and g'.

    Args:
        factor: f.
        side: what α multiplies: new, the weights, as released; old, the trace, as in the derivation, which has f = 1.
        fallback: share of the weights where the formula's number is none between 0 and 1, and at first updates; with
            `factor=0` it is an ordinary average of 1 − fallback.
        trace: what it begins as: start, the weights before the experience; first-update, those after its first update,
            as released.
        first: whether the first experience is averaged, too. There is nothing to keep then.
        parameters: which are averaged: all that are trained; encoder, all but the head; qkv; head. Where experiences
            bring new classes in a few hundred updates or less, an averaged head hardly learns them: take encoder.

    Reference: Qiao et al., "Large Continual Instruction Assistant", ICML 2025, arXiv:2410.10868.

    Differences from the authors' code:
        1. All experiences train one set of weights. There, tasks with similar instructions share a low-rank branch, and
           the average is taken where a branch is trained again.
        2. The numbers of updates in which the formula was taken are kept (`active`).
        3. Statistics of batch normalisation are those of the weights that were trained.
    """
    return GradientAverage(factor, side, fallback, trace == "first-update", first, parameters)
