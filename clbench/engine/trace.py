"""The losses of a run's steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

WINDOW = 50
"""Steps between two looks at the losses; in between nothing waits for the device."""


Row = dict[str, Any]
"""A step: its number, `step`, its `experience`, the learning rate `lr`, and its losses by name."""

_WHERE = ("step", "experience", "lr")


class Trace:
    """The losses since the last look, still on the device.

    Attributes:
        total: the sum of all that were looked at.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self._steps: list[tuple[Row, dict[str, Tensor]]] = []

    def add(self, step: int, experience: int, lr: float, losses: Mapping[str, Tensor]) -> None:
        """Take the losses of an update."""
        where = {"step": step, "experience": experience, "lr": lr}
        self._steps.append((where, {name: loss.detach() for name, loss in losses.items()}))

    @property
    def full(self) -> bool:
        """Whether it is time for a look."""
        return len(self._steps) >= WINDOW

    def fetch(self) -> list[Row]:
        """Fetch the steps since the last look, in one copy per name."""
        steps, self._steps = self._steps, []
        rows = [row for row, _ in steps]
        for name in dict.fromkeys(name for _, losses in steps for name in losses):
            having = [(row, losses[name].float()) for row, losses in steps if name in losses]
            values = torch.stack([loss for _, loss in having]).tolist()
            for (row, _), value in zip(having, values, strict=True):
                row[name] = value
                self.total += value
        return rows


def losses_of(row: Row) -> dict[str, float]:
    """Return the losses of a step by name."""
    return {name: value for name, value in row.items() if name not in _WHERE}


def is_finite(row: Row) -> bool:
    """Whether all losses of a step are finite."""
    return all(map(math.isfinite, losses_of(row).values()))
