"""MNIST and Fashion-MNIST, 28 × 28 grey pixels, 60 000 training and 10 000 test examples of ten classes.

LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, Proc. IEEE 1998.
Xiao, Rasul, Vollgraf: Fashion-MNIST (arXiv:1708.07747).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clbench.data import build, load
from clbench.data.streams import permutations, rotations
from clbench.ranges import Count, Fraction, Real, Seed
from clbench.registry import register_benchmark
from clbench.types import Benchmark

NOTES = "The published training and test sets."


@register_benchmark("split-mnist", version=1)
def split_mnist(
    experiences: Count = 5,
    class_order: Literal["natural", "shuffled"] = "natural",
    task_labels: bool = False,
    online: bool = False,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """MNIST, two new digits in each of five experiences.

    In natural order, as van de Ven and Tolias (arXiv:1904.07734) and De Lange et al. (arXiv:2205.13452) take
    it.

    Args:
        experiences: 1, 2, 5 or 10.
        task_labels: task-incremental: labels of the task in training and test.
        online: one pass over the stream.
        valid: share of the training examples that makes a validation stream.
        seed: of a shuffled class order and of the validation split.
    """
    spec: dict[str, object] = dict(locals())
    return build(
        load("mnist"),
        name="split-mnist",
        shift="task" if task_labels else "class",
        experiences=experiences,
        class_order=class_order,
        online=online,
        valid=valid,
        seed=seed,
        notes=NOTES,
        spec=spec,
    )


@register_benchmark("split-fashion-mnist", version=1)
def split_fashion_mnist(
    experiences: Count = 5,
    class_order: Literal["natural", "shuffled"] = "natural",
    task_labels: bool = False,
    online: bool = False,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """Fashion-MNIST, two new kinds of clothing in each of five experiences.

    Args:
        experiences: 1, 2, 5 or 10.
        task_labels: task-incremental: labels of the task in training and test.
        online: one pass over the stream.
        valid: share of the training examples that makes a validation stream.
        seed: of a shuffled class order and of the validation split.
    """
    spec: dict[str, object] = dict(locals())
    return build(
        load("fashion_mnist"),
        name="split-fashion-mnist",
        shift="task" if task_labels else "class",
        experiences=experiences,
        class_order=class_order,
        online=online,
        valid=valid,
        seed=seed,
        notes=NOTES,
        spec=spec,
    )


@register_benchmark("permuted-mnist", version=1)
def permuted_mnist(
    domains: Count = 10,
    online: bool = False,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """MNIST of all classes, pixels permuted anew in each experience but the first.

    Args:
        domains: number of experiences; ten, as van de Ven and Tolias (arXiv:1904.07734) take.
        online: one pass over the stream.
        valid: share of the training examples that makes a validation stream.
        seed: of the permutations and of the validation split.
    """
    spec: dict[str, object] = dict(locals())
    return build(
        load("mnist"),
        name="permuted-mnist",
        shift="domain",
        changes=permutations(domains, 28 * 28, seed),
        online=online,
        valid=valid,
        seed=seed,
        notes=NOTES,
        spec=spec,
    )


@register_benchmark("rotated-mnist", version=1)
def rotated_mnist(
    angles: Annotated[tuple[Real, ...], Field(min_length=1)] = (0.0, 80.0, 160.0),
    online: bool = False,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """MNIST of all classes, rotated further in each experience.

    The stream on which the stability gap is usually shown.

    Args:
        angles: of the experiences, in degrees, counter-clockwise. 0, 80 and 160 are those of Hess et al.
            (arXiv:2311.04898); De Lange et al. (arXiv:2205.13452) have code for 20 steps of 9 degrees.
        online: one pass over the stream.
        valid: share of the training examples that makes a validation stream.
        seed: of the validation split.
    """
    spec: dict[str, object] = dict(locals())
    return build(
        load("mnist"),
        name="rotated-mnist",
        shift="domain",
        changes=rotations(angles),
        online=online,
        valid=valid,
        seed=seed,
        notes=NOTES,
        spec=spec,
    )
