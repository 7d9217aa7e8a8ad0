"""Curves and matrices, drawn into axes of matplotlib as a user's own plots are, with the user's settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from clbench.reports.plots import form_of, heat_map, styles
from clbench.results.curve import Curve, Floats, Ints, Losses, Matrix
from clbench.results.measures import ACCURACY, LOSS, Measure, measure_of
from clbench.results.traces import ends

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW = 7
"""Colours that can be told apart."""
NAMED = 10
"""Lines that a legend names one by one, and columns of a matrix in which numbers can be read."""

WIDE, SQUARE = (7.2, 3.4), (4.6, 4.2)
"""Width and height of figures of curves and matrices, in inches."""


def axes_of(ax: Axes | None, figsize: tuple[float, float] = WIDE) -> Axes:
    """Return the axes to draw into: those given, else new ones, which `pyplot.show` and notebooks show.

    Args:
        ax: those given, if any. figsize: width and height of a new figure, in inches.
    """
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=figsize, layout="constrained")[1]


def plot(curve: Curve, ax: Axes | None = None, names: Sequence[str] = ()) -> Axes:
    """Draw `Curve.plot`; of a curve without ticks, the full evaluations."""
    ax = axes_of(ax)
    measure = measure_of(curve)
    steps, values, seen = _evaluated(curve, measure)
    marker = "" if len(curve.ticks()) else "o"
    for boundary in ends(curve)[1:-1]:
        ax.axvline(boundary, color="0.7", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    if values.shape[1] > 1:
        ax.plot(
            steps, seen, color="0.72", linewidth=3.5, marker=marker, label="mean of those seen", zorder=1.5
        )
    colors = _colors(values.shape[1])
    for j, color in enumerate(colors):
        name = names[j] if j < len(names) else f"experience {j + 1}"
        if j in (0, len(colors) - 1) or len(colors) <= NAMED:
            name = plain(name)
        else:
            name = "_"  # which a legend leaves out
        ax.plot(steps, values[:, j], color=color, linewidth=1.2, marker=marker, label=name)
    value_axis(ax, measure)
    ax.set_xlabel("iteration")
    ax.margins(x=0.01)
    if values.shape[1]:
        ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def plain(name: str) -> str:
    """Return a name in which a legend reads no formula."""
    return name.replace("$", r"\$")


def value_axis(ax: Axes, measure: Measure, where: str = "") -> None:
    """A share from 0 to 100 %, anything else where it is, with lines to read by."""
    from matplotlib.ticker import PercentFormatter

    if measure.share:
        ax.set_ylim(-0.02, 1.02)
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.set_ylabel(f"test {measure.label}{where}")
    ax.grid(axis="y", color="0.92")
    ax.spines[["top", "right"]].set_visible(False)


def plot_matrix(matrix: Matrix, ax: Axes | None = None, names: Sequence[str] = ()) -> Axes:
    """Draw `Matrix.plot`, with numbers as long as they can be read."""
    ax = axes_of(ax, SQUARE)
    columns = matrix.R.shape[1]
    measure = LOSS if isinstance(matrix, Losses) else ACCURACY
    image = heat_map(ax, matrix.R, size=8.5 if columns <= NAMED else 0, measure=measure)
    if columns > NAMED:
        ax.figure.colorbar(image, ax=ax, format=form_of(measure))
    elif len(names) >= columns:
        ax.set_xticks(range(columns), names[:columns], rotation=90, parse_math=False)
        ax.set_yticks(range(len(matrix.R)), names[: len(matrix.R)], parse_math=False)
    ax.set_xlabel("accuracy on" if measure.share else "loss, in nats, on")
    ax.set_ylabel("after learning")
    return ax


def _evaluated(curve: Curve, measure: Measure) -> tuple[Ints, Floats, Floats]:
    """(K,) steps, (K, S) values and (K,) their means over the streams seen so far: ticks, else experiences' ends."""
    ticks = curve.ticks()
    if len(ticks):
        return ticks.steps, measure.ticks(curve), measure.seen(curve)
    R = measure.matrix(curve).R[: curve.experiences]
    return ends(curve)[1:], R, np.array([row[: e + 1].mean() for e, row in enumerate(R)])


def _colors(count: int) -> list[object]:
    """Return a colour for each experience: those of the reports, or, of many, from dark to light."""
    if count <= FEW:
        return [style.color for style in styles(f"experience {j + 1}" for j in range(count)).values()]
    import matplotlib

    return list(matplotlib.colormaps["viridis"](np.linspace(0, 0.92, count)))
