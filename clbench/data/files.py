"""Data sets from files: `.npz` and folders of images."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from clbench.data.source import Source, source_of
from clbench.errors import ConfigError, DataError
from clbench.files import UNREADABLE, check_size
from clbench.types import Pool


def data_folder() -> Path:
    """Where data sets lie: `$CLBENCH_DATA`, else `~/.cache/clbench`."""
    return Path(os.environ.get("CLBENCH_DATA") or "~/.cache/clbench").expanduser()


def read_npz(path: str | Path) -> Source:
    """A data set from one `.npz` file, of plain arrays.

    Keys: x_train, y_train, x_test, y_test; optional domain_train and domain_test, class_names, domain_names.
    Inputs are those of `from_arrays`.

    Raises:
        DataError: no such file, or a damaged one; names the key and what it should be.
    """
    file = Path(path).expanduser()
    try:
        stat = file.stat()
    except OSError as error:
        raise DataError(f"The data file {path} cannot be read: {error.strerror}.") from error
    return _read_npz(file, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=2)  # a suite builds the same data set for every seed
def _read_npz(path: Path, _mtime: int, _size: int) -> Source:
    needed = ("x_train", "y_train", "x_test", "y_test")
    optional = ("domain_train", "domain_test", "class_names", "domain_names")
    return source_of(**read_arrays(path, needed, optional), who=str(path))


def read_arrays(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """Arrays of an `.npz` file by key, read without pickle; optional ones where they are there.

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
    return arrays


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
        arrays = list(read_arrays(file, keys).values())
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


SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""What an image's name ends in; other files in an image folder are passed over."""


@dataclass(frozen=True)
class _Image:
    path: Path
    domain: str
    label: str
    name: str  # path below the folder, with slashes on every system


def read_folder(
    path: str | Path, *, size: int = 64, channels: Literal[1, 3] = 3, test_fraction: float = 0.2
) -> Source:
    """A data set from a folder of images, decoded once and cached as a memory map in `$CLBENCH_DATA/folders`.

    Layouts: `train/<class>/*` and `test/<class>/*`; or `<domain>/<class>/*`; or `<class>/*`. Where there is
    no test folder, each class's images (in each domain) are ordered by the SHA-256 of their path below the
    folder, and the first `test_fraction` of them are for testing: the same on every machine, and new images
    move few old ones. Classes and domains are numbered in the order of their names. Images are cropped to a
    square about the centre and resized to size × size, bilinear.

    Raises:
        ConfigError: a size or fraction out of range.
        DataError: no such folder, no images, a class without training or test images, images that cannot be
            read.
    """
    root = Path(path).expanduser()
    if size < 1 or not 0 < test_fraction < 1:
        raise ConfigError(
            f"An image folder needs size ≥ 1 and 0 < test_fraction < 1; given: {size}, {test_fraction}."
        )
    try:
        train, test = _list_images(root, test_fraction)
        stats = [image.path.stat() for image in (*train, *test)]
    except OSError as error:  # a link that leads nowhere, or no permission
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}. Remove or replace it."
        ) from error
    labels = sorted({image.label for image in train})
    domains = sorted({image.domain for image in train})
    path = str(_decoded([*train, *test], stats, size, channels))

    def numbers(images: list[_Image], key: str, names: list[str]) -> npt.NDArray[np.int64]:
        order = {name: k for k, name in enumerate(names)}
        return np.array([order[getattr(image, key)] for image in images], dtype=np.int64)

    return Source(
        Pool.mapped(path, 0, len(train), torch.from_numpy(numbers(train, "label", labels))),
        Pool.mapped(
            path, len(train), len(train) + len(test), torch.from_numpy(numbers(test, "label", labels))
        ),
        tuple(labels),
        numbers(train, "domain", domains) if domains != [""] else None,
        numbers(test, "domain", domains) if domains != [""] else None,
        tuple(domains) if domains != [""] else (),
    )


def _list_images(root: Path, test_fraction: float) -> tuple[list[_Image], list[_Image]]:
    if not root.is_dir():
        raise DataError(f"There is no image folder {root}.")
    top = _folders(root)
    if {"train", "test"} <= {f.name for f in top}:
        other = [f.name for f in top if f.name not in ("train", "test")]
        if other:
            raise DataError(
                f"{root} holds train/ and test/, but also {other[0]}/, which would go unused; move it "
                "elsewhere, or its images into one of the two."
            )
        train, test = (
            [image for label in _folders(root / split) for image in _images_in(root, label, "")]
            for split in ("train", "test")
        )
    else:
        train, test = [], []
        nested = [f for f in top if _folders(f)]
        groups = [(label, domain.name) for domain in nested for label in _folders(domain)]
        for label, domain in groups or [(label, "") for label in top]:
            images = _images_in(root, label, domain)
            by_hash = sorted(
                images, key=lambda image: hashlib.sha256(image.name.encode(errors="surrogateescape")).digest()
            )
            cut = min(max(1, math.floor(len(images) * test_fraction + 0.5)), max(len(images) - 1, 0))
            chosen = {image.name for image in by_hash[:cut]}
            train += [image for image in images if image.name not in chosen]
            test += [image for image in images if image.name in chosen]
    if not train and not test:
        raise DataError(
            f"{root} holds no images in folders of classes: train/<class>/* and test/<class>/*, or "
            f"<domain>/<class>/*, or <class>/*, with names that end in {', '.join(SUFFIXES)}."
        )
    for having, lacking, which in ((train, test, "test"), (test, train, "training")):
        without = sorted({i.label for i in having} - {i.label for i in lacking})
        if without:
            raise DataError(
                f"Class '{without[0]}' in {root} has no {which} images; every class needs some of both."
            )
    return train, test


def _folders(path: Path) -> list[Path]:
    return sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))


def _images_in(root: Path, folder: Path, domain: str) -> list[_Image]:
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    return [_Image(f, domain, folder.name, f.relative_to(root).as_posix()) for f in files]


def _decoded(images: list[_Image], stats: list[os.stat_result], size: int, channels: int) -> Path:
    """The .npy file in the cache that holds the images, uint8 (N, C, size, size); made if it is not there."""
    listing = [(i.name, s.st_size, s.st_mtime_ns) for i, s in zip(images, stats, strict=True)]
    key = hashlib.sha256(json.dumps([size, channels, listing]).encode()).hexdigest()
    path = data_folder() / "folders" / f"{key[:32]}.npy"
    if not path.is_file():
        from PIL import Image, ImageOps

        x = np.empty((len(images), channels, size, size), dtype=np.uint8)

        def decode(row: int) -> str | None:
            try:
                with Image.open(images[row].path) as image:
                    upright = ImageOps.exif_transpose(image).convert("RGB" if channels == 3 else "L")
                square = ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR)
            except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
                return f"{images[row].path} ({error})"
            x[row] = np.asarray(square).reshape(size, size, channels).transpose(2, 0, 1)
            return None

        with ThreadPoolExecutor(os.cpu_count()) as threads:  # Pillow decodes without holding the interpreter
            bad = [message for message in threads.map(decode, range(len(images))) if message is not None]
        if bad:
            more = f" and {len(bad) - 3} others" if len(bad) > 3 else ""
            raise DataError(
                f"Images that cannot be read: {'; '.join(bad[:3])}{more}. Remove or replace them."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, lambda file: np.save(file, x))
    return path


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
    """The file that records a data file's SHA-256, as `sha256sum` writes it."""
    return path.with_name(f"{path.name}.sha256")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
