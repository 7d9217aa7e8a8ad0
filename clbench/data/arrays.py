"""Arrays that need not fit into memory: maps of files, rows of them, and what is written to the cache."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clbench.data.decoded import AT_ONCE, CACHE, write_rows
from clbench.data.draws import Ints
from clbench.data.files import data_folder
from clbench.errors import DataError

IN_MEMORY = 256 << 20
"""Bytes of rows of an array, no range of it, that are gathered in memory; more are written to the cache."""


def opened(path: str | Path) -> npt.NDArray[Any]:
    """Return the array of a .npy file, as a memory map.

    Raises:
        DataError: it cannot be read.
    """
    file = Path(path).expanduser()
    try:
        array: npt.NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"The array {file} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        why = "" if "pickle" in str(error) else f": {error}"  # what is said there of pickles is no advice
        raise DataError(f"{file} is no .npy file of plain numbers{why}.") from error
    if not isinstance(array, np.ndarray) or not array.ndim:
        raise DataError(f"{file} is no .npy file of one array with a row for each example.")
    return array


def gathered(array: npt.NDArray[Any], rows: Ints) -> npt.NDArray[Any]:
    """Rows of an array: a range of it as it lies there, others in memory or, if they are many, in the cache."""
    if len(rows) and int(rows[-1]) - int(rows[0]) + 1 == len(rows) and (np.diff(rows) == 1).all():
        return array[int(rows[0]) : int(rows[-1]) + 1]
    width = array[:1].nbytes
    if width * len(rows) <= IN_MEMORY:
        found: npt.NDArray[Any] = np.asarray(array[rows])
        return found
    step = max(1, (16 << 20) // width)

    def parts() -> Iterator[npt.NDArray[Any]]:
        return (array[rows[i : i + step]] for i in range(0, len(rows), step))

    return kept_in_cache(parts, (len(rows), *array.shape[1:]), array.dtype)


def kept_once(
    parts: Iterable[npt.NDArray[Any]], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Return an array of parts that come once as a memory map of a file in the cache, named by a hash of it."""
    sha = hashlib.sha256(json.dumps([shape, dtype.str]).encode())

    def seen() -> Iterator[npt.NDArray[Any]]:
        for part in parts:
            sha.update(np.ascontiguousarray(part, dtype=dtype).data)
            yield part

    folder = data_folder() / CACHE
    written = folder / f"{secrets.token_hex(16)}.npy"
    write_rows(written, shape, dtype, seen())
    file = written.replace(folder / f"{sha.hexdigest()[:32]}.npy")
    kept: npt.NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    return kept


def stacked(paths: Sequence[Path]) -> npt.NDArray[Any]:
    """Return the arrays of files as one."""
    first = opened(paths[0])

    def parts() -> Iterator[npt.NDArray[Any]]:
        for i in range(0, len(paths), AT_ONCE):
            some = [opened(path) for path in paths[i : i + AT_ONCE]]
            for path, one in zip(paths[i : i + AT_ONCE], some, strict=True):
                if one.shape != first.shape or one.dtype != first.dtype:
                    raise DataError(
                        f"{path} is {one.dtype} of shape {one.shape}, and {paths[0]} {first.dtype} of shape "
                        f"{first.shape}; all arrays are of one form."
                    )
            yield np.stack(some)

    if first.nbytes * len(paths) <= IN_MEMORY:
        return np.concatenate([*parts()])
    return kept_in_cache(parts, (len(paths), *first.shape), first.dtype)


def kept_in_cache(
    parts: Callable[[], Iterable[npt.NDArray[Any]]], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Return an array of parts as a memory map of a file in the cache, whose name is a hash of what it holds."""
    sha = hashlib.sha256(json.dumps([shape, dtype.str]).encode())
    for part in parts():
        sha.update(np.ascontiguousarray(part).data)
    file = data_folder() / CACHE / f"{sha.hexdigest()[:32]}.npy"
    if not file.is_file():
        write_rows(file, shape, dtype, parts())
    kept: npt.NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    return kept
