"""Charts of pages: lines over the stream, drawn by uPlot, with toggles, values under the pointer and zoom. No torch.

    chart = Chart("er on digits", (Panel("accuracy"),), (Series("er", style, (line,)),), marks=(1, 2, 3, 4))
    frame.page(title, header, charts.figure(chart, "What it shows."), footer, charts=True)

`figure` is a part of a page, whose script `assets/chart.js` draws it; where scripts do not run, it is a picture of the
lines that are shown at first. `data` is what the script draws, for pages that fetch it and call `update` with it:

    const chart = clbenchChart(element, data);  // fills the element
    chart.update(newer);                        // lines that were switched on or off stay so

Charts inside one element with `data-charts` show the same lines, and so do elements in it with `data-line`.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from clbench.files.names import printable
from clbench.reports import styles, svg
from clbench.reports.markup import asset, data_block, join, tag
from clbench.reports.rows import Row, primary_of, worth
from clbench.reports.styles import Style
from clbench.results.curve import NETWORK, Floats
from clbench.results.measures import Measure
from clbench.results.metrics import METRICS
from clbench.results.statistics import INTERVAL_FROM
from clbench.results.traces import Line, Mean, measured

UPLOT = "uplot-1.6.32"
"""The library's folder, with its files as they were released; a test knows their SHA-256."""

SHOWN = 8
"""Lines that are shown at first: more are hardly told apart at a glance."""
MEASURES = ("finetune", "joint")
"""Strategies that others are measured against, which are among them."""
POINTS = 1200
"""Points of a line at most; where there are more, each stretch keeps its lowest and highest, so that no dip is lost."""
SKETCHED = 300
"""Points of a line in the picture without a script."""
BEFORE, AFTER = 0.12, 0.36
"""Experiences around a mark that are seen when it is zoomed into, as in the script, where half of all points are."""
X_UNIT = 1e-5
Y_STEPS = 1e4
"""Steps of x, in experiences, and of y, between 0 and the largest value, in which numbers are written."""


def script() -> Markup:
    """Return what a page with charts runs: the library, with its licence, and what draws with it."""
    licence, library = asset(f"{UPLOT}/LICENSE"), asset(f"{UPLOT}/uPlot.iife.min.js")
    return Markup("/* uPlot\n\n{}*/\n{}\n{}").format(licence, library, asset("chart.js"))


def style() -> Markup:
    """Return the style of a page with charts: that of the library, and ours."""
    return join([styles.variables(), asset(f"{UPLOT}/uPlot.min.css"), "\n", asset("chart.css")])


class Panel(NamedTuple):
    """One of the plots of a chart, under each other and over the same x: what y is, whether it is a share, and whether
    its axis, if not, may begin at 0."""

    label: str
    percent: bool = True
    zero: bool = True


@dataclass(frozen=True)
class Series:
    """What is switched on and off as one: a line in each panel, None where there is nothing to draw.

    Attributes:
        name: in the legend. style: colour and dashes. lines: for each panel. shown: whether it is, at first.
    """

    name: str
    style: Style
    lines: tuple[Line | None, ...]
    shown: bool = True


@dataclass(frozen=True)
class Chart:
    """Lines over the progress of a stream: e at the beginning of experience e, counted from 0, and e + 1 at its end.

    Attributes:
        title: for those who do not see it. panels, series: what is drawn.
        marks: where something begins; there are dashed verticals, and the reader can zoom in there.
        names: of the experiences, where they have some. whole: whether x is a number of an experience, and no progress.
    """

    title: str
    panels: tuple[Panel, ...]
    series: tuple[Series, ...]
    marks: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    whole: bool = False

    @property
    def x_label(self) -> str:
        return "experience" if self.whole else "experiences"


