"""What happens to raw inputs: normalisation, batched augmentation on the device, changes that make domains.

Shapes: B batch, N examples, C channels, H × W pixels, D features.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from clbench.errors import ConfigError, choices

OPS = {
    "crop": "zero padding by `padding` pixels on each side, then a random crop of the old size",
    "flip": "a left-right flip with probability ½",
    "resized-crop": "a box of the image, drawn and resized as the recipe says, where `size` or `recipe` is given",
}
"""The training-time operations and what each does."""


@dataclass(frozen=True)
class Transform:
    """From raw inputs to what the model sees: x = (raw · scale − mean) / std, in training after augmentation.

    Integers other than uint8 pass through, unless `reads` says otherwise. Floating-point inputs are not scaled, and
    pass through where no mean is given.

    Attributes:
        scale: what brings uint8 inputs to [0, 1].
        mean, std: one value per channel of images, or per feature, or one for all; empty leaves [0, 1].
        ops: training-time operations, of `OPS`; they act on the raw inputs, so padding is black.
        padding: pixels that "crop" pads with; 4 is what papers on 32- and 64-pixel images use.
        reads: what integers are to the model: "numbers", treated as floating-point inputs are, or "tokens". The engine
            sets it by the model (`clbench.models.inputs`), so it is no part of the benchmark.
        running: that the model's first layer standardises by what the stream has brought so far (`models.running`).

    Raises:
        ConfigError: an unknown operation, or mean and std that do not fit together.
    """

    scale: float = 1 / 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    ops: tuple[str, ...] = ()
    padding: int = 4
    reads: Literal["", "numbers", "tokens"] = ""
    running: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "ops", tuple(self.ops))  # a list will do, but a transform is hashed
        for name in ("mean", "std"):
            object.__setattr__(self, name, per_channel(name, getattr(self, name)))
        for name, other in (("mean", self.std), ("std", self.mean)):
            if len(one := getattr(self, name)) == 1 < len(other):
                object.__setattr__(self, name, one * len(other))
        for op in self.ops:
            if op not in OPS:
                raise ConfigError(f"There is no training operation '{op}'.{choices(op, OPS)}")
        if "resized-crop" in self.ops and (not self.resizes or "crop" in self.ops):
            raise ConfigError(
                "The training operation 'resized-crop' ends with the size of the network's images, so it needs size or "
                "recipe, and takes the place of 'crop'."
            )
        if len(self.mean) != len(self.std):
            raise ConfigError(
                f"Normalisation needs one std per mean; given: {len(self.mean)} means, {len(self.std)} stds."
            )
        if not all(math.isfinite(v) for v in self.mean + self.std) or not all(s > 0 for s in self.std):
            raise ConfigError(
                f"Normalisation needs finite means and positive stds; given: {self.mean}, {self.std}."
            )
        most = torch.finfo(torch.float32).max
        if any(max(abs(m), 1) / s > most for m, s in zip(self.mean, self.std, strict=True)):
            raise ConfigError(
                f"Normalisation computes in float32, which ends at {most:.2g}: stds are too small for their means; "
                f"given: {self.mean}, {self.std}."
            )

    @property
    def resizes(self) -> bool:
        """Whether images come out in another size, so that they are better kept as they are, and prepared in time."""
        return False

    def shape(self, raw: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a network's input, from that of a raw one."""
        return raw

    def normalise(self, raw: Tensor) -> Tensor:
        """(B, …) raw → (B, …) float32.

        A multiplication that converts, then an addition in place: twice as fast as `addcmul`, which copies
        integers first, and without its fused rounding, so that all devices give the same bits.
        """
        if self.reads == "tokens":
            return raw.long()
        floating = raw.is_floating_point() or self.reads == "numbers"
        if raw.dtype != torch.uint8 and not (floating and self.mean):
            return raw.float() if self.reads == "numbers" else raw
        gain, shift = _affine(self, floating, raw.dim(), raw.device)
        return raw.mul(gain).add_(shift)

    def train(self, raw: Tensor, generator: Generator) -> Tensor:
        """(B, …) raw → (B, …) float32, augmented; `generator` lives where `raw` does."""
        return self.normalise(self.augment(raw, generator))

    def augment(self, raw: Tensor, generator: Generator) -> Tensor:
        """(B, …) raw → (B, …) raw of the same dtype, each example changed on its own.

        Raises:
            ConfigError: the inputs are not images (B, C, H, W).
        """
        if not self.ops:
            return raw
        if raw.dim() != 4:
            raise ConfigError(
                f"Augmentation ({', '.join(self.ops)}) needs images (B, C, H, W); the inputs have shape "
                f"{tuple(raw.shape)}. Leave ops empty."
            )
        padding = self.padding if "crop" in self.ops else 0
        offsets = 2 * padding + 1
        sides = 2 if "flip" in self.ops else 1
        # One draw decides everything about an example: its row offset, column offset and side.
        drawn = torch.randint(offsets * offsets * sides, (len(raw),), generator=generator, device=raw.device)
        side = drawn % sides
        offset = drawn.div(sides, rounding_mode="floor")
        top = offset.div(offsets, rounding_mode="floor")
        return crop_flip(raw, top, offset - top * offsets, side, padding)

    def __repr__(self) -> str:
        few = len(self.mean) <= 4
        of = f"mean {self.mean}, std {self.std}" if few else f"mean and std of {len(self.mean)} features"
        return f"<Transform: scale {self.scale:.4g}, {of}, ops {self.ops}>"

    def describe(self) -> dict[str, object]:
        """Return what determines the transform, JSON-able; it enters the fingerprint."""
        described: dict[str, object] = {"scale": self.scale, "mean": list(self.mean), "std": list(self.std)}
        if self.ops:
            described["ops"] = sorted(self.ops)
        if "crop" in self.ops:
            described["padding"] = self.padding
        if self.running:
            described["running"] = True
        return described


