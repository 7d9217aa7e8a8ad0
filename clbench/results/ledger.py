"""Records: one finished run with its evidence. Imports no torch, so that results can be read on any laptop.

A run folder `runs/<id>/` holds `config.yaml`, `environment.json`, `log.jsonl`, `checkpoint.safetensors` while
it runs, and at the end `curve.npz` and `record.json`. The id is a hash of what decides the numbers.
"""

from __future__ import annotations

import os
import pkgutil
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import TypeAdapter, ValidationError

from clbench.errors import LedgerError
from clbench.files import atomic_write, canonical_json, pretty_json, read_json, sha256
from clbench.registry import benchmarks
from clbench.results import schema as of
from clbench.results.curve import Curve
from clbench.results.metrics import METRICS
from clbench.results.metrics.core import PRIMARY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEMA = 3
"""The form in which records are written; 2 added their own SHA-256, 3 the files that were read."""
IN_MEMORY = "an object in memory"
"""The origin of what nobody can name: it was handed over as it was."""
LARGEST = 1 << 24
"""Bytes of a record's file; those that there are have some thousands."""


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        id: hash of benchmark, strategy, configuration, seeds and code.
        status: done, diverged (a loss was not finite), or timeout.
        config: the resolved configuration.
        benchmark, strategy, model: name and version; the benchmark with its fingerprint and what is said of it
            (`clbench.results.ids.SAID`).
        seeds: of the stream's order, the initialisation, and the data.
        code: version, digest of the sources that decide the numbers, commit where there is one; `parts`, those that are
            not clbench's, `strategy mine` → `origin`, a distribution or the name of a file, and its `sha256`; older
            records do not tell.
        environment: machine, Python, libraries, device, threads, how torch's switches stood (`numerics`), and processes
            where there were several.
        budget: what it cost; units in the names. `whole_cpu_joules` and `whole_gpu_joules` are of the whole machine
            and GPU, None where they cannot be read; records from before they were read lack them. `held_bytes` is what
            the strategy held at most beside the network, a memory counted as full; older records lack it.
        metrics: name → value, None where it is not defined; computed from the curve, never by a strategy.
        curve_file: file name and SHA-256 of the evidence; `curve` in the file.
        selection: how the hyper-parameters were chosen.
        note: for a run that diverged, where.
        evaluation: how ticks were computed, by which rules they count (`schema.RULES`), and their
            measured distance from exact ones.
        files: what the run has read, by the setting or plug-in that names it: `path`, where it lay, and `sha256`, None
            where the benchmark's fingerprint tells.
    """

    id: of.Name
    status: Literal["done", "diverged", "timeout"]
    config: of.Config
    benchmark: of.Benchmark
    strategy: of.Method
    seeds: of.Seeds
    code: of.Code
    environment: of.Environment
    budget: of.Budget
    metrics: of.Metrics
    curve_file: of.Evidence
    selection: of.Name
    note: of.Text = ""
    model: of.Model = field(default_factory=dict)
    evaluation: of.Evaluation = field(
        default_factory=dict
    )  # records of 0.1 have none: all of their ticks are exact
    files: of.Files = field(default_factory=dict)
    schema: int = SCHEMA
    folder: Path | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        metric = METRICS[self.primary if METRICS[self.primary].language else PRIMARY]
        value = self.metrics.get(metric.name)
        shown = "" if value is None else f", {metric.title} {metric.told(float(value), '.1f')}"
        return f"<Record {self.id}: {self.benchmark['name']}, {self.strategy['name']}, {self.status}{shown}>"

    def _repr_html_(self) -> str:
        html: str = pkgutil.resolve_name("clbench.reports.display.records:html")(self)
        return html

    def plot(self, what: Literal["curve", "matrix"] = "curve", ax: Axes | None = None) -> Axes:
        """Draw the curve of the run, accuracy or loss on every test stream after every iteration, or its matrix.

        Args:
            what: "curve" or "matrix".
            ax: the axes to draw into; new ones of `pyplot` if None.

        Returns:
            The axes; `.figure` is their figure.

        Raises:
            ConfigError: it is neither. LedgerError: as of `curve`.
        """
        axes: Axes = pkgutil.resolve_name("clbench.reports.display.records:plot")(self, what, ax)
        return axes

    @property
    def primary(self) -> str:
        """The metric that ranks strategies; of an older record, what its benchmark says where it is registered."""
        name = self.benchmark["name"]
        known = benchmarks.peek(name).primary if benchmarks.knows(name) else PRIMARY
        return next((key for key in (self.benchmark.get("primary"), known) if key in METRICS), PRIMARY)

    @property
    def more(self) -> tuple[str, ...]:
        """The metrics that its benchmark's tables show; of an older record, those that were computed on request."""
        asked = (name for name in METRICS if name in self.metrics and not METRICS[name].default)
        return tuple(self.benchmark.get("metrics", asked))

    def to_json(self) -> str:
        """As it stands in `record.json`."""
        content = asdict(self)
        content.pop("folder")
        content["curve"] = content.pop("curve_file")
        return pretty_json({**content, "sha256": _digest(content)})

    @property
    def curve(self) -> Curve:
        """The evidence, checked against its SHA-256.

        Raises:
            LedgerError: the record has no folder, or the curve is missing or altered.
        """
        if self.folder is None:
            raise LedgerError(f"Record {self.id} has no folder to read its curve from.")
        path = self.folder / self.curve_file["file"]
        curve = Curve.load(path)
        if curve.sha256() != self.curve_file["sha256"]:
            raise LedgerError(f"{path} is not the curve that record {self.id} names: its SHA-256 differs.")
        return curve


