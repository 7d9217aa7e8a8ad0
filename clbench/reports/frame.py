"""Pages: what the report of a suite and the leaderboard's site share. Imports no torch."""

from __future__ import annotations

import base64
import functools
import io
import re
from collections.abc import Container, Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from clbench.reports import charts as drawing
from clbench.reports.markup import asset, join, policy, spelled, tag
from clbench.reports.tables import Column, Text
from clbench.results.curve import Floats
from clbench.results.measures import ACCURACY, Measure


def page(
    title: str, header: object, body: object, footer: object, *, tables: bool = False, charts: bool = False
) -> Markup:
    """Return a whole page, which needs no other file.

    Args:
        tables: whether it sorts and filters its tables. charts: whether it has figures of `clbench.reports.charts`.
    """
    script, style = _script(tables, charts), _style(charts)
    whole = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{policy}
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>{header}</header>
<main>{body}</main>
<footer>{footer}</footer>
{script}</body>
</html>
""").format(
        policy=policy(style, script),
        title=title,
        style=style,
        header=header,
        body=body,
        footer=footer,
        script=Markup("<script>{}</script>\n").format(script) if script else "",
    )
    return spelled(whole)


def table(
    columns: Sequence[Column], rows: Sequence[Mapping[str, str]], *, up: str = "", sortable: bool = False
) -> Markup:
    """Return a table of columns.

    Args:
        rows: attributes of each. up: the way to where links start. sortable: whether the script sorts it.
    """
    head = [
        tag(
            "th",
            tag("button", of.head, type="button", title=of.hint or "sort") if sortable else of.head,
            scope="col",
            class_=("words name" if of.head == "strategy" else "words") if of.words else "",
            aria_sort="none" if sortable else "",
        )
        for of in columns
    ]
    lines = [
        tag("tr", *(_inside(of, of.texts[i], up) for of in columns), **about) + "\n"
        for i, about in enumerate(rows)
    ]
    whole = tag(
        "table",
        tag("thead", tag("tr", *head)),
        "\n",
        tag("tbody", "\n", *lines),
        class_="sortable" * sortable,
    )
    return tag("div", whole, class_="table") + "\n"


def _inside(column: Column, of: Text, up: str) -> Markup:
    aside = None if column.words else re.search(r" (±.*|\(.*)", of.text)
    shown = join([of.text[: aside.start()], _aside(aside[0])]) if aside else escape(of.text)
    shown = tag("a", shown, href=up + of.link) if of.link else tag("b", shown) if of.best else shown
    value = None if of.value is None else repr(of.value)
    if column.head == "strategy":
        return called(of.text, shown)
    return tag("td", shown, **({"class_": "words"} if column.words else {"data_value": value}))


LONG = 24
"""Characters of a name that stay on one line."""


def called(text: str, shown: object = None) -> Markup:
    """Return the head of a row, by which it is called; a long one leaves room for what is said of it."""
    room = " long" if len(text) > LONG else ""
    return tag("th", text if shown is None else shown, scope="row", class_=f"words{room}")


NUMBERS = 10
"""Columns of a matrix whose numbers can be read; one with more is a picture."""
SHADES = 20
"""Shades of a cell of a matrix: the class `v7` is seven twentieths of the darkest."""


def _aside(text: str) -> Markup:
    return tag("small", text, class_="long" if len(text) > 12 else "")


def matrices(
    found: Mapping[str, Floats],
    shown: Container[str],
    names: Sequence[str] = (),
    measure: Measure = ACCURACY,
) -> Markup:
    """Return accuracy matrices, (T, S) with NaN where there is none: those of `shown`, and the others on request.

    Args:
        names: of the experiences, where they have some. measure: what they are of.
    """
    span = measure.span(found.values())
    figures = [(name in shown, _matrix(name, R, names, measure, span)) for name, R in found.items()]
    some, others = ([figure for first, figure in figures if first is wanted] for wanted in (True, False))
    more = tag("summary", f"{len(others)} more"), tag("div", *others, class_="matrices")
    return tag("div", *some, class_="matrices") + (tag("details", *more) if others else "")


def matrices_caption(measure: Measure, after: str, over: str) -> str:
    """Return what `matrices` shows, in words: which experiences the rows are after, and what the means are over."""
    what = "Percent" if measure.share else f"{measure.name.capitalize()} in {measure.unit}"
    said = f"{what} on the full test set of each experience (columns) after {after} (rows), mean over {over}"
    return said if measure.share else f"{said}; the lower, the darker"


def _matrix(
    name: str, R: Floats, names: Sequence[str], measure: Measure, span: tuple[float, float]
) -> Markup:
    (T, S), shades = R.shape, measure.shades(R, span)
    later = np.triu(np.ones((T, S), bool), 1) & (
        T == S
    )  # what was not learned yet, where streams are experiences
    if S > NUMBERS:
        told = " to ".join(measure.short(end(R)) + "%" * measure.share for end in (np.nanmin, np.nanmax))
        alt = f"{measure.name} matrix of {name}, from {told}"
        return tag("figure", _picture(shades, later, alt), tag("figcaption", name))

    def cell(value: float, shade: float, unseen: bool) -> Markup:
        if np.isnan(value):
            return tag("td")
        return tag("td", measure.short(value), class_=f"v{round(SHADES * shade)}{' later' * unseen}")

    lines = [
        tag(
            "tr",
            called(names[i] if len(names) == T else str(i + 1)),
            *map(cell, R[i].tolist(), shades[i].tolist(), later[i].tolist()),
        )
        for i in range(T)
    ]
    table = tag("table", tag("tbody", *lines), class_="matrix")
    return tag("figure", table, tag("figcaption", name))


def _picture(R: Floats, later: NDArray[np.bool_], alt: str) -> Markup:
    """Return a matrix of shades as a picture with a pixel for each, the more opaque the higher."""
    from PIL import Image

    pixels = np.empty((*R.shape, 4), np.uint8)
    pixels[..., :3] = HEAT
    pixels[..., 3] = np.rint(np.nan_to_num(R) * np.where(later, 0.5, 0.9) * 255)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="png")
    source = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    return tag("img", src=source, alt=alt, width=220, height=round(220 * R.shape[0] / R.shape[1]))


HEAT = (45, 130, 200)
"""Red, green and blue of the best there can be, which shows on light and dark paper."""


@functools.cache
def _script(tables: bool, charts: bool) -> Markup:
    """Return what a page runs."""
    return join([*([asset("table.js")] if tables else []), *([drawing.script()] if charts else [])])


@functools.cache
def _style(charts: bool) -> Markup:
    shade = Markup(".v{} {{ --v: {:g}; }}\n")
    shades = [shade.format(i, i / SHADES) for i in range(SHADES + 1)]
    return join([asset("page.css"), *shades, *([drawing.style()] if charts else [])])
