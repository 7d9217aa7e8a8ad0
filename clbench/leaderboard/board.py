"""From records to rows: groups of seeds, intervals, ranks, costs. A deterministic function of the records; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clbench.files import canonical_json, sha256
from clbench.ledger import Record
from clbench.metrics import METRICS
from clbench.statistics import RANKED_FROM, Interval, Rank, ranks, t_interval
from clbench.tables import is_bound

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
    """The runs of one configuration on one benchmark, over seeds.

    Attributes:
        id: hash of all but the seeds; what `clbench reproduce` takes.
        benchmark, strategy: name@version.
        config: the configuration, without seeds.
        model, selection: on what, and how the hyper-parameters were chosen.
        bound: an upper bound, which is no rival.
        values: metric → seed → value, of the runs that are done.
        costs: cost → mean over the runs that are done.
        records: all runs, by seed; those that diverged, too.
        rank: the places it may have with certainty; None for bounds, for fewer than five seeds, and where a run
            diverged.
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

    @property
    def seeds(self) -> list[int]:
        """Of the runs that are done."""
        return sorted(record.seeds["data"] for record in self.records if record.status == "done")

    @property
    def diverged(self) -> int:
        """How many runs did not end."""
        return sum(record.status != "done" for record in self.records)

    def interval(self, metric: str) -> Interval | None:
        """Of a metric over the seeds; None where it is not defined."""
        values = self.values.get(metric)
        return t_interval(list(values.values())) if values else None


def without_seeds(record: Record) -> dict[str, Any]:
    """A run's configuration but for its seeds: what all runs of a row share."""
    config = {key: value for key, value in record.config.items() if key != "seeds"}
    config["stream"] = {key: value for key, value in config.get("stream", {}).items() if key != "seed"}
    return config


def row_id(record: Record) -> str:
    """The row that a run belongs to: the same for every seed, and for code that only shows."""
    decides = {
        "config": without_seeds(record),
        "benchmark": [record.benchmark["name"], record.benchmark["version"]],
        "strategy": [record.strategy["name"], record.strategy["version"]],
        "model": record.model,
    }
    return sha256(canonical_json(decides))[:ROW_LENGTH]


def rows_of(records: Iterable[Record]) -> dict[str, list[Row]]:
    """Rows by benchmark, the best first; those without a rank after the ranked ones, upper bounds last.

    Of several runs of one row and seed (of several versions of the code), the last by id counts.
    """
    groups: dict[str, dict[int, Record]] = {}
    for record in sorted(records, key=lambda r: r.id):
        groups.setdefault(row_id(record), {})[record.seeds["data"]] = record
    tables: dict[str, list[Row]] = {}
    for key, runs in groups.items():
        row = _row(key, [runs[seed] for seed in sorted(runs)])
        tables.setdefault(row.benchmark, []).append(row)
    return {benchmark: _ranked(tables[benchmark]) for benchmark in sorted(tables)}


def joules(records: Sequence[Record]) -> float | None:
    """What machine and GPU took while a run went on, as a mean; None unless the same was read for every one."""
    read = [[record.budget.get(name) for name in JOULES] for record in records]
    known = [[value for value in row if value is not None] for row in read]
    if len({tuple(value is None for value in row) for row in read}) != 1 or not known[0]:
        return None
    return sum(sum(row) for row in known) / len(known)


def _row(key: str, runs: Sequence[Record]) -> Row:
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
    )


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """With their ranks, in the order of the table."""
    from dataclasses import replace

    metric = SHOWN[0]
    higher = METRICS[metric].higher_is_better is not False
    rivals = [row for row in rows if not row.bound and not row.diverged and row.selection != "oracle"]
    found = ranks([row.values.get(metric, {}) for row in rivals], higher)
    rank = {row.id: place for row, place in zip(rivals, found, strict=True)}
    sign = -1 if higher else 1

    def order(row: Row) -> tuple[int, float, str]:
        interval = row.interval(metric)
        mean = sign * interval.mean if interval else 0.0
        return (2 if row.bound else row.rank is None, mean, row.id)

    return sorted((replace(row, rank=rank.get(row.id)) for row in rows), key=order)


def settings_of(row: Row, others: Sequence[Row]) -> str:
    """What tells a row from others of the same strategy on the same benchmark: the settings in which they differ."""
    same = [other for other in others if other.strategy == row.strategy]
    flat = [_flatten(other.config) for other in same]
    differing = sorted(
        key for key in set().union(*flat) if len({canonical_json(config.get(key)) for config in flat}) > 1
    )
    own = _flatten(row.config)
    return ", ".join(f"{key}={own.get(key)}" for key in differing)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


__all__ = ["COSTS", "RANKED_FROM", "SHOWN", "Row", "row_id", "rows_of", "settings_of", "without_seeds"]
