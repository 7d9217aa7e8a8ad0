"""Optimizers and learning-rate schedules, as configurations name them."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from clbench.config import OptimConfig


def scale_rate(parameter: nn.Parameter, factor: float) -> None:
    """Have a parameter learn at a multiple of the run's learning rate, whatever its optimizer and schedule; factors
    multiply."""
    parameter.lr_scale = factor * _scale(parameter)  # type: ignore[attr-defined]


def _scale(parameter: nn.Parameter) -> float:
    factor: float = getattr(parameter, "lr_scale", 1.0)
    return factor


def _groups(parameters: Sequence[nn.Parameter], lr: float) -> Any:
    """Return the parameters, in a group for each factor on the learning rate if there are several."""
    scales = dict.fromkeys(map(_scale, parameters))
    if list(scales) == [1.0]:
        return parameters
    return [
        {"params": [p for p in parameters if _scale(p) == scale], "lr": lr * scale, "lr_scale": scale}
        for scale in scales
    ]


@functools.cache
def uncompiled(kind: type[torch.optim.Optimizer]) -> Any:
    """Return a kind of torch's optimizers that computes the same and says nothing of it to torch's compiler.

    Each of these methods imports the compiler at its first call, which takes a second, and asks it at every other.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), methods | {"step": torch.no_grad()(inspect.unwrap(kind.step))})


def make_optimizer(parameters: Sequence[nn.Parameter], optim: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimizer that a configuration names; parameters of a scaled rate (`scale_rate`) in groups of their
    own."""
    groups = _groups(parameters, optim.lr)
    if optim.name == "sgd":
        sgd: torch.optim.Optimizer = uncompiled(torch.optim.SGD)(
            groups,
            lr=optim.lr,
            momentum=optim.momentum,
            nesterov=optim.nesterov,
            weight_decay=optim.weight_decay,
            foreach=True,  # one kernel per operation rather than one per parameter; same arithmetic
        )
        return sgd
    kind = uncompiled(torch.optim.Adam if optim.name == "adam" else torch.optim.AdamW)
    adam: torch.optim.Optimizer = kind(
        groups, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, foreach=True
    )
    return adam


def schedule_factor(optim: OptimConfig, step: int, steps: int, epochs: int = 1, later: bool = False) -> float:
    """Factor on the learning rate at `step` (from 0) of `steps`, in so many equal passes.

    Schedules without phases are taken at `step`: they begin at 1 and would come to their end after the last step.
    Phased ones are taken at `step` + 1: no step is spent at the 0 where a warm-up begins, and the last one has the last
    rate. Either is a function of these numbers alone.

    Args:
        later: the schedule is over=open, and has warmed up and cooled down in an experience before.
    """
    if optim.phased:
        return phased_factor(optim, step + 1, steps, later)
    progress = step / max(steps, 1)
    factor = 1.0
    if optim.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * progress))
    elif optim.schedule == "quarter-cosine":
        factor = quarter_cosine(step * epochs // max(steps, 1), epochs)
    elif optim.schedule == "linear":
        factor = 1 - progress
    elif optim.schedule == "rex":
        factor = (1 - progress) / (0.5 + 0.5 * (1 - progress))
    elif optim.schedule == "restarts":
        factor = restarts(step * epochs // max(steps, 1), optim.cycle, optim.rise, optim.floor)
    elif optim.schedule == "steps":
        factor = optim.gamma ** sum(progress >= milestone for milestone in optim.milestones)
    if optim.warmup:
        factor *= min(1.0, (step + 1) / max(round(optim.warmup * steps), 1))
    return factor


def phase_ends(optim: OptimConfig, steps: int) -> tuple[int, int, int]:
    """Return after which of `steps` a phased schedule has warmed up, has cooled down, and begins to anneal."""
    risen = round(optim.warmup * steps)
    if optim.schedule == "warm-cosine":
        return risen, steps, steps
    cooled = round(optim.cooldown * steps) if optim.schedule == "infinite" else risen
    return risen, cooled, round(optim.annealed[0] * steps)


def phased_factor(optim: OptimConfig, t: float, steps: int, later: bool = False) -> float:
    """η(t) / η_max of a phased schedule, t from 0 to `steps`: η(0) is 0 where there is a warm-up, else η_max;
    η(`steps`) is the minimum.

    t / t_w; the cooldown from 1 to the plateau; the plateau; from t_a on, the plateau × the decay. Ibrahim et al.,
    arXiv:2403.08763; Singh et al., arXiv:2503.02844; Hu et al. (WSD), arXiv:2404.06395; Wen et al., arXiv:2410.05192.

    Args:
        later: warm-up and cooldown lie in an experience before.
    """
    risen, cooled, begins = phase_ends(optim, steps)
    _, least, shape = optim.annealed
    plateau = {"infinite": optim.plateau, "warm-cosine": least}.get(optim.schedule, 1.0)
    if t < risen and not later:
        return t / risen
    if t < cooled and not later:
        return cooldown(optim.cooling, (t - risen) / (cooled - risen), plateau)
    if t > begins:
        return plateau * decay(shape, (t - begins) / (steps - begins), least / plateau)
    return plateau


def cooldown(form: str, u: float, low: float) -> float:
    """From 1 at u = 0 to `low` at u = 1, in half a cosine or like the inverse of a square root.

    1 + (low − 1) h(u) / h(1), h(u) = 1 / √(1 + 10 u) − 1.
    """
    if form == "cosine":
        return low + (1 - low) / 2 * (1 + math.cos(math.pi * u))
    return 1 + (low - 1) * (1 / math.sqrt(1 + 10 * u) - 1) / (1 / math.sqrt(11) - 1)


def decay(shape: str, u: float, low: float) -> float:
    """From 1 at u = 0 to `low` at u = 1, in one of the five forms of a WSD schedule."""
    if shape == "linear":
        return 1 - (1 - low) * u
    if shape == "1-sqrt":
        return 1 - (1 - low) * math.sqrt(u)
    if shape == "cosine":
        return low + (1 - low) / 2 * (1 + math.cos(math.pi * u))
    if shape == "exponential":
        return math.pow(low, u)
    return 1 / ((1 - u) + u / low)  # inverse-linear


def power_factor(optim: OptimConfig, examples: int, batch_size: int) -> float:
    """min(1, β a nᵇ / η_max), n = `examples` × `unit` so far; 1 at n = 0. Shen et al., arXiv:2408.13359."""
    if not examples:
        return 1.0
    rate = batch_size * optim.gain * math.pow(examples * optim.unit, optim.exponent)
    return min(1.0, rate / optim.lr)


def quarter_cosine(epoch: int, epochs: int) -> float:
    """cos(99 π max(t − 1, 0) / (200 (K − 1))) in pass t of K, from 0: 1 in the first two, 0.097 in the last of 20.

    The schedule of CODA-Prompt's code (arXiv:2211.13218), whose first step repeats the rate it starts with.
    """
    return math.cos(0.99 * math.pi / 2 * max(epoch - 1, 0) / max(epochs - 1, 1))


def restarts(epoch: int, cycle: int, rise: int, floor: float) -> float:
    """Warm-up and cosine annealing that begin anew every `cycle` passes, between `floor` and 1.

    floor + (1 − floor) · k / W in pass k < W of a cycle of C, floor + (1 − floor) · (1 + cos(π (k − W) / (C − W))) / 2
    from pass W on.
    """
    k = epoch % cycle
    if k < rise:
        return floor + (1 - floor) * k / rise
    return floor + (1 - floor) * (1 + math.cos(math.pi * (k - rise) / (cycle - rise))) / 2
