"""Whether a record says what its configuration and its curve say, and what other records do. No torch."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clbench.config import RunConfig, TrainConfig, validate
from clbench.config.layers import plain
from clbench.config.selection import FIXED, is_protocol
from clbench.errors import ConfigError, LedgerError
from clbench.files import canonical_json
from clbench.files.names import FOLDER, full_name_mistake, name_mistake, version_mistake
from clbench.registry import benchmarks
from clbench.registry.arguments import convert
from clbench.reports.grouping import flatten
from clbench.reports.leaderboard.private import named
from clbench.reports.rows import is_bound
from clbench.results import metrics
from clbench.results.curve import Curve
from clbench.results.ids import ID_LENGTH, run_id
from clbench.results.ledger import Record
from clbench.results.metrics import METRICS
from clbench.results.traces import Trace, ends

DERIVED = {
    "benchmark.name": "benchmark",
    "strategy.name": "strategy",
    "model.name": "model.name",
    "selection": "selection",
    **{f"seeds.{name}": f"seeds.{name}" for name in ("order", "init", "data")},
}
"""Fields of a record that its configuration says, too."""

EXPERIENCES = {"experiences": 0, "tasks": 0, "domains": 0, "angles": 0, "corpora": 1, "sessions": 1}
"""Arguments of clbench's benchmarks that say how many experiences there are, and how many come on top of that."""


class Checked(NamedTuple):
    """What a curve says: every metric, as it is defined today, how many experiences there were, and the sizes of the
    test sets."""

    metrics: dict[str, float | None]
    experiences: int
    sizes: tuple[int, ...]


def check(record: Record) -> dict[str, float | None]:
    """`checked`, for the metrics alone."""
    return checked(record).metrics


def checked(record: Record, traces: dict[str, Trace] | None = None) -> Checked:
    """Refuse a record whose numbers do not follow from its evidence, or whose code is not known.

    Args:
        traces: takes what is drawn of it, by its id: its curve is read here, and need not be again.

    Raises:
        LedgerError: says what is wrong with it.
    """
    code = record.code
    if code.get("dirty"):
        raise LedgerError(
            f"Run {record.id} was made by a checkout with uncommitted changes, so nobody else has its code. Commit "
            "them and run it again."
        )
    if code.get("commit") is None and code.get("dirty") is not None:
        raise LedgerError(f"Run {record.id} does not say which commit made it.")
    curve = record.curve
    for wrong in contradictions(record, curve):
        raise LedgerError(f"Record {record.id} was altered: {wrong}.")
    place(record)
    if mistake := full_name_mistake(record.model.get("name")):
        raise LedgerError(f"The record {record.id} cannot be taken: model.name {mistake}.")
    again = recomputed(record, curve)
    for wrong in misnumbered(record, again):
        raise LedgerError(f"Record {record.id} was altered: {wrong}.")
    if traces is not None and record.status == "done":
        traces[record.id] = Trace.of(curve)
    return Checked(again, curve.experiences, tuple(curve.matrix().totals.tolist()))


def misfit(record: Record) -> str:
    """Return which of a record's arguments the strategy, benchmark or network that it names does not take; by the
    checks of every run, for which these are imported. Empty where all fit, or clbench ships others under their names.

    Raises:
        ClbenchError: one of them cannot be imported.
    """
    for part in named(record):
        if part.known is None:
            continue
        build = part.registry.entry(part.name).build
        assert build is not None
        try:
            read = convert(f"{part.registry.kind} '{part.name}'", build, part.given)
        except ConfigError as error:
            return f"its config.{part.section} does not fit: {str(error).rstrip('.')}"
        for key, value in part.given.items():
            if canonical_json(value) != canonical_json(plain(read[key])):
                return f"its config.{part.section}.{key} is {value!r:.80}, and not {plain(read[key])!r:.80}"
    return ""


def place(record: Record) -> Path:
    """Return where a record lies within the leaderboard.

    Raises:
        LedgerError: what it is called can be no folder or file; names the field.
    """
    benchmark, strategy = record.benchmark, record.strategy
    wrong = {
        "id": ""
        if re.fullmatch(rf"[0-9a-f]{{{ID_LENGTH}}}", record.id)
        else f"{record.id!r:.100} is no run's",
        "benchmark.name": name_mistake(benchmark["name"]),
        "benchmark.version": version_mistake(benchmark["version"]),
        "strategy.name": full_name_mistake(strategy["name"]),
        "strategy.version": version_mistake(strategy["version"]),
    }
    for where, mistake in wrong.items():
        if mistake:
            raise LedgerError(f"The record {record.id!r:.40} cannot be taken: {where} {mistake}.")
    folders = [f"{part['name']}@{part['version']}" for part in (benchmark, strategy)]
    if len(folders[1]) > FOLDER:
        raise LedgerError(
            f"The record {record.id!r} cannot be taken: strategy.name {folders[1]!r:.100} is too long for a folder."
        )
    return Path("records", *folders, f"{record.id}.json")


