"""Which documents of a retrieval stream were mapped to themselves, look by look: side tables of a curve.

Imports no torch. Shapes: K looks, N documents.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clbench.results.columns import INDEXED, Arrays, Ints, typed


class Indexed:
    """The tables `indexed` and `indexed_step`, empty in a run that did not look."""

    def __init__(self) -> None:
        super().__init__()
        self._indexed: Arrays = {"indexed": np.empty((0, 0), "|u1"), "indexed_step": np.empty(0, "<i8")}

    def append_indexed(self, step: int, indexed: ArrayLike) -> None:
        """Add which documents are mapped to themselves after so many steps: (N,) bool, all documents of the stream.

        Raises:
            ValueError: other than so many, or a step that is not after the last one.
        """
        self._append_packed(step, np.packbits(typed("indexed", indexed, "|b1")))

    def _append_packed(self, step: int, row: NDArray[np.uint8]) -> None:
        rows, steps = self._indexed["indexed"], self._indexed["indexed_step"]
        if len(rows) and (row.shape != rows.shape[1:] or step <= steps[-1]):
            raise ValueError(
                f"A look at step {step} with {row.size} bytes cannot follow one at {steps[-1]} with {rows.shape[1]}."
            )
        self._indexed["indexed"] = np.concatenate([rows.reshape(-1, len(row)), row[None]])
        self._indexed["indexed_step"] = np.append(steps, np.int64(step))

    @property
    def indexed(self) -> NDArray[np.bool_]:
        """(K, N) which documents were mapped to themselves at each of K looks; N is a multiple of 8, filled with
        false."""
        return np.unpackbits(self._indexed["indexed"], axis=1).astype(bool)

    @property
    def indexed_step(self) -> Ints:
        """(K,) the steps of these looks."""
        return self._indexed["indexed_step"]

    def _take_looks(self, columns: Mapping[str, ArrayLike]) -> None:
        looks, steps = (np.asarray(columns.get(name, ())) for name in INDEXED)
        if len(looks) and (looks.dtype != np.uint8 or (np.diff(steps) <= 0).any()):
            raise ValueError(
                f"Looks at documents are bytes, at rising steps; {looks.dtype}, {steps} was given."
            )
        if len(looks):
            self._indexed = {"indexed": looks, "indexed_step": typed("indexed_step", steps, "<i8")}
