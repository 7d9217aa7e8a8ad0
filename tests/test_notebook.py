"""The notebook of `examples/` runs from top to bottom, and is stored without anything of the machine that ran it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "examples" / "stability_gap.ipynb"


def test_it_is_stored_without_outputs() -> None:
    stored: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert stored["metadata"] == {"language_info": {"name": "python"}}


SHOWN = {
    "import clbench\nfrom clbench.testing import tiny_benchmark\nmade = tiny_benchmark()\nmade": "<b>tiny@1: inputs 8",
    "record = clbench.run(made, 'er', epochs=1, hidden=[8], device='cpu')\nrecord": "<b>tiny · er · seed 0</b>: done",
    "clbench.compare([record])": "<h4>tiny@1</h4>",
    "record.plot()": "",
}
"""Cells, and what the HTML of their result holds."""


class Ran(NamedTuple):
    """The code cells of the notebook and those of `SHOWN`, and the folder that they ran in."""

    stored: list[Any]
    shown: list[Any]
    folder: Path


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Both in one kernel, as its start takes long, in a folder of its own, as Jupyter does."""
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    shown = [nbformat.v4.new_code_cell(code) for code in SHOWN]
    stored = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells += shown
    folder = tmp_path_factory.mktemp("notebook")
    search = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, search)))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("MPLBACKEND", raising=False)  # the kernel has its own
        for name in ("CLBENCH_RUNS", "CLBENCH_WEIGHTS", "CLBENCH_DEBUG"):
            patch.delenv(name, raising=False)
        resources = {"metadata": {"path": str(folder)}}
        nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    return Ran(stored, shown, folder)


@pytest.mark.filterwarnings("default")  # of the machinery of notebooks
def test_it_runs_to_its_plot(ran: Ran) -> None:
    assert (ran.folder / "stability-gap.png").stat().st_size > 10_000
    *_, record, checks = ran.stored
    assert "weighted-replay, done" in record.outputs[-1]["data"]["text/plain"]
    assert checks.outputs[0]["data"]["text/plain"].count("passed") == 3


@pytest.mark.filterwarnings("default")  # of the machinery of notebooks
def test_results_and_progress_show_as_tables_plots_and_bars(ran: Ran) -> None:
    _, (bar, record), (compared,), (axes, figure) = (cell.outputs for cell in ran.shown)
    for cell, held in zip(ran.shown, SHOWN.values(), strict=True):
        assert held in next(out for out in cell.outputs if out.output_type == "execute_result").data.get(
            "text/html", ""
        )
    steps = 'value="6" max="6"'
    assert steps in bar.data["text/html"]
    assert bar.data["text/plain"].startswith("tiny · er · seed 0: 6 of 6 steps, experience 3 of 3, 0:00:0")
    assert record.data["text/plain"].startswith("<Record ")
    assert compared.data["text/plain"].startswith("tiny@1")
    assert axes.data["text/plain"].startswith("<Axes")
    assert "image/png" in figure.data
