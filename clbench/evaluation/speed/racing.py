"""Racing: evaluate a small fixed prefix of each stream, and more only while this tick can still change an extremum.

Two kinds of extrema are kept per stream j, of N examples, as counts of right ones:

    lowest_j    = min { K_j(t) : t after the experience that taught j }        min-ACC, WC-ACC
    drop_j(Δ)   = max { K_j(m) − K_j(n) : n−Δ < m < n }                        WF^Δ

When n < N examples of a tick were evaluated, bounds L ≤ K ≤ U are known (`results.limits`): certain ones, or close
ones with a stated probability of error. A tick needs no more examples once L ≥ lowest_j, and U(m) − L(n) ≤
drop_j(Δ) for every m of the window. A drop begins at a peak that nobody knew to be one; so the ticks of the widest
window can be asked again, by the weights they had (`Look`), and are then evaluated whole.

Why an image order that is drawn once may serve for all ticks: training does not know it, so to each snapshot of the
weights it is an independent random order. Whatever a look decides, one bound fails with probability `error` at most,
and the probabilities of all bounds of a run add up to what the configuration allows. Imports no torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, NamedTuple

from clbench.results.limits import lower_limits

GROWTH = 1.5
"""From one look to the next, with bounds that may fail: fewer looks share the error, more looks stop sooner."""


class Request(NamedTuple):
    """Examples [start, stop) of a stream, by its place in the test set, at the tick so many ticks ago."""

    age: int
    stream: int
    start: int
    stop: int


Look = Callable[[Sequence[Request]], Sequence[tuple[int, float]]]
"""Requests → right ones and summed loss of each."""


@dataclass
class Row:
    """What is known of a stream at a tick: correct of the first `total`, their summed loss, and bounds."""

    step: int
    correct: int = 0
    total: int = 0
    loss: float = 0.0
    low: int = 0
    high: int = 0


@dataclass
class Lane:
    """A stream: its extrema so far and its last ticks, newest first."""

    stream: int
    size: int
    experience: int  # in which it was first seen
    windows: tuple[int, ...]
    lowest: int | None = None
    drops: dict[int, int] = field(default_factory=dict)
    rows: deque[Row] = field(default_factory=deque)
    before: tuple[int | None, dict[int, int]] = (None, {})  # the extrema without the last tick

    def __post_init__(self) -> None:
        self.drops = self.drops or dict.fromkeys(self.windows, 0)
        self.rows = deque(self.rows, maxlen=max(self.windows, default=1))

    def begin(self, step: int) -> None:
        """A tick begins; one of the same step as the last takes its place."""
        if self.rows and self.rows[0].step == step:
            self.rows.popleft()
            self.lowest, self.drops = self.before
        self.before = self.lowest, dict(self.drops)
        self.rows.appendleft(Row(step))


def looks(size: int, prefix: int) -> list[int]:
    """After how many of `size` examples a decision is taken, where bounds may fail: fixed before the run."""
    at = [min(prefix, size)]
    while at[-1] < size:
        at.append(min(size, max(at[-1] + 1, round(GROWTH * at[-1]))))
    return at


class Race:
    """All streams' extrema, kept exact.

    Args:
        prefix: examples of each stream that every tick evaluates.
        windows: widths Δ, in ticks, of the drops that are kept; none keeps minima only.
        error: probability that one bound fails; 0 is certain.
    """

    def __init__(self, prefix: int, windows: Sequence[int] = (), error: float = 0.0) -> None:
        self.prefix, self.windows, self.error = prefix, tuple(sorted(windows)), error
        self.lanes: list[Lane] = []

    @property
    def reach(self) -> int:
        """How many ticks may be asked for, the present one included."""
        return max(self.windows, default=1)

    def knows(self, step: int) -> bool:
        """Whether the last tick was of that step."""
        return any(lane.rows and lane.rows[0].step == step for lane in self.lanes)

    def see(self, streams: Sequence[int], sizes: Sequence[int], experience: int) -> None:
        """The streams of the test set from now on; those that are new are learned in `experience`."""
        known = {lane.stream: lane for lane in self.lanes}
        self.lanes = [
            known.get(stream) or Lane(stream, int(size), experience, self.windows)
            for stream, size in zip(streams, sizes, strict=True)
        ]

    def tick(
        self, step: int, experience: int, whole: bool, look: Look
    ) -> tuple[list[Row], list[tuple[int, Row]]]:
        """Evaluate as much as it takes; a tick of the same step as the last takes its place.

        Args:
            whole: all examples, as metrics of experience ends are wanted.

        Returns:
            The rows of this tick, in the streams' order; and of earlier ones that were asked again, with the stream.
        """
        for lane in self.lanes:
            lane.begin(step)
        again: dict[tuple[int, int], Row] = {}
        requests = [
            Request(0, place, 0, lane.size if whole else min(self.prefix, lane.size))
            for place, lane in enumerate(self.lanes)
        ]
        while requests:
            for request, (right, loss) in zip(requests, look(requests), strict=True):
                lane = self.lanes[request.stream]
                row = lane.rows[request.age]
                row.correct, row.total, row.loss = row.correct + right, request.stop, row.loss + loss
                row.low, row.high = self._bounds(lane, row)
                if request.age:
                    again[lane.stream, row.step] = row
            requests = [
                more
                for place, lane in enumerate(self.lanes)
                if (more := self._undecided(place, lane, experience)) is not None
            ]
        return [lane.rows[0] for lane in self.lanes], [(stream, row) for (stream, _), row in again.items()]

    def _undecided(self, place: int, lane: Lane, experience: int) -> Request | None:
        """Return what must be evaluated before this tick, or one before it, is known to change no extremum of a
        stream."""
        now = lane.rows[0]
        whole = now.total == lane.size
        if experience > lane.experience:
            if whole:
                lane.lowest = now.correct if lane.lowest is None else min(lane.lowest, now.correct)
            elif lane.lowest is None:
                return Request(0, place, now.total, lane.size)
            elif now.low < lane.lowest:
                return self._more(place, lane, lane.lowest - now.low)
        highs = [row.high for row in lane.rows]
        for window in self.windows:
            if len(highs) < 2:
                break
            age = max(range(1, min(window, len(highs))), key=highs.__getitem__)
            excess = highs[age] - now.low - lane.drops[window]
            if excess <= 0:
                continue
            if not whole:
                return self._more(place, lane, excess)
            if lane.rows[age].total < lane.size:
                return Request(age, place, lane.rows[age].total, lane.size)
            # The highest peak and this tick are both known: no other start drops deeper.
            lane.drops[window] += excess
        return None

    def _more(self, place: int, lane: Lane, lacking: int) -> Request:
        """Return the next examples of this tick, when its lower bound must rise by `lacking`."""
        seen = lane.rows[0].total
        if self.error:
            stop = next(at for at in looks(lane.size, self.prefix) if at > seen)
        else:  # each right one raises it by one, so fewer cannot do
            stop = min(lane.size, seen + max(lacking, self.prefix))
        return Request(0, place, seen, stop)

    def _bounds(self, lane: Lane, row: Row) -> tuple[int, int]:
        """Fewest and most right ones among all examples of the stream."""
        wrong = row.total - row.correct
        if not self.error or row.total == lane.size:
            return row.correct, lane.size - wrong
        limits = lower_limits(row.total, lane.size, self.error)
        return int(limits[row.correct]), lane.size - int(limits[wrong])

    # --- checkpoints ---

    def state_dict(self) -> dict[str, Any]:
        return {
            "lanes": [
                {
                    "stream": lane.stream,
                    "size": lane.size,
                    "experience": lane.experience,
                    "lowest": lane.lowest,
                    "drops": [[window, drop] for window, drop in lane.drops.items()],
                    "rows": [list(astuple(row)) for row in lane.rows],
                    "before": [lane.before[0], [[window, drop] for window, drop in lane.before[1].items()]],
                }
                for lane in self.lanes
            ]
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.lanes = [
            Lane(
                lane["stream"],
                lane["size"],
                lane["experience"],
                self.windows,
                lane["lowest"],
                _drops(lane["drops"]),
                deque(Row(*row) for row in lane["rows"]),
                (lane["before"][0], _drops(lane["before"][1])),
            )
            for lane in state["lanes"]
        ]


def _drops(saved: Sequence[Sequence[int]]) -> dict[int, int]:
    return {int(window): int(drop) for window, drop in saved}


def error_of_a_bound(total: float, ticks: int, sizes: Sequence[int], prefix: int) -> float:
    """Return how likely a single bound may fail, for all bounds of a run to hold but with probability `total`.

    Every look at every stream in every tick takes a lower and an upper bound; their probabilities add up at most.
    """
    return total / max(2 * ticks * sum(len(looks(size, prefix)) for size in sizes), 1)
