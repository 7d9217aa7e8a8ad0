"""Concentric rings in the plane."""

from dataclasses import replace

import numpy as np

import clbench
from clbench import Benchmark, register_benchmark
from clbench.ranges import Count, NotNegative, Seed


@register_benchmark("rings", version=1)
def rings(
    experiences: Count = 3,
    classes: Count = 2,
    examples: Count = 100,
    noise: NotNegative = 0.1,
    seed: Seed = 0,
) -> Benchmark:
    """Class-incremental points on concentric rings, two rings in every experience.

    Args:
        experiences: K.
        classes: rings of one experience.
        examples: training examples of a ring; a fifth of that for testing.
        noise: standard deviation of the radius; rings are 1 apart.
        seed: of the points.
    """
    rng = np.random.default_rng(seed)

    def points(each: int) -> tuple[np.ndarray, np.ndarray]:
        """x (N, 2) float32 and y (N,), ring by ring."""
        y = np.repeat(np.arange(experiences * classes), each)
        angle = rng.uniform(0, 2 * np.pi, len(y))
        radius = 1 + y + noise * rng.standard_normal(len(y))
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).astype(np.float32), y

    train, test = points(examples), points(max(examples // 5, 1))
    benchmark = clbench.from_arrays(
        *train, *test, experiences=experiences, class_order="natural", name="rings"
    )
    return replace(benchmark, seed=seed)  # the cut draws nothing, the points do
