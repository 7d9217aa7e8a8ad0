"""Suites from Python: run, and compared."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clbench import config
from clbench.config import Execution
from clbench.errors import ConfigError
from clbench.reports.display.comparison import Comparison
from clbench.runs import notebook, suite as suites
from clbench.runs.cells import reported
from clbench.runs.launchers import Local
from clbench.runs.lifecycle import runs_folder


def suite(
    name: str | os.PathLike[str] | Mapping[str, Any],
    *,
    seeds: int | Sequence[int] | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    plugins: Sequence[str] = (),
    **settings: Any,
) -> Comparison:
    """Run strategies × benchmarks × seeds side by side and compare them; only what is missing is run.

    In a script, call it below `if __name__ == "__main__":`, as runs are made in processes of their own.

    Args:
        name: of a shipped suite, or a YAML file; or what such a file holds, `{"strategies": ["er", "ewc"],
            "benchmarks": ["split-digits"], "seeds": 5}`.
        seeds: how many from 0, or which, in place of the suite's.
        out: folder for run folders; `CLBENCH_RUNS` or `runs/` if None.
        device: cpu, cuda, cuda:1 …; auto takes CUDA if there is one.
        workers: runs side by side; as many as cores bear if None.
        plugins: Python files that register something.
        settings: of every run by key, as on the command line: `epochs=2`.

    Raises:
        ClbenchError: bad input. A run that fails raises nothing; the comparison says so.
    """
    from clbench.registry import load_plugin

    for plugin in plugins:
        load_plugin(plugin)
    if not isinstance(name, str | os.PathLike | Mapping):
        raise ConfigError(f"A suite is a name, a YAML file or what such a file holds; {name!r} was given.")
    if isinstance(seeds, bool) or not (isinstance(seeds, int | None) or hasattr(seeds, "__len__")):
        raise ConfigError(f"'seeds' takes how many, or a list of them; {seeds!r} was given.")
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise ConfigError(f"'workers' takes a whole number ≥ 1; {workers!r} was given.")
    if isinstance(name, Mapping):
        loaded = config.validate(suites.SuiteConfig, dict(name), "The suite: ")
    else:
        _, loaded = suites.load(os.fspath(name))
    if isinstance(seeds, int):
        seeds = range(seeds)
    if seeds is not None and not len(seeds):
        raise ConfigError("A suite takes one seed at least; none was given.")
    cells = suites.plan(loaded, settings, seeds)
    execution = config.validate(Execution, {"device": device})
    launcher = Local(workers=workers) if workers is not None else Local()
    watch = notebook.SuiteBar().update if notebook.here() else lambda cells: None
    suites.run(cells, runs_folder(out), execution, launcher=launcher, plugins=plugins, watch=watch)
    return Comparison(tuple(map(reported, cells)))