@dataclass(frozen=True)
class Tokenise(Transform):
    """From the bytes of texts to a model's tokens.

    Attributes:
        tokens: (B, L) → (B, T).
    """

    tokens: Callable[[Tensor], Tensor] = torch.Tensor.long

    def normalise(self, raw: Tensor) -> Tensor:
        """(B, L) uint8 → (B, T) int64"""
        return self.tokens(raw)


def per_channel(name: str, given: Any) -> tuple[float, ...]:
    """Return means or stds as a tuple, from a list, an array, a tensor, or one number for all channels.

    Raises:
        ConfigError: they are something else.
    """
    values = given.tolist() if hasattr(given, "tolist") else given
    try:
        if isinstance(values, int | float):
            return (float(values),)
        if isinstance(values, str):
            raise TypeError
        return tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{name} is one number for all channels, or a list of one for each; {given!r:.80} was given."
        ) from None


def crop_flip(raw: Tensor, top: Tensor, left: Tensor, side: Tensor, padding: int) -> Tensor:
    """Pad with zeros, crop at the old size and flip, as one gather.

    Args:
        raw: (B, C, H, W) of any dtype.
        top, left: (B,) int64, corner of the crop in the padded image, 0 … 2 · padding.
        side: (B,) int64, 1 where the crop is flipped left to right.
    """
    batch, channels, height, width = raw.shape
    padded = F.pad(raw, (padding,) * 4) if padding else raw
    index = _grid(height, width, width + 2 * padding, raw.device)[side]  # (B, H·W)
    index = index + (top * (width + 2 * padding) + left).unsqueeze(1)
    index = index.unsqueeze(1).expand(batch, channels, height * width)
    return padded.flatten(2).gather(2, index).view(batch, channels, height, width)


