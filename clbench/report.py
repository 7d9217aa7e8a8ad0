"""The report of a suite: tables on the terminal, in Markdown and HTML, plots, and every run as CSV. No torch.

Means are over the runs that finished, with 95 % t-intervals. A run that diverged or failed is counted and
listed, never dropped silently. The same cells give the same bytes.
"""

from __future__ import annotations

import base64
import csv
import functools
import html
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clbench import plots
from clbench.files import atomic_write, make_folder
from clbench.metrics import METRICS

if TYPE_CHECKING:
    from rich.table import Table

    from clbench.curve import Curve
    from clbench.suite import Cell as SuiteCell

COLUMNS = ("average_accuracy", "forgetting", "average_anytime_accuracy", "min_acc", "wc_acc", "wf10")
"""Metrics of the tables, in percent; a table leaves out those that its benchmark does not define."""

TITLES = {"forgetting": "forgetting", "wf10": "WF10"}
"""Where a table calls a metric other than its registered title."""

TIMES = {"train_seconds": "train s", "eval_seconds": "eval s"}

UPPER_BOUNDS = frozenset(("joint", "offline"))
"""Strategies that have all data: shown, but no rivals when the best is marked."""

NONE = "–"


@dataclass(frozen=True)
class Cell:
    """One run of a suite, as a report needs it.

    Attributes:
        benchmark, strategy: labels.
        seed: of the run.
        status: "done", "diverged", "failed" …
        metrics: fractions by name, None where one is not defined.
        train_seconds, eval_seconds: what it cost; None if unknown.
        curve: gives its curve when the plots are drawn; None if there is none.
        note: why it is not done.
        bound: whether the strategy is an upper bound.
        made_by: versions of what made it.
    """

    benchmark: str
    strategy: str
    seed: int
    status: str
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    train_seconds: float | None = None
    eval_seconds: float | None = None
    curve: Callable[[], Curve] | None = None
    note: str = ""
    bound: bool = False
    made_by: str = ""

    @staticmethod
    def of(cell: SuiteCell) -> Cell:
        """A cell of a suite that was run."""
        record = cell.record
        if record is None:
            return Cell(cell.benchmark, cell.strategy, cell.seed, cell.state, note=cell.message)
        code, environment = record.code, record.environment
        commit = (
            f" ({code['commit'][:9]}{', changed' if code['dirty'] else ''})" if code.get("commit") else ""
        )
        libraries = [f"{name} {version}" for name, version in environment["libraries"].items() if version]
        return Cell(
            cell.benchmark,
            cell.strategy,
            cell.seed,
            record.status,
            record.metrics,
            record.budget["train_seconds"],
            record.budget["eval_seconds"],
            lambda: record.curve,
            record.note,
            record.strategy["name"] in UPPER_BOUNDS,
            f"clbench {code['version']}{commit}; Python {environment['python']}; {', '.join(libraries)}; "
            f"{environment['device']} on {environment['processor']}, {environment['system']}",
        )


# --- numbers ---


@dataclass(frozen=True)
class Estimate:
    """A mean over n runs and half the width of its 95 % t-interval, which a single run does not have."""

    mean: float
    half: float | None
    n: int


@dataclass(frozen=True)
class Row:
    """The runs of one strategy on one benchmark.

    Attributes:
        runs: how many there are, whatever became of them.
        unfinished: status → how many, of those that are not done.
        values: metric, or cost, → estimate over the runs that are done; None where it is not defined.
        best: metrics of which it is the best, or not told from the best by the intervals.
    """

    benchmark: str
    strategy: str
    bound: bool
    runs: int
    unfinished: Mapping[str, int]
    values: Mapping[str, Estimate | None]
    best: frozenset[str] = frozenset()

    @property
    def done(self) -> int:
        return self.runs - sum(self.unfinished.values())


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Mean and 95 % t-interval of the values that are there."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    mean, half = plots.t_interval(there)
    return Estimate(float(mean), None if half is None else float(half), len(there))


def table_rows(cells: Sequence[Cell]) -> list[Row]:
    """A row for each benchmark and strategy, in the order of the cells, the best of each benchmark marked."""
    groups: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        groups.setdefault(cell.benchmark, {}).setdefault(cell.strategy, []).append(cell)
    rows: list[Row] = []
    for strategies in groups.values():
        table = [_row(runs) for runs in strategies.values()]
        best = {key: _best(table, key) for key in COLUMNS}
        rows += [
            replace(row, best=frozenset(key for key in COLUMNS if row.strategy in best[key])) for row in table
        ]
    return rows


