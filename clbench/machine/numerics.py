"""The switches by which torch computes: they are the process's, so a run sets them, and gives them back at its end.

Precision of float32 products, autocast, the default type and device, gradients, anomaly mode, determinism, oneDNN,
cuDNN, attention kernels, denormal numbers, NumPy's errors, threads. Whatever the caller has set, a run finds torch's
own defaults, so that its numbers follow from its configuration, but for one: float32 is float32 everywhere, where torch
would have cuDNN compute convolutions in TF32.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from clbench.errors import ConfigError

_C: Any = torch._C
_backends: Any = torch.backends
_UNKNOWN = "unknown"
"""The value of an older setting while newer ones contradict it: torch refuses to tell."""


@dataclass(frozen=True)
class _Switch:
    """A setting of the process: how it is read and written, and what runs want."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    wanted: Any

    def set(self, value: Any) -> None:
        """Write it unless it is so already."""
        if value != _UNKNOWN and self.read() != value:
            self.write(value)


def _attribute(of: str, name: str, wanted: Any) -> _Switch:
    inside = functools.reduce(getattr, of.split("."), _backends)

    def read() -> Any:
        try:
            return getattr(inside, name)
        except RuntimeError:
            return _UNKNOWN

    return _Switch(f"{of}.{name}", read, functools.partial(setattr, inside, name), wanted)


def _fp32(backend: str, op: str, wanted: str) -> _Switch:
    """Return how float32 is computed: ieee is float32, none leaves it to the more general setting, and at last to
    torch."""
    read, write = _C._get_fp32_precision_getter, _C._set_fp32_precision_setter
    return _Switch(
        f"fp32.{backend}.{op}",
        functools.partial(read, backend, op),
        functools.partial(write, backend, op),
        wanted,
    )


def _reduction(name: str) -> _Switch:
    """Whether half-precision products may be summed in half precision, and, where torch tells, whether in parts."""
    of = _backends.cuda.matmul
    parts = hasattr(of, f"{name}_split_k")

    def read() -> Any:
        return (getattr(of, name), getattr(of, f"{name}_split_k")) if parts else getattr(of, name)

    return _Switch(
        f"cuda.matmul.{name}", read, functools.partial(setattr, of, name), (True, True) if parts else True
    )


def _matmul() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return _UNKNOWN


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _flushes() -> bool:
    """Whether this thread takes denormal numbers for 0; torch does not tell."""
    return not torch.full((1,), 1e-38, dtype=torch.float32, device="cpu").mul_(0.1).item()


