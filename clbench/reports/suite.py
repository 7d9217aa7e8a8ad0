"""The report of a suite: a page, its tables in Markdown, its plots, and every run as CSV. No torch.

The same cells give the same bytes.
"""

from __future__ import annotations

import base64
import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from clbench.errors import LedgerError
from clbench.files import atomic_write, make_folder
from clbench.reports import plots
from clbench.reports.markup import join, policy, tag
from clbench.reports.tables import (
    TIMES,
    Cell,
    Row,
    by_benchmark,
    chosen_columns,
    columns_of,
    difference_rows,
    head_of,
    markdown,
    markdown_table,
    metric_names,
    note_of,
    shown_metrics,
    table_rows,
    title_of,
)
from clbench.results.metrics import METRICS


def write_report(cells: Sequence[Cell], folder: Path, title: str, command: str) -> Path:
    """Write `report.html`, which needs no other file, and beside it `table.md`, `results.csv` and the plots.

    Args:
        cells: the runs, in the order of the tables.
        folder: created if need be.
        title: of the suite.
        command: what made the runs; shown so that it can be repeated.

    Returns:
        The path of `report.html`.

    A curve that cannot be read and a plot that fails are left out, and the page says so.

    Raises:
        LedgerError: the folder cannot be written.
    """
    make_folder(folder)
    atomic_write(folder / "results.csv", _csv(cells))
    lines = [f"# {markdown(title)}", "", f"    {command}", "", markdown_table(cells), _legend(cells), ""]
    atomic_write(folder / "table.md", "\n".join(lines))
    rows, differences = by_benchmark(table_rows(cells)), by_benchmark(difference_rows(cells))
    slugs = _slugs(rows)
    style = plots.styles(
        (cell.strategy for cell in cells), {cell.strategy: cell.name for cell in cells if cell.name}
    )
    sections = []
    cells_of: dict[str, list[Cell]] = {}
    for cell in cells:
        cells_of.setdefault(cell.benchmark, []).append(cell)
    for benchmark, table in rows.items():
        runs = cells_of[benchmark]
        figures, lost = _draw(benchmark, slugs[benchmark], table, runs, folder, style)
        changes = differences.get(benchmark, [])
        sections.append(_section(benchmark, slugs[benchmark], table, changes, runs, figures, lost))
    page = folder / "report.html"
    atomic_write(page, _page(title, command, cells, slugs, sections))
    return page


def _slugs(benchmarks: Iterable[str]) -> dict[str, str]:
    """A part of file names for each benchmark; labels are free text."""
    slugs, taken = dict[str, str](), set[str]()
    for name in benchmarks:
        slug = base = re.sub(r"[^a-z0-9.]+", "-", name.lower())[:80].strip("-.") or "benchmark"
        number = 2
        while slug in taken:
            slug, number = f"{base}-{number}", number + 1
        slugs[name] = slug
        taken.add(slug)
    return slugs


@dataclass(frozen=True)
class _Plot:
    file: Path
    caption: str


def _draw(
    benchmark: str,
    slug: str,
    table: Sequence[Row],
    cells: Sequence[Cell],
    folder: Path,
    style: Mapping[str, plots.Style],
) -> tuple[list[_Plot], list[str]]:
    """The plots of a benchmark, of the runs that finished, and what could not be drawn and why."""
    chosen, which = _most(table)
    runs: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.status == "done" and cell.curve is not None and cell.strategy in chosen:
            runs.setdefault(cell.strategy, []).append(cell)
    shown, lost = dict[str, plots.Drawn](), list[str]()
    for strategy, row in runs.items():
        if traces := list(_traces(row, lost)):
            shown[strategy] = plots.Drawn.of(traces)
    drawn = []
    for name, caption, draw in _figures(benchmark, shown, style):
        file = folder / f"{name}-{slug}.png"
        try:
            draw(file)
        except LedgerError:
            raise  # the folder cannot be written
        except Exception as error:  # of one plot, whatever it is: the tables do not depend on it
            lost.append(f"{file.name}: {type(error).__name__}: {error}")
        else:
            drawn.append(_Plot(file, caption + which))
    return drawn, lost


