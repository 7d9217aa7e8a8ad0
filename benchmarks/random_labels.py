"""Random labels, drawn anew in each experience: how long can a network go on fitting new data?

Lyle et al., "Normalization and effective learning rates in reinforcement learning", NeurIPS 2024, arXiv:2407.01800.
"""

from __future__ import annotations

import torch

from clbench.data import Source, digits, load
from clbench.data.streams import bits, permutation
from clbench.errors import ConfigError
from clbench.ranges import Count, Seed
from clbench.registry import register_benchmark
from clbench.transforms.augment import Transform
from clbench.types import Benchmark, Data, Experience, Pool, Setting, Stream

NOTES = (
    "The same training images in every experience, with labels drawn anew, uniformly; the test stream is the training "
    "stream, so that an experience's accuracy at its own end is its training accuracy."
)


@register_benchmark("random-labels-mnist", version=1)
def random_labels_mnist(experiences: Count = 20, examples: Count = 1200, seed: Seed = 0) -> Benchmark:
    """MNIST images whose labels are drawn anew in each of 20 experiences: plasticity, not forgetting.

    Args:
        experiences: draws of labels.
        examples: images, the same in all of them, the first of a random order.
        seed: of images and labels.
    """
    return _random_labels("random-labels-mnist", load("mnist"), experiences, examples, seed)


@register_benchmark("random-labels-cifar10", version=1)
def random_labels_cifar10(experiences: Count = 20, examples: Count = 1200, seed: Seed = 0) -> Benchmark:
    """CIFAR-10 images whose labels are drawn anew in each of 20 experiences: plasticity, not forgetting.

    The paper's has 200 draws of labels for all 50,000 images.

    Args:
        experiences: draws of labels.
        examples: images, the same in all of them, the first of a random order.
        seed: of images and labels.
    """
    return _random_labels("random-labels-cifar10", load("cifar10"), experiences, examples, seed)


@register_benchmark("random-labels-digits", version=1)
def random_labels_digits(experiences: Count = 20, examples: Count = 400, seed: Seed = 0) -> Benchmark:
    """Small handwritten digits whose labels are drawn anew in each of 20 experiences: nothing to download.

    Args:
        experiences: draws of labels.
        examples: images, the same in all of them, the first of a random order.
        seed: of images and labels.
    """
    return _random_labels("random-labels-digits", digits(), experiences, examples, seed)


def _random_labels(name: str, source: Source, experiences: int, examples: int, seed: int) -> Benchmark:
    pool, classes = source.train, source.num_classes
    if experiences < 1 or not 1 <= examples <= len(pool.y):
        raise ConfigError(
            f"{name} has 1 experience or more and 1 … {len(pool.y)} examples; {experiences} and {examples} were given."
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
        name,
        1,
        Setting("domain"),
        Stream("train", tuple(taught)),
        Stream("test", tuple(taught)),
        classes,
        Transform(source.scale, *source.normalisation),
        primary="learning_accuracy",
        seed=seed,
        class_names=source.class_names,
        notes=NOTES,
        spec={"experiences": experiences, "examples": examples, "seed": seed},
        memorise=True,
    )
