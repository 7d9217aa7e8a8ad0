"""Whole data sets in a row.

Ebrahimi et al., "Adversarial Continual Learning", ECCV 2020, arXiv:2003.09553, and Zheng et al., "Preventing Zero-Shot
Transfer Degradation in Continual Learning of Vision-Language Models", ICCV 2023, arXiv:2303.06628, have such streams of
other sets.
"""

from __future__ import annotations

from typing import Any, Literal

from clbench.data import Labels, Normalised, in_a_row
from clbench.ranges import Count, Fraction, Natural, Seed
from clbench.registry import File, register_benchmarks
from clbench.types import Benchmark


@register_benchmarks("sequences.yaml")
def sequences(
    told: dict[str, Any],
    *,
    sets: tuple[File, ...],
    labels: Labels = "union",
    order: Literal["natural", "shuffled"] | list[Natural | str] = "natural",
    size: Count = 32,
    normalise: Normalised = "each",
    train_per_class: Count | None = None,
    test_per_class: Count | None = None,
    online: bool = False,
    augment: bool = False,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """Whole data sets, one in each experience.

    Args:
        sets: data sets by name, such as digits, mnist or cifar10, .npz files or folders of images.
        labels: union, each set with columns of its own; told, the same with task labels in training and test; shared,
            the same classes in all sets.
        order: of the experiences: as listed, drawn from the seed, or a list of all sets, by name or number.
        size: of all images; those that lack up to four pixels are padded, others resized and cut to a square.
        normalise: each set by its own mean and std, where contrastive methods make no strong views; or shared, all by
            the same.
        train_per_class, test_per_class: the first so many of each class, in the order of the data; all unless given.
        online: one pass over the stream.
        augment: random crop in training; no flip, which would make other digits and signs.
        valid: share of the training examples that makes a validation stream.
        seed: of a shuffled order and of the validation split.
    """
    return in_a_row(
        sets,
        **told,
        labels=labels,
        order=order,
        size=size,
        normalise=normalise,
        train_per_class=train_per_class,
        test_per_class=test_per_class,
        online=online,
        augment=augment,
        valid=valid,
        seed=seed,
    )
