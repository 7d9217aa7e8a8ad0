"""Runs that share a GPU: the bits of each alone, and no more than its share of the memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clbench.config import Execution
from clbench.runs import suite
from clbench.runs.launchers import Local

pytestmark = [pytest.mark.gpu, pytest.mark.real]

GIVEN = {
    "strategies": ["er"],
    "benchmarks": ["split-digits"],
    "seeds": 4,
    "settings": {"iterations": 30, "experiences": 2, "model": "slim-resnet18", "evaluation.every": 10},
}


def curves(folder: Path, per_gpu: int) -> list[str]:
    cells = suite.plan(suite.validate(suite.SuiteConfig, GIVEN))
    how = Execution(device="cuda:0", checkpoint_seconds=None)
    suite.run(cells, folder, how, launcher=Local(per_gpu=per_gpu))
    assert [(cell.state, cell.message) for cell in cells] == [("done", "")] * 4
    return [cell.record.curve_file["sha256"] for cell in cells if cell.record is not None]


def test_seeds_that_share_a_gpu_have_the_bits_of_those_alone(tmp_path: Path) -> None:
    assert curves(tmp_path / "together", 4) == curves(tmp_path / "alone", 1)


def test_a_process_takes_no_more_than_its_share() -> None:
    from clbench.machine.device import free_memory, limit_memory

    device = torch.device("cuda", 0)
    torch.cuda.empty_cache()
    before, (free, whole) = free_memory(device), torch.cuda.mem_get_info(device)
    limit_memory("cuda:0", 0.1)
    try:
        assert free_memory(device) <= 0.1 * whole < before <= free
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.empty(int(0.2 * whole), dtype=torch.uint8, device=device)
    finally:
        limit_memory("cuda:0", 1.0)
