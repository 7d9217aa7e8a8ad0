"""The data sets that clbench knows by name."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt

from clbench.data.files import data_folder, read_arrays, read_npz, sha256, sidecar, write
from clbench.data.folders import read_folder
from clbench.data.source import Source, channels_first, pool, source_of
from clbench.errors import ConfigError, DataError, choices
from clbench.files import file_sha256


@dataclass(frozen=True)
class Known:
    """A named data set.

    Attributes:
        title: for people.
        shape: (C, H, W), or (D,) of features. classes: C. sizes: training and test examples; what the published files
            hold.
        dataset: class of `torchvision.datasets` that downloads it, with its checksums; nothing if none does.
        megabytes: size of the download.
        mean, std: normalisation that papers use, of pixels in [0, 1]; nothing: computed.
        domains: names of its domains.
        get: where it can be had by hand.
        keys: what its file holds, where it is not split into training and test examples.
        duplicates: examples that are byte-identical to an earlier one, in training and test together.
    """

    title: str
    shape: tuple[int, ...]
    classes: int
    sizes: tuple[int, int]
    dataset: str = ""
    megabytes: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    domains: tuple[str, ...] = ()
    get: str = ""
    keys: str = ""
    duplicates: int = 0


# Means and stds are those of the training sets, to four digits; a test compares them with the data.
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
        duplicates=26,
    ),
    "usps": Known(
        "USPS",
        (1, 16, 16),
        10,
        (7_291, 2_007),
        get="its digits of 16 × 16 pixels (Hull, PAMI 1994), as bytes",
    ),
    "gtsrb": Known(
        "GTSRB",
        (3, 32, 32),
        43,
        (7_249, 1_630),
        get="traffic signs (Stallkamp et al., Neural Networks 2012), cut out and resized to 32 × 32 pixels, "
        "all or some,",
    ),
    "pacs": Known(
        "PACS",
        (3, 64, 64),
        7,
        (8_003, 1_988),
        domains=("photo", "art_painting", "cartoon", "sketch"),
        get="its images, in folders <domain>/<class>/, from its authors (Li et al., arXiv:1710.03077)",
    ),
    "omniglot": Known(
        "Omniglot",
        (1, 28, 28),
        1_623,
        (24_345, 8_115),
        get="its images from its authors (Lake, Salakhutdinov, Tenenbaum, Science 2015), resized to 28 × 28 "
        "pixels with bright ink",
        keys="x (32460, 28, 28, 1) uint8, y, alphabet and drawer (32460,) integers from 0, background (32460,) bool, "
        "optionally class_names and alphabet_names",
        duplicates=1,
    ),
    **{
        name: Known(
            title,
            (features,),
            classes,
            (rows, 0),
            get=f"{name} of github.com/vlosing/driftDatasets, its rows in their order",
            keys=f"x ({rows}, {features}) numbers, y ({rows},) integers from 0",
        )
        for name, title, rows, features, classes in (
            ("elec2", "Electricity", 45_312, 8, 2),
            ("weather", "Weather", 18_159, 8, 2),
            ("outdoor", "Outdoor", 4_000, 21, 40),
        )
    },
}
"""The data sets that clbench knows by name, beside the embedded digits."""

PACS_SIZE = 64
"""Pixels that PACS is resized to from a folder of its images."""


@functools.cache
def digits() -> Source:
    """Return the 1 797 handwritten digits that scikit-learn carries: 8 × 8 pixels of 0 … 16.

    Every fifth example of each class, in the order of the data set, is for testing.
    """
    found = importlib.util.find_spec("sklearn")  # importing it takes a second, and reading its file none
    assert found is not None
    assert found.origin is not None
    table = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    x, y = table[:, :-1].astype(np.uint8).reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64)
    rank = np.empty(len(y), dtype=np.int64)
    for c in range(10):
        rank[y == c] = np.arange(int((y == c).sum()))
    test = rank % 5 == 4
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return Source(pool(x[~test], y[~test]), pool(x[test], y[test]), names, scale=1 / 16)


def load(name: str) -> Source:
    """Return a named data set from `$CLBENCH_DATA/<name>.npz`; `digits`, which scikit-learn brings.

    Raises:
        ConfigError: an unknown name. DataError: the file is missing (says how to get it) or damaged.
    """
    if name == "digits":
        return digits()
    known = _known(name)
    path = data_folder() / f"{name}.npz"
    if not path.is_file():
        images = data_folder() / name
        if known.domains and images.is_dir():
            return read_folder(images, size=PACS_SIZE)
        raise DataError(missing_file(name))
    if name == "omniglot":
        return omniglot().source
    source = read_npz(path, others=True)
    if source.train.x.shape[1:] == known.shape:  # the file may hold other images under the old name
        return replace(source, mean=known.mean, std=known.std, duplicates=known.duplicates)
    return source


@dataclass(frozen=True)
class Omniglot:
    """Omniglot: the data set, with alphabets as domains, and which classes belong to the published background set.

    Attributes:
        source: characters as classes. background: (C,) bool; the others are of the published evaluation set, whose
            alphabets are others.
    """

    source: Source
    background: npt.NDArray[np.bool_]


DRAWERS = 20
"""People who drew every character of Omniglot once."""


def omniglot(test_drawers: int = 5) -> Omniglot:
    """Omniglot's 1 623 characters of 50 alphabets, each drawn by 20 people, of whom the last few are for testing.

    Raises:
        ConfigError: no drawer is left for training, or none for testing.
        DataError: the file is missing, or is not of the form that is asked for.
    """
    if not 1 <= test_drawers < DRAWERS:
        raise ConfigError(
            f"Of {DRAWERS} drawers, 1 to {DRAWERS - 1} are for testing; {test_drawers} were asked for."
        )
    path = data_folder() / "omniglot.npz"
    if not path.is_file():
        raise DataError(missing_file("omniglot"))
    return _omniglot(path, file_sha256(path), test_drawers)


@functools.lru_cache(maxsize=2)
def _omniglot(path: Path, _digest: str, test_drawers: int) -> Omniglot:
    needed, optional = ("x", "y", "alphabet", "drawer", "background"), ("class_names", "alphabet_names")
    arrays, _ = read_arrays(path, needed, optional)
    n = len(arrays["x"])
    for key in ("y", "alphabet", "drawer", "background"):
        given = arrays[key]
        if given.shape != (n,) or given.dtype.kind not in "iub" or (n and given.min() < 0):
            raise DataError(f"{path}: {key} must hold one number from 0 for each of the {n} images.")
    y, drawer, background = arrays["y"], arrays["drawer"], arrays["background"].astype(bool)
    test = drawer >= DRAWERS - test_drawers
    source = source_of(
        arrays["x"][~test],
        y[~test],
        arrays["x"][test],
        y[test],
        domain_train=arrays["alphabet"][~test],
        domain_test=arrays["alphabet"][test],
        class_names=arrays.get("class_names", ()),
        domain_names=arrays.get("alphabet_names", ()),
        who=str(path),
    )
    of_class = np.zeros(source.num_classes, dtype=bool)
    of_class[y[background]] = True
    if of_class[y[~background]].any():
        raise DataError(f"{path}: a character is in both the background and the evaluation set.")
    return Omniglot(replace(source, duplicates=KNOWN["omniglot"].duplicates), of_class)


def fetch(name: str) -> Path:
    """Download a named data set, check it, and leave it decoded in `$CLBENCH_DATA/<name>.npz`.

    Beside it lies its SHA-256. What torchvision has already downloaded to `$CLBENCH_DATA` is used. A file
    that is there is left as it is.

    Raises:
        ConfigError: an unknown name. DataError: nothing downloads it, or the download failed.
    """
    known = _known(name)
    path = data_folder() / f"{name}.npz"
    if path.is_file():
        return path
    if not known.dataset:
        raise DataError(missing_file(name))
    from clbench.machine.torchvision import torchvision

    torchvision()
    from torchvision import datasets

    arrays: dict[str, Any] = {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for split in ("train", "test"):
            part = getattr(datasets, known.dataset)(path.parent, train=split == "train", download=True)
            arrays[f"x_{split}"] = channels_first(np.asarray(part.data))  # now, as it slows every reading
            arrays[f"y_{split}"] = np.asarray(part.targets, dtype=np.int64)
            arrays["class_names"] = np.array(part.classes)
    except (OSError, RuntimeError) as error:  # no connection is an OSError, a wrong checksum a RuntimeError
        raise DataError(
            f"{known.title} could not be fetched: {str(error).rstrip('.')}. {missing_file(name)}"
        ) from error
    write(path, lambda file: np.savez(file, **arrays))
    digest = sha256(path)
    write(sidecar(path), lambda file: file.write(f"{digest}  {path.name}\n".encode()))
    return path


class Status(TypedDict):
    """Where a data set stands.

    Keys:
        state: "embedded", "ready", "damaged" (not what its recorded SHA-256 says) or "missing".
        megabytes: on disk, or to download.
        note: what to do about it.
    """

    name: str
    state: Literal["embedded", "ready", "damaged", "missing", "cache"]
    path: str
    megabytes: int
    note: str


def status() -> list[Status]:
    """Return where every data set stands; reads the files that have a recorded SHA-256."""
    return [
        Status(name="digits", state="embedded", path="", megabytes=0, note="comes with scikit-learn"),
        *map(_status, KNOWN),
    ]


def _status(name: str) -> Status:
    known, path = KNOWN[name], data_folder() / f"{name}.npz"
    found = Status(name=name, state="ready", path=str(path), megabytes=known.megabytes, note="")
    if not path.is_file():
        found["state"] = "missing"
        found["note"] = f"clbench data fetch {name}" if known.dataset else f"get {known.get}"
        return found
    found["megabytes"] = path.stat().st_size // 1_000_000
    recorded = sidecar(path)
    if not recorded.is_file():
        found["note"] = "no recorded SHA-256"
    elif recorded.read_text(encoding="utf-8").split()[:1] != [sha256(path)]:
        found["state"] = "damaged"
        found["note"] = f"its SHA-256 is not the one in {recorded.name}; delete both files and fetch it again"
    return found


def _known(name: str) -> Known:
    if name not in KNOWN:
        if name == "digits":
            raise ConfigError("The data set 'digits' comes with scikit-learn, so there is nothing to fetch.")
        raise ConfigError(f"There is no data set named '{name}'.{choices(name, ('digits', *KNOWN))}")
    return KNOWN[name]


def missing_file(name: str) -> str:
    """Say that a named data set is not there, and how to get it."""
    known, folder = KNOWN[name], data_folder()
    shape = ", ".join(map(str, known.shape))
    keys = known.keys or f"x_train ({known.sizes[0]}, {shape}) uint8, y_train ({known.sizes[0]},) int64, " + (
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
        how = f"get {known.get}, and put " + (
            "" if known.keys else f"the folders into {folder / name}, or put"
        )
    return (
        f"{known.title} is not in {folder}: {how} {folder / name}.npz there, with the keys {keys}. "
        "The environment variable CLBENCH_DATA names another folder."
    )
