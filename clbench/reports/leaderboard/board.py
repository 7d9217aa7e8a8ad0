"""From records to tables and rows: groups of seeds, intervals, ranks, costs. A function of the records; no torch.

Which records are a table and which a row is said in `clbench.reports.grouping`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from clbench.files import canonical_json, sha256
from clbench.reports import grouping
from clbench.reports.grouping import Named
from clbench.reports.leaderboard.private import needs
from clbench.reports.tables import is_bound, is_rated
from clbench.results.ids import by_content
from clbench.results.ledger import Record
from clbench.results.metrics import METRICS
from clbench.results.statistics import RANKED_FROM, Interval, Rank, best, ranks, t_interval


class TwiceWarning(UserWarning):
    """Two runs of one row and seed, of which one counts; `clbench.reports.leaderboard.submit` takes no second one."""


ROW_LENGTH = 8
SHOWN = ("average_accuracy", "forgetting", "average_anytime_accuracy", "min_acc", "wc_acc")
"""Metrics of the tables, the first of which ranks."""

COSTS = ("train_seconds", "forward_examples", "memory_bytes", "parameters")
"""Of the budget: what a row cost, as means."""
JOULES = ("whole_cpu_joules", "whole_gpu_joules")
ENERGY = "kJ, whole machine"
"""Head of the column of joules, which tables have where a record has them."""


@dataclass(frozen=True)
class Row:
    """The runs of one configuration on one stream, over seeds.

    Attributes:
        id: hash of all but the seeds; what `clbench reproduce` takes.
        benchmark, strategy: name@version.
        config: the configuration, without seeds but those that are not the run's.
        model, selection: on what, and how the hyper-parameters were chosen.
        bound: an upper bound, which is no rival.
        values: metric → seed → value, of the runs that are done.
        costs: cost → mean over the runs that are done.
        records: all runs, by seed; those that diverged, too.
        rank: the places it may have with certainty; None for bounds, for fewer than five seeds, and where a run
            diverged.
        best: whether it is marked as best (`clbench.results.statistics.best`).
        table: name of its table, the benchmark's and what tells it from others of that name.
        name: in the figures of its table.
        apart: the settings that tell it from others of its strategy in its table.
        needs: what others must have of its author to run it again (`clbench.reports.leaderboard.private`).
    """

    id: str
    benchmark: str
    strategy: str
    config: Mapping[str, Any]
    model: str
    selection: str
    bound: bool
    values: Mapping[str, Mapping[int, float]]
    costs: Mapping[str, float]
    records: Sequence[Record] = field(repr=False, default=())
    rank: Rank | None = None
    best: bool = False
    table: str = ""
    name: str = ""
    apart: str = ""
    needs: Mapping[str, str] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """Of the runs that are done."""
        return sorted(record.seeds["data"] for record in self.records if record.status == "done")

    @property
    def diverged(self) -> int:
        """How many runs did not end."""
        return sum(record.status != "done" for record in self.records)

    @property
    def settings(self) -> dict[str, Any]:
        """What tells it from others of its strategy: its configuration, and the first digits of files that it reads."""
        read = self.records[0].files if self.records else {}
        files = {where: file["sha256"][:ROW_LENGTH] for where, file in read.items() if file["sha256"]}
        return {**self.config, **({"files": files} if files else {})}

    def interval(self, metric: str) -> Interval | None:
        """Of a metric over the seeds; None where it is not defined."""
        values = self.values.get(metric)
        return t_interval(list(values.values())) if values else None


def without_seeds(record: Record) -> dict[str, Any]:
    """A run's configuration but for its seed: what all runs of a row share."""
    return grouping.configuration(record.config, record.seeds["data"])


def row_id(record: Record) -> str:
    """The row that a run belongs to: the same for every seed, and for code that only shows."""
    decides = {
        **by_content(without_seeds(record), record.files),
        "benchmark": [record.benchmark["name"], record.benchmark["version"]],
        "strategy": [record.strategy["name"], record.strategy["version"]],
        "model": record.model,
    }
    return sha256(canonical_json(decides))[:ROW_LENGTH]


