"""The notebook of `examples/` runs from top to bottom, and is stored without anything of the machine that ran it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "examples" / "stability_gap.ipynb"


def test_it_is_stored_without_outputs() -> None:
    stored: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert stored["metadata"] == {"language_info": {"name": "python"}}


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Run a notebook in a folder of its own, as Jupyter does."""
    nbclient = pytest.importorskip("nbclient")
    search = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, search)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel has its own

    def run(notebook: Any) -> None:
        resources = {"metadata": {"path": str(tmp_path)}}
        nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()

    return run


@pytest.mark.filterwarnings("default")  # of the machinery of notebooks
def test_it_runs_to_its_plot(tmp_path: Path, execute: Callable[[Any], None]) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    execute(notebook)
    assert (tmp_path / "stability-gap.png").stat().st_size > 10_000
    *_, record, checks = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "weighted-replay, done" in record.outputs[-1]["data"]["text/plain"]
    assert checks.outputs[0]["data"]["text/plain"].count("passed") == 3


SHOWN = {
    "import clbench\nfrom clbench.testing import tiny_benchmark\nmade = tiny_benchmark()\nmade": "<b>tiny@1: inputs 8",
    "record = clbench.run(made, 'er', epochs=1, hidden=[8], device='cpu')\nrecord": "<b>tiny · er · seed 0</b>: done",
    "clbench.compare([record])": "<h4>tiny@1</h4>",
    "record.plot()": "",
}
"""Cells, and what the HTML of their result holds."""


@pytest.mark.filterwarnings("default")  # of the machinery of notebooks
def test_results_and_progress_show_as_tables_plots_and_bars(execute: Callable[[Any], None]) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in SHOWN])
    execute(notebook)
    _, (bar, record), (compared,), (axes, figure) = (cell.outputs for cell in notebook.cells)
    for cell, held in zip(notebook.cells, SHOWN.values(), strict=True):
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
