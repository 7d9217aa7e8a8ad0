"""Records side by side: grouped, averaged and compared as the reports of suites are."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clbench.errors import ConfigError, choices
from clbench.files.names import printable
from clbench.reports import frame, plots
from clbench.reports.display.curves import axes_of, plain, value_axis
from clbench.reports.display.frames import data_frame
from clbench.reports.display.html import fragment, picture
from clbench.reports.leaderboard.board import names_of, rows_of
from clbench.reports.markup import join, tag
from clbench.reports.rows import Cell, Row, by_benchmark, difference_rows, summary, table_rows
from clbench.reports.tables import columns_of, note_of, rich_tables
from clbench.results.ledger import Record, read_record
from clbench.results.statistics import INTERVAL_FROM
from clbench.results.traces import Mean, Trace, measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

WIDTH = 100
"""Characters of a line of the table as text."""


def compare(records: Iterable[Record | str | os.PathLike[str]]) -> Comparison:
    """Compare runs: a table for each stream, a row for each configuration, means over seeds with their intervals.

    Which runs are one row, what is marked as best and how chains are compared with their bases is as in the reports of
    suites. Print it, let a notebook show it, or take its numbers by `to_pandas()`.

    Args:
        records: what `clbench.run` returned, or run folders.

    Raises:
        ConfigError: there are none, or something else is among them. LedgerError: a folder holds no finished run.
    """
    if isinstance(records, str | os.PathLike | Record) or not isinstance(records, Iterable):
        raise ConfigError(f"compare takes a list of records or run folders; {records!r} was given.")
    found: dict[str, Record] = {}
    for one in records:
        if not isinstance(one, Record | str | os.PathLike):
            raise ConfigError(
                f"compare takes records and run folders; {type(one).__name__} {one!r:.60} was given."
            )
        record = one if isinstance(one, Record) else read_record(Path(one).expanduser())
        found.setdefault(record.id, record)
    if not found:
        raise ConfigError("compare takes one record or run folder at least; none was given.")
    order = {id: place for place, id in enumerate(found)}
    cells = [
        (order[record.id], Cell.of(record, title, name))
        for title, rows in rows_of(found.values()).items()
        for name, row in zip(names_of(rows), rows, strict=True)
        for record in row.records
    ]
    return Comparison(tuple(cell for _, cell in sorted(cells, key=lambda placed: placed[0])))


@dataclass(frozen=True, repr=False)
class Comparison:
    """Runs side by side; what `compare` returns.

    Attributes:
        cells: the runs, each under the names of its table and of its row in it.
    """

    cells: tuple[Cell, ...]

    @property
    def tables(self) -> dict[str, list[Row]]:
        """The rows of each table, by the name of its benchmark."""
        return by_benchmark(table_rows(self.cells))

    def __repr__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        console = Console(
            file=text,
            width=WIDTH,
            markup=False,
            emoji=False,
            highlight=False,
            force_jupyter=False,
            color_system=None,
        )
        for table in rich_tables(self.cells, starred=True):
            console.print(table)
        lines = [line.rstrip() for line in text.getvalue().rstrip().split("\n")]
        return printable("\n".join([*lines, *([""] if self._lost else []), *self._lost]))

    def _repr_html_(self) -> str:
        differences = by_benchmark(difference_rows(self.cells))
        parts: list[object] = []
        for title, rows in self.tables.items():
            parts += [tag("h4", title), _table(rows)]
            if title in differences:
                parts.append(_table(differences[title], paired=True))
            if means := self._means(rows):
                band = f"band, from {INTERVAL_FROM} on: the 95 % interval of the mean."
                drawn = measured(means.values()).name.capitalize()
                caption = f"{drawn} on the first experience, mean over seeds; {band}"
                parts.append(picture(partial(_lines, means=means, evaluated=0), caption))
        return fragment(*parts, tag("ul", *(tag("li", why) for why in self._lost)) if self._lost else "")

    @property
    def _lost(self) -> list[str]:
        """What became of the runs that did not finish, a line for each."""
        lost = (cell for cell in self.cells if cell.status != "done")
        return [f"{c.benchmark} · {c.strategy} · seed {c.seed}: {c.status}: {c.note}" for c in lost]

    def to_pandas(self) -> DataFrame:
        """Return a data frame with one row for each table, row of it, and metric that it has a value of.

        Its columns are `benchmark`, `strategy`, `metric`, `mean`, `half_width` of the 95 % interval (NaN for fewer than
        three seeds), `n` seeds, whether the value is `best`, and whether it is a `difference`, `a+b − a`, paired by
        seed.

        Raises:
            ConfigError: pandas is not installed.
        """
        marked = {(row.benchmark, row.strategy): row.best for row in table_rows(self.cells)}
        lines = [
            {
                "benchmark": row["benchmark"],
                "strategy": row["strategy"],
                "metric": metric,
                "mean": told["mean"],
                "half_width": told["half_width"],
                "n": told["n"],
                "best": metric in marked.get((row["benchmark"], row["strategy"]), ()),
                "difference": (row["benchmark"], row["strategy"]) not in marked,
            }
            for row in summary(self.cells)
            for metric, told in row["metrics"].items()
            if told is not None
        ]
        frame = data_frame({key: [line[key] for line in lines] for key in LINE})
        return frame.astype({"half_width": "float64"})

    def plot(self, benchmark: str | None = None, ax: Axes | None = None, *, evaluated: int = 0) -> Axes:
        """Draw the accuracy, or of language the loss, on one experience over the progress of the stream.

        A line with its interval for each row.

        Args:
            benchmark: the name of the table; the only one if None.
            ax: the axes to draw into; new ones of `pyplot` if None.
            evaluated: the test stream, from 0.

        Returns:
            The axes; `.figure` is their figure.

        Raises:
            ConfigError: there is no such table, or several and none is named.
        """
        tables = self.tables
        if benchmark is None and len(tables) > 1:
            raise ConfigError(f"There are several tables; name one, of {', '.join(tables)}.")
        title = next(iter(tables)) if benchmark is None else benchmark
        if title not in tables:
            raise ConfigError(f"There is no table '{title}'.{choices(title, tables)}")
        ax = axes_of(ax)
        _lines(ax, self._means(tables[title], evaluated), evaluated)
        ax.set_title(title, loc="left", fontsize="medium")
        return ax

    def _means(self, rows: Sequence[Row], evaluated: int = 0) -> dict[str, Mean]:
        """Return what is drawn of each row, of its finished runs."""
        found = {}
        for row in rows:
            curves = [cell.curve for cell in row.cells if cell.status == "done" and cell.curve is not None]
            mean = Mean.of([Trace.of(curve(), evaluated) for curve in curves])
            if mean.one is not None:
                found[row.strategy] = mean
        return found


LINE = ("benchmark", "strategy", "metric", "mean", "half_width", "n", "best", "difference")


def _table(rows: Sequence[Row], paired: bool = False) -> object:
    lines = [{"class_": "bound" if row.bound else ""} for row in rows]
    note = tag("p", note_of(rows, paired), class_="note")
    return join([frame.table(columns_of(rows, paired), lines), note])


def _lines(ax: Axes, means: dict[str, Mean], evaluated: int) -> None:
    look, measure = plots.styles(means), measured(means.values())
    for name, of in means.items():
        assert of.one is not None
        x, mean, half = of.one
        ax.plot(
            x, mean, color=look[name].color, linestyle=look[name].dashes, linewidth=1.4, label=plain(name)
        )
        if half is not None:
            low, high = measure.clipped(mean - half), measure.clipped(mean + half)
            ax.fill_between(x, low, high, color=look[name].color, alpha=0.12, linewidth=0)
    for boundary in range(1, max((of.experiences for of in means.values()), default=0)):
        ax.axvline(boundary, color="0.7", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    value_axis(ax, measure, f" on experience {evaluated + 1}")
    ax.set_xlabel("experiences learned")
    ax.margins(x=0.01)
    if means:
        ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
