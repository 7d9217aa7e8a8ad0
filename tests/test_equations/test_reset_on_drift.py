"""Reset on drift: River's flags on the network's own errors, and what follows from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clbench import make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.errors import ConfigError
from clbench.parts import Watch
from clbench.testing import tiny_benchmark, tiny_run

ERRORS = [(7 * i % 10) < (2 if i < 300 else 6) for i in range(600)]
"""Of which 0.2 are wrong, then 0.6."""


def watch(detector: Any, **settings: Any) -> Watch:
    part = Watch(detector, settings, 1)
    part._begin()
    return part


@pytest.mark.parametrize(
    ("detector", "settings", "row"),
    [
        ("adwin", {}, 383),
        ("page-hinkley", {}, 456),
        ("page-hinkley", {"mode": "both"}, 456),
        ("kswin", {"seed": 1}, 326),
        ("ddm", {}, 336),
        ("eddm", {}, 352),
        ("hddm-a", {}, 323),
        ("hddm-w", {}, 336),
    ],
)
def test_detectors_flag_where_they_do_in_river(detector: str, settings: dict[str, Any], row: int) -> None:
    pytest.importorskip("river")
    part = watch(detector, **settings)
    part._feed(ERRORS)
    assert (part.flags[0], part.drifts[0]) == (row, row)


@pytest.mark.parametrize("detector", ["adwin", "kswin"])
def test_errors_that_fall_are_no_drift(detector: str) -> None:
    pytest.importorskip("river")
    part = watch(detector)
    part._feed(ERRORS[:299:-1] + ERRORS[:300])
    assert part.flags
    assert not part.drifts


@pytest.mark.parametrize(
    ("detector", "settings", "words"),
    [
        ("adwin", {"dleta": 1}, "does not take"),
        ("none", {"at": [1]}, "no settings"),
        ("given", {"to": 1}, "takes at"),
    ],
)
def test_settings_that_a_detector_does_not_take(detector: Any, settings: dict[str, Any], words: str) -> None:
    if detector == "adwin":
        pytest.importorskip("river")
    with pytest.raises(ConfigError, match=words):
        make_strategy("reset-on-drift", detector=detector, settings=settings)


def trained(strategy: str, boundaries: bool, **params: Any) -> Engine:
    benchmark = tiny_benchmark(shift="domain", boundaries=boundaries, passes=1)
    optim = OptimConfig(lr=0.1, momentum=0.9, reset=boundaries)
    run = tiny_run(make_strategy(strategy, **params), benchmark, epochs=1, batch_size=16, optim=optim)
    run.fit()
    return run


def test_drifts_at_the_boundaries_are_boundaries_that_are_told() -> None:
    """The last row of an experience flags the next one; each has 64 rows, four batches."""
    told = trained("finetune+restart", boundaries=True)
    found = trained("reset-on-drift", boundaries=False, detector="given", settings={"at": [63, 127]})
    for one, other in zip(told.model.state_dict().values(), found.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("reset", "kept"), [("weights", False), ("head", True), ("optimizer", True)])
def test_what_goes_back_to_the_start(reset: str, kept: bool) -> None:
    params = {"detector": "given", "settings": {"at": [191]}, "reset": reset}  # with the last row
    start = tiny_run(make_strategy("reset-on-drift", **params), tiny_benchmark(shift="domain"))
    end = trained("reset-on-drift", boundaries=False, **params)
    pairs = zip(start.model.named_parameters(), end.model.named_parameters(), strict=True)
    moved = {name for (name, one), (_, other) in pairs if not torch.equal(one, other)}
    assert any(name.startswith("backbone") for name in moved) == kept
    assert any(name.startswith("head") for name in moved) == (reset == "optimizer")
    assert not end.optimizer.state
