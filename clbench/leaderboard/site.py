"""The leaderboard as a static site: opens from the file system, needs no network, and runs no script of others.

index.html · benchmarks/<table>.html · strategies/<name>.html · rows/<id>.html · records/ and curves/ as submitted
"""

from __future__ import annotations

import math
import re
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from clbench import plots
from clbench.curve import Floats, Ticks
from clbench.files import atomic_write, make_folder, pretty_json, sha256
from clbench.leaderboard import svg
from clbench.leaderboard.board import ENERGY, SHOWN, Row, names_of, rows_of, settings_of
from clbench.leaderboard.frame import SHADES, page
from clbench.leaderboard.private import in_words
from clbench.leaderboard.store import place
from clbench.ledger import Record
from clbench.markup import join, tag
from clbench.metrics import METRICS
from clbench.statistics import INTERVAL_FROM, RANKED_FROM, TOO_FEW, average_ranks, groups, told_apart
from clbench.tables import NONE, Estimate, counted, head_of, percent

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
    pages = {Path("index.html"): _index(tables)}
    for title, rows in tables.items():
        pages[Path(address("benchmarks", title))] = _benchmark(title, rows)
        for row in rows:
            pages[Path("rows") / f"{row.id}.html"] = _row(row, rows)
    for strategy in sorted({row.strategy for rows in tables.values() for row in rows}):
        pages[Path(address("strategies", strategy))] = _strategy(strategy, tables)
    for path, content in pages.items():
        make_folder((folder / path).parent)
        atomic_write(folder / path, content)
    for record in records:
        for file in (place(record), Path("curves") / record.curve_file["file"]):
            make_folder((folder / file).parent)
            shutil.copyfile(root / file, folder / file)
    return folder / "index.html"


def slug(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9@._+-]+", "-", name).strip(".") or "unnamed"


def address(folder: str, name: str) -> str:
    """The page of a table or strategy; two names that are one in plain letters have two."""
    plain = slug(name)
    return f"{folder}/{plain if plain == name else f'{plain}-{sha256(name)[:6]}'}.html"


# --- pages ---


def _index(tables: Mapping[str, Sequence[Row]]) -> Markup:
    rows = [(row, table) for table in tables.values() for row in table]
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
        _filter(key, sorted({_facets(row)[key] for row, _ in rows}))
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
    style = plots.styles(named := names_of(rows), named)
    drawn = [row for row in rows if any(r.status == "done" for r in row.records)]
    figures = _critical_differences(benchmark, rows)
    if curves := _lines(drawn, rows, style, _seen):
        marks = _boundaries(drawn)
        figures += _figure(
            svg.lines(curves, title=f"{benchmark}: accuracy on the experiences seen so far", x_label="experiences",
                      y_label="accuracy, %", marks=marks),
            "Accuracy averaged over the experiences seen so far, after every step; its mean over steps is AAA. "
            f"Bands: 95 % intervals over seeds, where there are {INTERVAL_FROM} or more.",
            curves,
        )  # fmt: skip
    if curves := _lines(drawn, rows, style, _first):
        figures += _figure(
            svg.lines(curves, title=f"{benchmark}: accuracy on the first experience", x_label="experiences",
                      y_label="accuracy, %", marks=_boundaries(drawn)),
            "The stability gap: how accuracy on the first experience drops when another one begins, and recovers.",
            curves,
        )  # fmt: skip
        closer = Markup("")
        for mark in _boundaries(drawn)[:4]:
            near = [c for c in (_close_up(curve, mark) for curve in curves) if c is not None]
            if near:
                title = f"{benchmark}: around boundary {mark:g}"
                picture = svg.lines(
                    near, title=title, x_label="experiences", y_label="accuracy, %", marks=[mark]
                )
                closer += _figure(picture, f"The same around boundary {mark:g}.", [])
        figures += tag("div", closer, class_="pairs")
    if points := _points(drawn, rows, style):
        figures += _figure(
            svg.scatter(points, title=f"{benchmark}: what accuracy costs", x_label="examples through the network "
                        "in training, logarithmic", y_label="ACC, %"),
            "Accuracy against work and memory, which is the area of a dot. Filled: nobody is as good with as little of "
            "both, and better in one of the three (Pareto).",
            [],
        )  # fmt: skip
    body = Markup("""
{}
{}
<p>Make all of it again: <code>clbench reproduce {}</code></p>
{}
<h2>Accuracy matrices</h2>
<p class="note">Percent on the full test set of each experience (columns) after each one (rows), mean over seeds.</p>
<div class="matrices">{}</div>
""").format(
        _table([(row, rows) for row in rows], up="../"),
        _LEGEND,
        shlex.quote(benchmark),
        figures,
        join(_matrix(row, rows) for row in drawn),
    )
    return page(benchmark, body, up="../")


def _strategy(strategy: str, tables: Mapping[str, Sequence[Row]]) -> Markup:
    rows = [(row, table) for table in tables.values() for row in table if row.strategy == strategy]
    return page(strategy, _table(rows, up="../", with_benchmark=True) + _LEGEND, up="../")


def _row(row: Row, rows: Sequence[Row]) -> Markup:
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
    settings = settings_of(row, rows)
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
        f"({settings})" if settings else "",
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