def _row(runs: Sequence[Cell]) -> Row:
    done = [cell for cell in runs if cell.status == "done"]
    values = {key: estimate(cell.metrics.get(key) for cell in done) for key in _metric_names(runs)}
    for key in TIMES:
        values[key] = estimate(getattr(cell, key) for cell in done)
    unfinished = Counter(cell.status for cell in runs if cell.status != "done")
    return Row(runs[0].benchmark, runs[0].strategy, runs[0].bound, len(runs), dict(unfinished), values)


def _best(rows: Sequence[Row], key: str) -> set[str]:
    """Strategies whose interval overlaps that of the best mean.

    Upper bounds are no rivals, nor is a strategy of which a run is missing: its mean is over the survivors.
    """
    sign = -1 if METRICS[key].higher_is_better is False else 1
    rated = [row for row in rows if not row.bound and not row.unfinished]
    rivals = {row.strategy: value for row in rated if (value := row.values.get(key)) is not None}
    if len(rivals) < 2:
        return set()
    top = max(rivals.values(), key=lambda value: sign * value.mean)
    return {
        name
        for name, value in rivals.items()
        if abs(top.mean - value.mean) <= (top.half or 0.0) + (value.half or 0.0)
    }


def _metric_names(cells: Iterable[Cell]) -> list[str]:
    """Metrics that any cell has: registered ones in their order, then others."""
    names = {name for cell in cells for name in cell.metrics}
    return [*[name for name in METRICS if name in names], *sorted(names - METRICS.keys())]


def summary(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The rows as JSON-able dictionaries, with every metric: mean, half its 95 % interval, number of runs."""
    return [
        {
            "benchmark": row.benchmark,
            "strategy": row.strategy,
            "runs": row.runs,
            "done": row.done,
            **row.unfinished,
            "metrics": {
                key: value and {"mean": value.mean, "half_width": value.half, "n": value.n}
                for key, value in row.values.items()
            },
        }
        for row in table_rows(cells)
    ]


# --- tables ---


@dataclass(frozen=True)
class _Column:
    """A column of a printed table: its head and, for each row, text and whether it is marked."""

    head: str
    texts: tuple[tuple[str, bool], ...]
    words: bool = False


def _columns(rows: Sequence[Row]) -> list[_Column]:
    """What all tables of a benchmark show."""
    columns = [
        _Column("strategy", tuple((row.strategy, False) for row in rows), words=True),
        _Column("runs", tuple((_runs(row), False) for row in rows)),
    ]
    for key in COLUMNS:
        if key == COLUMNS[0] or any(row.values.get(key) for row in rows):
            texts = tuple((percent(row.values.get(key)), key in row.best) for row in rows)
            columns.append(_Column(_head(key), texts))
    for key, head in TIMES.items():
        columns.append(_Column(head, tuple((_seconds(row.values.get(key)), False) for row in rows)))
    return columns


def percent(value: Estimate | None) -> str:
    """`87.1 ± 0.4`, in percent."""
    if value is None:
        return NONE
    shown = _signed(100 * value.mean)
    return shown if value.half is None else f"{shown} ± {100 * value.half:.1f}"


def _signed(number: float) -> str:
    text = f"{number:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def _seconds(value: Estimate | None) -> str:
    if value is None:
        return NONE
    digits = 0 if value.mean >= 100 else 1 if value.mean >= 1 else 2
    return f"{value.mean:,.{digits}f}"


def _runs(row: Row) -> str:
    """`5`, or `2/5 diverged`."""
    unfinished = [f"{count}/{row.runs} {status}" for status, count in row.unfinished.items()]
    return ", ".join(unfinished) or str(row.runs)


def _title(key: str) -> str:
    return TITLES.get(key, METRICS[key].title)


def _head(key: str) -> str:
    arrow = {True: " ↑", False: " ↓", None: ""}[METRICS[key].higher_is_better]
    return _title(key) + arrow


def _by_benchmark(rows: Sequence[Row]) -> dict[str, list[Row]]:
    tables: dict[str, list[Row]] = {}
    for row in rows:
        tables.setdefault(row.benchmark, []).append(row)
    return tables


def rich_tables(cells: Sequence[Cell]) -> list[Table]:
    """A table for the terminal for each benchmark."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    tables = []
    for benchmark, rows in _by_benchmark(table_rows(cells)).items():
        # 80 characters: no seconds of evaluation, no column of equal numbers of runs, no spaces
        # around ± and arrows.
        columns, title = _columns(rows)[:-1], Text(benchmark, style="bold")
        if len({_runs(row) for row in rows}) == 1 and not rows[0].unfinished:
            del columns[1]
            title.append(f"  {rows[0].runs} {'seeds' if rows[0].runs > 1 else 'seed'}", style="dim")
        table = Table(
            title=title,
            title_justify="left",
            caption=Text(f"{_note(rows)}\n", style="dim"),
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=0,
            pad_edge=False,
            show_edge=False,
        )
        for column in columns:
            side: Literal["left", "right"] = "left" if column.words else "right"
            table.add_column(
                Text(column.head.replace(" ↑", "↑").replace(" ↓", "↓")), justify=side, no_wrap=True
            )
        for i, row in enumerate(rows):
            line = []
            for column in columns:
                text, marked = column.texts[i]
                line.append(Text(text.replace(" ± ", "±"), style="bold" if marked else ""))
            if row.unfinished:
                line[1].stylize("red")
            table.add_row(*line)
        tables.append(table)
    return tables


def markdown_table(cells: Sequence[Cell]) -> str:
    """A Markdown table for each benchmark, under its name."""
    parts = []
    for benchmark, rows in _by_benchmark(table_rows(cells)).items():
        columns = _columns(rows)
        lines = [
            [_markdown(column.head) for column in columns],
            ["---" if column.words else "---:" for column in columns],
        ]
        for i in range(len(rows)):
            shown = [(_markdown(column.texts[i][0]), column.texts[i][1]) for column in columns]
            lines.append([f"**{text}**" if marked else text for text, marked in shown])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"## {_markdown(benchmark)}\n\n{table}\n\n{_note(rows)}\n")
    return "\n".join(parts)


