"""Running a row of the leaderboard again, and saying whether it comes out the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.config import Execution, Seeds
from clbench.errors import ClbenchError, ConfigError, LedgerError, suggest
from clbench.models import weights
from clbench.registry import Registry, benchmarks, models, strategies
from clbench.registry.reads import digest
from clbench.reports.leaderboard.board import rows_of
from clbench.reports.leaderboard.evidence import config_of
from clbench.reports.leaderboard.private import in_words, missing
from clbench.reports.rows import Row, keys_of
from clbench.results.curve import COLUMNS
from clbench.results.ledger import IN_MEMORY, Record
from clbench.results.schema import RULES
from clbench.results.statistics import Interval, prediction_half, t_interval
from clbench.types import IGNORED, Data

if TYPE_CHECKING:
    from clbench.engine.engine import Engine

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
    """Return the rows that a name means: a row's id, a table, or a benchmark, with or without its version.

    Raises:
        ConfigError: there is none.
    """
    tables = rows_of(records)
    rows = [row for table in tables.values() for row in table]
    found = [
        row for row in rows if name in (row.id, row.table, row.benchmark, row.benchmark.partition("@")[0])
    ]
    if not found:
        known = [*tables, *[row.id for row in rows]]
        raise ConfigError(f"The leaderboard has no row and no benchmark '{name}'.{suggest(name, known)}")
    return found


def lacking(row: Row) -> str:
    """Say what a row needs beside clbench and is missing here; nothing where all is there."""
    found = {what: told for record in row.records for what, told in missing(record).items()}
    if not found:
        return ""
    return (
        f"Row {row.id} ({row.strategy} on {row.benchmark}) cannot be run again here without what its author has: "
        f"{in_words(found)}. Name plug-ins with --plugin, install those that come with a distribution, and put files "
        "where the record's `files` say; what was an object in memory is not to be had."
    )


def outdated(records: Sequence[Record], who: str) -> str:
    """Say in a sentence or two what has another version here than when runs were recorded, and what to do about it;
    nothing where all is the same.

    Args:
        who: what they are called.
    """

    found, made_by = dict[str, None](), dict[str, None]()
    for record in records:
        versions: list[tuple[str, Any, str | None]]
        versions = [("rules of evaluation", record.evaluation.get("rules", 1), str(RULES))]
        for registry, kept in (
            (benchmarks, record.benchmark),
            (strategies, record.strategy),
            (models, record.model),
        ):
            names = kept["name"].split("+") if registry is strategies else [kept["name"]]
            versions.append(
                (f"{registry.kind} {kept['name']}", kept.get("version"), _version(registry, names))
            )
        differ = [
            f"{what} {then} (here {here})"
            for what, then, here in versions
            if None not in (then, here) and str(then) != here
        ]
        if differ:
            found |= dict.fromkeys(differ)
            commit = record.code.get("commit")
            made_by |= {f"commit {commit[:12]}" if commit else f"clbench {record.code['version']}": None}
    if not found:
        return ""
    return (
        f"{who} was recorded with {', '.join(found)}: numbers may differ for that alone. To make the same ones again, "
        f"check out {' or '.join(made_by)}, as the record says."
    )


def _version(registry: Registry[Any], names: Sequence[str]) -> str | None:
    """Return the versions of registered names here, joined by plus; None where one is missing, which others tell."""
    found = []
    for name in names:
        if not registry.knows(name):
            return None
        try:
            found.append(str(registry.entry(name).version))
        except ClbenchError:  # of a library that is not installed here
            return None
    return "+".join(found)


def reproduce(
    row: Row, seeds: Sequence[int] | None, runs: Path, execution: Execution, threads: int | None = None
) -> list[Verdict]:
    """Run a row again with the present code and compare.

    Args:
        seeds: which; those recorded if None, with those of runs that diverged.
        runs: folder for the runs' folders.
        execution: how. threads: as many as the recorded run had if None.
    """
    from clbench.runs import lifecycle

    recorded = {record.seeds["data"]: record for record in row.records}
    again: dict[str, dict[int, float]] = {}
    diverged: dict[int, bool] = {}
    for seed in seeds if seeds is not None else sorted(recorded):
        resolved = config_of(recorded.get(seed, row.records[0]), _seeded(row, seed))
        if threads is not None:
            resolved = resolved.model_copy(update={"threads": threads})
        record = lifecycle.start(resolved, execution, runs)
        diverged[seed] = record.status != "done"
        for name, value in record.metrics.items():
            if value is not None and not diverged[seed]:
                again.setdefault(name, {})[seed] = value
    return compare(row, again, diverged)


def _seeded(row: Row, seed: int) -> dict[str, Any]:
    """Return the row's configuration with a seed, the stream's too where the benchmark has one; those that it sets
    stay."""
    seeds = {**Seeds(order=seed, init=seed, data=seed).model_dump(), **row.config.get("seeds", {})}
    drawn = any("seed" in record.config.get("stream", {}) for record in row.records)
    stream = {**({"seed": seed} if drawn else {}), **row.config.get("stream", {})}
    return {**row.config, "seeds": seeds, "stream": stream}


def compare(
    row: Row, again: Mapping[str, Mapping[int, float]], diverged: Mapping[int, bool]
) -> list[Verdict]:
    """Return a verdict for each metric that the leaderboard shows, and for the share of runs that diverged, if any did.

    A metric that is recorded and does not come out at all disagrees.

    Args:
        again: metric → seed → value, for runs that did not diverge.
        diverged: whether the run of a seed did.
    """
    verdicts = []
    shown = {metric: row.values.get(metric) for metric in keys_of([row], suite=False)}
    found = dict(again)
    if row.unfinished or any(diverged.values()):
        shown["diverged"] = {record.seeds["data"]: float(record.status != "done") for record in row.records}
        found["diverged"] = {seed: float(did) for seed, did in diverged.items()}
    for metric, recorded in shown.items():
        if not recorded:
            continue
        new = found.get(metric, {})
        values = list(recorded.values())
        if not new and diverged and all(diverged.values()):
            continue  # the share of runs that diverged says it all
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


@dataclass(frozen=True)
class Beginning:
    """The first steps of a run, made again.

    Attributes:
        steps: how many. rows: rows of the curve up to there.
        differing: rows with other counts, or an other loss.
        largest: the largest difference in accuracy among them.
        elsewhere: what differs between the recorded machine and this one, so that sums may be rounded otherwise; and
            the rules by which examples are counted, of an older record.
    """

    steps: int
    rows: int
    differing: int
    largest: float
    elsewhere: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """To the bit on the same machine and libraries; on others within two points of accuracy."""
        return not self.differing or (bool(self.elsewhere) and self.largest <= 0.02)


def rebuilt(record: Record, device: str) -> Engine:
    """Return the engine of a recorded run, before its first step.

    Raises:
        LedgerError: it had an object in memory, or its data or files are others now. ClbenchError: it cannot be built
            here.
    """
    from clbench.runs import building

    if held := [what for what, told in missing(record).items() if told.startswith(IN_MEMORY)]:
        raise LedgerError(
            f"The run {record.id} cannot be made again from its record, as what was an object in memory is not in it: "
            f"{', '.join(held)}. Call clbench.run with the same in another folder (out=…), and compare."
        )
    _same_files(record)
    engine = building.build(config_of(record), Execution(device=device, checkpoint_seconds=None))
    if engine.benchmark.fingerprint != record.benchmark["fingerprint"]:
        raise LedgerError(
            f"The data of {record.benchmark['name']} are others than those of the run {record.id}: their fingerprint "
            f"is {engine.benchmark.fingerprint[:12]}, not {record.benchmark['fingerprint'][:12]}."
        )
    return engine


def first_steps(record: Record, steps: int) -> Beginning:
    """Train anew from the first step and compare every evaluation with the record's curve.

    Args:
        steps: how many; more if the record has no evaluation so early, and one more where they end an experience, whose
            last evaluations come after what the strategy does at its end.

    Raises:
        LedgerError: the curve is missing or altered. ClbenchError: the run cannot be built here.
    """
    import numpy as np

    from clbench.machine.environment import environment

    recorded = record.curve
    later = recorded.step[recorded.step > 0]
    steps = max(steps, int(later.min())) if len(later) else steps
    ends = set(recorded.step[recorded.full & (recorded.experience >= 0)].tolist())
    while steps in ends:
        steps += 1
    engine = rebuilt(record, record.environment["device"].split(" ")[0])
    sizes, wanted = recorded.matrix().totals, [_answers(test.data) for test in engine.benchmark.test]
    if any(size not in (0, n) for size, n in zip(sizes, wanted, strict=False)) or (
        record.status == "done" and len(sizes) != len(wanted)
    ):
        raise LedgerError(
            f"The curve of {record.id} has test sets of {sizes.tolist()} examples, {record.benchmark['name']} of "
            f"{wanted}."
        )
    engine.until = steps
    with contextlib.suppress(KeyboardInterrupt):
        engine.fit()
    here = environment(str(engine.device), engine.config.threads)
    engine.evaluator.fetch()
    both = recorded.columns(), engine.evaluator.curve.columns()
    columns = [{name: values for name, values in c.items() if name in COLUMNS} for c in both]
    # A full evaluation at the very last of these steps belongs to what comes after it.
    rows = [c["step"] + c["full"] * (c["step"] > 0) <= steps for c in columns]
    old, new = (
        {name: values[kept] for name, values in c.items()} for c, kept in zip(columns, rows, strict=True)
    )
    if len(old["step"]) != len(new["step"]):
        return Beginning(steps, len(old["step"]), len(old["step"]), 1.0, ())
    wrong = np.zeros(len(old["step"]), dtype=bool)
    for name, values in old.items():
        wrong |= values != new[name]
    distance = np.abs(old["correct"] / old["total"] - new["correct"] / new["total"])
    there = record.environment
    elsewhere = tuple(
        key if key in there else f"{key} (not recorded)"
        for key in ("processor", "instructions", "system", "device", "libraries")
        if here[key] != there.get(key) and (key in there or wrong.any())
    )
    if record.evaluation.get("rules", 1) != RULES:
        elsewhere += ("rules of evaluation",)
    return Beginning(steps, len(wrong), int(wrong.sum()), float(distance.max(initial=0.0)), elsewhere)


def _answers(data: Data) -> int:
    """Return how many examples a test set counts: its rows, or of language the labels that count."""
    return len(data) if data.y().ndim == 1 else int((data.y() != IGNORED).sum())


def _same_files(record: Record) -> None:
    """Refuse to compare with a run that has read other files than those which now lie there.

    Raises:
        LedgerError: names the file.
    """
    for where, file in record.files.items():
        path = Path(str(file["path"]))
        if file["sha256"] is None:  # the fingerprint tells
            continue
        if where == "model.weights":  # which may lie elsewhere, under their id
            now = weights.find(str(path)).sha256
        else:
            now = digest(path) if path.exists() else ""
        if now != file["sha256"]:
            change = "has changed since" if now else "is missing"
            raise LedgerError(
                f"The run {record.id} has read {path} ({where}), which {change}. Put it back as it was to compare."
            )
