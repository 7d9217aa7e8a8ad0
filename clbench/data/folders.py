"""Data sets from folders of images: which layout a folder has, and its images, decoded once."""

from __future__ import annotations

import hashlib
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from clbench.data.decoded import decoded_files
from clbench.data.pixels import SUFFIXES
from clbench.data.source import Source, natural
from clbench.errors import ConfigError, DataError
from clbench.files.mapped import Mapped
from clbench.transforms.recipes import Recipe
from clbench.types import Pool

Role = Literal["train", "test", "valid"]
ROLES: dict[str, Role] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "valid"),
}
"""What the names of folders say, in any case, of the images in them."""

LIKE_SPLIT = re.compile(
    r"(?<![a-z])(train|training|test|testing|val|valid|validation|dev|eval|evaluation|holdout)"
    r"(set|data|images|split)?s?(?![a-z])"
)
"""Names, in lower case, that may mean a split, but are none that is known: `train2017`, `dev`, `testset`."""

LITTER = frozenset(
    (
        *("__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "system volume information"),
        *("lost+found", "__pycache__", "thumbs.db", "desktop.ini"),
    )
)
"""What systems and programs leave in folders, in lower case; names that begin with a dot are passed over, too."""

INNER = frozenset(("images", "imgs", "img"))
"""Names, in lower case, of a folder in that of a class that says no more than that images are in it."""

DEEPEST = 4
"""Folders between the root and an image: a split, a domain, a class, and one more for its images."""

ALLOWED = (
    "CLASS/*, DOMAIN/CLASS/*, or either with train and test (or val) in its path: train/CLASS/*, "
    "train/DOMAIN/CLASS/*, DOMAIN/train/CLASS/*; those of a class may lie in images/ in its folder"
)


@dataclass(frozen=True)
class _Leaf:
    """A folder of images, or those of one class in it.

    Attributes:
        path: what leads to it, from the root: folders of splits, domains and classes.
        images: names of its files, sorted.
        folder: those that hold them, from the root; one more than the path where they lie in images/.
        listed: the file that says their class, where none of the folders does.
    """

    path: tuple[str, ...]
    images: tuple[str, ...]
    folder: tuple[str, ...]
    listed: str = ""

    def __str__(self) -> str:
        return f"{'/'.join(self.folder)}/"


@dataclass(frozen=True)
class _Layout:
    """What the folders between the root and an image say.

    Attributes:
        split: place of train, test or val among them; None where there is none.
        domain: place of the domain, where there is one. label: place of the class.
        told: it in words.
    """

    split: int | None
    domain: int | None
    label: int
    told: str


@dataclass
class Part:
    """Images of a split, in order, with class and domain of each, "" where there are none."""

    files: list[str] = field(default_factory=list)  # with slashes on every system
    labels: list[str] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)

    def add(self, files: Sequence[str], label: str, domain: str) -> None:
        self.files += files
        self.labels += [label] * len(files)
        self.domains += [domain] * len(files)


