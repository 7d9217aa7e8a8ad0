"""Data sets from `.npz` files, lists of rows, and how files are written."""

from __future__ import annotations

import functools
import hashlib
import io
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clbench.data.source import AxesOrder, Source, source_of
from clbench.errors import DataError, choices
from clbench.files import UNREADABLE, check_size, file_sha256
from clbench.files.places import data_folder as data_folder


def read_npz(path: str | Path, *, layout: AxesOrder = "auto", others: bool = False) -> Source:
    """Return a data set from one `.npz` file, of plain arrays.

    Keys: x_train, y_train, x_test, y_test; optional x_valid and y_valid, domain_train, domain_test and domain_valid,
    class_names, domain_names. Inputs are those of `from_arrays`, and so is `layout`.

    Args:
        others: whether the file may hold other keys, which `Source.found` names then.

    Raises:
        DataError: no such file, a damaged one, or a key that is none of these; names the key and what it should be.
    """
    file = Path(path).expanduser()
    try:
        digest = file_sha256(file)
    except OSError as error:
        raise DataError(f"The data file {path} cannot be read: {error.strerror}.") from error
    return _read_npz(file, digest, layout, others)


@functools.lru_cache(maxsize=2)  # a suite builds the same data set for every seed
def _read_npz(path: Path, _digest: str, layout: AxesOrder, others: bool) -> Source:
    needed = ("x_train", "y_train", "x_test", "y_test")
    optional = (
        *("x_valid", "y_valid", "domain_train", "domain_test", "domain_valid"),
        *("class_names", "domain_names"),
    )
    arrays, unused = read_arrays(path, needed, optional)
    if unused and not others:
        raise DataError(
            f"{path} holds {unused[0]}, which would go unused.{choices(unused[0], (*needed, *optional))} Rename it, or "
            "write the file without it."
        )
    source = source_of(**arrays, layout=layout, who=str(path))
    told = (f"{path.name} also holds {', '.join(unused)}, of which nothing is used.",) if unused else ()
    return replace(source, found=told)


def read_arrays(
    path: Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Arrays of an `.npz` file by key, read without pickle, optional ones where they are there; and its other keys.

    Raises:
        DataError: no such file, a damaged one, or one without what is needed.
    """
    arrays: dict[str, Any] = {}
    try:
        # Opened here, as NumPy leaves what is no zip file open.
        with path.open("rb") as handle:
            file = np.load(handle, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array, not several by name")
            if file.zip is not None:
                check_size(file.zip)
            if twice := [key for key, times in Counter(file.files).items() if times > 1]:
                raise ValueError(f"it holds {twice[0]} twice")
            missing = [key for key in needed if key not in file.files]
            if missing:
                raise DataError(
                    f"{path} has no {missing[0]}; it needs {', '.join(needed)} and holds "
                    f"{', '.join(file.files) or 'nothing'}."
                )
            for key in (*needed, *optional):
                if key in file.files:
                    try:
                        arrays[key] = file[key]
                    except UNREADABLE as error:
                        raise ValueError(f"{key}: {error}") from error
    except DataError:
        raise
    except UNREADABLE as error:
        # NumPy takes a file that it does not know for a pickle, and advises to load it unsafely.
        why = "it is no archive of plain arrays" if "pickled" in str(error) else error
        raise DataError(
            f"{path} is not a usable .npz file: {why}. Write it with numpy.savez from plain arrays; "
            "objects, which NumPy pickles, are never loaded."
        ) from error
    return arrays, [key for key in file.files if key not in (*needed, *optional)]


def read_rows(path: str | Path) -> list[int]:
    """Row numbers from a file: a text of whole numbers between spaces, commas or lines, or an `.npz` of one array.

    Raises:
        DataError: no such file, or what it holds is something else.
    """
    file = Path(path).expanduser()
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"The list {path} cannot be read: {error.strerror}.") from error
    if data[:2] == b"PK":  # every zip begins so
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            keys = [name.removesuffix(".npy") for name in archive.namelist()]
        arrays = list(read_arrays(file, keys)[0].values())
        if len(arrays) != 1 or arrays[0].dtype.kind not in "iu":
            raise DataError(
                f"The list {path} must hold one array of whole numbers; it holds {', '.join(keys)}."
            )
        return [int(row) for row in arrays[0].ravel()]
    try:
        words = data.decode("utf-8").replace(",", " ").split()
    except UnicodeDecodeError as error:
        raise DataError(f"The list {path} is neither text nor an .npz file.") from error
    for word in words:
        if not word.isdecimal():
            raise DataError(f"The list {path} holds '{word[:20]}'; it may hold whole numbers only.")
    return [int(word) for word in words]


def write(path: Path, content: Callable[[Any], object]) -> None:
    """Write a file that is whole or not there.

    Raises:
        DataError: the folder cannot be written.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            content(file)
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sidecar(path: Path) -> Path:
    """Return the file that records a data file's SHA-256, as `sha256sum` writes it."""
    return path.with_name(f"{path.name}.sha256")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
