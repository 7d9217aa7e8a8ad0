"""Random Fourier features."""

import math

import torch
from torch import Tensor, nn

from clbench import Classifier, register_model
from clbench.ranges import Count, Positive


class RandomFourier(nn.Module):
    """√(2 / D) cos(x W + b), with W and b drawn once and never trained: (B, …) → (B, D)."""

    def __init__(self, inputs: int, size: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("weight", scale * torch.randn(inputs, size))
        self.register_buffer("bias", 2 * math.pi * torch.rand(size))

    def forward(self, x: Tensor) -> Tensor:
        return math.sqrt(2 / len(self.bias)) * torch.cos(x.flatten(1) @ self.weight + self.bias)


@register_model("fourier")
def fourier(
    input_shape: tuple[int, ...], num_classes: int, size: Count = 256, scale: Positive = 1.0
) -> Classifier:
    """A linear classifier on random Fourier features (Rahimi & Recht, 2007).

    Args:
        size: D, how many features.
        scale: standard deviation of the frequencies; large for inputs that vary over short distances.
    """
    return Classifier(RandomFourier(math.prod(input_shape), size, scale), size, num_classes)