def read_folder(
    path: str | Path,
    *,
    size: int = 64,
    channels: Literal[1, 3] = 3,
    test_fraction: float = 0.2,
    recipe: Recipe | None = None,
    plain: bool = False,
) -> Source:
    """Return a data set from a folder of images, decoded once and cached as a memory map in `$CLBENCH_DATA/folders`.

    Layouts: `CLASS/*` or `DOMAIN/CLASS/*`, and either with a split at one place of its path: `train/CLASS/*`,
    `train/DOMAIN/CLASS/*`, `DOMAIN/train/CLASS/*`. The split is `train` or `training` with `test` or `testing`, `val`,
    `valid` or `validation`, in any case. Where there is a test folder, val is the validation stream; where there is
    none, val is the test set. The images of a class may lie in a folder of its folder, if all classes do so and it is
    named images, imgs or img; and those of a split in its images/, if `*_annotations.txt` beside that names the
    class of each (Tiny ImageNet). `Source.found` says how the folder was read.

    Without a split, each class's images (in each domain) are ordered by the SHA-256 of their path below the folder,
    and the first `test_fraction` of them are for testing: the same on every machine, and new images move few old ones.

    Classes and domains are numbered by name, 2 before 10; `plain` numbers classes 10 before 2. Images are turned
    upright, brought to 8 bits (deep grey from its full range, transparency onto white), cropped to a square about the
    centre and resized to size × size, bilinear, or as a `recipe` says. Files that are no images by their names are
    passed over and counted in `Source.found`; what is hidden, or what systems leave (`__MACOSX`, `@eaDir`,
    `Thumbs.db`), is no part of the data. Anything else that would go unused is refused. The content of the files
    decides whether the cache is taken, not their names and times.

    Raises:
        ConfigError: a size or fraction out of range.
        DataError: no such folder, a layout that can be read in two ways or in none, a class or domain without training
            or test images, images that cannot be read.
    """
    root = Path(path).expanduser()
    if size < 1 or not 0 < test_fraction < 1:
        raise ConfigError(
            f"An image folder needs size ≥ 1 and 0 < test_fraction < 1; given: {size}, {test_fraction}."
        )
    try:
        leaves, passed = _leaves(root)
        leaves = _classed(root, leaves)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error
    layout = _layout(root, leaves)
    parts, told = _parts(root, leaves, layout, test_fraction)
    for part in parts.values():
        part.files = [f"{root}/{name}" for name in part.files]
    source = source_of_files(str(root), parts, told, size, channels, recipe, plain)
    found = [*source.found]
    if inner := sorted({leaf.folder[-1] for leaf in leaves if leaf.folder != leaf.path and not leaf.listed}):
        found.append(f"Images of a class lie in {' or '.join(inner)}/ of its folder.")
    if lists := {leaf.listed: str(leaf) for leaf in leaves if leaf.listed}:
        found += [
            f"The classes of images in {place} are those that {file} names." for file, place in lists.items()
        ]
        passed.subtract(Path(file).suffix for file in lists)
    if passed := +passed:
        kinds = ", ".join(f"{kind} ({count})" for kind, count in sorted(passed.items()))
        told = kinds.encode(errors="backslashreplace").decode()  # names need not be text
        found.append(f"Files that are no images by their names were passed over: {told}.")
    return replace(source, found=tuple(found))


def source_of_files(
    who: str,
    parts: Mapping[Role, Part],
    told: str,
    size: int,
    channels: int,
    recipe: Recipe | None = None,
    plain: bool = False,
) -> Source:
    """Return the data set of image files, as a memory map, with classes and domains numbered by name.

    Args:
        who: the data, for messages. told: a sentence on where they come from, to be ended by how many there are.
        recipe: of the network's images, in place of a size; those of the memory map are what it cuts them out of.
        plain: classes are numbered by the plain order of their names, 10 before 2, as torchvision numbers them.

    Raises:
        DataError: a class or domain without training or test images, images that cannot be read.
    """
    _check_sides(who, parts)
    if recipe is not None:
        size = recipe.side(False)
    names = sorted(set(parts["train"].labels), key=None if plain else natural)
    of_domains = sorted(set(parts["train"].domains) - {""}, key=natural)

    def numbers(given: list[str], known: list[str]) -> npt.NDArray[np.int64]:
        number = {name: k for k, name in enumerate(known)}
        return np.array([number[name] for name in given], dtype=np.int64)

    file = str(
        decoded_files([name for part in parts.values() for name in part.files], size, channels, recipe)
    )
    pools: dict[Role, Pool] = {}
    start = 0
    for role, part in parts.items():
        stop = start + len(part.files)
        if stop > start:
            labels = torch.from_numpy(numbers(part.labels, names))
            pools[role] = Pool.mapped(Mapped.rows(file, start, stop), labels)
        start = stop
    domains = {
        role: numbers(part.domains, of_domains) if of_domains else None for role, part in parts.items()
    }
    kinds: tuple[tuple[Role, str], ...] = (("train", "training"), ("valid", "validation"), ("test", "test"))
    counts = ", ".join(f"{n:,} {what}" for role, what in kinds if (n := len(parts[role].files)))
    among = f" in {len(of_domains)} domains" if of_domains else ""
    return Source(
        pools["train"],
        pools["test"],
        tuple(names),
        domains["train"],
        domains["test"],
        tuple(of_domains),
        valid=pools.get("valid"),
        domain_valid=domains["valid"] if "valid" in pools else None,
        found=(f"{told} {counts} images of {len(names)} classes{among}, read at {size} × {size} pixels.",),
    )


