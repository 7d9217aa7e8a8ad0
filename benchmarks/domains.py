"""Streams of domains: all classes in each experience, pixels permuted anew, images rotated further or corrupted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from clbench.data import any_source, build, load, permutations, rotations
from clbench.ranges import Count, Fraction, Real, Seed
from clbench.registry import File, register_benchmark, register_benchmarks
from clbench.transforms.corruptions import KINDS, Corrupt, Kind
from clbench.types import Benchmark, Change


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


@register_benchmark("corrupted", version=1)
def corrupted(
    data: File,
    corruptions: Annotated[tuple[Kind, ...], Field(min_length=1)] = KINDS,
    strength: Annotated[int, Field(ge=1, le=5)] | Literal["rising"] = 3,
    clean: bool = True,
    online: bool = False,
    size: Count | None = None,
    recipe: str | dict[str, Any] | None = None,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """Any images of all classes, corrupted otherwise in each experience but the first.

    Args:
        data: a data set by name, such as digits, cifar10 or gtsrb, an .npz file, or a folder of images.
        corruptions: of the experiences, in order: brightness, noise, blur, contrast.
        strength: 1 to 5; rising makes five experiences of each corruption, ever stronger.
        clean: whether the first experience has the images as they are.
        online: one pass over the stream.
        size: of the network's images; they are resized to it on the device, bicubic.
        recipe: how images are prepared for a pretrained network, as for split-cifar100.
        valid: share of the training examples that makes a validation stream.
        seed: of the validation split.

    Reference: Hendrycks, Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
    ICLR 2019, arXiv:1903.12261; here in whole numbers, with the strengths that it has for images of 32 × 32 pixels.
    """
    source = any_source("corrupted", data)
    strengths = range(1, 6) if strength == "rising" else (strength,)
    white = round(1 / source.scale)
    changes: list[tuple[str, Change | None]] = [("clean", None)] if clean else []
    changes += [(f"{kind} {s}", Corrupt(kind, s, white)) for kind in corruptions for s in strengths]
    return build(
        source,
        name="corrupted",
        shift="domain",
        changes=changes,
        online=online,
        size=size,
        recipe=recipe,
        valid=valid,
        seed=seed,
    )
