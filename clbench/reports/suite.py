"""The report of a suite: a page with its charts, its tables in Markdown, and every run as CSV. No torch.

The same cells give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup, escape

from clbench.errors import LedgerError
from clbench.files import atomic_write, make_folder
from clbench.reports import charts, frame, grouping, plots
from clbench.reports.charts import Chart
from clbench.reports.markup import join, spelled, tag
from clbench.reports.rows import (
    TIMES,
    Cell,
    Row,
    by_benchmark,
    difference_rows,
    experiences_of,
    keys_of,
    metric_names,
    table_rows,
)
from clbench.reports.styles import Style, styles
from clbench.reports.tables import NONE, columns_of, head_of, markdown, markdown_table, note_of, size_of
from clbench.results.metrics import METRICS
from clbench.results.traces import Mean, Trace, measured

PAGE = "report.html"
"""The file of a report that a reader opens."""


def write_report(cells: Sequence[Cell], folder: Path, title: str, command: str) -> Path:
    """Write `report.html`, which needs no other file, and beside it `table.md` and `results.csv`.

    Args:
        cells: the runs, in the order of the tables.
        folder: created if need be.
        title: of the suite.
        command: what made the runs; shown so that it can be repeated.

    Returns:
        The path of `report.html`.

    A curve that cannot be read and a chart that fails are left out, and the page says so.

    Raises:
        LedgerError: the folder cannot be written.
    """
    make_folder(folder)
    atomic_write(folder / "results.csv", _csv(cells))
    rows, differences = by_benchmark(table_rows(cells)), by_benchmark(difference_rows(cells))
    keys = list(dict.fromkeys(key for table in rows.values() for key in keys_of(table)))
    legend = "\n".join(f"- **{head_of(key)}**: {METRICS[key].summary}" for key in keys)
    lines = [f"# {markdown(title)}", "", f"    {command}", "", markdown_table(cells), legend, ""]
    atomic_write(folder / "table.md", "\n".join(lines))
    slugs = _slugs(rows)
    style = styles(
        (cell.strategy for cell in cells), {cell.strategy: cell.name for cell in cells if cell.name}
    )
    head, foot = _around(title, command, cells, slugs, keys)
    page = [head.encode()]  # a large one: text with any letter beyond Latin-1 takes twice the memory
    for benchmark, table in rows.items():
        changes = differences.get(benchmark, [])
        parts = _section(benchmark, slugs[benchmark], table, changes, style, folder)
        page += (spelled(part).encode() for part in parts)
    atomic_write(folder / PAGE, b"".join([*page, foot.encode()]))
    return folder / PAGE


def _slugs(benchmarks: Iterable[str]) -> dict[str, str]:
    """Return a part of file names for each benchmark; labels are free text."""
    slugs, taken = dict[str, str](), set[str]()
    for name in benchmarks:
        slug = base = re.sub(r"[^a-z0-9.]+", "-", name.lower())[:80].strip("-.") or "benchmark"
        number = 2
        while slug in taken:
            slug, number = f"{base}-{number}", number + 1
        slugs[name] = slug
        taken.add(slug)
    return slugs


def _draw(
    benchmark: str, table: Sequence[Row], style: Mapping[str, Style], lost: list[str]
) -> Iterator[Markup]:
    """Yield the charts of a benchmark, of the runs that finished; what could not be drawn, and why, is added to
    `lost`."""
    chosen, which = plots.most(table, "strategies")
    runs = dict[str, Mean]()
    for row in chosen:
        if traces := list(_traces(row, lost)):
            runs[row.strategy] = Mean.of(traces)
    shown = {row.strategy for row in charts.first(chosen)}

    def drawn(what: str, draw: Callable[[], Markup]) -> Markup:
        try:
            return draw()
        except Exception as error:  # of one chart, whatever it is: the tables do not depend on it
            lost.append(f"{what}: {type(error).__name__}: {error}")
            return Markup("")

    def chart(of: Chart | None, caption: str) -> Markup:
        return charts.figure(of, caption + which) if of is not None else Markup("")

    names, measure = experiences_of(table), measured(runs.values())
    yield drawn(
        f"{measure.name} over the stream",
        lambda: chart(
            charts.stream_chart(benchmark, runs, style, shown, names), charts.stream_caption(measure)
        ),
    )
    yield drawn(
        "plasticity",
        lambda: chart(
            charts.network_chart(f"{benchmark}: plasticity", runs, style, shown),
            "How well each experience was learned, and the network at its end.",
        ),
    )
    full = {name: of for name, of in runs.items() if of.matrices}
    if full:
        yield tag("h3", f"{measure.name.capitalize()} matrices")
        yield tag(
            "p", frame.matrices_caption(measure, "learning each one", "runs") + PALE + which, class_="note"
        )
        yield drawn(
            f"{measure.name} matrices",
            lambda: frame.matrices({name: of.matrix for name, of in full.items()}, shown, names, measure),
        )


PALE = "; what was not learned yet is pale."


def _traces(row: Row, lost: list[str]) -> Iterator[Trace]:
    """Yield what is drawn of runs, one curve in memory at a time; those that cannot be read are added to `lost`."""
    for cell in row.cells:
        if cell.status == "done" and cell.curve is not None:
            try:
                yield Trace.of(cell.curve())
            except LedgerError as error:
                lost.append(f"{cell.strategy}, seed {cell.seed}: {error}")


def _csv(cells: Sequence[Cell]) -> str:
    """Return a line for each run, every metric in full precision; empty where there is no number."""
    metrics = metric_names(cells)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["benchmark", "strategy", "seed", "status", *TIMES, *metrics, "note"])
    for c in cells:
        numbers = [c.train_seconds, c.eval_seconds, *[c.metrics.get(key) for key in metrics]]
        writer.writerow([c.benchmark, c.strategy, c.seed, c.status, *numbers, c.note])
    return text.getvalue()


# --- HTML ---


def _around(
    title: str, command: str, cells: Sequence[Cell], slugs: Mapping[str, str], keys: Sequence[str]
) -> tuple[Markup, Markup]:
    """Return what stands before the sections of a page, and after them."""
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
    header = (
        tag("h1", title),
        tag("p", f"{scope}: {states}."),
        tag("pre", tag("code", command)),
        tag("nav", links, " · ", tag("a", "metrics", href="#metrics")),
    )
    definitions = tag("section", tag("h2", "Metrics", id="metrics"), "\n", _definitions(keys))
    footer = Markup(
        '<p>Every run in full precision: <a href="results.csv">results.csv</a>. The tables as Markdown: '
        '<a href="table.md">table.md</a>.</p>'
    ) + (tag("p", "Made with") + tag("ul", *[tag("li", text) for text in makers]) if makers else "")
    here = Markup("<!-- sections -->")
    head, foot = frame.page(title, join(header), here + definitions, footer, charts=True).split(here)
    return head, foot


def _section(
    benchmark: str,
    slug: str,
    rows: Sequence[Row],
    differences: Sequence[Row],
    style: Mapping[str, Style],
    folder: Path,
) -> Iterator[Markup]:
    """Yield the parts of a benchmark's section."""
    yield (
        Markup('<section data-charts="{}">\n').format(slug)
        + tag("h2", benchmark, id=slug)
        + "\n"
        + _table(rows)
    )
    if differences:
        yield _table(differences, True)
    missing = [
        tag(
            "li",
            f"{cell.strategy}, seed {cell.seed}: ",
            tag("strong", cell.status),
            f". {cell.note}" if cell.note else "",
        )
        for row in rows
        for cell in row.cells
        if cell.status != "done"
    ]
    if missing:
        yield _notes("Not in the means, and not drawn:", missing)
    lost: list[str] = []
    yield from _draw(benchmark, rows, style, lost)
    if lost:
        yield _notes("Could not be drawn:", [tag("li", why) for why in lost])
    yield _ran(rows, folder)
    yield Markup("</section>\n")


