"""Benchmarks from data sets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from clbench.data.duplicates import Duplicates, checked
from clbench.data.files import read_npz
from clbench.data.folders import read_folder
from clbench.data.orders import is_file, order_of, read_order, told_of
from clbench.data.preparing import recipe_of
from clbench.data.shares import Streams
from clbench.data.source import AxesOrder, Source, moments, moments_of_first, source_of
from clbench.data.streams import changed_domains, class_incremental, domain_incremental
from clbench.errors import ConfigError, choices, suggest
from clbench.machine.numerics import pinned
from clbench.ranges import Count
from clbench.registry.arguments import convert, signature_of, validated
from clbench.transforms.augment import Permute, Transform, per_channel
from clbench.transforms.recipes import Prepared, Recipe
from clbench.types import Benchmark, Change, Data, Setting

Shift = Literal["class", "domain", "task"]
"""What changes between experiences: the classes, the domain, or the classes with a task label that is told."""
Ordering = Literal["natural", "shuffled"] | str | Sequence[int | str]
"""Which class or domain comes when: ascending, drawn from the seed, a published order by name (`orders`), a file of
one, or listed, by number or by name."""
Preparation = str | dict[str, Any] | None
"""A recipe of `clbench.transforms.recipes` by name, `timm:` and the name of a network, or lines of a recipe's settings,
with `name` among them. `size` alone resizes images to it, bicubic; beside a recipe, it takes the place of its size."""
Shares = int | Sequence[Sequence[int | str]]
"""How many experiences share the classes evenly, or the classes of each one, by number or by name."""
Channels = float | Sequence[float]
"""A value for all channels, or one for each."""
Normalise = Literal["auto", "first", "none"]
"""By what inputs are normalised where neither mean nor std is given.

