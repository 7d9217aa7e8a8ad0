"""What is shipped trains to the end: every strategy, as configured, on every benchmark that needs no download.

Where `CLBENCH_DATA` has the data of others, the strategies whose loss has a weight train on a small part of these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clbench
from clbench.data.files import data_folder
from clbench.errors import ClbenchError
from clbench.registry import strategies

pytestmark = pytest.mark.slow

EMBEDDED: dict[str, dict[str, Any]] = {
    "split-digits": {},
    "rotated-digits": {},
    "permuted-digits": {},
    "power-law-permuted-digits": {},
    "si-blurry-digits": {"every_examples": None},
    "random-labels-digits": {"experiences": 5},  # of 20 that are alike
}
"""Benchmarks, and what bounds their runs without touching a step of them."""
SEEDS = (0, 1)
FILES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "split-mnist": ("mnist", 12, {}),
    "permuted-mnist": ("mnist", 3, {}),
    "rotated-mnist": ("mnist", 3, {}),
    "split-fashion-mnist": ("fashion_mnist", 12, {}),
    "split-cifar10": ("cifar10", 12, {}),
    "split-cifar100": ("cifar100", 3, {"classes": [0, 30], "experiences": 3}),  # of ten that are alike
    "pacs": ("pacs", 4, {}),
}
"""Benchmarks, their files, how many images of each class and domain make experiences of a batch of about 24, and what
else bounds their runs."""
STEPS = 40
"""Of each experience: networks with BatchNorm are as sensitive by then as they will be."""
WEIGHED = [
    name for name in strategies.names() if {"alpha", "strength"} & {*(strategies.entry(name).null or {})}
]
"""What a weight in the loss may make stiffer than gradient descent bears."""


def trained(benchmark: str, strategy: str, seed: int, out: Path, **settings: Any) -> None:
    """Evaluated at experience ends only; a modifier is chained to fine-tuning. What is refused is skipped."""
    chain = f"finetune+{strategy}" if strategies.entry(strategy).modifier else strategy
    try:
        record = clbench.run(
            benchmark,
            chain,
            seed=seed,
            out=out,
            device="cpu",
            execution={"checkpoint_seconds": None},
            **{"every": 0, **settings},
        )
    except ClbenchError as refusal:
        pytest.skip(str(refusal))
    assert record.status == "done", f"{chain} on {benchmark}, seed {seed}: {record.status}"


def thin(path: Path, count: int, to: Path) -> None:
    """A copy of a data set with the first `count` images of each class and domain."""
    with np.load(path) as file:
        arrays = dict(file)
    for split in ("train", "test"):
        group = arrays[f"y_{split}"]
        if f"domain_{split}" in arrays:
            group = group + len(arrays["class_names"]) * arrays[f"domain_{split}"]
        kept = np.sort(np.concatenate([np.flatnonzero(group == one)[:count] for one in np.unique(group)]))
        arrays |= {key: arrays[key][kept] for key in arrays if key.endswith(f"_{split}")}
    np.savez(to, **arrays)


@pytest.mark.parametrize("strategy", strategies.names())
@pytest.mark.parametrize("benchmark", EMBEDDED)
def test_no_default_diverges(benchmark: str, strategy: str, tmp_path: Path) -> None:
    for seed in SEEDS:
        trained(benchmark, strategy, seed, tmp_path, **EMBEDDED[benchmark])


@pytest.mark.parametrize("strategy", WEIGHED)
@pytest.mark.parametrize("benchmark", FILES)
def test_no_default_diverges_on_a_part_of_data_at_hand(
    benchmark: str, strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, count, bounds = FILES[benchmark]
    path = data_folder() / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    thin(path, count, tmp_path / path.name)
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path))
    settings = {"train.iterations": STEPS, "evaluation.future": False, **bounds}
    for seed in SEEDS:
        trained(benchmark, strategy, seed, tmp_path / "runs", **settings)
