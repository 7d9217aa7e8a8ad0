"""The notebook of `examples/` runs from top to bottom, and is stored without anything of the machine that ran it."""

from __future__ import annotations

import json
import os
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


@pytest.mark.filterwarnings("default")  # of the machinery of notebooks
def test_it_runs_to_its_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    search = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, search)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "stability-gap.png").stat().st_size > 10_000
    *_, record, checks = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "weighted-replay, done" in record.outputs[0]["data"]["text/plain"]
    assert checks.outputs[0]["data"]["text/plain"].count("passed") == 3
