"""Records of earlier versions stay readable, with the numbers they had.

`tests/historic/` holds one run folder for each form that records ever had; none is ever changed or removed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from clbench.results import metrics
from clbench.results.ledger import read_record

FOLDERS = sorted(folder for folder in (Path(__file__).parent / "historic").iterdir() if folder.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_a_record_of_an_earlier_version_is_read_and_its_metrics_follow_from_its_curve(folder: Path) -> None:
    record = read_record(folder)
    assert record.metrics["average_accuracy"] is not None
    assert metrics.compute(record.curve, list(record.metrics)) == record.metrics


def test_there_is_one_at_least() -> None:
    assert FOLDERS
