"""What a prequential run predicted of every example before it learned from it: side tables of its curve.

Imports no torch. Shapes: N examples, in the order of the stream.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from clbench.results.columns import PREDICTED, Arrays, Ints, typed


class Predicted:
    """The tables `predicted`, `label` and `predicted_step`, empty in a run that predicts nothing beforehand."""

    def __init__(self) -> None:
        self._predicted: Arrays = {name: np.empty(0, dtype) for name, dtype in PREDICTED.items()}

    def append_predicted(self, predicted: ArrayLike, label: ArrayLike, step: ArrayLike) -> None:
        """Add examples of the stream.

        Args:
            predicted, label: (n,) the class that was predicted before the example was learned, and its own.
            step: (n,) steps done when it was predicted, or one number for all.

        Raises:
            ValueError: other than so many whole numbers from 0, or steps that decrease.
        """
        columns = np.broadcast_arrays(*map(np.atleast_1d, (predicted, label, step)))
        new = {name: typed(name, one, PREDICTED[name]) for name, one in zip(PREDICTED, columns, strict=True)}
        for name, values in new.items():
            if values.ndim != 1 or values.min(initial=0) < 0:
                raise ValueError(f"The table '{name}' holds whole numbers from 0, one for each example.")
        steps = np.concatenate([self.predicted_step[-1:], new["predicted_step"]])
        if (np.diff(steps) < 0).any():
            raise ValueError("The table 'predicted_step' decreases; examples are predicted in order.")
        self._predicted = {name: np.concatenate([self._predicted[name], new[name]]) for name in PREDICTED}

    @property
    def predicted(self) -> Ints:
        """(N,) the class that was predicted of each example, by the model that had learned from those before."""
        return self._predicted["predicted"]

    @property
    def label(self) -> Ints:
        """(N,) its own class."""
        return self._predicted["label"]

    @property
    def predicted_step(self) -> Ints:
        """(N,) steps done when it was predicted; rows with one number were one batch."""
        return self._predicted["predicted_step"]

    def _predictions(self, last: int | None = None) -> Arrays:
        """Return the tables of what was predicted after `last` steps at most; nothing where there are none."""
        kept = (
            len(self.predicted) if last is None else int(np.searchsorted(self.predicted_step, last, "right"))
        )
        return {name: table[:kept] for name, table in self._predicted.items()} if kept else {}

    def _take_predictions(self, columns: Mapping[str, ArrayLike]) -> None:
        if "predicted" in columns:
            self.append_predicted(*(columns[name] for name in PREDICTED))
