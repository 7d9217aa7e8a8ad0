"""Plots of curves and of accuracy or loss matrices as files: no display, equal bytes for equal results, no torch.

A strategy keeps its style across plots given the same `styles` (`clbench.reports.styles`).
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from clbench.errors import ConfigError, choices
from clbench.files import atomic_write, expanded, make_folder
from clbench.reports.rows import Row, primary_of, worth
from clbench.reports.styles import Style as Style, styles as styles
from clbench.results.curve import NETWORK, Curve, Floats
from clbench.results.measures import ACCURACY, Measure
from clbench.results.metrics import METRICS
from clbench.results.statistics import INTERVAL_FROM, TOO_FEW
from clbench.results.traces import Line, Mean, Trace, measured, range_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = ["Style", "accuracy_matrix", "plasticity", "seen_accuracy", "stability_gap", "styles"]

Path_ = str | os.PathLike[str]

MOST = 30
"""Rows of a table that are drawn: nobody can tell more lines apart, and to draw hundreds takes minutes."""


def most(rows: Sequence[Row], what: str) -> tuple[list[Row], str]:
    """Return the rows of a table that are drawn, the best ones, and a sentence that says which where they are not all.

    Args:
        what: they are called.
    """
    metric = METRICS[primary_of(rows)]
    best = set(map(id, sorted(rows, key=lambda row: -worth(row, metric.name))[:MOST]))
    if len(rows) <= MOST:
        return list(rows), ""
    end = "highest" if metric.rises else "lowest"
    said = f" Of {len(rows)} {what}, the {MOST} with the {end} {metric.title}."
    return [row for row in rows if id(row) in best], said


DPI = 150
FORMATS = {"png": ("Software",), "svg": ("Creator", "Date"), "pdf": ("Creator", "Producer", "CreationDate")}
"""Files that plots are written to, and what would differ in each with time and version."""
INK, FAINT, GRID = "#222222", "#6B6B6B", "#E6E6E6"
LIGHT_TO_DARK = ("#F4F7FA", "#B7D3E9", "#5FA2D0", "#0072B2", "#08306B")
"""From the worst to the best in a heat map: lightness alone orders them."""


_default_styles = styles  # where a parameter has its name


# --- plots ---

Runs = Mean | Sequence[Curve]


def means(curves: Mapping[str, Runs], evaluated: int = 0) -> dict[str, Mean]:
    """Strategy → what is drawn of its runs, where that is not given already."""
    return {
        name: runs if isinstance(runs, Mean) else Mean.of([Trace.of(curve, evaluated) for curve in runs])
        for name, runs in curves.items()
    }


def stability_gap(
    curves: Mapping[str, Runs],
    path: Path_,
    *,
    evaluated: int = 0,
    title: str | None = None,
    styles: Mapping[str, Style] | None = None,
    names: Sequence[str] = (),
) -> Path:
    """Accuracy, or of language loss, on one experience after every step: its drops, or rises, after boundaries are the
    stability gap.

    Args:
        curves: strategy → its runs, or what is drawn of them.
        path: the file to write, a PNG, SVG or PDF.
        evaluated: the test stream, from 0; of what is given as drawn, it is the first.
        title: above the plot.
        styles: strategy → style, for plots that belong together.
        names: of the experiences, such as their domains.
    """

    ordinal = "the first experience" if evaluated == 0 else f"experience {evaluated + 1}"
    drawn = means(curves, evaluated)
    measure = measured(drawn.values())
    heading = f"{measure.name.capitalize()} on {ordinal}" if title is None else title
    lines = {name: (runs, runs.one) for name, runs in drawn.items()}
    return _lines(lines, path, heading, f"test {measure.label} on {ordinal}", styles, names)


def seen_accuracy(
    curves: Mapping[str, Runs],
    path: Path_,
    *,
    title: str | None = None,
    styles: Mapping[str, Style] | None = None,
    names: Sequence[str] = (),
) -> Path:
    """Accuracy, or of language loss, after every step, averaged over the experiences seen so far.

    Args: as of `stability_gap`.
    """

    drawn = means(curves)
    measure = measured(drawn.values())
    heading = f"{measure.name.capitalize()} on the experiences seen so far" if title is None else title
    lines = {name: (runs, runs.seen) for name, runs in drawn.items()}
    label = f"test {measure.label}, mean over seen experiences"
    return _lines(lines, path, heading, label, styles, names)


def accuracy_matrix(
    matrices: Mapping[str, ArrayLike],
    path: Path_,
    *,
    title: str | None = None,
    names: Sequence[str] = (),
    measure: Measure = ACCURACY,
) -> Path:
    """Heat maps, side by side: accuracy, or loss, on every experience (columns) after learning each one (rows).

    Args:
        matrices: strategy → (T, S) accuracies, NaN where there is none.
        path: the file to write, a PNG, SVG or PDF.
        title: above the plot.
        names: of the experiences, such as their domains.
        measure: what the matrices are of.
    """
    shown = {name: np.atleast_2d(np.asarray(R, dtype=np.float64)) for name, R in matrices.items()}
    span = measure.span(shown.values())
    rows, columns = (max(R.shape[k] for R in shown.values()) for k in (0, 1))
    numbers = columns <= 10  # more are not legible side by side
    cell = max(0.44, 1.9 / columns) if numbers else 2.3 / columns  # inches
    across = min(len(shown), max(1, int(9.5 / (columns * cell + 0.35))))
    heads = {name: textwrap.wrap(name, int((columns * cell + 0.3) / LETTER)) or [""] for name in shown}
    folded = 0.18 * (max(map(len, heads.values())) - 1)
    down = math.ceil(len(shown) / across)
    across = math.ceil(len(shown) / down)  # six as three and three, not four and two
    width = max(across * (columns * cell + 0.35) + (0.5 if numbers else 1.4), 3.6)
    with _figure() as new:
        figure = new(width, down * (rows * cell + 0.4 + folded) + 0.5 + (0.4 if title else 0))
        axes = figure.subplots(down, across, squeeze=False)  # shared ones tell each other everything
        for k, axis in enumerate(axes.flat):
            if k >= len(shown):
                axis.set_axis_off()
                continue
            name = list(shown)[k]
            size, called = (8.5, names) if numbers else (0, ())
            image = heat_map(axis, shown[name], size, called, measure, span)
            axis.set_title("\n".join(heads[name]), fontsize=10.5, loc="left", pad=5)
            if k % across == 0:
                axis.set_ylabel("after learning")
            if k + across >= len(shown):
                axis.set_xlabel(f"{measure.label} on")
            axis.tick_params(labelleft=k % across == 0, labelbottom=k + across >= len(shown))
        if not numbers:
            bar = figure.colorbar(
                image, ax=axes, shrink=1 / down, anchor=(0, 1), pad=0.02, aspect=18, format=form_of(measure)
            )
            bar.outline.set_visible(False)
            bar.ax.tick_params(length=0)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
        return save(figure, path)


def plasticity(
    curves: Mapping[str, Runs],
    path: Path_,
    *,
    title: str | None = None,
    styles: Mapping[str, Style] | None = None,
) -> Path:
    """Per experience: how well it was learned, and what was measured of the network at its end (`Curve.network`).

    Args: as of `stability_gap`; of curves without the table there is nothing to draw.
    """
    look = {**_default_styles(curves), **(styles or {})}
    drawn = means(curves)
    panels_of = {name: runs.panels() for name, runs in drawn.items() if runs.networks}
    measure = measured(drawn.values())
    labels = (
        f"{measure.label} on the experience at its end",
        *(name.replace("_", " ") for name in NETWORK),
    )
    with _figure() as new:
        figure = new(10.5, 6.0)
        axes = figure.subplots(2, 3)
        for i, (axis, label) in enumerate(zip(axes.flat, labels, strict=False)):
            for name, panels in panels_of.items():
                mean, half = panels[i]
                x, style = np.arange(1, len(mean) + 1), look[name]
                axis.plot(x, mean, color=style.color, linestyle=style.dashes, linewidth=1.4, label=name)
                if half is not None:
                    axis.fill_between(x, mean - half, mean + half, color=style.color, alpha=0.12, linewidth=0)
            axis.set_title(label, loc="left", fontsize=10)
            axis.grid(axis="y", color=GRID, linewidth=0.8)
            axis.set_axisbelow(True)
            if i or measure.share:
                axis.set_ylim(bottom=0)
        axes[0, 0].yaxis.set_major_formatter(form_of(measure))
        axes[1, 0].set_xlabel("experience")
        axes[1, 1].set_xlabel("experience")
        last = axes[1, 2]
        last.axis("off")
        last.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper left", frameon=False)
        figure.suptitle(title or "Plasticity", x=0.01, ha="left", fontsize=12.5, fontweight="bold")
        return save(figure, path)


def save(figure: Figure, path: Path_) -> Path:
    """Write a PNG, SVG or PDF whole or not at all, without time or version, so that equal figures have equal bytes.

    Raises:
        ConfigError: the file's name ends otherwise.
    """
    target, content = expanded(path), io.BytesIO()
    form = target.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise ConfigError(
            f"A plot is a file that ends in {', '.join(f'.{of}' for of in FORMATS)}; {target} does not."
        )
    figure.savefig(content, format=form, dpi=DPI, metadata=dict.fromkeys(FORMATS[form]))
    figure.clear()  # its parts hold each other, with buffers of tens of megabytes
    make_folder(target.parent)
    atomic_write(target, content.getvalue())
    return target


FIGURES = {
    "stability-gap": "{} of the first experience",
    "seen-accuracy": "{} on the experiences seen so far",
    "accuracy-matrix": "{} matrix",
    "plasticity": "plasticity",
}
"""What `draw` draws, by name: of accuracy, or of language of the loss."""


def draw(
    figure: str,
    curves: Mapping[str, Runs],
    path: Path_,
    *,
    title: str | None = None,
    styles: Mapping[str, Style] | None = None,
    names: Sequence[str] = (),
) -> Path:
    """Draw one of `FIGURES`.

    Args: as of `stability_gap`; the title is that of what was run.

    Raises:
        ConfigError: there is no such figure, or the runs have no such numbers.
    """
    if figure not in FIGURES:
        raise ConfigError(f"There is no figure '{figure}'.{choices(figure, FIGURES)}")
    curves = means(curves)
    measure = measured(curves.values())
    heading = FIGURES[figure].format(measure.name)
    heading = heading if title is None else f"{title}: {heading}"
    if figure == "stability-gap":
        return stability_gap(curves, path, title=heading, styles=styles, names=names)
    if figure == "seen-accuracy":
        return seen_accuracy(curves, path, title=heading, styles=styles, names=names)
    found = {
        name: mean
        for name, mean in curves.items()
        if (mean.matrices if figure == "accuracy-matrix" else mean.networks)
    }
    if not found:
        needed = (
            "evaluations at the ends of experiences"
            if figure == "accuracy-matrix"
            else "evaluation.network=true"
        )
        raise ConfigError(f"There is no {figure} to draw: none of the runs has {needed}.")
    if figure == "plasticity":
        return plasticity(found, path, title=heading, styles=styles)
    return accuracy_matrix(
        {name: mean.matrix for name, mean in found.items()}, path, title=heading, names=names, measure=measure
    )


# --- how ---


def _lines(
    runs: Mapping[str, tuple[Mean, Line | None]],
    path: Path_,
    title: str,
    ylabel: str,
    given: Mapping[str, Style] | None,
    names: Sequence[str] = (),
) -> Path:
    """One line a strategy over the progress of the stream, named at its right end."""
    look = {**styles(runs), **(given or {})}
    drawn = {name: line for name, (_, line) in runs.items() if line is not None}
    experiences = max((of.experiences for of, _ in runs.values() if of.runs), default=1)
    measure = measured(of for of, _ in runs.values())
    with _figure() as new:
        height = max(4.4, 0.21 * len(drawn) + 1.2)
        figure = new(8.4 + room_for(drawn), height)
        axis = figure.subplots()
        for name, (x, mean, half) in drawn.items():
            style = look[name]
            front = 2.5 if style.behind else 3.0
            axis.plot(x, mean, color=style.color, linestyle=style.dashes, linewidth=1.4, zorder=front)
            if half is not None:
                low, high = measure.clipped(mean - half), measure.clipped(mean + half)
                axis.fill_between(x, low, high, color=style.color, alpha=0.12, linewidth=0, zorder=2)
        _value_axis(axis, list(drawn.values()), measure)
        axis.set_ylabel(ylabel)
        _experience_axis(axis, experiences, names)
        _name_ends(axis, {name: (x[-1], mean[-1]) for name, (x, mean, _) in drawn.items()}, look, height)
        if not drawn:
            axis.text(0.5, 0.5, "nothing was evaluated", transform=axis.transAxes, ha="center", color=FAINT)
        axis.set_title(title, loc="left", fontsize=12.5, fontweight="bold", pad=22)
        axis.text(
            0,
            1.025,
            _subtitle([of.runs for of, _ in runs.values()]),
            transform=axis.transAxes,
            fontsize=9,
            color=FAINT,
        )
        return save(figure, path)


LETTER = 0.085
"""Width of a letter of a name, in inches."""


def room_for(names: Iterable[str]) -> float:
    """Return the inches that long names beside a plot need more than there are."""
    return LETTER * max(max(map(len, names), default=0) - 30, 0)


def _subtitle(of: Iterable[int]) -> str:
    counts = sorted({runs for runs in of if runs})
    if not counts:
        return ""
    runs = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    if counts[-1] == 1:
        told = "one run each"
    elif counts[-1] < INTERVAL_FROM:
        told = f"mean of {runs} runs, {TOO_FEW} for an interval"
    else:
        few = f" of {INTERVAL_FROM} runs and more" if counts[0] < INTERVAL_FROM else ""
        told = f"mean of {runs} runs, band: 95 % interval of the mean{few}"
    return f"{told}; dashed verticals: a new experience begins"


def _value_axis(axis: Axes, lines: Sequence[Line], measure: Measure) -> None:
    """A share from 0, or from a round number below where all is high, to 100 %; anything else where it is."""
    if measure.share:
        lowest = min((float(line.mean.min()) for line in lines), default=0.0)
        floor = 0.0 if lowest < 0.4 else math.floor(10 * lowest - 0.5) / 10
        margin = 0.02 * (1 - floor)
        axis.set_ylim(floor - margin, 1 + margin)
    else:
        axis.set_ylim(*range_of(lines))
    axis.yaxis.set_major_formatter(form_of(measure))
    axis.grid(axis="y", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)


def _experience_axis(axis: Axes, experiences: int, names: Sequence[str]) -> None:
    """A unit for each experience, its number in the middle, or its name where these are few; dashed lines between."""
    axis.set_xlim(0, experiences)
    for boundary in range(1, experiences):
        axis.axvline(boundary, color="#B5B5B5", linewidth=0.8, linestyle=(0, (4, 3)), zorder=2.2)
    every = math.ceil(experiences / 20)
    numbers = np.arange(0, experiences, every)
    shown = names if experiences <= len(names) <= 8 else ()
    axis.set_xticks(numbers + 0.5, [shown[int(e)] if shown else str(e + 1) for e in numbers])
    axis.set_xlabel("experience being learned")
    axis.tick_params(axis="x", length=0)


def _name_ends(
    axis: Axes, ends: Mapping[str, tuple[float, float]], look: Mapping[str, Style], height: float
) -> None:
    """Names to the right of the lines' ends, moved apart where they would overlap and tied by thin lines."""
    low, high = axis.get_ylim()
    right = axis.get_xlim()[1]
    order = sorted(ends, key=lambda name: ends[name][1])
    gap = (high - low) * 0.2 / (height - 1.1)  # a line of text in data units
    places = spread([ends[name][1] for name in order], gap, low + gap / 2, high - gap / 2)
    for name, place in zip(order, places, strict=True):
        x, y = ends[name]
        arm = [x, right, right * 1.012, right * 1.032, right * 1.045]
        axis.plot(
            arm, [y, y, y, place, place], color=look[name].color, linewidth=1.1, clip_on=False, zorder=4
        )
        axis.text(right * 1.052, place, name, va="center", fontsize=9.5, color=INK)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending places near the wanted ones, at least `gap` apart, within [low, high] if they fit there.

    Places that touch form a block, centred on the mean of what its members want (isotonic regression).
    """
    blocks: list[tuple[float, int]] = []  # (lowest place, size)
    for want in wanted:
        start, size = min(max(want, low), high), 1
        while blocks and start < blocks[-1][0] + gap * blocks[-1][1]:
            before, count = blocks.pop()
            start = (before * count + (start - gap * count) * size) / (count + size)
            size += count
            start = max(min(start, high - gap * (size - 1)), low)
        blocks.append((start, size))
    return [start + gap * k for start, size in blocks for k in range(size)]


def heat_map(
    axis: Axes,
    R: Floats,
    size: float,
    names: Sequence[str] = (),
    measure: Measure = ACCURACY,
    span: tuple[float, float] | None = None,
) -> AxesImage:
    """Return a matrix with its numbers, accuracies in percent (size 0: without); a line sets apart what is not yet
    learned. The darkest is the best of the span, which is that of the matrix if None."""
    from matplotlib.colors import LinearSegmentedColormap

    T, S = R.shape
    stairs = T == S > 1 and not np.isnan(R[-1]).all()  # as many experiences as streams
    colors = LinearSegmentedColormap.from_list("light to dark", LIGHT_TO_DARK)
    low, high = span or measure.span([R])
    shades = measure.shades(R, (low, high))
    cmap = colors if measure.rises else colors.reversed()
    image = axis.imshow(np.ma.masked_invalid(R), vmin=low, vmax=high, cmap=cmap, aspect="equal")
    for i, j in zip(*np.nonzero(~np.isnan(R) & (size > 0)), strict=True):
        unseen = stairs and j > i and shades[i, j] < 0.25
        color = "white" if shades[i, j] > 0.6 else FAINT if unseen else INK
        text = axis.text(j, i, measure.short(R[i, j]), ha="center", va="center", fontsize=size, color=color)
        text.set_in_layout(False)  # it is inside
    if stairs:
        edges = np.arange(T + 1).repeat(2) - 0.5
        axis.plot(edges[2:-1], edges[1:-2], color=INK, linewidth=1)
    for ticks, count in ((axis.set_xticks, S), (axis.set_yticks, T)):
        numbers = range(0, count, math.ceil(count / 10))
        ticks(list(numbers), [names[k] if k < len(names) else str(k + 1) for k in numbers])
    axis.tick_params(length=0, labelsize=8.5)
    if names:
        axis.tick_params(axis="x", labelrotation=90)
    axis.spines[:].set_color("#C9D3DC")
    axis.spines[:].set_visible(True)
    return image


def form_of(measure: Measure) -> Callable[[float, float], str]:
    """Return how an axis or a bar of colours writes its numbers."""

    def written(value: float, _: float = 0.0) -> str:
        return f"{100 * value:.0f} %" if measure.share else f"{value:.4g}"

    return written


@contextlib.contextmanager
def _figure() -> Iterator[Callable[[float, float], Figure]]:
    """Makes figures (width, height in inches) in one style, whatever the user's matplotlib is set to."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    def new(width: float, height: float) -> Figure:
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        return figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.size": 10,
                "axes.labelsize": 10,
                "axes.edgecolor": "#9A9A9A",
                "axes.labelcolor": INK,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "text.color": INK,
                "xtick.color": INK,
                "ytick.color": INK,
                "xtick.labelsize": 9.5,
                "ytick.labelsize": 9.5,
                "ytick.major.size": 0,
                "figure.constrained_layout.h_pad": 0.08,
                "figure.constrained_layout.w_pad": 0.08,
                "svg.hashsalt": "clbench",
            }
        )
        yield new
