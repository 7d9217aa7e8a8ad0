"""Tables of rows: their columns, and how these are written for a terminal and in Markdown. No torch.

What a table marks as best is said by `clbench.results.statistics.best`. `clbench.reports.frame` writes them as HTML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from clbench.files.names import printable
from clbench.reports.rows import TIMES, Cell, Row, by_benchmark, difference_rows, keys_of, table_rows
from clbench.results.metrics import METRICS
from clbench.results.statistics import INTERVAL_FROM, RANKED_FROM, TOO_FEW, Interval

if TYPE_CHECKING:
    from rich.table import Table

NONE = "–"


class Text(NamedTuple):
    """What stands in a table: marked as best or not, what it is sorted by, if not by the text, and where it leads."""

    text: str
    best: bool = False
    value: float | None = None
    link: str = ""


@dataclass(frozen=True)
class Column:
    """A column: its head, a text for each row, whether these are words, or begin with code, and what it is."""

    head: str
    texts: tuple[Text, ...]
    words: bool = False
    hint: str = ""
    code: bool = False


def columns_of(rows: Sequence[Row], differences: bool = False) -> list[Column]:
    """Return what all tables of a suite show; of differences with their signs, and without costs."""
    shown = metric_columns(rows, keys_of(rows), differences)
    if max(row.done for row in rows) < INTERVAL_FROM:  # the note says it once
        bare = [[of._replace(text=of.text.replace(f" ({TOO_FEW})", "")) for of in c.texts] for c in shown]
        shown = [replace(column, texts=tuple(texts)) for column, texts in zip(shown, bare, strict=True)]
    return [
        Column("strategy", tuple(Text(row.strategy) for row in rows), words=True),
        Column("runs", tuple(Text(_runs(row)) for row in rows)),
        *shown,
        *(
            Column(head, tuple(Text(_seconds(row.interval(key))) for row in rows))
            for key, head in TIMES.items()
            if not differences
        ),
    ]


def metric_columns(rows: Sequence[Row], keys: Sequence[str], plus: bool = False) -> list[Column]:
    """Return a column for each metric, with its best rows marked."""
    columns = []
    for key in keys:
        found = [(row.interval(key) if row.tells(key) else None, key in row.best) for row in rows]
        texts = (Text(told(of, key, plus), best, of.mean if of else float("inf")) for of, best in found)
        columns.append(Column(head_of(key), tuple(texts), hint=METRICS[key].summary))
    return columns


def told(of: Interval | None, key: str = "average_accuracy", plus: bool = False) -> str:
    """`87.1 ± 0.4`, in percent where it is a share; `+87.1 ± 0.4` with a sign of its own; `87.1 (too few)` of too few
    runs."""
    if of is None:
        return NONE
    scale, form = 100 if METRICS[key].share else 1, METRICS[key].form(".1f")
    shown = format(scale * of.mean, form)
    zero = not shown.strip("-0.")
    shown = shown.removeprefix("-") if zero else shown.replace("-", "−")
    if plus and not zero and of.mean > 0:
        shown = f"+{shown}"
    if of.n < INTERVAL_FROM:
        return f"{shown} ({TOO_FEW})" if of.n > 1 else shown
    return f"{shown} ± {format(scale * of.half, form)}"


def _seconds(value: Interval | None) -> str:
    if value is None:
        return NONE
    return f"{value.mean:,.{0 if value.mean >= 100 else 1 if value.mean >= 1 else 2}f}"


def size_of(costs: Mapping[str, float], of: str = "memory_bytes") -> str:
    """Return the size of a memory, or of all that is held, in kB or MB."""
    size = costs.get(of, 0.0)
    if size == 0:
        return "0"
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


MOST_SEEDS = 10
"""Seeds and stretches of them that a table lists; where there are more, the last ones."""


def listed(seeds: Sequence[int]) -> str:
    """`0–4`, or `3, 7, 11, 12, 19`: seeds in order, three or more that follow each other as a stretch."""
    stretches: list[list[int]] = []
    for seed in sorted(seeds):
        if not stretches or seed != stretches[-1][-1] + 1:
            stretches.append([])
        stretches[-1].append(seed)
    told = [
        part for s in stretches for part in ([f"{s[0]}–{s[-1]}"] if len(s) > 2 else [str(seed) for seed in s])
    ]
    return ", ".join(told if len(told) <= MOST_SEEDS else [*told[: MOST_SEEDS - 1], f"… {told[-1]}"])


def counted(seeds: Sequence[int]) -> str:
    """Return how many seeds, and which: `5 (0–4)`."""
    return f"{len(seeds)} ({listed(seeds)})" if seeds else "0"


def _runs(row: Row) -> str:
    """`5 (0–4)`, or `3 (0, 2, 4), 2/5 diverged`."""
    return ", ".join([*([counted(row.seeds)] if row.seeds else []), *_unfinished(row)])


def _unfinished(row: Row) -> list[str]:
    return [f"{count}/{row.runs} {status}" for status, count in row.unfinished.items()]


def head_of(key: str) -> str:
    """Return what a table calls a metric, and where it gets better."""
    return METRICS[key].head + {True: " ↑", False: " ↓", None: ""}[METRICS[key].higher_is_better]


def units_of(keys: Sequence[str]) -> str:
    """Return what a table's metrics are told in: `Percent`, or `Nats per token (bpc: bits)`, the first's before all."""
    units = dict[str, list[str]]()
    for metric in (METRICS[key] for key in keys):
        units.setdefault("percent" if metric.share else metric.unit or "no unit", []).append(metric.head)
    first, *others = units
    also = "; ".join(f"{', '.join(units[unit])}: {unit}" for unit in others)
    return f"{first[0].upper()}{first[1:]}" + f" ({also})" * bool(also)


# --- for the terminal ---

MOST_METRICS = 6
"""Columns of metrics that 80 characters hold, where none were chosen."""


def rich_tables(cells: Sequence[Cell], starred: bool = False) -> list[Table]:
    """Tables for the terminal: one for each benchmark, and one of its paired differences if it has any.

    Args:
        starred: marks what is best by a star, for text that has no bold.
    """
    differences = by_benchmark(difference_rows(cells))
    tables = []
    for benchmark, rows in by_benchmark(table_rows(cells)).items():
        tables.append(_rich_table(benchmark, rows, starred=starred))
        if benchmark in differences:
            tables.append(_rich_table(f"{benchmark}, paired differences", differences[benchmark], True))
    return tables


def _rich_table(name: str, rows: Sequence[Row], differences: bool = False, *, starred: bool = False) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text as Styled

    # 80 characters: no more metrics than that holds, unless they were chosen, no seconds of evaluation, no column of
    # equal numbers of runs, no spaces around ± and arrows, and nothing in every cell that can be said once.
    columns, title = columns_of(rows, differences), Styled(name, style="bold")
    costs = [] if differences else columns[-2:-1]
    most = MOST_METRICS if not rows[0].cells[0].columns else None
    shown = (columns if differences else columns[:-2])[2:][:most]
    columns = [*columns[:2], *shown, *costs]
    finished = {row.seeds for row in rows if not row.unfinished}
    if len(finished) == 1:
        (seeds,) = finished
        title.append(f"  {len(seeds)} {'seeds' if len(seeds) > 1 else 'seed'} ({listed(seeds)})", style="dim")
        bare = tuple(Text(", ".join(_unfinished(row)) or str(row.runs)) for row in rows)
        columns[1:2] = [replace(columns[1], texts=bare)] if any(row.unfinished for row in rows) else []
    note = note_of(rows, differences)
    table = Table(
        title=title,
        title_justify="left",
        caption=Styled(f"{note.replace('Bold:', 'Starred:') if starred else note}\n", style="dim"),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_edge=False,
    )
    for column in columns:
        side: Literal["left", "right"] = "left" if column.words else "right"
        table.add_column(
            Styled(column.head.replace(" ↑", "↑").replace(" ↓", "↓")),
            justify=side,
            overflow="fold" if column.words else "ellipsis",
            no_wrap=not column.words,  # where there is no room, names are folded and numbers stay whole
        )
    for i, row in enumerate(rows):
        line = []
        for column in columns:
            text, marked, *_ = column.texts[i]
            short = text.replace(" ± ", "±")
            if starred and any(of.best for of in column.texts):
                short += "*" if marked else " "
            line.append(Styled(short, style="bold" if marked else ""))
        if row.unfinished:
            line[1].stylize("red")
        table.add_row(*line)
    return table


# --- in Markdown ---


def markdown_table(cells: Sequence[Cell]) -> str:
    """Return a Markdown table for each benchmark, under its name, and one of its paired differences if it has any."""
    differences = by_benchmark(difference_rows(cells))
    parts = []
    for benchmark, rows in by_benchmark(table_rows(cells)).items():
        parts.append(f"## {markdown(benchmark)}\n")
        for some, minus in ((rows, False), (differences.get(benchmark), True)):
            if some:
                parts.append(f"{markdown_rows(columns_of(some, minus))}\n\n{note_of(some, minus)}\n")
    return "\n".join(parts)


def markdown_rows(columns: Sequence[Column]) -> str:
    """Columns as a table in Markdown, what is best in bold; links are left out."""
    lines: list[Sequence[str]] = [
        [markdown(column.head) for column in columns],
        ["---" if column.words else "---:" for column in columns],
    ]
    lines += zip(*([_markdown(of, column.code) for of in column.texts] for column in columns), strict=True)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown(of: Text, code: bool) -> str:
    first, space, rest = of.text.partition(" ") if code else ("", "", of.text)
    shown = (f"`{first}`" if code else "") + space + markdown(rest)
    return f"**{shown}**" if of.best else shown


def markdown(text: str) -> str:
    return re.sub(r"([\\|*`<\[\]])", r"\\\1", printable(" ".join(text.split())))


def note_of(rows: Sequence[Row], differences: bool = False) -> str:
    """Return what a table's numbers are."""
    most = max(row.done for row in rows)
    text = units_of(keys_of(rows))
    if differences:
        text = text.replace("Percent", "Percentage points", 1)
        text += ": what the last part of a chain changes, paired by seed"
    if most < 2:
        text += "; one pair each." if differences else "; one run each."
    elif most < INTERVAL_FROM:
        text += f"; mean over {most} seeds, {TOO_FEW} for an interval."
    else:
        text += f"; mean ± half the 95 % t-interval {'of the differences' if differences else 'over seeds'}."
        if any(1 < row.done < INTERVAL_FROM for row in rows):
            text += f" Fewer than {INTERVAL_FROM} seeds are {TOO_FEW} for an interval."
    if differences:
        for row in rows:
            if row.also:
                text += f" In {row.strategy}, other settings differ, too: {', '.join(row.also)}."
        if any(row.unfinished for row in rows):
            text += " Pairs of which a run did not finish are left out."
        return text
    if any(row.best for row in rows):
        text += " Bold: the best, and those after it down to the first than which another is better with certainty"
        text += " (paired by seed, Holm's correction, 5 %)."
        if bounds := [row.strategy for row in rows if row.bound]:
            text += f" Not rated: {' and '.join(bounds)}, with all past data at hand."
        if oracles := [row.strategy for row in rows if row.selection == "oracle" and not row.bound]:
            text += f" Not rated: {' and '.join(oracles)}, with settings chosen on the test stream."
    elif len(rows) > 1 and most < RANKED_FROM:
        text += f" Fewer than {RANKED_FROM} seeds are {TOO_FEW} to say which is best."
    if any(row.unfinished for row in rows):
        text += " Where runs did not finish, means are over the others and not rated."
    if any(row.substrate for row in rows):
        for substrate in dict.fromkeys(row.substrate for row in rows):
            started = ", ".join(row.strategy for row in rows if row.substrate == substrate)
            text += f" Started from {substrate or 'random weights'}: {started}."
    return text
