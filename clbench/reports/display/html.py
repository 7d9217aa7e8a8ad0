"""What a notebook shows of an object: a piece of HTML that needs nothing else and changes nothing around it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from markupsafe import Markup

from clbench.reports.display.curves import WIDE
from clbench.reports.markup import spelled, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CSS = """
.clbench { max-width: 64rem; }
.clbench .table { overflow-x: auto; margin: .4rem 0; }
.clbench table { border-collapse: collapse; font-size: .9em; font-variant-numeric: tabular-nums; margin: 0; }
.clbench th, .clbench td { padding: .25em .6em; text-align: right; white-space: nowrap; }
.clbench tbody th, .clbench tr.bound td { font-weight: normal; }
.clbench th.words, .clbench td.words { text-align: left; }
.clbench tr.bound { font-style: italic; }
.clbench .note, .clbench small, .clbench figcaption { opacity: .7; font-size: .86em; }
.clbench p { margin: .3rem 0; }
.clbench figure { margin: .5rem 0; }
.clbench img { max-width: 100%; background: #fff; }
"""


def fragment(*parts: object) -> str:
    """Return parts as a piece of HTML with its own style; text in them is escaped."""
    return str(
        spelled(tag("div", Markup("<style>{}</style>\n").format(Markup(CSS)), *parts, class_="clbench"))
    )


def picture(draw: Callable[[Axes], object], caption: str, *, figsize: tuple[float, float] = WIDE) -> Markup:
    """Return a figure with one pair of axes, as an image inside the page.

    Args:
        draw: what draws into the axes. caption: below the image, and in its place.
        figsize: width and height in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=figsize, layout="constrained"
    )  # none of pyplot's, which would be shown a second time
    FigureCanvasAgg(figure)
    draw(figure.subplots())
    return embedded(figure, caption)


def embedded(figure: Figure, caption: str) -> Markup:
    """Return a figure as an image inside the page; its caption stands below, and in its place."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110, metadata={"Software": None})
    figure.clear()
    data = base64.b64encode(content.getvalue()).decode()
    image = tag("img", src=f"data:image/png;base64,{data}", alt=caption)
    return tag("figure", image, tag("figcaption", caption))
