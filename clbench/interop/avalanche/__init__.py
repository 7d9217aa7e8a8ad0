"""Avalanche (avalanche-lib 0.6) and clbench: strategies and plugins in, benchmarks in and out.

clbench run split-mnist avalanche:Replay mem_size=200
clbench list avalanche
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from clbench.interop.avalanche.known import PLUGINS, REFUSED, STRATEGIES

if TYPE_CHECKING:
    from clbench.interop.avalanche.benchmarks import from_avalanche, to_avalanche
    from clbench.interop.avalanche.strategies import AvalancheStrategy
    from clbench.registry import Entry

__all__ = ["PLUGINS", "REFUSED", "STRATEGIES", "AvalancheStrategy", "entry", "from_avalanche", "to_avalanche"]

_WHERE = {"AvalancheStrategy": "strategies", "from_avalanche": "benchmarks", "to_avalanche": "benchmarks"}


def entry(name: str) -> Entry:
    """What the registry knows of `avalanche:NAME`; see `clbench.interop.avalanche.strategies.entry`."""
    from clbench.interop.avalanche import known, strategies

    known.look_up(name)  # what does not run is told without importing Avalanche
    return strategies.entry(name)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'clbench.interop.avalanche' has no attribute '{name}'")
    return getattr(importlib.import_module(f"clbench.interop.avalanche.{_WHERE[name]}"), name)