def _ran(rows: Sequence[Row], folder: Path) -> Markup:
    """Return what ran: the settings of each strategy, its network and memory, and where its runs lie."""
    known = [row for row in rows if row.records]
    if not known:
        return Markup("")
    flat = [grouping.flatten(row.config) for row in known]
    apart = {*grouping.differing(flat), "strategy"}
    shared = {key: value for key, value in flat[0].items() if key not in apart}
    heads = ("strategy", "settings", "network", "parameters", "memory", "held", "runs")
    lines = []
    for row, config in zip(known, flat, strict=True):
        own = {key: value for key, value in config.items() if key in apart and key != "strategy"}
        costs = row.costs
        sizes = size_of(costs), size_of(costs, "held_bytes")
        numbers = (f"{costs['parameters']:,.0f}", *sizes) if costs else (NONE,) * 3
        line = (
            frame.called(row.strategy),
            tag("td", _settings(own), class_="words long"),
            tag("td", row.model, class_="words"),
            *[tag("td", number) for number in numbers],
            tag("td", Markup(", ").join(_run(cell, folder) for cell in row.cells), class_="words"),
        )
        lines.append(tag("tr", *line) + "\n")
    words = ("strategy", "settings", "network", "runs")
    head = [
        tag("th", of, scope="col", class_=f"words{' name' * (of == 'strategy')}" if of in words else "")
        for of in heads
    ]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *lines))
    return (
        tag("h3", "What ran")
        + tag("div", table, class_="table")
        + tag("details", tag("summary", "What all share"), tag("p", _settings(shared), class_="note"))
        + "\n"
    )


def _settings(of: Mapping[str, object]) -> Markup:
    """Return settings as the command line takes them; those that are not set are left out."""
    texts = [
        f"{key.removeprefix('params.')}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in of.items()
        if value is not None
    ]
    return Markup(" ").join(tag("code", text) for text in texts) or escape(NONE)


def _run(cell: Cell, folder: Path) -> Markup:
    """Return a run's seed, which leads to its folder."""
    where = cell.record.folder if cell.record is not None else None
    if where is None:
        return escape(cell.seed)
    return tag("a", cell.seed, href=f"{quote(Path(os.path.relpath(where, folder)).as_posix())}/")


def _notes(head: str, items: Sequence[Markup]) -> Markup:
    return tag("p", head, class_="note") + "\n" + tag("ul", *items, class_="note") + "\n"


def _table(rows: Sequence[Row], differences: bool = False) -> Markup:
    kinds = ["unfinished" if row.unfinished else "bound" if row.bound else "rated" for row in rows]
    table = frame.table(columns_of(rows, differences), [{"class_": kind} for kind in kinds])
    return table + tag("p", note_of(rows, differences), class_="note") + "\n"


def _definitions(keys: Sequence[str]) -> Markup:
    """Return what each metric of the tables means, its formula and where it is from."""
    parts: list[object] = []
    for key in keys:
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
