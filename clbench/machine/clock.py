"""Seconds that add up, with pauses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class Clock:
    """Seconds spent inside `running`, by what they were spent on.

    Args:
        device: a GPU takes time by its events: what was queued while the clock ran is counted whenever it is done,
            and nothing waits for it before `settle`. Wall clock if it is a CPU, or None.

    Attributes:
        by: the seconds, by what they were spent on; on a GPU, those up to the last `settle`.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.by: dict[str, float] = {}
        self._gpu = device if device is not None and device.type == "cuda" else None
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._now: tuple[str, float | torch.cuda.Event] | None = None  # what is timed, and since when

    @property
    def seconds(self) -> float:
        """All of them; waits for the GPU."""
        self.settle()
        return sum(self.by.values())

    @contextlib.contextmanager
    def running(self, what: str) -> Iterator[None]:
        """Count what happens inside; inside another one, it is that one's."""
        if self._now is not None:
            yield
            return
        self._start(what)
        try:
            yield
        finally:
            self._stop()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Leave out what happens inside."""
        what = self._stop()
        yield
        if what is not None:
            self._start(what)

    def add(self, what: str, seconds: float) -> None:
        """Count seconds that were taken elsewhere."""
        self.by[what] = self.by.get(what, 0.0) + seconds

    def settle(self) -> None:
        """Count what events have taken; waits for the GPU."""
        if self._events:
            self._events[-1][2].synchronize()
        for what, start, end in self._events:
            self.add(what, start.elapsed_time(end) / 1e3)
        self._events.clear()

    def _start(self, what: str) -> None:
        self._now = what, time.perf_counter() if self._gpu is None else _event(self._gpu)

    def _stop(self) -> str | None:
        if self._now is None:
            return None
        what, began = self._now
        self._now = None
        if isinstance(began, float):
            self.add(what, time.perf_counter() - began)
        else:
            self._events.append((what, began, _event(self._gpu)))
        return what


def _event(gpu: torch.device | None) -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(gpu))  # of that GPU, whichever is the present one
    return event
