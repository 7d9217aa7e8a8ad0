"""Another process that evaluates snapshots of the weights while training goes on.

The run writes a snapshot into one of a few slots of shared memory and goes on; the worker evaluates them in order. When
no slot is free, the run evaluates the snapshot itself. Unless a race decides, whose ticks depend on each other: then it
waits, and meanwhile takes on a share of what the worker looks at. The numbers are those of one process to the bit, as
both compute with one `Ticker`, the same portions and the same number of threads.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch import Tensor

from clbench.errors import EvaluatorError
from clbench.evaluation.testset import TestSet
from clbench.evaluation.ticker import Layout, Result, Tick, Ticker
from clbench.machine.checkpoint import clone
from clbench.machine.device import keep_freed_memory
from clbench.machine.numerics import pinned
from clbench.machine.processes import starting
from clbench.machine.stopping import ignore

SLOTS = 4
"""Snapshots that may wait: more would only wait longer, as evaluation is the slower side where it matters."""


class Worker:
    """The other process, as the run sees it.

    Args:
        ticker: what it works with; the process gets a copy, and the run helps with this one.
        weights: of the network, for their shapes.
    """

    def __init__(self, ticker: Ticker, weights: Sequence[Tensor]) -> None:
        import torch.multiprocessing as multiprocessing

        self.layout = Layout(weights)
        self._ticker = ticker
        self._memory = torch.empty((SLOTS, self.layout.nbytes), dtype=torch.uint8).share_memory_()
        self._waiting = torch.zeros(1, dtype=torch.uint8).share_memory_()  # 1 while the run could help
        self._slots = [self.layout.views(block) for block in self._memory]
        self._free = list(range(SLOTS))
        self._done: dict[int, Result] = {}
        self._given = 0
        self._failed = False
        try:
            copied = pickle.dumps(ticker)  # by value: tensors sent as arguments would be shared memory
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise EvaluatorError(f"The network cannot be sent to another process: {error}.") from error
        context = multiprocessing.get_context("forkserver")
        self._conn, theirs = context.Pipe()
        self._help, asks = context.Pipe()
        pipes = theirs, asks
        given = (*pipes, copied, self.layout, self._memory, self._waiting, torch.get_num_threads())
        self._process = context.Process(target=_serve, args=given, daemon=True)
        with starting(ticker, preload=[__name__]):  # a second worker then starts at once
            self._process.start()
        Finalize(self, self._process.kill, exitpriority=1)  # at its end Python would wait for it
        for pipe in pipes:
            pipe.close()

    def see(self, test: TestSet, exact_test: TestSet | None, experience: int) -> None:
        """What is evaluated from now on."""
        self._send(("see", test, exact_test, experience))

    @property
    def alive(self) -> bool:
        """Whether it can still answer."""
        return not self._failed and self._process.is_alive()

    @property
    def free(self) -> bool:
        """Whether a snapshot can be taken without waiting."""
        while not self._free and self._conn.poll():
            self._receive()
        return bool(self._free)

    def submit(self, tick: Tick, weights: Sequence[Tensor]) -> int:
        """Take a snapshot, waiting for a slot if none is free; the number under which `result` has it."""
        while not self.free:
            self._receive()
        slot, number = self._free.pop(), self._given
        for view, w in zip(self._slots[slot], weights, strict=True):
            view.copy_(w)
        self._given += 1
        self._send(("tick", number, slot, tick))
        return number

    def result(self, number: int) -> Result:
        """Return the result of a snapshot, waiting for it."""
        while number not in self._done:
            self._receive()
        return self._done.pop(number)

    def state_dict(self) -> dict[str, Any]:
        """Return the worker's ticker's, after all snapshots."""
        self._send(("state",))
        self._state: dict[str, Any] | None = None
        while self._state is None:
            self._receive()
        return clone(self._state)  # the worker goes on writing into what it sent

    def close(self) -> None:
        """End the process."""
        self._help.close()
        self._conn.close()  # it ends when it finds nobody there
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    # --- messages ---

    def _send(self, message: tuple[Any, ...]) -> None:
        try:
            self._conn.send(message)
        except (BrokenPipeError, ConnectionResetError):
            while True:  # until the message that says why it ended, or the end
                self._receive()

    def _receive(self) -> None:
        """Wait for a message, and help until it comes."""
        self._waiting.fill_(1)
        while self._help in wait([self._conn, self._help, self._process.sentinel]):
            if not self._helped():
                break
        self._waiting.fill_(0)
        try:
            if not self._conn.poll():
                raise self._lost()
            kind, *content = self._conn.recv()
        except (EOFError, ConnectionResetError):
            raise self._lost() from None
        if kind == "failed":
            self._failed = True
            raise EvaluatorError(f"The evaluator's process failed: {content[0]}")
        if kind == "state":
            (self._state,) = content
        elif kind == "free":
            self._free.append(content[0])
        else:
            number, result = content
            check = None if result.check is None else torch.from_numpy(result.check)
            self._done[number] = replace(result, counts=torch.from_numpy(result.counts), check=check)

    def _helped(self) -> bool:
        """Take on a share of the worker's look; False if the worker is gone."""
        try:
            slot, rows = self._help.recv()
            ticker, test = self._ticker, self._ticker.test
            assert test is not None
            ticker.forward.load(self._slots[slot])
            values = ticker.values(ticker.forward, test, ticker.portion, torch.from_numpy(rows))
            self._help.send(values.numpy())
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _lost(self) -> EvaluatorError:
        self._process.join(5)
        return EvaluatorError(
            f"The evaluator's process (pid {self._process.pid}) ended with exit code {self._process.exitcode}; a "
            "negative one is a signal, −9 often a lack of memory. `clbench resume` continues the run from its last "
            "checkpoint; without --overlap the run evaluates in its own process."
        )


