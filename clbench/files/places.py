"""Where clbench lies: its version, its folders, and the checkout that it may be part of."""

from __future__ import annotations

import os
from pathlib import Path

VERSION = "0.1.0"

HOME = Path(__file__).resolve().parent.parent
"""The package's own folder."""

CHECKOUT = (
    HOME.parent
    if (HOME.parent / "pyproject.toml").is_file() and (HOME.parent / "strategies").is_dir()
    else None
)
"""The checkout that this is, if it is one; a wheel is none."""

ROOT = CHECKOUT or HOME
"""Where `strategies/`, `benchmarks/` and `configs/` lie: beside the package in a checkout, inside it in a wheel."""


def data_folder() -> Path:
    """Return where data sets and caches lie: `$CLBENCH_DATA`, else `~/.cache/clbench`."""
    return Path(os.environ.get("CLBENCH_DATA") or "~/.cache/clbench").expanduser()
