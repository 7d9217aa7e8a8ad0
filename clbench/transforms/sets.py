"""Images of several data sets as those of one: one size, three channels, and each normalised as its own set.

Shapes: B batch, N examples, C channels, H × W pixels, S sets.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.errors import ConfigError
from clbench.transforms.augment import Transform
from clbench.transforms.resampling import resized

PADDED = 4
"""Pixels that an image may lack of the common size to be padded in place of resized: 28 → 32, as for digits."""


@dataclass(frozen=True)
class Framed:
    """Images of a data set in the form of a sequence: bytes of up to 255, three channels, size × size pixels.

    Grey is repeated. Images that lack up to four pixels are padded with black on all sides; others are resized,
    bilinear, so that the shorter side fits, and the middle is cut out.

    Attributes:
        white: the byte of white. number: of the set, which a fourth channel holds; None for no such channel.
    """

    size: int
    white: int = 255
    number: int | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) uint8 → (N, 3, size, size), or (N, 4, size, size) with the number."""
        if x.dtype != torch.uint8 or x.dim() != 4 or x.shape[1] not in (1, 3):
            raise ConfigError(
                f"Sets in a row are bytes of images (N, 1 or 3, H, W); these are {x.dtype} of shape {tuple(x.shape)}."
            )
        if self.white != 255:
            x = ((x.int() * 255 + self.white // 2) // self.white).to(torch.uint8)
        size, (height, width) = self.size, x.shape[2:]
        lacks = size - max(height, width)
        if height == width and 0 < lacks <= PADDED:
            before = lacks // 2
            x = F.pad(x, (before, lacks - before, before, lacks - before))
        elif (height, width) != (size, size):
            short = min(height, width)
            x = resized(x, -(-height * size // short), -(-width * size // short), "bilinear")
            top, left = (x.shape[2] - size) // 2, (x.shape[3] - size) // 2
            x = x[:, :, top : top + size, left : left + size]
        x = x.expand(-1, 3, -1, -1)
        if self.number is None:
            return x.contiguous()
        return torch.cat([x, torch.full_like(x[:, :1], self.number)], 1)

    def shape(self, raw: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of what comes out, from that of an image."""
        return (3 if self.number is None else 4, self.size, self.size)

    def describe(self) -> dict[str, object]:
        return {"framed": [self.size, self.white, self.number]}


@dataclass(frozen=True)
class PerSet(Transform):
    """From `Framed` images with a number to what the model sees: each normalised by the mean and std of its set.

    Attributes:
        means, stds: three of each set.
    """

    means: tuple[tuple[float, ...], ...] = ()
    stds: tuple[tuple[float, ...], ...] = ()

    def shape(self, raw: tuple[int, ...]) -> tuple[int, ...]:
        return (3, *raw[1:])

    def normalise(self, raw: Tensor) -> Tensor:
        """(B, 4, H, W) uint8 → (B, 3, H, W) float32."""
        middle = raw[:, -1, raw.shape[2] // 2, raw.shape[3] // 2].long()  # which no crop pads
        of = middle.clamp(
            max=len(self.means) - 1
        )  # bytes of any value are asked about, whether they stay finite
        gain, shift = _affine(self, raw.device)
        return raw[:, :3].mul(gain[of]).add_(shift[of])

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "means": self.means, "stds": self.stds}


@functools.lru_cache(maxsize=16)
def _affine(transform: PerSet, device: torch.device) -> tuple[Tensor, Tensor]:
    """Gain and shift of each set, float32 (S, 3, 1, 1)."""
    with torch.inference_mode(False):
        mean, std = (
            torch.tensor(values, dtype=torch.float64) for values in (transform.means, transform.stds)
        )
        made = transform.scale / std, -mean / std
        return made[0].float()[..., None, None].to(device), made[1].float()[..., None, None].to(device)
