"""The strong views of contrastive learning: resized crop, flip, colour jitter, greyscale, for whole batches at once.

Every operation is torchvision's of that name, with its own draw for each image and nothing that waits for the device;
`kornia_view` does what kornia 0.4.1 does, which authors of online methods pin.
Shapes: B batch, C channels, H × W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

GREY = (0.2989, 0.587, 0.114)
"""What red, green and blue contribute to grey."""

ATTEMPTS = 10
"""How often a crop is drawn until one fits into the image; after that it is the largest in the middle."""


def contrastive_view(
    raw: Tensor,
    generator: Generator,
    *,
    smallest: float = 0.2,
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
    jittered: float = 0.8,
    grey: float = 0.2,
) -> Tensor:
    """(B, C, H, W) uint8 images of 1 or 3 channels → (B, C, H, W) float32 in [0, 1], each changed on its own.

    The defaults are those of supervised contrastive replay and its descendants.

    Args:
        smallest: share of the area that a crop has at least.
        jitter: ± of the factors of brightness, contrast and saturation, and ± of the shift of hue in turns.
        jittered, grey: probabilities of colour jitter and of greyscale; images of one channel have neither hue nor
            saturation.
    """
    x = resized_crop(raw.float() / 255, *crop_boxes(raw, generator, smallest), _chance(raw, generator, 0.5))
    low = torch.tensor([1 - jitter[0], 1 - jitter[1], 1 - jitter[2], -jitter[3]], device=x.device)
    high = torch.tensor([1 + jitter[0], 1 + jitter[1], 1 + jitter[2], jitter[3]], device=x.device)
    drawn = torch.rand((len(x), 4), generator=generator, device=x.device)
    order = torch.rand((len(x), 4), generator=generator, device=x.device).argsort(1)
    changed = jitter_colours(x, low + (high - low) * drawn, order)
    x = torch.where(_chance(raw, generator, jittered).view(-1, 1, 1, 1), changed, x)
    return torch.where(_chance(raw, generator, grey).view(-1, 1, 1, 1), greyscale(x).expand_as(x), x)


def _chance(like: Tensor, generator: Generator, probability: float) -> Tensor:
    """(B,) bool, true with a probability."""
    return torch.rand(len(like), generator=generator, device=like.device) < probability


def crop_boxes(
    like: Tensor,
    generator: Generator,
    smallest: float,
    largest: float = 1.0,
    sides: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width, (B,) int64 each: a share of the area, and between two bounds in shape, 3 : 4 and
    4 : 3."""
    height, width, device = like.shape[2], like.shape[3], like.device
    drawn = torch.rand((4, len(like), ATTEMPTS), generator=generator, device=device)
    area = height * width * (smallest + (largest - smallest) * drawn[0])
    narrow, broad = sides
    ratio = (math.log(narrow) + (math.log(broad) - math.log(narrow)) * drawn[1]).exp()
    wide, high = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (wide >= 1) & (wide <= width) & (high >= 1) & (high <= height)
    first = fits.int().argmax(1, keepdim=True)  # of equal ones the first
    none = ~fits.any(1)
    whole_wide, whole_high = min(width, round(height * broad)), min(height, round(width / narrow))
    wide = torch.where(none, whole_wide, wide.gather(1, first).squeeze(1))
    high = torch.where(none, whole_high, high.gather(1, first).squeeze(1))
    down, across = (part.gather(1, first).squeeze(1) for part in drawn[2:])
    top = torch.where(none, (height - high) // 2, ((height - high + 1) * down).long())
    left = torch.where(none, (width - wide) // 2, ((width - wide + 1) * across).long())
    return top, left, high, wide


def resized_crop(
    x: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, flipped: Tensor
) -> Tensor:
    """Boxes of images (B, C, H, W) float, brought to (H, W) by bilinear interpolation, flipped where `flipped` (B,).

    Bilinear interpolation is a product of matrices, one for rows and one for columns.
    """
    rows = _interpolation(top, height, x.shape[2])  # (B, H, H)
    columns = _interpolation(left, width, x.shape[3])  # (B, W, W)
    columns = torch.where(flipped.view(-1, 1, 1), columns.flip(1), columns)
    return rows.unsqueeze(1) @ x @ columns.transpose(1, 2).unsqueeze(1)


def _interpolation(start: Tensor, length: Tensor, size: int) -> Tensor:
    """(B, size, size): row o holds the weights of the places that place o of the result is made of."""
    place = torch.arange(size, device=start.device)
    scale = (length / size).unsqueeze(1)
    source = ((place + 0.5) * scale - 0.5).clamp(min=0)  # (B, size), within the box
    source = torch.minimum(source, (length - 1).unsqueeze(1)) + start.unsqueeze(1)
    return (1 - (source.unsqueeze(2) - place).abs()).clamp(min=0)


def greyscale(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, 1, H, W)."""
    if x.shape[1] == 1:
        return x
    return (x * torch.tensor(GREY, device=x.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def jitter_colours(x: Tensor, amount: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue of images (B, C, H, W) in [0, 1].

    Args:
        amount: (B, 4) factors of the first three, shift of the last.
        order: (B, 4) which of the four, 0 … 3, comes when.
    """
    for turn in range(4):
        op = order[:, turn].view(-1, 1, 1, 1)
        by = amount.gather(1, order[:, turn : turn + 1]).view(-1, 1, 1, 1)
        grey = greyscale(x)
        base = torch.where(op == 0, torch.zeros_like(grey), grey)
        base = torch.where(op == 1, grey.mean((1, 2, 3), keepdim=True), base)
        x = torch.where(op == 3, shift_hue(x, by), (by * x + (1 - by) * base).clamp(0, 1))
    return x


def shift_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Images (B, C, H, W) in [0, 1] with their hue moved by (B, 1, 1, 1) turns of the colour circle."""
    if x.shape[1] == 1:
        return x
    high, which = x.max(1, keepdim=True)
    low = x.min(1, keepdim=True).values
    spread = high - low
    r, g, b = x.unbind(1)
    safe = torch.where(spread == 0, 1.0, spread).squeeze(1)
    sixths = torch.stack([(g - b) / safe, 2 + (b - r) / safe, 4 + (r - g) / safe], 1).gather(1, which)
    hue = torch.where(spread == 0, 0.0, sixths / 6) + turns  # (B, 1, H, W), in turns
    # Each channel falls from `high` to `low` and rises again, a third of a turn after the one before.
    offset = torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)
    place = (offset + 6 * hue) % 6
    return high - spread * torch.minimum(place, 4 - place).clamp(0, 1)


def kornia_view(raw: Tensor, generator: Generator) -> Tensor:
    """Do as `contrastive_view` with its defaults, on 3 channels, by the operations of kornia 0.4.1.

    Crops are cut at whole pixels and drawn a little larger and off their place, black where they leave the image; the
    whole batch is jittered in one order; brightness is added, contrast has no middle, saturation is HSV's.
    """
    x = kornia_crop(raw.float() / 255, *kornia_boxes(raw, generator, 0.2))
    x = torch.where(_chance(raw, generator, 0.5).view(-1, 1, 1, 1), x.flip(3), x)
    drawn = torch.rand((len(x), 4), generator=generator, device=x.device)
    spread = torch.tensor([0.4, 0.4, 0.4, 0.1], device=x.device)
    middle = torch.tensor([1.0, 1.0, 1.0, 0.0], device=x.device)
    order = torch.rand(4, generator=generator, device=x.device).argsort()
    changed = kornia_jitter(x, middle + spread * (2 * drawn - 1), order)
    x = torch.where(_chance(raw, generator, 0.8).view(-1, 1, 1, 1), changed, x)
    grey = (x * torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return torch.where(_chance(raw, generator, 0.2).view(-1, 1, 1, 1), grey.expand_as(x), x)


def kornia_boxes(
    like: Tensor, generator: Generator, smallest: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `crop_boxes`: sides are cut off to whole numbers below those of the image, else it is the whole image."""
    rows, columns, device = like.shape[2], like.shape[3], like.device
    drawn = torch.rand((2, len(like), ATTEMPTS), generator=generator, device=device)
    area = rows * columns * (smallest + (1 - smallest) * drawn[0])
    ratio = (math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * drawn[1]).exp()
    width, height = (area * ratio).sqrt().long(), (area / ratio).sqrt().long()
    fits = (height > 0) & (height < rows) & (width > 0) & (width < columns)
    first, none = fits.int().argmax(1, keepdim=True), ~fits.any(1)
    width = torch.where(none, columns, width.gather(1, first).squeeze(1))
    height = torch.where(none, rows, height.gather(1, first).squeeze(1))
    down, across = torch.rand((2, len(like)), generator=generator, device=device)
    return ((rows - height + 1) * down).long(), ((columns - width + 1) * across).long(), height, width


def kornia_crop(x: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Boxes of images (B, C, H, W) float, brought to (H, W) as released: one half of it aligns corners."""

    def matrix(start: Tensor, length: Tensor, size: int) -> Tensor:
        place = torch.arange(size, device=start.device)
        stretch = (length - 1).unsqueeze(1) / (size - 1)
        source = (start * size / (size - 1)).unsqueeze(1) + (place + 0.5) * stretch - 0.5
        return (1 - (source.unsqueeze(2) - place).abs()).clamp(min=0)  # (B, size, size)

    rows, columns = matrix(top, height, x.shape[2]), matrix(left, width, x.shape[3])
    return rows.unsqueeze(1) @ x @ columns.transpose(1, 2).unsqueeze(1)


def kornia_jitter(x: Tensor, amount: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue of images (B, 3, H, W) in [0, 1].

    Args:
        amount: (B, 4) factors of the first three, where brightness adds what it is above 1; shift of the last.
        order: (4,) which of the four, 0 … 3, comes when, for all images.
    """
    brightness, contrast, saturation, hue = amount.view(-1, 4, 1, 1, 1).unbind(1)
    for op in order:
        high, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
        most = high / torch.where(high == low, 1.0, high - low)  # at this factor, the least channel is black
        changed = [
            (x + brightness - 1).clamp(0, 1),
            (x * contrast).clamp(0, 1),
            high - (high - x) * torch.minimum(saturation, most),
            shift_hue(x, hue),
        ]
        x = torch.stack(changed).index_select(0, op[None]).squeeze(0)
    return x
