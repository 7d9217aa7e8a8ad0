"""Texts as rows of bytes, so that data sets hold them as they hold images: UTF-8, and zeros after the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def pack(texts: Sequence[str], width: int) -> Tensor:
    """Texts → (N, width) uint8, each cut to the last whole character that fits."""
    rows = np.zeros((len(texts), width), dtype=np.uint8)
    for row, text in zip(rows, texts, strict=True):
        data = text.encode()[:width].decode(errors="ignore").encode()
        row[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    return torch.from_numpy(rows)


def rows_of(x: Tensor) -> list[bytes]:
    """(N, L) uint8 → the bytes of each text, without the zeros after its end."""
    data = x.cpu().contiguous().numpy()
    return [row.tobytes().rstrip(b"\0") for row in data]
