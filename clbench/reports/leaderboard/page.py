"""The leaderboard in Markdown: the same records give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clbench.reports.leaderboard.board import ENERGY, RANKED_FROM, SHOWN, Row, rows_of
from clbench.reports.leaderboard.private import in_words
from clbench.reports.tables import NONE, Estimate, counted, head_of, markdown, percent
from clbench.results.ledger import Record

HEAD = """# Leaderboard

<!-- Written by `clbench leaderboard`; do not edit. -->

Every number is computed from the evidence beside it: `records/` and `curves/`, whose SHA-256 sums are in
`manifest.json`. `clbench leaderboard --check` makes this page anew and compares it byte for byte; `clbench reproduce
ROW` runs a row again and compares intervals.

Percent; mean ± half the 95 % t-interval over seeds. Rows are in the order of their mean ACC; a rank says which places
that allows: after all rivals that are better with certainty, before all that are worse (paired by seed, over all pairs
of a table, at 5 % after Holm's correction). So a wide range means that the seeds do not tell. Fewer than {ranked_from}
seeds give no rank; upper bounds, and settings chosen on the test stream (`oracle`), are no rivals. Seeds count from 0
where a row does not list its own. Costs are means over seeds; seconds depend on the machine, so compare them within a
table at most.
"""


def readme(records: Sequence[Record]) -> str:
    """`README.md` of a leaderboard."""
    parts = [HEAD.format(ranked_from=RANKED_FROM)]
    tables = rows_of(records)
    if not tables:
        parts.append("Nothing was submitted yet.\n")
    for title, rows in tables.items():
        parts.append(f"## {markdown(title)}\n\n{table(rows)}\n")
    return "\n".join(parts)


def table(rows: Sequence[Row]) -> str:
    """A table in Markdown."""
    shown = [key for key in SHOWN if key == SHOWN[0] or any(row.values.get(key) for row in rows)]
    heads = ["rank", "strategy", "settings", *[head_of(key) for key in shown]]
    measured = [ENERGY] * any("joules" in row.costs for row in rows)
    heads += ["seeds", "network", "selection", "memory", "forwards", "train s", *measured, "row"]
    costs = ["---:"] * (3 + len(measured))
    lines = [heads, ["---:", "---", "---", *["---:"] * len(shown), "---:", "---", "---", *costs, "---"]]
    for row in rows:
        lines.append(
            [
                "bound" if row.bound else NONE if row.rank is None else str(row.rank),
                markdown(row.strategy),
                markdown(row.apart) or NONE,
                *[percent(Estimate.of(row.interval(key))) for key in shown],
                _seeds(row),
                markdown(row.model),
                markdown(row.selection),
                _bytes(row.costs),
                f"{row.costs['forward_examples']:,.0f}" if row.costs else NONE,
                f"{row.costs['train_seconds']:,.1f}" if row.costs else NONE,
                *[f"{row.costs['joules'] / 1e3:,.1f}" if "joules" in row.costs else NONE for _ in measured],
                f"`{row.id}`" + " †" * bool(row.needs),
            ]
        )
    notes = [
        f"† `{row.id}` cannot be run again by clbench alone; it needs {markdown(in_words(row.needs))}."
        for row in rows
        if row.needs
    ]
    return "\n\n".join(["\n".join(f"| {' | '.join(line)} |" for line in lines), *notes]) + "\n"


def _seeds(row: Row) -> str:
    """How many, and which where they are not the first ones."""
    seeds = row.seeds
    told = str(len(seeds)) if seeds == list(range(len(seeds))) else counted(seeds)
    return told + (f", {row.diverged} diverged" if row.diverged else "")


def _bytes(costs: Mapping[str, float]) -> str:
    size = costs.get("memory_bytes", 0.0)
    if size == 0:
        return "0"
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
