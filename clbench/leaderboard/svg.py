"""Plots as SVG that takes its colours from the page, so that it is right in the dark, too. Equal input, equal bytes."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WIDTH, HEIGHT = 760, 330
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 40
POINTS = 1500
"""Of a line at most; where there are more, each stretch keeps its lowest and highest, so that no dip is lost."""


@dataclass(frozen=True)
class Line:
    """A curve with a band: x, mean and half width (P,) each, the last None without a band; y from 0 to 1."""

    name: str
    color: str
    x: Floats
    mean: Floats
    half: Floats | None = None
    dashed: bool = False


def lines(
    curves: Sequence[Line], *, title: str, x_label: str, y_label: str, marks: Sequence[float] = ()
) -> str:
    """Curves over x, y from 0 to 100 %, with vertical lines at `marks`."""
    low = min((float(c.x.min()) for c in curves), default=0.0)
    high = max((float(c.x.max()) for c in curves), default=1.0)
    span = high - low or 1.0

    def place(x: Floats, y: Floats) -> str:
        across = LEFT + (x - low) / span * (WIDTH - LEFT - RIGHT)
        down = TOP + (1 - np.clip(y, 0, 1)) * (HEIGHT - TOP - BOTTOM)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, down, strict=True))

    parts = [_percent_axis()]
    for mark in marks:
        across = LEFT + (mark - low) / span * (WIDTH - LEFT - RIGHT)
        parts.append(
            f'<line class="mark" x1="{across:.1f}" x2="{across:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )
    for tick in _round_numbers(low, high):
        across = LEFT + (tick - low) / span * (WIDTH - LEFT - RIGHT)
        parts.append(
            f'<text class="tick" x="{across:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{tick:g}</text>'
        )
    for curve in curves:
        if curve.half is not None:
            keep = thinned(curve.mean, POINTS // 2)
            x, half = curve.x[keep], np.nan_to_num(curve.half[keep])
            upper, lower = curve.mean[keep] + half, curve.mean[keep] - half
            band = f"{place(x, upper)} {place(x[::-1], lower[::-1])}"
            parts.append(f'<polygon points="{band}" fill="{curve.color}" fill-opacity=".14"/>')
    for curve in curves:
        keep = thinned(curve.mean, POINTS)
        dash = ' stroke-dasharray="5 3"' if curve.dashed else ""
        parts.append(
            f'<polyline points="{place(curve.x[keep], curve.mean[keep])}" fill="none" stroke="{curve.color}" '
            f'stroke-width="1.6"{dash}><title>{html.escape(curve.name)}</title></polyline>'
        )
    return _figure(parts, title, x_label, y_label)


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot: y from 0 to 1, with half the height of its bar, NaN without one; size its radius."""

    name: str
    color: str
    x: float
    y: float
    half: float
    best: bool = False
    size: float = 5.0


def scatter(points: Sequence[Point], *, title: str, x_label: str, y_label: str) -> str:
    """Points over a logarithmic x, y from 0 to 100 %; those on the Pareto front (`best`) are filled."""
    low, high = min(p.x for p in points), max(p.x for p in points)
    start, end = math.log10(low) - 0.15, math.log10(high) + 0.15
    parts = [_percent_axis()]

    def across(x: float) -> float:
        return LEFT + (math.log10(x) - start) / (end - start) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return TOP + (1 - min(max(y, 0.0), 1.0)) * (HEIGHT - TOP - BOTTOM)

    for decade in range(math.floor(start), math.ceil(end) + 1):
        for factor in (1, 2, 5):
            value = factor * 10.0**decade
            if start <= math.log10(value) <= end:
                parts.append(
                    f'<text class="tick" x="{across(value):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">'
                    f"{value:,g}</text>"
                )
    for p in points:
        x, y = across(p.x), down(p.y)
        if not math.isnan(p.half):
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{down(p.y - p.half):.1f}" y2="{down(p.y + p.half):.1f}" '
                f'stroke="{p.color}"/>'
            )
        fill = p.color if p.best else "var(--paper)"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{p.size:.1f}" fill="{fill}" stroke="{p.color}" stroke-width="2">'
            f"<title>{html.escape(p.name)}</title></circle>"
        )
        side = "end" if x > WIDTH - 130 else "start"
        shift = -9 if side == "end" else 9
        parts.append(
            f'<text class="tick" x="{x + shift:.1f}" y="{y - 6:.1f}" text-anchor="{side}">{html.escape(p.name)}</text>'
        )
    return _figure(parts, title, x_label, y_label)


