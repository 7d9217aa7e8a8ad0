"""Data sets: where they come from, what they must look like, and benchmarks from one's own.

    import clbench
    benchmark = clbench.from_arrays(x_train, y_train, x_test, y_test, experiences=5)
    benchmark = clbench.from_folder("photos", size=64)        # photos/train/<class>/*, photos/test/<class>/*

A data set is decoded once, to uint8 with channels first, and lies in `$CLBENCH_DATA` (default
`~/.cache/clbench`) as `<name>.npz`. A file that is already there is used as it is; the fingerprint of a
benchmark holds the hash of the data. Building a benchmark never downloads; `fetch` does.

Shapes: N examples, C channels, H × W pixels, D features.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clbench.augment import Permute, Transform
from clbench.errors import ConfigError, DataError, suggest
from clbench.streams import (
    Order,
    changed_domains,
    class_incremental,
    domain_incremental,
)
from clbench.streams import (
    online as seen_once,
)
from clbench.types import Benchmark, Change, Pool, Setting

Shift = Literal["class", "domain", "task"]


@dataclass(frozen=True, eq=False)
class Source:
    """A data set, checked: what benchmarks are cut from.

    Attributes:
        train, test: the pools; labels are 0 … C−1, each with training and test examples.
        class_names: of classes 0, 1, …, or nothing.
        domain_train, domain_test: (N,) domain of every example, where it is known.
        domain_names: of domains 0, 1, …, or nothing.
        scale: what brings uint8 inputs to [0, 1].
        mean, std: published normalisation per channel; computed from the training pool where there is none.
    """

    train: Pool
    test: Pool
    class_names: tuple[str, ...] = ()
    domain_train: npt.NDArray[np.int64] | None = None
    domain_test: npt.NDArray[np.int64] | None = None
    domain_names: tuple[str, ...] = ()
    scale: float = 1 / 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @functools.cached_property
    def num_classes(self) -> int:
        return int(self.train.y.max()) + 1

    @functools.cached_property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std: the published ones, else of the training pool; none for features and tokens."""
        if self.mean or self.train.x.dtype != torch.uint8:
            return self.mean, self.std
        return moments(self.train.x, self.scale)


@dataclass(frozen=True)
class Known:
    """A named data set.

    Attributes:
        title: for people.
        shape: (C, H, W). classes: C. sizes: training and test examples; what the published files hold.
        dataset: class of `torchvision.datasets` that downloads it, with its checksums; nothing if none does.
        megabytes: size of the download.
        mean, std: normalisation that papers use, of pixels in [0, 1]; nothing: computed.
        domains: names of its domains.
        get: where it can be had by hand.
    """

    title: str
    shape: tuple[int, int, int]
    classes: int
    sizes: tuple[int, int]
    dataset: str = ""
    megabytes: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    domains: tuple[str, ...] = ()
    get: str = ""


