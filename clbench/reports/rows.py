"""Rows of tables: the runs of one configuration on one stream, what is best of them, and what parts change. No torch.

Suites and the leaderboard make their rows here, so that runs of the same seeds are told apart in both or in neither.
Means are over the runs that finished. A run that diverged or failed is counted and listed, never dropped silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from clbench.reports import grouping
from clbench.results.metrics import METRICS
from clbench.results.metrics.core import PRIMARY, shown
from clbench.results.statistics import INTERVAL_FROM, Interval, Rank, best, ranks, t_interval

if TYPE_CHECKING:
    from clbench.results.curve import Curve
    from clbench.results.ledger import Record

TIMES = {"train_seconds": "train s", "eval_seconds": "eval s"}
"""What a run of a suite cost, and the heads of its columns."""

COSTS = ("train_seconds", "forward_examples", "memory_bytes", "parameters")
JOULES = ("whole_cpu_joules", "whole_gpu_joules")
"""Of the budget of a record: what a row cost, as means."""

UPPER_BOUNDS = frozenset(("joint", "offline"))
"""Strategies that have all data: shown, but no rivals."""


def held_bytes(budget: Mapping[str, Any]) -> int:
    """Return what a strategy held beside the network at most; of an older record, its state at the end."""
    held: int = budget.get("held_bytes", budget["strategy_state_bytes"])
    return held


def is_bound(strategy: str) -> bool:
    """Whether a strategy, or a part of a chain, has all data."""
    return not UPPER_BOUNDS.isdisjoint(strategy.split("+"))


@dataclass(frozen=True)
class Cell:
    """One run, as reports need it.

    Attributes:
        benchmark, strategy: labels, which no two streams of a table share, and no two configurations on one.
        seed: of the run.
        status: "done", "diverged", "failed" …
        metrics: by name, None where one is not defined.
        train_seconds, eval_seconds: what it cost; None if unknown.
        curve: gives its curve when the plots are drawn; None if there is none.
        note: why it is not done.
        bound: whether the strategy is an upper bound.
        made_by: versions of what made it.
        substrate: what its weights had learned from before; empty from scratch.
        name: of the strategy, as registered; the label if empty.
        config: its configuration, but for the seed.
        primary: the metric that ranks on its benchmark; empty if unknown. more: those that its benchmark shows.
        record: what all this is from, where there is one. experiences: what they are called, where they have names.
        columns: the metrics that its table shows, where they were chosen.
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
    substrate: str = ""
    name: str = ""
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    primary: str = ""
    more: tuple[str, ...] = ()
    record: Record | None = field(default=None, repr=False)
    experiences: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Cell {self.benchmark} · {self.strategy} · seed {self.seed}: {self.status}>"

    @staticmethod
    def of(record: Record, benchmark: str, strategy: str) -> Cell:
        """Return the run of a record under the labels of its table and its row."""
        seed, name, budget = record.seeds["data"], record.strategy["name"], record.budget
        return Cell(
            benchmark,
            strategy,
            seed,
            record.status,
            record.metrics,
            budget["train_seconds"],
            budget.get("eval_seconds"),
            lambda: record.curve,
            record.note,
            is_bound(name),
            _made_by(record),
            _substrate(record),
            name,
            {**grouping.configuration(record.config, seed), "selection": record.selection},
            record.primary,
            record.more,
            record,
            _experiences(record),
        )


def _experiences(record: Record) -> tuple[str, ...]:
    """Return the domains of a stream, in their order, where the record says them."""
    domains = record.benchmark.get("domains") or record.config.get("stream", {}).get("domains")
    return tuple(map(str, domains)) if isinstance(domains, list) else ()


def _made_by(record: Record) -> str:
    code, env = record.code, record.environment
    commit = f" ({code['commit'][:9]}{', changed' if code['dirty'] else ''})" if code.get("commit") else ""
    libraries = ", ".join(f"{name} {version}" for name, version in env["libraries"].items() if version)
    software = "; ".join(filter(None, (f"Python {env['python']}", libraries)))
    vectors = f" ({env['instructions']})" if "instructions" in env else ""
    return (
        f"clbench {code['version']}{commit}; {software}; {env['device']} on {env['processor']}{vectors}, "
        f"{env['system']}, {env['threads']} thread{'s' * (env['threads'] != 1)}"
    )


