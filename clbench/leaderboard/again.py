"""Running a row of the leaderboard again, and saying whether it comes out the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clbench.config import Execution, RunConfig, Seeds
from clbench.errors import ConfigError, suggest
from clbench.leaderboard.board import SHOWN, Row, rows_of
from clbench.ledger import Record
from clbench.statistics import Interval, prediction_half, t_interval

RESOLUTION = 0.005
"""Half a point: what a mean may differ by where the recorded runs agree to the digit (other machines, other sums)."""


@dataclass(frozen=True)
class Verdict:
    """One metric of one row, recorded and run again.

    Attributes:
        recorded, again: intervals over the seeds.
        allowed: how far the means may lie apart: the 95 % prediction interval for the mean of the new runs.
        same_bits: whether every seed that both have gave the same number.
    """

    row: Row
    metric: str
    recorded: Interval
    again: Interval
    allowed: float
    same_bits: bool

    @property
    def agrees(self) -> bool:
        """Whether the new runs may come from what the recorded ones come from."""
        return self.same_bits or abs(self.recorded.mean - self.again.mean) <= self.allowed


def chosen(records: Iterable[Record], name: str) -> list[Row]:
    """The rows that a name means: a row's id, or a benchmark, with or without its version.

    Raises:
        ConfigError: there is none.
    """
    tables = rows_of(records)
    rows = [row for table in tables.values() for row in table]
    found = [row for row in rows if name in (row.id, row.benchmark, row.benchmark.partition("@")[0])]
    if not found:
        known = [*tables, *[row.id for row in rows]]
        raise ConfigError(f"The leaderboard has no row and no benchmark '{name}'.{suggest(name, known)}")
    return found


def reproduce(row: Row, seeds: Sequence[int] | None, runs: Path, execution: Execution) -> list[Verdict]:
    """Run a row again with the present code and compare.

    Args:
        seeds: which; those recorded if None.
        runs: folder for the runs' folders.
    """
    from clbench import api
    from clbench.config import validate

    again: dict[str, dict[int, float]] = {}
    for seed in seeds if seeds is not None else row.seeds:
        config = dict(row.config)
        config["seeds"] = Seeds(order=seed, init=seed, data=seed).model_dump()
        resolved: RunConfig = validate(RunConfig, _seeded(config, row, seed))
        record = api.start(resolved, execution, runs)
        for name, value in record.metrics.items():
            if value is not None:
                again.setdefault(name, {})[seed] = value
    return compare(row, again)


def _seeded(config: dict[str, object], row: Row, seed: int) -> dict[str, object]:
    """With the stream's seed, where the benchmark has one."""
    if any("seed" in record.config.get("stream", {}) for record in row.records):
        stream: Mapping[str, object] = config["stream"]  # type: ignore[assignment]
        config["stream"] = {**stream, "seed": seed}
    return config


def compare(row: Row, again: Mapping[str, Mapping[int, float]]) -> list[Verdict]:
    """A verdict for each metric that the leaderboard shows.

    A metric that is recorded and does not come out at all disagrees.

    Args:
        again: metric → seed → value.
    """
    verdicts = []
    for metric in SHOWN:
        recorded = row.values.get(metric)
        if not recorded:
            continue
        new = again.get(metric, {})
        values = list(recorded.values())
        if not new:
            nothing = Interval(float("nan"), float("nan"), float("nan"), 0)
            verdicts.append(Verdict(row, metric, t_interval(values), nothing, 0.0, False))
            continue
        shared = recorded.keys() & new.keys()
        same = bool(shared) and new.keys() <= shared and all(recorded[s] == new[s] for s in shared)
        half = prediction_half(values, len(new))
        allowed = RESOLUTION if half != half else max(half, RESOLUTION)  # NaN where one seed is recorded
        verdicts.append(
            Verdict(row, metric, t_interval(values), t_interval(list(new.values())), allowed, same)
        )
    return verdicts
