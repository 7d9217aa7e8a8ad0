"""Published orders of classes, by name: a record that names one can be repeated by anybody. And orders from files.

    numpy-1993         NumPy's legacy generator, seeded with the number: `RandomState(1993).permutation(C)`, for any C
    pycil-1993         the same, by the name of the code that made it the usual one
    pilot-1993         the same
    podnet-1, -2, -3   of CIFAR-100's classes: Douillard et al., ECCV 2020, arXiv:2004.13513; lists, no seeds
    der-0              of CIFAR-100's classes: Yan et al., CVPR 2021, arXiv:2103.16788; its first trial
    mine.txt           a file with all classes, by number or by name

A paper's class 0 is the first of the order; labels are never renumbered, so class c keeps column c of the logits.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from clbench.data.draws import Ints
from clbench.errors import ConfigError, suggest

_NAME = re.compile(r"(?:numpy|pycil|pilot)-([0-9]{1,10})")
_SEEDS = 1 << 32
LISTS = {
    "podnet-1": """87 0 52 58 44 91 68 97 51 15 94 92 10 72 49 78 61 14 8 86 84 96 18 24 32 45 88 11 4 67 69 66 77 47
        79 93 29 50 57 83 17 81 41 12 37 59 25 20 80 73 1 28 6 46 62 82 53 9 31 75 38 63 33 74 27 22 36 3 16 21 60 19 70
        90 89 43 5 42 65 76 40 30 23 85 2 95 56 48 71 64 98 13 99 7 34 55 54 26 35 39""",
    "podnet-2": """58 30 93 69 21 77 3 78 12 71 65 40 16 49 89 46 24 66 19 41 5 29 15 73 11 70 90 63 67 25 59 72 80 94
        54 33 18 96 2 10 43 9 57 81 76 50 32 6 37 7 68 91 88 95 85 4 60 36 22 27 39 42 34 51 55 28 53 48 38 17 83 86 56
        35 45 79 99 84 97 82 98 26 47 44 62 13 31 0 75 14 52 74 8 20 1 92 87 23 64 61""",
    "podnet-3": """71 54 45 32 4 8 48 66 1 91 28 82 29 22 80 27 86 23 37 47 55 9 14 68 25 96 36 90 58 21 57 81 12 26 16
        89 79 49 31 38 46 20 92 88 40 39 98 94 19 95 72 24 64 18 60 50 63 61 83 76 69 35 0 52 7 65 42 73 74 30 41 3 6 53
        13 56 70 77 34 97 75 2 17 93 33 84 99 51 62 87 5 15 10 78 67 44 59 85 43 11""",
    "der-0": """62 54 84 20 94 22 40 29 78 27 26 79 17 76 68 88 3 19 31 21 33 60 24 14 6 10 16 82 70 92 25 5 28 9 61 36
        50 90 8 48 47 56 11 98 35 93 44 64 75 66 15 38 97 42 43 12 37 55 72 95 18 7 23 71 49 53 57 86 39 87 34 63 81 89
        69 46 2 1 73 32 67 91 0 51 83 13 58 80 74 65 4 30 45 77 99 85 41 96 59 52""",
}
"""Published lists of 100 classes."""


def order_of(name: str, n: int, parameter: str = "class_order") -> Ints:
    """Return a published order of n classes, (n,) a permutation of 0 … n − 1.

    Raises:
        ConfigError: there is no order of that name, or it is of another number of classes.
    """
    if name in LISTS:
        order = np.array(LISTS[name].split(), dtype=np.int64)
        if len(order) != n:
            raise ConfigError(f"{parameter}: {name} is an order of {len(order)} classes, and here are {n}.")
        return order
    found = _NAME.fullmatch(name)
    if found is None or int(found[1]) >= _SEEDS:
        known = ("natural", "shuffled", "numpy-1993", "pycil-1993", "pilot-1993", *LISTS)
        raise ConfigError(
            f"{parameter} is natural, shuffled, a list, a file of one, or a published order: numpy-1993, or another "
            "seed of NumPy's legacy generator below 2³², also called pycil-1993 and pilot-1993; or one of "
            f"{', '.join(LISTS)}; '{name}' was given.{suggest(name, known)}"
        )
    return np.random.RandomState(int(found[1])).permutation(n).astype(np.int64)


def is_file(order: Any) -> bool:
    """Whether an order is a path: a word with a dot or a slash, as no published one has."""
    return isinstance(order, str) and any(sign in order for sign in "./\\")


def read_order(path: str, parameter: str = "class_order") -> list[int | str]:
    """Return what a file lists: whole numbers between spaces, commas or lines, or a name on every line, or a JSON list.

    Raises:
        ConfigError: it cannot be read, or is no list.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ConfigError(f"{parameter}: the file {path} cannot be read: {why}.") from error
    words = text.replace(",", " ").split()
    if text.startswith("["):
        try:
            listed = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{parameter}: the file {path} is no JSON list: {error}.") from error
        if not all(type(one) in (int, str) for one in listed):
            raise ConfigError(f"{parameter}: the file {path} must list numbers, or names, and nothing else.")
        return list(listed)
    if words and all(word.isdecimal() for word in words):
        return [int(word) for word in words]
    return [line.strip() for line in text.splitlines() if line.strip()]


def digest(order: Ints) -> str:
    """Return the first 16 digits of the SHA-256 of an order, written as numbers with commas between."""
    return hashlib.sha256(",".join(map(str, order.tolist())).encode()).hexdigest()[:16]


def told_of(name: str, order: Ints) -> str:
    """Return what records tell of an order of classes that is published, or of a file."""
    first = " ".join(map(str, order[:8].tolist()))
    more = " …" if len(order) > 8 else ""
    of = f"of the file {Path(name).name}" if is_file(name) else name
    return f"The order of the {len(order)} classes is {of}: {first}{more} (SHA-256 {digest(order)})."
