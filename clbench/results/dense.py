"""What a curve is as dense arrays: its ticks, and the accuracy matrix."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clbench.results.columns import Floats, Ints, row_sums

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Ticks:
    """The per-iteration evaluations, dense: K ticks, S streams; NaN accuracy and zero counts where unseen.

    Where only `total` of the `of` examples of a tick were evaluated, `accuracy` is an estimate, and what it would be
    over all of them lies between `lowest` and `highest`.
    """

    steps: Ints  # (K,)
    examples: Ints  # (K,)
    experience: Ints  # (K,)
    accuracy: Floats  # (K, S)
    correct: Ints  # (K, S)
    total: Ints  # (K, S)
    of: Ints  # (K, S)
    lowest: Floats  # (K, S)
    highest: Floats  # (K, S)

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        where = f", steps {self.steps[0]}–{self.steps[-1]}" if len(self) else ""
        return f"<Ticks: {len(self)} of {self.accuracy.shape[1]} streams{where}>"

    @cached_property
    def complete(self) -> bool:
        """Whether every tick evaluated all that it was to."""
        return bool((self.total == self.of).all())

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """(K, S) which streams each tick has evaluated."""
        return self.total > 0

    @cached_property
    def known(self) -> Floats:
        """(K, S) the accuracies, 0 where unseen."""
        return np.where(self.seen, self.accuracy, 0.0)

    @cached_property
    def seen_accuracy(self) -> Floats:
        """(K,) the mean accuracy over the streams that each tick has seen."""
        mean: Floats = np.where(self.seen, self.accuracy, 0.0).sum(axis=1) / row_sums(
            self.seen
        )  # of one at least
        mean.flags.writeable = False
        return mean

    def of_experience(self, experience: int) -> slice:
        """Return which ticks an experience has."""
        start, stop = self.experience.searchsorted((experience, experience + 1))
        return slice(int(start), int(stop))


class Matrix(NamedTuple):
    """The accuracy matrix, from full test sets; NaN where nothing was evaluated.

    `R[i, j]` is the accuracy on stream j after experience i, `b[j]` that before training, `totals[j]` the
    number of test examples of stream j.
    """

    R: Floats  # (T, S)
    b: Floats  # (S,)
    totals: Ints  # (S,)

    def __repr__(self) -> str:
        return f"<Matrix: {self.R.shape[0]} experiences × {self.R.shape[1]} streams>"

    def plot(self, ax: Axes | None = None, names: Sequence[str] = ()) -> Axes:
        """Draw R as a heat map, in percent.

        Args:
            ax: the axes to draw into; new ones of `pyplot` if None.
            names: of the experiences, such as their domains.

        Returns:
            The axes; `.figure` is their figure.
        """
        axes: Axes = pkgutil.resolve_name("clbench.reports.display.curves:plot_matrix")(self, ax, names)
        return axes


class Losses(Matrix):
    """A `Matrix` of losses in nats, which is drawn as such."""

    __slots__ = ()
