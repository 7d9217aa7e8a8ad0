"""The models that a run keeps: the last one always, those after earlier experiences on request."""

from __future__ import annotations

from pathlib import Path

from clbench.engine.observer import Observer, Watched
from clbench.errors import LedgerError
from clbench.machine import checkpoint
from clbench.results.ledger import Record

LAST = "model.safetensors"
"""The model at the end of a run."""


class Keeping(Observer):
    """Writes the model after every experience but the last, whose model every run keeps.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def end_experience(self, run: Watched) -> None:
        if (number := run.experience + 1) < len(run.train):
            checkpoint.save(after(self.folder, number), run.model.state_dict())


def after(folder: Path, number: int) -> Path:
    """Return where a run keeps its model after an experience, of which the first is 1."""
    return folder / f"model-{number}.safetensors"


def kept(record: Record, number: int, experiences: int) -> Path:
    """Return the file with a run's model after an experience.

    Args:
        number: of the experience, from 1. experiences: how many the run has.

    Raises:
        LedgerError: it has no such experience, or has kept no model after it.
    """
    folder = record.folder
    assert folder is not None
    if not 0 < number <= experiences:
        raise LedgerError(f"The run {record.id} has the experiences 1 to {experiences}, and no {number}.")
    path = folder / LAST if number == experiences and record.status == "done" else after(folder, number)
    if path.is_file():
        return path
    there = [n for n in range(1, experiences) if after(folder, n).is_file()]
    there += [experiences] if record.status == "done" and (folder / LAST).is_file() else []
    has = f"after {', '.join(map(str, there))} of {experiences}" if there else "none at all"
    ended = (
        ""
        if record.status == "done"
        else f"; it has {record.status}, and the model that it ended with is no result"
    )
    name, strategy = record.benchmark["name"], record.strategy["name"]
    raise LedgerError(
        f"The run {record.id} keeps no model after experience {number}, only {has}{ended}. A run keeps all with "
        f"--keep-models: clbench run {name} {strategy} … --keep-models, with another --out, makes it again."
    )
