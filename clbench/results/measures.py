"""What of a curve is drawn and told: accuracy, or of language the loss. Drawers ask it for unit and direction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clbench.results.columns import Floats, divide
from clbench.results.dense import Matrix

if TYPE_CHECKING:
    from clbench.results.curve import Curve


@dataclass(frozen=True)
class Measure:
    """What is drawn and told of a run's evaluations.

    Attributes:
        name: in words. unit: of its values; none where it is a share, which is told in percent.
        average: the metric that is its mean at the end. anytime: in words, its mean over ticks.
        rises: whether more of it is better.
    """

    name: str
    unit: str
    average: str
    anytime: str
    rises: bool

    @property
    def share(self) -> bool:
        """Whether it is told in percent, and drawn from 0 to 1."""
        return not self.unit

    @property
    def label(self) -> str:
        """What an axis is called: `accuracy`, whose numbers have their unit with them, or `loss (nats per token)`."""
        return self.name if self.share else f"{self.name} ({self.unit})"

    def told(self, value: float) -> str:
        """Return a value as progress is told: `87.1`, or `1.234`."""
        return f"{100 * value:.1f}" if self.share else f"{value:.3f}"

    def short(self, value: float) -> str:
        """Return a value as a cell of a matrix has it: `87`, or `1.23`."""
        return f"{100 * value:.0f}" if self.share else f"{value:.2f}"

    def clipped(self, values: Floats) -> Floats:
        """Return the ends of intervals, within what there can be."""
        return values.clip(0, 1 if self.share else None)

    # --- of a curve ---

    def rows(self, curve: Curve) -> Floats:
        """(rows,) its value in each row."""
        return divide(curve.correct if self.share else curve.loss, curve.total)

    def ticks(self, curve: Curve) -> Floats:
        """(K, S) its value on each stream at each tick, NaN where the tick has not seen the stream."""
        ticks = curve.ticks()
        if self.share:
            return ticks.accuracy
        found, rows = np.full(ticks.total.shape, np.nan), np.flatnonzero(~curve.full)
        found[ticks.steps.searchsorted(curve.step[rows]), curve.evaluated[rows]] = self.rows(curve)[rows]
        return found

    def seen(self, curve: Curve) -> Floats:
        """(K,) its mean over the streams that each tick has seen."""
        return curve.ticks().seen_accuracy if self.share else mean_seen(self.ticks(curve))

    def matrix(self, curve: Curve) -> Matrix:
        """Return its value on every full test set after each experience, and before the first."""
        return curve.matrix() if self.share else curve.loss_matrix()

    # --- in colours ---

    def span(self, matrices: Iterable[Floats]) -> tuple[float, float]:
        """Return its smallest and its largest value: of a share 0 and 1, else those that there are."""
        found = [R[np.isfinite(R)] for R in matrices if not self.share]
        values = np.concatenate([np.zeros(0), *found])
        return (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)

    def shades(self, R: Floats, span: tuple[float, float]) -> Floats:
        """Return how dark each value is, 1 the best; NaN where there is none."""
        low, high = span
        shade: Floats = (R - low if self.rises else high - R) / ((high - low) or 1.0)
        return shade


ACCURACY = Measure("accuracy", "", "average_accuracy", "AAA", rises=True)
LOSS = Measure("loss", "nats per token", "average_loss", "the anytime loss", rises=False)


def measure_of(curve: Curve) -> Measure:
    """Return what is drawn and told of a curve."""
    return LOSS if curve.of_language else ACCURACY


def measured(curve: Curve) -> Floats:
    """(rows,) The value of each row of a curve by its measure."""
    return measure_of(curve).rows(curve)


def mean_seen(values: Floats) -> Floats:
    """(K,) the means of (K, S) over what is there, of one at least."""
    there = ~np.isnan(values)
    mean: Floats = np.where(there, values, 0.0).sum(axis=1) / there.sum(axis=1)
    return mean
