"""Files that are whole or not there, locks, and canonical JSON. Imports no torch."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import struct
import sys
import tempfile
import threading
import time
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clbench.errors import BusyError, LedgerError

SHOWN = 300
"""Characters of a path that a message shows; longer ones are mistakes."""


def atomic_write(path: Path, content: bytes | str, *, lasting: bool = True) -> None:
    """Write a file so that a reader, a crash or a full disk finds the old content or the new one, never a
    part.

    Args:
        lasting: whether to wait until it survives a power cut; not for what can be made again.

    Raises:
        LedgerError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    with writing(path):
        # Not tempfile: its files are for the owner alone, and results are for everyone the umask lets in.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                if lasting:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if lasting:
            sync_folder(path.parent)  # the rename itself must survive a power cut


def sync_folder(path: Path) -> None:
    """Have what a folder holds, as names, survive a power cut.

    Raises:
        LedgerError: it cannot be.
    """
    with writing(path):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path in which `~` is the home folder, as shells have it; they leave it in `--out=~/x` and `path=~/x`."""
    return Path(os.path.expanduser(path))


def make_folder(path: Path) -> Path:
    """Return the folder, created if need be.

    Raises:
        LedgerError: it cannot be created; says why.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def check_place(path: Path, *, file: bool = False) -> Path:
    """Return the path of a folder, or of a file, that is written later; refused now if it cannot be, and nothing is
    made.

    Args:
        file: whether a file is meant, in a folder that takes new ones; of a folder that is there, nothing is asked.

    Raises:
        LedgerError: says why.
    """
    whole = Path(os.path.abspath(path))
    with writing(path):
        place = whole.parent if file and _is_there(whole) else whole
        while not _is_there(place):
            place = place.parent
    if file and whole.exists() and not whole.is_file():
        what = "a folder; name a file in it" if whole.is_dir() else "no ordinary file; name another"
        raise LedgerError(f"{path} is {what}.")
    if place.is_symlink() and not place.exists():
        raise LedgerError(
            f"{path} cannot be written: {place} is a link to {os.readlink(place)}, which is not there. Make that "
            "folder, or name another."
        )
    if not place.is_dir():
        raise LedgerError(f"{path} cannot be written: {place} is a file, not a folder. Name another.")
    if place != whole:
        try:
            tempfile.TemporaryFile(dir=place).close()  # rights alone do not tell: of root's, of /proc's
        except OSError as error:
            raise LedgerError(
                f"{path} cannot be written: nothing may be made in {place} ({error.strerror}). Name another."
            ) from error
    return path


def _is_there(path: Path) -> bool:
    """Whether something has this path, a link to nowhere too.

    Raises:
        OSError: nothing can have it, as it is too long.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except ValueError as error:  # a NUL in it
        raise OSError(str(error)) from error
    return True


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Wrap what writes a file, and say of a failure what people need to know.

    Raises:
        LedgerError: the disk is full, or the place cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LedgerError(
                f"The disk is full: {path} could not be written. Free some space and run the same command "
                "again; nothing finished is lost."
            ) from error
        if error.errno == errno.ENOENT:  # it may be there again by now
            raise LedgerError(
                f"{path} cannot be written: its folder is not there, or was removed meanwhile. If it was a run's, the "
                "same command starts that run from the beginning."
            ) from error
        shown = path if len(str(path)) <= SHOWN else f"{str(path)[:SHOWN]}…"
        raise LedgerError(f"{shown} cannot be written: {error.strerror or error}.") from error


@contextlib.contextmanager
def locked(folder: Path, what: str, *, name: str = "lock", wait: float = 0.0) -> Iterator[None]:
    """Hold a folder alone; the lock goes with the process, however it ends.

    Args:
        name: that of the file that is locked.
        wait: seconds to wait for another process to end.

    Raises:
        BusyError: another process holds it.
    """
    import fcntl

    path, until = folder / name, time.monotonic() + wait
    with writing(path):
        file = path.open("a+")
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() < until:
                    time.sleep(0.02)
                    continue
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise BusyError(
                    f"{what} is in the hands of another process (pid {holder}); wait for it to end."
                ) from error
        with writing(path):
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
        yield


UNREADABLE = (
    *(
        OSError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        RuntimeError,
        MemoryError,
        SyntaxError,
    ),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What reading an archive of arrays raises if it is damaged or none."""


def check_size(archive: zipfile.ZipFile) -> None:
    """Refuse an archive that unpacks to more than fits into memory; a few kilobytes can.

    Raises:
        ValueError: says how large it would be.
    """
    size = sum(entry.file_size for entry in archive.infolist())
    if size > memory_bytes():
        raise ValueError(f"it unpacks to {size >> 20} MB, more than the memory of this machine")


def memory_bytes() -> int:
    """Return how much memory this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def canonical_json(value: Any) -> str:
    """Write JSON in the one form there is: sorted keys, no spaces, shortest floats, nothing that is not a
    number."""
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def pretty_json(value: Any) -> str:
    """Write JSON for people: sorted keys, two spaces."""
    return json.dumps(_plain(value), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Turn infinity and NaN, which JSON lacks, into their names."""
    if isinstance(value, dict):
        return {str(k): v if type(v) in _AS_THEY_ARE else _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [v if type(v) in _AS_THEY_ARE else _plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


_AS_THEY_ARE = frozenset((str, int, bool, type(None)))


def sha256(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


SETTLED = 2.0
"""Seconds after which a file's time of change tells every later change: clocks of file systems are coarse."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content; computed again only where the file may have changed since.

    The time of the last change of the file itself tells: unlike that of its content, nobody sets it.
    """
    stat = path.stat()
    if time.time() - stat.st_ctime < SETTLED:
        return _file_sha256.__wrapped__(path)
    return _file_sha256(path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_ctime_ns)


@functools.lru_cache(maxsize=1024)
def _file_sha256(path: Path, *_identity: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shared(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a dictionary whose keys are kept once for all files: half of what a record takes."""
    return {sys.intern(key): value for key, value in pairs}


def read_json(path: Path) -> Any:
    """Return a JSON file's content.

    Raises:
        LedgerError: missing or damaged; names the file.
    """
    if path.exists() and not path.is_file():  # a pipe would never end
        raise LedgerError(f"{path} is no file.")
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_shared)
    except FileNotFoundError:
        raise LedgerError(f"There is no {path}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise LedgerError(f"{path} is damaged: {error}.") from error
