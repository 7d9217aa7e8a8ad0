"""What is known of each strategy in numbers: measured here (`docs/results/`, and the leaderboard), and published
(`docs/published.yaml`).

`docs/results/<suite>.json` is what `clbench suite <suite> --json` printed; the suite is `configs/suites/<suite>.yaml`.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clbench.reports.tables import told
from clbench.results.statistics import Interval
from clbench.runs import suite as suites

DOCS = Path(__file__).resolve().parent
OTHER = ("reliability",)
"""Results that are no suite's."""
SHOWN = {"average_accuracy": "ACC", "forgetting": "forgetting", "min_acc": "min-ACC"}
SHOWN_OF_INDEXES = {
    "hits_at_1": "Hits@1",
    "hits_at_10": "Hits@10",
    "index_forgetting_at_10": "F (Hits@10)",
    "index_learning_at_10": "LA (Hits@10)",
}
SHOWN_OF_FEW_SHOT = {
    "average_accuracy_weighted": "overall",
    "base_accuracy": "base",
    "novel_accuracy": "novel",
    "harmonic_mean": "HM",
}
SHOWN_OF_BLURRY = {"a_auc": "A_AUC", "a_avg": "A_avg", "a_last": "A_last", "f_last": "F_last"}


@dataclass(frozen=True)
class Measured:
    """A row of a suite's result: of a strategy, or of what the last part of a chain changes.

    Attributes:
        suite: its short name. benchmark, label: as the suite calls them.
        parts: the strategies of the chain; of a difference, the part that makes it.
        difference: whether the values are differences.
        values: metric → mean and interval.
    """

    suite: str
    benchmark: str
    label: str
    parts: tuple[str, ...]
    difference: bool
    values: dict[str, Interval | None]


@functools.cache
def measured() -> tuple[Measured, ...]:
    """Every row of every result, in order of file names."""
    rows = []
    for file in sorted((DOCS / "results").glob("*.json")):
        if file.stem in OTHER:
            continue
        suite = suites.load(file.stem)[1]
        names = {choice.label or choice.name: choice.name for choice in suite.strategies}
        for row in json.loads(file.read_text(encoding="utf-8")):
            whole, _, base = row["strategy"].partition(" − ")
            parts = tuple(names[whole].split("+"))
            values = {key: _interval(row["metrics"].get(key)) for key in row["metrics"]}
            changed = parts[-1:] if base else parts
            rows.append(Measured(file.stem, row["benchmark"], row["strategy"], changed, bool(base), values))
    return tuple(rows)


def _interval(value: dict[str, Any] | None) -> Interval | None:
    if value is None:
        return None
    mean, half = value["mean"], math.nan if value["half_width"] is None else value["half_width"]
    return Interval(mean, mean - half, mean + half, value["n"])


@functools.cache
def published() -> tuple[dict[str, str], ...]:
    """Every published figure, as in the file."""
    return tuple(yaml.safe_load((DOCS / "published.yaml").read_text(encoding="utf-8")))


def section(strategy: str) -> list[str]:
    """The lines "Measured here" and "Published" of a strategy's page."""
    lines = ["", "## Measured here", ""]
    own = [row for row in measured() if strategy in row.parts]
    if own:
        lines += [
            "Percent, mean ± half the 95 % t-interval over seeds; differences in points, paired by seed. How each was",
            "made, and what it says: [results](../results.md).",
        ]
        for shown in (SHOWN, SHOWN_OF_FEW_SHOT, SHOWN_OF_INDEXES, SHOWN_OF_BLURRY):
            lines += _rows([row for row in own if _kind(row) is shown], shown)
    if ranked := _ranked(strategy):
        lines += [""] if own else []
        lines += [
            "On [the leaderboard](../leaderboard.md), with evidence (`clbench reproduce ROW`):",
            *ranked,
        ]
    elif not own:
        lines.append("Nothing yet.")
    theirs = [figure for figure in published() if figure["strategy"] == strategy]
    lines += ["", "## Published", ""]
    if theirs:
        lines += [
            "Of other networks, budgets and augmentations where it says so. *Read* in the source; *reprinted* by",
            "another paper; *recalled*: could not be read again, may be wrong, and is no target.",
            "",
            "| setting | metric | value | source | certainty |",
            "|---|---|---:|---|---|",
        ]
        for f in theirs:
            lines.append(
                f"| {f['setting']} | {f['metric']} | {f['value']} | {f['source']} | {f['certainty']} |"
            )
    else:
        lines.append("No figures that could be read or recalled.")
    return lines


