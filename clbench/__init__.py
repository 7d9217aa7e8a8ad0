"""clbench: a benchmark harness for continual learning, evaluated at every iteration.

    import clbench
    record = clbench.run("split-digits", "er", seed=0, memory=200)
    print(record.metrics["average_accuracy"], record.metrics["min_acc"])

Importing this module does not import torch; the names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from clbench.files.places import CHECKOUT as _CHECKOUT, VERSION as _VERSION

if TYPE_CHECKING:
    from clbench.data import (
        from_arrays as from_arrays,
        from_data as from_data,
        from_dataset as from_dataset,
        from_documents as from_documents,
        from_folder as from_folder,
        from_frame as from_frame,
        from_manifest as from_manifest,
        from_npz as from_npz,
        from_texts as from_texts,
    )
    from clbench.engine.observer import Observer as Observer
    from clbench.errors import ClbenchError as ClbenchError
    from clbench.memory import Reservoir as Reservoir
    from clbench.models import Classifier as Classifier, make_model as make_model
    from clbench.models.exported import load_model as load_model
    from clbench.registry import (
        register as register,
        register_benchmark as register_benchmark,
        register_model as register_model,
    )
    from clbench.registry.reads import File as File
    from clbench.reports.display.benchmarks import Description as Description
    from clbench.reports.display.comparison import Comparison as Comparison, compare as compare
    from clbench.results.curve import Curve as Curve, Matrix as Matrix, Ticks as Ticks
    from clbench.results.ledger import Record as Record
    from clbench.runs.building import make_benchmark as make_benchmark, make_strategy as make_strategy
    from clbench.runs.comparing import suite as suite
    from clbench.runs.lifecycle import run as run
    from clbench.strategy import Run as Run, Strategy as Strategy, chain as chain
    from clbench.types import (
        Batch as Batch,
        Benchmark as Benchmark,
        Data as Data,
        Experience as Experience,
        Order as Order,
        Output as Output,
        Setting as Setting,
        Stream as Stream,
    )

__version__ = _VERSION

if _CHECKOUT is not None:  # where strategies/ lies beside this folder; a wheel holds clbench/strategies
    __path__.append(str(_CHECKOUT))

_WHERE = {
    "run": "runs.lifecycle",
    "suite": "runs.comparing",
    "make_benchmark": "runs.building",
    "make_strategy": "runs.building",
    "make_model": "models",
    "load_model": "models.exported",
    "Curve": "results.curve",
    "Matrix": "results.curve",
    "Ticks": "results.curve",
    "Observer": "engine.observer",
    "from_arrays": "data",
    "from_data": "data",
    "from_dataset": "data",
    "from_documents": "data",
    "from_folder": "data",
    "from_frame": "data",
    "from_manifest": "data",
    "from_npz": "data",
    "from_texts": "data",
    "ClbenchError": "errors",
    "Record": "results.ledger",
    "Reservoir": "memory",
    "Classifier": "models",
    "File": "registry",
    "register": "registry",
    "register_benchmark": "registry",
    "register_model": "registry",
    "Run": "strategy",
    "Strategy": "strategy",
    "chain": "strategy",
    "Batch": "types",
    "Benchmark": "types",
    "Data": "types",
    "Experience": "types",
    "Order": "types",
    "Output": "types",
    "Setting": "types",
    "Stream": "types",
    "Description": "reports.display.benchmarks",
    "Comparison": "reports.display.comparison",
    "compare": "reports.display.comparison",
}
_MODULES = {"metrics": "results.metrics", "plots": "reports.plots", "testing": "testing"}
__all__ = ["__version__", *_WHERE, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"clbench.{_MODULES[name]}")
    if name not in _WHERE:
        raise AttributeError(f"module 'clbench' has no attribute '{name}'")
    return getattr(importlib.import_module(f"clbench.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
