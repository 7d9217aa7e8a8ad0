"""Inputs that are standardised by what has come so far, as nobody knows a stream's mean before it has come."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Running(nn.Module):
    """(B, …) → (B, …): less the mean of all examples of the stream so far, over their standard deviation.

    A feature that has not varied yet is 0. Mean and variance (that of the examples, not an estimate) are updated batch
    by batch, as River's StandardScaler and Chan, Golub, LeVeque (1979) do it, in float64. They move by `see` alone:
    replayed examples and predictions leave them as they are.

    Args:
        shape: of one input.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor
    inverse: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(shape, dtype=torch.float64))  # Σ (x − mean)²
        self.register_buffer("inverse", torch.zeros(shape, dtype=torch.float64))  # 1 / std, 0 where that is 0

    @torch.no_grad()
    def see(self, x: Tensor) -> None:
        """Count examples (B, …) of the stream in."""
        new, n = x.double(), len(x)
        mean = new.mean(0)
        before, apart = self.count.clone(), mean - self.mean
        self.count.add_(n)
        self.squares.add_((new - mean).square_().sum(0)).add_(apart.square() * (before * n / self.count))
        self.mean.add_(apart * (n / self.count))
        inverse = (self.squares / self.count).rsqrt_()
        self.inverse.copy_(inverse.masked_fill_(inverse.isinf(), 0.0))

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) * self.inverse).to(x.dtype)
