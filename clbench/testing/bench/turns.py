"""Contenders that take turns. Each is a loop in a thread of its own; only one runs at any time."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from clbench.machine.guard import loaded

Gate = Callable[[], None]
"""What a loop calls between two steps."""


class _Enough(BaseException):
    """Raised in a loop whose laps are done; no `except Exception` of a library may keep it."""


@dataclass
class Contender:
    """A loop, and its laps in seconds: by the wall clock, and of its thread's CPU time."""

    name: str
    loop: Callable[[Gate], None]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    error: BaseException | None = None

    def summary(self, warm_up: int) -> dict[str, float]:
        """Milliseconds: median, first and third quartile of the laps after those of warm-up, and median CPU time."""
        laps = sorted(1e3 * lap for lap in self.wall[warm_up:])
        low, middle, high = statistics.quantiles(
            laps * 2 if len(laps) == 1 else laps, n=4, method="inclusive"
        )
        cpu = 1e3 * statistics.median(self.cpu[warm_up:])
        return {"median": middle, "q1": low, "q3": high, "cpu": cpu}


def take_turns(contenders: Sequence[Contender], laps: int, device: torch.device, stretch: int = 1) -> None:
    """Let every contender do so many laps, one after the other in each round.

    Args:
        stretch: laps in a row. With one, each lap begins with the caches full of what the others have left there.

    Raises:
        whatever a contender raised.
    """
    if loaded():  # by the imitation of a GPU, which is of one thread
        for contender in contenders:
            _alone(contender, laps)
        return
    turns = [threading.Semaphore(0) for _ in contenders]
    back = threading.Semaphore(0)

    def now() -> tuple[float, float]:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter(), time.thread_time()

    def live(contender: Contender, turn: threading.Semaphore) -> None:
        began: tuple[float, float] | None = None

        def gate() -> None:
            nonlocal began
            if began is not None:
                wall, cpu = now()
                contender.wall.append(wall - began[0])
                contender.cpu.append(cpu - began[1])
            if len(contender.wall) >= laps:
                raise _Enough
            if len(contender.wall) % stretch == 0:
                back.release()
                turn.acquire()
            began = now()

        turn.acquire()
        try:
            contender.loop(gate)
        except _Enough:
            pass
        except BaseException as error:  # handed to who waits
            contender.error = error
        else:
            contender.error = RuntimeError(
                f"{contender.name} ended after {len(contender.wall)} of {laps} laps"
            )
        back.release()

    threads = [
        threading.Thread(target=live, args=(c, turn), daemon=True)
        for c, turn in zip(contenders, turns, strict=True)
    ]
    for thread in threads:
        thread.start()
    for _ in range(-(-laps // stretch) + 1):  # to the first gate, and then a stretch each
        for contender, turn in zip(contenders, turns, strict=True):
            turn.release()
            back.acquire()
            if contender.error is not None:
                raise contender.error
    for thread in threads:
        thread.join()


def _alone(contender: Contender, laps: int) -> None:
    """Let a contender do its laps in this thread."""
    began: list[tuple[float, float]] = []

    def gate() -> None:
        now = time.perf_counter(), time.thread_time()
        if began:
            contender.wall.append(now[0] - began[-1][0])
            contender.cpu.append(now[1] - began[-1][1])
        if len(contender.wall) >= laps:
            raise _Enough
        began.append(now)

    with contextlib.suppress(_Enough):
        contender.loop(gate)
