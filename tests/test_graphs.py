"""What a GPU carries out as one launch: on which stream it is recorded, and what is said where that fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from clbench.machine.device import present
from clbench.machine.graphs import CudaGraphs, sync_debug

GPU = torch.device("cuda", 1)


class Cuda:
    """A `torch.cuda` with two GPUs, of which the first is the present one, that notes what is asked of it."""

    def __init__(self) -> None:
        self.now, self.mode, self.capturing, self.pools = 0, "default", False, 0
        self.captures: list[dict[str, Any]] = []
        self.joined: list[tuple[object, object]] = []  # who waited for whom
        cuda = self

        class Stream:
            def __init__(self, device: torch.device) -> None:
                self.device = device

            def wait_stream(self, other: object) -> None:
                cuda.joined.append((self, other))

        self.main = Stream(GPU)
        self.Stream = Stream

    class CUDAGraph:
        def replay(self) -> None: ...

    def current_stream(self, device: torch.device) -> Any:
        return self.main

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def graph(self, graph: Any, **how: Any) -> Iterator[None]:
        self.captures.append(how)
        self.capturing = True
        try:
            yield
        except Exception as error:
            raise RuntimeError("operation failed due to a previous error during capture") from error
        finally:
            self.capturing = False

    def graph_pool_handle(self) -> int:
        self.pools += 1
        return self.pools

    def get_sync_debug_mode(self) -> str:
        return self.mode

    def set_sync_debug_mode(self, mode: str) -> None:
        self.mode = mode

    def current_device(self) -> int:
        return self.now

    def set_device(self, device: torch.device | int) -> None:
        self.now = device if isinstance(device, int) else int(device.index)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    fake = Cuda()
    for name in (
        *("CUDAGraph", "Stream", "current_device", "current_stream", "get_sync_debug_mode", "graph"),
        *("graph_pool_handle", "set_device", "set_sync_debug_mode", "stream"),
    ):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    return fake


def test_it_is_recorded_on_a_stream_of_its_own_gpu(cuda: Cuda) -> None:
    """By default torch records on a stream of the present GPU, and what another one does is not in the graph."""
    CudaGraphs(GPU).record(lambda: None)
    assert [how["stream"].device for how in cuda.captures] == [GPU]
    assert [how["capture_error_mode"] for how in cuda.captures] == ["thread_local"]


def test_graphs_share_memory_as_long_as_one_of_them_lives(cuda: Cuda) -> None:
    """torch refuses a pool whose graphs are all gone."""
    graphs = CudaGraphs(GPU)
    living = [graphs.record(lambda: None) for _ in range(2)]
    living.clear()
    graphs.record(lambda: None)
    assert [how["pool"] for how in cuda.captures] == [1, 1, 2]


def test_what_waits_is_found_aside_and_what_comes_next_is_in_order(cuda: Cuda) -> None:
    graphs = CudaGraphs(GPU)

    def wait() -> None:
        with sync_debug(GPU, "error"), graphs.aside():
            raise RuntimeError(cuda.mode)

    with pytest.raises(RuntimeError, match="error"):
        wait()
    assert cuda.mode == "default"
    assert cuda.joined[-1] == (cuda.main, graphs.stream)


def test_the_cause_of_a_failed_capture_is_told_and_not_what_followed(cuda: Cuda) -> None:
    def draw() -> None:
        if cuda.capturing:
            raise RuntimeError("a generator is not registered")

    with pytest.raises(RuntimeError, match="a generator is not registered"):
        CudaGraphs(GPU).record(draw)


def test_a_run_makes_its_gpu_the_present_one_and_gives_the_callers_back(cuda: Cuda) -> None:
    def train() -> None:
        with present(GPU):
            assert cuda.now == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert cuda.now == 0
