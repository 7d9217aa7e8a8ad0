"""Data frames of pandas, which is an extra."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clbench.errors import ConfigError
from clbench.results.columns import RANKS, divide
from clbench.results.curve import COLUMNS, Curve

if TYPE_CHECKING:
    from pandas import DataFrame


def data_frame(columns: Mapping[str, Any]) -> DataFrame:
    """Return a data frame of columns by name.

    Raises:
        ConfigError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise ConfigError("A data frame needs pandas: pip install 'clbench[pandas]'.") from None
    return pandas.DataFrame(dict(columns))


def of_curve(curve: Curve) -> DataFrame:
    """Return `Curve.to_pandas`: where, then what; `of` and ranks only where they say something."""
    columns = {name: getattr(curve, name) for name in COLUMNS}
    full = columns.pop("full")
    columns |= {"loss": divide(curve.loss, curve.total), "full": full}
    if (curve.of > curve.total).any():
        columns["of"] = curve.of
    if curve.ranked:
        columns |= {name: getattr(curve, name) for name in RANKS}
    first = ("step", "examples", "experience", "evaluated")
    where = {name: columns.pop(name) for name in first}
    return data_frame({**where, "accuracy": divide(curve.correct, curve.total), **columns})
