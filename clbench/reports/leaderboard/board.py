"""From records to tables and rows. A function of the records; no torch.

Which records are a table and which a row is said in `clbench.reports.grouping`.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from clbench.files import canonical_json, sha256
from clbench.reports import grouping
from clbench.reports.grouping import Named
from clbench.reports.leaderboard.private import needs
from clbench.reports.rows import Cell, Row, keys_of, primary_of, ranked, worth
from clbench.reports.tables import NONE, Column, Text, counted, metric_columns, size_of
from clbench.results.ids import by_content
from clbench.results.ledger import Record


class TwiceWarning(UserWarning):
    """Two runs of one row and seed, of which one counts; `clbench.reports.leaderboard.submit` takes no second one."""


ROW_LENGTH = 8
PARTS = ("classes", "test_blocks", "test_per_class", "train_blocks", "train_per_class", "valid")
"""Arguments by which a stream has a part of its data, unless they are null or 0; a table on a part is always called by
them."""
ENERGY = "kJ, whole machine"
"""Head of the column of joules, which tables have where a record has them."""


def row_id(record: Record) -> str:
    """Return the row that a run belongs to: the same for every seed, and for code that only shows."""
    decides = {
        **by_content(grouping.configuration(record.config, record.seeds["data"]), record.files),
        "benchmark": [record.benchmark["name"], record.benchmark["version"]],
        "strategy": [record.strategy["name"], record.strategy["version"]],
        "model": record.model,
    }
    return sha256(canonical_json(decides))[:ROW_LENGTH]


def rows_of(records: Iterable[Record]) -> dict[str, list[Row]]:
    """Rows by table, the best first; those without a rank after the ranked ones, upper bounds last.

    A table holds the runs of one stream, and is called by its benchmark and what tells it from others of that name. For
    several runs of one row and seed (of several versions of the code), the last by id counts. Where a configuration has
    run on several streams (the file at its path was another), their digits stand behind the row's id.
    """
    ordered = sorted(records, key=lambda r: r.id)
    runs = [
        grouping.Run.of(r.config.get("stream", {}), r.seeds["order"], r.benchmark, row_id(r)) for r in ordered
    ]
    groups: dict[int, list[tuple[Record, grouping.Run]]] = {}
    for stream, record, run in zip(grouping.streams(runs), ordered, runs, strict=True):
        groups.setdefault(stream, []).append((record, run))
    named, tables = [], []
    streams_of = Counter(id for group in groups.values() for id in {run.row for _, run in group})
    for group in groups.values():
        rows: dict[str, dict[int, Record]] = {}
        for record, run in group:
            id = f"{run.row}-{grouping.digits([r for _, r in group])}" if streams_of[run.row] > 1 else run.row
            runs_of = rows.setdefault(id, {})
            if other := runs_of.get(record.seeds["data"]):
                warnings.warn(_doubled(id, other, record), TwiceWarning, stacklevel=2)
            runs_of[record.seeds["data"]] = record
        name = group[0][1].benchmark
        arguments = [record.config.get("stream", {}) for record, _ in group]
        differ = grouping.differing(
            arguments
        )  # several of them may be one stream: all of the data, by another name
        part = [
            f"{key}={canonical_json(arguments[0][key])}"
            for key in PARTS
            if key not in differ and arguments[0].get(key)
        ]
        label = " ".join([name, *part])
        named.append(grouping.of_stream(label, name, arguments, [run for _, run in group]))
        tables.append(rows)
    found = {
        title: _table([_row(id, [row[seed] for seed in sorted(row)], title) for id, row in rows.items()])
        for title, rows in zip(grouping.names(named), tables, strict=True)
    }
    return {title: found[title] for title in sorted(found)}


def _doubled(row: str, other: Record, record: Record) -> str:
    seed = record.seeds["data"]
    return f"Row {row} has two runs of seed {seed}, {other.id} and {record.id}, by other code; {record.id} counts."


def _row(id: str, runs: Sequence[Record], table: str) -> Row:
    benchmark, strategy = (f"{of['name']}@{of['version']}" for of in (runs[0].benchmark, runs[0].strategy))
    lacking = {what: told for record in runs for what, told in needs(record).items()}
    return Row.of([Cell.of(run, benchmark, strategy) for run in runs], id=id, table=table, needs=lacking)


def _table(rows: Sequence[Row]) -> list[Row]:
    """Rows in their order, with their ranks, and what they are called in their table."""
    primary = primary_of(rows)
    marked = ranked(rows, [primary])
    mean = {row.id: worth(row, primary) if row.interval(primary) else 0.0 for row in rows}
    order = sorted(marked, key=lambda row: (2 if row.bound else row.rank is None, -mean[row.id], row.id))
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for row in order:
        alike.setdefault(row.strategy, []).append(row.settings)
    keys = {strategy: grouping.differing(settings) for strategy, settings in alike.items()}
    return [
        replace(row, name=name, apart=_valued(row, keys[row.strategy]))
        for row, name in zip(order, names_of(order), strict=True)
    ]


def _valued(row: Row, keys: Sequence[str]) -> str:
    own = grouping.flatten(row.settings)
    return ", ".join(f"{key}={own[key]}" for key in keys if key in own)


def names_of(rows: Sequence[Row]) -> dict[str, str]:
    """Return a name for each row of a table in figures, and the strategy that it is of."""
    plain = [row.cells[0].name for row in rows]
    named = [Named(name, row.strategy, row.settings) for name, row in zip(plain, rows, strict=True)]
    return dict(zip(grouping.names(named), plain, strict=True))


# --- tables ---


def slug(name: str) -> str:
    """Return a name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9@._+-]+", "-", name).strip(".") or "unnamed"


