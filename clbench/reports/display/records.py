"""A record as a notebook shows it, and its plots."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from clbench.errors import ConfigError, LedgerError, choices
from clbench.reports import frame
from clbench.reports.display.html import fragment, picture
from clbench.reports.markup import tag
from clbench.reports.rows import Cell, Row
from clbench.reports.tables import columns_of
from clbench.results.ledger import Record
from clbench.results.measures import measure_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOTS = ("curve", "matrix")


def plot(record: Record, what: str = "curve", ax: Axes | None = None) -> Axes:
    """Draw `Record.plot`, under the name of the run."""
    if what not in PLOTS:
        raise ConfigError(f"A record has no plot '{what}'.{choices(str(what), PLOTS)}")
    curve = record.curve
    names = _names(record)
    ax = curve.plot(ax, names) if what == "curve" else measure_of(curve).matrix(curve).plot(ax, names)
    ax.set_title(_title(record), loc="left", fontsize="medium")
    return ax


def html(record: Record) -> str:
    """Return what a notebook shows of a record: its metrics and costs, and its curve where it has one."""
    row = Row.of([Cell.of(record, record.benchmark["name"], record.strategy["name"])])
    strategy, _, *metrics = columns_of([row])
    parts = [
        tag("p", tag("b", _title(record)), f": {record.status}"),
        frame.table([strategy, *metrics], [{}]),
    ]
    parts += [
        tag("p", note, class_="note") for note in (record.note, *record.benchmark.get("notes", ())) if note
    ]
    try:
        curve = record.curve
        drawn = measure_of(curve).name.capitalize()
        caption = (
            f"{drawn} on every test stream after every iteration; dashed lines: a new experience begins."
        )
        parts.append(picture(partial(curve.plot, names=_names(record)), caption))
    except LedgerError as error:  # the numbers do not depend on it
        parts.append(tag("p", f"Without its curve: {error}", class_="note"))
    return fragment(*parts, tag("p", f"Run {record.id}, in {record.folder}", class_="note"))


def _names(record: Record) -> list[str]:
    """Return what the experiences are called, where the record says their domains."""
    return [str(domain) for domain in record.benchmark.get("domains", ())]


def _title(record: Record) -> str:
    return f"{record.benchmark['name']} · {record.strategy['name']} · seed {record.seeds['data']}"
