"""The registry of metrics, and what their formulas stand on."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from clbench.errors import RegistryError, choices
from clbench.files.names import name_mistake
from clbench.results.curve import Curve, Floats, Ints, Matrix, Ticks

Formula = Callable[[Curve], float | None]

# Papers that several metrics are from.
GEM = "Lopez-Paz & Ranzato, NeurIPS 2017, arXiv 1706.08840"
RWALK = "Chaudhry et al., ECCV 2018, arXiv 1801.10112"
ICARL = "Rebuffi et al., CVPR 2017, arXiv 1611.07725"
STABILITY_GAP = "De Lange et al., ICLR 2023, arXiv 2205.13452"
ONLINE_SURVEY = "Soutif-Cormerais et al., ICCV-W 2023, arXiv 2308.10328"
I_BLURRY = "Koh et al., ICLR 2022, arXiv 2110.10031"
MAMMOTH = "Mammoth library, of Buzzega et al., NeurIPS 2020, arXiv 2004.07211"
JOINT_FSCIL = "Kim et al., ICCV-W 2025, arXiv 2503.10003"


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
        name: the key in records.
        title: the short form of tables.
        function: Curve → number, None where it is not defined.
        higher_is_better: None where neither direction is good in itself.
        reference: where the definition is from.
        unit: "fraction" for accuracies and their differences.
        default: whether `compute` includes it unasked; of metrics of retrieval, for curves with ranks, of metrics of
            language, for curves of it.
        retrieval, language: whether it is meant for such streams alone.
        summary: the first line of the function's docstring.
        formula: its second paragraph.
        since: the schema of records from which on every run that defines it has it; None: no record must.
        head: what tables call it.
        shown: where tables show it, whatever the benchmark, or the benchmark of language: nowhere (""); in "suites",
            whose runs are evaluated equally often; or "everywhere", on the leaderboard, too.
    """

    name: str
    title: str
    function: Formula
    higher_is_better: bool | None
    reference: str
    unit: str
    default: bool
    retrieval: bool
    language: bool
    summary: str
    formula: str
    since: int | None = None
    head: str = ""
    shown: Literal["", "suites", "everywhere"] = ""

    @property
    def rises(self) -> bool:
        """Whether strategies are ranked by its largest values, which they are unless lower is better."""
        return self.higher_is_better is not False

    @property
    def share(self) -> bool:
        """Whether it is shown in percent."""
        return self.unit in ("fraction", "reciprocal rank")

    def form(self, of_share: str) -> str:
        """Return how values are written: nats and bits with three digits behind the point; shares as is said."""
        return of_share if self.share else ".3f" if self.unit in ("nats per token", "bits") else ".4g"

    def told(self, value: float | None, of_share: str = ".2f") -> str:
        """Return a run's value, in percent where it is a share."""
        if value is None:
            return "—"
        return format(100 * value if self.share else value, self.form(of_share))


METRICS: dict[str, Metric] = {}
"""All metrics by name, in the order of their definition."""

PRIMARY = "average_accuracy"
"""What ranks strategies where a benchmark does not say otherwise."""