# The means and stds are those of the training sets, rounded as in the code of most papers; tests compare them.
KNOWN = {
    "mnist": Known("MNIST", (1, 28, 28), 10, (60_000, 10_000), "MNIST", 12, mean=(0.1307,), std=(0.3081,)),
    "fashion_mnist": Known(
        "Fashion-MNIST", (1, 28, 28), 10, (60_000, 10_000), "FashionMNIST", 31, mean=(0.2860,), std=(0.3530,)
    ),
    "cifar10": Known(
        "CIFAR-10",
        (3, 32, 32),
        10,
        (50_000, 10_000),
        "CIFAR10",
        170,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    "cifar100": Known(
        "CIFAR-100",
        (3, 32, 32),
        100,
        (50_000, 10_000),
        "CIFAR100",
        169,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
    "pacs": Known(
        "PACS",
        (3, 64, 64),
        7,
        (8_003, 1_988),
        domains=("photo", "art_painting", "cartoon", "sketch"),
        get="its images, in folders <domain>/<class>/, from the authors (Li et al., ICCV 2017, arXiv:1710.03077)",
    ),
}
"""The data sets that clbench knows by name, beside the embedded digits."""

PACS_SIZE = 64
"""Pixels that PACS is resized to from a folder of its images."""


def data_folder() -> Path:
    """Where data sets lie: `$CLBENCH_DATA`, else `~/.cache/clbench`."""
    return Path(os.environ.get("CLBENCH_DATA") or "~/.cache/clbench").expanduser()


# --- embedded ---


@functools.cache
def digits() -> Source:
    """The 1 797 handwritten digits that scikit-learn carries: 8 × 8 pixels of 0 … 16.

    Of each class, in the order of the data set, every fifth example is for testing.
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    y = y.astype(np.int64)
    rank = np.empty(len(y), dtype=np.int64)
    for c in range(10):
        rank[y == c] = np.arange(int((y == c).sum()))
    test = rank % 5 == 4
    x = x.astype(np.uint8).reshape(-1, 1, 8, 8)
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return Source(_pool(x[~test], y[~test]), _pool(x[test], y[test]), names, scale=1 / 16)


# --- named ---


def load(name: str) -> Source:
    """A named data set from `$CLBENCH_DATA/<name>.npz`.

    Raises:
        ConfigError: an unknown name. DataError: the file is missing (says how to get it) or damaged.
    """
    known = _known(name)
    path = data_folder() / f"{name}.npz"
    if not path.is_file():
        images = data_folder() / name
        if not known.dataset and images.is_dir():
            return read_folder(images, size=PACS_SIZE)
        raise DataError(_missing(name))
    source = read_npz(path)
    fits = len(known.mean) == (source.train.x.shape[1] if source.train.x.dim() == 4 else 0)
    if not fits or not known.mean:
        return source
    return Source(
        source.train,
        source.test,
        source.class_names,
        source.domain_train,
        source.domain_test,
        source.domain_names,
        mean=known.mean,
        std=known.std,
    )


def fetch(name: str) -> Path:
    """Download a named data set, check it, decode it once and leave `$CLBENCH_DATA/<name>.npz` and its SHA-256.

    What torchvision has already downloaded to `$CLBENCH_DATA` is used. A file that is there is left as it is.

    Raises:
        ConfigError: an unknown name. DataError: nothing downloads it, or the download failed.
    """
    known = _known(name)
    path = data_folder() / f"{name}.npz"
    if path.is_file():
        return path
    if not known.dataset:
        raise DataError(_missing(name))
    from clbench._torchvision import torchvision

    torchvision()
    from torchvision import datasets

    arrays: dict[str, Any] = {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for split in ("train", "test"):
            part = getattr(datasets, known.dataset)(path.parent, train=split == "train", download=True)
            # Read through `read_npz` later, which puts channels first; do it now, and every build is faster.
            arrays[f"x_{split}"] = _images(f"{known.title}, {split} images", np.asarray(part.data))
            arrays[f"y_{split}"] = np.asarray(part.targets, dtype=np.int64)
        arrays["class_names"] = np.array([str(c).split(" - ")[-1] for c in part.classes])
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong checksum is a RuntimeError
        raise DataError(f"{known.title} could not be fetched: {error}. {_missing(name)}") from error
    _write(path, lambda file: np.savez(file, **arrays))
    digest = _sha256(path)
    _write(_sidecar(path), lambda file: file.write(f"{digest}  {path.name}\n".encode()))
    return path


@dataclass(frozen=True)
class Status:
    """Where a data set stands: for `clbench data`.

    Attributes:
        state: "embedded", "ready", "damaged" (not what its recorded SHA-256 says) or "missing".
        megabytes: on disk, or to download.
        note: what to do about it.
    """

    name: str
    state: Literal["embedded", "ready", "damaged", "missing"]
    path: Path | None
    megabytes: int
    note: str


def status() -> list[Status]:
    """Where every data set stands; reads the files that have a recorded SHA-256."""
    found = [Status("digits", "embedded", None, 0, "comes with scikit-learn")]
    for name in KNOWN:
        path = data_folder() / f"{name}.npz"
        if not path.is_file():
            found.append(Status(name, "missing", path, KNOWN[name].megabytes, _missing(name)))
            continue
        size = path.stat().st_size // 1_000_000
        recorded = _sidecar(path)
        if recorded.is_file() and recorded.read_text(encoding="utf-8").split()[:1] != [_sha256(path)]:
            note = f"its SHA-256 is not the one in {recorded}; delete both files and fetch it again"
            found.append(Status(name, "damaged", path, size, note))
        else:
            found.append(
                Status(name, "ready", path, size, "" if recorded.is_file() else "no recorded SHA-256")
            )
    return found


def _known(name: str) -> Known:
    if name not in KNOWN:
        raise ConfigError(
            f"There is no data set named '{name}'.{suggest(name, KNOWN)} Known: {', '.join(KNOWN)}."
        )
    return KNOWN[name]


def _missing(name: str) -> str:
    known, folder = KNOWN[name], data_folder()
    shape = ", ".join(map(str, known.shape))
    keys = f"x_train ({known.sizes[0]}, {shape}) uint8, y_train ({known.sizes[0]},) int64, " + (
        f"x_test ({known.sizes[1]}, {shape}) uint8, y_test ({known.sizes[1]},) int64"
    )
    if known.domains:
        keys += (
            f", domain_train ({known.sizes[0]},) and domain_test ({known.sizes[1]},) int64, domain_names "
            f"({', '.join(known.domains)})"
        )
    if known.dataset:
        how = f"run `clbench data fetch {name}`, which downloads it ({known.megabytes} MB), or put"
    else:
        how = f"get {known.get}, and put the folders into {folder / name}, or put"
    return (
        f"{known.title} is not in {folder}: {how} {folder / name}.npz there, with the keys {keys}. The "
        "environment variable CLBENCH_DATA names another folder."
    )


# --- files ---


def read_npz(path: str | Path) -> Source:
    """A data set from one `.npz` file, of plain arrays.

    Keys: x_train, y_train, x_test, y_test; optional domain_train and domain_test, class_names, domain_names. Inputs
    as for `from_arrays`.

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
    arrays: dict[str, Any] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array, not several by name")
            missing = [key for key in needed if key not in file.files]
            if missing:
                raise DataError(
                    f"{path} has no {missing[0]}; it needs {', '.join(needed)} and holds "
                    f"{', '.join(file.files) or 'nothing'}."
                )
            for key in needed + optional:
                if key in file.files:
                    try:
                        arrays[key] = file[key]
                    except ValueError as error:
                        raise ValueError(f"{key}: {error}") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} is not a usable .npz file: {error}. Write it with numpy.savez from plain arrays; "
            "objects, which NumPy pickles, are never loaded."
        ) from error
    return source_of(**arrays, who=str(path))


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

    Layouts: `train/<class>/*` and `test/<class>/*`; or `<domain>/<class>/*`; or `<class>/*`. Where there is no test
    folder, each class's images (in each domain) are ordered by the SHA-256 of their path below the folder,
    and the first `test_fraction` of them are for testing: the same on every machine, and new images move few
    old ones. Classes and domains are numbered in the order of their names. Images are cropped to a square
    about the centre and resized to size × size, bilinear.

    Raises:
        DataError: no such folder, no images, a class without training or test images, an image that cannot be
        read.
    """
    root = Path(path).expanduser()
    if size < 1 or not 0 < test_fraction < 1:
        raise ConfigError(
            f"An image folder needs size ≥ 1 and test_fraction between 0 and 1; given: {size}, {test_fraction}."
        )
    train, test = _list_images(root, test_fraction)
    labels = sorted({image.label for image in train})
    domains = sorted({image.domain for image in train})
    x = _decoded([*train, *test], size, channels)

    def numbers(images: list[_Image], key: str, names: list[str]) -> npt.NDArray[np.int64]:
        order = {name: k for k, name in enumerate(names)}
        return np.array([order[getattr(image, key)] for image in images], dtype=np.int64)

    return Source(
        _pool(x[: len(train)], numbers(train, "label", labels)),
        _pool(x[len(train) :], numbers(test, "label", labels)),
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
            by_hash = sorted(images, key=lambda image: hashlib.sha256(image.name.encode()).digest())
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


def _decoded(images: list[_Image], size: int, channels: int) -> npt.NDArray[np.uint8]:
    """(N, C, size, size), a memory map of the cache, which is made first if it is not there."""
    stats = [image.path.stat() for image in images]
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
        _write(path, lambda file: np.save(file, x))
    # Copy-on-write: torch wants arrays that it may write to, and the file must not change.
    cached: npt.NDArray[np.uint8] = np.load(path, mmap_mode="c", allow_pickle=False)
    return cached


def _write(path: Path, content: Callable[[Any], object]) -> None:
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


def _sidecar(path: Path) -> Path:
    """The file that records a data file's SHA-256, as `sha256sum` writes it."""
    return path.with_name(f"{path.name}.sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- arrays ---


def source_of(
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    *,
    domain_train: Any = None,
    domain_test: Any = None,
    class_names: Any = (),
    domain_names: Any = (),
    who: str = "The data",
) -> Source:
    """A checked data set from arrays; inputs as for `from_arrays`.

    Raises:
        DataError: says which array is wrong, what is allowed and what to do. `who` names the data in messages.
    """
    pools = {}
    for split, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        inputs = _inputs(f"{who}: x_{split}", _array(x))
        labels = _integers(f"{who}: y_{split}", _array(y), len(inputs))
        pools[split] = _pool(inputs, labels)
    train, test = pools["train"], pools["test"]
    if train.x.shape[1:] != test.x.shape[1:] or train.x.dtype != test.x.dtype:
        raise DataError(
            f"{who}: x_train and x_test must be of one shape and type; they are {tuple(train.x.shape[1:])} "
            f"{train.x.dtype} and {tuple(test.x.shape[1:])} {test.x.dtype}."
        )
    classes = int(train.y.max()) + 1
    for split, pool in pools.items():
        absent = np.setdiff1d(np.arange(classes), pool.y.numpy())
        if len(absent):
            raise DataError(
                f"{who}: class {absent[0]} has no examples in y_{split}; labels are 0 … C−1, each in "
                "training and test. clbench never renumbers labels. To do so: names, y = numpy.unique(labels "
                "of both, return_inverse=True)."
            )
    if test.y.max() >= classes:
        raise DataError(
            f"{who}: class {int(test.y.max())} is in y_test but not in y_train, so nothing can learn it."
        )
    if (domain_train is None) != (domain_test is None):
        raise DataError(f"{who}: domain_train and domain_test go together; only one of them was given.")
    domains: list[npt.NDArray[np.int64] | None] = [
        None if d is None else _integers(f"{who}: domain_{split}", _array(d), len(pools[split].y))
        for split, d in (("train", domain_train), ("test", domain_test))
    ]
    names = tuple(str(name) for name in class_names)
    if names and len(names) != classes:
        raise DataError(f"{who}: {len(names)} class names were given for {classes} classes.")
    return Source(train, test, names, *domains, tuple(str(name) for name in domain_names))


def _array(given: Any) -> npt.NDArray[Any]:
    return given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)