def _plain(result: Result, seconds: float) -> Result:
    """With arrays in place of tensors, which would travel as files of shared memory."""
    check: Any = None if result.check is None else result.check.numpy()
    counts: Any = result.counts.numpy()
    return replace(result, counts=counts, check=check, seconds=seconds)


def _ask(asks: Connection, waiting: Tensor, slot: int, rows: Tensor) -> Callable[[], Tensor] | None:
    """Have the run compute the values at rows, if it is waiting anyway; see `Helper`."""
    if not waiting.item():
        return None
    asks.send((slot, rows.numpy()))
    return lambda: torch.from_numpy(asks.recv())


def _serve(
    conn: Connection,
    asks: Connection,
    copied: bytes,
    layout: Layout,
    memory: Tensor,
    waiting: Tensor,
    threads: int,
) -> None:
    """The worker's life: one message after the other, until the run is gone."""
    ignore()
    numbers = pinned(threads)  # as in the run, to the end of this process
    numbers.__enter__()
    keep_freed_memory()
    ticker: Ticker = pickle.loads(copied)  # what the run has just made, by its own pipe
    slots = [layout.views(block) for block in memory]
    try:
        while True:
            kind, *content = conn.recv()
            if kind == "see":
                ticker.see(*content)
            elif kind == "state":
                conn.send(("state", ticker.state_dict()))
            else:
                number, slot, tick = content
                began = time.perf_counter()
                free = functools.partial(conn.send, ("free", slot))
                if ticker.race is None:
                    result = ticker.tick(tick, slots[slot], free)
                else:  # who helps needs the weights to the end
                    ticker.helper = functools.partial(_ask, asks, waiting, slot)
                    result = ticker.tick(tick, slots[slot])
                    free()
                conn.send(("done", number, _plain(result, time.perf_counter() - began)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:  # told to the run, which ends with it
        lines = traceback.format_exc().strip().splitlines()
        conn.send(
            ("failed", f"{type(error).__name__}: {error} ({lines[-2].strip() if len(lines) > 1 else ''})")
        )
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:  # a pipe closed with messages in it would lose ours
                conn.recv()
