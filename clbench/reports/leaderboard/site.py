"""The leaderboard as a static site: opens from the file system, needs no network, and runs no script of others.

index.html · benchmarks/<table>.html · strategies/<name>.html · rows/<id>.html · records/ and curves/ as submitted
"""

from __future__ import annotations

import math
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from clbench.files import atomic_write, make_folder, pretty_json
from clbench.reports import charts, frame, plots, svg
from clbench.reports.leaderboard.board import address, columns_of, rows_of
from clbench.reports.leaderboard.private import in_words
from clbench.reports.leaderboard.store import place
from clbench.reports.markup import join, tag
from clbench.reports.rows import Row, experiences_of, keys_of, primary_of, worth
from clbench.reports.tables import NONE, Column, Text, head_of, told, units_of
from clbench.results.ledger import Record
from clbench.results.metrics import METRICS
from clbench.results.statistics import INTERVAL_FROM, RANKED_FROM, TOO_FEW, average_ranks, groups, told_apart
from clbench.results.traces import Mean, Trace, measured


def write_site(
    records: Sequence[Record], root: Path, folder: Path, traces: Mapping[str, Trace] | None = None
) -> Path:
    """Write the site; what lay in the folder under other names stays.

    Args:
        records: of `read_board(root)`. root: the leaderboard's folder, whose evidence is copied.
        traces: as of `read_board`, of curves that need not be read again.

    Returns:
        The path of `index.html`.
    """
    tables = rows_of(records)
    for path, content in _pages(tables, traces or {}):
        atomic_write(make_folder((folder / path).parent) / path.name, content, lasting=False)
    for record in records:
        for file in (place(record), Path("curves") / record.curve_file["file"]):
            shutil.copyfile(root / file, make_folder((folder / file).parent) / file.name)
    return folder / "index.html"


def _pages(tables: Mapping[str, Sequence[Row]], traces: Mapping[str, Trace]) -> Iterator[tuple[Path, Markup]]:
    strategies: dict[str, list[Row]] = {}
    for title, rows in tables.items():
        yield Path(address("benchmarks", title)), _benchmark(title, rows, traces)
        for row in rows:
            yield Path("rows", f"{row.id}.html"), _row(row)
            strategies.setdefault(row.strategy, []).append(row)
    for strategy, rows in strategies.items():
        yield Path(address("strategies", strategy)), _strategy(strategy, rows)
    yield Path("index.html"), _index(tables)


def page(title: str, body: Markup, up: str, charted: bool = False) -> Markup:
    """Return a whole page; `up` is the way to the site's root, "" or "../"."""
    home = tag("nav", tag("a", "Leaderboard", href=f"{up}index.html")) if up else ""
    foot = tag("p", "clbench: numbers with evidence.")
    head = join([home, tag("h1", title)])
    return frame.page(f"{title} · clbench", head, body, foot, tables=True, charts=charted)


# --- pages ---


def _index(tables: Mapping[str, Sequence[Row]]) -> Markup:
    rows = [row for table in tables.values() for row in table]
    benchmarks = join(
        tag(
            "li",
            tag("a", name, href=address("benchmarks", name)),
            " ",
            tag("small", f"{len(table)} row{'s' * (len(table) != 1)}"),
        )
        for name, table in tables.items()
    )
    filters = join(
        _filter(key, sorted({_facets(row)[key] for row in rows}))
        for key in ("benchmark", "setting", "memory", "network", "selection")
    )
    body = Markup("""
<p class="lead">Continual-learning strategies, evaluated after every iteration. Every number follows from the evidence
behind it: follow a row to its runs, their curves, and the command that makes them again.</p>
<form class="filters" role="search">
<label>search <input type="search" id="search" placeholder="strategy, setting …" autocomplete="off"></label>
{}<button type="reset">clear</button> <output id="count" aria-live="polite"></output>
</form>
{}
{}
<h2>Benchmarks</h2>
<ul class="plain">{}</ul>
""").format(
        filters,
        _table(rows, up="", with_benchmark=True),
        _legend(rows),
        benchmarks or tag("li", "Nothing was submitted yet."),
    )
    return page("Leaderboard", body, up="")


