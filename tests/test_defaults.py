"""What is shipped trains to the end: every strategy, as configured, on every benchmark that needs no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import clbench
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


@pytest.mark.parametrize("strategy", strategies.names())
@pytest.mark.parametrize("benchmark", EMBEDDED)
def test_no_default_diverges(benchmark: str, strategy: str, tmp_path: Path) -> None:
    """Evaluated at experience ends only; a modifier is chained to fine-tuning."""
    chain = f"finetune+{strategy}" if strategies.entry(strategy).modifier else strategy
    for seed in SEEDS:
        try:
            record = clbench.run(
                benchmark,
                chain,
                seed=seed,
                out=tmp_path,
                device="cpu",
                execution={"checkpoint_seconds": None},
                **{"every": 0, **EMBEDDED[benchmark]},
            )
        except ClbenchError as refusal:
            pytest.skip(str(refusal))
        assert record.status == "done", f"{chain} on {benchmark}, seed {seed}: {record.status}"