def _leaves(root: Path) -> tuple[list[_Leaf], Counter[str]]:
    """Return the folders that hold images, and how many other files there are by the ends of their names."""
    if not root.is_dir():
        what = "is a file; unpack it, and name the folder" if root.is_file() else "does not exist"
        raise DataError(f"There is no image folder {root}: it {what}.")
    leaves: list[_Leaf] = []
    passed: Counter[str] = Counter()

    def visit(folder: Path, path: tuple[str, ...]) -> None:
        with os.scandir(folder) as listing:
            entries = [e for e in listing if not e.name.startswith(".") and e.name.lower() not in LITTER]
        entries.sort(key=lambda entry: entry.name)
        folders = [entry.name for entry in entries if entry.is_dir()]
        files = [entry.name for entry in entries if not entry.is_dir()]
        images = tuple(name for name in files if Path(name).suffix.lower() in SUFFIXES)
        others = Counter(Path(name).suffix.lower() or name for name in files if name not in set(images))
        passed.update(others)
        if images and not path:
            raise DataError(
                f"{root} holds images, such as {images[0]}, that are in no class. Each belongs into a folder of its "
                f"class: {ALLOWED}."
            )
        if folders and images:
            raise DataError(
                f"{folder} holds images, such as {images[0]}, beside the folder {folders[0]}/. Images of a class lie "
                f"in one folder: move those in {folders[0]}/ up, or these into a folder of their class."
            )
        if folders and len(path) == DEEPEST:
            raise DataError(f"{folder / folders[0]} lies too deep; images may lie in {ALLOWED}.")
        if not folders and not images and path:
            held = f"its files end in {', '.join(sorted(others))}" if others else "it is empty"
            raise DataError(
                f"The folder {folder} holds no images ({held}); fill or remove it. Names of images end in "
                f"{', '.join(SUFFIXES)}."
            )
        if images:
            leaves.append(_Leaf(path, images, path))
        for name in folders:
            visit(folder / name, (*path, name))

    visit(root, ())
    if not leaves:
        raise DataError(
            f"{root} holds no images in folders of classes: {ALLOWED}, with names that end in "
            f"{', '.join(SUFFIXES)}."
        )
    return leaves, passed


def _classed(root: Path, leaves: Sequence[_Leaf]) -> list[_Leaf]:
    """Folders of images whose paths end with the class, which a folder named images is not.

    Raises:
        DataError: there is one beside other folders, or in some folders of classes only.
    """
    held = Counter(leaf.path[:k] for leaf in leaves for k in range(len(leaf.path)))
    found: list[_Leaf] = []
    forms: dict[tuple[str, ...], tuple[str, _Leaf]] = {}  # of the classes in a folder
    for leaf in leaves:
        *above, name = leaf.path
        inner = name.lower() if name.lower() in INNER else ""
        if inner and (not above or held[tuple(above)] > 1):
            raise DataError(
                f"{leaf} in {root} is taken neither for a class, as its name says no more than that images are in it, "
                "nor for the images of a class, as it is not alone in the folder of one. Rename it if it is a class; "
                "if not, move its images up, and the other folders elsewhere."
            )
        if inner and above[-1].lower() in ROLES and (listed := _listed(root, leaf)):
            found += listed
            continue
        form, other = forms.setdefault(tuple(above[:-1] if inner else above), (inner, leaf))
        if form != inner:
            raise DataError(
                f"{root} holds images at different places: {other} and {leaf}. Those of all classes lie in the folders "
                "of the classes, or those of all in one of the same name in them."
            )
        found.append(_Leaf(tuple(above), leaf.images, leaf.folder) if inner else leaf)
    return found


def _listed(root: Path, leaf: _Leaf) -> list[_Leaf]:
    """Return the images of a split by class, as the one `*_annotations.txt` beside their folder says; none without it.

    Raises:
        DataError: it does not say a class of each.
    """
    above = root.joinpath(*leaf.path[:-1])
    files = [name for name in os.listdir(above) if name.endswith("_annotations.txt") and name[0] != "."]
    if len(files) != 1:
        return []
    try:
        lines = (above / files[0]).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{above / files[0]} is no text in UTF-8 ({error.reason}).") from error
    classes: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        image, label, *_ = (*(part.strip() for part in line.split("\t")), "")
        if line.strip() and (not label or classes.setdefault(image, label) != label):
            raise DataError(
                f"{above / files[0]}, line {number}: the name of an image, a tab and its class belong there, and every "
                f"image has one class; it is {line[:80]!r}."
            )
    if without := [image for image in leaf.images if image not in classes]:
        raise DataError(f"{above / files[0]} names no class of {without[0]} in {leaf}; add or remove it.")
    of: dict[str, list[str]] = {}
    for image in leaf.images:
        of.setdefault(classes[image], []).append(image)
    file = "/".join((*leaf.path[:-1], files[0]))
    return [_Leaf((*leaf.path[:-1], label), tuple(of[label]), leaf.folder, file) for label in sorted(of)]