@functools.lru_cache(maxsize=64)
def _affine(transform: Transform, floating: bool, dims: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Gain and shift of the normalisation, each float32 (C, 1, …), for inputs of `dims` dimensions."""
    scale = 1.0 if floating else transform.scale
    mean, std = transform.mean or (0.0,), transform.std or (1.0,)
    with torch.inference_mode(False):  # kept for later calls, which may need gradients
        gain = torch.tensor([scale / s for s in std], dtype=torch.float32)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32)
        shape = (-1, *(1,) * (dims - 2))
        return gain.view(shape).to(device), shift.view(shape).to(device)


@functools.lru_cache(maxsize=64)
def _grid(height: int, width: int, row: int, device: torch.device) -> Tensor:
    """(2, H·W) int64: positions of an image's pixels in rows of `row` pixels, as they are and flipped."""
    with torch.inference_mode(False):
        straight = torch.arange(height).unsqueeze(1) * row + torch.arange(width)
        return torch.stack([straight, straight.flip(1)]).flatten(1).to(device)


@dataclass(frozen=True, eq=False)
class Permute:
    """One fixed permutation of every image's pixels, the same in each channel, or of every vector's features.

    Attributes:
        permutation: (H·W,) or (D,) int64; place p of the result is place `permutation[p]` of the input.
    """

    permutation: Tensor

    def __post_init__(self) -> None:
        if not torch.equal(self.permutation.sort().values, torch.arange(len(self.permutation))):
            raise ConfigError("A permutation must hold each of 0 … n−1 once.")

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) or (N, D) → the same shape and dtype."""
        places = x.flatten(2) if x.dim() > 2 else x
        if places.shape[-1] != len(self.permutation):
            raise ConfigError(
                f"A permutation of {len(self.permutation)} places does not fit inputs of shape "
                f"{tuple(x.shape[1:])}, which have {places.shape[-1]}."
            )
        return places.index_select(-1, self.permutation.to(x.device)).view(x.shape)

    def __repr__(self) -> str:
        return f"<Permute: {len(self.permutation)} places>"

    def describe(self) -> dict[str, object]:
        return {"permute": self.permutation.tolist()}


FRACTION = 11
"""Bits after the point of a source coordinate. The weights have twice as many, and 2·11 bits of weight on 8
bits of pixel fit int32; a coordinate is then at most 1/4096 pixel off, far less than one grey level."""


@dataclass(frozen=True)
class Rotate:
    """Rotation about the centre, counter-clockwise for positive angles.

    `torchvision.transforms.functional.rotate` with bilinear interpolation, within one grey level, but in
    integers, so that every machine computes the same pixels. Black comes in at the corners.
    """

    degrees: float

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) uint8 → the same."""
        if x.dtype != torch.uint8 or x.dim() != 4:
            raise ConfigError(
                f"Rotation needs uint8 images (N, C, H, W); the inputs are {x.dtype} of shape "
                f"{tuple(x.shape)}."
            )
        if self.degrees % 360 == 0:
            return x
        source, weight = _bilinear(self.degrees, x.shape[2], x.shape[3])
        source, weight = source.to(x.device), weight.to(x.device)
        chunks = []
        # In chunks, as the int32 sums of a whole data set would take four times its memory.
        for chunk in torch.split(x.flatten(2), 4096):
            total = torch.full_like(chunk, 1 << (2 * FRACTION - 1), dtype=torch.int32)  # ½, so that >> rounds
            for s, w in zip(source, weight, strict=True):
                total += chunk.index_select(2, s).to(torch.int32) * w
            chunks.append((total >> (2 * FRACTION)).to(torch.uint8))
        return torch.cat(chunks).view(x.shape) if chunks else x

    def describe(self) -> dict[str, object]:
        return {"rotate": self.degrees, "fraction bits": FRACTION}


