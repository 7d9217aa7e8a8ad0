"""Weights moved for a moment: gradients at another point than where the weights are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


@torch.no_grad()
def ascent(gradients: Sequence[Tensor | None], rho: float) -> list[Tensor | None]:
    """ε̂ = ρ g / ‖g‖₂, the step of length ρ up a gradient, with one norm over all tensors together.

    What multiplies all gradients alike, such as a precision's scale, changes nothing. Entries that are not finite
    count as 0, and so does a gradient of norm 0.

    Args:
        gradients: g, in any shapes; None where a parameter has none.
        rho: ρ, the length of the step.

    Returns:
        ε̂, in the same shapes; None where there is no gradient.
    """
    g = [tensor.nan_to_num(0.0, 0.0, 0.0) for tensor in gradients if tensor is not None]
    if not g:
        return list(gradients)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(g)))
    step = iter(torch._foreach_mul(g, torch.where(norm > 0, rho / norm, 0.0)))
    return [None if tensor is None else next(step) for tensor in gradients]


@contextlib.contextmanager
def perturbed(parameters: Sequence[Tensor], by: Sequence[Tensor | None]) -> Iterator[None]:
    """Move the parameters by `by`, row for row, and put them back afterwards, to the bit, from copies.

    Args:
        parameters: θ, of any shapes; written in place.
        by: ε, in the same shapes; None leaves a parameter where it is.
    """
    moved = [(p, e) for p, e in zip(parameters, by, strict=True) if e is not None]
    theta = [p for p, _ in moved]
    with torch.no_grad():
        kept = [p.clone() for p in theta]
        if theta:
            torch._foreach_add_(theta, [e for _, e in moved])
    try:
        yield
    finally:
        with torch.no_grad():
            if theta:
                torch._foreach_copy_(theta, kept)
