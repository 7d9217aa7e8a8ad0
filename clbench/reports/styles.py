"""How lines are drawn, in files and in pages: colours and dashes, by which every line can be told. No torch.

Colours are those of Okabe & Ito (2008), which people with colour-vision deficiencies can tell apart, and a violet in
place of their yellow, which does not show on white. Each has a lighter partner for dark pages. Bounds are grey, black
or brown, and dashed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from markupsafe import Markup

Dashes = str | tuple[float, tuple[float, ...]]

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A1FC9")
"""Blue, vermilion, green, purple, orange, sky blue, and violet."""

BOUNDS = {"finetune": "#8A8A8A", "joint": "#000000", "offline": "#8C6D46"}
"""Strategies that others are measured against, not rivals."""
BOUND_DASHES: tuple[Dashes, ...] = ((0, (4, 1.5)), (0, (2, 1)), (0, (7, 2, 1, 2)))
"""Dashes of a bound, and of further ones of the same strategy."""

ON_DARK = {
    **dict(
        zip(
            OKABE_ITO,
            ("#3A8FE8", "#EE6A30", "#12A87D", "#E08FBE", "#F0A824", "#94D6FF", "#8050FF"),
            strict=True,
        )
    ),
    **dict(zip(BOUNDS.values(), ("#9A9A9A", "#F4F4F4", "#B0895A"), strict=True)),
}
"""What a colour is on a dark page."""


@dataclass(frozen=True)
class Style:
    """How a strategy is drawn; `behind` the others where it is none of them."""

    color: str
    dashes: Dashes = "-"
    behind: bool = False

    @property
    def lengths(self) -> tuple[float, ...]:
        """Pixels of its dashes and gaps in a page, in turn; none of a solid line."""
        return () if isinstance(self.dashes, str) else tuple(1.8 * length for length in self.dashes[1])

    @property
    def variable(self) -> str:
        """The variable of a page's style that holds its colour, of those in `variables`."""
        return _variable(self.color)


def styles(names: Iterable[str], strategies: Mapping[str, str] | None = None) -> dict[str, Style]:
    """Return a style for each name, no two of rivals the same: bounds have theirs, others take the palette in turn,
    then with other dashes.

    Args:
        names: of strategies, or labels.
        strategies: label → the strategy that it stands for.
    """
    chosen: dict[str, Style] = {}
    rivals = 0
    for name in dict.fromkeys(names):
        strategy = (strategies or {}).get(name, name)
        if strategy in BOUNDS:
            color = BOUNDS[strategy]
            again = sum(style.color == color for style in chosen.values())
            chosen[name] = Style(color, BOUND_DASHES[again % len(BOUND_DASHES)], behind=True)
            continue
        turn, place = divmod(rivals, len(OKABE_ITO))
        chosen[name] = Style(OKABE_ITO[place], _dashes(turn))
        rivals += 1
    return chosen


def _dashes(turn: int) -> Dashes:
    """Return a pattern for each turn of the palette: solid, dots, a dash and a dot, long dashes, and then a dash and
    more and more dots."""
    first: tuple[Dashes, ...] = ("-", (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (7, 2)))
    return first[turn] if turn < len(first) else (0, (6, 1.5, *(1, 1.5) * (turn - 2)))


def variables() -> Markup:
    """Return the part of a page's style that gives every colour, in the light and in the dark."""
    form = Markup("{}: {};\n")
    light, dark = (
        Markup("").join(form.format(_variable(color), shown) for color, shown in of)
        for of in (zip(ON_DARK, ON_DARK, strict=True), ON_DARK.items())
    )
    return Markup(
        ":root {{\n{}}}\n@media screen and (prefers-color-scheme: dark) {{ :root {{\n{}}} }}\n"
    ).format(light, dark)


def _variable(color: str) -> str:
    return f"--color-{color.lstrip('#').lower()}"