def _substrate(record: Record) -> str:
    """Return what a run's weights had learned from before, in words; empty from scratch."""
    if told := record.model.get("substrate"):
        return str(told)
    model = record.config.get("model", {})
    return f"timm's pretrained {model['name']}" if model.get("params", {}).get("pretrained") else ""


@dataclass(frozen=True)
class Row:
    """The runs of one configuration on one stream, over seeds; or the differences between two of them.

    Attributes:
        cells: its runs, whatever became of them.
        values: metric, or cost, → seed → value, of the runs that are done.
        best: metrics of which it is marked as best (`clbench.results.statistics.best`).
        rank: the places that it may have with certainty by the metric that ranks; None for bounds, for fewer than five
            seeds, and where a run is not done.
        also: of a difference, the settings that differ beside the part.
        id: on the leaderboard, a hash of all but the seeds; what `clbench reproduce` takes.
        table, name, apart: there: of its table; in its figures; the settings that tell it from others of its strategy.
        needs: there: what others must have of its author to run it again (`clbench.reports.leaderboard.private`).
    """

    cells: Sequence[Cell] = field(repr=False)
    values: Mapping[str, Mapping[int, float]] = field(repr=False)
    best: frozenset[str] = frozenset()
    rank: Rank | None = None
    also: tuple[str, ...] = ()
    id: str = ""
    table: str = ""
    name: str = ""
    apart: str = ""
    needs: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(cells: Sequence[Cell], **named: Any) -> Row:
        values: dict[str, dict[int, float]] = {}
        for cell in cells:
            if cell.status == "done":
                for key, value in (*cell.metrics.items(), *((key, getattr(cell, key)) for key in TIMES)):
                    if value is not None:
                        values.setdefault(key, {})[cell.seed] = value
        return Row(tuple(cells), values, **named)

    @property
    def benchmark(self) -> str:
        return self.cells[0].benchmark

    @property
    def strategy(self) -> str:
        return self.cells[0].strategy

    @property
    def bound(self) -> bool:
        """Whether it is an upper bound, which is no rival."""
        return self.cells[0].bound

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration, without seeds but those that are not the run's."""
        return self.cells[0].config

    @property
    def selection(self) -> str:
        """How the hyper-parameters were chosen, if known."""
        return str(self.config.get("selection", ""))

    @property
    def substrate(self) -> str:
        """What its weights had learned from before; empty from scratch."""
        return " and ".join(dict.fromkeys(cell.substrate for cell in self.cells if cell.substrate))

    @property
    def unfinished(self) -> dict[str, int]:
        """Status → how many, of the runs that are not done."""
        return dict(Counter(cell.status for cell in self.cells if cell.status != "done"))

    @property
    def runs(self) -> int:
        return len(self.cells)

    @property
    def done(self) -> int:
        return len(self.seeds)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs that are done."""
        return tuple(sorted(cell.seed for cell in self.cells if cell.status == "done"))

    @property
    def rated(self) -> bool:
        """Whether it is a rival.

        It is no upper bound, all its runs are done (else the mean is over the survivors), and its settings were not
        chosen on the test stream.
        """
        return not self.bound and not self.unfinished and self.selection != "oracle"

    @property
    def records(self) -> list[Record]:
        """Of all runs that have one, by seed."""
        return [cell.record for cell in self.cells if cell.record is not None]

    @property
    def model(self) -> str:
        return str(self.records[0].model.get("name", ""))

    @property
    def settings(self) -> dict[str, Any]:
        """What tells it from others of its strategy: its configuration, and the first digits of files that it reads."""
        files = {where: file["sha256"][:8] for where, file in self.records[0].files.items() if file["sha256"]}
        return {**self.config, **({"files": files} if files else {})}

    @property
    def costs(self) -> dict[str, float]:
        """Cost → mean over the runs that are done; `joules` where the same meters were read for every one."""
        budgets = [record.budget for record in self.records if record.status == "done"]
        if not budgets:
            return {}
        costs = {name: sum(budget[name] for budget in budgets) / len(budgets) for name in COSTS}
        costs["held_bytes"] = sum(map(held_bytes, budgets)) / len(budgets)
        read = [[budget.get(name) for name in JOULES] for budget in budgets]
        known = [[value for value in row if value is not None] for row in read]
        if known[0] and len({tuple(value is None for value in row) for row in read}) == 1:
            costs["joules"] = sum(map(sum, known)) / len(known)
        return costs

    def tells(self, key: str) -> bool:
        """Whether its benchmark shows a metric: of language, where everything has an accuracy, those of language."""
        cell = self.cells[0]
        named = (cell.primary, *cell.more, *cell.columns)
        return key in named or METRICS[key].language or not METRICS[primary_of([self])].language

    def interval(self, key: str) -> Interval | None:
        """Return the mean over seeds with its interval; None where there is no value."""
        values = self.values.get(key)
        return t_interval(list(values.values())) if values else None


# --- of a table ---


def primary_of(rows: Iterable[Row]) -> str:
    """Return the metric that ranks: what most runs say."""
    said = Counter(cell.primary for row in rows for cell in row.cells if cell.primary)
    return said.most_common(1)[0][0] if said else PRIMARY


def keys_of(rows: Sequence[Row], *, suite: bool = True) -> list[str]:
    """Return the metrics that a table shows: those that were chosen, or the one that ranks first, and others where a
    row has a value.

    Of those that runs name beside the general ones, it shows what half of a benchmark's do: one record adds no column
    to all.

    Args:
        suite: whether the rows are of one suite.
    """
    if chosen := next((cell.columns for row in rows for cell in row.cells if cell.columns), ()):
        return list(chosen)
    more, ranking = dict[str, None](), []
    for table in by_benchmark(rows).values():
        ranking.append(primary_of(table))
        said = [(cell.primary, *cell.more) for row in table for cell in row.cells if cell.primary]
        often = Counter(key for keys in said for key in dict.fromkeys(keys))
        more |= dict.fromkeys(key for key, n in often.items() if 2 * n >= len(said))
    first, *others = shown(primary_of(rows), more, suite=suite, others=ranking)
    return [first, *(key for key in others if any(row.values.get(key) and row.tells(key) for row in rows))]


def ranked(rows: Sequence[Row], keys: Iterable[str]) -> list[Row]:
    """With their marks by these metrics, and their ranks by the one that ranks."""
    rivals = [row for row in rows if row.rated]

    def values(key: str) -> list[Mapping[int, float]]:
        return [row.values.get(key, {}) for row in rivals]

    first = {key: best(values(key), METRICS[key].rises) for key in keys}
    primary = primary_of(rows)
    places = dict(zip(map(id, rivals), ranks(values(primary), METRICS[primary].rises), strict=True))
    number = {id(row): i for i, row in enumerate(rivals)}
    return [
        replace(
            row,
            best=frozenset(key for key in first if number.get(id(row)) in first[key]),
            rank=places.get(id(row)),
        )
        for row in rows
    ]


def experiences_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return what the experiences of a table are called, such as their domains; nothing where they have no names, or
    their order depends on the seed."""
    found = {cell.experiences for row in rows for cell in row.cells}
    return found.pop() if len(found) == 1 else ()


