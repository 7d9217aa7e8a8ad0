"""Records with their evidence, as files: taking them in, reading them back, and noticing any change.

leaderboard/records/<benchmark>@<version>/<strategy>@<version>/<id>.json
leaderboard/curves/<id>.npz
leaderboard/manifest.json        SHA-256 of every one of these files
leaderboard/README.md            the tables

The manifest alone says what is on the board, and is replaced at once. Files come before it and go after it, and none is
written twice, so whoever reads it finds a whole board at any moment. Whoever changes the board holds it (`.lock`) and
writes down first which files come or go (`.unfinished.json`); if he is killed, the next one who holds it deletes those
that the manifest does not list, and makes the page.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePath, PurePosixPath

from clbench.errors import ClbenchError, ConfigError, LedgerError, suggest
from clbench.files import atomic_write, locked, make_folder, pretty_json, read_json, sha256, sync_folder
from clbench.files.names import is_weights_id
from clbench.reports.leaderboard.board import row_id
from clbench.reports.leaderboard.evidence import (
    Checked,
    Others,
    check as check,
    checked,
    misfit,
    place as place,
)
from clbench.reports.leaderboard.page import readme
from clbench.reports.leaderboard.private import needs
from clbench.results.ledger import Record, parse_record, read_record
from clbench.results.traces import Trace

MANIFEST, PAGE = "manifest.json", "README.md"
LOCK, JOURNAL = ".lock", ".unfinished.json"
PATIENCE = 600.0
"""Seconds to wait for another process that changes the board."""


@dataclass(frozen=True)
class Submission:
    """What became of a run that was submitted.

    Attributes:
        folder: of the run. path: where its record lies now, None if it was refused.
        refused: why it was not taken; empty if it was.
        already: whether it was there before, the same.
        needs: what others must have of its author to run it again (`clbench.reports.leaderboard.private`).
    """

    folder: Path
    path: Path | None
    refused: str = ""
    already: bool = False
    needs: Mapping[str, str] = field(default_factory=dict)


# --- changing a board ---


def submit(folders: Iterable[Path], root: Path, left_out: list[str] | None = None) -> list[Submission]:
    """Take finished runs into the leaderboard in `root`, all at once, and make its page; one that is refused keeps no
    other out.

    A run that is there already stays as it is. Nothing is replaced: another run of the same id, or of the same row and
    seed (by other code), is refused until the first one is taken out.

    Args:
        left_out: takes what is wrong with records that lie there already, and are not on the page.

    Raises:
        LedgerError: the leaderboard cannot be written, or is damaged. BusyError: another process keeps hold of it.
    """
    done: list[Submission] = []
    sound: list[tuple[int, Record, Checked]] = []
    for number, folder in enumerate(folders):
        done.append(Submission(folder, None))
        try:
            record = _placeless(read_record(folder))
            found = checked(record)
            if wrong := misfit(record):
                raise LedgerError(f"The record {record.id} cannot be taken: {wrong}.")
            sound.append((number, record, found))
        except ClbenchError as error:
            done[number] = Submission(folder, None, str(error))
        except OSError as error:
            done[number] = Submission(folder, None, f"{folder} cannot be read: {error.strerror}.")
    if not sound:
        return done
    with held(make_folder(root), [] if left_out is None else left_out) as board:
        manifest, others = _begin(root, [file for _, r, _ in sound for file in _files(r)]), Others(board)
        there: dict[object, Record] = {key: r for r in board for key in (r.id, _seed_of(r))}
        taken = _folders(map(PurePosixPath, manifest))
        for number, given, found in sound:
            record = replace(given, metrics=found.metrics)
            folder, path, other = done[number].folder, place(record), there.get(record.id)
            if other is not None and not _apart(record, other):
                done[number] = Submission(folder, path, already=True, needs=needs(record))
                continue
            other = other or there.get(_seed_of(record))
            try:
                if other is not None:
                    raise LedgerError(_second(record, other))
                if near := [f for f in _folders([path]).items() if taken.get(f[0], f[1]) != f[1]]:
                    raise LedgerError(
                        f"The record {record.id} cannot be taken: {near[0][1]} differs by case alone from "
                        f"{taken[near[0][0]]}, which is there, and some file systems take them for one folder. "
                        "Rename the one or the other."
                    )
                if listed := [name for name in _files(record) if name in manifest]:
                    raise LedgerError(f"{root / listed[0]} is of a damaged record.{_way_out(listed[0])}")
                others.join(record, found)
                manifest |= _put(given, root)
                taken |= _folders([path])
            except LedgerError as error:
                done[number] = Submission(folder, None, str(error))
                continue
            board.append(record)
            there |= {record.id: record, _seed_of(record): record}
            done[number] = Submission(folder, path, needs=needs(record))
        _commit(root, manifest)
        _settle(root, board)
    return done


def _placeless(record: Record) -> Record:
    """Return a record that tells its weights by their id, and not by where they lay on the machine that ran it."""
    read = record.files.get("model.weights")
    if read is None:
        return record
    stem = Path(str(read["path"])).stem
    told = stem if is_weights_id(stem) else read["path"]
    config = {**record.config, "model": {**record.config["model"], "weights": told}}
    return replace(record, config=config, files={**record.files, "model.weights": {**read, "path": told}})


def remove(ids: Iterable[str], root: Path) -> tuple[list[Path], str]:
    """Take records out of a leaderboard, with their curves, all at once, and make its page; also those that cannot be
    read any more.

    Returns:
        What was deleted, and why there is no new page where there is none: the board is damaged elsewhere, too.

    Raises:
        ConfigError: there is no such record; nothing is removed then. LedgerError: the leaderboard cannot be written.
    """
    if not root.is_dir():
        raise ConfigError(f"There is no leaderboard {root}.")
    with _alone(root):
        known: dict[str, set[str]] = {}
        for name in {*_manifest(root), *_there(root)}:
            known.setdefault(PurePosixPath(name).stem, set()).add(name)
        wanted = set(ids)
        for id in sorted(wanted - known.keys()):
            raise ConfigError(f"The leaderboard {root} has no record '{id}'.{suggest(id, known)}")
        gone = sorted(name for id in wanted for name in known[id])
        manifest = _begin(root, gone)
        _commit(root, {name: digest for name, digest in manifest.items() if name not in gone})
        problem = ""
        try:
            _settle(root)
        except LedgerError as error:
            problem = str(error)
    return [root / name for name in gone], problem


@contextlib.contextmanager
def held(
    root: Path, left_out: list[str] | None = None, traces: dict[str, Trace] | None = None
) -> Iterator[list[Record]]:
    """A leaderboard that nobody else changes meanwhile: its records, as of `read_board`, after what was cut off.

    Raises:
        LedgerError: as of `read_board`. BusyError: another process keeps hold of it.
    """
    if os.access(root, os.W_OK):
        with _alone(root):
            _settle(root, left_out=[])
            yield _read(root, left_out, traces)
    else:  # whoever may change it is elsewhere
        yield _read(root, left_out, traces)


def _alone(root: Path) -> contextlib.AbstractContextManager[None]:
    return locked(root, f"The leaderboard {root}", name=LOCK, wait=PATIENCE)


def _begin(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Write down which files come or go, beside those of a process that was killed; returns the manifest."""
    manifest = _manifest(root)
    atomic_write(root / JOURNAL, pretty_json(sorted({*names, *_journal(root)})))
    if not manifest:
        atomic_write(root / MANIFEST, pretty_json({}))  # before there is any file that it could list
    return manifest


