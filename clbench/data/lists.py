"""Published data sets of photographs: a folder with the published split, or a raw release and lists of its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from clbench.data.files import data_folder
from clbench.data.folders import Part, Role, read_folder, source_of_files
from clbench.data.source import Source
from clbench.errors import DataError, suggest
from clbench.transforms.recipes import Recipe

SHOWN = 10
"""Faults of lists that are told."""
SIDES: tuple[Role, Role] = ("train", "test")


def read_published(
    name: str,
    path: str | Path | None,
    lists: Sequence[str | Path | None],
    recipe: Recipe,
    published: Sequence[int],
) -> Source:
    """Return a data set of photographs in its published split, prepared by a recipe.

    Classes are numbered by the plain order of their folders' names, 10 before 2, as torchvision numbers them: published
    orders of classes count on it.

    Args:
        name: of the data set, and of its folder in `CLBENCH_DATA`.
        path: its folder, if it lies elsewhere: `train/CLASS/*` and `test/CLASS/*` or `val/CLASS/*`.
        lists: in place of such folders, a text file each for training and test: on every line the path of an image as
            seen from the folder, and after a tab its class, where that is not the name of the folder that it lies in.
        published: how many classes, training and test images there are; `Source.found` tells of other numbers.

    Raises:
        DataError: there is no such folder, or what it holds cannot be read; a list names what is not there, or one
            image twice.
    """
    root = Path(path).expanduser() if path is not None else data_folder() / name
    if not root.is_dir():
        raise DataError(
            f"{name} is to be a folder with train/CLASS/* and test/CLASS/* (or val/CLASS/*), and {root} is none. Put "
            "it there, name another one by path=FOLDER, or name the raw release so and the lists of its files by "
            "train_list=FILE and test_list=FILE."
        )
    given = [one for one in lists if one is not None]
    if len(given) == 1:
        raise DataError(f"{name}: train_list and test_list go together; only {given[0]} was given.")
    if given:
        source = _listed(root, [Path(one).expanduser() for one in given], recipe)
    else:
        source = read_folder(root, recipe=recipe, plain=True)
    held = source.num_classes, len(source.train.y), len(source.test.y)
    if held == tuple(published):
        return source
    told = "{} classes, {:,} training and {:,} test images"
    other = f"The published split of {name} has {told.format(*published)}; this one has {told.format(*held)}."
    return replace(source, found=(*source.found, other))


def _listed(root: Path, lists: Sequence[Path], recipe: Recipe) -> Source:
    parts: dict[Role, Part] = {"train": Part(), "valid": Part(), "test": Part()}
    where: dict[str, str] = {}
    faults: list[str] = []
    for role, file in zip(SIDES, lists, strict=True):
        for number, line in enumerate(_lines(file), 1):
            image, _, label = (piece.strip() for piece in line.partition("\t"))
            if not image:
                continue
            here = f"{file}, line {number}"
            if (before := where.setdefault(image, here)) != here:
                faults.append(f"{here}: {image} is listed before, in {before}; every image is listed once.")
                continue
            label = label or PurePosixPath(image).parent.name
            if not label:
                faults.append(
                    f"{here}: {image} lies in no folder that would name its class; write the class after a tab."
                )
            elif PurePosixPath(image).is_absolute() or ".." in PurePosixPath(image).parts:
                faults.append(f"{here}: {image} leaves the folder {root}; paths are seen from it.")
            elif not (root / image).is_file():
                beside = (root / image).parent.glob("*") if len(faults) < SHOWN else ()
                near = suggest(PurePosixPath(image).name, (one.name for one in beside))
                named, _, word = image.rpartition(" ")
                if (root / named).is_file():
                    near = f" There is {named}; a class, such as {word}, stands after a tab."
                seen = f"Paths are seen from {root.absolute()}."
                faults.append(f"{here}: there is no file {root / image}.{near} {seen}")
            parts[role].add([f"{root}/{image}"], label, "")
    if faults:
        more = [f"and {len(faults) - SHOWN:,} more"] if len(faults) > SHOWN else []
        raise DataError("\n".join([*faults[:SHOWN], *more]))
    told = f"The images are those that {lists[0].name} and {lists[1].name} list:"
    return source_of_files(str(root), parts, told, recipe.size, 3, recipe, plain=True)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"The list {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"The list {file} is no text in UTF-8 ({error.reason}).") from error
