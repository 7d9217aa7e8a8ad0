"""Benchmarks from tables with a row for each example: one's own stream, of images, arrays, features or texts."""

from __future__ import annotations

from typing import Any, Literal

from clbench.data import By, Duplicates, Normalise, Overlap, Tested, Unmatched, from_manifest
from clbench.ranges import Count, Fraction, Natural, Part, Real, Seed
from clbench.registry import File, register_benchmark
from clbench.types import Benchmark


@register_benchmark("manifest", version=1)
def manifest(
    path: File,
    image: str | None = "path",
    row: str | None = "row",
    text: str | None = "text",
    features: str | tuple[str, ...] = (),
    label: str | None = "label",
    split: str | None = "split",
    experience: str | None = "experience",
    domain: str | None = "domain",
    task: str | None = "task",
    time: str | None = "time",
    order: str | None = "order",
    group: str | None = "group",
    box: str | None = "box",
    root: str | None = None,
    array: File | None = None,
    by: By = "auto",
    periods: Count | list[Real | str] | None = None,
    count: Count | None = None,
    tested: Tested = "auto",
    boundaries: bool | None = None,
    labels: Literal["auto", "names"] = "auto",
    class_names: tuple[str, ...] = (),
    train_split: str | Natural | tuple[Natural | str, ...] = (),
    valid_split: str | Natural | tuple[Natural | str, ...] = (),
    test_split: str | Natural | tuple[Natural | str, ...] = (),
    size: Count | None = None,
    recipe: str | dict[str, Any] | None = None,
    channels: Literal[1, 3] = 3,
    test_fraction: Part = 0.2,
    longest: Count = 4096,
    overlap: Overlap = "refuse",
    unmatched: Unmatched = "refuse",
    times: Literal["checked", "free"] = "checked",
    shift: Literal["auto", "class", "domain", "task"] = "auto",
    experiences: Count | list[list[Natural | str]] | None = None,
    first: Count | None = None,
    increment: Count | None = None,
    class_order: Literal["natural", "shuffled"] | File | list[Natural | str] = "natural",
    domain_order: Literal["natural", "shuffled"] | list[Natural | str] = "natural",
    online: bool = False,
    augment: tuple[str, ...] | None = None,
    normalise: Normalise = "auto",
    valid: Fraction = 0.0,
    duplicates: Duplicates = "note",
    seed: Seed = 0,
) -> Benchmark:
    """Your own stream, from a CSV, TSV, JSON-lines or Parquet file with a row for each example.

    Args:
        path: the file; or a folder that `datasets` of Hugging Face has saved, or of a data set's Parquet files, which
            tell the splits.
        image: column of files, as seen from the file's folder: images, arrays (.npy) or texts (.txt).
        row: column of row numbers in `array`, in place of files.
        text: column of texts, in place of files.
        features: columns of numbers (* stands for any characters), or one of lists of them, in place of files.
        label: column of classes, by name or by number.
        split: column of train, test and val. Without it, a fixed part of each class is for testing.
        experience: column of experiences, from 0. Test rows may all leave it empty: they are tested after every one.
        domain: column of domains.
        task: column of task labels.
        time: column of times, in ISO 8601 or seconds since 1970.
        order: column of places in an experience, which are kept then.
        group: column of users, videos, …, which are not in training and test both.
        box: column of parts of images: top,left,height,width.
        root: folder that files are seen from.
        array: .npy file that `row` counts in.
        by: what makes the experiences; auto: their column, if there is one, else the classes.
        periods: for by=time: how many, of equal counts, or a list of the times between them.
        count: for by=count: rows of each experience.
        tested: after an experience: its own test rows, all together, or those of each class it holds.
        boundaries: whether the learner is told them; not with by=count, unless it is said.
        labels: names: whole numbers are names, so that there may be gaps.
        class_names: of classes 0, 1, ….
        train_split, valid_split, test_split: words of `split`, in place of the usual ones of each; rows of
            other words are left out then.
        size: pixels that images are cropped and resized to; without it, all have one size.
        recipe: how images are prepared for a pretrained network: pretrained, as timm's configuration of it says, or as
            published code does it: pilot, ranpac, and others.
        channels: 3 for colour, 1 for grey.
        test_fraction: share of each class that is for testing, where the file does not say.
        longest: bytes that are kept of a text.
        overlap: allow: a file may be in several rows, and a group in training and test.
        unmatched: drop: rows of classes that are only trained, or only tested, are left out, and of such domains with
            by=domain.
        times: free: they may run backwards along the stream.
        shift: what changes; auto: as the columns say.
        experiences: for by=class: how many share the classes evenly, 5 unless given; or a list of the classes of each.
        first: classes of the first experience, in place of `experiences`.
        increment: classes of each experience but the first.
        class_order, domain_order: by name (2 before 10), drawn from the seed, or a list of all, by number or name;
            classes in a published order, too, numpy-1993 for one, or in that of a file.
        online: one pass over the stream.
        augment: training operations: crop, flip, or with a recipe resized-crop; those of the recipe if none are given.
        normalise: auto: bytes by the training examples, numbers with a point by those of the first experience, whole
            numbers not at all; first: any by the first experience; none: bytes become 0 to 1, others stay as they are.
        valid: share of the training examples that makes a validation stream, where the data have none.
        duplicates: test examples that are byte-identical to training examples: note them in the record, or refuse.
        seed: of shuffled orders and of the validation split.
    """
    given: dict[str, Any] = dict(locals())
    if shift == "auto":
        del given["shift"]
    return from_manifest(**given)
