"""Benchmarks from one's own data: arrays in an .npz file, or a folder of images."""

from __future__ import annotations

from typing import Any, Literal

from clbench.data import AxesOrder, Duplicates, Normalise, from_folder, from_npz
from clbench.ranges import Count, Fraction, Natural, Part, Seed
from clbench.registry import File, register_benchmark
from clbench.types import Benchmark


@register_benchmark("npz", version=2)
def npz(
    path: File,
    layout: AxesOrder = "auto",
    shift: Literal["class", "domain", "task"] = "class",
    experiences: Count | list[list[Natural | str]] | None = None,
    first: Count | None = None,
    increment: Count | None = None,
    class_order: Literal["natural", "shuffled"] | File | list[Natural | str] = "natural",
    domain_order: Literal["natural", "shuffled"] | list[Natural | str] = "natural",
    online: bool = False,
    augment: tuple[str, ...] | None = None,
    size: Count | None = None,
    recipe: str | dict[str, Any] | None = None,
    normalise: Normalise = "auto",
    valid: Fraction = 0.0,
    duplicates: Duplicates = "note",
    seed: Seed = 0,
) -> Benchmark:
    """Your own arrays, from an .npz file with x_train, y_train, x_test and y_test.

    Args:
        path: the file; domain_train and domain_test in it are for shift=domain, x_valid and y_valid make a validation
            stream.
        layout: of images: channels-first, channels-last, or auto, where their shape leaves no doubt.
        shift: new classes, one domain, or new classes with task labels in each experience.
        experiences: how many share the classes evenly, 5 unless given; or a list of the classes of each.
        first: classes of the first experience, in place of `experiences`.
        increment: classes of each experience but the first.
        class_order, domain_order: ascending, drawn from the seed, or a list of all, by number or name; classes in a
            published order, too, numpy-1993 for one, or in that of a file.
        online: one pass over the stream.
        augment: training operations: crop, flip, or with a recipe resized-crop; those of the recipe if none are given.
        size: of the network's images; they are resized to it on the device, bicubic.
        recipe: how images are prepared for a pretrained network: pretrained, as timm's configuration of it says, or as
            published code does it: pilot, ranpac, and others.
        normalise: auto: bytes by the training examples, numbers with a point by those of the first experience, whole
            numbers not at all; first: any by the first experience; none: bytes become 0 to 1, others stay as they are.
        valid: share of the training examples that makes a validation stream, where the data have none.
        duplicates: test examples that are byte-identical to training examples: note them in the record, or refuse.
        seed: of shuffled orders and of the validation split.
    """
    given: dict[str, Any] = dict(locals())
    return from_npz(**given, version=2)


@register_benchmark("image-folder", version=2)
def image_folder(
    path: File,
    size: Count | None = None,
    recipe: str | dict[str, Any] | None = None,
    channels: Literal[1, 3] = 3,
    test_fraction: Part = 0.2,
    shift: Literal["class", "domain", "task"] = "class",
    experiences: Count | list[list[Natural | str]] | None = None,
    first: Count | None = None,
    increment: Count | None = None,
    class_order: Literal["natural", "shuffled"] | File | list[Natural | str] = "natural",
    domain_order: Literal["natural", "shuffled"] | list[Natural | str] = "natural",
    online: bool = False,
    augment: tuple[str, ...] | None = None,
    valid: Fraction = 0.0,
    duplicates: Duplicates = "note",
    seed: Seed = 0,
) -> Benchmark:
    """Your own images, from a folder CLASS/* or DOMAIN/CLASS/*, or either with train and test or val in its path.

    Args:
        path: the folder. Without train and test, a fixed part of each class's images is for testing; where there are
            test and val, val makes a validation stream.
        size: pixels that images are cropped and resized to, 64 unless given.
        recipe: how images are prepared for a pretrained network: pretrained, as timm's configuration of it says, or as
            published code does it: pilot, ranpac, and others; `size` then takes the place of its size.
        channels: 3 for colour, 1 for grey.
        test_fraction: share of each class's images (in each domain) that is for testing.
        shift: new classes, one domain, or new classes with task labels in each experience.
        experiences: how many share the classes evenly, 5 unless given; or a list of the classes of each.
        first: classes of the first experience, in place of `experiences`.
        increment: classes of each experience but the first.
        class_order, domain_order: by name (2 before 10), drawn from the seed, or a list of all, by number or name;
            classes in a published order, too, numpy-1993 for one, or in that of a file.
        online: one pass over the stream.
        augment: training operations: crop, flip, or with a recipe resized-crop; those of the recipe if none are given.
        valid: share of the training examples that makes a validation stream, where the data have none.
        duplicates: test examples that are byte-identical to training examples: note them in the record, or refuse.
        seed: of shuffled orders and of the validation split.
    """
    given: dict[str, Any] = dict(locals())
    return from_folder(**given, version=2)
