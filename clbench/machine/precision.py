"""Numeric precision as one object: the engine's loop mentions neither autocast nor a scaler."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from clbench.errors import IncompatibleError

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """fp32, or mixed precision by autocast: bf16, or fp16 with a gradient scaler.

    Parameters, optimizer state and losses stay float32; the model's matrix products and convolutions run in the named
    type. fp16's scaler asks the device once a step whether a gradient overflowed; bf16 needs no scaler.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        self._dtype = DTYPES[name]
        if (
            name == "bf16"
            and device.type == "cuda"
            and not torch.cuda.is_bf16_supported(including_emulation=False)
        ):
            raise IncompatibleError(
                f"{torch.cuda.get_device_name(device)} has no bf16; use precision fp16 or fp32."
            )
        self._scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Wrap a forward pass."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss into `.grad`, scaled where the precision scales."""
        self.scale(loss).backward()

    def scale(self, value: Tensor) -> Tensor:
        """Return the factor by which `backward` multiplies losses, and therefore gradients."""
        return value if self._scaler is None else self._scaler.scale(value)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Gradients to their true scale, once per update."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Make one optimizer update; fp16 leaves it out when a gradient overflowed."""
        if self._scaler is None:
            optimizer.step()
        else:
            self._scaler.step(optimizer)
            self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {} if self._scaler is None else self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._scaler is not None:
            self._scaler.load_state_dict(state)
