"""What is known of each strategy in numbers: measured here (`docs/results/`), and published (`docs/published.yaml`).

`docs/results/<suite>.json` is what `clbench suite <suite> --json` printed; the suite is `configs/suites/<suite>.yaml`.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clbench import suite as suites
from clbench.tables import Estimate, percent

DOCS = Path(__file__).resolve().parent
SHOWN = {"average_accuracy": "ACC", "forgetting": "forgetting", "min_acc": "min-ACC"}


@dataclass(frozen=True)
class Measured:
    """A row of a suite's result: of a strategy, or of what the last part of a chain changes.

    Attributes:
        suite: its short name. benchmark, label: as the suite calls them.
        parts: the strategies of the chain; of a difference, the part that makes it.
        difference: whether the values are differences.
        values: metric → estimate.
    """

    suite: str
    benchmark: str
    label: str
    parts: tuple[str, ...]
    difference: bool
    values: dict[str, Estimate | None]


@functools.cache
def measured() -> tuple[Measured, ...]:
    """Every row of every result, in order of file names."""
    rows = []
    for file in sorted((DOCS / "results").glob("*.json")):
        suite = suites.load(file.stem)[1]
        names = {choice.label or choice.name: choice.name for choice in suite.strategies}
        for row in json.loads(file.read_text(encoding="utf-8")):
            whole, _, base = row["strategy"].partition(" − ")
            parts = tuple(names[whole].split("+"))
            values = {key: _estimate(row["metrics"].get(key)) for key in row["metrics"]}
            changed = parts[-1:] if base else parts
            rows.append(Measured(file.stem, row["benchmark"], row["strategy"], changed, bool(base), values))
    return tuple(rows)


def _estimate(value: dict[str, Any] | None) -> Estimate | None:
    return None if value is None else Estimate(value["mean"], value["half_width"], value["n"])


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
            "",
            f"| benchmark | strategy | {' | '.join(SHOWN.values())} | seeds | suite |",
            f"|---|---|{'---:|' * len(SHOWN)}---:|---|",
        ]
        for row in own:
            numbers = " | ".join(percent(row.values.get(key), row.difference) for key in SHOWN)
            seeds = max((value.n for value in row.values.values() if value), default=0)
            lines.append(f"| {row.benchmark} | {row.label} | {numbers} | {seeds} | `{row.suite}` |")
    else:
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
