"""Plots as SVG that takes its colours from the page, so that it is right in the dark, too. Equal input, equal bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from clbench.reports.markup import tag
from clbench.reports.styles import Style
from clbench.results.curve import Floats
from clbench.results.traces import Line, range_of

WIDTH, HEIGHT = 760, 330
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 40


class Curve(NamedTuple):
    """A line with a band, as it is drawn."""

    name: str
    style: Style
    line: Line


def lines(
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    y_label: str,
    marks: Sequence[float] = (),
    percent: bool = True,
    zero: bool = True,
) -> Markup:
    """Curves over x, with vertical lines at `marks`; y is `percent`, from 0 to 1, or from 0 to the largest; without
    `zero`, as of `range_of`."""
    low = min((float(c.line.x.min()) for c in curves), default=0.0)
    high = max((float(c.line.x.max()) for c in curves), default=1.0)
    span = high - low or 1.0
    base, top = (
        0.0,
        1.0 if percent else max((float(np.nanmax(c.line.mean)) for c in curves), default=1.0) or 1.0,
    )
    if not zero:
        base, top = range_of(c.line for c in curves)

    def place(x: Floats, y: Floats) -> str:
        across = LEFT + (x - low) / span * (WIDTH - LEFT - RIGHT)
        down = TOP + (1 - np.clip((y - base) / (top - base), 0, 1)) * (HEIGHT - TOP - BOTTOM)
        there = np.isfinite(down)
        return " ".join(
            f"{a:.1f},{b:.1f}" for a, b in zip(across[there].tolist(), down[there].tolist(), strict=True)
        )

    parts = _y_axis(base, top, percent)
    for mark in marks:
        across = LEFT + (mark - low) / span * (WIDTH - LEFT - RIGHT)
        parts.append(_line("mark", across, across, TOP, HEIGHT - BOTTOM))
    for tick in _round_numbers(low, high):
        across = LEFT + (tick - low) / span * (WIDTH - LEFT - RIGHT)
        parts.append(_text(f"{tick:g}", across, HEIGHT - BOTTOM + 15))
    for curve in curves:
        x, mean, half = curve.line
        if half is not None:
            half = np.nan_to_num(half)
            band = f"{place(x, mean + half)} {place(x[::-1], (mean - half)[::-1])}"
            parts.append(tag("polygon", points=band, fill=_ink(curve.style), fill_opacity=".14"))
    for curve in curves:
        dashes = " ".join(f"{length:g}" for length in curve.style.lengths)
        points = place(curve.line.x, curve.line.mean)
        look = {
            "fill": "none",
            "stroke": _ink(curve.style),
            "stroke_width": "1.6",
            "stroke_dasharray": dashes,
        }
        parts.append(tag("polyline", tag("title", curve.name), points=points, **look))
    return _figure(parts, title, x_label, y_label)


def swatch(style: Style) -> Markup:
    """Return a piece of a line, for a legend."""
    dashes = " ".join(f"{length:g}" for length in style.lengths)
    line = tag("line", x2=40, y1=1.5, y2=1.5, stroke=_ink(style), stroke_width=2.5, stroke_dasharray=dashes)
    return tag("svg", line, viewBox="0 0 40 3")


def _ink(style: Style) -> str:
    return f"var({style.variable})"


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot: y, with half the height of its bar, NaN without one; size its radius.

    It is shown with the line of its name, and `about` is said under the pointer.
    """

    name: str
    about: str
    style: Style
    x: float
    y: float
    half: float
    best: bool = False
    size: float = 5.0


def scatter(
    points: Sequence[Point], *, title: str, x_label: str, y_label: str, percent: bool = True
) -> Markup:
    """Points over a logarithmic x, y from 0 to 100 %, or where they are; those on the Pareto front (`best`) are
    filled."""
    low, high = min(p.x for p in points), max(p.x for p in points)
    start, end = math.log10(low) - 0.15, math.log10(high) + 0.15
    base, top = 0.0, 1.0
    if not percent:
        tips = [p.y + sign * (0.0 if math.isnan(p.half) else p.half) for p in points for sign in (-1, 1)]
        room = 0.1 * (max(tips) - min(tips) or abs(max(tips)) or 1.0)
        base, top = min(tips) - room, max(tips) + room
    parts = _y_axis(base, top, percent)

    def across(x: float) -> float:
        return LEFT + (math.log10(x) - start) / (end - start) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return TOP + (1 - min(max((y - base) / (top - base), 0.0), 1.0)) * (HEIGHT - TOP - BOTTOM)

    for decade in range(math.floor(start), math.ceil(end) + 1):
        for factor in (1, 2, 5):
            value = factor * 10.0**decade
            if start <= math.log10(value) <= end:
                parts.append(_text(f"{value:,g}", across(value), HEIGHT - BOTTOM + 15))
    labels = _labels([(across(p.x), down(p.y), p.name) for p in points])
    for p, label in zip(points, labels, strict=True):
        x, y, ink = f"{across(p.x):.1f}", down(p.y), _ink(p.style)
        group = [tag("title", p.about)]
        if not math.isnan(p.half):
            ends = {"y1": f"{down(p.y - p.half):.1f}", "y2": f"{down(p.y + p.half):.1f}"}
            group.append(tag("line", x1=x, x2=x, **ends, stroke=ink))
        look = {"fill": ink if p.best else "var(--paper)", "stroke": ink, "stroke_width": 2}
        group.append(tag("circle", cx=x, cy=f"{y:.1f}", r=f"{p.size:.1f}", **look))
        group.append(_text(p.name, *label))
        parts.append(tag("g", *group, data_line=p.name))
    return _figure(parts, title, x_label, y_label)