def _layout(root: Path, leaves: Sequence[_Leaf]) -> _Layout:
    """Return what each folder on the way to an image stands for.

    Raises:
        DataError: it can be read in several ways, or in none.
    """
    depth = len(leaves[0].path)
    other = next((leaf for leaf in leaves if len(leaf.path) != depth), None)
    if other is not None:
        for leaf in (leaves[0], other):
            if leaf.folder != leaf.path and leaf.path[-1].lower() in ROLES:
                raise DataError(
                    f"The images of {leaf} in {root} are in no class: move those of each class into a folder of its "
                    f"name in {'/'.join(leaf.path)}/ (or name it in a line of {'/'.join(leaf.path)}/"
                    f"{leaf.path[-1]}_annotations.txt: the file, a tab, its class), or, if they have none, move "
                    f"{leaf.path[-1]}/ elsewhere."
                )
        raise DataError(
            f"{root} holds images at different depths: {leaves[0]} and {other}. All images lie in {ALLOWED}."
        )
    said = [{ROLES.get(leaf.path[p].lower()) for leaf in leaves} for p in range(depth)]
    splits = [p for p in range(depth) if "train" in said[p] and said[p] & {"test", "valid"}]
    if len(splits) > 1:
        raise DataError(f"{leaves[0]} in {root} can be read as a split in two ways; images lie in {ALLOWED}.")
    rest = [p for p in range(depth) if p not in splits]
    if not rest:
        raise DataError(
            f"{root} holds images in {' and '.join(map(str, leaves[:3]))}, but no folders of classes: {ALLOWED}."
        )
    if len(rest) > 2:
        raise DataError(f"{root / leaves[0].path[0]} lies too deep above its images; they lie in {ALLOWED}.")
    domain, label = (rest[0] if len(rest) == 2 else None), rest[-1]
    if splits:
        told = _told_split(root, leaves, splits[0], domain, label)
        return _Layout(splits[0], domain, label, told)
    for p in range(depth):
        names = sorted({leaf.path[p] for leaf in leaves})
        like = [name for name in names if LIKE_SPLIT.search(name.lower())]
        if len(like) == len(names) or (like and p == domain):
            raise DataError(
                f"{root} holds {'/ and '.join(names[:4])}/, and {like[0]}/ may mean a part of a split. A split is "
                "train or training beside test, testing, val, valid or validation. Rename the folders so; or, to have "
                "a share of the images set apart for testing, name a folder that holds no more than the classes, such "
                f"as {root.joinpath(*leaves[0].path[: p + 1])}."
            )
    return _Layout(None, domain, label, "CLASS" if domain is None else "DOMAIN/CLASS")


def _told_split(root: Path, leaves: Sequence[_Leaf], split: int, domain: int | None, label: int) -> str:
    """Return a layout with a split in words, such as `train/CLASS and val/CLASS`.

    Raises:
        DataError: a folder beside train and test that is neither, or one of them under two names.
    """
    beside: dict[tuple[str, ...], dict[str | None, set[str]]] = {}
    for leaf in leaves:
        name = leaf.path[split]
        beside.setdefault(leaf.path[:split], {}).setdefault(ROLES.get(name.lower()), set()).add(name)
    for above, roles in beside.items():
        place = root.joinpath(*above)
        known = sorted(name for role, names in roles.items() if role is not None for name in names)
        if None in roles:
            raise DataError(
                f"{place} holds {'/ and '.join(known) or 'no train or test'}/, but also {min(roles[None])}/, which "
                "would go unused; move it elsewhere, or its images into one of the others."
            )
        for names in roles.values():
            if len(names) > 1:
                raise DataError(
                    f"{place} holds both {'/ and '.join(sorted(names))}/, which mean the same; join them."
                )
    spelled: dict[str, set[str]] = {}
    for roles in beside.values():
        for role, names in roles.items():
            spelled.setdefault(str(role), set()).update(names)
    ways = []
    for role in ("train", "valid", "test"):
        for name in sorted(spelled.get(role, ())):
            words = {split: name, label: "CLASS", **({} if domain is None else {domain: "DOMAIN"})}
            ways.append("/".join(words[p] for p in sorted(words)))
    return " and ".join((", ".join(ways[:-1]), ways[-1]))


