"""Resized images, in the very bits of Pillow, for whole batches at once and on any device.

Pillow resizes along rows, rounds to bytes, resizes along columns and rounds again, with weights of 22 bits; where it
shrinks, its filters grow as wide as what becomes one pixel (antialiasing). Both passes are products of matrices here,
in float64, which holds such sums exactly: no bit depends on the order of a sum or on the size of a batch.
Shapes: B batch, C channels, H × W pixels; L places along an axis become S.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor

Interpolation = Literal["bicubic", "bilinear"]
REACH = {"bicubic": 2.0, "bilinear": 1.0}
"""Pixels to each side of a place that a filter weighs, where nothing is shrunk."""
BITS = 22
"""Of Pillow's weights."""
AT_ONCE = 64
"""Images that are resized together: their sums take four times eight bytes a pixel."""


def weights(start: Tensor, length: Tensor, places: int, size: int, by: Interpolation, rounds: bool) -> Tensor:
    """(B, size, places) float64: row o weighs the places that place o of the result is made of.

    Args:
        start, length: (B,) int64, the box that is resized, along this axis; nothing outside it is looked at.
        places: of the whole axis.
        rounds: to whole multiples of 2⁻²², as Pillow does for bytes.
    """
    start, length = (t.to(torch.float64).view(-1, 1, 1) for t in (start, length))
    scale = length / size
    shrunk = scale.clamp(min=1.0)
    reach = REACH[by] * shrunk
    out = torch.arange(size, dtype=torch.float64, device=start.device).view(1, -1, 1)
    place = torch.arange(places, dtype=torch.float64, device=start.device).view(1, 1, -1) - start
    centre = (out + 0.5) * scale
    first = (centre - reach + 0.5).trunc().clamp(min=0)  # which places Pillow looks at, of the box
    last = torch.minimum((centre + reach + 0.5).trunc(), length)
    weight = _filter((place - centre + 0.5) * (1.0 / shrunk), by)
    weight = torch.where((place >= first) & (place < last), weight, 0.0)
    weight = weight / weight.sum(2, keepdim=True)
    if not rounds:
        return weight
    whole = (weight.abs() * (1 << BITS) + 0.5).trunc() * weight.sign()
    return whole / (1 << BITS)


def _filter(x: Tensor, by: Interpolation) -> Tensor:
    x = x.abs()
    if by == "bilinear":
        return (1.0 - x).clamp(min=0)
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))


def combined(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Images (B, C, H, W) → (B, C, S, T) by weights of rows (B or 1, S, H) and columns (B or 1, T, W).

    Bytes are rounded after each pass, as in Pillow, and come out as bytes; numbers with a point come out in float32.
    """
    if x.dtype != torch.uint8:
        made: Tensor = rows.unsqueeze(1) @ (x.to(torch.float64) @ columns.transpose(1, 2).unsqueeze(1))
        return made.float()
    across = _to_bytes(x.to(torch.float64) @ columns.transpose(1, 2).unsqueeze(1))
    return _to_bytes(rows.unsqueeze(1) @ across).to(torch.uint8)


def _to_bytes(x: Tensor) -> Tensor:
    return x.add_(0.5).floor_().clamp_(0, 255)


def resized(x: Tensor, height: int, width: int, by: Interpolation) -> Tensor:
    """Images (B, C, H, W), bytes or not, resized to (B, C, height, width)."""
    if tuple(x.shape[2:]) == (height, width):
        return x
    rounds = x.dtype == torch.uint8
    rows = _whole(x.shape[2], height, by, rounds, x.device)
    columns = _whole(x.shape[3], width, by, rounds, x.device)
    return (
        torch.cat([combined(part, rows, columns) for part in x.split(AT_ONCE)])
        if len(x)
        else x.new_empty((0, x.shape[1], height, width))
    )


@functools.lru_cache(maxsize=64)
def _whole(places: int, size: int, by: Interpolation, rounds: bool, device: torch.device) -> Tensor:
    """(1, size, places) weights of a whole axis, kept."""
    with torch.inference_mode(False):
        made = weights(torch.tensor([0]), torch.tensor([places]), places, size, by, rounds)
        return made.to(device)


def resized_boxes(
    x: Tensor,
    boxes: tuple[Tensor, Tensor, Tensor, Tensor],
    flipped: Tensor,
    height: int,
    width: int,
    by: Interpolation,
) -> Tensor:
    """Boxes of images (B, C, H, W), one of each, resized to (B, C, height, width), flipped where `flipped` (B,) bool.

    Args:
        boxes: top, left, height and width, (B,) int64 each.
    """
    made, rounds = [], x.dtype == torch.uint8
    for rows in torch.arange(len(x), device=x.device).split(AT_ONCE):
        top, left, high, wide = (t[rows] for t in boxes)
        down = weights(top, high, x.shape[2], height, by, rounds)
        across = weights(left, wide, x.shape[3], width, by, rounds)
        across = torch.where(flipped[rows].view(-1, 1, 1), across.flip(1), across)
        made.append(combined(x[rows], down, across))
    return torch.cat(made) if made else x.new_empty((0, x.shape[1], height, width))
