"""scikit-learn's 1 797 handwritten digits, 8 × 8 pixels: they come with it, so these benchmarks run anywhere
in seconds. Of each class, every fifth example is for testing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clbench.data import build, digits
from clbench.data.streams import permutations, rotations
from clbench.ranges import Count, Fraction, Real, Seed
from clbench.registry import register_benchmark
from clbench.types import Benchmark

NOTES = "Of each class, in the order of the data set, every fifth example is for testing."


@register_benchmark("split-digits", version=1)
def split_digits(
    experiences: Count = 5,
    class_order: Literal["natural", "shuffled"] = "natural",
    task_labels: bool = False,
    online: bool = False,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """Handwritten digits, two new classes in each of five experiences.

    Args:
        experiences: 1, 2, 5 or 10.
        task_labels: task-incremental: labels of the task in training and test.
        online: one pass over the stream.
        valid: share of the training examples that makes a validation stream.
        seed: of a shuffled class order and of the validation split.
    """
    spec: dict[str, object] = dict(locals())
    return build(
        digits(),
        name="split-digits",
        shift="task" if task_labels else "class",
        experiences=experiences,
        class_order=class_order,
        online=online,
        valid=valid,
        seed=seed,
        notes=NOTES,
        spec=spec,
    )


@register_benchmark("rotated-digits", version=1)
def rotated_digits(
    angles: Annotated[tuple[Real, ...], Field(min_length=1)] = (0.0, 80.0, 160.0),
    online: bool = False,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """Handwritten digits of all classes, rotated further in each experience.

    Args:
        angles: of the experiences, in degrees, counter-clockwise; those of rotated-mnist by default.
        online: one pass over the stream.
        valid: share of the training examples that makes a validation stream.
        seed: of the validation split.
    """
    spec: dict[str, object] = dict(locals())
    return build(
        digits(),
        name="rotated-digits",
        shift="domain",
        changes=rotations(angles),
        online=online,
        valid=valid,
        seed=seed,
        notes=NOTES,
        spec=spec,
    )


@register_benchmark("permuted-digits", version=1)
def permuted_digits(
    domains: Count = 5,
    online: bool = False,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """Handwritten digits of all classes, pixels permuted anew in each experience but the first.

    Args:
        domains: number of experiences.
        online: one pass over the stream.
        valid: share of the training examples that makes a validation stream.
        seed: of the permutations and of the validation split.
    """
    spec: dict[str, object] = dict(locals())
    return build(
        digits(),
        name="permuted-digits",
        shift="domain",
        changes=permutations(domains, 64, seed),
        online=online,
        valid=valid,
        seed=seed,
        notes=NOTES,
        spec=spec,
    )
