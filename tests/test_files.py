"""Files that are whole or not there, and locks."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from clbench.errors import LedgerError
from clbench.files import atomic_write, canonical_json, locked, make_folder, pretty_json, read_json


def fail(number: int) -> object:
    def raising(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    return raising


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "record.json"
    atomic_write(path, "old")
    monkeypatch.setattr(os, call, fail(errno.ENOSPC))
    with pytest.raises(
        LedgerError, match=r"The disk is full: .*record\.json could not be written\. Free some space"
    ):
        atomic_write(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("record.json", "old")]


def test_a_file_too_large_leaves_the_old_file(tmp_path: Path) -> None:
    """As the system does it: the write itself fails, in the middle."""
    program = (
        "import resource, signal, sys; from pathlib import Path; from clbench.files import atomic_write;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "atomic_write(Path(sys.argv[1]), 'x' * 5000)"
    )
    path = tmp_path / "curve.npz"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert "curve.npz cannot be written: File too large" in done.stderr
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("curve.npz", "old")]


def test_files_are_as_readable_as_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        atomic_write(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be written: its folder is not there"):
        atomic_write(tmp_path / "no" / "a", "x")


def test_a_folder_where_a_file_lies_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(LedgerError, match="a/b cannot be written: Not a directory"):
        make_folder(tmp_path / "a" / "b")


def test_a_folder_in_use_names_who_uses_it(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from clbench.files import locked\n"
        "with locked(Path(sys.argv[1]), 'Run x'): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        with (
            pytest.raises(
                LedgerError, match=rf"^Run x is in the hands of another process \(pid {other.pid}\)"
            ),
            locked(tmp_path, "Run x"),
        ):
            pass
        other.kill()
    with locked(tmp_path, "Run x"):  # the lock goes with its holder
        pass


def test_canonical_json_has_one_form() -> None:
    assert canonical_json({"b": (1, 0.1), "a": None}) == canonical_json({"a": None, "b": [1, 0.1]})
    assert canonical_json({"b": (1, 0.1), "a": None}) == '{"a":null,"b":[1,0.1]}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_written_by_name(value: float) -> None:
    assert json.loads(pretty_json([value])) == [str(value)]


def test_a_missing_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"There is no .*a\.json\."):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a": 1'])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(LedgerError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")


def test_a_full_disk_is_told_where_a_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", fail(errno.ENOSPC))  # what is written into the lock
    message = r"The disk is full: .*lock could not be written"
    with pytest.raises(LedgerError, match=message), locked(tmp_path, "Run x"):
        pass