_cuda = _backends.cuda
_OF_PROCESS = (
    _Switch("default_dtype", torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    _Switch("deterministic", torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 0),
    _Switch("anomaly", _anomaly, lambda value: torch.set_anomaly_enabled(*value), (False, True)),
    # From the general to the special, and older settings before the newer ones that they write.
    _fp32("generic", "all", "none"),
    _fp32("cuda", "all", "none"),
    _fp32("mkldnn", "all", "none"),
    _Switch("float32_matmul", _matmul, torch.set_float32_matmul_precision, "highest"),
    _attribute("cudnn", "allow_tf32", False),
    _fp32("cuda", "matmul", "ieee"),
    _fp32("cuda", "conv", "ieee"),
    _fp32("cuda", "rnn", "ieee"),
    _fp32("mkldnn", "matmul", "ieee"),
    _fp32("mkldnn", "conv", "none"),
    _fp32("mkldnn", "rnn", "none"),
    _reduction("allow_fp16_reduced_precision_reduction"),
    _reduction("allow_bf16_reduced_precision_reduction"),
    _attribute("cuda.matmul", "allow_fp16_accumulation", False),
    _attribute("mkldnn", "enabled", True),
    _attribute("mkldnn", "deterministic", False),
    _attribute("cudnn", "enabled", True),
    _attribute("cudnn", "benchmark", False),
    _attribute("cudnn", "deterministic", False),
    _Switch("nnpack.enabled", _C._get_nnpack_enabled, _C._set_nnpack_enabled, True),
    _Switch("attention.flash", _cuda.flash_sdp_enabled, _cuda.enable_flash_sdp, True),
    _Switch("attention.efficient", _cuda.mem_efficient_sdp_enabled, _cuda.enable_mem_efficient_sdp, True),
    _Switch("attention.math", _cuda.math_sdp_enabled, _cuda.enable_math_sdp, True),
    _Switch("attention.cudnn", _cuda.cudnn_sdp_enabled, _cuda.enable_cudnn_sdp, True),
    _Switch(
        "attention.fastpath", _backends.mha.get_fastpath_enabled, _backends.mha.set_fastpath_enabled, True
    ),
)
_OF_THREAD = (
    *(
        _Switch(
            f"autocast.{kind}",
            functools.partial(torch.is_autocast_enabled, kind),
            functools.partial(torch.set_autocast_enabled, kind),
            False,
        )
        for kind in ("cpu", "cuda")
    ),
    _Switch("flush_denormal", _flushes, torch.set_flush_denormal, False),
)
SWITCHES = (*_OF_PROCESS, *_OF_THREAD)

_threads: ContextVar[int | None] = ContextVar("threads", default=None)
_lock = threading.Lock()
_inside = 0
_found: list[Any] = []
"""The number of callers inside `pinned`, in all threads, and what the first of them found."""


@contextlib.contextmanager
def pinned(threads: int | None = None) -> Iterator[None]:
    """Set every switch as runs want it inside, and as the caller had it afterwards.

    Args:
        threads: CPU threads of the numeric libraries; None leaves their number as it is.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_of_process())
        found = [switch.read() for switch in _OF_THREAD]
        stack.callback(_write, _OF_THREAD, found)
        _write(_OF_THREAD, [switch.wanted for switch in _OF_THREAD])
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        if threads is not None and threads != _threads.get():
            stack.enter_context(_with_threads(threads))
        yield


@contextlib.contextmanager
def _of_process() -> Iterator[None]:
    """Let the first to enter set the process's switches and the last to leave give them back: runs may share it."""
    global _inside, _found
    with _lock:
        if not _inside:
            _found = [switch.read() for switch in _OF_PROCESS]
            _write(_OF_PROCESS, [switch.wanted for switch in _OF_PROCESS])
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _write(_OF_PROCESS, _found)


WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""A variable of cuBLAS, and the values with which its products have the same bits each time."""
_WORKSPACES = (":4096:8", ":16:8")


@contextlib.contextmanager
def deterministic(wanted: bool, device: torch.device) -> Iterator[None]:
    """Have a GPU give the same bits each time; torch raises where an operation has no such form. To enter in `pinned`.

    Raises:
        ConfigError: the caller's setting of cuBLAS forbids it.
    """
    if not wanted or device.type != "cuda":
        yield
        return
    if os.environ.setdefault(WORKSPACE, _WORKSPACES[0]) not in _WORKSPACES:
        raise ConfigError(
            f"deterministic needs {WORKSPACE}={' or '.join(_WORKSPACES)}, and it is {os.environ[WORKSPACE]}; unset it."
        )
    before = torch.get_deterministic_debug_mode(), _backends.cudnn.deterministic
    torch.set_deterministic_debug_mode("error")
    _backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        _backends.cudnn.deterministic = before[1]


def _write(switches: tuple[_Switch, ...], values: list[Any]) -> None:
    for switch, value in zip(switches, values, strict=True):
        switch.set(value)


@contextlib.contextmanager
def _with_threads(threads: int) -> Iterator[None]:
    """Set the threads of torch, and of the libraries below NumPy, SciPy and scikit-learn, for a while."""
    from threadpoolctl import threadpool_limits

    before, token = torch.get_num_threads(), _threads.set(threads)
    with threadpool_limits(threads):
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
            _threads.reset(token)


def describe() -> dict[str, Any]:
    """Return how every switch stands, for the record."""
    plain = (bool, int, str, list)
    values = {switch.name: switch.read() for switch in SWITCHES}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {name: value if isinstance(value, plain) else str(value) for name, value in values.items()}
