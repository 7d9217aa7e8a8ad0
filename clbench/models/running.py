"""Inputs that are standardised by what has come so far, as nobody knows a stream's mean before it has come."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Running(nn.Module):
    """(B, …) → (B, …): less the mean of all examples of the stream so far, over their standard deviation.

    A feature that has not varied yet is 0. Mean and variance (that of the examples, not an estimate) are updated batch by
    batch, as River's StandardScaler and Chan, Golub, LeVeque (1979) do it, in float64. They move by `see` alone: replayed
    examples and predictions leave them as they are.

    Args:
        shape: of one input.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(shape, dtype=torch.float64))  # Σ (x − mean)²

    @torch.no_grad()
    def see(self, x: Tensor) -> None:
        """Count examples (B, …) of the stream in."""
        new, n = x.double(), len(x)
        mean = new.mean(0)
        total, apart = self.count + n, mean - self.mean
        self.squares += (new - mean).square().sum(0) + apart.square() * (self.count * n / total)
        self.mean += apart * (n / total)
        self.count.copy_(total)

    def forward(self, x: Tensor) -> Tensor:
        std = (self.squares / self.count.clamp(min=1)).sqrt()
        scaled = (x - self.mean) / torch.where(std > 0, std, torch.inf)
        return scaled.to(x.dtype)
