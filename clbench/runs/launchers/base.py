"""What launchers share: a job, its limits, and the function that carries it out wherever it lands."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.config import Execution, RunConfig
from clbench.errors import BusyError, ClbenchError
from clbench.registry import Entry, benchmarks, load_plugin, models, strategies

if TYPE_CHECKING:
    from clbench.runs.cells import Cell

Tell = Callable[[str, Any], None]
"""How a job speaks: ("steps", (done, total)), ("failed", message), or ("busy", message) of a run in other hands."""


@dataclass(frozen=True)
class Job:
    """What a run needs wherever it is carried out.

    Attributes:
        id: the run folder's name. resolved: what runs. execution: how.
        root: the folder of run folders, which every machine must see under this name.
        plugins: files that register something.
    """

    id: str
    resolved: RunConfig
    execution: Execution
    root: Path
    plugins: tuple[str, ...] = ()

    def definitions(self) -> list[Callable[..., Any]]:
        """Return the factories of what runs, so far as they are registered in this process."""
        return [entry.build for entry in self._entries() if entry.build is not None]

    def modules(self) -> list[str]:
        """Return the modules of clbench that register what runs."""
        return [entry.module for entry in self._entries() if entry.own]

    def _entries(self) -> list[Entry]:
        wanted = [(strategies, name) for name in self.resolved.parts()]
        wanted += [(benchmarks, self.resolved.benchmark), (models, self.resolved.model.name)]
        return [registry.entry(name) for registry, name in wanted if registry.knows(name)]

    def carry_out(self, tell: Tell) -> None:
        """Run it to its record, going on from its last checkpoint if there is one; a mistake is told, not raised."""
        from clbench.runs import lifecycle
        from clbench.runs.loggers import Progress

        last = 0.0

        def progress(steps: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last > 0.2:
                last = time.monotonic()
                tell("steps", (steps, total))

        try:
            for plugin in self.plugins:
                load_plugin(plugin)
            record = lifecycle.start(self.resolved, self.execution, self.root, observers=[Progress(progress)])
            if record.id != self.id:
                tell("failed", "the code or the data changed while the suite ran; start it again")
        except BusyError as error:
            tell("busy", str(error))
        except ClbenchError as error:
            tell("failed", str(error))
        except Exception as error:
            tell("failed", f"{type(error).__name__}: {error}")
            raise  # the traceback, to standard error


@dataclass(frozen=True)
class Limits:
    """What a launcher grants each run.

    Attributes:
        retries: how often a run whose process died is started again, from its last checkpoint. A mistake that
            the run reports itself would come again and is not retried.
        seconds: wall time of a run, after which it is ended; None is no limit. Its checkpoint stays.
    """

    retries: int = 0
    seconds: float | None = None


class Launcher(ABC):
    """Carries out jobs and keeps their cells up to date."""

    @abstractmethod
    def launch(self, jobs: Sequence[tuple[Cell, Job]], watch: Callable[[], None]) -> None:
        """Carry out all jobs; `watch()` is called whenever a cell may have changed.

        On a signal the running ones are asked to end with a checkpoint, and on a second one they are ended at once.
        """


def hear(cell: Cell, key: str, value: Any) -> None:
    """Take over what a job has told."""
    if key == "steps":
        cell.steps, cell.total = value
    elif key == "busy":
        cell.state, cell.message = "waiting", value
    else:
        cell.state, cell.message = "failed", value


def timed_out(cell: Cell, seconds: float) -> None:
    """Take down that a run was ended at its limit of wall time."""
    cell.state = "timeout"
    cell.message = f"ended at its limit of {seconds:g} s; the same command goes on from its last checkpoint"
