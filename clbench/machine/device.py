"""Which device a run is on, what its memory needs, and what computes there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

import torch
from torch import Tensor

from clbench.errors import ConfigError

_NO_MEMORY = ("allocate memory", "out of memory", "Storage size calculation overflowed")
"""What torch says where there is too little memory; for a CPU, in a plain RuntimeError."""


@contextlib.contextmanager
def enough_memory(who: str) -> Iterator[None]:
    """Say who asks for more memory than there is.

    Raises:
        ConfigError: what is done inside does not fit.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(said in str(error) for said in _NO_MEMORY):
            raise
        first = str(error).partition("\n")[0]
        raise ConfigError(f"{who} needs more memory than there is; give smaller sizes ({first}).") from error


def pick_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is CUDA if there is one.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"There is no device '{name}'; devices are auto, cpu, cuda, cuda:0 ….") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"clbench runs on cpu and cuda; device '{name}' was given.")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                f"Device '{name}' was asked for, but torch finds no CUDA here; use --device cpu."
            )
        if (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(
                f"Device '{name}' was asked for; there are {torch.cuda.device_count()} CUDA devices."
            )
        return torch.device("cuda", device.index or 0)
    return device


@contextlib.contextmanager
def present(device: torch.device) -> Iterator[None]:
    """Make a GPU the one that work goes to where none is named; the caller's is it again afterwards."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.current_device()
    torch.cuda.set_device(device)
    try:
        yield
    finally:
        torch.cuda.set_device(before)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device, without waiting for what is queued there: by way of pinned memory."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def gpus(name: str) -> list[str]:
    """Return the GPUs of that name: one, or for `cuda` and `auto` all that this process sees.

    Raises:
        ConfigError: there is none.
    """
    device = pick_device(name)
    if device.type != "cuda":
        raise ConfigError(
            f"--per-gpu is of runs that share a GPU, and device '{name}' is the CPU here; --workers says how many run "
            "side by side on it."
        )
    if name in ("auto", "cuda"):
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [str(device)]


def limit_memory(name: str, share: float) -> None:
    """Limit this process to a share of that GPU's memory, for several on one GPU."""
    torch.cuda.set_per_process_memory_fraction(share, pick_device(name))


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take of a GPU."""
    free, whole = torch.cuda.mem_get_info(device)
    mine = torch.cuda.get_per_process_memory_fraction(device) * whole - torch.cuda.memory_reserved(device)
    return int(min(free, mine))


def keep_freed_memory() -> None:
    """Keep what tensors on the CPU free with this process, up to 1 GiB, where the C library is glibc.

    By default glibc hands large blocks back to the system at once and asks for them again, and the system clears every
    page before it gives it: 7 to 27 % of a slim ResNet-18's time in a fresh process. Environment variables that
    say how glibc should do it (MALLOC_…_, GLIBC_TUNABLES) are left their say.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library has no such setting
        return
    for parameter, size in ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 1 << 30)):
        mallopt(parameter, size)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""glibc's names (malloc.h) for the free memory at the heap's end, and the size of a block, that go back at once."""


def onednn_on_x86() -> bool:
    """Whether torch has oneDNN here, on a processor that its own kernels are written for."""
    return platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()
