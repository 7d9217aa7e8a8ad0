"""Boxes that are pasted from one input into another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def box(sides: Sequence[int], share: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Return which places of an input lie in a box, and the share of places that do not.

    The box has (1 − λ)^(1/k) of each of the k sides, in whole steps of two, and is cut where the input ends.

    Args:
        sides: those of the input, (H, W) for images.
        share: () λ.
        centre: (k,) int64, a place of the input.

    Returns:
        Places of shape `sides`, bool, and what is left, (). Both are tensors, so that nothing waits for the device.
    """
    inside, area = torch.ones((), dtype=torch.bool, device=share.device), torch.ones((), device=share.device)
    for axis, size in enumerate(sides):
        half = (size * (1 - share) ** (1 / len(sides))).floor().div(2, rounding_mode="floor")
        low, high = (centre[axis] - half).clamp(0, size), (centre[axis] + half).clamp(0, size)
        place = torch.arange(size, device=share.device)
        inside = inside & ((place >= low) & (place < high)).view(-1, *(1 for _ in sides[axis + 1 :]))
        area = area * (high - low) / size
    return inside, 1 - area