def rows_of(records: Iterable[Record]) -> dict[str, list[Row]]:
    """Rows by table, the best first; those without a rank after the ranked ones, upper bounds last.

    A table holds the runs of one stream, and is called by its benchmark and what tells it from others of that name. Of
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
        named.append(grouping.of_stream(name, name, arguments, [run for _, run in group]))
        tables.append(rows)
    found = {
        title: _told(
            _ranked([_row(id, [row[seed] for seed in sorted(row)], title) for id, row in rows.items()])
        )
        for title, rows in zip(grouping.names(named), tables, strict=True)
    }
    return {title: found[title] for title in sorted(found)}


def _doubled(row: str, other: Record, record: Record) -> str:
    seed = record.seeds["data"]
    return f"Row {row} has two runs of seed {seed}, {other.id} and {record.id}, by other code; {record.id} counts."


def joules(records: Sequence[Record]) -> float | None:
    """What machine and GPU took while a run went on, as a mean; None unless the same was read for every one."""
    read = [[record.budget.get(name) for name in JOULES] for record in records]
    known = [[value for value in row if value is not None] for row in read]
    if len({tuple(value is None for value in row) for row in read}) != 1 or not known[0]:
        return None
    return sum(sum(row) for row in known) / len(known)


def _row(key: str, runs: Sequence[Record], table: str) -> Row:
    first, done = runs[0], [record for record in runs if record.status == "done"]
    values: dict[str, dict[int, float]] = {}
    for record in done:
        for name, value in record.metrics.items():
            if value is not None:
                values.setdefault(name, {})[record.seeds["data"]] = value
    costs = {name: sum(r.budget[name] for r in done) / len(done) for name in COSTS} if done else {}
    spent = joules(done)
    if spent is not None:
        costs["joules"] = spent
    return Row(
        id=key,
        benchmark=f"{first.benchmark['name']}@{first.benchmark['version']}",
        strategy=f"{first.strategy['name']}@{first.strategy['version']}",
        config=without_seeds(first),
        model=str(first.model.get("name", "")),
        selection=first.selection,
        bound=is_bound(first.strategy["name"]),
        values=values,
        costs=costs,
        records=tuple(runs),
        table=table,
        needs={what: told for record in runs for what, told in needs(record).items()},
    )


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """With their ranks, in the order of the table."""
    metric = SHOWN[0]
    higher = METRICS[metric].higher_is_better is not False
    rivals = [row for row in rows if is_rated(row.bound, row.diverged, row.selection)]
    values = [row.values.get(metric, {}) for row in rivals]
    rank = {row.id: place for row, place in zip(rivals, ranks(values, higher), strict=True)}
    first = {rivals[i].id for i in best(values, higher)}
    sign = -1 if higher else 1

    def order(row: Row) -> tuple[int, float, str]:
        interval = row.interval(metric)
        mean = sign * interval.mean if interval else 0.0
        return (2 if row.bound else row.rank is None, mean, row.id)

    return sorted((replace(row, rank=rank.get(row.id), best=row.id in first) for row in rows), key=order)


def settings_of(row: Row, others: Sequence[Row]) -> str:
    """What tells a row from others of the same strategy on the same benchmark: the settings in which they differ."""
    same = [other.settings for other in others if other.strategy == row.strategy]
    return _valued(row, grouping.differing(same))


def _valued(row: Row, keys: Sequence[str]) -> str:
    own = grouping.flatten(row.settings)
    return ", ".join(f"{key}={own[key]}" for key in keys if key in own)


def _told(rows: Sequence[Row]) -> list[Row]:
    """With what they are called in their table."""
    settings: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        settings.setdefault(row.strategy, []).append(row.settings)
    keys = {strategy: grouping.differing(trees) for strategy, trees in settings.items()}
    return [
        replace(row, name=name, apart=_valued(row, keys[row.strategy]))
        for row, name in zip(rows, names_of(rows), strict=True)
    ]


def names_of(rows: Sequence[Row]) -> dict[str, str]:
    """A name for each row of a table in figures, and the strategy that it is of."""
    plain = [row.strategy.partition("@")[0] for row in rows]
    named = [Named(name, row.strategy, row.settings) for name, row in zip(plain, rows, strict=True)]
    return dict(zip(grouping.names(named), plain, strict=True))


__all__ = [
    "COSTS",
    "RANKED_FROM",
    "SHOWN",
    "Row",
    "names_of",
    "row_id",
    "rows_of",
    "settings_of",
    "without_seeds",
]