def _table(rows: Sequence[tuple[Row, Sequence[Row]]], up: str, with_benchmark: bool = False) -> Markup:
    shown = [key for key in SHOWN if key == SHOWN[0] or any(row.values.get(key) for row, _ in rows)]
    heads = [("rank", "number", "")]
    heads += [("benchmark", "words", "")] if with_benchmark else []
    heads += [("strategy", "words", "")]
    told = any(settings_of(row, table) for row, table in rows)
    heads += [("settings", "words", "")] if told else []
    heads += [(head_of(key), "number", METRICS[key].summary) for key in shown]
    heads += [
        ("seeds", "number", ""),
        ("memory, kB", "number", ""),
        ("forwards", "number", ""),
        ("train s", "number", ""),
    ]
    measured = any("joules" in row.costs for row, _ in rows)
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
    for row, table in rows:
        cells = [_cell("bound" if row.bound else NONE if row.rank is None else str(row.rank),
                       math.inf if row.rank is None else row.rank.best + row.rank.worst / 1e4)]  # fmt: skip
        if with_benchmark:
            cells.append(_link(up + address("benchmarks", row.table), row.table))
        cells.append(_link(up + address("strategies", row.strategy), row.strategy))
        if told:
            cells.append(tag("td", tag("small", settings_of(row, table)), class_="words"))
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


def _name(row: Row, rows: Sequence[Row]) -> str:
    return list(names_of(rows))[[other.id for other in rows].index(row.id)]


def _seen(ticks: Ticks) -> Floats:
    seen = ticks.total > 0
    mean: Floats = np.where(seen, ticks.accuracy, 0.0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
    return mean


def _first(ticks: Ticks) -> Floats:
    column: Floats = ticks.accuracy[:, 0]
    return column


def _lines(
    drawn: Sequence[Row],
    rows: Sequence[Row],
    style: Mapping[str, plots.Style],
    value: Callable[[Ticks], Floats],
) -> list[svg.Line]:
    found = []
    for row in drawn:
        curves = [r.curve for r in row.records if r.status == "done"]
        if not all(len(curve.ticks()) for curve in curves):
            continue
        mean = plots.mean_curve(curves, value)
        if mean is not None:
            look = style[_name(row, rows)]
            found.append(svg.Line(_name(row, rows), look.color, *mean, dashed=look.dashes != "-"))
    return found


def _boundaries(rows: Sequence[Row]) -> list[float]:
    """Where experiences begin, but for the first, in progress."""
    experiences = max(
        (r.curve.experiences for row in rows for r in row.records if r.status == "done"), default=0
    )
    return [float(e) for e in range(1, experiences)]


def _close_up(curve: svg.Line, mark: float) -> svg.Line | None:
    inside = (curve.x >= mark - AROUND) & (curve.x <= mark + 3 * AROUND)
    if inside.sum() < 3:
        return None
    half = None if curve.half is None else curve.half[inside]
    return svg.Line(curve.name, curve.color, curve.x[inside], curve.mean[inside], half, curve.dashed)


def _points(drawn: Sequence[Row], rows: Sequence[Row], style: Mapping[str, plots.Style]) -> list[svg.Point]:
    """Accuracy over examples through the network; a dot's area is the memory, on top of a least one."""
    found = [
        (row, interval, row.costs["forward_examples"], row.costs["memory_bytes"])
        for row in drawn
        if (interval := row.interval(SHOWN[0])) is not None and row.costs.get("forward_examples", 0.0) > 0
    ]
    most = max((memory for *_, memory in found), default=0.0) or 1.0

    def dominated(mean: float, work: float, memory: float) -> bool:
        return any(
            o.mean >= mean and w <= work and m <= memory and (o.mean, w, m) != (mean, work, memory)
            for _, o, w, m in found
        )

    return [
        svg.Point(
            f"{_name(row, rows)}, {memory / 1000:,.0f} kB" if memory else _name(row, rows),
            style[_name(row, rows)].color,
            work,
            interval.mean,
            interval.half,
            not dominated(interval.mean, work, memory),
            math.sqrt(16 + 64 * memory / most),
        )
        for row, interval, work, memory in found
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
        [_name(rated[i], rows) for i in order],
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


def _matrix(row: Row, rows: Sequence[Row]) -> Markup:
    curves = [r.curve for r in row.records if r.status == "done"]
    if not curves or not all(curve.full.any() for curve in curves):
        return Markup("")

    def cell(value: float, later: bool) -> Markup:
        if np.isnan(value):
            return tag("td")
        return tag("td", f"{100 * value:.0f}", class_=f"v{round(SHADES * value)}{' later' * later}")

    lines = [
        tag("tr", tag("th", i + 1, scope="row"), *[cell(v, j > i) for j, v in enumerate(line)])
        for i, line in enumerate(plots.mean_matrix(curves))
    ]
    table = tag("table", tag("tbody", *lines), class_="matrix")
    return tag("figure", table, tag("figcaption", _name(row, rows)))


def _figure(picture: Markup, caption: str, curves: Sequence[svg.Line]) -> Markup:
    key = [tag("li", svg.swatch(curve), curve.name) for curve in curves]
    legend = tag("ul", *key, class_="key") if key else ""
    return tag("figure", picture, legend, tag("figcaption", caption)) + "\n"
