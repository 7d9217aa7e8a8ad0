"""Imported last by the fork server of a suite: what each of its runs would find out again before its first step."""

import sys
from pathlib import Path

from clbench.registry.closure import code_of

for _name, _module in [*sys.modules.items()]:
    if _name.startswith(("clbench.strategies.", "clbench.benchmarks.")) and _module.__file__ is not None:
        code_of(Path(_module.__file__))