def shown(
    primary: str, more: Iterable[str] = (), *, suite: bool = True, others: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return the metrics of a table: what ranks, what its benchmark shows, and what every benchmark does, or every one
    of language.

    Args:
        primary: what ranks. more: what the benchmark shows. suite: whether the runs are of one suite.
        others: what ranks on other benchmarks of the table.
    """
    kinds = {METRICS[name].language for name in (primary, *others) if name in METRICS}
    told = (m for m in METRICS.values() if m.shown == "everywhere" or (suite and m.shown))
    general = [m.name for m in told if m.language in kinds]
    return tuple(name for name in dict.fromkeys((primary, *more, *general)) if name in METRICS)


class UndefinedError(Exception):
    """A formula has no value for this curve; `metric` turns it into None."""


def metric(
    name: str,
    *,
    title: str,
    higher_is_better: bool | None,
    reference: str,
    unit: str = "fraction",
    default: bool = True,
    retrieval: bool = False,
    language: bool = False,
    head: str = "",
    shown: Literal["", "suites", "everywhere"] = "",
) -> Callable[[Formula], Formula]:
    """Decorator: register a function of the curve under a name.

    The function may return None or NaN where it is not defined. Its docstring is a sentence, the formula as a
    paragraph of its own, then remarks. A file of clbench's own whose metrics every record must have says from which
    schema on, as `SINCE`; without it records need not have them, and older ones stay as they are.

    Raises:
        RegistryError: the name is taken, or is none.
    """

    def add(formula: Formula) -> Formula:
        if wrong := name_mistake(name):
            raise RegistryError(f"A metric of {formula.__module__} cannot be registered: {wrong}.")
        if name in METRICS:
            raise RegistryError(f"There is a metric '{name}' already; rename that of {formula.__module__}.")

        @functools.wraps(formula)
        def function(curve: Curve) -> float | None:
            try:
                value = formula(curve)
            except UndefinedError:
                return None
            if not isinstance(value, int | float | np.number | None):
                raise RegistryError(f"The metric '{name}' gives {value!r}; it has to give a number, or None.")
            return None if value is None or np.isnan(value) else float(value)

        summary, _, rest = inspect.cleandoc(formula.__doc__ or "").partition("\n\n")
        written = textwrap.dedent(rest.partition("\n\n")[0])
        about = unit, default, retrieval, language, summary, written
        own = formula.__module__.partition(".")[0] == "clbench"
        since = formula.__globals__.get("SINCE") if own else None
        METRICS[name] = Metric(
            name, title, function, higher_is_better, reference, *about, since, head or title, shown
        )
        return function

    return add


def compute(curve: Curve, names: Iterable[str] | None = None) -> dict[str, float | None]:
    """Metrics of a curve by name, None where one is not defined; all default ones if no names are given.

    Raises:
        RegistryError: an unknown name.
    """
    if names is None:
        meant = (m for m in METRICS.values() if m.default and (curve.ranked or not m.retrieval))
        names = [m.name for m in meant if curve.of_language or not m.language]
    chosen = list(names)
    for name in chosen:
        if name not in METRICS:
            instead = choices(name, METRICS, "clbench list metrics")
            raise RegistryError(f"There is no metric named '{name}'.{instead}")
    return {name: METRICS[name].function(curve) for name in chosen}


# --- what formulas stand on: it is there, or the metric is not defined ---


def mean(values: ArrayLike) -> float:
    """Return the mean; undefined for no values, NaN where one is missing."""
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise UndefinedError
    return float(array.sum() / array.size)


def weighted_mean(values: Floats, counts: Ints) -> float:
    """Σ counts · values / Σ counts; NaN for no counts."""
    return float((counts * values).sum() / counts.sum()) if counts.sum() else float("nan")


def full_matrix(curve: Curve) -> Matrix:
    """Return the accuracy matrix of a finished run, (experiences, T): one row where all is learned at once."""
    if not curve.finished or not curve.full.any():
        raise UndefinedError
    R, b, totals = curve.matrix()
    return Matrix(R[: curve.experiences], b, totals)


def task_matrix(curve: Curve, tasks: int = 1) -> Matrix:
    """Return the (T, T) accuracy matrix of a finished run of at least so many tasks."""
    if not curve.by_task or curve.experiences < tasks:
        raise UndefinedError
    return full_matrix(curve)


def all_ticks(curve: Curve, *, partial: bool = False) -> Ticks:
    """Return the ticks of a finished run; those of a racing evaluation only for formulas that know of partial ticks."""
    ticks = curve.ticks()
    if not curve.finished or not len(ticks) or not (partial or ticks.complete):
        raise UndefinedError
    return ticks


def task_ticks(curve: Curve, *, partial: bool = False) -> Ticks:
    """Return the ticks of a finished run of tasks."""
    if not curve.by_task:
        raise UndefinedError
    return all_ticks(curve, partial=partial)


def settled(at_least: float, at_most: float | None = None) -> float:
    """Return the value of a formula, computed from the lowest and the highest that partial ticks can be; one if these
    are one.

    Where both are one, nothing that was left out can change it, and it is exact; otherwise there is none. Counts make
    steps far wider than rounding.
    """
    if at_most is not None and not abs(at_most - at_least) < 1e-12:
        raise UndefinedError
    return at_least