def contradictions(record: Record, curve: Curve) -> Iterator[str]:
    """Yield what a record says that its configuration or its curve does not; of its metrics, `misnumbered` tells."""
    name, said = record.benchmark["name"], record.benchmark.get("primary")
    if benchmarks.knows(name) and (known := benchmarks.peek(name)).own and said not in (None, known.primary):
        yield f"its benchmark.primary is {said!r:.80}, and {name} ranks by {known.primary}"
    if not re.fullmatch(r"|[0-9a-f]{40}|[0-9a-f]{64}", record.code.get("commit") or ""):
        yield f"its code.commit is {record.code['commit']!r:.80}, and no commit of git's"
    config = flatten(record.config)
    for field, source in DERIVED.items():
        section, _, key = field.partition(".")
        of = getattr(record, section)
        if (said := of[key] if key else of) != config[source]:
            yield f"{field} {said!r:.80} is not its config.{source}, {config[source]!r:.80}"
    threads, used = config.get("threads"), record.environment["threads"]
    if threads not in (None, used):
        yield f"environment.threads {used} is not its config.threads, {threads}"
    level, said = config.get("evaluation.level"), record.evaluation.get("level")
    if said not in (None, level):
        yield f"its evaluation.level is {said!r:.80}, and config.evaluation.level {level!r:.80}"
    for spent, of in (("forward_examples", "updates"), ("memory_bytes", "memory_examples")):
        if not record.budget[spent] and record.budget[of]:
            yield f"its budget.{spent} is 0, and budget.{of} {record.budget[of]}"
    if (some := record.budget["trainable_parameters"]) > (every := record.budget["parameters"]):
        yield f"its budget.trainable_parameters is {some}, and budget.parameters {every}"
    held, granted = record.budget.get("held_bytes", 0), config.get("memory_budget")
    if granted is not None and held > granted:
        yield f"its budget.held_bytes is {held}, and config.memory_budget {granted}"
    for name in record.benchmark.get("metrics", ()):
        if name not in record.metrics:
            yield f"its benchmark.metrics names {name!r:.80}, and its metrics do not have it"
    try:
        read = config_of(record)
    except ConfigError as error:
        yield f"its config is none: {str(error).rstrip('.')}"
        return
    plain = flatten(read.model_dump(mode="json"))
    for key in config.keys() & plain.keys() - {"selection"}:
        if config[key] != plain[key] or type(config[key]) is not type(plain[key]):
            yield f"its config.{key} is {config[key]!r:.80}, and not {plain[key]!r:.80}"
    args = record.config, record.benchmark, record.strategy, record.model, record.code, record.files
    if (expected := run_id(*args)) != record.id:
        yield f"its configuration, benchmark, strategy, model or code is that of a run {expected}"
    yield from (_unfinished(record, curve, read) if record.status == "done" else _beyond(record, curve))


def misnumbered(record: Record, again: Mapping[str, float | None]) -> Iterator[str]:
    """Yield which metrics a record has wrong, or lacks.

    Args:
        again: computed from its curve.
    """
    if unknown := sorted(record.metrics.keys() - again.keys()):
        yield f"it has a metric that is not known: '{unknown[0]}'"
    for name, (said, value) in contradicted(record.metrics, again).items():
        yield f"it says {name} = {said}, its curve says {value}"
    for name, value in again.items():
        since = METRICS[name].since
        if name not in record.metrics and value is not None and since is not None and since <= record.schema:
            yield f"metrics.{name} is missing; its curve says {value}"


def _beyond(record: Record, curve: Curve) -> Iterator[str]:
    """Say what lies behind the last step of a run that did not end."""
    for column, said in (("step", "steps"), ("examples", "stream_examples")):
        if (last := int(getattr(curve, column).max(initial=0))) > record.budget[said]:
            yield f"its budget.{said} is {record.budget[said]}, and its curve goes to {last}"