def _put(record: Record, root: Path) -> dict[str, str]:
    """Copy a record and its curve; returns their sums.

    Raises:
        LedgerError: they cannot be written, or the curve is not the one that the record names any more.
    """
    assert record.folder is not None
    path, curve = _files(record)
    stored = replace(
        record, curve_file={**record.curve_file, "file": PurePosixPath(curve).name}, folder=root / "curves"
    )
    source = record.folder / record.curve_file["file"]
    try:
        contents = {path: stored.to_json().encode(), curve: source.read_bytes()}
    except OSError as error:
        raise LedgerError(f"{source} cannot be read: {error.strerror}.") from error
    for name, content in contents.items():
        atomic_write(make_folder((root / name).parent) / PurePosixPath(name).name, content)
    _ = stored.curve  # which was checked where it was copied from
    return {name: sha256(content) for name, content in contents.items()}


def _commit(root: Path, manifest: Mapping[str, str]) -> None:
    """From here on, the manifest's files are on the board, through a power cut, too."""
    for folder in {root / parent for name in _journal(root) for parent in PurePosixPath(name).parents}:
        if folder.is_dir():
            sync_folder(folder)
    atomic_write(root / MANIFEST, pretty_json(manifest))


def _settle(root: Path, board: Sequence[Record] | None = None, left_out: list[str] | None = None) -> None:
    """End what was begun, by this process or one that was killed: delete files that are not listed, make the page.

    Args:
        board: the records that are listed; read if None. left_out: as of `read_board`.
    """
    names = _journal(root)
    for folder in {root, *((root / name).parent for name in names)}:
        for part in folder.glob(".*.part"):  # of writes that were killed
            part.unlink()
    if not names:
        return
    listed = _manifest(root)
    for name in names:
        if name not in listed:
            (root / name).unlink(missing_ok=True)
    atomic_write(root / PAGE, readme(_read(root, left_out) if board is None else board))
    (root / JOURNAL).unlink()


def _files(record: Record) -> tuple[str, str]:
    """Return the files of a record, as the manifest names them."""
    return place(record).as_posix(), f"curves/{record.id}.npz"


def _folders(files: Iterable[PurePath]) -> dict[str, str]:
    """Return the folders that files of a board lie in, by what is left of their names where case does not count."""
    return {folder.as_posix().lower(): folder.as_posix() for file in files for folder in file.parents}


def _seed_of(record: Record) -> tuple[str, int, str]:
    """Return what the board has one run of: a row's seed, on one stream."""
    return row_id(record), record.seeds["data"], record.benchmark["fingerprint"]


