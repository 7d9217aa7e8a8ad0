"""Queues of a device, marks in them, and pieces of memory that know who used them when.

Time is a vector clock: `clock[s]` of a stream is how much of stream s is known to be done before what is queued next.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from typing import Any

from clbench.testing.imitation.here import HERE, machine

_numbers = itertools.count(1)


class Stream:
    """A queue of a device, the current one if none is named."""

    def __init__(self, device: Any = None, priority: int = 0, **_: Any) -> None:
        self.clock: Counter[int] = Counter()
        self.device = machine().named(device)
        self.number = self.cuda_stream = next(_numbers)

    def wait_stream(self, other: Stream) -> None:
        self.clock |= other.clock

    def wait_event(self, event: Event) -> None:
        self.clock |= event.clock

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        machine().wait_for(self.clock, "Stream.synchronize")

    def query(self) -> bool:
        machine().host |= self.clock
        return True


class Event:
    """A mark in a stream."""

    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        self.clock: Counter[int] = Counter()
        self.timing, self.at = enable_timing, -1.0

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or machine().streams[machine().current.index]
        self.clock = Counter(stream.clock)
        self.at = time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None:
        (stream or machine().streams[machine().current.index]).wait_event(self)

    def synchronize(self) -> None:
        machine().wait_for(self.clock, "Event.synchronize")

    def query(self) -> bool:
        machine().host |= self.clock
        return True

    def elapsed_time(self, end: Event) -> float:
        if not (self.timing and end.timing):
            raise RuntimeError("Both events must be created with argument 'enable_timing=True'.")
        if self.at < 0 or end.at < 0:
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")
        return 1e3 * (end.at - self.at)


class Block:
    """A piece of the device's memory: who allocated, wrote and read it when.

    Attributes:
        written: stream and time. readers: stream → time. recorded: streams named by `record_stream`.
    """

    __slots__ = ("__weakref__", "allocated_on", "readers", "recorded", "written")

    def __init__(self, stream: Stream) -> None:
        self.allocated_on = stream
        self.written: tuple[int, int] = (0, 0)
        self.readers: dict[int, int] = {}
        self.recorded: set[int] = set()

    def __del__(self) -> None:
        """Tell when it was freed: what others do with it must be over when its stream gets it again."""
        gpu, mine = HERE.machine, self.allocated_on.number
        if gpu is None or gpu.capturing is not None:
            return
        uses = [
            (stream, at)
            for stream, at in (self.written, *self.readers.items())
            if stream not in (0, mine) and stream not in self.recorded
        ]
        if uses:
            gpu.freed.setdefault(mine, []).append((uses, gpu.where()[0]))
