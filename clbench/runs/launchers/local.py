"""Runs side by side in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from clbench.config import cores
from clbench.machine.device import gpus, limit_memory
from clbench.machine.processes import starting
from clbench.machine.stopping import ask, ignore, stoppable
from clbench.registry.leaving import let_go
from clbench.results.ledger import has_record
from clbench.runs.launchers.base import Job, Launcher, Limits, hear, timed_out

if TYPE_CHECKING:
    from clbench.runs.cells import Cell

PRELOAD = ("clbench.runs.lifecycle", "clbench.parts")
"""What runs are forked with, beside the modules of their strategies and benchmarks."""

BUSY_SECONDS = 1.0
"""Between two looks at a run that another process has in its hands."""


@dataclass
class _Waiting:
    cell: Cell
    job: Job
    until: float = 0.0


@dataclass(frozen=True)
class _Place:
    """A device, and the share of its memory that a run may take; None is no limit."""

    device: str
    memory: float | None = None


@dataclass
class _Process:
    cell: Cell
    job: Job
    place: _Place
    process: Any
    pipe: Connection
    began: float = field(default_factory=time.monotonic)
    asked: bool = False


@dataclass(frozen=True)
class Local(Launcher):
    """Processes side by side, on the cores of this machine or sharing its GPUs.

    Attributes:
        workers: processes at a time; None is as many as the cores bear with each run's threads, or as `per_gpu` allows.
        limits: those of each run.
        per_gpu: processes at a time on each GPU of the device that is asked for, `cuda` being all of them. Each may
            take an equal share of the GPU's memory, so that no run fails for what another holds. None leaves all on
            the one device that is named.
    """

    workers: int | None = None
    limits: Limits = field(default_factory=Limits)
    per_gpu: int | None = None

    def launch(self, jobs: Sequence[tuple[Cell, Job]], watch: Callable[[], None]) -> None:
        """Carry out all jobs, each in a process of its own, which cannot take another with it.

        A run that another process has in its hands, another suite's for example, is waited for, after all others.
        """
        waiting = [_Waiting(cell, job) for cell, job in jobs]
        threads = max(job.resolved.threads for _, job in jobs)
        free = self._places(jobs[0][1].execution.device, threads)[: len(waiting)]
        # A fork server imports once what they all need; a process costs next to nothing then.
        context = multiprocessing.get_context("forkserver")
        modules = {module: None for _, job in jobs for module in job.modules()}
        preload = [*PRELOAD, *modules, "clbench.runs.launchers.warm"]
        running: dict[int, _Process] = {}  # by sentinel
        stop: list[bool] = []
        with stoppable(lambda: stop.append(True)), _ending(running):
            while running or (waiting and not stop):
                if stop:
                    _ask_to_end(running.values())
                now = time.monotonic()
                next_ = [one for one in waiting if one.until <= now and not stop][: len(free)]
                for one in next_:
                    waiting.remove(one)
                    one.cell.state, one.cell.message = "running", ""
                    one.cell.attempts += 1
                if next_ and not running:
                    watch()  # the first process takes seconds to come
                for one in next_:
                    started = _start(context, one.cell, one.job, free.pop(0), preload)
                    running[started.process.sentinel] = started
                ended = wait(list(running), timeout=0.2)
                for process in running.values():
                    _read(process)
                    self._watch_the_clock(process)
                for sentinel in ended:
                    process = running.pop(int(sentinel))  # type: ignore[arg-type]
                    self._conclude(process)
                    free.append(process.place)
                    cell, job = process.cell, process.job
                    if cell.state == "waiting":
                        busy = bool(cell.message)
                        again = _Waiting(cell, job, time.monotonic() + BUSY_SECONDS * busy)
                        waiting.insert(len(waiting) if busy else 0, again)
                watch()

    def _places(self, device: str, threads: int = 1) -> list[_Place]:
        """Return where runs of so many threads may be at a time, one entry for each; several GPUs take turns."""
        if self.per_gpu is None:
            return [_Place(device)] * (self.workers or max(1, cores() // threads))
        places = [_Place(gpu, 1 / self.per_gpu) for _ in range(self.per_gpu) for gpu in gpus(device)]
        return places[: self.workers]

    def _watch_the_clock(self, one: _Process) -> None:
        seconds = self.limits.seconds
        if seconds is not None and time.monotonic() - one.began > seconds and one.cell.state == "running":
            timed_out(one.cell, seconds)
            one.process.kill()

    def _conclude(self, one: _Process) -> None:
        """Take down what became of a process that has ended; its cell waits if its run is to be started again."""
        from clbench.runs.cells import settle

        one.process.join()
        one.pipe.close()
        cell, code = one.cell, one.process.exitcode
        if has_record(one.job.root / cell.id):
            settle(cell, one.job.root)
        elif cell.state == "running":
            if cell.attempts <= self.limits.retries:
                cell.state = "waiting"
                return
            cell.state = "failed"
            times = "" if cell.attempts == 1 else f", {cell.attempts} times"
            cell.message = f"its process ended with code {code} before there was a record{times}"
        elif cell.state == "waiting":  # it was busy, which is no attempt
            cell.attempts -= 1


@contextmanager
def _ending(running: Mapping[int, _Process]) -> Iterator[None]:
    """Processes that run although they are followed no more are ended at once; their checkpoints stay."""
    try:
        yield
    finally:
        for process in running.values():
            process.process.kill()
        for process in running.values():
            process.process.join()


def _ask_to_end(running: Iterable[_Process]) -> None:
    """Pass on that runs are to end after the present step, with a checkpoint."""
    for process in running:
        if not process.asked:
            process.asked = True
            with suppress(OSError):  # it has ended
                process.pipe.send("stop")


def _start(context: Any, cell: Cell, job: Job, place: _Place, preload: Sequence[str]) -> _Process:
    job = replace(job, execution=job.execution.model_copy(update={"device": place.device}))
    # A pipe each: of a queue that all share, a process that is killed may take the lock with it.
    pipe, theirs = context.Pipe()
    process = context.Process(target=_work, args=(job, place, theirs), daemon=False)
    with starting(job.definitions(), preload=preload):
        process.start()
    theirs.close()
    return _Process(cell, job, place, process, pipe)


def _read(one: _Process) -> None:
    """Take in what a process has told since the last time."""
    try:
        while one.pipe.poll():
            hear(one.cell, *one.pipe.recv())
    except (EOFError, OSError):  # the process has ended, perhaps in the middle of a word
        return


def _work(job: Job, place: _Place, pipe: Connection) -> None:
    ignore()  # the suite's own process decides
    threading.Thread(target=_obey, args=(pipe,), daemon=True).start()
    if place.memory is not None:
        limit_memory(place.device, place.memory)
    code = 1
    try:
        with suppress(KeyboardInterrupt):  # as it was asked to
            job.carry_out(lambda key, value: pipe.send((key, value)))
            code = 0
    finally:
        let_go(code)


def _obey(suite: Connection) -> None:
    """End the run when its suite asks, and at once where it has not begun.

    A suite that is killed must not leave runs behind that nobody knows of, with their folders locked.
    """
    with suppress(EOFError, OSError):
        suite.recv()
        if ask():
            suite.recv()  # until the suite is gone
    os._exit(1)
