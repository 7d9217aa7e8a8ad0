"""The numbers of a suite: means with intervals, paired differences, and tables of them. No torch.

Means are over the runs that finished, with 95 % t-intervals where there are enough of them. A run that diverged or
failed is counted and listed, never dropped silently. The best is marked as on the leaderboard (`statistics.best`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from clbench.names import printable
from clbench.reports import grouping
from clbench.results.metrics import METRICS
from clbench.results.statistics import INTERVAL_FROM, RANKED_FROM, TOO_FEW, Interval, best, t_interval

if TYPE_CHECKING:
    from rich.table import Table

    from clbench.results.curve import Curve
    from clbench.results.ledger import Record

COLUMNS = (
    "average_accuracy",
    "forgetting",
    "average_anytime_accuracy",
    "min_acc",
    "wc_acc",
    "wf10",
    "a_auc",
    "a_avg",
    "a_last",
    "f_last",
)
"""Metrics of the tables, in percent; a table leaves out those that its benchmark does not define."""

FEW_SHOT = (
    "average_accuracy_weighted",
    "base_accuracy",
    "novel_accuracy",
    "harmonic_mean",
    "average_incremental_accuracy_weighted",
    "performance_drop",
)
"""Those of few-shot benchmarks: an overall accuracy alone would hide whether anything new was learned."""

TITLES = {
    "forgetting": "forgetting",
    "wf10": "WF10",
    "average_accuracy_weighted": "overall",
    "average_incremental_accuracy_weighted": "average",
    "base_accuracy": "base",
    "novel_accuracy": "novel",
}
"""Where a table calls a metric other than its registered title."""

TIMES = {"train_seconds": "train s", "eval_seconds": "eval s"}

UPPER_BOUNDS = frozenset(("joint", "offline"))
"""Strategies that have all data: shown, but no rivals when the best is marked."""


def is_bound(strategy: str) -> bool:
    """Whether a strategy, or a part of a chain, has all data."""
    return not UPPER_BOUNDS.isdisjoint(strategy.split("+"))


def is_rated(bound: bool, unfinished: int, selection: str) -> bool:
    """Whether a row is a rival when the best is marked.

    It is no upper bound, all its runs are done (else the mean is over the survivors), and its settings were not chosen
    on the test stream.
    """
    return not bound and not unfinished and selection != "oracle"


NONE = "–"


@dataclass(frozen=True)
class Cell:
    """One run of a suite, as a report needs it.

    Attributes:
        benchmark, strategy: labels, which no two streams of a suite share, and no two configurations on one.
        seed: of the run.
        status: "done", "diverged", "failed" …
        metrics: fractions by name, None where one is not defined.
        train_seconds, eval_seconds: what it cost; None if unknown.
        curve: gives its curve when the plots are drawn; None if there is none.
        note: why it is not done.
        bound: whether the strategy is an upper bound.
        made_by: versions of what made it.
        substrate: what its weights had learned from before; empty from scratch.
        name: of the strategy, as registered; the label if empty.
        config: its configuration, but for the seed.
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


def substrate_of(record: Record) -> str:
    """What a run's weights had learned from before, in words; empty from scratch."""
    if told := record.model.get("substrate"):
        return str(told)
    model = record.config["model"]
    return f"timm's pretrained {model['name']}" if model["params"].get("pretrained") else ""


# --- numbers ---


@dataclass(frozen=True)
class Estimate:
    """A mean over n runs and half the width of its 95 % t-interval, None where there are too few for one."""

    mean: float
    half: float | None
    n: int

    @staticmethod
    def of(interval: Interval | None) -> Estimate | None:
        if interval is None:
            return None
        return Estimate(interval.mean, interval.half if interval.n >= INTERVAL_FROM else None, interval.n)