@functools.lru_cache(maxsize=64)
def _bilinear(degrees: float, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the four source pixels of every pixel: places (4, H·W) int64, weights (4, H·W) int32, 0 if outside.

    Source coordinates are rounded once, to `FRACTION` bits. Machines may differ in the last bit of a cosine,
    but that moves no rounding: a coordinate lies halfway between two steps of 2⁻¹¹ only where the cosine is
    rational, and then (Niven's theorem) it is 0, ±½ or ±1 and the coordinate a multiple of ¼.
    """
    angle = math.radians(degrees % 360)
    cos, sin = math.cos(angle), math.sin(angle)
    one = 1 << FRACTION
    y = torch.arange(height, dtype=torch.float64).unsqueeze(1) - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    # A result at (x, y), y pointing down, comes from the place that the opposite rotation brings it to.
    from_x = ((x * cos - y * sin + (width - 1) / 2) * one).round().to(torch.int64)
    from_y = ((x * sin + y * cos + (height - 1) / 2) * one).round().to(torch.int64)
    left, top = from_x >> FRACTION, from_y >> FRACTION
    right_part, bottom_part = from_x - (left << FRACTION), from_y - (top << FRACTION)
    places, weights = [], []
    for down, weight_y in ((0, one - bottom_part), (1, bottom_part)):
        for across, weight_x in ((0, one - right_part), (1, right_part)):
            row, column = top + down, left + across
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            places.append((row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).flatten())
            weights.append((weight_y * weight_x * inside).flatten().to(torch.int32))
    return torch.stack(places), torch.stack(weights)


# --- AutoAugment ---

POLICY = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear y", 0.5, 8), ("translate y", 0.7, 9)),
    (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear y", 0.2, 7), ("posterize", 0.3, 7)),
    (("colour", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("colour", 0.7, 7), ("translate x", 0.5, 8)),
    (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
    (("translate y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("colour", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("colour", 0.9, 9), ("equalize", 0.6, 0)),
    (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("colour", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)),
    (("translate y", 0.9, 9), ("translate y", 0.7, 9)),
    (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate y", 0.7, 9), ("autocontrast", 0.9, 0)),
)
"""AutoAugment's 25 sub-policies for CIFAR-10: operation, probability and magnitude level 0 … 9, twice each
(Cubuk et al., arXiv:1805.09501, with the magnitudes of torchvision)."""

IMAGE_OPS = (
    "identity",
    "shear y",
    "translate x",
    "translate y",
    "rotate",
    "brightness",
    "colour",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
    "invert",
)
"""What `image_op` does, by number."""
SIGNED = slice(1, 9)
"""Operations whose magnitude has a random sign."""


def auto_augment(raw: Tensor, generator: Generator) -> Tensor:
    """AutoAugment's CIFAR-10 policy: (B, C, H, W) uint8 of 1 or 3 channels → the same, each image on its own.

    A sub-policy is drawn for every image, then, for each of its two operations, whether it takes place and
    with which sign. What comes in from outside the image is black.
    """
    size, device = len(raw), raw.device
    ops, chances, magnitudes = _policy(raw.shape[2], raw.shape[3], device)
    chosen = torch.randint(len(POLICY), (size,), generator=generator, device=device)
    drawn = torch.rand((2, size), generator=generator, device=device)
    side = torch.randint(2, (2, size), generator=generator, device=device) * 2 - 1
    for turn in range(2):
        op, magnitude = ops[chosen, turn], magnitudes[chosen, turn]
        signed = (op >= SIGNED.start) & (op < SIGNED.stop)
        magnitude = torch.where(signed, magnitude * side[turn], magnitude)
        raw = image_op(raw, torch.where(drawn[turn] <= chances[chosen, turn], op, 0), magnitude)
    return raw


def image_op(raw: Tensor, op: Tensor, magnitude: Tensor) -> Tensor:
    """Apply the operation `IMAGE_OPS[op]` to each image (B, C, H, W) uint8, with its own magnitude.

    Every kind of operation is computed for all images and then selected, so that nothing waits for the
    device.

    Args:
        op: (B,) int64. magnitude: (B,) float32: slope, pixels, degrees, factor − 1, bits kept, threshold.
    """
    op, magnitude = op.view(-1, 1, 1, 1), magnitude.view(-1, 1, 1, 1)
    out = torch.where((op >= 1) & (op <= 4), _move(raw, op, magnitude), raw)
    out = torch.where((op >= 5) & (op <= 8), _blend(raw, op, magnitude), out)
    kept = (256 - torch.exp2(8 - magnitude.clamp(0, 8))).to(torch.uint8)  # a mask of the upper bits
    out = torch.where(op == 9, raw & kept, out)
    out = torch.where((op == 13) | ((op == 10) & (raw >= magnitude)), 255 - raw, out)
    out = torch.where(op == 11, _autocontrast(raw), out)
    return torch.where(op == 12, _equalize(raw), out)


def _move(raw: Tensor, op: Tensor, magnitude: Tensor) -> Tensor:
    """Shear, translation and rotation, as one gather of the nearest pixels; op, magnitude (B, 1, 1, 1)."""
    channels, height, width = raw.shape[1:]
    op, magnitude = op.view(-1, 1, 1), magnitude.view(-1, 1, 1)
    y = torch.arange(height, device=raw.device).view(1, -1, 1) - (height - 1) / 2
    x = torch.arange(width, device=raw.device).view(1, 1, -1) - (width - 1) / 2
    zero = torch.zeros_like(magnitude)
    slope = torch.where(op == 1, magnitude, zero)
    right, down = (torch.where(op == k, magnitude.trunc(), zero) for k in (2, 3))
    angle = torch.where(op == 4, magnitude, zero) * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    from_x = x * cos - y * sin - right + (width - 1) / 2  # (B, H, W)
    # A shear leaves the left edge, not the first column's centre, where it is.
    from_y = x * sin + y * cos + slope * (x + width / 2) - down + (height - 1) / 2
    column, row = from_x.round().long(), from_y.round().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).flatten(1)
    moved = raw.flatten(2).gather(2, index.unsqueeze(1).expand(-1, channels, -1)).view(raw.shape)
    return moved * inside.unsqueeze(1)


def _blend(raw: Tensor, op: Tensor, magnitude: Tensor) -> Tensor:
    """Brightness, colour, contrast and sharpness: away from or towards black, grey, mean grey and a blur."""
    image = raw.float()
    channels, height, width = raw.shape[1:]
    grey = image
    if channels == 3:
        weight = torch.tensor([0.2989, 0.587, 0.114], device=raw.device).view(1, 3, 1, 1)
        grey = (image * weight).sum(1, keepdim=True).floor()
    blurred = image
    if height > 2 and width > 2:  # the border stays as it is
        kernel = torch.ones((channels, 1, 3, 3), device=raw.device)
        kernel[:, :, 1, 1] = 5.0
        inner = F.conv2d(image, kernel / 13, groups=channels).round()
        blurred = F.pad(inner, (1, 1, 1, 1))
        border = F.pad(torch.zeros_like(inner), (1, 1, 1, 1), value=1.0)
        blurred = torch.where(border.bool(), image, blurred)
    base = torch.where(op == 6, grey.expand_as(image), torch.zeros_like(image))
    base = torch.where(op == 7, grey.mean((1, 2, 3), keepdim=True), base)
    base = torch.where(op == 8, blurred, base)
    return ((1 + magnitude) * image - magnitude * base).clamp_(0, 255).to(torch.uint8)


def _autocontrast(raw: Tensor) -> Tensor:
    """Return each channel stretched to 0 … 255; a channel of one value stays as it is."""
    image = raw.float()
    low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
    flat = high == low
    scale = torch.where(flat, 1.0, 255 / (high - low))
    return ((image - torch.where(flat, 0.0, low)) * scale).clamp_(0, 255).to(torch.uint8)


def _equalize(raw: Tensor) -> Tensor:
    """Return each channel's histogram flattened."""
    batch, channels = raw.shape[:2]
    values = raw.flatten(2).long()  # (B, C, H·W)
    counts = torch.zeros((batch, channels, 256), dtype=torch.int64, device=raw.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    last = counts.gather(2, values.amax(2, keepdim=True))  # how often the brightest value occurs
    step = (counts.sum(2, keepdim=True) - last).div(255, rounding_mode="floor")
    table = (counts.cumsum(2) + step.div(2, rounding_mode="floor")).div(
        step.clamp(min=1), rounding_mode="floor"
    )
    table = F.pad(table, (1, 0))[..., :-1].clamp(0, 255)
    return torch.where(step > 0, table.gather(2, values), values).to(torch.uint8).view(raw.shape)


@functools.lru_cache(maxsize=16)
def _policy(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """`POLICY` as tensors (25, 2): numbers of operations, probabilities and magnitudes without sign."""

    def magnitude(op: str, level: int) -> float:
        share = level / 9
        most = {
            "shear y": 0.3,
            "translate x": 150 / 331 * width,
            "translate y": 150 / 331 * height,
            "rotate": 30,
        }
        if op in most:
            return most[op] * share
        return {"posterize": 8.0 - round(4 * share), "solarize": 255 * (1 - share)}.get(op, 0.9 * share)

    with torch.inference_mode(False):
        ops = torch.tensor([[IMAGE_OPS.index(op) for op, *_ in pair] for pair in POLICY])
        chances = torch.tensor([[chance for _, chance, _ in pair] for pair in POLICY])
        magnitudes = torch.tensor([[magnitude(op, level) for op, _, level in pair] for pair in POLICY])
        return ops.to(device), chances.to(device), magnitudes.to(device)
