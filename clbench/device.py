"""Which device a run is on."""

from __future__ import annotations

import torch

from clbench.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA if there is one.

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