def _unfinished(record: Record, curve: Curve, config: RunConfig) -> Iterator[str]:
    """Say what the curve of a run that is done lacks, or has in other sizes than a run gives it."""
    evaluation = config.evaluation
    for column, said in (("step", "steps"), ("examples", "stream_examples")):
        if (last := int(getattr(curve, column).max(initial=0))) != record.budget[said]:
            yield f"its budget.{said} is {record.budget[said]}, and its curve ends at {last}"
    if not np.isfinite(curve.loss).all():
        yield "its status is done, and its curve has a loss that is not finite"
    if not curve.finished or not curve.full.any():
        yield "its status is done, and its curve ends before every experience has"
        return
    E, planned = curve.experiences, experiences_of(record.config)
    # A blurry stream has a test for each class, one in which classes come back may have one of all; both may be joined
    # into one experience. Others have one for each experience.
    several, joined = _otherwise_tested(record, curve), is_bound(record.config["strategy"])
    found = curve.streams if not several else planned if joined else E
    if planned is not None and found != planned:
        yield f"its config.stream asks for {planned} experiences, and its curve has {found}"
    matrix, ticks = curve.matrix(), curve.ticks()
    there = ~np.isnan(matrix.R[:E])  # (E, S)
    seen = ticks.total > 0  # (K, S)
    if not there.any(1).all() or not there[-1].all() or (there[:-1] & ~there[1:]).any():
        yield "its curve lacks a full evaluation at the end of an experience"
    if (seen[:-1] & ~seen[1:]).any() or (seen & ~there[ticks.experience]).any():
        yield "its curve leaves out a test stream that was evaluated before"
    if not np.isnan(matrix.b).all() and (np.isnan(matrix.b).any() or not there.all()):
        yield "its curve leaves out test streams of the future at some evaluation, and not at others"
    sizes = np.minimum(matrix.totals, evaluation.subset or matrix.totals)
    if not curve.of_language and ((ticks.of != sizes) & seen).any():  # whose subset is of blocks, not tokens
        yield "its ticks do not evaluate config.evaluation.subset examples of each test set"
    if not ticks.complete and not evaluation.racing:
        yield "its ticks are partial, and its config.evaluation.level is not racing"
    if not evaluation.ticks and len(ticks) > len(np.unique(curve.step[curve.full])):
        yield "its curve has ticks, and its config.evaluation asks for none"
    if (every := evaluation.every) and evaluation.every_examples is None and len(ticks):
        due = int(curve.step[-1]) // every - (max(int(ticks.steps[0]), 1) - 1) // every
        ends = np.unique(curve.step[curve.full & (curve.experience >= 0)])
        on_time = int(((ticks.steps % every == 0) & (ticks.steps > 0)).sum())
        if on_time != due or not np.isin(ends, ticks.steps).all():
            yield f"its curve has {on_time} of the {due} ticks that config.evaluation.every = {every} asks for"
    yield from _classes(curve)
    yield from _steps(record, curve, config.train)


def _otherwise_tested(record: Record, curve: Curve) -> bool:
    """Whether an experience has no test stream of its own."""
    return "tasks" in record.config["stream"] or len(curve.class_present) > 0


def _steps(record: Record, curve: Curve, train: TrainConfig) -> Iterator[str]:
    """Check that there are no more steps and stream examples than the configuration asks for, as far as it tells."""
    blurry = "tasks" in record.config["stream"]  # whose experiences end within passes
    steps = np.diff(ends(curve))  # (E,)
    first, later = train.batch_size, train.later_batch_size or train.batch_size
    most = int(steps.sum()) * max(first, later) if blurry else int(steps[0] * first + steps[1:].sum() * later)
    seen = record.budget["stream_examples"]
    if record.environment.get("processes", 1) == 1 and seen > most:
        yield f"its budget.stream_examples is {seen}, and its steps by config.train.batch_size have {most} at most"
    if blurry or any(part.known is None for part in named(record)):
        return  # another's strategy may train by a loop of its own
    for e, taken in enumerate(steps.tolist()):
        key = "" if e == 0 else "later_"
        if train.iterations is not None:
            asked = train.iterations if e == 0 else train.later_iterations or train.iterations
            if taken != asked:
                yield f"its experience {e} has {taken} steps, and config.train.iterations asks for {asked}"
        elif taken % (epochs := train.epochs if e == 0 else train.later_epochs or train.epochs):
            yield f"its experience {e} has {taken} steps, which are no {epochs} passes (config.train.{key}epochs)"


