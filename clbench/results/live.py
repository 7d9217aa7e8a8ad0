"""A run as its folder shows it while it runs: what it evaluated so far, and what has become of it. Imports no torch.

A run that runs keeps `live.bin`: a line of JSON that says what runs, then a row for each evaluation of a stream. It is
removed when there is a record, whose curve says all of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clbench.errors import LedgerError
from clbench.files import UNREADABLE
from clbench.results.curve import Curve, Floats
from clbench.results.ledger import Record, read_record
from clbench.results.measures import ACCURACY, LOSS, Measure, measure_of
from clbench.results.metrics.language import gap_trace
from clbench.results.metrics.ticks import min_acc_trace, wc_acc_trace
from clbench.results.traces import progress

LIVE = "live.bin"
FORMAT = 2
ROW = np.dtype(
    [
        ("step", "<i8"),
        ("examples", "<i8"),
        ("experience", "<i4"),
        ("evaluated", "<i4"),
        ("correct", "<i4"),
        ("total", "<i4"),
        ("of", "<i4"),
        ("full", "|b1"),
        ("loss", "<f4"),
        ("characters", "<i4"),
        ("bytes", "<i4"),
    ]
)
"""Of a curve, the columns that are drawn."""

HOST = socket.gethostname()
FRESH = 60.0
"""Seconds after its last word within which a run on another machine is taken to run; here its lock tells."""
TAIL = 4096
"""Bytes of a log's end that are looked at."""
SHOWN = 12
"""Lines of a log that are shown."""


def packed(curve: Curve, start: int, stop: int) -> bytes:
    """Return the rows start … stop − 1 of a curve as they stand in the file."""
    rows = np.empty(stop - start, ROW)
    for name in ROW.names or ():
        rows[name] = getattr(curve, name)[start:stop]
    return rows.tobytes()


