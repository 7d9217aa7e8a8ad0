"""What may watch a run. Imports no torch, so that the command line need not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clbench.engine import Run


class ObserverWarning(UserWarning):
    """An observer failed and is left out for the rest of the run."""


class Observer:
    """Something that watches a run: progress displays, loggers. It may not change the run, nor end it: one that raises
    anything but a `ClbenchError` is left out from there on, with a warning."""

    def begin(self, run: Run) -> None:
        """Before the first step, or the first one after resuming."""

    def window(self, run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
        """Every `WINDOW` steps: one row per step with step, experience, lr and the losses."""

    def end_experience(self, run: Run) -> None:
        """After the full evaluation at an experience's end."""

    def end(self, run: Run) -> None:
        """After the last experience, or when the run stops before it: close what was opened."""