def _classes(curve: Curve) -> Iterator[str]:
    """Check that counts by class add up to the streams seen at least, and to all that were evaluated at most."""
    if not len(curve.class_total):
        return
    full = curve.full
    row = np.unique(curve.experience[full], return_inverse=True)[1]
    seen = curve.learned[curve.evaluated[full]] <= curve.experience[full] if len(curve.ticks()) else False
    for name, table, counts in (
        ("class_correct", curve.class_correct, curve.correct[full]),
        ("class_total", curve.class_total, curve.total[full]),
    ):
        least, most = (np.bincount(row, counts * chosen, len(table)) for chosen in (seen, True))
        if ((table.sum(1) < least) | (table.sum(1) > most)).any():
            yield f"the table {name} of its curve has other sums than its full evaluations"


def experiences_of(config: Mapping[str, Any]) -> int | None:
    """Return how many experiences a configuration asks for; None where only the data say so, as without a list."""
    stream = config["stream"]
    told = [key for key in EXPERIENCES if stream.get(key) not in (None, [])]
    if len(told) != 1 or not (benchmarks.knows(name := config["benchmark"]) and benchmarks.peek(name).own):
        return None
    value = stream[told[0]]
    number = len(value) if isinstance(value, list) else value
    return number + EXPERIENCES[told[0]] if isinstance(number, int) else None


def recomputed(record: Record, curve: Curve | None = None) -> dict[str, float | None]:
    """Return the metrics of a record from its curve: those of every run, and those that it has and that are known
    here."""
    curve = record.curve if curve is None else curve
    found = metrics.compute(curve)
    more = (record.metrics.keys() & METRICS.keys()) - found.keys()
    return found | metrics.compute(curve, sorted(more))


def contradicted(
    recorded: Mapping[str, float | None], again: Mapping[str, float | None]
) -> dict[str, tuple[float | None, float | None]]:
    """Metric → recorded and recomputed, where they differ.

    What a record leaves undefined claims nothing: a definition may have been widened since.
    """
    return {
        name: (value, again.get(name))
        for name, value in recorded.items()
        if value is not None and value != again.get(name)
    }


class Others:
    """Records that may not contradict each other: a curve is of one seed, and equal data have equal test sets.

    Args:
        known: records that are taken as they are.
    """

    def __init__(self, known: Iterable[Record] = ()) -> None:
        self._by_curve: dict[str, Record] = {}
        self._by_data: dict[str, tuple[Record, Checked | None]] = {}
        for record in known:
            self._add(record, None)

    def _add(self, record: Record, found: Checked | None) -> None:
        if record.status == "done":
            self._by_curve.setdefault(record.curve_file["sha256"], record)
            self._by_data.setdefault(record.benchmark["fingerprint"], (record, found))

    def join(self, record: Record, found: Checked) -> None:
        """Take in one more of them.

        Args:
            found: what its curve says.

        Raises:
            LedgerError: it contradicts another one.
        """
        same = self._by_curve.get(record.curve_file["sha256"], record)
        if same.seeds != record.seeds:
            raise LedgerError(
                f"Record {record.id} (seeds {_listed(record)}) has the very curve of {same.id} ({_listed(same)}): "
                "it is no run of its own, or its seeds change nothing."
            )
        other, known = self._by_data.get(data := record.benchmark["fingerprint"], (record, found))
        if known is None:
            with contextlib.suppress(LedgerError):  # a damaged one says nothing
                found_there = other.curve
                known = Checked({}, found_there.experiences, tuple(found_there.matrix().totals.tolist()))
            self._by_data[data] = (other, known := known or found)
        joined = {known.experiences, found.experiences} - {1}
        if record.status == "done" and (known.sizes != found.sizes or len(joined) > 1):
            raise LedgerError(
                f"Record {record.id} contradicts {other.id}, whose data have the same fingerprint: its curve has "
                f"{found.experiences} experiences and test sets of {_few(found.sizes)} examples, the other "
                f"{known.experiences} and {_few(known.sizes)}."
            )
        self._add(record, found)


def _few(sizes: tuple[int, ...]) -> str:
    return ", ".join(map(str, sizes[:20])) + " …" * (len(sizes) > 20)


def _listed(record: Record) -> str:
    return ", ".join(str(seed) for seed in dict.fromkeys(record.seeds.values()))


def config_of(record: Record, config: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the configuration of a record, or another one, read as the version that wrote the record meant it.

    Versions before this one kept the number of threads in the environment, and took any word for the selection.
    """
    tree = {"threads": record.environment["threads"], **(config or record.config)}
    tree["selection"] = tree["selection"] if is_protocol(tree["selection"]) else FIXED
    resolved: RunConfig = validate(RunConfig, tree)
    return resolved