def _parts(
    root: Path, leaves: Sequence[_Leaf], layout: _Layout, test_fraction: float
) -> tuple[dict[Role, Part], str]:
    """Return which images are for what, in the order of their paths, and a sentence on it."""
    parts: dict[Role, Part] = {"train": Part(), "valid": Part(), "test": Part()}
    _check_spelling(root, "Class", leaves, layout.label)
    if layout.domain is not None:
        _check_spelling(root, "Domain", leaves, layout.domain)
    tested = layout.split is None or any(ROLES[leaf.path[layout.split].lower()] == "test" for leaf in leaves)
    for leaf in leaves:
        label = leaf.path[layout.label]
        domain = "" if layout.domain is None else leaf.path[layout.domain]
        files = ["/".join((*leaf.folder, name)) for name in leaf.images]
        if layout.split is not None:
            role = ROLES[leaf.path[layout.split].lower()]
            parts[role if tested or role == "train" else "test"].add(files, label, domain)
            continue
        chosen = share_of(files, test_fraction)
        parts["train"].add([name for name in files if name not in chosen], label, domain)
        parts["test"].add([name for name in files if name in chosen], label, domain)
    told = f"The folder was read as {layout.told}"
    if layout.split is None:
        words = sorted(
            {leaf.path[layout.label] for leaf in leaves if leaf.path[layout.label].lower() in ROLES}
        )
        as_class = f" ({words[0]} as a class, as nothing beside it is its counterpart)" if words else ""
        return parts, f"{told}{as_class}; {test_fraction:.0%} of each class are for testing:"
    if parts["valid"].files:
        return parts, f"{told}, where val makes the validation stream:"
    return parts, f"{told}{'' if tested else ', where val is the test set'}:"


def _check_sides(who: str, parts: Mapping[Role, Part]) -> None:
    """Refuse classes and domains that have images on one side only."""
    sides: tuple[tuple[Role, Role, str], ...] = (
        ("train", "test", "test"),
        ("test", "train", "training"),
        ("valid", "train", "training"),
    )
    for kind, several in (("Class", "class"), ("Domain", "domain")):
        have = {r: set(part.labels if kind == "Class" else part.domains) for r, part in parts.items()}
        for having, lacking, which in sides:
            if without := sorted(have[having] - have[lacking], key=natural):
                raise DataError(
                    f"{kind} '{without[0]}' in {who} has no {which} images; every {several} needs some of both."
                )


def share_of(names: Sequence[str], fraction: float) -> set[str]:
    """Return a fixed share of names, one at least and not all: the same on every machine, and new names move few."""
    by_hash = sorted(names, key=lambda name: hashlib.sha256(name.encode(errors="surrogateescape")).digest())
    return set(by_hash[: min(max(1, math.floor(len(names) * fraction + 0.5)), max(len(names) - 1, 0))])


def _check_spelling(root: Path, kind: str, leaves: Iterable[_Leaf], place: int) -> None:
    """Names that differ in case only are one name, written in two ways, unless they stand side by side."""
    alike: dict[str, set[str]] = {}
    beside: dict[tuple[tuple[str, ...], str], set[str]] = {}
    for leaf in leaves:
        name = leaf.path[place]
        plain = unicodedata.normalize("NFC", name).casefold()
        alike.setdefault(plain, set()).add(name)
        others = (*leaf.path[:place], *leaf.path[place + 1 :])
        beside.setdefault((others, plain), set()).add(name)
    apart = {plain for (_, plain), names in beside.items() if len(names) > 1}
    for plain, names in alike.items():
        if len(names) > 1 and plain not in apart:
            one, other, *_ = sorted(names)
            raise DataError(
                f"{kind} '{one}' and {kind.lower()} '{other}' in {root} differ in nothing but upper and lower case or "
                "the form of accents; name them alike, or else differently."
            )