def _most(table: Sequence[Row]) -> tuple[set[str], str]:
    """The strategies of a table that are drawn, and a sentence that says which where they are not all."""
    key = chosen_columns(row.values for row in table)[0]
    order = sorted(table, key=lambda row: -value.mean if (value := row.values.get(key)) else math.inf)
    chosen = {row.strategy for row in order[: plots.MOST]}
    if len(table) <= plots.MOST:
        return chosen, ""
    return chosen, f" Of {len(table)} strategies, the {plots.MOST} with the highest {title_of(key)}."


def _traces(cells: Sequence[Cell], lost: list[str]) -> Iterator[plots.Trace]:
    """What is drawn of runs, one curve in memory at a time; those that cannot be read are added to `lost`."""
    for cell in cells:
        assert cell.curve is not None
        try:
            yield plots.Trace.of(cell.curve())
        except LedgerError as error:
            lost.append(f"{cell.strategy}, seed {cell.seed}: {error}")


def _figures(
    benchmark: str, runs: Mapping[str, plots.Drawn], style: Mapping[str, plots.Style]
) -> Iterator[tuple[str, str, Callable[[Path], object]]]:
    """Name, caption and function of each plot for which there is something to draw."""
    if any(of.ticks for of in runs.values()):
        yield (
            "stability-gap",
            "How accuracy on the first experience drops when another one begins, and recovers.",
            lambda file: plots.stability_gap(
                runs, file, title=f"{benchmark}: accuracy on the first experience", styles=style
            ),
        )
        yield (
            "seen-accuracy",
            "Accuracy averaged over the experiences seen so far; its mean over all steps is AAA.",
            lambda file: plots.seen_accuracy(
                runs, file, title=f"{benchmark}: accuracy on the experiences seen so far", styles=style
            ),
        )
    if any(of.networks for of in runs.values()):
        yield (
            "plasticity",
            "How well each experience was learned, and the network at its end.",
            lambda file: plots.plasticity(runs, file, title=f"{benchmark}: plasticity", styles=style),
        )
    full = {name: of for name, of in runs.items() if of.matrices}
    if full:
        yield (
            "accuracy-matrix",
            "Accuracy in percent on the full test set of each experience (columns) after learning each one "
            "(rows), mean over runs. Right of the line is what was not learned yet.",
            lambda file: plots.accuracy_matrix(
                {name: of.matrix for name, of in full.items()}, file, title=f"{benchmark}: accuracy matrix"
            ),
        )


def _csv(cells: Sequence[Cell]) -> str:
    """A line for each run, every metric in full precision; empty where there is no number."""
    metrics = metric_names(cells)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["benchmark", "strategy", "seed", "status", *TIMES, *metrics, "note"])
    for c in cells:
        numbers = [c.train_seconds, c.eval_seconds, *[c.metrics.get(key) for key in metrics]]
        writer.writerow([c.benchmark, c.strategy, c.seed, c.status, *numbers, c.note])
    return text.getvalue()


def _legend(cells: Sequence[Cell]) -> str:
    """What the metrics are, in Markdown."""
    return "\n".join(f"- **{head_of(key)}**: {METRICS[key].summary}" for key in shown_metrics(cells))


# --- HTML ---