def worth(row: Row, key: str) -> float:
    """Return a row's mean by a metric, the larger the better; −∞ where it has none."""
    interval = row.interval(key)
    return float("-inf") if interval is None else interval.mean if METRICS[key].rises else -interval.mean


def table_rows(cells: Sequence[Cell]) -> list[Row]:
    """Return a row for each benchmark and strategy, in the order of the cells, the best of each benchmark marked."""
    groups: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        groups.setdefault(cell.benchmark, {}).setdefault(cell.strategy, []).append(cell)
    tables = ([Row.of(runs) for runs in strategies.values()] for strategies in groups.values())
    return [row for table in tables for row in ranked(table, keys_of(table))]


def by_benchmark(rows: Sequence[Row]) -> dict[str, list[Row]]:
    tables: dict[str, list[Row]] = {}
    for row in rows:
        tables.setdefault(row.benchmark, []).append(row)
    return tables


def metric_names(cells: Iterable[Cell]) -> list[str]:
    """Metrics that any cell has: registered ones in their order, then others."""
    names = {name for cell in cells for name in cell.metrics}
    return [*[name for name in METRICS if name in names], *sorted(names - METRICS.keys())]


def difference_rows(cells: Sequence[Cell]) -> list[Row]:
    """For each strategy `a+b` whose base `a` is there, too, what `b` changes: `a+b` minus `a`, paired by seed.

    Runs of one seed share stream, order and initial weights, so that their difference varies less than either. Among
    several bases the one counts from which the fewest other settings differ; none where two are as near.
    """
    groups: dict[tuple[str, str], dict[int, Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.benchmark, cell.strategy), {})[cell.seed] = cell
    named: dict[tuple[str, str], dict[str, Cell]] = {}
    for (benchmark, strategy), runs in groups.items():
        cell = next(iter(runs.values()))
        named.setdefault((benchmark, cell.name or cell.strategy), {})[strategy] = cell
    rows = []
    for (benchmark, strategy), runs in groups.items():
        cell = next(iter(runs.values()))
        base_name = (cell.name or cell.strategy).rpartition("+")[0]
        bases = {other: _apart(cell, base) for other, base in named.get((benchmark, base_name), {}).items()}
        nearest = min(map(len, bases.values()), default=0)
        base, *rivals = [other for other, also in bases.items() if len(also) == nearest] or [""]
        others = groups.get((benchmark, base), {})
        pairs = [(run, others[seed]) for seed, run in runs.items() if seed in others]
        if pairs and not rivals:
            title = f"{strategy} − {base}"
            rows.append(Row.of([_minus(a, b, title) for a, b in pairs], also=tuple(bases[base])))
    return rows