def _pool(x: npt.NDArray[Any], y: npt.NDArray[np.int64]) -> Pool:
    return Pool(torch.from_numpy(x), torch.from_numpy(y))


def _inputs(who: str, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Inputs in the form that pools hold: uint8 (N, C, H, W) or (N, D), float32 alike, or int64 (N, D)."""
    if not x.size or not x.ndim:
        raise DataError(f"{who} is empty.")
    if x.dtype.kind == "f":
        if not np.isfinite(x).all():
            row = int(np.argwhere(~np.isfinite(x))[0][0])
            raise DataError(
                f"{who} holds NaN or infinity, first in example {row}; remove or fill these values."
            )
        if x.ndim in (2, 4):
            return _images(who, x.astype(np.float32, copy=False))
    elif x.dtype == np.uint8 and x.ndim in (2, 3, 4):
        return _images(who, x)
    elif x.dtype.kind in "iu" and x.ndim == 2:
        return x.astype(np.int64)
    raise DataError(
        f"{who} is {x.dtype} of shape {x.shape}. Allowed: uint8 images (N, H, W), (N, H, W, C) or (N, C, H, "
        "W) or features (N, D); floating-point features (N, D) or images with a channel axis; integer tokens "
        "(N, D)."
        + (" Pixels of 0 … 255 become uint8 by .astype(numpy.uint8)." if x.dtype.kind in "iub" else "")
    )


def _images(who: str, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Channels first, contiguous. The channel axis is the smaller one of axes 1 and 3, and axis 1 if they "
    "tie."""
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] < x.shape[1]:
        x = x.transpose(0, 3, 1, 2)
    # A copy if it must be: torch refuses negative strides and warns of arrays that are read-only.
    return np.ascontiguousarray(x) if x.flags.writeable else np.array(x, order="C")