def _page(
    title: str, command: str, cells: Sequence[Cell], slugs: Mapping[str, str], sections: Sequence[Markup]
) -> Markup:
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
    links = Markup(" · ").join(tag("a", name, href=f"#{slug}") for name, slug in slugs.items())
    makers = dict.fromkeys(cell.made_by for cell in cells if cell.made_by)
    return Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{policy}
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{scope}: {states}.</p>
<pre><code>{command}</code></pre>
<nav>{links} · <a href="#metrics">metrics</a></nav>
</header>
<main>
{sections}<section>
<h2 id="metrics">Metrics</h2>
{definitions}</section>
</main>
<footer>
<p>Every run in full precision: <code>results.csv</code>. The tables as Markdown: <code>table.md</code>.</p>
{made_by}
</footer>
</body>
</html>
""").format(
        policy=policy(_CSS),
        title=title,
        style=Markup(_CSS),
        scope=scope,
        states=states,
        command=command,
        links=links,
        sections=join(sections),
        definitions=_definitions(cells),
        made_by=tag("p", "Made with") + tag("ul", *[tag("li", text) for text in makers]) if makers else "",
    )


def _section(
    benchmark: str,
    slug: str,
    rows: Sequence[Row],
    differences: Sequence[Row],
    cells: Sequence[Cell],
    figures: Sequence[_Plot],
    lost: Sequence[str],
) -> Markup:
    parts = [
        tag("h2", benchmark, id=slug),
        "\n",
        _table(rows),
        _table(differences, True) if differences else "",
    ]
    missing = [
        tag(
            "li",
            f"{cell.strategy}, seed {cell.seed}: ",
            tag("strong", cell.status),
            f". {cell.note}" if cell.note else "",
        )
        for cell in cells
        if cell.status != "done"
    ]
    if missing:
        parts += _notes("Not in the means, and not drawn:", missing)
    if lost:
        parts += _notes("Could not be drawn:", [tag("li", why) for why in lost])
    for plot in figures:
        png = plot.file.read_bytes()
        image = tag(
            "img",
            src=f"data:image/png;base64,{base64.b64encode(png).decode()}",
            width=int.from_bytes(png[16:20], "big")
            * 114
            // plots.DPI,  # so that all have letters of one size
            alt=f"{benchmark}. {plot.caption}",
        )
        parts += [tag("figure", image, tag("figcaption", plot.caption)), "\n"]
    return tag("section", "\n", *parts) + "\n"


def _notes(head: str, items: Sequence[Markup]) -> list[Markup | str]:
    return [tag("p", head, class_="note"), "\n", tag("ul", *items, class_="note"), "\n"]


def _table(rows: Sequence[Row], differences: bool = False) -> Markup:
    columns = columns_of(rows, differences)
    head = [tag("th", c.head, scope="col", class_="words" if c.words else "") for c in columns]
    lines = []
    for i, row in enumerate(rows):
        line = [tag("th", row.strategy, scope="row", class_="words")]
        for column in columns[1:]:
            text, marked = column.texts[i]
            aside = re.search(r" (±.*|\([^)]*\))", text)
            shown = [text[: aside.start()], tag("small", aside[0]), text[aside.end() :]] if aside else [text]
            line.append(tag("td", tag("b", *shown) if marked else join(shown)))
        kind = "unfinished" if row.unfinished else "bound" if row.bound else "rated"
        lines.append(tag("tr", *line, class_=kind) + "\n")
    table = tag("table", "\n", tag("thead", tag("tr", *head)), "\n", tag("tbody", "\n", *lines), "\n")
    return (
        tag("div", table, class_="table") + "\n" + tag("p", note_of(rows, differences), class_="note") + "\n"
    )


def _definitions(cells: Sequence[Cell]) -> Markup:
    """What each metric of the tables means, its formula and where it is from."""
    parts: list[object] = []
    for key in shown_metrics(cells):
        metric = METRICS[key]
        direction = {True: "Higher is better.", False: "Lower is better.", None: ""}[metric.higher_is_better]
        said = tag("code", metric.formula), Markup("<br>"), tag("small", metric.reference)
        parts += [
            tag("dt", head_of(key)),
            tag("dd", f"{metric.summary} {direction}", Markup("<br>"), *said),
            "\n",
        ]
    spent = "Seconds spent on training and on evaluation, mean over runs."
    return tag("dl", "\n", *parts, tag("dt", "train s, eval s"), tag("dd", spent), "\n") + "\n"


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
