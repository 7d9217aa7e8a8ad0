"""Resized images, in the very bits of Pillow, for whole batches at once and on any device.

Pillow resizes along rows, rounds to bytes, resizes along columns and rounds again, in whole numbers, with weights of 22
bits; where it shrinks, its filters grow as wide as what becomes one pixel (antialiasing). So it is done here, as sums
over the few places that a pixel is made of, so that no bit depends on a device or on the size of a batch.
Shapes: B batch, C channels, H × W pixels; S places come out along an axis, each made of K.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Interpolation = Literal["bicubic", "bilinear"]
REACH = {"bicubic": 2.0, "bilinear": 1.0}
"""Pixels to each side of a place that a filter weighs, where nothing is shrunk."""
BITS = 22
"""Of Pillow's weights: with a byte, a sum of them fits into 32 bits."""
AT_ONCE = {"cpu": 4, "cuda": 64}
"""Images that are resized together: on a CPU, as many as its cache holds."""


class Taps(NamedTuple):
    """What places along an axis are made of, of every image (B, S, K), or of all alike (1, S, K).

    Attributes:
        where: int64, places. weight: float64, of these.
    """

    where: Tensor
    weight: Tensor


def taps(start: Tensor, length: Tensor, places: int, size: int, by: Interpolation) -> Taps:
    """Return what `size` places are made of.

    Args:
        start, length: (B,) int64, the box that is resized, along this axis; nothing outside it is looked at.
        places: of the whole axis.
    """
    start, length = (t.to(torch.float64).view(-1, 1, 1) for t in (start, length))
    scale = length / size
    shrunk = scale.clamp(min=1.0)
    reach = REACH[by] * shrunk
    most = 2 * math.ceil(REACH[by] * max(places / size, 1.0)) + 1  # K, of the whole axis: no box takes more
    centre = (torch.arange(size, dtype=torch.float64, device=start.device).view(1, -1, 1) + 0.5) * scale
    first = (centre - reach + 0.5).trunc().clamp(min=0)  # which places Pillow looks at, of the box
    last = torch.minimum((centre + reach + 0.5).trunc(), length)
    place = first + torch.arange(most, dtype=torch.float64, device=start.device)
    weight = torch.where(place < last, _filter((place - centre + 0.5) * (1.0 / shrunk), by), 0.0)
    index = (place + start).clamp(max=places - 1).long()
    return Taps(index, weight / weight.sum(2, keepdim=True))


def _filter(x: Tensor, by: Interpolation) -> Tensor:
    x = x.abs()
    if by == "bilinear":
        return (1.0 - x).clamp(min=0)
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))


def _along(x: Tensor, of: Taps) -> Tensor:
    """Images (C, B, L, W) → (C, B, S, W): bytes of bytes, else numbers in float32.

    Whole rows are fetched, a place of all images at a time, which is far quicker than single pixels.
    """
    channels, batch, places, width = x.shape
    rounds = x.dtype == torch.uint8
    weight = of.weight.float()
    if rounds:
        weight = ((of.weight.abs() * (1 << BITS) + 0.5).trunc() * of.weight.sign()).int()
    rows = x.reshape(channels, batch * places, width)
    index = of.where + places * torch.arange(batch, device=x.device).view(-1, 1, 1)  # (B, S, K)
    total: Tensor | None = None
    for place, of_place in zip(index.unbind(2), weight.unbind(2), strict=True):
        term = rows.index_select(1, place.flatten()).to(weight.dtype).view(channels, *place.shape, width)
        term *= of_place.unsqueeze(2)
        total = term if total is None else total.add_(term)
    assert total is not None
    if not rounds:
        return total
    return total.add_(1 << (BITS - 1)).bitwise_right_shift_(BITS).clamp_(0, 255).to(torch.uint8)


def _both(x: Tensor, down: Taps, across: Taps) -> Tensor:
    """Images (B, C, H, W), resized along rows, then along columns."""
    wide = _along(x.permute(1, 0, 3, 2), across)  # (C, B, W, H) → (C, B, S, H)
    return _along(wide.transpose(2, 3), down).transpose(0, 1)


def parts(count: int, device: torch.device) -> Sequence[slice]:
    """Return the images that are resized together."""
    step = AT_ONCE.get(device.type, 4)
    return [slice(start, start + step) for start in range(0, max(count, 1), step)]


def resized(x: Tensor, height: int, width: int, by: Interpolation) -> Tensor:
    """Images (B, C, H, W), bytes or not, resized to (B, C, height, width)."""
    if tuple(x.shape[2:]) == (height, width):
        return x
    down, across = (_whole(*sides, by, x.device) for sides in ((x.shape[2], height), (x.shape[3], width)))
    made = [_both(x[some], down, across) for some in parts(len(x), x.device)]
    return torch.cat(made)


@functools.lru_cache(maxsize=64)
def _whole(places: int, size: int, by: Interpolation, device: torch.device) -> Taps:
    """Of a whole axis, kept."""
    with torch.inference_mode(False):
        made = taps(torch.tensor([0]), torch.tensor([places]), places, size, by)
        return Taps(*(t.to(device) for t in made))


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
    top, left, high, wide = boxes
    down, across = taps(top, high, x.shape[2], height, by), taps(left, wide, x.shape[3], width, by)
    mirrored = flipped.view(-1, 1, 1)
    across = Taps(*(torch.where(mirrored, t.flip(1), t) for t in across))
    made = []
    for some in parts(len(x), x.device):
        rows, columns = (Taps(of.where[some], of.weight[some]) for of in (down, across))
        made.append(_both(x[some], rows, columns))
    return torch.cat(made)
