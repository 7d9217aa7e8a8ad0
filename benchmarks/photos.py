"""Streams of new classes of photographs, in the splits and orders by which pretrained networks are compared.

A folder `train/CLASS/*`, `test/CLASS/*` (or `val/CLASS/*`) in `CLBENCH_DATA` or anywhere, or a raw release with lists
of its files.
"""

from __future__ import annotations

from typing import Any, Literal

from clbench.data import build, read_published, recipe_of
from clbench.ranges import Count, Fraction, Natural, Seed
from clbench.registry import File, register_benchmarks
from clbench.types import Benchmark


@register_benchmarks("photos.yaml")
def photos(
    told: dict[str, Any],
    *,
    data: str,
    published: tuple[Count, Count, Count],
    path: File | None = None,
    train_list: File | None = None,
    test_list: File | None = None,
    first: Count = 20,
    increment: Count = 20,
    class_order: Literal["natural", "shuffled"] | File | list[Natural | str] = "numpy-1993",
    task_labels: bool = False,
    online: bool = False,
    augment: bool = True,
    size: Count | None = None,
    recipe: str | dict[str, Any] = "pilot",
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """New classes of photographs in each experience.

    Args:
        path: the folder, with train/CLASS/* and test/CLASS/* or val/CLASS/*; the one of the data set's name in
            CLBENCH_DATA unless given.
        train_list, test_list: of a raw release in `path`, text files with the path of an image on each line, and after
            a tab its class, where that is not the name of the folder that it lies in.
        first: classes of the first experience.
        increment: classes of each experience but the first; the last one may have fewer.
        class_order: a published order, natural (by the folders' names), shuffled (drawn from the seed), a list of
            all, by number or name, or a file of one.
        task_labels: task-incremental: labels of the task in training and test.
        online: one pass over the stream.
        augment: what the recipe does in training; false prepares training images as those of tests.
        size: of the network's images, in place of the recipe's.
        recipe: how images are prepared: pilot and others as published code does it, pretrained as timm's configuration
            of the network says.
        valid: share of the training examples that makes a validation stream.
        seed: of a shuffled class order and of the validation split.
    """
    by = recipe_of(told["name"], recipe, size)
    assert by is not None
    return build(
        read_published(data, path, (train_list, test_list), by, published),
        **told,
        shift="task" if task_labels else "class",
        first=first,
        increment=increment,
        class_order=class_order,
        online=online,
        augment=None if augment else (),
        size=size,
        recipe=recipe,
        valid=valid,
        seed=seed,
    )
