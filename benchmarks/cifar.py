"""CIFAR-10 and CIFAR-100: 32 × 32 colour images, 50 000 for training and 10 000 for testing.

Krizhevsky: Learning multiple layers of features from tiny images, 2009.
"""

from __future__ import annotations

from typing import Literal

from clbench.data import build, load, only
from clbench.ranges import Count, Fraction, Natural, Seed
from clbench.registry import register_benchmark
from clbench.types import Benchmark

NOTES = "The published training and test sets; fine labels of CIFAR-100."
OPS = ("crop", "flip")
"""The augmentation of nearly all class-incremental work: random crop of the image padded by 4, and flip."""


@register_benchmark("split-cifar10", version=1)
def split_cifar10(
    experiences: Count = 5,
    class_order: Literal["natural", "shuffled"] = "natural",
    task_labels: bool = False,
    online: bool = False,
    augment: bool = True,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """CIFAR-10, two new classes in each of five experiences.

    In natural order, as in most work on five splits, De Lange et al. (arXiv:2205.13452) among it.

    Args:
        experiences: 1, 2, 5 or 10.
        task_labels: task-incremental: labels of the task in training and test.
        online: one pass over the stream.
        augment: random crop and flip in training; De Lange et al. have none.
        valid: share of the training examples that makes a validation stream.
        seed: of a shuffled class order and of the validation split.
    """
    spec: dict[str, object] = dict(locals())
    return build(
        load("cifar10"),
        name="split-cifar10",
        shift="task" if task_labels else "class",
        experiences=experiences,
        class_order=class_order,
        online=online,
        augment=OPS if augment else (),
        valid=valid,
        seed=seed,
        notes=NOTES,
        spec=spec,
    )


@register_benchmark("split-cifar100", version=1)
def split_cifar100(
    experiences: Count | None = None,
    first: Count | None = None,
    increment: Count | None = None,
    classes: tuple[Natural, Count] | None = None,
    class_order: Literal["natural", "shuffled"] = "shuffled",
    task_labels: bool = False,
    online: bool = False,
    augment: bool = True,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """CIFAR-100, ten new classes in each of ten experiences, in an order drawn from the seed.

    Shuffled, as since iCaRL (arXiv:1611.07725): the spread over seeds then covers the order of the classes,
    which moves results more than initialisation does. The natural order is alphabetical and means nothing.

    Args:
        experiences: 10 unless given; 5, 10 and 20 are usual.
        first, increment: classes of the first experience and of all others, in place of `experiences`: 50 and
            10 is the protocol that starts with half of the classes.
        classes: [a, b] takes classes a … b − 1 of the data set only, numbered from 0: [50, 100] is the half that a
            backbone pretrained on [0, 50] has not seen.
        task_labels: task-incremental: labels of the task in training and test.
        online: one pass over the stream.
        augment: random crop and flip in training.
        valid: share of the training examples that makes a validation stream.
        seed: of the class order and of the validation split.
    """
    spec: dict[str, object] = dict(locals())
    return build(
        load("cifar100") if classes is None else only(load("cifar100"), *classes),
        name="split-cifar100",
        shift="task" if task_labels else "class",
        experiences=10 if (experiences, first, increment) == (None, None, None) else experiences,
        first=first,
        increment=increment,
        class_order=class_order,
        online=online,
        augment=OPS if augment else (),
        valid=valid,
        seed=seed,
        notes=NOTES,
        spec=spec,
    )