def _kind(row: Measured) -> dict[str, str]:
    """The metrics that are shown of a row, key → title."""
    if row.values.get("hits_at_10"):
        return SHOWN_OF_INDEXES
    if row.values.get("f_last"):
        return SHOWN_OF_BLURRY
    return SHOWN_OF_FEW_SHOT if row.benchmark.startswith("fscil") else SHOWN


def _rows(rows: list[Measured], shown: dict[str, str]) -> list[str]:
    """A table of them with the metrics `shown`, key → title; nothing if there are none."""
    if not rows:
        return []
    lines = [
        "",
        f"| benchmark | strategy | {' | '.join(shown.values())} | seeds | suite |",
        f"|---|---|{'---:|' * len(shown)}---:|---|",
    ]
    for row in rows:
        numbers = " | ".join(told(row.values.get(key), key, row.difference) for key in shown)
        seeds = max((value.n for value in row.values.values() if value), default=0)
        lines.append(f"| {row.benchmark} | {row.label} | {numbers} | {seeds} | `{row.suite}` |")
    return lines


def _ranked(strategy: str) -> list[str]:
    """Tables of the leaderboard's rows that have a strategy in their chain; nothing if there are none."""
    tables: dict[tuple[str, ...], list[str]] = {}
    for stream, rows in boards():
        given = " ".join(word for word in stream.split() if not word.endswith("=null"))
        for row in rows:
            if strategy in _name(row).split("+"):
                columns = "strategy", "settings", *_figures(row), "seeds", "row"
                line = f"| {given} | {' | '.join(row[column] for column in columns)} |"
                tables.setdefault(columns, []).append(line)
    lines = []
    for columns, found in tables.items():
        head = f"| benchmark | {' | '.join(columns)} |", f"|---|---|---|{'---:|' * (len(columns) - 2)}"
        lines += ["", *head, *found]
    return lines


def _figures(row: dict[str, str]) -> list[str]:
    """The columns of a row of the leaderboard that are metrics, the one that ranks first; without those on the way."""
    names = list(row)
    metrics = names[names.index("settings") + 1 : names.index("seeds")]
    return [name for name in metrics if name not in ("AAA ↑", "WC-ACC ↑")]


# --- reliability ---


