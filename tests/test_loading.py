"""Feeding: the same batches in the same order, wherever the data lies."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from clbench.config import Execution
from clbench.engine import loading
from clbench.engine.loading import Feed
from clbench.testing import tiny_benchmark
from clbench.types import Data

CPU = torch.device("cpu")


def data() -> Data:
    return Data.union([exp.data for exp in tiny_benchmark(images=True).train])


def batches(**execution: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rows = torch.randperm(192, generator=torch.Generator().manual_seed(0)).split(20)
    feed = Feed(data(), CPU, Execution.model_validate({"device": "cpu", **execution}))
    return list(feed.batches(rows, rows))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_yield_what_residents_yield(workers: int) -> None:
    expected = batches(resident="always")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = batches(resident="never", workers=workers)
    assert len(found) == len(expected) == 10
    for (x, y), (x2, y2) in zip(expected, found, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


def test_workers_draw_nothing_of_the_global_generator() -> None:
    before = torch.get_rng_state()
    batches(resident="never", workers=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("room", "resident"), [(10_000, True), (100, False)])
def test_data_that_fits_lies_on_the_device(
    room: int, resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_room", lambda device: room)
    assert Feed(data(), CPU, Execution()).resident is resident
