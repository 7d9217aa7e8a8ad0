"""Batches of one example, which leave batch normalisation in training mode without statistics on one-pixel maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clbench.errors import IncompatibleError
from clbench.strategy import Run, overrides
from clbench.types import Experience

RAISED = "Expected more than 1 value per channel when training"
"""What torch says of such a batch."""

Norm = nn.modules.batchnorm._BatchNorm


def norms(run: Run) -> list[Norm]:
    """Return the layers of batch normalisation that get one value per channel of an example: they need two."""
    found: list[Norm] = []

    def look(norm: Norm, args: tuple[Any, ...]) -> None:
        x: Tensor = args[0]
        if x.numel() == x.shape[1]:
            found.append(norm)

    layers = [module for module in run.model.modules() if isinstance(module, Norm)]
    data = next((exp.data for exp in run.train if len(exp)), None)
    if not layers or data is None or any(overrides(part, "train_experience") for part in run.strategy.parts):
        return []
    raw, _ = data.take(torch.zeros(1, dtype=torch.int64))
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        with run.tentatively(), run.evaluating(), run.precision.autocast(), torch.no_grad():
            run.model.head(run.model.features(run.normalise(raw.to(run.device))))  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    return found


def lasting(run: Run) -> list[Norm]:
    """Return those of `norms` in training mode that no module around them may put into eval mode later on."""
    changing: set[nn.Module] = set()
    for module in run.model.modules():
        if type(module).train is not nn.Module.train:
            changing |= {*module.modules()}
    return [norm for norm in run.norms_of_two if norm.training and norm not in changing]


def check_stream(run: Run, experiences: Sequence[Experience], found: Sequence[Norm]) -> None:
    """Refuse experiences whose last batch would be one example that these layers cannot normalise.

    What parts do to a batch before it is passed is known only when they have done it (`explained`).

    Raises:
        IncompatibleError: says which, and the settings near that leave none.
    """
    parts = run.strategy.parts
    changes = any(overrides(part, "extend") and not part.keeps_rows for part in parts)
    if not found or changes or any(overrides(p, name) for p in parts for name in ("order", "step")):
        return
    for exp in experiences:
        size = run.batch_size_of(exp)
        if not _leaves_one(run, exp, size):
            continue
        one_size, later = run.config.train.later_batch_size is None, exp.index > 0
        key = "train.later_batch_size" if later and not one_size else "train.batch_size"
        alike = [e for e in run.train if one_size or (e.index > 0) == later]
        ways = []
        if size > 1 and len(exp) > size:
            ways.append("train.drop_last=true, which leaves it out")
        most = max(size, *map(len, alike)) + 1
        if near := _nearest(size, most, lambda n: not any(_leaves_one(run, e, n) for e in alike)):  # noqa: B023
            ways.append(f"{key}={' or '.join(map(str, near))}")
        raise IncompatibleError(
            f"In experience {exp.index + 1} of {run.benchmark.id}, the {len(exp)} examples come {size} at a time, so "
            f"{'a' if size == 1 else 'the last'} batch would be a single one, and {run.strategy} would train on it as "
            f"it is. But {_why(found)}. {'Set' if ways else 'Take'} {'; or '.join([*ways, OTHERWISE])}."
        )


def _leaves_one(run: Run, exp: Experience, size: int) -> bool:
    """Whether a batch of a pass over an experience, so many at a time, is one example."""
    batches = run.batches_of(len(exp), size)
    last = min(size, len(exp) - size * (batches - 1))
    train = run.config.train
    steps = run.steps_of(exp) if train.iterations is not None else batches
    return size == 1 or (last == 1 and steps >= batches)


def _nearest(size: int, most: int, fits: Callable[[int], bool]) -> list[int]:
    """Return the nearest sizes of a batch, below and above, that fit, among 2 to `most`."""
    below = next((n for n in range(size - 1, 1, -1) if fits(n)), 0)
    above = next((n for n in range(max(size + 1, 2), most + 1) if fits(n)), 0)
    return [n for n in (below, above) if n]


def check_pass(run: Run, rows: int, size: int, what: str) -> None:
    """Refuse a pass of a part's own, in training mode, whose last batch would be one example.

    Args:
        rows: examples of the pass. size: of a batch. what: the pass, and the settings that decide, for the message.

    Raises:
        IncompatibleError: it would be, and the network cannot normalise it.
    """
    if rows and (size == 1 or rows % size == 1) and (found := lasting(run)):
        fit = _nearest(size, rows + 1, lambda n: rows % n != 1)
        sizes = (
            f"batches of {' or '.join(map(str, fit))}, or another number of examples"
            if fit
            else "two or more"
        )
        how = f"the rest of {rows} that come {size} at a time" if rows > 1 else "which comes alone"
        raise IncompatibleError(
            f"{run.strategy} would pass a batch of a single example in training mode, {how}: {what}. But "
            f"{_why(found)}. Take {sizes}; or {OTHERWISE}."
        )


def explained(run: Run, error: Exception, where: str) -> IncompatibleError | None:
    """Return what torch says of a batch of one example, in words that name the strategy and the ways out; None for
    others."""
    if not isinstance(error, ValueError) or RAISED not in str(error):
        return None
    numbers = [
        f"{part}.{key}={value}"
        for part, given in run.config.params.items()
        for key, value in given.items()
        if isinstance(value, int) and not isinstance(value, bool)
    ]
    settings = ", ".join([f"train.batch_size={run.batch_size}", *numbers])
    return IncompatibleError(
        f"{where}, {run.strategy} has passed a batch of a single example in training mode, of which batch "
        f"normalisation has no statistics. Take other numbers, so that none is left alone ({settings}); "
        f"train.drop_last=true, where it is the last batch of a pass over the stream; or {OTHERWISE}."
    )


OTHERWISE = "a network without batch normalisation"


def _why(found: Sequence[Norm]) -> str:
    channels = found[0].num_features
    return f"batch normalisation over {channels} channels of one value each has no statistics of a single example"