@dataclass(frozen=True)
class Row:
    """The runs of one strategy on one benchmark.

    Attributes:
        runs: how many there are, whatever became of them.
        unfinished: status → how many, of those that are not done.
        values: metric, or cost, → estimate over the runs that are done; None where it is not defined.
        best: metrics of which it is marked as best (`clbench.results.statistics.best`).
        substrate: what its weights had learned from before; empty from scratch.
        selection: how its hyper-parameters were chosen, if known.
        by_seed: metric → seed → value, of the runs that are done.
        seeds: of the runs that are done.
        also: of a difference, the settings that differ beside the part.
    """

    benchmark: str
    strategy: str
    bound: bool
    runs: int
    unfinished: Mapping[str, int]
    values: Mapping[str, Estimate | None]
    best: frozenset[str] = frozenset()
    substrate: str = ""
    selection: str = ""
    by_seed: Mapping[str, Mapping[int, float]] = field(default_factory=dict, repr=False)
    seeds: tuple[int, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def done(self) -> int:
        return self.runs - sum(self.unfinished.values())

    @property
    def rated(self) -> bool:
        return is_rated(self.bound, sum(self.unfinished.values()), self.selection)


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Mean and 95 % t-interval of the values that are there."""
    there = [value for value in values if value is not None]
    return Estimate.of(t_interval(there)) if there else None


def table_rows(cells: Sequence[Cell]) -> list[Row]:
    """A row for each benchmark and strategy, in the order of the cells, the best of each benchmark marked."""
    groups: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        groups.setdefault(cell.benchmark, {}).setdefault(cell.strategy, []).append(cell)
    rows: list[Row] = []
    for strategies in groups.values():
        table = [_row(runs) for runs in strategies.values()]
        marked = {key: _best(table, key) for key in chosen_columns(row.values for row in table)}
        rows += [
            replace(row, best=frozenset(key for key in marked if row.strategy in marked[key]))
            for row in table
        ]
    return rows


def chosen_columns(values: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The metrics of a benchmark's table, by what its runs have."""
    return FEW_SHOT if any(of.get("harmonic_mean") is not None for of in values) else COLUMNS


def _row(runs: Sequence[Cell]) -> Row:
    done = [cell for cell in runs if cell.status == "done"]
    values = {key: estimate(cell.metrics.get(key) for cell in done) for key in metric_names(runs)}
    for key in TIMES:
        values[key] = estimate(getattr(cell, key) for cell in done)
    unfinished = Counter(cell.status for cell in runs if cell.status != "done")
    substrate = " and ".join(dict.fromkeys(cell.substrate for cell in runs if cell.substrate))
    by_seed = {
        key: {cell.seed: value for cell in done if (value := cell.metrics.get(key)) is not None}
        for key in metric_names(runs)
    }
    return Row(
        runs[0].benchmark,
        runs[0].strategy,
        runs[0].bound,
        len(runs),
        dict(unfinished),
        values,
        substrate=substrate,
        selection=str(runs[0].config.get("selection", "")),
        by_seed=by_seed,
        seeds=tuple(sorted(cell.seed for cell in done)),
    )


def _best(rows: Sequence[Row], key: str) -> set[str]:
    """Strategies that are marked as best."""
    rivals = [row for row in rows if row.rated and row.by_seed.get(key)]
    values = [row.by_seed[key] for row in rivals]
    return {rivals[i].strategy for i in best(values, METRICS[key].higher_is_better is not False)}


def metric_names(cells: Iterable[Cell]) -> list[str]:
    """Metrics that any cell has: registered ones in their order, then others."""
    names = {name for cell in cells for name in cell.metrics}
    return [*[name for name in METRICS if name in names], *sorted(names - METRICS.keys())]


def difference_rows(cells: Sequence[Cell]) -> list[Row]:
    """For each strategy `a+b` whose base `a` is there, too, what `b` changes: `a+b` minus `a`, paired by seed.

    Runs of one seed share stream, order and initial weights, so that their difference varies less than either. Of
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
        if not base or rivals:
            continue
        others = groups[benchmark, base]
        pairs = [(run, others[seed]) for seed, run in runs.items() if seed in others]
        done = [(a, b) for a, b in pairs if a.status == b.status == "done"]
        values = {
            key: estimate(_difference(a.metrics.get(key), b.metrics.get(key)) for a, b in done)
            for key in metric_names([*runs.values(), *others.values()])
        }
        unfinished = {"unpaired": len(pairs) - len(done)} if len(done) < len(pairs) else {}
        rows.append(
            Row(
                benchmark,
                f"{strategy} − {base}",
                False,
                len(pairs),
                unfinished,
                values,
                seeds=tuple(sorted(a.seed for a, _ in done)),
                also=tuple(bases[base]),
            )
        )
    return rows


def _apart(cell: Cell, base: Cell) -> list[str]:
    """The settings in which a chain and its base differ, beside those of its last part."""
    last = (cell.name or cell.strategy).rpartition("+")[2]
    keys = grouping.differing([cell.config, base.config])
    return [k for k in keys if k not in ("strategy", "selection") and not k.startswith(f"params.{last}.")]


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def summary(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The rows as JSON-able dictionaries, with every metric: mean, half its 95 % interval, number of runs.

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
            "metrics": {
                key: value and {"mean": value.mean, "half_width": value.half, "n": value.n}
                for key, value in row.values.items()
            },
        }
        for row in [*table_rows(cells), *difference_rows(cells)]
    ]


# --- tables ---


@dataclass(frozen=True)
class Column:
    """A column of a printed table: its head and, for each row, text and whether it is marked."""

    head: str
    texts: tuple[tuple[str, bool], ...]
    words: bool = False


def columns_of(rows: Sequence[Row], differences: bool = False) -> list[Column]:
    """What all tables of a benchmark show; of differences with their signs, and without costs."""
    columns = [
        Column("strategy", tuple((row.strategy, False) for row in rows), words=True),
        Column("runs", tuple((_runs(row), False) for row in rows)),
    ]
    shown = chosen_columns(row.values for row in rows)
    for key in shown:
        if key == shown[0] or any(row.values.get(key) for row in rows):
            texts = tuple((percent(row.values.get(key), differences), key in row.best) for row in rows)
            columns.append(Column(head_of(key), texts))
    for key, head in () if differences else TIMES.items():
        columns.append(Column(head, tuple((_seconds(row.values.get(key)), False) for row in rows)))
    return columns


def percent(value: Estimate | None, plus: bool = False) -> str:
    """`87.1 ± 0.4`, in percent; `+87.1 ± 0.4` with a sign of its own; `87.1 (too few)` of too few runs."""
    if value is None:
        return NONE
    shown = _signed(100 * value.mean)
    if plus and shown != "0.0" and value.mean > 0:
        shown = f"+{shown}"
    if value.half is None:
        return f"{shown} ({TOO_FEW})" if value.n > 1 else shown
    return f"{shown} ± {100 * value.half:.1f}"


def _signed(number: float) -> str:
    text = f"{number:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def _seconds(value: Estimate | None) -> str:
    if value is None:
        return NONE
    digits = 0 if value.mean >= 100 else 1 if value.mean >= 1 else 2
    return f"{value.mean:,.{digits}f}"


MOST_SEEDS = 10
"""Seeds and stretches of them that a table lists; of more, the last."""


def listed(seeds: Sequence[int]) -> str:
    """`0–4`, or `3, 7, 11, 12, 19`: seeds in order, three or more that follow each other as a stretch."""
    stretches: list[list[int]] = []
    for seed in sorted(seeds):
        if not stretches or seed != stretches[-1][-1] + 1:
            stretches.append([])
        stretches[-1].append(seed)
    told = [
        part for s in stretches for part in ([f"{s[0]}–{s[-1]}"] if len(s) > 2 else [str(seed) for seed in s])
    ]
    return ", ".join(told if len(told) <= MOST_SEEDS else [*told[: MOST_SEEDS - 1], f"… {told[-1]}"])


def counted(seeds: Sequence[int]) -> str:
    """How many seeds, and which: `5 (0–4)`."""
    return f"{len(seeds)} ({listed(seeds)})" if seeds else "0"


def _runs(row: Row) -> str:
    """`5 (0–4)`, or `3 (0, 2, 4), 2/5 diverged`."""
    return ", ".join([*([counted(row.seeds)] if row.seeds else []), *_unfinished(row)]) or str(row.runs)


def _unfinished(row: Row) -> list[str]:
    return [f"{count}/{row.runs} {status}" for status, count in row.unfinished.items()]


def title_of(key: str) -> str:
    return TITLES.get(key, METRICS[key].title)


def head_of(key: str) -> str:
    arrow = {True: " ↑", False: " ↓", None: ""}[METRICS[key].higher_is_better]
    return title_of(key) + arrow


def shown_metrics(cells: Sequence[Cell]) -> list[str]:
    """Metrics that a table of these cells has."""
    tables: dict[str, list[Cell]] = {}
    for cell in cells:
        tables.setdefault(cell.benchmark, []).append(cell)
    shown = {key for table in tables.values() for key in chosen_columns(cell.metrics for cell in table)}
    return [
        key
        for key in dict.fromkeys((*COLUMNS, *FEW_SHOT))
        if key in shown and any(cell.metrics.get(key) is not None for cell in cells)
    ]


def by_benchmark(rows: Sequence[Row]) -> dict[str, list[Row]]:
    tables: dict[str, list[Row]] = {}
    for row in rows:
        tables.setdefault(row.benchmark, []).append(row)
    return tables


def rich_tables(cells: Sequence[Cell]) -> list[Table]:
    """Tables for the terminal: one for each benchmark, and one of its paired differences if it has any."""
    differences = by_benchmark(difference_rows(cells))
    tables = []
    for benchmark, rows in by_benchmark(table_rows(cells)).items():
        tables.append(_rich_table(benchmark, rows))
        if benchmark in differences:
            tables.append(_rich_table(f"{benchmark}, paired differences", differences[benchmark], True))
    return tables


def _rich_table(name: str, rows: Sequence[Row], differences: bool = False) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # 80 characters: no seconds of evaluation, no column of equal numbers of runs, no spaces around ± and arrows, and
    # nothing in every cell that can be said once.
    columns, title = columns_of(rows, differences), Text(name, style="bold")
    if not differences:
        del columns[-1]
    finished = {row.seeds for row in rows if not row.unfinished}
    if len(finished) == 1:
        (seeds,) = finished
        title.append(f"  {len(seeds)} {'seeds' if len(seeds) > 1 else 'seed'} ({listed(seeds)})", style="dim")
        bare = tuple((", ".join(_unfinished(row)) or str(row.runs), False) for row in rows)
        columns[1:2] = [replace(columns[1], texts=bare)] if any(row.unfinished for row in rows) else []
    few = max(row.done for row in rows) < INTERVAL_FROM
    table = Table(
        title=title,
        title_justify="left",
        caption=Text(f"{note_of(rows, differences)}\n", style="dim"),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_edge=False,
    )
    for column in columns:
        side: Literal["left", "right"] = "left" if column.words else "right"
        table.add_column(Text(column.head.replace(" ↑", "↑").replace(" ↓", "↓")), justify=side, no_wrap=True)
    for i, row in enumerate(rows):
        line = []
        for column in columns:
            text, marked = column.texts[i]
            short = text.replace(" ± ", "±").replace(f" ({TOO_FEW})", "" if few else f" ({TOO_FEW})")
            line.append(Text(short, style="bold" if marked else ""))
        if row.unfinished:
            line[1].stylize("red")
        table.add_row(*line)
    return table


def markdown_table(cells: Sequence[Cell]) -> str:
    """A Markdown table for each benchmark, under its name, and one of its paired differences if it has any."""
    differences = by_benchmark(difference_rows(cells))
    parts = []
    for benchmark, rows in by_benchmark(table_rows(cells)).items():
        parts.append(f"## {markdown(benchmark)}\n\n{_markdown_rows(rows)}\n")
        if benchmark in differences:
            parts.append(_markdown_rows(differences[benchmark], True) + "\n")
    return "\n".join(parts)


def _markdown_rows(rows: Sequence[Row], differences: bool = False) -> str:
    columns = columns_of(rows, differences)
    lines = [
        [markdown(column.head) for column in columns],
        ["---" if column.words else "---:" for column in columns],
    ]
    for i in range(len(rows)):
        shown = [(markdown(column.texts[i][0]), column.texts[i][1]) for column in columns]
        lines.append([f"**{text}**" if marked else text for text, marked in shown])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{note_of(rows, differences)}"


def note_of(rows: Sequence[Row], differences: bool = False) -> str:
    """What a table's numbers are."""
    most = max(row.done for row in rows)
    text = (
        "Percentage points: what the last part of a chain changes, paired by seed"
        if differences
        else "Percent"
    )
    if most < 2:
        text += "; one pair each." if differences else "; one run each."
    elif most < INTERVAL_FROM:
        text += f"; mean over {most} seeds, {TOO_FEW} for an interval."
    else:
        text += "; mean ± half the 95 % t-interval " + (
            "of the differences." if differences else "over seeds."
        )
        if any(1 < row.done < INTERVAL_FROM for row in rows):
            text += f" Fewer than {INTERVAL_FROM} seeds are {TOO_FEW} for an interval."
    if differences:
        for row in rows:
            if row.also:
                text += f" In {row.strategy}, other settings differ, too: {', '.join(row.also)}."
        if any(row.unfinished for row in rows):
            text += " Pairs of which a run did not finish are left out."
        return text
    if any(row.best for row in rows):
        text += " Bold: the best, and those after it down to the first than which another is better with certainty"
        text += " (paired by seed, Holm's correction, 5 %)."
        if bounds := [row.strategy for row in rows if row.bound]:
            text += f" Not rated: {' and '.join(bounds)}, with all past data at hand."
        if oracles := [row.strategy for row in rows if row.selection == "oracle" and not row.bound]:
            text += f" Not rated: {' and '.join(oracles)}, with settings chosen on the test stream."
    elif len(rows) > 1 and most < RANKED_FROM:
        text += f" Fewer than {RANKED_FROM} seeds are {TOO_FEW} to say which is best."
    if any(row.unfinished for row in rows):
        text += " Where runs did not finish, means are over the others and not rated."
    if any(row.substrate for row in rows):
        for substrate in dict.fromkeys(row.substrate for row in rows):
            started = ", ".join(row.strategy for row in rows if row.substrate == substrate)
            text += f" Started from {substrate or 'random weights'}: {started}."
    return text


def markdown(text: str) -> str:
    return re.sub(r"([\\|*`<\[\]])", r"\\\1", printable(" ".join(text.split())))