def _apart(cell: Cell, base: Cell) -> list[str]:
    """Return the settings in which a chain and its base differ, beside those of its last part."""
    last = (cell.name or cell.strategy).rpartition("+")[2]
    keys = grouping.differing([cell.config, base.config])
    return [k for k in keys if k not in ("strategy", "selection") and not k.startswith(f"params.{last}.")]


def _minus(a: Cell, b: Cell, title: str) -> Cell:
    """Return the difference of two runs of one seed."""
    known = {key: (value, b.metrics.get(key)) for key, value in a.metrics.items()}
    metrics = {key: None if x is None or y is None else x - y for key, (x, y) in known.items()}
    status = "done" if a.status == b.status == "done" else "unpaired"
    return Cell(
        a.benchmark, title, a.seed, status, metrics, primary=a.primary, more=a.more, columns=a.columns
    )


def summary(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the rows as JSON-able dictionaries, with every metric: mean, half its 95 % interval, number of runs.

    Paired differences follow, `a+b − a` in place of a strategy.
    """
    return [
        {
            "benchmark": row.benchmark,
            "strategy": row.strategy,
            "runs": row.runs,
            "done": row.done,
            "seeds": list(row.seeds),
            **row.unfinished,
            "primary": row.cells[0].primary or PRIMARY,
            "metrics": {key: _told(row.interval(key)) for key in (*metric_names(row.cells), *costs)},
        }
        for rows, costs in ((table_rows(cells), TIMES), (difference_rows(cells), ()))
        for row in rows
    ]


def _told(of: Interval | None) -> dict[str, Any] | None:
    if of is None:
        return None
    return {"mean": of.mean, "half_width": of.half if of.n >= INTERVAL_FROM else None, "n": of.n}
