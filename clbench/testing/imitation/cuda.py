"""What `torch.cuda` says and does while the imitation is there."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakSet

import torch

from clbench.machine.guard import loaded
from clbench.testing.imitation.device import StrictGPU
from clbench.testing.imitation.graphs import Graph
from clbench.testing.imitation.here import HERE, machine
from clbench.testing.imitation.streams import Event, Stream
from clbench.testing.imitation.tensors import Generator, marked, parameter_data, unmarked

NAME = "imitation of a GPU"


class _On:
    """`torch.cuda.stream(s)`."""

    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        gpu = machine()
        self.before = gpu.current, dict(gpu.streams)
        if self.stream is not None:
            gpu.current = self.stream.device
            gpu.streams[self.stream.device.index] = self.stream

    def __exit__(self, *_: object) -> None:
        machine().current, machine().streams = self.before


class _Present:
    """`torch.cuda.device(d)`."""

    def __init__(self, device: Any) -> None:
        self.device = device

    def __enter__(self) -> None:
        gpu = machine()
        self.before = gpu.current
        if self.device is not None:
            gpu.current = gpu.named(self.device)

    def __exit__(self, *_: object) -> None:
        machine().current = self.before


class _Capture:
    """`torch.cuda.graph(g, pool=…, stream=…)`."""

    def __init__(
        self, graph: Graph, pool: Any = None, stream: Stream | None = None, capture_error_mode: str = "global"
    ) -> None:
        self.graph, self.on, self.pool = graph, _On(stream or Stream()), pool

    def __enter__(self) -> None:
        gpu = machine()
        assert isinstance(gpu, StrictGPU)
        if self.pool is not None:
            users = gpu.pools.setdefault(self.pool, None)
            if users is not None and not users:  # as torch's allocator has it
                raise RuntimeError(
                    "a pool whose graphs are all gone is used again: use_count > 0 INTERNAL ASSERT"
                )
            gpu.pools[self.pool] = users if users is not None else WeakSet()
            gpu.pools[self.pool].add(self.graph)
            self.graph.shared = self.pool
        torch.cuda.synchronize()  # as the real one does
        assert self.on.stream is not None
        self.on.stream.clock |= gpu.host
        self.on.__enter__()
        self.graph.begin(self.on.stream)

    def __exit__(self, *_: object) -> None:
        self.graph.end()
        self.on.__exit__()


class _Properties:
    name, uuid, total_memory, major, minor, multi_processor_count = NAME, "0", 80 << 30, 9, 0, 132


def _replacements(gpu: StrictGPU) -> list[tuple[Any, str, Any]]:
    cuda = torch.cuda
    pools = itertools.count(1)

    def seed(number: int) -> None:
        torch.default_generator.manual_seed(number)

    def mode(value: Any) -> None:
        gpu.sync_mode = {0: "default", 1: "warn", 2: "error"}.get(value, value)

    def pin(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
        pinned = tensor.clone()
        place = pinned.untyped_storage().data_ptr()
        gpu.pinned[place] = []
        weakref.finalize(pinned, gpu.pinned.pop, place, None)
        return pinned

    def seen(method: Callable[..., Any], op: str) -> Callable[..., Any]:
        def call(tensor: torch.Tensor, *args: Any, **how: Any) -> Any:
            gpu.look(tensor, op)
            return method(tensor, *args, **how)

        return call

    def to_cuda(
        tensor: torch.Tensor, device: Any = None, non_blocking: bool = False, **_: Any
    ) -> torch.Tensor:
        return tensor.to(gpu.named(device), non_blocking=non_blocking)

    def synchronize(device: Any = None) -> None:
        if gpu.named(device) == gpu.device:
            gpu.wait_for(gpu.stream.clock, "torch.cuda.synchronize")

    def set_device(device: Any) -> None:
        gpu.current = gpu.named(device)

    def set_stream(stream: Stream | None) -> None:
        if stream is not None:
            _On(stream).__enter__()

    return [
        (cuda, "_lazy_init", lambda: None),
        (cuda, "is_available", lambda: True),
        (cuda, "is_initialized", lambda: True),
        (cuda, "device_count", lambda: gpu.count),
        (cuda, "current_device", lambda: gpu.current.index),
        (cuda, "set_device", set_device),
        (cuda, "manual_seed", seed),
        (cuda, "manual_seed_all", lambda number: None),
        (cuda, "default_generators", (torch.default_generator,) * gpu.count),
        (cuda, "get_rng_state", lambda device=0: marked(torch.get_rng_state())),
        (cuda, "set_rng_state", lambda state, device=0: torch.set_rng_state(unmarked(state))),
        (cuda, "is_bf16_supported", lambda including_emulation=True: True),
        (cuda, "get_device_name", lambda device=None: NAME),
        (cuda, "get_device_properties", lambda device=None: _Properties),
        (cuda, "get_device_capability", lambda device=None: (9, 0)),
        (cuda, "mem_get_info", lambda device=None: (70 << 30, 80 << 30)),
        (cuda, "memory_allocated", lambda device=None: 0),
        (cuda, "memory_reserved", lambda device=None: 0),
        (cuda, "max_memory_reserved", lambda device=None: 0),
        (cuda, "max_memory_allocated", lambda device=None: 0),
        (cuda, "reset_peak_memory_stats", lambda device=None: None),
        (cuda, "get_per_process_memory_fraction", lambda device=None: 1.0),
        (cuda, "set_per_process_memory_fraction", lambda share, device=None: None),
        (cuda, "empty_cache", lambda: None),
        (cuda, "synchronize", synchronize),
        (cuda, "get_sync_debug_mode", lambda: {"default": 0, "warn": 1, "error": 2}[gpu.sync_mode]),
        (cuda, "set_sync_debug_mode", mode),
        (cuda, "is_current_stream_capturing", lambda: gpu.capturing is not None),
        (cuda, "Stream", Stream),
        (cuda, "Event", Event),
        (cuda, "CUDAGraph", Graph),
        (cuda, "graph", _Capture),
        (cuda, "graph_pool_handle", lambda: (0, next(pools))),
        (cuda, "stream", _On),
        (cuda, "set_stream", set_stream),
        (cuda, "device", _Present),
        (cuda.nvtx, "range_push", lambda said: 0),
        (cuda.nvtx, "range_pop", lambda: 0),
        (cuda.nvtx, "mark", lambda said: None),
        (cuda, "current_stream", lambda device=None: gpu.streams[gpu.named(device).index]),
        (cuda, "default_stream", lambda device=None: gpu.defaults[gpu.named(device).index]),
        (torch, "Generator", Generator),
        (torch.accelerator, "is_available", lambda: True),
        (torch.accelerator, "current_accelerator", lambda *_, **__: torch.device("cuda")),
        (torch.accelerator, "current_device_index", lambda: gpu.current.index),
        (torch.accelerator, "set_device_index", lambda device: None),
        (torch.Tensor, "pin_memory", pin),
        (torch.Tensor, "numpy", seen(torch.Tensor.numpy, "numpy")),
        (torch.Tensor, "tolist", seen(torch.Tensor.tolist, "tolist")),
        (torch.Tensor, "cuda", to_cuda),
    ]


@contextlib.contextmanager
def strict_cuda(index: int = 0) -> Iterator[StrictGPU]:
    """Inside, `cuda:INDEX` is the imitation. Tensors of it do not outlive the block.

    Raises:
        RuntimeError: torch does not believe in it (`clbench.machine.guard.load`).
    """
    if not loaded():
        raise RuntimeError("load clbench.machine.guard before torch is imported")
    gpu = StrictGPU(index)
    inside: Any = torch._C
    replaced: list[tuple[Any, str, Any]] = []
    lifted = inside._only_lift_cpu_tensors()
    inside._ensureCUDADeviceGuardSet()
    HERE.machine = gpu
    gpu.begin()
    try:
        for owner, name, new in _replacements(gpu):
            replaced.append((owner, name, getattr(owner, name)))
            setattr(owner, name, new)
        torch.nn.Parameter.data = parameter_data()  # type: ignore[assignment]
        inside._set_only_lift_cpu_tensors(True)
        with gpu:
            yield gpu
    finally:
        del torch.nn.Parameter.data
        inside._set_only_lift_cpu_tensors(lifted)
        for owner, name, old in reversed(replaced):
            setattr(owner, name, old)
        HERE.machine = None
