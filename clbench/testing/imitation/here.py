"""What the imitation's modules share: what was found, and the device that is there now."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch


class DeviceError(RuntimeError):
    """Tensors or generators of two devices in one operator."""


class WaitError(RuntimeError):
    """The host would wait where it must not: under `torch.cuda.set_sync_debug_mode("error")`, or during a capture."""


@dataclass(frozen=True)
class Contact:
    """The host and the device met.

    Attributes:
        kind: "read" (device → host), "wait" (the host waits for a size or a decision), "send" (host → device, waiting
            until the copy is done), "pageable" (host → device, said not to wait, from memory that is not pinned).
        op: the operator. where: file:line of the program. backward: that autograd's thread called it.
        theirs: that it is in what a strategy, a plug-in or a part does.
    """

    kind: str
    op: str
    where: str
    backward: bool = False
    theirs: bool = False


@dataclass(frozen=True)
class Race:
    """Two streams touch the same memory, and nothing orders them.

    Attributes:
        kind: "read before written", "written before read", "given out again in use".
        op, where: as in `Contact`. pinned: that it is memory of the host's.
    """

    kind: str
    op: str
    where: str
    pinned: bool = False


class Machine:
    """The device's state, as its streams, tensors and graphs see it; `clbench.testing.imitation.device` runs operators.

    Attributes:
        device: which one it is. current: which one torch takes where none is named.
        host: of each stream, how much the host knows to be done.
        streams: of each device, the stream in which things happen now; defaults: unless another is named.
        freed: of each stream, memory freed there: its uses by others, and the line of the program.
        capturing: the graph that is being captured.
        pinned: places in the host's memory that are pinned; of each, copies under way: stream, time, and whether
            they are "read" or "written".
        contacts, races: what was found, in order. unordered: sums that a GPU takes in any order.
    """

    device: torch.device
    current: torch.device
    host: Counter[int]
    streams: dict[int, Any]
    defaults: dict[int, Any]
    freed: dict[int, list[tuple[list[tuple[int, int]], str]]]
    capturing: Any
    pinned: dict[int, list[tuple[int, int, str]]]
    contacts: list[Contact]
    races: list[Race]
    unordered: list[Contact]

    @property
    def stream(self) -> Any:
        """In which the device's work is queued now."""
        return self.streams[self.device.index]

    def where(self) -> tuple[str, bool]:
        """Return the line of the program that is at work, and whether autograd's thread is."""
        raise NotImplementedError

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Carry out an operator."""
        raise NotImplementedError

    def meet(self, kind: str, op: str, clock: Counter[int] | None = None) -> None:
        """The host and the device meet; afterwards the host knows what is done of the present stream, or in a clock."""
        raise NotImplementedError

    def wait_for(self, clock: Counter[int], op: str) -> None:
        """The host asks to wait until what a clock counts is done."""
        raise NotImplementedError

    def touch(self, blocks: dict[Any, bool], name: str) -> None:
        """The present stream reads blocks, or where true writes them."""
        raise NotImplementedError

    def named(self, name: Any) -> torch.device:
        """Return the device of a name, a number, or nothing."""
        device = torch.device("cuda", name) if isinstance(name, int) else torch.device(name or "cuda")
        return torch.device("cuda", self.current.index) if device.index is None else device


class _Here:
    machine: Machine | None = None


HERE = _Here()


def machine() -> Machine:
    """Return the device that is there now."""
    if HERE.machine is None:
        raise RuntimeError("a tensor of the imitation is used outside `strict_cuda()`")
    return HERE.machine
