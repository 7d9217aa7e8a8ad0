"""Random labels, drawn anew in each experience: how long can a network go on fitting new data?

Lyle et al., "Normalization and effective learning rates in reinforcement learning", NeurIPS 2024, arXiv:2407.01800.
"""

from __future__ import annotations

from typing import Any

import torch

from clbench.data import bits, load, permutation
from clbench.errors import ConfigError
from clbench.ranges import Count, Seed
from clbench.registry import register_benchmarks
from clbench.transforms.augment import Transform
from clbench.types import Benchmark, Data, Experience, Pool, Setting, Stream


@register_benchmarks("random_labels.yaml", primary="learning_accuracy")
def random_labels(
    told: dict[str, Any], *, data: str, experiences: Count = 20, examples: Count = 1200, seed: Seed = 0
) -> Benchmark:
    """Images whose labels are drawn anew in each experience.

    Args:
        experiences: draws of labels.
        examples: images, the same in all of them, the first of a random order.
        seed: of images and labels.
    """
    source = load(data)
    pool, classes = source.train, source.num_classes
    if experiences < 1 or not 1 <= examples <= len(pool.y):
        raise ConfigError(
            f"{told['name']} has 1 experience or more and 1 … {len(pool.y)} examples; {experiences} and {examples} "
            "were given."
        )
    chosen = torch.from_numpy(permutation(len(pool.y), seed, "random labels: images")[:examples])
    x = pool.x[chosen.sort().values].contiguous()
    rows = torch.arange(examples)
    taught = []
    for k in range(experiences):
        # The remainder of 64 random bits: of ten classes none is likelier by more than 1e-18.
        y = torch.from_numpy((bits(examples, seed, f"random labels: draw {k}") % classes).astype("int64"))
        held = tuple(y.unique().tolist())
        taught.append(Experience(k, held, Data.of(Pool(x, y), rows), domain=f"draw {k}"))
    return Benchmark(
        **told,
        setting=Setting("domain"),
        train=Stream("train", tuple(taught)),
        test=Stream("test", tuple(taught)),
        num_classes=classes,
        transform=Transform(source.scale, *source.normalisation),
        primary="learning_accuracy",
        seed=seed,
        class_names=source.class_names,
        memorise=True,
    )