def critical_differences(
    names: Sequence[str], places: Sequence[float], bars: Sequence[tuple[int, int]], *, title: str
) -> str:
    """A critical-difference plot: average ranks on a line, names beside it, bars over those that are not told apart.

    Args:
        names, places: the best first. bars: first and last place in that order.
    """
    inner, line = 190, 30 + 9 * len(bars)
    rows = (len(names) + 1) // 2
    height = line + 26 + 20 * rows
    most = max(math.ceil(max(places)), 2)

    def across(place: float) -> float:
        return inner + (place - 1) / (most - 1) * (WIDTH - 2 * inner)

    parts = [f'<line class="grid" x1="{across(1):.1f}" x2="{across(most):.1f}" y1="{line}" y2="{line}"/>']
    for place in range(1, most + 1):
        parts.append(
            f'<text class="tick" x="{across(place):.1f}" y="14" text-anchor="middle">{place}</text>'
            f'<line class="grid" x1="{across(place):.1f}" x2="{across(place):.1f}" y1="18" y2="{line}"/>'
        )
    for i, (name, rank) in enumerate(zip(names, places, strict=True)):
        left = i < rows
        down = line + 26 + 20 * (i if left else len(names) - 1 - i)
        edge, anchor = (inner - 14, "end") if left else (WIDTH - inner + 14, "start")
        shift = -6 if left else 6
        parts.append(
            f'<polyline class="thread" fill="none" points="{across(rank):.1f},{line} {across(rank):.1f},{down} '
            f'{edge},{down}"/><circle class="dot" cx="{across(rank):.1f}" cy="{line}" r="3"/>'
            f'<text class="tick" x="{edge + shift}" y="{down + 4}" text-anchor="{anchor}">{html.escape(name)} '
            f"({rank:.1f})</text>"
        )
    for level, (first, last) in enumerate(bars):
        height_of_bar = line - 8 - 9 * level
        parts.append(
            f'<line class="bar" x1="{across(places[first]) - 5:.1f}" x2="{across(places[last]) + 5:.1f}" '
            f'y1="{height_of_bar}" y2="{height_of_bar}"/>'
        )
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(title)}">'
        f"<title>{html.escape(title)}</title>{''.join(parts)}</svg>"
    )


def thinned(y: Floats, most: int) -> NDArray[np.int64]:
    """Indices of at most about `most` places: of each stretch the lowest and the highest, and both ends."""
    if len(y) <= most:
        return np.arange(len(y))
    stretches = np.array_split(np.arange(len(y)), most // 2)
    kept = {0, len(y) - 1}
    for part in stretches:
        kept |= {int(part[y[part].argmin()]), int(part[y[part].argmax()])}
    return np.array(sorted(kept))


def _percent_axis() -> str:
    rows = []
    for percent in range(0, 101, 20):
        down = TOP + (1 - percent / 100) * (HEIGHT - TOP - BOTTOM)
        rows.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>')
        rows.append(
            f'<text class="tick" x="{LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{percent}</text>'
        )
    return "".join(rows)


def _round_numbers(low: float, high: float) -> list[float]:
    """Five to ten round numbers between two."""
    step = 10.0 ** math.floor(math.log10((high - low) / 5)) if high > low else 1.0
    while (high - low) / step > 10:
        step *= 2 if (high - low) / (2 * step) <= 10 else 5
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _figure(parts: Sequence[str], title: str, x_label: str, y_label: str) -> str:
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">'
        f"<title>{html.escape(title)}</title>{''.join(parts)}"
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>"
        f'<text class="axis" x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
        f"{html.escape(y_label)}</text></svg>"
    )