def _apart(record: Record, other: Record) -> list[str]:
    """Return the fields in which two records of one id differ, wherever their curves lie."""
    names = [f.name for f in fields(Record) if f.compare and f.name != "curve_file"]
    apart = [name for name in names if getattr(record, name) != getattr(other, name)]
    return apart + ["curve"] * (record.curve_file["sha256"] != other.curve_file["sha256"])


def _second(record: Record, other: Record) -> str:
    """Why a run is refused beside another one."""
    if record.id == other.id:
        what = f"The leaderboard has a run {other.id} already, with other {', '.join(_apart(record, other))}"
    else:
        by, now = (r.code.get("commit") or f"sources {r.code['sources']}" for r in (other, record))
        what = (
            f"Row {row_id(record)} of the leaderboard has a run of seed {record.seeds['data']} already, {other.id}, "
            f"made by other code ({by:.20}; this one by {now:.20})"
        )
    return f"{what}. It stays; `clbench leaderboard --remove {other.id}` takes it out, and this one can be submitted."


# --- reading a board ---


def read_board(
    root: Path, left_out: list[str] | None = None, traces: dict[str, Trace] | None = None
) -> list[Record]:
    """Return every record of a leaderboard, checked, in order of their paths; its metrics are what its curve says
    today.

    Files that the manifest does not list are no part of it (`unlisted`).

    Args:
        left_out: takes what is wrong with records that are left out; without it, the first one is raised.
        traces: takes what is drawn of each, by its id.

    Raises:
        LedgerError: a file is missing, altered, or not where it belongs; names it.
    """
    with contextlib.suppress(LedgerError):
        return _read(root, traces=traces)
    if not (root / MANIFEST).is_file():
        return _read(root)
    with held(root, left_out, traces) as board:  # a file may have been taken out meanwhile
        return board


def unlisted(root: Path) -> list[Path]:
    """Files among the evidence that were not submitted, and count for nothing."""
    return [root / name for name in sorted(_there(root) - _manifest(root).keys())]


def _read(
    root: Path, left_out: list[str] | None = None, traces: dict[str, Trace] | None = None
) -> list[Record]:
    manifest, there = _manifest(root), _there(root)
    wrong: dict[str, str] = {}
    more = sorted(there - manifest.keys())
    renamed = f" {root / more[0]} is not in {MANIFEST}: was it renamed?" if more else ""
    for name in sorted(manifest.keys() - there):
        wrong[name] = f"{root / name} is missing; {MANIFEST} lists it.{renamed}"
    found: dict[str, tuple[Record, Checked]] = {}
    for name in sorted(manifest.keys() & there):  # curves before records
        try:
            if sha256((root / name).read_bytes()) != manifest[name]:
                raise LedgerError(f"{root / name} was altered: its SHA-256 is not the one in {MANIFEST}.")
            if name.startswith("records/"):
                record = replace(parse_record(root / name), folder=root / "curves")
                if place(record).as_posix() != name:
                    raise LedgerError(f"{root / name} belongs to {place(record)}.")
                if (curve := f"curves/{record.curve_file['file']}") in wrong:
                    raise LedgerError(wrong[curve])
                found[name] = record, checked(record, traces)
        except LedgerError as error:
            wrong[name] = str(error)
        except OSError as error:
            wrong[name] = f"{root / name} cannot be read: {error.strerror}."
    data = {name: (record.benchmark["fingerprint"], *of[1:]) for name, (record, of) in found.items()}
    others, often = Others(), Counter(data.values())
    for name in sorted(found, key=lambda name: -often[data[name]]):  # what most of them say stands
        try:
            others.join(*found[name])
        except LedgerError as error:
            wrong[name] = str(error)
    said = [
        (why if str(root / name) in why else f"{root / name}: {why}") + _way_out(name)
        for name, why in wrong.items()
    ]
    if said and left_out is None:
        raise LedgerError(said[0])
    if left_out is not None:
        left_out += said
    return [replace(record, metrics=of.metrics) for name, (record, of) in found.items() if name not in wrong]


def _way_out(name: str) -> str:
    return (
        f" Put it back as it was, or `clbench leaderboard --remove {PurePosixPath(name).stem}` takes it out."
    )


def _there(root: Path) -> set[str]:
    return {
        file.relative_to(root).as_posix()
        for part in ("records", "curves")
        for file in (root / part).rglob("*")
        if file.is_file() and not file.name.startswith(".")
    }


def _manifest(root: Path) -> dict[str, str]:
    path = root / MANIFEST
    if not path.is_file():
        if any(_there(root)):
            raise LedgerError(f"{path} is missing, so that nothing says which records were submitted.")
        return {}
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise LedgerError(f"{path} is damaged: it is no table of SHA-256 sums.")
    return dict(content)


def _journal(root: Path) -> list[str]:
    """Return the files that a change of the board, which did not end yet, lets come or go."""
    path = root / JOURNAL
    names = read_json(path) if path.is_file() else []
    for name in names:
        if (
            PurePosixPath(str(name)).parts[:1] not in (("records",), ("curves",))
            or ".." in PurePosixPath(name).parts
        ):
            raise LedgerError(f"{path} is damaged: {name!r:.100} is no file of the leaderboard.")
    return list(names)
