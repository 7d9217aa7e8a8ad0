"""The leaderboard as a static site: opens from the file system, needs no network, and runs no script of others.

index.html · benchmarks/<table>.html · strategies/<name>.html · rows/<id>.html · records/ and curves/ as submitted
"""

from __future__ import annotations

import math
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from clbench.files import atomic_write, make_folder, pretty_json, sha256
from clbench.reports import plots
from clbench.reports.leaderboard import svg
from clbench.reports.leaderboard.board import ENERGY, SHOWN, Row, rows_of
from clbench.reports.leaderboard.frame import SHADES, page
from clbench.reports.leaderboard.private import in_words
from clbench.reports.leaderboard.store import place
from clbench.reports.markup import join, tag
from clbench.reports.tables import NONE, Estimate, counted, head_of, percent, title_of
from clbench.results.curve import Curve, Floats
from clbench.results.ledger import Record
from clbench.results.metrics import METRICS
from clbench.results.statistics import INTERVAL_FROM, RANKED_FROM, TOO_FEW, average_ranks, groups, told_apart

AROUND = 0.12
"""How much of an experience a close-up of a boundary shows before it, and three times as much after."""


def write_site(records: Sequence[Record], root: Path, folder: Path) -> Path:
    """Write the site; what lay in the folder under other names stays.

    Args:
        records: of `read_board(root)`. root: the leaderboard's folder, whose evidence is copied.

    Returns:
        The path of `index.html`.
    """
    tables = rows_of(records)
    for path, content in _pages(tables):
        atomic_write(make_folder((folder / path).parent) / path.name, content, lasting=False)
    for record in records:
        for file in (place(record), Path("curves") / record.curve_file["file"]):
            shutil.copyfile(root / file, make_folder((folder / file).parent) / file.name)
    return folder / "index.html"


def _pages(tables: Mapping[str, Sequence[Row]]) -> Iterator[tuple[Path, Markup]]:
    strategies: dict[str, list[Row]] = {}
    for title, rows in tables.items():
        yield Path(address("benchmarks", title)), _benchmark(title, rows)
        for row in rows:
            yield Path("rows", f"{row.id}.html"), _row(row)
            strategies.setdefault(row.strategy, []).append(row)
    for strategy, rows in strategies.items():
        yield Path(address("strategies", strategy)), _strategy(strategy, rows)
    yield Path("index.html"), _index(tables)


def slug(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9@._+-]+", "-", name).strip(".") or "unnamed"


