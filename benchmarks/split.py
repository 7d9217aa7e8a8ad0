"""Streams of new classes: those of a data set of images, shared out to experiences.

MNIST: LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, Proc. IEEE 1998.
Fashion-MNIST: Xiao, Rasul, Vollgraf, arXiv:1708.07747. CIFAR-10 and CIFAR-100: Krizhevsky: Learning multiple layers of
features from tiny images, 2009. USPS: Hull, PAMI 1994. GTSRB: Stallkamp et al., Neural Networks 2012. Omniglot: Lake,
Salakhutdinov, Tenenbaum, Science 2015. The digits are scikit-learn's 1 797, 8 × 8 pixels: they come with it, so that
their benchmarks run anywhere in seconds.
"""

from __future__ import annotations

from typing import Any, Literal

from clbench.data import build, by_domain, design, load, only
from clbench.errors import ConfigError
from clbench.ranges import Count, Fraction, Natural, Seed
from clbench.registry import File, register_benchmarks
from clbench.types import Benchmark

OPS = ("crop", "flip")
"""The augmentation of nearly all class-incremental work: random crop of the image padded by 4, and flip."""


@register_benchmarks("split.yaml")
def split(
    told: dict[str, Any],
    *,
    data: str,
    experiences: Count = 5,
    first: Count | None = None,
    increment: Count | None = None,
    classes: tuple[Natural, Count] | None = None,
    by: Literal["classes", "domains"] = "classes",
    class_order: Literal["natural", "shuffled", "curriculum-designer"] | File = "natural",
    task_labels: bool = False,
    online: bool = False,
    augment: bool = False,
    size: Count | None = None,
    recipe: str | dict[str, Any] | None = None,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """New classes in each experience.

    Args:
        experiences: 1, 2, 5 or 10.
        first: classes of the first experience, in place of `experiences`; 50, with an increment of 10, is the protocol
            that starts with half of the classes.
        increment: classes of each experience but the first; the last one may have fewer.
        classes: [a, b] takes classes a … b − 1 of the data set only, numbered from 0: [50, 100] is the half that a
            backbone pretrained on [0, 50] has not seen.
        by: share out classes, or make an experience of the classes of each domain.
        class_order: natural, shuffled (drawn from the seed), a published order, numpy-1993 or podnet-1 for one, or a
            file that lists all classes, by number or name. Or curriculum-designer: the experiences that the natural
            order makes, in the order that is the best by the distances of their mean images.
        task_labels: task-incremental: labels of the task in training and test.
        online: one pass over the stream.
        augment: random crop and flip in training, or what the recipe does there.
        size: of the network's images; they are resized to it on the device, bicubic.
        recipe: how images are prepared for a pretrained network: pretrained, as timm's configuration of it says, or as
            published code does it: pilot, ranpac, and others.
        valid: share of the training examples that makes a validation stream.
        seed: of a shuffled class order and of the validation split.
    """
    source = load(data)
    given = any(one is not None for one in (experiences, first, increment))
    shares: Any = experiences
    if by == "domains":
        if given:
            raise ConfigError(
                f"{told['name']}: with by=domains every domain is an experience; leave out experiences, first and "
                "increment, or set by=classes."
            )
        shares, class_order = by_domain(source, class_order, seed), "natural"
    elif not given:
        shares = 10
    source = source if classes is None else only(source, *classes)
    if class_order == "curriculum-designer":
        source, shares = design(source, shares, first, increment)
        class_order, first, increment = "natural", None, None
    return build(
        source,
        **told,
        shift="task" if task_labels else "class",
        experiences=shares,
        first=first,
        increment=increment,
        class_order=class_order,
        online=online,
        augment=(None if recipe is not None else OPS) if augment else (),
        size=size,
        recipe=recipe,
        valid=valid,
        seed=seed,
    )
