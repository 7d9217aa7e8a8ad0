"""Random numbers: where a run goes on with those of another kind of device."""

from __future__ import annotations

import torch

from clbench import make_strategy
from clbench.engine.engine import Engine
from clbench.machine import checkpoint
from clbench.machine.randomness import global_rng_state, go_on, set_global_rng_state
from clbench.testing import tiny_benchmark
from clbench.testing.tiny import tiny_run

OF_A_GPU = torch.zeros(16, dtype=torch.uint8)
"""A seed and an offset, as a GPU's generator has them; a CPU's has 5056 bytes."""


def drawn(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def test_a_state_of_the_cpu_says_nothing_of_a_gpu() -> None:
    set_global_rng_state(torch.device("cuda", 0), global_rng_state(torch.device("cpu")))


def test_a_generator_goes_on_or_begins_at_the_seed() -> None:
    first, second, seeded = (torch.Generator().manual_seed(seed) for seed in (1, 2, 3))
    go_on(second, first.get_state(), 3)
    assert drawn(second) == drawn(first)
    go_on(second, OF_A_GPU, 3)
    assert drawn(second) == drawn(seeded)


def run() -> Engine:
    return tiny_run(make_strategy("er", memory=20), tiny_benchmark(), batch_size=8, checkpoint_seconds=0)


def test_a_run_that_began_on_a_gpu_goes_on_here() -> None:
    states = []
    whole = run()
    whole.fit(lambda: states.append(checkpoint.clone(whole.state_dict())))
    state = states[len(states) // 2]
    state["global_rng"]["cuda"] = OF_A_GPU
    state["generators"] = dict.fromkeys(state["generators"], OF_A_GPU)
    fresh = run()
    fresh.load_state_dict(state)
    fresh.fit()
    assert state["generators"]
    assert (fresh.finished, fresh.step) == (True, whole.step)
