"""The leaderboard in Markdown: the same records give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence

from clbench.reports.leaderboard.board import columns_of, rows_of
from clbench.reports.leaderboard.private import in_words
from clbench.reports.rows import Row, keys_of
from clbench.reports.tables import markdown, markdown_rows, units_of
from clbench.results.ledger import Record
from clbench.results.statistics import RANKED_FROM

HEAD = """# Leaderboard

<!-- Written by `clbench leaderboard`; do not edit. -->

Every number is computed from the evidence beside it: `records/` and `curves/`, whose SHA-256 sums are in
`manifest.json`. `clbench leaderboard --check` makes this page anew and compares it byte for byte; `clbench reproduce
ROW` runs a row again and compares intervals.

{units}; mean ± half the 95 % t-interval over seeds. Rows are in the order of the first metric; a rank says which places
that allows: after all rivals that are better with certainty, before all that are worse (paired by seed, over all pairs
of a table, at 5 % after Holm's correction). So a wide range means that the seeds do not tell. Fewer than {ranked_from}
seeds give no rank; upper bounds, and settings chosen on the test stream (`oracle`), are no rivals. Seeds count from 0
where a row does not list its own. Memory is the examples that are kept; held is all that a strategy holds beside the
network (these, features, teachers, prototypes, what it adds to the network; of records without `held_bytes`, its state
at the end). Costs are means over seeds; seconds depend on the machine, so compare them within a table at most.
"""


def readme(records: Sequence[Record]) -> str:
    """`README.md` of a leaderboard."""
    tables = rows_of(records)
    keys = keys_of([row for table in tables.values() for row in table], suite=False)
    parts = [HEAD.format(units=units_of(keys), ranked_from=RANKED_FROM)]
    if not tables:
        parts.append("Nothing was submitted yet.\n")
    for title, rows in tables.items():
        parts.append(f"## {markdown(title)}\n\n{table(rows)}\n")
    return "\n".join(parts)


def table(rows: Sequence[Row]) -> str:
    """Return a table in Markdown, with what others need to run its rows again."""
    notes = [
        f"† `{row.id}` cannot be run again by clbench alone; it needs {markdown(in_words(row.needs))}."
        for row in rows
        if row.needs
    ]
    return "\n\n".join([markdown_rows(columns_of(rows)), *notes]) + "\n"
