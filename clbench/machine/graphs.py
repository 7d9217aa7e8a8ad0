"""CUDA graphs: work that is recorded once, and carried out again as one launch."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakSet

import torch


class CudaGraphs:
    """Recording by CUDA graphs, on a stream of their own and in one pool of memory.

    They are carried out one after another, so what one needs in between the others may use, too.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)
        self._living: WeakSet[torch.cuda.CUDAGraph] = WeakSet()
        self._pool: Any = None

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Work on the stream of the recordings, as autograd's nodes belong to the stream on which they were made."""
        main = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(main)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            main.wait_stream(self.stream)

    def record(
        self, work: Callable[[], None], generators: Sequence[torch.Generator] = ()
    ) -> Callable[[], None]:
        """Return what carries the work out again, into the same tensors, drawing on from these generators.

        The same work has been done `aside` before, under `sync_debug(…, "error")`: a capture that is broken off leaves
        torch's generators and allocator half in it.

        Raises:
            RuntimeError: the work cannot be recorded; says what it was.
        """
        graph = torch.cuda.CUDAGraph()
        if not self._living:  # torch takes no pool again whose graphs are all gone
            self._pool = torch.cuda.graph_pool_handle()
        for generator in generators:
            graph.register_generator_state(generator)
        cause: RuntimeError | None = None
        try:
            # A thread that pins batches may go on allocating meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"
            ):
                try:
                    work()
                except RuntimeError as error:
                    cause = error
                    raise
        except RuntimeError as error:  # ending a capture that was broken off raises another one
            raise cause or error from None
        self._living.add(graph)
        return graph.replay


@contextlib.contextmanager
def sync_debug(device: torch.device, mode: str) -> Iterator[None]:
    """Have torch take it in this mode that the host waits for a GPU: "default" lets it, "error" raises."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    _set_sync_debug(mode)
    try:
        yield
    finally:
        _set_sync_debug(before)


def _set_sync_debug(mode: int | str) -> None:
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that it does not see every wait
        torch.cuda.set_sync_debug_mode(mode)