def reliability() -> str:
    """The tables of what was withstood, from `docs/results/reliability.json`, which `make reliability` writes."""
    found = json.loads((DOCS / "results" / "reliability.json").read_text(encoding="utf-8"))
    kills, full, there = found["kills"], found["full_disks"], found["environment"]
    regions = ", ".join(f"{number} in {region}" for region, number in sorted(kills["regions"].items()))
    inputs = sum(row.get("accepted", 0) + row.get("refused", 0) for row in found["inputs"])
    lines = [
        f"Made in {found['seconds'] / 60:.0f} minutes on {there['processor']}, one thread, torch "
        f"{there['libraries']['torch']}, Python {there['python']}.",
        "",
        "| what happened | how often | ended otherwise than undisturbed |",
        "|---|---:|---:|",
        f"| killed at a drawn moment, and continued: {kills['strategies']} strategies ({regions}) | {kills['points']} "
        f"| {len(kills['wrong'])} |",
        f"| the disk was full at a drawn write, and then was not | {full['points']} | {len(full['wrong'])} |",
        "",
        "### Damaged files",
        "",
        "| run | file | damages | refused by name | without effect | other numbers, or a traceback |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in found["damage"]:
        refused, harmless = row.get("refused", 0), row.get("harmless", 0)
        lines.append(
            f"| {row['run']} | `{row['file']}` | {refused + harmless} | {refused} | {harmless} | {len(row['wrong'])} |"
        )
    lines += [
        "",
        f"### Bad input: {inputs:,} drawn",
        "",
        "| input | accepted | refused with a message |",
        "|---|---:|---:|",
    ]
    lines += [
        f"| {r['kind']} | {r.get('accepted', 0):,} | {r.get('refused', 0):,} |" for r in found["inputs"]
    ]
    curve, stream = found["curve"], found["stream"]
    lines += [
        "",
        "### Long runs",
        "",
        "| | |",
        "|---|---:|",
        f"| a curve of {curve['rows']:,} rows: held in memory, MB | {curve['held_mb']} |",
        f"| … at most, while it is written, read and turned into metrics, MB | {curve['peak_mb']} |",
        f"| … a row appended, µs of processor time | {curve['append_microseconds_a_row']} |",
        f"| … written, read, all metrics, seconds | {curve['save_seconds']}, {curve['load_seconds']}, "
        f"{curve['metrics_seconds']} |",
        f"| … its file, MB | {curve['file_mb']} |",
        f"| a stream of {stream['experiences']:,} experiences ({stream['rows']:,} rows of curve): memory above the "
        f"libraries', MB | {stream['memory_mb']} |",
        f"| … processor time of the whole run, seconds | {stream['cpu_seconds']} |",
        f"| … training time of its last fifth, relative to its first | {stream['late_to_early_training']} |",
        "",
        "| steps | strategy | resident, MB | growth after the first fifth, KB in 1,000 steps | in the second half | of "
        "that the curve |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['steps']:,} | `{r['strategy']}` | {r['resident_mb']} | {r['kb_per_1000_steps']} | "
        f"{r['late_kb_per_1000_steps']} | {r['curve_kb_per_1000_steps']} |"
        for r in found["steps"]
    ]
    lines += [
        "",
        "### Checkpoints",
        "",
        "| run on the digits | parameters | size, MB | to write, ms of processor time | with the disk, ms | training "
        "steps in that time | to read, ms |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| `{r['run']}` | {r['parameters']:,} | {r['size_mb']} | {1000 * r['save_seconds']:.1f} | "
        f"{1000 * r['save_wall_seconds']:.1f} | {r['steps_a_save']} | {1000 * r['load_seconds']:.1f} |"
        for r in found["checkpoints"]
    ]
    lines += ["", "### Two workers against one", "", *_scaling(found.get("scaling"))]
    return "\n".join(lines) + "\n"


def _scaling(found: dict[str, Any] | None) -> list[str]:
    """How long the runs of a suite take one worker and two, or that nobody has measured it."""
    if found is None:
        return [
            "Not measured yet: `python tests/faults/report.py --scaling`, on a machine that does nothing else."
        ]
    there = found.get("environment", {})
    machine = f", on {found['cores']} cores of {there['processor']}" if there else ""
    bits = "The same curves, to the bit" if found["same_bits"] else "**Other curves**"
    lines = [
        f"{found['runs']} runs of replay on the digits, {found['steps']:,} steps each, one thread a run{machine}; the "
        f"faster of two rounds. The start of the cluster and of its workers is left out. {bits}, with one worker and "
        "two, by either launcher.",
        "",
        "| launcher | one worker, seconds | two workers, seconds | efficiency |",
        "|---|---:|---:|---:|",
    ]
    return lines + [
        f"| `{row['launcher']}` | {row['one']} | {row['two']} | {100 * row['efficiency']:.0f} % |"
        for row in found["rows"]
    ]


# --- the leaderboard at a glance ---

BOARD = DOCS.parent / "leaderboard"
REFERENCE = "split-mnist"
"""The table that has most strategies without a download of colour images."""


@functools.cache
def boards() -> tuple[tuple[str, list[dict[str, str]]], ...]:
    """The leaderboard's tables as its page has them, best first: (benchmark and its settings, rows), column → text."""
    tables: list[tuple[str, list[dict[str, str]]]] = []
    head = list[str]()
    for line in (BOARD / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            tables.append((line.removeprefix("## "), []))
        elif line.startswith("| rank"):
            head = [cell.strip() for cell in line.strip("|").split("|")]
        elif line.startswith("| ") and "---" not in line:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            tables[-1][1].append(dict(zip(head, cells, strict=True)))
    return tuple(tables)


def board() -> dict[str, list[dict[str, str]]]:
    """Benchmark → rows on all of its data; where there are none, on the last part of them that there is a table of."""
    whole = {stream.partition("@")[0]: rows for stream, rows in boards() if " " not in stream}
    return {stream.partition("@")[0]: rows for stream, rows in boards()} | whole


def glance(strategy: str) -> tuple[str, str, str]:
    """What was measured of a strategy, and what it cost in forward passes and bytes, for a table."""
    rows = {_name(row): row for row in board()[REFERENCE]}
    row = rows.get(strategy) or rows.get(f"er+{strategy}")
    if row is None:
        return _elsewhere(strategy), "–", "–"
    values = [f"{title} {row[f'{title} ↑']}" for title in ("ACC", "min-ACC") if row[f"{title} ↑"] != "–"]
    label = "" if strategy in rows else f"`er+{strategy}`:<br>"
    times = _count(row["forwards"]) / _count(rows["finetune"]["forwards"])
    kept = [
        json.loads(file.read_text(encoding="utf-8"))["budget"]["strategy_state_bytes"]
        for file in sorted((BOARD / "records" / f"{REFERENCE}@1" / row["strategy"]).glob("*.json"))[:1]
    ]
    return label + _unbroken("<br>".join(values)), f"{times:.1f}×", _megabytes(*kept)


def _elsewhere(strategy: str) -> str:
    """One number that a result has of a strategy, with a link to all: of itself, else of what it changes."""
    alone = {strategy, "finetune", "freeze"}
    rows = [row for row in measured() if row.parts[-1] == strategy and set(row.parts) <= alone]
    for row in sorted(rows, key=lambda r: (r.difference, r.benchmark.startswith("fscil"), len(r.suite))):
        key, title = next(iter(_kind(row).items()))
        if (interval := row.values.get(key)) is not None:
            number = told(interval, key, row.difference)
            label = f" ({row.label})" if row.difference or len(row.parts) > 1 else ""
            value = _unbroken(f"{title} {number}")
            return f"[{value}](strategies/{strategy}.md#measured-here)<br>{row.benchmark}{label}"
    return "–"


def span(benchmark: str) -> str:
    """From what doing nothing reaches to what all data would, for a table of benchmarks; on what part of its data."""
    rows = board().get(benchmark, [])
    part = [stream.partition(" ")[2] for stream, listed in boards() if listed is rows]
    ranked = [row for row in rows if row["rank"] != "bound"]
    bounds = [row for row in rows if row["rank"] == "bound"]
    floors = [[row for row in ranked if _name(row) == name] for name in ("finetune", "linear-probe")]
    chosen = (floors[0] or floors[1]) + ranked[:1] + bounds[:1]
    told = [_unbroken(f"`{_name(row)}` {row[_figures(row)[0]]}") for row in chosen]
    return "<br>".join([*told, *(f"({p})" for p in part if p)]) or "–"


def _name(row: dict[str, str]) -> str:
    return row["strategy"].partition("@")[0]


def _count(text: str) -> int:
    return int(text.replace(",", ""))


def _megabytes(size: int) -> str:
    return "0" if size < 1000 else _unbroken(f"{size / 1e6:.1f} MB")


def _unbroken(text: str) -> str:
    """Text that a narrow column leaves in one line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}").replace("-ACC", "\N{NON-BREAKING HYPHEN}ACC")
