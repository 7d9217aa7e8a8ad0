"""Streams of domains: all classes in each experience, with pixels permuted anew, or images rotated further."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from clbench.data import build, load, permutations, rotations
from clbench.ranges import Count, Fraction, Real, Seed
from clbench.registry import register_benchmarks
from clbench.types import Benchmark


@register_benchmarks("permuted.yaml")
def permuted(
    told: dict[str, Any],
    *,
    data: str,
    domains: Count = 10,
    online: bool = False,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """All classes, pixels permuted anew in each experience but the first.

    Args:
        domains: number of experiences.
        online: one pass over the stream.
        valid: share of the training examples that makes a validation stream.
        seed: of the permutations and of the validation split.
    """
    source = load(data)
    changes = permutations(domains, source.train.x[0].numel(), seed)
    return build(source, **told, shift="domain", changes=changes, online=online, valid=valid, seed=seed)


@register_benchmarks("rotated.yaml")
def rotated(
    told: dict[str, Any],
    *,
    data: str,
    angles: Annotated[tuple[Real, ...], Field(min_length=1)] = (0.0, 80.0, 160.0),
    online: bool = False,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """All classes, images rotated further in each experience.

    Args:
        angles: of the experiences, in degrees, counter-clockwise.
        online: one pass over the stream.
        valid: share of the training examples that makes a validation stream.
        seed: of the validation split.
    """
    changes = rotations(angles)
    return build(load(data), **told, shift="domain", changes=changes, online=online, valid=valid, seed=seed)