def _benchmark(benchmark: str, rows: Sequence[Row], traces: Mapping[str, Trace]) -> Markup:
    style = plots.styles((row.name for row in rows), {row.name: row.cells[0].name for row in rows})
    done = [row for row in rows if row.seeds]
    chosen, which = plots.most(done, "rows")
    drawn = {
        row.name: Mean.of([traces.get(r.id) or Trace.of(r.curve) for r in row.records if r.status == "done"])
        for row in chosen
    }
    shown = {row.name for row in charts.first(chosen)}
    figures = Markup("")
    names = experiences_of(rows)
    measure = measured(drawn.values())
    chart = charts.stream_chart(benchmark, drawn, style, shown, names)
    if chart is not None:
        figures += charts.figure(chart, charts.stream_caption(measure) + which)
    figures += _critical_differences(benchmark, rows)
    primary = METRICS[primary_of(rows)]
    if points := _points(done, chosen, style, primary.name):
        better = "Filled: nobody is as good with as little of both, and better in one of the three (Pareto)."
        figures += _figure(
            svg.scatter(
                points,
                title=f"{benchmark}: what {measure.name} costs",
                x_label="examples through the network in training, logarithmic",
                y_label=f"{primary.title}, {'%' if primary.share else primary.unit}".removesuffix(", "),
                percent=primary.share,
            ),
            f"{primary.title[:1].upper()}{primary.title[1:]} against work and memory, which is the area of a dot. "
            f"{better}{which}",
        )
    body = Markup("""
{}
{}
<p>Make all of it again: <code>clbench reproduce {}</code></p>
<div data-charts="all">
{}
</div>
<h2>{} matrices</h2>
<p class="note">{}.{}</p>
{}
""").format(
        _table(rows, up="../"),
        _legend(rows),
        shlex.quote(benchmark),
        figures,
        measure.name.capitalize(),
        frame.matrices_caption(measure, "each one", "seeds"),
        which,
        frame.matrices({name: of.matrix for name, of in drawn.items() if of.matrices}, shown, names, measure),
    )
    return page(benchmark, body, up="../", charted=chart is not None)


def _strategy(strategy: str, rows: Sequence[Row]) -> Markup:
    return page(strategy, _table(rows, up="../", with_benchmark=True) + _legend(rows), up="../")


def _curve(record: Record) -> Text:
    return Text(f"{record.curve_file['sha256'][:12]}…", link=f"curves/{record.curve_file['file']}")


def _row(row: Row) -> Markup:
    shown = [key for key in keys_of([row], suite=False) if row.values.get(key)]
    columns = [
        Column("seed", tuple(Text(str(cell.seed), value=cell.seed) for cell in row.cells)),
        *(
            Column(
                head_of(key), tuple(Text(METRICS[key].told(row.values[key].get(c.seed))) for c in row.cells)
            )
            for key in shown
        ),
        Column("status", tuple(Text(cell.status) for cell in row.cells)),
        Column("record", tuple(Text(r.id, link=place(r).as_posix()) for r in row.records), words=True),
        Column("evidence", tuple(_curve(r) for r in row.records), words=True),
    ]
    made = join(tag("li", text) for text in dict.fromkeys(cell.made_by for cell in row.cells))
    notes = [f"seed {r.seeds['data']}: {r.status}. {r.note}" for r in row.records if r.note]
    body = Markup("""
<p>{} on {}{};
network {}; hyper-parameters: {}.</p>
<p>Make it again: <code>clbench reproduce {}</code></p>
{}
{}{}
<h2>Configuration</h2>
<pre><code>{}</code></pre>
<h2>Made with</h2>
<ul class="plain">{}</ul>
""").format(
        row.strategy,
        tag("a", row.table, href=f"../{address('benchmarks', row.table)}"),
        f" ({row.apart})" if row.apart else "",
        row.model,
        row.selection,
        row.id,
        tag("p", f"† clbench alone cannot: it needs {in_words(row.needs)}.") if row.needs else "",
        frame.table(columns, [{} for _ in row.cells], up="../"),
        tag("ul", *[tag("li", note) for note in notes]) if notes else "",
        pretty_json(row.config),
        made,
    )
    return page(f"{row.strategy}, row {row.id}", body, up="../")


# --- tables ---


def _facets(row: Row) -> dict[str, str]:
    """Return what the table can be filtered by."""
    stream = row.config.get("stream", {})
    setting = "online" if stream.get("online") else "several passes"
    if stream.get("task_labels"):
        setting += ", task labels"
    size = row.costs.get("memory_bytes", 0.0)
    return {
        "benchmark": row.table,
        "setting": setting,
        "memory": "rehearsal" if size else "rehearsal-free",
        "network": row.model,
        "selection": row.selection,
    }