def _labels(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, str, str]]:
    """Return a place beside each point for its name, and its anchor: the nearest where no earlier one stands."""
    taken: list[tuple[float, float, float, float]] = []
    places = []
    for x, y, name in points:
        wide = 6.2 * len(name)
        tries = [
            (x - wide - 9 if left else x + 9, y - 6 + shift, left)
            for shift in (0, 14, -13, 27, -26, 40, -39)
            for left in ((True, False) if x + wide > WIDTH - RIGHT else (False, True))
        ]
        free = (
            at
            for at in tries
            if at[0] > LEFT
            and at[1] > TOP
            and all(
                at[0] + wide < left or at[0] > right or at[1] < top or at[1] - 11 > bottom
                for left, right, top, bottom in taken
            )
        )
        start, base, left = next(free, tries[0])
        taken.append((start, start + wide, base - 11, base))
        places.append((start + wide if left else start, f"{base:.1f}", "end" if left else "start"))
    return places


def critical_differences(
    names: Sequence[str], places: Sequence[float], bars: Sequence[tuple[int, int]], *, title: str
) -> Markup:
    """Return a critical-difference plot: average ranks on a line, names beside it, bars over those that are not told
    apart.

    Args:
        names, places: the best first. bars: first and last place in that order.
    """
    inner, line = 190, 30 + 9 * len(bars)
    rows = (len(names) + 1) // 2
    height = line + 26 + 20 * rows
    most = max(math.ceil(max(places)), 2)

    def across(place: float) -> float:
        return inner + (place - 1) / (most - 1) * (WIDTH - 2 * inner)

    parts = [_line("grid", across(1), across(most), line, line)]
    for place in range(1, most + 1):
        parts += [_text(str(place), across(place), 14), _line("grid", across(place), across(place), 18, line)]
    for i, (name, rank) in enumerate(zip(names, places, strict=True)):
        left, at = i < rows, f"{across(rank):.1f}"
        down = line + 26 + 20 * (i if left else len(names) - 1 - i)
        edge, anchor = (inner - 14, "end") if left else (WIDTH - inner + 14, "start")
        thread = f"{at},{line} {at},{down} {edge},{down}"
        parts.append(tag("polyline", class_="thread", fill="none", points=thread))
        parts.append(tag("circle", class_="dot", cx=at, cy=line, r=3))
        parts.append(_text(f"{name} ({rank:.1f})", edge + (-6 if left else 6), down + 4, anchor))
    for level, (first, last) in enumerate(bars):
        height_of_bar = line - 8 - 9 * level
        ends = across(places[first]) - 5, across(places[last]) + 5
        parts.append(_line("bar", *ends, height_of_bar, height_of_bar))
    return _svg(parts, title, height)


def _line(kind: str, x1: float, x2: float, y1: float, y2: float) -> Markup:
    return tag("line", class_=kind, x1=f"{x1:.1f}", x2=f"{x2:.1f}", y1=f"{y1:.1f}", y2=f"{y2:.1f}")


def _text(text: str, x: float, y: object, anchor: str = "middle") -> Markup:
    return tag("text", text, class_="tick", x=f"{x:.1f}", y=y, text_anchor=anchor)


def _y_axis(base: float, top: float, percent: bool) -> list[Markup]:
    rows = []
    for step in range(6):
        down = TOP + (1 - step / 5) * (HEIGHT - TOP - BOTTOM)
        said = str(20 * step) if percent else f"{base + (top - base) * step / 5:.3g}"
        rows.append(_line("grid", LEFT, WIDTH - RIGHT, down, down))
        rows.append(_text(said, LEFT - 6, f"{down + 4:.1f}", "end"))
    return rows


def _round_numbers(low: float, high: float) -> list[float]:
    """Five to ten round numbers between two."""
    step = 10.0 ** math.floor(math.log10((high - low) / 5)) if high > low else 1.0
    while (high - low) / step > 10:
        step *= 2 if (high - low) / (2 * step) <= 10 else 5
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _figure(parts: Sequence[Markup], title: str, x_label: str, y_label: str) -> Markup:
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    axis = {"class_": "axis", "text_anchor": "middle"}
    across = tag("text", x_label, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6, **axis)
    up = tag("text", y_label, x=12, y=middle, transform=f"rotate(-90 12 {middle})", **axis)
    return _svg([*parts, across, up], title, HEIGHT)


def _svg(parts: Sequence[Markup], title: str, height: float) -> Markup:
    about = {"viewBox": f"0 0 {WIDTH} {height}", "role": "img", "aria_label": title}
    return tag("svg", tag("title", title), *parts, **about)