class Followed:
    """A run folder that is looked at again and again; only what is new is read. It may not be there yet.

    Attributes:
        state: waiting, running, stopped, done, diverged, timeout, or damaged.
        record: once there is one. note: what it says, or what is wrong with it.
        about: what runs, of a run without a record: `benchmark`, `strategy`, `seed`, the `domains` of test streams,
            `steps` in all and those that it began `from`, when it `began` on which `host`, and where experiences have
            their `ends`, counted `by` step or examples.
        version: of the curve; under another one, what was read before is no beginning of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state, self.note, self.version = "waiting", "", ""
        self.record: Record | None = None
        self.about: Mapping[str, Any] = {}
        self._stamp: tuple[int, int] | None = None  # of the record's file
        self._curve, self._read = Curve(), 0
        self._heard = 0.0  # when the run last wrote
        self._logged = -1  # the last step in its log

    def look(self) -> None:
        """Take in what has come since the last look."""
        stamp = _stamp(self.folder / "record.json")
        if stamp is not None:
            if stamp != self._stamp:
                self._conclude()
            self._stamp = stamp
            return
        self._stamp = self.record = None
        self.note = ""
        try:
            self._read_live()
        except UNREADABLE as error:
            self.note = f"{self.folder / LIVE} cannot be read: {error}."
        lock, elsewhere = self.folder / "lock", self.about.get("host", HOST) != HOST
        runs = time.time() - self._heard < FRESH if elsewhere else _held(lock)
        self.state = "running" if runs else "stopped" if lock.is_file() or self.about else "waiting"

    def _conclude(self) -> None:
        try:
            self.record = read_record(self.folder)
        except LedgerError as error:
            self.state, self.note = "damaged", str(error)
            return
        self.state, self.note = self.record.status, self.record.note
        self.version, self._curve = self.record.curve_file["sha256"], Curve()

    def _read_live(self) -> None:
        """Read whole rows behind those that are known; of a run that began anew, all."""
        path = self.folder / LIVE
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            head = file.readline()
            if not head.endswith(b"\n"):
                return
            if head.decode() != self.version:
                about = json.loads(head)
                if about["format"] != FORMAT:
                    raise ValueError("another version of clbench writes it")
                self.version, self._curve, self._read, self.about = head.decode(), Curve(), len(head), about
            file.seek(self._read)
            data = file.read()
            rows = np.frombuffer(data[: len(data) - len(data) % ROW.itemsize], ROW)
            self._read += rows.nbytes
            if len(rows):
                self._curve.append(**{name: rows[name] for name in ROW.names or ()})
            self._heard = os.fstat(file.fileno()).st_mtime
        for row in self.log()[-1:]:
            self._logged = int(row["step"])
            with contextlib.suppress(FileNotFoundError):
                self._heard = max(self._heard, (self.folder / "log.jsonl").stat().st_mtime)

    def log(self) -> list[dict[str, Any]]:
        """Return the last lines of its log: step, experience, lr and the losses by name."""
        rows = []
        with contextlib.suppress(FileNotFoundError), (self.folder / "log.jsonl").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            for line in file.read().split(b"\n")[:-1][-SHOWN:]:
                with contextlib.suppress(ValueError):  # the first may have lost its beginning
                    rows.append(json.loads(line))
        return rows

    @property
    def curve(self) -> Curve:
        """What was evaluated so far.

        Raises:
            LedgerError: the curve of a finished run cannot be read.
        """
        return self._curve if self.record is None else self.record.curve

    def progress(self, curve: Curve) -> Floats:
        """(K,) Where in the stream each tick of its curve is, as of `clbench.results.traces`; also while it runs."""
        if self.record is not None:
            return progress(curve)
        ticks, ends = curve.ticks(), self.about.get("ends", [])
        at = ticks.examples if self.about.get("by") == "examples" else ticks.steps
        found: Floats = np.interp(at, [0, *ends], np.arange(len(ends) + 1.0))
        return found

    @property
    def domains(self) -> Sequence[str | None]:
        """The names of its test streams, as far as they have some and the folder tells."""
        of: Mapping[str, Any] = self.about if self.record is None else self.record.benchmark
        found: Sequence[str | None] = of.get("domains", ())
        return found

    @property
    def step(self) -> int:
        """Steps done, as far as the folder tells."""
        if self.record is not None:
            return int(self.record.budget["steps"] or 0)
        evaluated = int(self._curve.step[-1:].max(initial=0))
        return max(self._logged + 1, evaluated, int(self.about.get("from", 0)))

    @property
    def steps(self) -> int | None:
        """Steps of the whole stream, None while nothing tells."""
        return self.step if self.record is not None else self.about.get("steps")

    @property
    def left(self) -> float | None:
        """Seconds that a running run will still take, at the pace that it had so far; None while nothing tells."""
        if self.state != "running" or not self.about:
            return None
        done = self.step - self.about["from"]
        pace = (self._heard - self.about["began"]) / done if done > 0 else None
        return None if pace is None else max(0.0, pace * (self.about["steps"] - self.step))


SUMMARY: Mapping[Measure, Mapping[str, str]] = {
    ACCURACY: {"average_accuracy": "accuracy", "min_acc": "min-ACC", "wc_acc": "WC-ACC"},
    LOSS: {"average_loss": "loss", "gap_nats": "gap", "average_anytime_loss": "anytime loss"},
}
"""What is told of a run while it runs: the metrics that it will be, and what they are called."""


def summary(curve: Curve) -> dict[str, Floats]:
    """Return `SUMMARY` (K,) so far at each tick; NaN where the stream has no tasks to forget one by one."""
    ticks, begun, measure = curve.ticks(), curve.experiences, measure_of(curve)
    seen, nothing = measure.seen(curve), np.full(len(ticks), np.nan)
    by_task = len(ticks) and np.array_equal(curve.learned[:begun], np.arange(begun))
    lines: tuple[Floats, ...]
    if measure.share:
        lines = (min_acc_trace(ticks), wc_acc_trace(ticks)) if by_task else (nothing, nothing)
    else:
        lines = gap_trace(curve) if by_task else nothing, seen.cumsum() / np.arange(1, len(ticks) + 1)
    return dict(zip(SUMMARY[measure], (seen, *lines), strict=True))


def series(curve: Curve, x: Floats, start: int) -> dict[str, Any]:
    """Return the ticks of a curve from number `start` on, for JSON: a list for each line, None where there is no value.

    Accuracies are fractions to five digits, losses in nats; `each` has a list for each stream.

    Args:
        x: (K,) where in the stream they are.
    """
    measure = measure_of(curve)
    return {
        "x": _listed(x[start:]),
        "each": [_listed(column[start:]) for column in measure.ticks(curve).T],
        "summary": {key: _listed(line[start:]) for key, line in summary(curve).items()},
        "estimated": not curve.ticks().complete,
    }


def _listed(values: Floats) -> Sequence[float | None]:
    return [None if value != value else value for value in values.round(5).tolist()]


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from the one that replaces it; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _held(lock: Path) -> bool:
    """Whether the process that a lock names is there and holds it; nothing is locked to find out, as that could keep a
    run from starting."""
    try:
        pid = int(lock.read_text())
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    try:
        opened = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # not told here
        return True
    for file in opened:
        with contextlib.suppress(OSError):
            if file.samefile(lock):
                return True
    return False
