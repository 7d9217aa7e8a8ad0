"""Pixels of image files: 8 bits, whatever mode, depth and orientation a file has.

Pillow's own conversion to 8 bits cuts off what lies above 255, so depth is dealt with here. What a file says of itself
decides its range, never the values that it happens to hold: a dark image stays dark.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from clbench.files import UNREADABLE
from clbench.transforms.recipes import Recipe

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".pbm", ".pgm", ".ppm", ".pnm"),
)
"""What the name of an image ends in."""

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What is read. No others, as Pillow would start a program for some (EPS)."""

MISREAD = (
    *UNREADABLE,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What reading a damaged or strange image raises."""

ORIENTATION = 0x0112
"""A tag of EXIF; from 5 on, height and width are exchanged."""
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
WHITE_IS_ZERO, UNSIGNED, FLOAT = 0, 1, 3


Box = tuple[int, int, int, int]
"""Top, left, height and width of a part of an image, in pixels."""


def decode(
    content: bytes,
    size: int | tuple[int, int],
    channels: int,
    recipe: Recipe | None = None,
    box: Box | None = None,
) -> npt.NDArray[np.uint8]:
    """(C, H, W) uint8 from an image file's content: upright, cropped about the centre to the shape, bilinear.

    Args:
        size: height and width, or one number for both. box: the part of the upright image that is meant, first.

    With a recipe, it is resized and its middle cut out as in tests, in an image of the side that it is resized to: what
    a `Prepared` transform makes of that is what torchvision makes of the file.

    Raises:
        ValueError, or another of `MISREAD`: it cannot be read, or has no one meaning in 8 bits; says why.
    """
    try:
        opened = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:  # which would name the buffer
        raise ValueError(
            f"cannot identify image file: it is damaged, or none of {', '.join(FORMATS)}"
        ) from None
    with opened as image:
        whole = eight_bits(image).convert("RGB" if channels == 3 else "L")
    if box is not None:
        top, left, height, width = box
        if top + height > whole.height or left + width > whole.width:
            raise ValueError(
                f"its box {top},{left},{height},{width} exceeds {whole.width} × {whole.height} pixels"
            )
        whole = whole.crop((left, top, left + width, top + height))
    rows, columns = (size, size) if isinstance(size, int) else size
    if recipe is not None:
        height, width = recipe.target(whole.height, whole.width)
        resized = whole.resize((width, height), Image.Resampling[recipe.interpolation.upper()])
        # where the recipe, cutting its own smaller middle out of this one, meets the one that it would cut out of all
        within = round((rows - recipe.size) / 2)
        left, top = (round((side - recipe.size) / 2) - within for side in (width, height))
        cut = resized.crop((left, top, left + rows, top + rows))
        return np.asarray(cut).reshape(rows, rows, channels).transpose(2, 0, 1)
    fitted = ImageOps.fit(whole, (columns, rows), Image.Resampling.BILINEAR)
    return np.asarray(fitted).reshape(rows, columns, channels).transpose(2, 0, 1)


def size_of(file: Path | io.BytesIO) -> tuple[int, int]:
    """Return height and width of an upright image, of whose file no more than the head is read.

    Raises:
        ValueError, or another of `MISREAD`: it is no image.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            turned = image.getexif().get(ORIENTATION, 1) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except UnidentifiedImageError:
        raise ValueError(f"it is damaged, or none of {', '.join(FORMATS)}") from None


def eight_bits(image: Image.Image) -> Image.Image:
    """Return an opened image, upright, as L (grey) or RGB.

    Grey of more bits is scaled from the range of its format, floating-point grey from 0–1. What is transparent lies on
    white. A camera's file of several pictures (MPO) counts by its first.

    Raises:
        ValueError: several frames or pages, a mode or a range without one meaning.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ValueError(
            f"it holds {frames} frames or pages; save the one that counts, or each as a file of its own"
        )
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    kind = tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0]
    if kind not in (UNSIGNED, FLOAT):
        raise ValueError(
            "it holds signed numbers, whose range is not known; save it as 8 or 16 bits unsigned"
        )
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        return _deep(upright, image.format, tags)
    if upright.mode == "LAB":
        raise ValueError("its colours are L*a*b*; save it as RGB")
    if upright.has_transparency_data:
        through = {"La": "LA", "RGBa": "RGBA"}.get(upright.mode, upright.mode)
        seen = upright.convert(through).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return upright.convert("L" if upright.mode in ("1", "L") else "RGB")


def _deep(image: Image.Image, format: str | None, tags: Mapping[int, Any]) -> Image.Image:
    """Grey of 16 bits, or floating-point, as L."""
    if "transparency" in image.info:
        raise ValueError(
            "it has 16 bits and a transparent value; save it with 8 bits, or without transparency"
        )
    if image.mode == "F":
        values = np.asarray(image)
        if not (values >= 0).all() or not (values <= 1).all():  # so that NaN is found
            raise ValueError(
                "it holds floating-point numbers outside 0–1, whose range is not known; scale them to 0–1, or save it "
                "as 8 or 16 bits"
            )
        grey = (255 * values.astype(np.float64) + 0.5).astype(np.uint8)
    else:
        # Older versions of Pillow open 16-bit PNG, and all open deep PGM, as 32-bit numbers of 0 … 65535.
        bits = tags.get(BITS, (32 if format == "TIFF" else 16,))[0]
        if bits > 16:
            raise ValueError(
                f"it holds {bits}-bit numbers, whose range is not known; save it as 8 or 16 bits"
            )
        white = (1 << bits) - 1
        values = np.asarray(image).astype(np.int64)
        grey = ((255 * values + white // 2) // white).clip(0, 255).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # which Pillow heeds for 8 bits only
        grey = 255 - grey
    return Image.fromarray(grey)