def address(folder: str, name: str) -> str:
    """Return the page of a table or strategy; two names that are one in plain letters have two."""
    plain = slug(name)
    return f"{folder}/{plain if plain == name else f'{plain}-{sha256(name)[:6]}'}.html"


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """Return what all tables of the leaderboard show; links are seen from the site's root."""
    costs = [row.costs for row in rows]

    def cost(head: str, name: str, form: str = ",.0f", unit: float = 1) -> Column:
        found = [of.get(name) for of in costs]
        texts = (Text(NONE if v is None else format(v / unit, form), value=_last(v)) for v in found)
        return Column(head, tuple(texts))

    return [
        Column("rank", tuple(_rank(row) for row in rows)),
        Column(
            "strategy",
            tuple(Text(row.strategy, link=address("strategies", row.strategy)) for row in rows),
            words=True,
        ),
        Column("settings", tuple(Text(row.apart or NONE) for row in rows), words=True),
        *metric_columns([replace(row, best=frozenset()) for row in rows], keys_of(rows, suite=False)),
        Column("seeds", tuple(Text(_seeds(row), value=len(row.seeds)) for row in rows)),
        Column("network", tuple(Text(row.model) for row in rows), words=True),
        Column("selection", tuple(Text(row.selection) for row in rows), words=True),
        *(
            Column(head, tuple(Text(size_of(of, key), value=of.get(key, 0.0)) for of in costs))
            for head, key in (("memory", "memory_bytes"), ("held", "held_bytes"))
        ),
        cost("forwards", "forward_examples"),
        cost("train s", "train_seconds", ",.1f"),
        *([cost(ENERGY, "joules", ",.1f", 1e3)] if any("joules" in of for of in costs) else []),
        Column(
            "row",
            tuple(Text(row.id + " †" * bool(row.needs), link=f"rows/{row.id}.html") for row in rows),
            words=True,
            code=True,
        ),
    ]


def _last(value: float | None) -> float:
    """Return what it is sorted by; what is not known comes last."""
    return float("inf") if value is None else value


def _rank(row: Row) -> Text:
    if row.rank is None:
        return Text("bound" if row.bound else NONE, value=_last(None))
    return Text(str(row.rank), value=row.rank.best + row.rank.worst / 1e4)


def _seeds(row: Row) -> str:
    """Return how many, and which where they are not the first ones."""
    told = str(row.done) if row.seeds == tuple(range(row.done)) else counted(row.seeds)
    diverged = sum(row.unfinished.values())
    return told + (f", {diverged} diverged" if diverged else "")
