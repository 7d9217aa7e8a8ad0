"""Avalanche (avalanche-lib 0.6) and clbench: strategies and plugins in, benchmarks in and out.

clbench run split-mnist avalanche:Replay mem_size=200
clbench list avalanche
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from clbench.interop.avalanche.known import PLUGINS, REFUSED, RULES_NOT_KEPT, STRATEGIES, all_known, look_up

if TYPE_CHECKING:
    from clbench.interop.avalanche.benchmarks import from_avalanche, to_avalanche
    from clbench.interop.avalanche.strategies import AvalancheStrategy
    from clbench.registry import Entry

__all__ = [
    "LIBRARY",
    "PLUGINS",
    "REFUSED",
    "RULES_NOT_KEPT",
    "STRATEGIES",
    "AvalancheStrategy",
    "entry",
    "from_avalanche",
    "offers",
    "to_avalanche",
]

LIBRARY = "avalanche"
"""Before the colon of a borrowed name."""

_WHERE = {"AvalancheStrategy": "strategies", "from_avalanche": "benchmarks", "to_avalanche": "benchmarks"}


def entry(name: str) -> Entry:
    """Return what the registry knows of `avalanche:NAME`; see `clbench.interop.avalanche.strategies.entry`."""
    look_up(name)  # what does not run is told without importing Avalanche
    from clbench.interop.avalanche import strategies

    return strategies.entry(name)


def offers() -> tuple[dict[str, str], dict[str, str]]:
    """Return what runs, with a summary of each, and what does not, with the reason."""
    return {name: known.summary for name, known in all_known().items()}, REFUSED


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'clbench.interop.avalanche' has no attribute '{name}'")
    return getattr(importlib.import_module(f"clbench.interop.avalanche.{_WHERE[name]}"), name)