def address(folder: str, name: str) -> str:
    """The page of a table or strategy; two names that are one in plain letters have two."""
    plain = slug(name)
    return f"{folder}/{plain if plain == name else f'{plain}-{sha256(name)[:6]}'}.html"


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
{}<button type="reset">all</button> <output id="count" aria-live="polite"></output>
</form>
{}
{}
<h2>Benchmarks</h2>
<ul class="plain">{}</ul>
""").format(
        filters,
        _table(rows, up="", with_benchmark=True),
        _LEGEND,
        benchmarks or tag("li", "Nothing was submitted yet."),
    )
    return page("Leaderboard", body, up="")


def _benchmark(benchmark: str, rows: Sequence[Row]) -> Markup:
    style = plots.styles((row.name for row in rows), {row.name: _plain(row) for row in rows})
    done = [row for row in rows if row.seeds]
    chosen, which = _most(done)
    drawn = {row.name: plots.Drawn.of([plots.Trace.of(curve) for curve in _curves(row)]) for row in chosen}
    figures = _critical_differences(benchmark, rows)
    marks = [float(e) for e in range(1, max((of.experiences for of in drawn.values()), default=0))]
    if curves := _lines({name: of.seen for name, of in drawn.items()}, style):
        figures += _figure(
            svg.lines(curves, title=f"{benchmark}: accuracy on the experiences seen so far", x_label="experiences",
                      y_label="accuracy, %", marks=marks),
            "Accuracy averaged over the experiences seen so far, after every step; its mean over steps is AAA. "
            f"Bands: 95 % intervals over seeds, where there are {INTERVAL_FROM} or more.{which}",
            curves,
        )  # fmt: skip
    if curves := _lines({name: of.one for name, of in drawn.items()}, style):
        figures += _figure(
            svg.lines(curves, title=f"{benchmark}: accuracy on the first experience", x_label="experiences",
                      y_label="accuracy, %", marks=marks),
            "The stability gap: how accuracy on the first experience drops when another one begins, and recovers."
            f"{which}",
            curves,
        )  # fmt: skip
        closer = Markup("")
        for mark in marks[:4]:
            near = [c for c in (_close_up(curve, mark) for curve in curves) if c is not None]
            if near:
                title = f"{benchmark}: around boundary {mark:g}"
                picture = svg.lines(
                    near, title=title, x_label="experiences", y_label="accuracy, %", marks=[mark]
                )
                closer += _figure(picture, f"The same around boundary {mark:g}.", [])
        figures += tag("div", closer, class_="pairs")
    if points := _points(done, chosen, style):
        figures += _figure(
            svg.scatter(points, title=f"{benchmark}: what accuracy costs", x_label="examples through the network "
                        "in training, logarithmic", y_label="ACC, %"),
            "Accuracy against work and memory, which is the area of a dot. Filled: nobody is as good with as little of "
            f"both, and better in one of the three (Pareto).{which}",
            [],
        )  # fmt: skip
    body = Markup("""
{}
{}
<p>Make all of it again: <code>clbench reproduce {}</code></p>
{}
<h2>Accuracy matrices</h2>
<p class="note">Percent on the full test set of each experience (columns) after each one (rows), mean over seeds.{}</p>
<div class="matrices">{}</div>
""").format(
        _table(rows, up="../"),
        _LEGEND,
        shlex.quote(benchmark),
        figures,
        which,
        join(_matrix(name, of.matrix) for name, of in drawn.items() if of.matrices),
    )
    return page(benchmark, body, up="../")


def _strategy(strategy: str, rows: Sequence[Row]) -> Markup:
    return page(strategy, _table(rows, up="../", with_benchmark=True) + _LEGEND, up="../")


def _row(row: Row) -> Markup:
    shown = [key for key in SHOWN if row.values.get(key)]
    lines = Markup("")
    for record in row.records:
        seed, curve = record.seeds["data"], record.curve_file
        values = [f"{100 * row.values[k][seed]:.2f}" if seed in row.values[k] else NONE for k in shown]
        evidence = (
            tag("a", "curve", href=f"../curves/{curve['file']}"),
            " ",
            tag("code", f"{curve['sha256'][:12]}…"),
        )
        lines += tag(
            "tr",
            tag("th", seed, scope="row"),
            *[tag("td", value) for value in (*values, record.status)],
            tag("td", tag("a", record.id, href=f"../{place(record).as_posix()}"), class_="words"),
            tag("td", *evidence, class_="words"),
        )
    made = join(tag("li", text) for text in dict.fromkeys(_made_by(r) for r in row.records))
    notes = [f"seed {r.seeds['data']}: {r.status}. {r.note}" for r in row.records if r.note]
    body = Markup("""
