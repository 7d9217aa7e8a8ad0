"""How images are prepared for a network of another size, as published code does it: recipes by name.

A recipe says to which size images are brought, what is cut out of them in tests and in training, and by what pixels are
normalised. All of it happens on the device, for whole batches, and equals torchvision's transforms of Pillow's images:
bytes are resized to the same bits.
Shapes: B batch, C channels, H × W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from clbench.errors import ConfigError
from clbench.transforms.augment import Transform
from clbench.transforms.resampling import Interpolation, parts, resized, resized_boxes
from clbench.transforms.views import crop_boxes

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and std of ImageNet's pixels, by which most weights of ImageNet were trained."""


@dataclass(frozen=True)
class Recipe:
    """How images become a network's inputs.

    Attributes:
        name: in records.
        size: of the network's images, size × size.
        crop_pct: in tests, the shorter side is resized to ⌊size / crop_pct⌋, and the middle of size × size cut out.
        small: this in place of crop_pct for images that are smaller than the size, as those of CIFAR.
        squash: in place of the shorter side, both sides are resized so.
        interpolation: of tests.
        scale, ratio: in training, a box of a share of the area and of a ratio of its sides within these bounds is drawn
            and resized to size × size; without a scale, training images are prepared as those of tests.
        crop_interpolation: of that.
        flip: in training, every second image is flipped.
        mean, std: normalise pixels of [0, 1]; without, they stay as they are.
        rounds: whether what is resized is rounded to bytes, as by Pillow; code that resizes tensors does not.
    """

    name: str = ""
    size: int = 224
    crop_pct: float = 1.0
    small: float | None = None
    squash: bool = False
    interpolation: Interpolation = "bicubic"
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_interpolation: Interpolation = "bilinear"
    flip: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    rounds: bool = True

    def __post_init__(self) -> None:
        for key, bounds, most in (("scale", self.scale, 1.0), ("ratio", self.ratio, math.inf)):
            if bounds is not None and not 0 < bounds[0] <= bounds[1] <= most:
                raise ConfigError(
                    f"recipe.{key} is a lower and an upper bound above 0; {list(bounds)} was given."
                )
        if not 0 < self.crop_pct <= 1 or self.size < 1:
            raise ConfigError(
                f"A recipe needs size ≥ 1 and 0 < crop_pct ≤ 1; given: {self.size}, {self.crop_pct}."
            )
        if len(self.mean) != len(self.std):
            raise ConfigError("A recipe's mean and std go together.")

    def side(self, small: bool) -> int:
        """Return to what the shorter side is resized in tests."""
        share = self.small if small and self.small is not None else self.crop_pct
        return math.floor(self.size / share)

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width to which images are resized in tests, before their middle is cut out."""
        short, long = sorted((height, width))
        side = self.side(long < self.size)
        if self.squash:
            return side, side
        longer = int(side * long / short)
        return (side, longer) if height <= width else (longer, side)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("pilot", crop_pct=0.875, scale=(0.05, 1.0), flip=True),
        Recipe(
            "pilot-coda", crop_pct=0.875, small=1.0, interpolation="bilinear", scale=(0.08, 1.0), flip=True
        ),
        Recipe("ranpac", crop_pct=0.875, small=1.0, scale=(0.05, 1.0), flip=True),
        Recipe(
            "ranpac-resnet",
            crop_pct=0.875,
            small=1.0,
            scale=(0.05, 1.0),
            flip=True,
            mean=IMAGENET[0],
            std=IMAGENET[1],
        ),
        Recipe("fecam", crop_pct=0.875, small=1.0, interpolation="bilinear", rounds=False),
        Recipe("inflora", crop_pct=0.875, small=1.0, interpolation="bilinear", scale=(0.08, 1.0), flip=True),
        Recipe("lae", crop_pct=0.875, interpolation="bilinear", scale=(0.08, 1.0), flip=True),
    )
}
"""Those of published code, all at 224 × 224, and none but one of them normalises, though the weights that are used with
them were trained on normalised images: it is part of the protocol."""


@dataclass(frozen=True)
class Prepared(Transform):
    """From raw images to a network's inputs by a recipe.

    Training operations of `OPS` act on the raw images, "resized-crop" draws the recipe's box and ends with its size.
    """

    recipe: Recipe = field(default_factory=Recipe)

    def shape(self, raw: tuple[int, ...]) -> tuple[int, ...]:
        return (raw[0], self.recipe.size, self.recipe.size)

    @property
    def resizes(self) -> bool:
        return True

    def normalise(self, raw: Tensor) -> Tensor:
        """(B, C, H, W) raw → (B, C, size, size) float32."""
        together = parts(len(raw), raw.device)
        if len(together) == 1:
            return super().normalise(self._middle(raw))
        out: Tensor | None = None
        for some in together:  # all at once would take many times the memory of the result
            made = super().normalise(self._middle(raw[some]))
            out = made.new_empty((len(raw), *made.shape[1:])) if out is None else out
            out[some] = made
        assert out is not None
        return out

    def train(self, raw: Tensor, generator: Generator) -> Tensor:
        if "resized-crop" not in self.ops:
            return self.normalise(self.augment(raw, generator))
        size = self.recipe.size
        return super().normalise(self._box(raw, generator, size, size))

    def augment(self, raw: Tensor, generator: Generator) -> Tensor:
        """(B, C, H, W) raw → the same, in training: a box is resized to the size of the raw images."""
        if "resized-crop" not in self.ops:
            return super().augment(raw, generator)
        return self._box(raw, generator, *raw.shape[2:])

    def _box(self, raw: Tensor, generator: Generator, height: int, width: int) -> Tensor:
        recipe = self.recipe
        boxes = crop_boxes(raw, generator, *(recipe.scale or (1.0, 1.0)), recipe.ratio)
        flipped = torch.zeros(len(raw), dtype=torch.bool, device=raw.device)
        if "flip" in self.ops:
            flipped = torch.rand(len(raw), generator=generator, device=raw.device) < 0.5
        stored = raw if recipe.rounds else self._floating(raw)
        return resized_boxes(stored, boxes, flipped, height, width, recipe.crop_interpolation)

    def _middle(self, raw: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, size, size), resized, and its middle cut out as torchvision does."""
        height, width = self.recipe.target(*raw.shape[2:])
        stored = raw if self.recipe.rounds else self._floating(raw)
        x, size = resized(stored, height, width, self.recipe.interpolation), self.recipe.size
        top, left = round((height - size) / 2), round((width - size) / 2)
        return x[:, :, top : top + size, left : left + size]

    def _floating(self, raw: Tensor) -> Tensor:
        """Bytes as numbers with a point, in [0, 1]."""
        return raw.float().mul_(self.scale) if raw.dtype == torch.uint8 else raw

    def told(self, raw: Sequence[int]) -> str:
        """Return what is done to images of a height and a width, in a sentence."""
        recipe, size = self.recipe, f"{self.recipe.size} × {self.recipe.size}"
        tests = "{} × {}".format(*recipe.target(raw[0], raw[1])) + f" ({recipe.interpolation})"
        cut = (
            f", of which the middle {size} is cut out"
            if recipe.target(raw[0], raw[1]) != (recipe.size,) * 2
            else ""
        )
        training = f"{', '.join(self.ops)} before that" if self.ops else "the same"
        if "resized-crop" in self.ops and recipe.scale is not None:
            low, high = (f"{100 * bound:g}" for bound in recipe.scale)
            training = f"a box of {low}–{high} % of the area resized to {size} ({recipe.crop_interpolation})"
            training += ", and a flip" if "flip" in self.ops else ""
        pixels = f"mean {list(self.mean)} and std {list(self.std)}" if self.mean else "pixels in [0, 1]"
        called = f"by the recipe {recipe.name}" if recipe.name else f"for {size}"
        return f"Images are prepared {called}: in tests resized to {tests}{cut}; in training {training}; {pixels}."

    def describe(self) -> dict[str, object]:
        recipe = {key: list(v) if isinstance(v, tuple) else v for key, v in vars(self.recipe).items()}
        return {**super().describe(), "recipe": {k: v for k, v in recipe.items() if k != "name"}}
