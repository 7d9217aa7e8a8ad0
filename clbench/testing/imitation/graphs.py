"""CUDA graphs: the operators of a capture, on the CPU tensors beneath."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from clbench.testing.imitation.here import machine
from clbench.testing.imitation.streams import Block, Stream
from clbench.testing.imitation.tensors import tensors_in


class Graph:
    """`torch.cuda.CUDAGraph`. What is captured has not happened: its outputs hold NaN until it is replayed.

    Attributes:
        steps: operator, arguments, and the outputs that it left.
        generators: those that were registered.
        keep: what must live as long as the graph.
        blocks: memory that it uses, and whether it writes it.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        self.steps: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []
        self.generators: list[Any] = []
        self.keep: list[Any] = []
        self.blocks: dict[Block, bool] = {}
        self.shared: Any = None
        self._fresh: list[torch.Tensor] = []
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._states: list[tuple[Any, torch.Tensor]] = []

    def register_generator_state(self, generator: Any) -> None:
        self.generators.append(generator)

    def begin(self, stream: Stream) -> None:
        gpu = machine()
        if gpu.capturing is not None:
            raise RuntimeError("a capture is under way already")
        if (
            stream.device == gpu.device
        ):  # else the work goes to a stream that is not captured, as on a real machine
            gpu.capturing = self
        self._states = [(g, g.get_state()) for g in (*self.generators, torch.default_generator)]

    def end(self) -> None:
        """Nothing has happened: what was written is as before, nothing was drawn, and what was made holds NaN."""
        if machine().capturing is not self:
            warnings.warn("The CUDA Graph is empty: captured on wrong device or stream.", stacklevel=3)
            return
        machine().capturing = None
        for generator, state in self._states:
            generator.set_state(state)
        for raw, before in self._before.values():
            raw.copy_(before)
        for raw in self._fresh:
            if raw.is_floating_point():
                raw.fill_(torch.nan)
        self._before.clear()
        self._fresh.clear()

    def note(self, func: Any, args: Any, kwargs: Any, out: Any, *, writes: bool, view: bool) -> None:
        """Write an operator down."""
        if view:
            return
        left = [] if writes else tensors_in(out)
        self.steps.append((func, args, kwargs, left))
        self._fresh += left

    def about_to_write(self, raw: torch.Tensor) -> None:
        """Keep what lies there before the capture."""
        key = raw.untyped_storage().data_ptr()
        whole = torch.empty(0, dtype=torch.uint8).set_(raw.untyped_storage())
        if key not in self._before and not any(f.untyped_storage().data_ptr() == key for f in self._fresh):
            self._before[key] = (whole, whole.clone())

    def replay(self) -> None:
        machine().touch(self.blocks, "replay")
        with torch.no_grad(), _disable_current_modes():
            for func, args, kwargs, left in self.steps:
                found = func(*args, **kwargs)
                for mine, new in zip(left, tensors_in(found) if left else (), strict=True):
                    mine.copy_(new)

    def reset(self) -> None:
        self.steps.clear()

    def pool(self) -> Any:
        return self.shared if self.shared is not None else (0, id(self))
