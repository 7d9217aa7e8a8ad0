"""Contact sheets: a few images of every experience, by class, before augmentation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from clbench.errors import DataError
from clbench.reports.plots import DPI, save
from clbench.results.columns import Floats
from clbench.types import Benchmark, Experience

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS, COLUMNS = 20, 12
"""Experiences that are shown at most, and images of each."""
GAP = 0.12
"""Between images, in widths of an image."""
INCHES = 0.62
"""Width of an image."""
LETTERS = 11
"""Of a class's name that have room above its image."""
CAPTION = "Training images of each experience, by class, before augmentation."


def pictured(benchmark: Benchmark) -> bool:
    """Whether the inputs are images."""
    return len(benchmark.input_shape) == 3 and benchmark.tokenizer is None


def write(benchmark: Benchmark, path: str | os.PathLike[str]) -> Path:
    """Write the sheet of a benchmark as PNG.

    Raises:
        DataError: its inputs are no images.
    """
    if not pictured(benchmark):
        shape = " × ".join(map(str, benchmark.input_shape))
        raise DataError(
            f"{benchmark.name}: there is no contact sheet of inputs {shape}; images have channels, height and width."
        )
    return save(sheet(benchmark), Path(path).expanduser())


def sheet(benchmark: Benchmark, rows: int = ROWS, columns: int = COLUMNS) -> Figure:
    """Return a figure with a row of images for each experience of the training stream.

    Args:
        benchmark: of images.
        rows: experiences at most, the first ones.
        columns: images of each at most: of as many classes as there is room for, of each as many as the others.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [(exp, *_chosen(exp, columns)) for exp in benchmark.train[:rows]]
    across, down = max(len(y) for _, _, y in shown), len(shown)
    height, width = benchmark.train[0].data.input_shape[1:]
    tall = height / width + 3 * GAP  # a row with its names, in widths of an image
    left = 2.4  # for what a row is called
    size = ((left + across * (1 + GAP) + GAP) * INCHES, (down * tall + GAP) * INCHES)
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    drawn = "nearest" if width <= INCHES * DPI else "antialiased"
    low, high = torch.cat([x.flatten() for _, x, _ in shown]).aminmax()
    black = 0.0 if low >= 0 else float(low)
    white = max(float(high), black + 1e-12)
    for row, (exp, x, y) in enumerate(shown):
        top = row * tall + 3 * GAP
        called = f"experience {exp.index + 1}" + (f"\n{exp.domain}" if exp.domain else "")
        axis.text(
            0.1, top + height / width / 2, called, va="center", fontsize=8, linespacing=1.3, parse_math=False
        )
        before = -1
        for column, (image, c) in enumerate(zip(_images(x, black, white), y, strict=True)):
            at = left + column * (1 + GAP)
            extent = (at, at + 1, top + height / width, top)
            axis.imshow(image, extent=extent, cmap="gray", vmin=0, vmax=1, interpolation=drawn)
            if c != before:
                name = benchmark.class_names[c] if benchmark.class_names else str(c)
                short = name if len(name) <= LETTERS else name[: LETTERS - 1] + "…"
                axis.text(at, top - 0.04, short, va="bottom", fontsize=6.5, parse_math=False)
            before = c
    axis.set_xlim(0, size[0] / INCHES)
    axis.set_ylim(size[1] / INCHES, 0)
    axis.set_aspect("equal")
    return figure


def _chosen(exp: Experience, columns: int) -> tuple[Tensor, list[int]]:
    """Return images (n, …) of an experience, and their classes in order."""
    y = exp.data.y()
    there = [int(c) for c in y.unique()]
    classes = [there[i] for i in np.linspace(0, len(there) - 1, min(columns, len(there))).round().astype(int)]
    each = columns // len(classes)
    rows = torch.cat([(y == c).nonzero().squeeze(1)[:each] for c in classes])
    x, of = exp.data.take(rows)
    return x, of.tolist()


def _images(x: Tensor, black: float, white: float) -> list[Floats]:
    """(H, W), the mean of the channels, or of three (H, W, 3), from 0 to 1."""
    values = (x.to(torch.float64) - black) / (white - black)
    colours = values.permute(0, 2, 3, 1) if values.shape[1] == 3 else values.mean(1)
    return list(colours.numpy())