<p>{} on {}
{};
network {}; hyper-parameters: {}.</p>
<p>Make it again: <code>clbench reproduce {}</code></p>
{}
<div class="table"><table>
<thead><tr><th>seed</th>{}<th>status</th><th class="words">record</th><th class="words">evidence</th></tr></thead>
<tbody>{}</tbody>
</table></div>
{}
<h2>Configuration</h2>
<pre><code>{}</code></pre>
<h2>Made with</h2>
<ul class="plain">{}</ul>
""").format(
        row.strategy,
        tag("a", row.table, href=f"../{address('benchmarks', row.table)}"),
        f"({row.apart})" if row.apart else "",
        row.model,
        row.selection,
        row.id,
        tag("p", f"† clbench alone cannot: it needs {in_words(row.needs)}.") if row.needs else "",
        join(tag("th", head_of(key)) for key in shown),
        lines,
        tag("ul", *[tag("li", note) for note in notes]) if notes else "",
        pretty_json(row.config),
        made,
    )
    return page(f"{row.strategy}, row {row.id}", body, up="../")


def _made_by(record: Record) -> str:
    code, env = record.code, record.environment
    commit = f", commit {code['commit'][:12]}" if code.get("commit") else ""
    libraries = ", ".join(f"{name} {version}" for name, version in env["libraries"].items() if version)
    return (
        f"clbench {code['version']}{commit}; Python {env['python']}; {libraries}; {env['device']} on "
        f"{env['processor']}, {env['system']}, {env['threads']} thread{'s' * (env['threads'] != 1)}"
    )


# --- tables ---


def _facets(row: Row) -> dict[str, str]:
    """What the table can be filtered by."""
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
    shown = [key for key in SHOWN if key == SHOWN[0] or any(row.values.get(key) for row in rows)]
    heads = [("rank", "number", "")]
    heads += [("benchmark", "words", "")] if with_benchmark else []
    heads += [("strategy", "words", "")]
    told = any(row.apart for row in rows)
    heads += [("settings", "words", "")] if told else []
    heads += [(head_of(key), "number", METRICS[key].summary) for key in shown]
    heads += [
        ("seeds", "number", ""),
        ("memory, kB", "number", ""),
        ("forwards", "number", ""),
        ("train s", "number", ""),
    ]
    measured = any("joules" in row.costs for row in rows)
    if measured:
        heads += [(ENERGY, "number", "")]
    heads += [("row", "words", "")]
    head = join(
        tag(
            "th",
            tag("button", name, type="button", title=hint or "sort"),
            scope="col",
            class_=kind,
            aria_sort="none",
        )
        for name, kind, hint in heads
    )
    lines = []
    for row in rows:
        cells = [_cell("bound" if row.bound else NONE if row.rank is None else str(row.rank),
                       math.inf if row.rank is None else row.rank.best + row.rank.worst / 1e4)]  # fmt: skip
        if with_benchmark:
            cells.append(_link(up + address("benchmarks", row.table), row.table))
        cells.append(_link(up + address("strategies", row.strategy), row.strategy))
        if told:
            cells.append(tag("td", tag("small", row.apart), class_="words"))
        for key in shown:
            interval = row.interval(key)
            if interval is None:
                cells.append(_cell(NONE, math.inf))
                continue
            mean, space, rest = percent(Estimate.of(interval)).partition(" ")
            cells.append(_cell(mean, interval.mean, space + rest))
        diverged = f", {row.diverged} diverged" if row.diverged else ""
        number, space, which = counted(row.seeds).partition(" ")
        cells.append(_cell(number, len(row.seeds), space + which + diverged))
        for value, digits in (
            (row.costs.get("memory_bytes", math.nan) / 1e3, 0),
            (row.costs.get("forward_examples", math.nan), 0),
            (row.costs.get("train_seconds", math.nan), 1),
            *([(row.costs.get("joules", math.nan) / 1e3, 1)] if measured else []),
        ):
            cells.append(_cell(NONE, math.inf) if math.isnan(value) else _cell(f"{value:,.{digits}f}", value))
        cells.append(_link(f"{up}rows/{row.id}.html", row.id + " †" * bool(row.needs)))
        facets = {f"data_{key}": value for key, value in _facets(row).items()}
        kind = "row best" if row.best else "row bound" if row.bound else "row"
        lines.append(tag("tr", *cells, class_=kind, **facets) + "\n")
    return Markup(
        '<div class="table"><table class="sortable">\n<thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody>\n</table></div>'
    ).format(head, join(lines))


def _cell(text: str, value: float, small: str = "") -> Markup:
    return tag("td", text, tag("small", small) if small else "", data_value=repr(value))


def _link(target: str, text: str) -> Markup:
    return tag("td", tag("a", text, href=target), class_="words")


_LEGEND = Markup("""<p class="note">Percent, mean ± half the 95 % interval over seeds, for which fewer than {}
are {}. Rank: the places that a row may have, after all rivals whose ACC is better with certainty and before all
that are worse (paired by seed, Holm's correction). Bold: the best mean, and those after it down to the first than which
another is better with certainty. Fewer than {} seeds give no rank. †: others cannot run it again without files of its
author, which its page names.</p>""").format(INTERVAL_FROM, TOO_FEW, RANKED_FROM)


# --- figures ---


def _plain(row: Row) -> str:
    return row.strategy.partition("@")[0]


def _curves(row: Row) -> Iterator[Curve]:
    return (record.curve for record in row.records if record.status == "done")


def _most(rows: Sequence[Row]) -> tuple[Sequence[Row], str]:
    """The rows that are drawn, and a sentence that says which where they are not all."""
    if len(rows) <= plots.MOST:
        return rows, ""
    means = {row.id: interval.mean if (interval := row.interval(SHOWN[0])) else -math.inf for row in rows}
    best = set(sorted(means, key=lambda id: -means[id])[: plots.MOST])
    told = f" Of {len(rows)} rows, the {plots.MOST} with the highest {title_of(SHOWN[0])}."
    return [row for row in rows if row.id in best], told


def _lines(drawn: Mapping[str, plots.Line | None], style: Mapping[str, plots.Style]) -> list[svg.Line]:
    return [
        svg.Line(name, style[name].color, *line, dashed=style[name].dashes != "-")
        for name, line in drawn.items()
        if line is not None
    ]


def _close_up(curve: svg.Line, mark: float) -> svg.Line | None:
    inside = (curve.x >= mark - AROUND) & (curve.x <= mark + 3 * AROUND)
    if inside.sum() < 3:
        return None
    half = None if curve.half is None else curve.half[inside]
    return svg.Line(curve.name, curve.color, curve.x[inside], curve.mean[inside], half, curve.dashed)


def _points(rows: Sequence[Row], shown: Sequence[Row], style: Mapping[str, plots.Style]) -> list[svg.Point]:
    """Accuracy over examples through the network; a dot's area is the memory, on top of a least one.

    Args:
        rows: among which some are the best. shown: those that have dots.
    """
    found = [
        (row, interval, row.costs["forward_examples"], row.costs["memory_bytes"])
        for row in rows
        if (interval := row.interval(SHOWN[0])) is not None and row.costs.get("forward_examples", 0.0) > 0
    ]
    most = max((memory for *_, memory in found), default=0.0) or 1.0
    spent = np.array([(-interval.mean, work, memory) for _, interval, work, memory in found]).reshape(-1, 3)
    dominated = [((spent <= one).all(axis=1) & (spent != one).any(axis=1)).any() for one in spent]
    ids = {row.id for row in shown}
    return [
        svg.Point(
            f"{row.name}, {memory / 1000:,.0f} kB" if memory else row.name,
            style[row.name].color,
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
    values = [row.values[SHOWN[0]] for row in rated]
    if len(rated) < 2 or not set.intersection(*(set(v) for v in values)):
        return Markup("")
    higher = METRICS[SHOWN[0]].higher_is_better is not False
    places = average_ranks(values, higher)
    order = sorted(range(len(rated)), key=lambda i: (places[i], rated[i].id))
    bars = groups(order, told_apart(values, higher))
    picture = svg.critical_differences(
        [rated[i].name for i in order],
        [places[i] for i in order],
        bars,
        title=f"{benchmark}: average ranks",
    )
    return _figure(
        picture,
        "Average rank by ACC over the seeds that all share, 1 the best. A bar joins strategies none of which is told "
        "apart from another (paired tests, Holm's correction, 5 %).",
        [],
    )


def _matrix(name: str, matrix: Floats) -> Markup:
    def cell(value: float, later: bool) -> Markup:
        if np.isnan(value):
            return tag("td")
        return tag("td", f"{100 * value:.0f}", class_=f"v{round(SHADES * value)}{' later' * later}")

    lines = [
        tag("tr", tag("th", i + 1, scope="row"), *[cell(v, j > i) for j, v in enumerate(line)])
        for i, line in enumerate(matrix)
    ]
    table = tag("table", tag("tbody", *lines), class_="matrix")
    return tag("figure", table, tag("figcaption", name))


def _figure(picture: Markup, caption: str, curves: Sequence[svg.Line]) -> Markup:
    key = [tag("li", svg.swatch(curve), curve.name) for curve in curves]
    legend = tag("ul", *key, class_="key") if key else ""
    return tag("figure", picture, legend, tag("figcaption", caption)) + "\n"
