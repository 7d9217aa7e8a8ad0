"""Records with their evidence, as files: taking them in, reading them back, and noticing any change.

leaderboard/records/<benchmark>@<version>/<strategy>@<version>/<id>.json
leaderboard/curves/<id>.npz
leaderboard/manifest.json        SHA-256 of every one of these files
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clbench import metrics
from clbench.errors import LedgerError
from clbench.files import atomic_write, make_folder, pretty_json, read_json, sha256
from clbench.ledger import Record, parse_record, read_record, run_id

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Submission:
    """What became of a run that was submitted.

    Attributes:
        folder: of the run. path: where its record lies now, None if it was refused.
        refused: why it was not taken; empty if it was.
    """

    folder: Path
    path: Path | None
    refused: str = ""


def submit(folders: Iterable[Path], root: Path) -> list[Submission]:
    """Take finished runs into the leaderboard in `root`; one that is refused keeps no other out.

    Raises:
        LedgerError: the leaderboard cannot be written, or is damaged.
    """
    manifest = _manifest(make_folder(root))
    done = []
    for folder in folders:
        try:
            record = read_record(folder)
            check(record)
        except LedgerError as error:
            done.append(Submission(folder, None, str(error)))
            continue
        path, curve = place(record), Path("curves") / f"{record.id}.npz"
        for file in (path, curve):
            make_folder((root / file).parent)
        stored = replace(record, curve_file={**record.curve_file, "file": curve.name}, folder=None)
        shutil.copyfile(folder / record.curve_file["file"], root / curve)
        atomic_write(root / path, stored.to_json())
        for file in (path, curve):
            manifest[file.as_posix()] = sha256((root / file).read_bytes())
        done.append(Submission(folder, path))
    atomic_write(root / MANIFEST, pretty_json(manifest))
    return done


def place(record: Record) -> Path:
    """Where a record lies within the leaderboard."""
    benchmark = f"{record.benchmark['name']}@{record.benchmark['version']}"
    strategy = f"{record.strategy['name']}@{record.strategy['version']}"
    for name in (benchmark, strategy, record.id):
        if not name or name.startswith(".") or any(c in name for c in "/\\\0"):
            raise LedgerError(f"Record {record.id!r} names '{name}', which can be no folder.")
    return Path("records") / benchmark / strategy / f"{record.id}.json"


def check(record: Record) -> dict[str, float | None]:
    """Refuse a record whose numbers do not follow from its evidence, or whose code is not known.

    Returns:
        Its metrics, as its curve gives them today.

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
    if not all(isinstance(code.get(key), str) for key in ("version", "sources")):
        raise LedgerError(f"Run {record.id} does not say which code made it.")
    expected = run_id(record.config, record.benchmark, record.strategy, record.model, code, record.files)
    if expected != record.id:
        raise LedgerError(
            f"Record {record.id} was altered: its configuration, benchmark, strategy, model or code is that of a run "
            f"{expected}."
        )
    again = recomputed(record)
    unknown = sorted(record.metrics.keys() - again.keys())
    if unknown:
        raise LedgerError(f"Record {record.id} has a metric that is not known: '{unknown[0]}'.")
    for name, (said, value) in contradicted(record.metrics, again).items():
        raise LedgerError(f"Record {record.id} was altered: it says {name} = {said}, its curve says {value}.")
    return again


def recomputed(record: Record) -> dict[str, float | None]:
    """The metrics that a record has, from its curve; those that are not known here are left out."""
    return metrics.compute(record.curve, [name for name in record.metrics if name in metrics.METRICS])


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


def read_board(root: Path) -> list[Record]:
    """Every record of a leaderboard, checked, in order of their paths; its metrics are what its curve says today.

    Raises:
        LedgerError: a file is missing, altered, or not where it belongs; names it.
    """
    manifest = _manifest(root)
    there = {
        file.relative_to(root).as_posix()
        for part in ("records", "curves")
        for file in (root / part).rglob("*")
        if file.is_file()
    }
    if unlisted := sorted(there - manifest.keys()):
        raise LedgerError(f"{root / unlisted[0]} is not in {MANIFEST}: it was not submitted.")
    if missing := sorted(manifest.keys() - there):
        raise LedgerError(f"{root / missing[0]} is missing; {MANIFEST} lists it.")
    records = []
    for name in sorted(there):
        content = (root / name).read_bytes()
        if sha256(content) != manifest[name]:
            raise LedgerError(f"{root / name} was altered: its SHA-256 is not the one in {MANIFEST}.")
        if name.startswith("records/"):
            record = replace(parse_record(root / name), folder=root / "curves")
            if place(record).as_posix() != name:
                raise LedgerError(f"{root / name} belongs to {place(record)}.")
            records.append(replace(record, metrics=check(record)))
    return records


def _manifest(root: Path) -> dict[str, str]:
    path = root / MANIFEST
    if not path.is_file():
        if (root / "records").exists():
            raise LedgerError(f"{path} is missing, so that nothing says which records were submitted.")
        return {}
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise LedgerError(f"{path} is damaged: it is no table of SHA-256 sums.")
    return dict(content)


def names(records: Sequence[Record]) -> list[str]:
    """Benchmarks with their versions, sorted."""
    return sorted({f"{r.benchmark['name']}@{r.benchmark['version']}" for r in records})