def is_whole(folder: Path) -> bool:
    """Whether the record in a run folder is what its SHA-256 says; those of schema 1 have none."""
    return _is_whole(read_json(folder / "record.json"))


def _is_whole(content: Mapping[str, Any]) -> bool:
    bare = {key: value for key, value in content.items() if key != "sha256"}
    return (content["schema"] == 1 and "sha256" not in content) or content.get("sha256") == _digest(bare)


def _digest(content: Mapping[str, Any]) -> str:
    return sha256(canonical_json(content))


_HELD = typing.get_type_hints(Record, include_extras=True)
_LATER = ("evaluation", "files")  # of 0.1's records, no field
_READS = TypeAdapter[dict[str, Any]](
    Annotated[
        dict[str, Any],
        of.Keys(
            {name: _HELD[name] for name in _LATER},
            curve=_HELD["curve_file"],
            **{k: v for k, v in _HELD.items() if k not in (*_LATER, "curve_file", "folder")},
        ),
    ]
)


def write_record(record: Record, folder: Path) -> Record:
    """Write `record.json` so that it is there whole or not at all; returns the record with its folder."""
    atomic_write(folder / "record.json", record.to_json())
    return replace(record, folder=folder)


def read_record(folder: Path, id: str | None = None, *, altered: bool = False) -> Record:
    """Return the record in a run folder.

    Args:
        folder: of the run.
        id: that the record must have; None takes any.
        altered: whether to take one that is not what its SHA-256 says, to tell what differs.

    Raises:
        LedgerError: missing, damaged, another run's, or of a later schema than this version reads.
    """
    path = folder / "record.json"
    if not path.is_file() and (folder / "config.yaml").is_file():
        raise LedgerError(f"The run {folder} is not finished; `clbench resume {folder}` continues it.")
    record = replace(parse_record(path, altered=altered), folder=folder)
    if id is not None and record.id != id:
        raise LedgerError(
            f"{path} is the record of the run {record.id}, not of {id}; put the right one back, or delete {folder} "
            "to run it again."
        )
    return record


def parse_record(path: Path, *, altered: bool = False) -> Record:
    """Return the record in a file, without a folder to read its curve from.

    Raises:
        LedgerError: missing, damaged, or of a later schema than this version reads.
    """
    if path.is_file() and path.stat().st_size > LARGEST:
        raise LedgerError(f"{path} is damaged: no record has more than {LARGEST >> 20} MB.")
    return record_of(read_json(path), path, altered=altered)


def record_of(content: Any, path: Path, *, altered: bool = False) -> Record:
    """Return the record that JSON holds, without a folder; `path` is for messages.

    Raises:
        LedgerError: as of `parse_record`; names the field.
    """
    if not isinstance(content, dict) or type(content.get("schema")) is not int:
        raise LedgerError(f"{path} is no record: it names no schema.")
    for wrong in of.unfit(content):
        raise LedgerError(f"{path} is damaged: {wrong}.")
    if content["schema"] < 1:
        raise LedgerError(f"{path} is damaged: there is no schema {content['schema']}; the first is 1.")
    if content["schema"] > SCHEMA:
        raise LedgerError(
            f"{path} has schema {content['schema']}; this version of clbench reads up to {SCHEMA}. "
            "Upgrade clbench."
        )
    if not altered and not _is_whole(content):
        raise LedgerError(f"{path} was altered or is damaged: its SHA-256 is not the one that it names.")
    content.pop("sha256", None)
    try:
        read = _READS.validate_python(content, strict=True)
    except ValidationError as error:
        raise LedgerError(f"{path} is damaged: {of.told(error)}.") from None
    return Record(curve_file=read.pop("curve"), **read)


def has_record(folder: Path) -> bool:
    return os.path.isfile(folder / "record.json")  # no name is too long for this
