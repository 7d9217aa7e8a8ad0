"""A run of a suite: what it is, what became of it, and what its report says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from clbench.config import RunConfig
from clbench.errors import ClbenchError
from clbench.reports import grouping, rows
from clbench.results.ledger import Record, read_record
from clbench.results.metrics import compute


@dataclass
class Cell:
    """One run of a suite: what it is, and what became of it.

    Attributes:
        benchmark, strategy: labels, that of its table and that of its row in it.
        seed: that of the run.
        resolved: its configuration.
        id: its run folder's name.
        state: waiting, running, done, diverged, failed, timeout.
        message: what a failure says.
        steps, total: progress. attempts: how often it was started.
    """

    benchmark: str
    strategy: str
    seed: int
    resolved: RunConfig
    id: str
    state: str = "waiting"
    message: str = ""
    steps: int = 0
    total: int = 0
    attempts: int = 0
    fresh: bool = True
    record: Record | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.benchmark} · {self.strategy} · seed {self.seed}"


def settle(cell: Cell, root: Path) -> None:
    """Take over what a cell's record says."""
    try:
        cell.record = read_record(root / cell.id, cell.id)
    except ClbenchError as error:
        cell.state, cell.message = "failed", str(error)
        return
    cell.state, cell.message = cell.record.status, ""


def reported(cell: Cell, columns: tuple[str, ...] = ()) -> rows.Cell:
    """Return a cell as its suite's report needs it.

    Args:
        columns: the metrics that tables show, if they were chosen; those that no record has come from its curve.
    """
    if cell.record is not None:
        told = rows.Cell.of(cell.record, cell.benchmark, cell.strategy)
        lacking = [key for key in columns if key not in told.metrics] if cell.state == "done" else []
        more = compute(cell.record.curve, lacking) if lacking else {}
        return replace(told, columns=columns, metrics={**told.metrics, **more})
    name = cell.resolved.strategy
    return rows.Cell(
        cell.benchmark,
        cell.strategy,
        cell.seed,
        cell.state,
        note=cell.message,
        bound=rows.is_bound(name),
        name=name,
        columns=columns,
        config=grouping.configuration(cell.resolved.model_dump(mode="json"), cell.seed),
    )
