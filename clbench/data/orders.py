"""Published orders of classes, by name: a record that names one can be repeated by anybody.

    numpy-1993    NumPy's legacy generator, seeded with the number: `RandomState(1993).permutation(C)`, for any C
    pycil-1993    the same, by the name of the code that made it the usual one
    pilot-1993    the same

A paper's class 0 is the first of the order; labels are never renumbered, so class c keeps column c of the logits.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np

from clbench.data.draws import Ints
from clbench.errors import ConfigError, suggest

_NAME = re.compile(r"(?:numpy|pycil|pilot)-([0-9]{1,10})")
_SEEDS = 1 << 32


def order_of(name: str, n: int, parameter: str = "class_order") -> Ints:
    """Return a published order of n classes, (n,) a permutation of 0 … n − 1.

    Raises:
        ConfigError: there is no order of that name.
    """
    found = _NAME.fullmatch(name)
    if found is None or int(found[1]) >= _SEEDS:
        raise ConfigError(
            f"{parameter} is natural, shuffled, a list, or a published order: numpy-1993, or another seed of NumPy's "
            f"legacy generator below 2³², also called pycil-1993 and pilot-1993; '{name}' was given."
            f"{suggest(name, ('natural', 'shuffled', 'numpy-1993', 'pycil-1993', 'pilot-1993'))}"
        )
    return np.random.RandomState(int(found[1])).permutation(n).astype(np.int64)


def digest(order: Ints) -> str:
    """Return the first 16 digits of the SHA-256 of an order, written as numbers with commas between."""
    return hashlib.sha256(",".join(map(str, order.tolist())).encode()).hexdigest()[:16]


def told_of(name: str, n: int) -> str:
    """Return what records tell of a published order of n classes."""
    order = order_of(name, n)
    first = " ".join(map(str, order[:8].tolist()))
    more = " …" if n > 8 else ""
    return f"The order of the {n} classes is {name}: {first}{more} (SHA-256 {digest(order)})."