def _filter(key: str, values: Sequence[str]) -> Markup:
    if len(values) < 2:
        return Markup("")
    every = Markup('<option value="">all</option>')
    options = [tag("option", value, value=value) for value in values]
    return tag("label", key, " ", tag("select", every, *options, data_facet=key)) + "\n"


def _table(rows: Sequence[Row], up: str, with_benchmark: bool = False) -> Markup:
    """Return a table of rows that leads to their pages, and to those of their benchmarks."""
    columns = [of for of in columns_of(rows) if not rows or any(text.text != NONE for text in of.texts)]
    if with_benchmark:
        tables = tuple(Text(row.table, link=address("benchmarks", row.table)) for row in rows)
        columns.insert(1, Column("benchmark", tables, words=True))
    about = [
        {
            "class_": "row best" if row.best else "row bound" if row.bound else "row",
            **{f"data_{key}": value for key, value in _facets(row).items()},
        }
        for row in rows
    ]
    return frame.table(columns, about, up=up, sortable=True)


def _legend(rows: Sequence[Row]) -> Markup:
    return _LEGEND.format(units_of(keys_of(rows, suite=False)), INTERVAL_FROM, TOO_FEW, RANKED_FROM)


_LEGEND = Markup("""<p class="note">{}, mean ± half the 95 % interval over seeds, for which fewer than {} are {}.
Rank: the places that a row may have, after all rivals that are better with certainty by the first metric and before all
that are worse (paired by seed, Holm's correction). Bold: the best mean, and those after it down to the first than which
another is better with certainty. Fewer than {} seeds give no rank. †: others cannot run it again without files of its
author, which its page names.</p>""")


# --- figures ---


def _points(
    rows: Sequence[Row], shown: Sequence[Row], style: Mapping[str, plots.Style], key: str
) -> list[svg.Point]:
    """Return a metric over examples through the network; a dot's area is the memory, on top of a least one.

    Args:
        rows: among which some are the best. shown: those that have dots.
    """
    found = [
        (row, interval, row.costs["forward_examples"], row.costs["memory_bytes"])
        for row in rows
        if (interval := row.interval(key)) is not None and row.costs.get("forward_examples", 0.0) > 0
    ]
    most = max((memory for *_, memory in found), default=0.0) or 1.0
    spent = np.array([(-worth(row, key), work, memory) for row, _, work, memory in found]).reshape(-1, 3)
    dominated = [((spent <= one).all(axis=1) & (spent != one).any(axis=1)).any() for one in spent]
    ids = {row.id for row in shown}
    return [
        svg.Point(
            row.name,
            f"{row.name}: {told(interval, key)}, {work:,.0f} examples, memory of {memory / 1000:,.0f} kB",
            style[row.name],
            work,
            interval.mean,
            interval.half,
            not worse,
            math.sqrt(16 + 64 * memory / most),
        )
        for (row, interval, work, memory), worse in zip(found, dominated, strict=True)
        if row.id in ids
    ]


def _critical_differences(benchmark: str, rows: Sequence[Row]) -> Markup:
    """Average ranks over seeds of the rows that have a rank, with bars over those that are not told apart."""
    rated = [row for row in rows if row.rank is not None]
    metric = METRICS[primary_of(rows)]
    values = [row.values[metric.name] for row in rated]
    if len(rated) < 2 or not set.intersection(*(set(v) for v in values)):
        return Markup("")
    places = average_ranks(values, metric.rises)
    order = sorted(range(len(rated)), key=lambda i: (places[i], rated[i].id))
    bars = groups(order, told_apart(values, metric.rises))
    picture = svg.critical_differences(
        [rated[i].name for i in order],
        [places[i] for i in order],
        bars,
        title=f"{benchmark}: average ranks",
    )
    return _figure(
        picture,
        f"Average rank by {metric.title} over the seeds that all share, 1 the best. A bar joins strategies none of "
        "which is told apart from another (paired tests, Holm's correction, 5 %).",
    )


def _figure(picture: Markup, caption: str) -> Markup:
    return tag("figure", picture, tag("figcaption", caption)) + "\n"
