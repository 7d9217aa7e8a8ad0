"""What a part of a test set says of the whole: bounds on the number of right answers. Imports no torch.

The first n of N examples in random order were evaluated, and c were right. Then the number K that are right of all N
lies between c and c + N − n whatever the others are; and between closer bounds but for a stated probability, because
the first n are a random sample.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def bounds(correct: Ints, total: Ints, of: Ints, error: float = 0.0) -> tuple[Ints, Ints]:
    """Lowest and highest possible K of each row: `correct` of the first `total` out of `of` examples.

    Args:
        error: probability that one such bound fails; 0 is certain. See `lower_limits`.
    """
    lowest, highest = correct.copy(), correct + of - total
    if error:
        partial = np.flatnonzero((total < of) & (total > 0))
        for n, size in {(int(total[i]), int(of[i])) for i in partial}:
            rows = partial[(total[partial] == n) & (of[partial] == size)]
            limits = lower_limits(n, size, error)
            lowest[rows] = limits[correct[rows]]
            highest[rows] = size - limits[n - correct[rows]]  # the wrong ones, bounded from below
    return lowest, highest


@functools.lru_cache(maxsize=4096)
def lower_limits(n: int, size: int, error: float) -> Ints:
    """(n+1,) for each count c of right ones among n: a lower limit on the right ones among all `size`.

        L(c) = min { K : P[X ≥ c] > error },   X ~ hypergeometric(size, K, n)

    P[L(c) > K] ≤ error for every K, as c must then be among the least probable counts. It inverts the exact test, so no
    Hoeffding or Bernstein bound on sampling without replacement is closer.
    """
    from scipy.stats import hypergeom

    count = np.arange(n + 1)
    low, high = count.copy(), count + size - n  # P rises with K, so bisect
    while (open_ := low < high).any():
        middle = (low + high) // 2
        possible = hypergeom.sf(count - 1, size, middle, n) > error
        high = np.where(possible, middle, high)
        low = np.where(possible | ~open_, low, middle + 1)
    low.flags.writeable = False  # cached, so shared
    return low
