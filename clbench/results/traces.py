"""What runs are drawn by, as numbers: accuracy, or loss, over the progress of the stream, with intervals. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from clbench.results.columns import NETWORK, Ints
from clbench.results.curve import Curve, Floats
from clbench.results.measures import ACCURACY, Measure, measure_of
from clbench.results.statistics import mean_and_half


class Line(NamedTuple):
    """Progress (P,), mean (P,), and half the width of the 95 % interval (P,), None for too few runs."""

    x: Floats
    mean: Floats
    half: Floats | None = None


def progress(curve: Curve) -> Floats:
    """(K,) Where in the stream each tick is: e at the beginning of experience e, e + 1 at its end.

    Strategies take different numbers of steps (joint training sees more data in every experience), so steps
    do not align; progress does. A run cut short seems to end its last experience.
    """
    ticks, last = curve.ticks(), ends(curve)
    begin, end = last[ticks.experience], last[ticks.experience + 1]
    fraction: Floats = (ticks.steps - begin) / np.maximum(end - begin, 1)
    return ticks.experience + fraction


def ends(curve: Curve) -> Ints:
    """(E + 1,) The last step before training, then of each experience."""
    last = np.zeros(curve.experiences + 1, np.int64)
    np.maximum.at(last, curve.experience + 1, curve.step)
    return np.maximum.accumulate(last)


@dataclass(frozen=True)
class Trace:
    """What is drawn of a run: a small part of its curve, so that those of thousands fit into memory.

    Attributes:
        experiences: that were begun.
        x: (K,) progress of its ticks. one, seen: (K,) what is drawn of one test stream, and the mean over those seen
            so far.
        matrix: (T, S) the same of full test sets; None without full evaluations.
        network: (T, 4) what was measured of the network at the ends of experiences; None if nothing was.
        measure: what is drawn: accuracy, or of language the loss.
    """

    experiences: int
    x: Floats
    one: Floats
    seen: Floats
    matrix: Floats | None
    network: Floats | None
    measure: Measure = ACCURACY

    def __repr__(self) -> str:
        return f"<Trace: {len(self.x)} ticks of {self.experiences} experiences>"

    @staticmethod
    def of(curve: Curve, evaluated: int = 0) -> Trace:
        """Return the trace of a curve; `one` is its test stream `evaluated`, from 0."""
        measure = measure_of(curve)
        values = measure.ticks(curve)
        known = evaluated < values.shape[1]
        return Trace(
            curve.experiences,
            progress(curve),
            values[:, evaluated].copy() if known else np.full(len(values), np.nan),
            measure.seen(curve),
            measure.matrix(curve).R if curve.full.any() else None,
            curve.network[-curve.experiences :] if len(curve.network) else None,
            measure,
        )


@dataclass(frozen=True)
class Mean:
    """What is drawn of the runs of one row: means, and half the widths of their intervals.

    Attributes:
        runs: how many. experiences: of the longest. ticks: whether any was evaluated between the ends of experiences.
        one, seen: lines, as of `mean_line`.
        matrices, networks: as of `Trace`, of each run; empty if one has none.
        measure: what is drawn, as of the first of them.
    """

    runs: int
    experiences: int
    ticks: bool
    one: Line | None
    seen: Line | None
    matrices: tuple[Floats, ...] = ()
    networks: tuple[Floats, ...] = ()
    measure: Measure = ACCURACY

    def __repr__(self) -> str:
        return f"<Mean: {self.runs} runs of {self.experiences} experiences>"

    @staticmethod
    def of(traces: Sequence[Trace]) -> Mean:
        matrices = tuple(trace.matrix for trace in traces if trace.matrix is not None)
        networks = tuple(trace.network for trace in traces if trace.network is not None)
        return Mean(
            len(traces),
            max((trace.experiences for trace in traces), default=0),
            any(len(trace.x) for trace in traces),
            mean_line([(trace.x, trace.one) for trace in traces]),
            mean_line([(trace.x, trace.seen) for trace in traces]),
            matrices if len(matrices) == len(traces) else (),
            networks if len(networks) == len(traces) else (),
            traces[0].measure if traces else ACCURACY,
        )

    @property
    def matrix(self) -> Floats:
        """(T, S) the mean matrix; NaN where a run was not evaluated."""
        mean: Floats = np.mean(self.matrices, axis=0)
        return mean

    def panels(self) -> list[tuple[Floats, Floats | None]]:
        """(T,) each experience at its own end, and each column of `NETWORK`, with their intervals."""
        columns = [[network[:, i] for network in self.networks] for i in range(len(NETWORK))]
        return [mean_and_half(values) for values in ([R.diagonal() for R in self.matrices], *columns)]


def measured(means: Iterable[Mean]) -> Measure:
    """Return what is drawn of several rows."""
    return next((of.measure for of in means), ACCURACY)


BEGUN = 0.1
"""Of the first experience: what a loss falls by before would hide all that comes later."""


def range_of(lines: Iterable[Line]) -> tuple[float, float]:
    """Return the lowest and the highest that an axis shows that may begin anywhere: of means and their intervals, from
    `BEGUN` on where there is something."""
    low, high = np.inf, -np.inf
    for line in lines:
        kept = line.x >= BEGUN if (line.x >= BEGUN).any() else slice(None)
        half = 0.0 if line.half is None else np.nan_to_num(line.half)
        low = min(low, float(np.nanmin((line.mean - half)[kept])))
        high = max(high, float(np.nanmax((line.mean + half)[kept])))
    if low > high:
        return 0.0, 1.0
    room = 0.05 * (high - low or abs(high) or 1.0)
    return low - room, high + room


def mean_line(runs: Sequence[tuple[Floats, Floats]]) -> Line | None:
    """Return the mean over runs of one row, each given by its progress and what is drawn of it, NaN where that is
    nothing.

    The grid has the ticks of all runs, between which each run is interpolated linearly: runs with the same
    steps are not resampled, so that no dip gets lost. It spans what all runs have. None if a run has nothing
    to draw.
    """
    there = [(x[known], y[known]) for x, y in runs for known in [~np.isnan(y)]]
    if not there or not all(len(x) for x, _ in there):
        return None
    grid = np.unique(np.concatenate([x for x, _ in there]).round(9))
    grid = grid[(grid >= max(x[0] for x, _ in there) - 1e-9) & (grid <= min(x[-1] for x, _ in there) + 1e-9)]
    if not len(grid):
        return None
    mean, half = mean_and_half([np.interp(grid, x, y) for x, y in there])
    return Line(grid, mean, half)
