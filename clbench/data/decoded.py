"""Images decoded once, and other arrays, as memory maps in a cache: more than fit into memory.

Shapes: N images, C channels, H × W pixels.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from clbench.data.files import data_folder
from clbench.data.pixels import MISREAD, Box, decode
from clbench.errors import DataError
from clbench.transforms.recipes import Recipe

CACHE = "folders"
"""The folder of `$CLBENCH_DATA` for what was decoded."""
DECODING = 2
"""Raised with every change to what `decode` makes of a file, so that no older cache is taken."""
AT_ONCE = 1024
"""Images that are in memory at a time."""
T = TypeVar("T")
Size = int | tuple[int, int]
"""Height and width, or one number for both."""


def decoded_files(
    paths: Sequence[str],
    size: Size,
    channels: int,
    recipe: Recipe | None = None,
    boxes: Sequence[Box | None] | None = None,
) -> Path:
    """Return the .npy file in the cache that holds images, uint8 (N, C, H, W); made if it is not there.

    Args:
        recipe: what they are brought to their size by. boxes: what of each image is cut out first, if anything.

    Raises:
        DataError: images that cannot be read.
    """

    def content(path: str) -> bytes:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise OSError(errno.EINVAL, "it is no file")
        with open(path, "rb", buffering=0) as file:
            return file.read()

    def chunks() -> Iterator[Sequence[str]]:
        return (paths[i : i + AT_ONCE] for i in range(0, len(paths), AT_ONCE))

    return decoded(chunks, content, paths.__getitem__, len(paths), size, channels, recipe, boxes)


def decoded(
    chunks: Callable[[], Iterable[Sequence[T]]],
    content: Callable[[T], bytes],
    named: Callable[[int], str],
    count: int,
    size: Size,
    channels: int,
    recipe: Recipe | None = None,
    boxes: Sequence[Box | None] | None = None,
) -> Path:
    """Return the .npy file of images that come in chunks, twice: first to be known, then to be decoded.

    Its name is a hash of the content of the files, so that it holds just what they would be decoded to now.

    Args:
        content: the bytes of one. named: what it is called in messages. count: N.

    Raises:
        DataError: images that cannot be read; names some.
    """

    def digest(of: Sequence[T], k: int) -> tuple[bytes, str]:
        try:
            return hashlib.sha256(content(of[k])).digest(), ""
        except OSError as error:
            return b"", str(error.strerror)

    digests: list[bytes] = []
    bad: list[str] = []
    for chunk in chunks():
        for found, why in for_each(partial(digest, chunk), len(chunk)):
            if why:
                bad.append(f"{named(len(digests))} ({why})")
            digests.append(found)
    _refuse(bad)
    height, width = (size, size) if isinstance(size, int) else size
    known: list[Any] = [DECODING, height if height == width else [height, width], channels]
    how: list[Any] = [] if recipe is None else [[recipe.interpolation, recipe.squash, recipe.size]]
    how += [] if boxes is None else [["boxes", *boxes]]
    sha = hashlib.sha256(json.dumps([*known, [d.hex() for d in digests], *how]).encode())
    kept = data_folder() / CACHE / f"{sha.hexdigest()[:32]}.npy"
    if kept.is_file():
        return kept

    def pixels() -> Iterator[npt.NDArray[np.uint8]]:
        start = 0
        for chunk in chunks():
            x = np.empty((len(chunk), channels, height, width), dtype=np.uint8)

            def fill(
                k: int, of: Sequence[T] = chunk, into: npt.NDArray[np.uint8] = x, at: int = start
            ) -> str:
                try:
                    found = content(of[k])
                    if hashlib.sha256(found).digest() != digests[at + k]:
                        raise ValueError("it changes while it is read")
                    box = None if boxes is None else boxes[at + k]
                    into[k] = decode(found, (height, width), channels, recipe, box)
                except MISREAD as error:
                    return f"{named(at + k)} ({error})"
                return ""

            bad.extend(told for told in for_each(fill, len(chunk)) if told)
            start += len(chunk)
            if not bad:  # otherwise only the rest of them is looked for
                yield x
        _refuse(bad)

    write_rows(kept, (count, channels, height, width), np.dtype(np.uint8), pixels())
    return kept


def write_rows(
    path: Path, shape: Sequence[int], dtype: np.dtype[Any], parts: Iterable[npt.NDArray[Any]]
) -> None:
    """Write a .npy file from parts, one after the other; it is whole or not there.

    Raises:
        DataError: the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            header = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": tuple(shape),
            }
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                file.write(
                    np.ascontiguousarray(part, dtype=dtype).data
                )  # a full disk is an error here, not a crash
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # if nothing is in it


def for_each(work: Callable[[int], T], count: int) -> list[T]:
    """Work on rows 0 … count − 1 in threads, a few at a time; neither hashing nor Pillow holds the interpreter."""
    parts = [range(start, min(start + 64, count)) for start in range(0, count, 64)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return [result for part in threads.map(lambda rows: [*map(work, rows)], parts) for result in part]


def _refuse(messages: Sequence[str]) -> None:
    if messages:
        more = f" and {len(messages) - 3} others" if len(messages) > 3 else ""
        raise DataError(
            f"Images that cannot be read: {'; '.join(messages[:3])}{more}. Remove, replace or convert them."
        )
