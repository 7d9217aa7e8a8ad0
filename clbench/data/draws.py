"""Seeded draws that are equal on every machine.

They come from the raw 64-bit output of PCG64, which NumPy guarantees not to change (NEP 19), seeded by a hash of the
seed and of what is drawn: a class order is the same with and without a validation split.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def bits(n: int, seed: int, purpose: str) -> npt.NDArray[np.uint64]:
    """(n,) uniform uint64."""
    digest = hashlib.sha256(f"clbench {seed} {purpose}".encode()).digest()
    drawn: npt.NDArray[np.uint64] = np.random.PCG64(int.from_bytes(digest[:16], "little")).random_raw(n)
    return drawn


def permutation(n: int, seed: int, purpose: str) -> Ints:
    """(n,) int64, a uniform permutation of 0 … n−1: what sorts n draws."""
    return np.argsort(bits(n, seed, purpose), kind="stable").astype(np.int64)
