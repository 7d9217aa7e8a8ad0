"""Every number of a record: pure functions of the curve, each with its formula and reference.

    compute(curve)                         # all metrics that are meant for every run
    compute(curve, ["harmonic_mean"])      # any by name
    average_accuracy(curve)                # a metric, or what it is made of

A metric is a function with the decorator `metric`, in any file of this folder; nothing else names it.

Accuracies are fractions. Notation, as in the papers: T tasks (experience j teaches stream j; formulas count
from 1), R[i,j] the accuracy on j's full test set after experience i, b[j] that before training, n[j] the
size of that test set; a_j(t) the accuracy on j's fixed subset at tick t, e(t) the experience of tick t, K
ticks.

An example is right if its class, and no other one, has the highest score. R and the last tick of an experience are of
the model that the experience's end (`end_experience`) leaves behind.

Definitions that clash in the literature are metrics of their own, never silently one. A metric is None where
its formula is not defined: fewer tasks than it needs, evaluations that were not made, or a run that did not
finish (an average over what a run survived compares with nothing; `curve.upto(k)` gives it on demand).
"""

import importlib
import pkgutil
from typing import Any

from clbench.results.metrics.core import (
    METRICS as METRICS,
    Metric as Metric,
    compute as compute,
    metric as metric,
)

_FILES = [importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
globals().update({name: of.function for name, of in METRICS.items()})  # in place of files of their names


def __getattr__(name: str) -> Any:
    for file in _FILES:
        if name[:1] != "_" and name in vars(file):
            return vars(file)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
