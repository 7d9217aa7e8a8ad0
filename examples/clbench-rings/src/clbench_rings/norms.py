"""Distances between sets of weights."""

from collections.abc import Mapping

import torch
from torch import Tensor


def squared_distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """Σ_j (a_j − b_j)² over all entries of all tensors, a scalar."""
    return torch.stack([((a[name] - b[name]) ** 2).sum() for name in b]).sum()