def first(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of a table that are shown at first: the best of each bound, and the best others; all of a few of
    language, where schedules of fine-tuning are rivals."""
    primary = primary_of(rows)
    if len(rows) <= SHOWN and METRICS[primary].language:
        return list(rows)
    order = sorted(rows, key=lambda row: -worth(row, primary))
    bounds = {row.cells[0].name: row for row in reversed(order) if row.cells[0].name in MEASURES}
    others = [row for row in order if row.cells[0].name not in styles.BOUNDS]
    chosen = [*bounds.values(), *others[: max(SHOWN - len(bounds), 0)]]
    return [row for row in rows if any(row is other for other in chosen)]


def stream_chart(
    title: str,
    runs: Mapping[str, Mean],
    style: Mapping[str, Style],
    shown: Container[str],
    names: Sequence[str] = (),
) -> Chart | None:
    """Return the chart of accuracy, or loss, over the stream, on the experiences seen so far and on the first one.

    Args:
        runs: row → what is drawn of it. shown: those that are shown at first. names: of the experiences.

    Returns:
        None if nothing was evaluated between the ends of experiences.
    """
    experiences = max((of.experiences for of in runs.values()), default=0)
    names = tuple(names[:experiences])
    measure = measured(runs.values())
    where = "the experiences seen so far", f"the first experience{f' ({names[0]})' if names else ''}"
    labels = (f"{measure.label} on {what}" for what in where)
    panels = tuple(Panel(label, measure.share, zero=measure.share) for label in labels)
    series = [Series(name, style[name], (of.seen, of.one), name in shown) for name, of in runs.items()]
    series = [of for of in series if any(line is not None for line in of.lines)]
    marks = tuple(float(e) for e in range(1, experiences))
    return Chart(title, panels, tuple(series), marks, names) if series else None


def stream_caption(measure: Measure) -> str:
    """Return what `stream_chart` shows, in words."""
    name, move = measure.name.capitalize(), "drop" if measure.rises else "rise"
    unit = "" if measure.share else f", in {measure.unit}: the lower, the better"
    return (
        f"{name} after every step{unit}. On the experiences seen so far its mean over steps is {measure.anytime}; on "
        f"the first one it shows the stability gap, the {move} when another experience begins, and the way back. "
        f"Bands: 95 % intervals over seeds, where there are {INTERVAL_FROM} or more; among more than ten lines, of the "
        "one at the pointer."
    )


def network_chart(
    title: str, runs: Mapping[str, Mean], style: Mapping[str, Style], shown: Container[str]
) -> Chart | None:
    """Return the chart of how well each experience was learned, and of the network at its end; None if it was not
    measured."""
    measure = measured(runs.values())
    others = (Panel(name.replace("_", " "), percent=False) for name in NETWORK)
    panels = (Panel(f"{measure.label} at its end", measure.share, zero=measure.share), *others)
    series = tuple(
        Series(
            name,
            style[name],
            tuple(Line(np.arange(1, len(mean) + 1.0), mean, half) for mean, half in of.panels()),
            name in shown,
        )
        for name, of in runs.items()
        if of.networks
    )
    return Chart(title, panels, series, whole=True) if series else None


def data(chart: Chart) -> dict[str, Any]:
    """Return what the script draws, as JSON has it: whole numbers, x as differences, each list of x once."""
    grids: dict[tuple[int, ...], int] = {}
    ends = [line.x[[0, -1]] for of in chart.series for line in of.lines if line is not None and len(line.x)]
    low, high = (float(min(e[0] for e in ends)), float(max(e[1] for e in ends))) if ends else (0.0, 1.0)
    if not chart.whole:
        low, high = float(np.floor(low)), float(np.ceil(high))
    units = [_unit(chart, panel) for panel in range(len(chart.panels))]
    return {
        "title": printable(chart.title),
        "x": {
            "label": chart.x_label,
            "scale": X_UNIT,
            "range": [low - 0.3, high + 0.3] if chart.whole else [low, max(high, low + 1)],
            "marks": list(chart.marks),
            "names": list(map(printable, chart.names)),
            "whole": chart.whole,
        },
        "panels": [
            {"label": printable(panel.label), "percent": panel.percent, "scale": unit}
            | ({} if panel.zero else {"zero": False})
            for panel, unit in zip(chart.panels, units, strict=True)
        ],
        "series": [
            {
                "name": printable(of.name),
                "color": of.style.variable,
                "dash": list(of.style.lengths),
                "shown": of.shown,
                "lines": [
                    None if line is None or not len(line.x) else _told(line, unit, chart.marks, grids)
                    for line, unit in zip(of.lines, units, strict=True)
                ],
            }
            for of in chart.series
        ],
        "grids": [list(grid) for grid in grids],
    }


def figure(chart: Chart, caption: str) -> Markup:
    """Return a chart as a part of a page, and what it shows in words, for a page with `script` and `style`."""
    many = any(
        line is not None and len(line.x) > POINTS and len(line.x) > len(thinned(line, POINTS, chart.marks))
        for of in chart.series
        for line in of.lines
    )
    thin = (
        f" Lines of more than {POINTS:,} points are thinned: each stretch keeps its lowest and highest."
        if many
        else ""
    )
    shown = [of for of in chart.series if of.shown]
    sketch = [
        svg.lines(
            [
                svg.Curve(of.name, of.style, _kept(line, SKETCHED, chart.marks))
                for of in shown
                if (line := of.lines[i]) is not None and len(line.x)
            ],
            title=f"{chart.title}: {panel.label}",
            x_label=chart.x_label,
            y_label=panel.label,
            marks=chart.marks,
            percent=panel.percent,
            zero=panel.zero,
        )
        for i, panel in enumerate(chart.panels)
    ]
    key = tag("ul", *[tag("li", svg.swatch(of.style), of.name) for of in shown], class_="key")
    return (
        tag(
            "figure",
            tag("div", *sketch, key, class_="chart"),
            data_block(data(chart)),
            tag("figcaption", join([caption, thin])),
            class_="chart",
        )
        + "\n"
    )


def thinned(line: Line, most: int, marks: Sequence[float] = ()) -> NDArray[np.int64]:
    """Return indices of at most about `most` points: both ends, and of each stretch the lowest and the highest.

    Half of the stretches are around the beginning and the marks, where accuracy moves and the reader zooms in.
    """
    count = len(line.x)
    if count <= most:
        return np.arange(count)
    near = np.zeros(count, bool)
    for mark in (0.0, *marks):
        near |= (line.x >= mark - BEFORE) & (line.x <= mark + AFTER)
    weight = np.where(near, 0.5 / max(near.sum(), 1), 0.5 / max((~near).sum(), 1))
    stretch = np.floor(np.cumsum(weight) / weight.sum() * (most // 2 - 1) - 1e-9).astype(np.int64)
    order = np.lexsort((line.mean, stretch))
    last = np.flatnonzero(np.diff(stretch[order], append=-1))
    first = np.concatenate([[0], last[:-1] + 1])
    return np.unique(np.concatenate([order[first], order[last], [0, count - 1]]))


def _kept(line: Line, most: int, marks: Sequence[float]) -> Line:
    keep = thinned(line, most, marks)
    return Line(line.x[keep], line.mean[keep], None if line.half is None else line.half[keep])


def _unit(chart: Chart, panel: int) -> float:
    """Return the step of a panel's numbers: a hundredth of a percent, or of the largest value."""
    if chart.panels[panel].percent:
        return 1 / Y_STEPS
    found = [np.abs(line.mean) for of in chart.series if (line := of.lines[panel]) is not None]
    known = [values[np.isfinite(values)] for values in found]
    return float(max((values.max() for values in known if len(values)), default=1.0) or 1.0) / Y_STEPS


def _told(
    line: Line, unit: float, marks: Sequence[float], grids: dict[tuple[int, ...], int]
) -> dict[str, Any]:
    kept = _kept(line, POINTS, marks)
    steps = tuple(np.diff(np.rint(kept.x / X_UNIT).astype(np.int64), prepend=0).tolist())
    told = {"grid": grids.setdefault(steps, len(grids)), "y": _whole(kept.mean / unit)}
    return told if kept.half is None else {**told, "half": _whole(kept.half / unit)}


def _whole(values: Floats) -> list[int | None]:
    known = np.isfinite(values)
    whole = np.rint(np.where(known, values, 0)).astype(np.int64).tolist()
    return [value if there else None for value, there in zip(whole, known.tolist(), strict=True)]
