"""Numbers that lie in files, read when they are asked for."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Mapped(NamedTuple):
    """Numbers in a file, one after the other: of which type and shape, and from which byte on."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @staticmethod
    def rows(path: str, start: int, stop: int) -> Mapped:
        """Rows `start` to `stop` of a .npy file."""
        whole = np.load(path, mmap_mode="r", allow_pickle=False)
        first = whole.offset + start * whole.strides[0]
        return Mapped(path, whole.dtype.str, (stop - start, *whole.shape[1:]), first)

    def open(self) -> npt.NDArray[Any]:
        """Return them, copy-on-write, since torch wants memory that it may write to."""
        return np.memmap(self.path, self.dtype, "c", self.offset, self.shape)
