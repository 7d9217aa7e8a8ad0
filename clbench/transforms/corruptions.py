"""Corrupted images, at five strengths, in whole numbers, so that every machine computes the same pixels.

After Hendrycks and Dietterich (arXiv:1903.12261), whose strengths these are for images of 32 × 32; they compute in
floating-point numbers, brightness in HSV, and draw noise anew.
Shapes: N images, C channels, H × W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.errors import ConfigError

Kind = Literal["brightness", "noise", "blur", "contrast"]
KINDS: tuple[Kind, ...] = get_args(Kind)
STRENGTHS: dict[Kind, tuple[float, ...]] = {
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
}
"""What is added, of white; the deviation of the noise, of white; that of the blur, of 1/32 of the shorter side; what is
left of the differences from an image's mean."""
BITS = 16
"""After the point of what pixels are multiplied with."""
AT_ONCE = 1024


@dataclass(frozen=True)
class Corrupt:
    """One corruption of images (N, C, H, W) uint8, the same of an image at every look.

    Attributes:
        kind: brightness, noise, blur or contrast. strength: 1 to 5.
        white: the largest value of a pixel.

    Raises:
        ConfigError: there is no such strength.
    """

    kind: Kind
    strength: int
    white: int = 255

    def __post_init__(self) -> None:
        if not 1 <= self.strength <= 5:
            raise ConfigError(f"Corruptions have the strengths 1 to 5; {self.strength} was given.")

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype != torch.uint8 or x.dim() != 4:
            raise ConfigError(
                f"Corruptions need uint8 images (N, C, H, W); the inputs are {x.dtype} of shape {tuple(x.shape)}."
            )
        change = {
            "brightness": self._brightness,
            "noise": self._noise,
            "blur": self._blur,
            "contrast": self._contrast,
        }
        made = [change[self.kind](part.int()) for part in x.split(AT_ONCE)]
        return torch.cat([part.clamp_(0, self.white).to(torch.uint8) for part in made]) if made else x

    @property
    def _amount(self) -> float:
        return STRENGTHS[self.kind][self.strength - 1]

    def _brightness(self, x: Tensor) -> Tensor:
        return x + round(self._amount * self.white)

    def _contrast(self, x: Tensor) -> Tensor:
        kept, pixels = round(self._amount * (1 << BITS)), x.shape[2] * x.shape[3]
        total = x.sum((2, 3), keepdim=True)
        mean = (2 * total + pixels).div(2 * pixels, rounding_mode="floor")
        return mean + _rounded((x - mean) * kept)

    def _noise(self, x: Tensor) -> Tensor:
        """Add the sum of eight bytes, all but normal, hashed from an image's pixels and the place."""
        flat = x.flatten(1).long()
        place = torch.arange(flat.shape[1], device=x.device)
        key = (flat * _mixed(place + 1)).sum(1, keepdim=True)
        drawn = _mixed(_mixed(key) + _mixed(place + 1))
        total = sum(((drawn >> shift) & 255 for shift in range(0, 64, 8)), start=torch.zeros_like(drawn))
        by = round(self._amount * self.white / math.sqrt(8 * (256**2 - 1) / 12) * (1 << BITS))
        return x + _rounded((total - 1020) * by).view(x.shape).int()

    def _blur(self, x: Tensor) -> Tensor:
        deviation = self._amount * min(x.shape[2:]) / 32
        reach = math.ceil(3 * deviation)
        shares = [math.exp(-((k / deviation) ** 2) / 2) for k in range(-reach, reach + 1)]
        weights = [round(share / sum(shares) * (1 << BITS)) for share in shares]
        weights[reach] += (1 << BITS) - sum(weights)
        for axis, pad in ((3, (reach, reach, 0, 0)), (2, (0, 0, reach, reach))):
            wide = F.pad(x.float(), pad, mode="replicate").int()
            taps = (w * wide.narrow(axis, k, x.shape[axis]) for k, w in enumerate(weights))
            x = _rounded(sum(taps, start=torch.zeros_like(x)))
        return x

    def describe(self) -> dict[str, object]:
        return {"corrupt": self.kind, "amount": self._amount, "white": self.white}


def _rounded(x: Tensor) -> Tensor:
    return (x + (1 << (BITS - 1))) >> BITS


def _mixed(x: Tensor) -> Tensor:
    """(…) int64 → int64 whose bits look drawn (SplitMix64's finaliser, modulo 2⁶⁴)."""
    x = x * -7046029254386353131
    x = (x ^ _shifted(x, 30)) * -4658895280553007687
    x = (x ^ _shifted(x, 27)) * -7723592293110705685
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (x >> by) & ((1 << (64 - by)) - 1)
