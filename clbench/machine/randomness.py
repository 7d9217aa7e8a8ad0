"""Where random numbers come from: a seed for every consumer, and torch's global generator lent to a run."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


def derive_seed(seed: int, consumer: str) -> int:
    """Return a 63-bit seed for one consumer of randomness; equal on every machine."""
    digest = hashlib.sha256(f"clbench {seed} {consumer}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@contextlib.contextmanager
def global_rng(device: torch.device, seed: int, state: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Lend torch's global generator, which dropout draws from, to the run inside; it is the caller's again afterwards.

    Args:
        device: the run's; its generator is lent besides the CPU's.
        seed: where it begins, unless `state`, of `global_rng_state`, says where to go on; a GPU begins there, too,
            where the state is that of a run on the CPU.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:  # torch.manual_seed would seed the caller's other devices, too
            torch.cuda.default_generators[device.index].manual_seed(seed)
        if state is not None:
            set_global_rng_state(device, state)
        yield


def global_rng_state(device: torch.device) -> dict[str, Tensor]:
    """Return where the global generators stand now."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_global_rng_state(device: torch.device, state: Mapping[str, Tensor]) -> None:
    """Put the global generators where they stood when `global_rng_state` was asked; a GPU's stays, if a run on the CPU
    was asked."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def go_on(generator: torch.Generator, state: Tensor, seed: int) -> None:
    """Put a generator where another one stood; if that was of another kind of device, begin at a seed, as the numbers
    that such a state leads to cannot be drawn here."""
    if state.numel() == generator.get_state().numel():
        generator.set_state(state.cpu())
    else:
        generator.manual_seed(seed)
