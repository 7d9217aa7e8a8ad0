"""Where the GPU comes from: the machine has one, or `--rehearse-gpu` brings the imitation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from clbench.machine import guard


@pytest.fixture(autouse=True)
def _device(request: pytest.FixtureRequest) -> Iterator[None]:
    if not request.config.getoption("--rehearse-gpu"):
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device, or --rehearse-gpu")
        yield
        return
    if reason := guard.load():
        pytest.skip(reason)
    if request.node.get_closest_marker("real"):
        pytest.skip("needs a real GPU")
    from clbench.testing.imitation import strict_cuda

    with strict_cuda() as gpu:
        yield
        races = {(race.kind, race.op, race.where) for race in gpu.races}
    assert not races