def _note(rows: Sequence[Row]) -> str:
    """What a table's numbers are."""
    several = any(row.done > 1 for row in rows)
    text = "Percent; mean ± half the 95 % t-interval over seeds." if several else "Percent; one run each."
    if any(row.best for row in rows):
        text += " Bold: the best"
        text += ", and every strategy whose interval overlaps the best one's." if several else "."
        if bounds := [row.strategy for row in rows if row.bound]:
            text += f" Not rated: {' and '.join(bounds)}, with all past data at hand."
    if any(row.unfinished for row in rows):
        text += " Where runs did not finish, means are over the others and not rated."
    return text


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*`<\[\]])", r"\\\1", " ".join(text.split()))


# --- the report ---


def write_report(cells: Sequence[Cell], folder: Path, title: str, command: str) -> Path:
    """Write `report.html`, which needs no other file, and beside it `table.md`, `results.csv` and the plots.

    Args:
        cells: the runs, in the order of the tables.
        folder: created if need be.
        title: of the suite.
        command: what made the runs; shown so that it can be repeated.

    Returns:
        The path of `report.html`.

    Raises:
        LedgerError: the folder cannot be written, or a curve cannot be read.
    """
    make_folder(folder)
    rows = _by_benchmark(table_rows(cells))
    slugs = _slugs(rows)
    style = plots.styles(cell.strategy for cell in cells)
    sections = []
    for benchmark, table in rows.items():
        runs = [cell for cell in cells if cell.benchmark == benchmark]
        figures = _draw(benchmark, slugs[benchmark], runs, folder, style)
        sections.append(_section(benchmark, slugs[benchmark], table, runs, figures))
    atomic_write(folder / "results.csv", _csv(cells))
    lines = [f"# {_markdown(title)}", "", f"    {command}", "", markdown_table(cells), _legend(cells), ""]
    atomic_write(folder / "table.md", "\n".join(lines))
    page = folder / "report.html"
    atomic_write(page, _page(title, command, cells, slugs, sections))
    return page


def _slugs(benchmarks: Iterable[str]) -> dict[str, str]:
    """A part of file names for each benchmark; labels are free text."""
    slugs: dict[str, str] = {}
    for name in benchmarks:
        slug = base = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "benchmark"
        number = 2
        while slug in slugs.values():
            slug, number = f"{base}-{number}", number + 1
        slugs[name] = slug
    return slugs


@dataclass(frozen=True)
class _Plot:
    file: Path
    caption: str


def _draw(
    benchmark: str, slug: str, cells: Sequence[Cell], folder: Path, style: Mapping[str, plots.Style]
) -> list[_Plot]:
    """The plots of a benchmark, of the runs that finished; none where there is nothing to draw."""
    curves: dict[str, list[Curve]] = {}
    for cell in cells:
        if cell.status == "done" and cell.curve is not None:
            curves.setdefault(cell.strategy, []).append(cell.curve())
    drawn = []
    if any(len(curve.ticks()) for runs in curves.values() for curve in runs):
        file = folder / f"stability-gap-{slug}.png"
        title = f"{benchmark}: accuracy on the first experience"
        plots.stability_gap(curves, file, title=title, styles=style)
        caption = "How accuracy on the first experience drops when another one begins, and recovers."
        drawn.append(_Plot(file, caption))
        file = folder / f"seen-accuracy-{slug}.png"
        title = f"{benchmark}: accuracy on the experiences seen so far"
        plots.seen_accuracy(curves, file, title=title, styles=style)
        drawn.append(
            _Plot(file, "Accuracy averaged over the experiences seen so far; its mean over all steps is AAA.")
        )
    full = {name: runs for name, runs in curves.items() if all(curve.full.any() for curve in runs)}
    if full:
        file = folder / f"accuracy-matrix-{slug}.png"
        matrices = {name: plots.mean_matrix(runs) for name, runs in full.items()}
        plots.accuracy_matrix(matrices, file, title=f"{benchmark}: accuracy matrix")
        caption = (
            "Accuracy in percent on the full test set of each experience (columns) after learning each one "
        )
        caption += "(rows), mean over runs. Right of the line is what was not learned yet."
        drawn.append(_Plot(file, caption))
    return drawn


def _csv(cells: Sequence[Cell]) -> str:
    """A line for each run, every metric in full precision; empty where there is no number."""
    metrics = _metric_names(cells)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["benchmark", "strategy", "seed", "status", *TIMES, *metrics, "note"])
    for c in cells:
        numbers = [c.train_seconds, c.eval_seconds, *[c.metrics.get(key) for key in metrics]]
        writer.writerow([c.benchmark, c.strategy, c.seed, c.status, *numbers, c.note])
    return text.getvalue()


def _shown(cells: Sequence[Cell]) -> list[str]:
    """Metrics that a table of these cells has."""
    return [key for key in COLUMNS if any(cell.metrics.get(key) is not None for cell in cells)]


def _legend(cells: Sequence[Cell]) -> str:
    """What the metrics are, in Markdown."""
    return "\n".join(f"- **{_head(key)}**: {METRICS[key].summary}" for key in _shown(cells))


# --- HTML ---

_escape = functools.partial(html.escape, quote=True)


def _page(
    title: str, command: str, cells: Sequence[Cell], slugs: Mapping[str, str], sections: Sequence[str]
) -> str:
    counts = Counter(cell.status for cell in cells)
    strategies, seeds = len({c.strategy for c in cells}), len({c.seed for c in cells})
    scope = " × ".join(
        f"{number} {word if number == 1 else plural}"
        for number, word, plural in (
            (strategies, "strategy", "strategies"),
            (len(slugs), "benchmark", "benchmarks"),
            (seeds, "seed", "seeds"),
        )
    )
    states = ", ".join(f"{count} {status}" for status, count in counts.items())
    links = " · ".join(f'<a href="#{slug}">{_escape(name)}</a>' for name, slug in slugs.items())
    makers = dict.fromkeys(cell.made_by for cell in cells if cell.made_by)
    made_by = "".join(_tag("li", text) for text in makers)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_escape(title)}</title>
<style>{_CSS}</style>
</head>
<body>
<header>
<h1>{_escape(title)}</h1>
<p>{scope}: {states}.</p>
<pre><code>{_escape(command)}</code></pre>
<nav>{links} · <a href="#metrics">metrics</a></nav>
</header>
<main>
{"".join(sections)}<section>
<h2 id="metrics">Metrics</h2>
{_definitions(cells)}</section>
</main>
<footer>
<p>Every run in full precision: <code>results.csv</code>. The tables as Markdown: <code>table.md</code>.</p>
{f"<p>Made with</p><ul>{made_by}</ul>" if made_by else ""}
</footer>
</body>
</html>
"""


def _section(
    benchmark: str, slug: str, rows: Sequence[Row], cells: Sequence[Cell], figures: Sequence[_Plot]
) -> str:
    columns = _columns(rows)
    head = "".join(_tag("th", c.head, scope="col", class_="words" if c.words else "") for c in columns)
    body = ""
    for i, row in enumerate(rows):
        line = _tag("th", row.strategy, scope="row", class_="words")
        for column in columns[1:]:
            text, marked = column.texts[i]
            mean, _, half = text.partition(" ± ")
            shown = _escape(mean) + (_tag("small", f" ± {half}") if half else "")
            line += f"<td><b>{shown}</b></td>" if marked else f"<td>{shown}</td>"
        kind = "unfinished" if row.unfinished else "bound" if row.bound else "rated"
        body += f'<tr class="{kind}">{line}</tr>\n'
    missing = ""
    for cell in cells:
        if cell.status != "done":
            why = f". {_escape(cell.note)}" if cell.note else ""
            run = _escape(f"{cell.strategy}, seed {cell.seed}")
            missing += f"<li>{run}: {_tag('strong', cell.status)}{why}</li>\n"
    if missing:
        missing = f'<p class="note">Not in the means, and not drawn:</p>\n<ul class="note">\n{missing}</ul>\n'
    images = ""
    for plot in figures:
        png = plot.file.read_bytes()
        width = int.from_bytes(png[16:20], "big") * 114 // plots.DPI  # so that all have letters of one size
        image = base64.b64encode(png).decode()
        alt = _escape(f"{benchmark}. {plot.caption}")
        images += f'<figure><img src="data:image/png;base64,{image}" width="{width}" alt="{alt}">'
        images += f"{_tag('figcaption', plot.caption)}</figure>\n"
    return f"""<section>
{_tag("h2", benchmark, id=slug)}
<div class="table"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}</tbody>
</table></div>
{_tag("p", _note(rows), class_="note")}
{missing}{images}</section>
"""


def _tag(name: str, text: str, **attributes: str) -> str:
    """An element with a text; attributes that are empty are left out."""
    given = "".join(f' {key.rstrip("_")}="{_escape(value)}"' for key, value in attributes.items() if value)
    return f"<{name}{given}>{_escape(text)}</{name}>"


def _definitions(cells: Sequence[Cell]) -> str:
    """What each metric of the tables means, its formula and where it is from."""
    entries = ""
    for key in _shown(cells):
        metric = METRICS[key]
        direction = {True: "Higher is better.", False: "Lower is better.", None: ""}[metric.higher_is_better]
        entries += (
            f"<dt>{_escape(_head(key))}</dt><dd>{_escape(metric.summary)} {direction}"
            f"<br><code>{_escape(metric.formula)}</code><br><small>{_escape(metric.reference)}</small></dd>\n"
        )
    entries += (
        "<dt>train s, eval s</dt><dd>Seconds spent on training and on evaluation, mean over runs.</dd>\n"
    )
    return f"<dl>\n{entries}</dl>\n"


_CSS = """
:root { --ink: #1d1d1f; --faint: #63666b; --line: #d9dce1; --paper: #ffffff; --tint: #f5f6f8; --link: #0b62a8;
  --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e8ea; --faint: #a2a6ad; --line: #3a3e45;
  --paper: #17191d; --tint: #22252b; --link: #79b8f0; --bad: #ff8a80; } }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 60rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  sans-serif; }
h1 { margin: 0 0 .3rem; font-size: 1.9rem; line-height: 1.2; letter-spacing: -.01em; }
h2 { padding-top: .5rem; margin: 3rem 0 .8rem; font-size: 1.3rem; line-height: 1.3; }
p { margin: .5rem 0; }
header p, footer, td small, .note, figcaption, small { color: var(--faint); }
a { color: var(--link); }
code { font: .88em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { margin: 1rem 0; padding: .7rem 1rem; overflow-x: auto; background: var(--tint); border-radius: 8px; }
.table { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .6rem; text-align: right; white-space: nowrap; font-weight: normal; }
thead th { border-bottom: 2px solid var(--line); font-weight: 600; vertical-align: bottom; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
.words { text-align: left; }
th:first-child { padding-left: 0; position: sticky; left: 0; background: var(--paper); }
th:last-child, td:last-child { padding-right: 0; }
tr.bound > * { font-style: italic; color: var(--faint); }
tr.unfinished > :nth-child(2) { color: var(--bad); }
.note { font-size: .85rem; }
ul.note { margin: .3rem 0; padding-left: 1.2rem; }
ul.note strong { color: var(--bad); font-weight: 600; }
figure { margin: 1.6rem 0; }
img { display: block; box-sizing: border-box; max-width: 100%; height: auto; padding: .5rem; background: #fff;
  border: 1px solid var(--line); border-radius: 8px; }
figcaption { margin-top: .5rem; font-size: .85rem; }
dl { margin: 0; }
dt { margin-top: 1rem; font-weight: 600; }
dd { margin: 0; }
footer { margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--line); font-size: .85rem; }
footer ul { margin: 0; padding-left: 1.2rem; }
"""