auto: bytes by the data set's published moments, or by those of its training examples; numbers with a point by the
training examples of the first experience; whole numbers, which may be tokens, not at all. first: any by the training
examples of the first experience, each channel of images or each feature of vectors. none: bytes are brought to [0, 1],
other numbers left as they are."""


SIZE = 64
"""Pixels of images from files, unless something else is said."""


@validated
def build(
    source: Source,
    *,
    name: str,
    version: int = 1,
    shift: Shift = "class",
    experiences: Shares | None = None,
    first: int | None = None,
    increment: int | None = None,
    class_order: Ordering = "natural",
    domain_order: Ordering = "natural",
    changes: Sequence[tuple[str, Change | None]] | None = None,
    online: bool = False,
    valid: float = 0.0,
    augment: Sequence[str] | None = None,
    size: Count | None = None,
    recipe: Preparation = None,
    mean: Channels | None = None,
    std: Channels | None = None,
    normalise: Normalise = "auto",
    duplicates: Duplicates = "note",
    seed: int = 0,
    notes: str = "",
) -> Benchmark:
    """A benchmark cut from a data set.

    Args:
        shift: "class": new classes in every experience; "task": the same with task labels in training and
            test; "domain": one experience per domain, or per change.
        experiences: how many share the classes evenly, 5 unless given, or a list of the classes of each. With "domain",
            as many as there are domains.
        first, increment: in their place, how many classes the first one and all others have.
        class_order, domain_order: "natural", "shuffled" (drawn from the seed), "numpy-1993" or another published order
            (`clbench.data.orders`), a file, or a list of all, by number or name.
        changes: names of domains and what each does to the inputs.
        online: one pass over the stream.
        valid: share of each class's training examples that makes the validation stream, if the data have none of
            their own.
        augment: training operations, of `clbench.transforms.augment.OPS`; None takes those of the recipe.
        size, recipe: how images are prepared for a network of another size: `Preparation`.
        mean, std: normalisation of inputs, bytes in [0, 1], per channel or feature or one for all.
        normalise: in their place, what it is computed from: `Normalise`.
        duplicates: whether test examples that are byte-identical to training examples are noted in records, or refused.

    Raises:
        ConfigError: parameters that do not fit the data. DataError: data that do not fit the shift.
    """
    if shift == "domain":
        _unused(
            name,
            shift,
            class_order=class_order != "natural",
            first=first is not None,
            increment=increment is not None,
        )
        if changes is not None:
            _unused(name, shift, domain_order=domain_order != "natural")
            streams = changed_domains(
                source.train, source.test, changes, valid=source.valid, valid_fraction=valid, seed=seed
            )
        elif source.domain_train is None or source.domain_test is None:
            raise ConfigError(
                f"{name}: shift 'domain' needs the domain of every example: domain_train and domain_test, or "
                "a folder <domain>/<class>/*. Without domains, shift may be 'class' or 'task'."
            )
        else:
            streams = domain_incremental(
                source.train,
                source.test,
                domain_train=source.domain_train,
                domain_test=source.domain_test,
                valid=source.valid,
                domain_valid=source.domain_valid,
                names=source.domain_names,
                domain_order=numbered(name, "domain", domain_order, source.domain_names),
                valid_fraction=valid,
                seed=seed,
            )
        if experiences not in (None, len(streams.train)):
            raise ConfigError(
                f"{name}: with shift 'domain', every domain is an experience, and there are {len(streams.train)}; "
                f"experiences={experiences} was given. Leave it out."
            )
    else:
        _unused(name, shift, domain_order=domain_order != "natural", changes=changes is not None)
        if experiences is None and first is None and increment is None:
            experiences = 5
        elif experiences is not None and not isinstance(experiences, int):
            flat = numbered(
                name, "class", [*itertools.chain(*experiences)], source.class_names, "experiences"
            )
            ends = [0, *itertools.accumulate(map(len, experiences))]
            experiences = [flat[a:b] for a, b in itertools.pairwise(ends)]
        streams = class_incremental(
            source.train,
            source.test,
            valid=source.valid,
            experiences=experiences,  # type: ignore[arg-type]
            first=first,
            increment=increment,
            class_order=numbered(name, "class", class_order, source.class_names),
            valid_fraction=valid,
            seed=seed,
            task_labels=shift == "task",
        )
    task_labels: Literal["always", "never"] = "always" if shift == "task" else "never"
    draws = (
        valid > 0
        or (shift == "domain" and changes is None and domain_order == "shuffled")
        or (shift != "domain" and class_order == "shuffled")
        or any(isinstance(change, Permute) for _, change in changes or ())
    )
    first_data = streams.train[0].data
    transform = transform_of(
        source, name, augment, mean, std, normalise, first_data, recipe_of(name, recipe, size)
    )
    return made(
        replace(source, found=(*source.found, *_told(class_order, source, transform))),
        streams,
        Setting(shift, task_labels=task_labels, passes=1 if online else None),
        transform,
        duplicates,
        name=name,
        version=version,
        seed=seed if draws else 0,
        notes=notes,
    )


def made(
    source: Source,
    streams: Streams,
    setting: Setting,
    transform: Transform,
    duplicates: Duplicates,
    *,
    notes: str,
    **others: Any,
) -> Benchmark:
    """Return the benchmark of streams of a data set, with what records tell of that; `others` are its own fields."""
    benchmark = Benchmark(
        setting=setting,
        train=streams.train,
        test=streams.test,
        valid=streams.valid,
        num_classes=source.num_classes,
        transform=transform,
        class_names=source.class_names,
        notes=" ".join((notes, *source.found)).strip(),
        found=source.found,
        duplicates=source.duplicates,
        **others,
    )
    return checked(benchmark, duplicates)


def stream_names() -> list[str]:
    """Return the names of the settings that say how any data are cut into a stream."""
    return [
        key for key in signature_of(build).parameters if key not in ("source", "name", "changes", "notes")
    ]


def stream_settings(who: str, params: dict[str, Any], own: Sequence[str]) -> dict[str, Any]:
    """Return the settings of `build` that a function passes on, checked before any data are read.

    Args:
        own: the function's other parameters.

    Raises:
        ConfigError: there is no such setting, or it does not take this value.
    """
    known = stream_names()
    for key in params:
        if key not in known:
            takes = list(dict.fromkeys([*own, "name", *known]))
            raise ConfigError(
                f"{who} has no parameter '{key}'.{suggest(key, takes)} It takes: {', '.join(takes)}."
            )
    return convert(who, build, params)


def _unused(name: str, shift: Shift, **given: bool) -> None:
    """Refuse parameters that would change nothing."""
    for key, there in given.items():
        if there:
            raise ConfigError(f"{name}: {key} does nothing with shift '{shift}'; leave it out.")


def numbered(
    name: str, what: str, order: Any, known: Sequence[str], parameter: str = ""
) -> Sequence[int] | str:
    """Classes or domains by number, of those that are listed by name in a parameter, `class_order` for one.

    Raises:
        ConfigError: a name that is not known, or one that is missing or there twice.
    """
    if is_file(order):
        order = read_order(order, parameter or f"{what}_order")
    if isinstance(order, str):
        return order
    for one in order:
        if isinstance(one, str) and one not in known:
            there = choices(one, known) if known else " The data name none."
            raise ConfigError(f"{name}: there is no {what} '{one}'.{there}")
    numbers = [known.index(one) if isinstance(one, str) else one for one in order]
    if any(isinstance(one, str) for one in order):  # of numbers, it is said by number
        times = [numbers.count(k) for k in range(len(known))]
        wrong = [f"'{known[k]}' {'twice' if n else 'is missing'}" for k, n in enumerate(times) if n != 1]
        if wrong:
            parameter = parameter or f"{what}_order"
            raise ConfigError(f"{name}: {parameter} must list every {what} once; {', '.join(wrong[:3])}.")
    return numbers


def transform_of(
    source: Source,
    name: str,
    augment: Sequence[str] | None,
    mean: Channels | None,
    std: Channels | None,
    normalise: Normalise,
    first: Data,
    recipe: Recipe | None = None,
) -> Transform:
    """Normalisation and augmentation; `first` are the training examples of the first experience."""
    if recipe is not None and recipe.name:
        if mean is not None or normalise != "auto":
            raise ConfigError(
                f"{name}: the recipe {recipe.name} says how pixels are normalised; leave out mean, std and normalise, "
                "or write them into the recipe."
            )
        mean, std, normalise = (recipe.mean, recipe.std, "auto") if recipe.mean else (None, None, "none")
    if augment is None:
        augment = (
            () if recipe is None or recipe.scale is None else ("resized-crop",) + ("flip",) * recipe.flip
        )
    if (mean is None) != (std is None):
        raise ConfigError(f"{name}: mean and std go together; only one of them was given.")
    if mean is not None and normalise != "auto":
        raise ConfigError(f"{name}: normalise='{normalise}' does nothing beside mean and std; leave it out.")
    shape, x = source.train.x.shape[1:], source.train.x
    means, stds = (), ()  # type: tuple[tuple[float, ...], tuple[float, ...]]
    if mean is not None and std is not None:
        means, stds = per_channel("mean", mean), per_channel("std", std)
    elif normalise == "first" or (normalise == "auto" and x.is_floating_point() and not source.mean):
        means, stds = (
            moments(first.x(), source.scale) if x.dtype == torch.uint8 else moments_of_first(first.x())
        )
    elif normalise == "auto":
        means, stds = source.normalisation
    channels = shape[0]
    if len(means) not in (0, 1, channels):
        raise ConfigError(f"{name}: mean and std need 1 or {channels} values each; {len(means)} were given.")
    if augment and len(shape) != 3:
        raise ConfigError(
            f"{name}: augmentation needs images (C, H, W); the inputs have shape {tuple(shape)}."
        )
    if recipe is None:
        return Transform(source.scale, means, stds, tuple(augment))
    if len(shape) != 3:
        raise ConfigError(
            f"{name}: size and recipe are for images (C, H, W); the inputs have shape {tuple(shape)}."
        )
    return Prepared(source.scale, means, stds, tuple(augment), recipe=recipe)


def _told(class_order: Any, source: Source, transform: Transform) -> list[str]:
    """Return what records tell of a published order of classes, and of how images are prepared."""
    told = []
    if isinstance(class_order, str) and class_order not in ("natural", "shuffled"):
        order = numbered("", "class", class_order, source.class_names)
        numbers = order_of(order, source.num_classes) if isinstance(order, str) else np.array(order)
        told.append(told_of(class_order, numbers))
    if isinstance(transform, Prepared):
        told.append(transform.told(source.train.x.shape[2:]))
    return told


@pinned()
@validated
def from_arrays(
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    *,
    x_valid: Any = None,
    y_valid: Any = None,
    domain_train: Any = None,
    domain_test: Any = None,
    domain_valid: Any = None,
    class_names: Sequence[str] = (),
    domain_names: Sequence[str] = (),
    layout: AxesOrder = "auto",
    shift: Shift = "class",
    experiences: Shares | None = None,
    first: int | None = None,
    increment: int | None = None,
    class_order: Ordering = "natural",
    domain_order: Ordering = "natural",
    online: bool = False,
    valid: float = 0.0,
    augment: Sequence[str] | None = None,
    size: Count | None = None,
    recipe: Preparation = None,
    mean: Channels | None = None,
    std: Channels | None = None,
    normalise: Normalise = "auto",
    duplicates: Duplicates = "note",
    seed: int = 0,
    name: str = "arrays",
    version: int = 1,
) -> Benchmark:
    """A benchmark from arrays or tensors.

    Args:
        x_train, x_test: uint8 images (N, H, W), (N, H, W, C) or (N, C, H, W), or features (N, D);
            floating-point features (N, D) or images with a channel axis, which are not scaled; or whole numbers
            (N, D), which are tokens to a model that embeds them and features to any other. Arrays that need no
            conversion are not copied, so leave them as they are.
        y_train, y_test: (N,) labels 0 … C−1, each in both; they are never renumbered.
        x_valid, y_valid: of the validation stream, where the data have their own.
        domain_train, domain_test, domain_valid: (N,) domain of every example, from 0; for shift="domain".
        class_names, domain_names: for people.
        layout: "channels-first" for images (N, C, H, W), "channels-last" for (N, H, W, C). "auto" takes the smaller
            one of axes 1 and 3 for the channels, where the images are square then or there are up to four channels
            and the other reading has no square images; it refuses all else.
        shift: what changes between experiences: "class", "domain", or "task" with its label.
        experiences: how many, of equal size, or a list of the classes of each.
        first, increment: in their place, how many classes the first one and each later one have.
        class_order, domain_order: "natural" (ascending), "shuffled" (by `seed`), "numpy-1993" or another published
            order, or a list, by number or name.
        online: one pass over each experience.
        valid: share of the training examples, stratified, that makes a validation stream.
        augment: of training inputs, "crop" and "flip" for example; None takes those of the recipe, if there is one.
        size, recipe: how images are prepared for a network of another size, `224` and `"pilot"` for example.
        mean, std: of the normalisation, for each channel or feature or one for all.
        normalise: what it is computed from where they are None. "auto": uint8 from the training examples, other
            floating-point numbers from those of the first experience, whole numbers not at all; "first": any from the
            first experience; "none": not at all, but for uint8, which is brought to [0, 1].
        duplicates: "note" says in records how many test examples are byte-identical to training examples, "refuse"
            raises.
        seed: of what is drawn.
        name, version: of the benchmark, in records.

    Raises:
        DataError: an array that cannot be used; says which and what is allowed.
        ConfigError: a parameter that does not fit.
    """
    source = source_of(
        x_train,
        y_train,
        x_test,
        y_test,
        x_valid=x_valid,
        y_valid=y_valid,
        domain_train=domain_train,
        domain_test=domain_test,
        domain_valid=domain_valid,
        class_names=class_names,
        domain_names=domain_names,
        layout=layout,
        who=name,
    )
    return build(
        source,
        name=name,
        version=version,
        shift=shift,
        experiences=experiences,
        first=first,
        increment=increment,
        class_order=class_order,
        domain_order=domain_order,
        online=online,
        valid=valid,
        augment=augment,
        size=size,
        recipe=recipe,
        mean=mean,
        std=std,
        normalise=normalise,
        duplicates=duplicates,
        seed=seed,
    )


@pinned()
@validated
def from_npz(path: str | Path, *, layout: AxesOrder = "auto", name: str = "npz", **params: Any) -> Benchmark:
    """A benchmark from an `.npz` file, read without pickle; `read_npz` says what it holds.

    Args:
        path: the file.
        layout: of its images, as of `from_arrays`.
        name: of the benchmark.
        params: the others of `from_arrays`: `experiences`, `shift`, `seed`, …

    Raises:
        DataError: no such file, or what it holds cannot be used.
        ConfigError: a parameter that does not fit.
    """
    settings = stream_settings("from_npz()", params, ("path", "layout"))
    return build(read_npz(path, layout=layout), name=name, **settings)


@pinned()
@validated
def from_folder(
    path: str | Path,
    *,
    size: Count | None = None,
    recipe: Preparation = None,
    channels: Literal[1, 3] = 3,
    test_fraction: float = 0.2,
    name: str = "image-folder",
    **params: Any,
) -> Benchmark:
    """A benchmark from a folder of images; `read_folder` says how it is laid out.

    Args:
        path: the folder.
        name: of the benchmark.
        size: images are resized to size × size pixels, 64 unless given, or as the recipe says.
        recipe: how images are prepared for a pretrained network: `Preparation`.
        channels: 3 for colour, 1 for grey.
        test_fraction: share of every class that is for testing, where the folder holds no split of its own.
            `Benchmark.notes` says how the folder was read.
        params: the others of `from_arrays`: `experiences`, `shift`, `seed`, …

    Raises:
        DataError: no such folder, or what it holds cannot be read.
        ConfigError: a parameter that does not fit.
    """
    settings = stream_settings(
        "from_folder()", params, ("path", "size", "recipe", "channels", "test_fraction")
    )
    if recipe is None:
        return build(
            read_folder(path, size=size or SIZE, channels=channels, test_fraction=test_fraction),
            name=name,
            **settings,
        )
    by = recipe_of(name, recipe, size)
    source = read_folder(path, channels=channels, test_fraction=test_fraction, recipe=by)
    return build(source, name=name, recipe=recipe, size=size, **settings)