def _integers(who: str, y: npt.NDArray[Any], n: int) -> npt.NDArray[np.int64]:
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise DataError(f"{who} must hold one integer per example; it is {y.dtype} of shape {y.shape}.")
    if len(y) != n:
        raise DataError(f"{who} holds {len(y)} numbers for {n} examples.")
    if y.min() < 0:
        row = int(np.argmin(y))
        raise DataError(f"{who} holds {y[row]} in example {row}; numbers start at 0.")
    if y.max() >= 1 << 31:
        raise DataError(f"{who} holds {y.max()}, which cannot be the number of a class or domain.")
    return y.astype(np.int64)


def moments(x: Tensor, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of uint8 inputs · scale: per channel of (N, C, H, W), one for all features of (N, D).

    From histograms, in integers of any length, so that every machine gets the same six digits. The std of a channel
    that never changes is 1.
    """
    channels = x.shape[1] if x.dim() == 4 else 1
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    for chunk in torch.split(x, 1024):  # x may be a memory map that does not fit into memory
        for c in range(channels):
            values = chunk[:, c] if x.dim() == 4 else chunk
            counts[c] += torch.bincount(values.flatten(), minlength=256)
    means, stds = [], []
    for histogram in counts.tolist():
        n = sum(histogram)
        first = sum(v * k for v, k in enumerate(histogram))
        second = sum(v * v * k for v, k in enumerate(histogram))
        variance = (n * second - first * first) / (n * n)
        means.append(round(first / n * scale, 6))
        stds.append(round(math.sqrt(variance) * scale, 6) or 1.0)
    return tuple(means), tuple(stds)


# --- benchmarks ---


def build(
    source: Source,
    *,
    name: str,
    version: int = 1,
    shift: Shift = "class",
    experiences: int | None = None,
    first: int | None = None,
    increment: int | None = None,
    class_order: Order = "natural",
    domain_order: Order = "natural",
    changes: Sequence[tuple[str, Change | None]] | None = None,
    online: bool = False,
    valid: float = 0.0,
    augment: Sequence[str] = (),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    notes: str = "",
    spec: dict[str, object] | None = None,
) -> Benchmark:
    """A benchmark cut from a data set.

    Args:
        shift: "class": new classes in every experience; "task": the same with task labels in training and test;
            "domain": one experience per domain, or per change.
        experiences: how many share the classes evenly, 5 unless given; or first and increment: classes of the first
            experience and of all others.
        class_order, domain_order: "natural", "shuffled" (drawn from the seed) or a list of all.
        changes: names of domains and what each does to the inputs.
        online: one pass over the stream.
        valid: share of each class's training examples that makes the validation stream.
        augment: training operations, of `clbench.augment.OPS`.
        mean, std: normalisation per channel of inputs in [0, 1]; by default the data set's.
        spec: the parameters that it was built from, for the record.

    Raises:
        ConfigError: parameters that do not fit the data. DataError: data that do not fit the shift.
    """
    if shift == "domain":
        if changes is not None:
            streams = changed_domains(source.train, source.test, changes, valid_fraction=valid, seed=seed)
        elif source.domain_train is None or source.domain_test is None:
            raise ConfigError(
                f"{name}: shift 'domain' needs the domain of every example: domain_train and domain_test, or "
                "a folder <domain>/<class>/*. Without domains, shift may be 'class' or 'task'."
            )
        else:
            streams = domain_incremental(
                source.train,
                source.test,
                domain_train=source.domain_train,
                domain_test=source.domain_test,
                names=source.domain_names,
                domain_order=domain_order,
                valid_fraction=valid,
                seed=seed,
            )
    else:
        streams = class_incremental(
            source.train,
            source.test,
            experiences=5 if (experiences, first, increment) == (None, None, None) else experiences,
            first=first,
            increment=increment,
            class_order=class_order,
            valid_fraction=valid,
            seed=seed,
            task_labels=shift == "task",
        )
    if (mean is None) != (std is None):
        raise ConfigError(f"{name}: mean and std go together; only one of them was given.")
    means, stds = source.normalisation if mean is None or std is None else (tuple(mean), tuple(std))
    shape = source.train.x.shape[1:]
    channels = shape[0]
    if len(means) not in (0, 1, channels):
        raise ConfigError(f"{name}: mean and std need 1 or {channels} values each; {len(means)} were given.")
    if augment and len(shape) != 3:
        raise ConfigError(
            f"{name}: augmentation needs images (C, H, W); the inputs have shape {tuple(shape)}."
        )
    setting = Setting(shift, task_labels="always" if shift == "task" else "never")
    draws = (
        valid > 0
        or (shift == "domain" and changes is None and domain_order == "shuffled")
        or (shift != "domain" and class_order == "shuffled")
        or any(isinstance(change, Permute) for _, change in changes or ())
    )
    return Benchmark(
        name,
        version,
        seen_once(setting) if online else setting,
        streams.train,
        streams.test,
        source.num_classes,
        Transform(source.scale, means, stds, tuple(augment)),
        streams.valid,
        seed=seed if draws else 0,
        class_names=source.class_names,
        notes=notes,
        spec=dict(spec or {}),
    )


def from_arrays(
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    *,
    domain_train: Any = None,
    domain_test: Any = None,
    class_names: Sequence[str] = (),
    domain_names: Sequence[str] = (),
    shift: Shift = "class",
    experiences: int | None = None,
    first: int | None = None,
    increment: int | None = None,
    class_order: Order = "natural",
    domain_order: Order = "natural",
    online: bool = False,
    valid: float = 0.0,
    augment: Sequence[str] = (),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    name: str = "arrays",
    version: int = 1,
) -> Benchmark:
    """A benchmark from arrays or tensors.

    Args:
        x_train, x_test: uint8 images (N, H, W), (N, H, W, C) or (N, C, H, W), or features (N, D); floating-point
            features (N, D) or images, which are used as they are; or integer tokens (N, D). Of axes 1 and 3 of
            images, the smaller one is the channels.
        y_train, y_test: (N,) labels 0 … C−1, each in both; they are never renumbered.
        domain_train, domain_test: (N,) domain of every example, from 0; for shift="domain".

    The others are those of `build`.

    Raises:
        DataError, ConfigError: say which array or parameter is wrong and what is allowed.
    """
    source = source_of(
        x_train,
        y_train,
        x_test,
        y_test,
        domain_train=domain_train,
        domain_test=domain_test,
        class_names=class_names,
        domain_names=domain_names,
        who=name,
    )
    return build(
        source,
        name=name,
        version=version,
        shift=shift,
        experiences=experiences,
        first=first,
        increment=increment,
        class_order=class_order,
        domain_order=domain_order,
        online=online,
        valid=valid,
        augment=augment,
        mean=mean,
        std=std,
        seed=seed,
    )


def from_npz(path: str | Path, *, name: str = "npz", **params: Any) -> Benchmark:
    """A benchmark from an `.npz` file (`read_npz` says what it holds); parameters are those of `build`."""
    return build(read_npz(path), name=name, **params)


def from_folder(
    path: str | Path,
    *,
    size: int = 64,
    channels: Literal[1, 3] = 3,
    test_fraction: float = 0.2,
    name: str = "image-folder",
    **params: Any,
) -> Benchmark:
    """A benchmark from a folder of images (`read_folder` says how it is laid out); others are those of "
    "`build`."""
    source = read_folder(path, size=size, channels=channels, test_fraction=test_fraction)
    return build(source, name=name, **params)
