"""What is wrong with a manifest, beyond its cells: told before anything is trained, all at once.

Shapes: N rows.
"""

from __future__ import annotations

import io
import itertools
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from clbench.data.arrays import opened
from clbench.data.cells import NONE, iso
from clbench.data.decoded import for_each
from clbench.data.draws import Ints
from clbench.data.manifests import MEANT, ORDER, UNUSED, Manifest
from clbench.data.pixels import MISREAD, size_of

TRAIN, VALID, TEST = range(3)
UNREAD = "Images that cannot be read"
Overlap = Literal["refuse", "allow"]
"""Whether a file, or a group, may stand in several rows: in training and test, or twice in one split."""


def check_files(manifest: Manifest, used: npt.NDArray[np.bool_], quietly: bool = False) -> list[int]:
    """Note the files that are not there, unless quietly; return the rows whose files are."""
    if manifest.kind not in ("images", "arrays", "text files"):
        return []
    there: dict[str, set[str]] = {}
    found, lost = list[int](), list[int]()
    for i in np.flatnonzero(used).tolist():
        folder, _, name = manifest.paths[i].rpartition("/")
        if folder not in there:
            try:
                there[folder] = set(os.listdir(manifest.root / folder))
            except OSError:
                there[folder] = set()
        (found if name in there[folder] else lost).append(i)
    if quietly:
        return found
    lost = [i for i in lost if manifest.paths[i] and not (manifest.root / manifest.paths[i]).is_file()]
    manifest.faults.rows(
        "Files that are not there",
        manifest.at(
            np.array(lost, dtype=np.int64),
            lambda i: manifest.named(i) + _almost(manifest, manifest.paths[i], there),
        ),
        f"Paths are seen from {manifest.root}; root=… names another folder.",
    )
    return found


def _almost(manifest: Manifest, path: str, there: dict[str, set[str]]) -> str:
    """Return what to say of a file that is there but for capitals, or whose letters with marks are spelt in another
    way, as archives from other systems have them."""
    for form in ("NFC", "NFD"):
        if (manifest.root / unicodedata.normalize(form, path)).is_file():
            return f" (but that in the Unicode form {form})"
    folder, _, name = path.rpartition("/")

    def plain(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    near = next((one for one in sorted(there[folder]) if plain(one) == plain(name)), None)
    return f" (but {near!a})" if near is not None else ""


def check_images(manifest: Manifest, rows: Sequence[int], resized: bool) -> tuple[int, int] | None:
    """Note images that cannot be opened, and, where they are not resized, those of other sizes.

    Returns:
        height and width of all of them, where they are not resized.
    """
    boxes = manifest.box

    def look(k: int) -> tuple[tuple[int, int] | None, str]:
        i = rows[k]
        try:
            if boxes is not None and boxes.codes[i] >= 0:
                box = box_of(boxes.names[boxes.codes[i]])
                return (box[2], box[3]), ""
            return size_of(Path(manifest.root, manifest.paths[i])), ""
        except MISREAD as error:
            return None, str(error)

    looked = for_each(look, len(rows))
    bad = [
        (int(manifest.numbers[i]), f"{manifest.paths[i]} ({why})")
        for i, (_, why) in zip(rows, looked, strict=True)
        if why
    ]
    manifest.faults.rows(UNREAD, bad, "Remove, replace or convert them.")
    if resized:
        return None
    return _one_size(manifest, [(i, found) for i, (found, _) in zip(rows, looked, strict=True) if found])


def check_pictures(manifest: Manifest, used: npt.NDArray[np.bool_]) -> tuple[int, int] | None:
    """Note images in a table that cannot be opened, or are of other sizes; return height and width of all."""
    sizes: list[tuple[int, tuple[int, int]]] = []
    bad, i = [], 0
    for chunk in manifest.table.pictures(manifest.picture):
        for content in chunk:
            try:
                if used[i]:
                    sizes.append((i, size_of(io.BytesIO(content))))
            except MISREAD as error:
                bad.append((int(manifest.numbers[i]), str(error)))
            i += 1
    manifest.faults.rows(UNREAD, bad, "Remove or replace them.")
    return _one_size(manifest, sizes)


def _one_size(manifest: Manifest, sizes: Sequence[tuple[int, tuple[int, int]]]) -> tuple[int, int] | None:
    if not sizes:
        return None
    height, width = sizes[0][1]
    others = [
        (
            int(manifest.numbers[i]),
            f"{manifest.paths[i] if manifest.paths else 'it'} is {found[1]} × {found[0]}",
        )
        for i, found in sizes
        if found != (height, width)
    ]
    manifest.faults.rows(
        f"Images of other sizes than the first, which is {width} × {height}",
        others,
        "size=64 brings all to 64 × 64 pixels.",
    )
    return height, width


def box_of(text: str) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a box.

    Raises:
        ValueError: it is none.
    """
    top, left, height, width = (round(float(part)) for part in text.strip("[]() ").split(","))
    if min(top, left) < 0 or min(height, width) < 1:
        raise ValueError(f"a box is top,left,height,width in pixels; it is {text}")
    return top, left, height, width


def check_boxes(manifest: Manifest) -> None:
    """Note boxes that are none."""
    if manifest.box is None:
        return
    bad = []
    for code, name in enumerate(manifest.box.names):
        try:
            box_of(name)
        except ValueError:
            bad.append(int(np.argmax(manifest.box.codes == code)))
    box = manifest.box
    manifest.faults.rows(
        "Boxes that are none",
        manifest.at(np.array(bad, dtype=np.int64), lambda i: box.names[box.codes[i]]),
        "A box is top,left,height,width in pixels.",
    )


def check_repeats(manifest: Manifest, split: Ints, overlap: Overlap) -> None:
    """Note rows of one file: with two labels, twice in a split, or in training and test."""
    if manifest.kind in ("features", "pictures", "texts"):
        return
    in_order = manifest.by_path
    if manifest.rows is not None:
        same = np.diff(manifest.rows[in_order]) == 0
    else:
        paths = [manifest.paths[i] for i in in_order.tolist()]
        same = np.array([a == b != "" for a, b in itertools.pairwise(paths)], dtype=bool)
    if not same.any():
        return
    other_label, twice, across = [], [], []
    box = None if manifest.box is None else manifest.box.codes
    for k in np.flatnonzero(same).tolist():
        i, j = sorted((int(in_order[k]), int(in_order[k + 1])))
        if box is not None and box[i] != box[j]:
            continue
        if UNUSED in (split[i], split[j]):
            continue
        if manifest.labels.size and manifest.labels[i] != manifest.labels[j]:
            other_label.append((i, j))
        elif split[i] == split[j]:
            twice.append((i, j))
        else:
            across.append((i, j))

    def places(pairs: list[tuple[int, int]], labels: bool = False) -> list[tuple[int, str]]:
        names = manifest.class_names
        return [
            (
                int(manifest.numbers[j]),
                f"{manifest.named(j)}"
                + (f" is '{names[manifest.labels[j]]}', but '{names[manifest.labels[i]]}'" if labels else "")
                + f" in {manifest.faults.unit} {manifest.numbers[i]}",
            )
            for i, j in pairs
        ]

    faults = manifest.faults
    faults.rows(
        "Rows of one file with other labels", places(other_label, True), "Every example has one label."
    )
    if overlap == "refuse":
        faults.rows(
            "Rows of a file that is in the split already",
            places(twice),
            "Remove them; overlap=allow keeps them, for classes and examples that come back.",
        )
        faults.rows(
            "Rows of a file that is in another split",
            places(across),
            "Remove them from one side; overlap=allow keeps them.",
        )


def check_groups(manifest: Manifest, split: Ints, overlap: Overlap) -> None:
    """Note groups, such as users or videos, that are in training and in test."""
    if manifest.group is None or overlap == "allow":
        return
    codes = manifest.group.codes
    both = np.intersect1d(codes[(split == TRAIN) & (codes >= 0)], codes[(split == TEST) & (codes >= 0)])
    first = [int(np.flatnonzero((codes == code) & (split == TEST))[0]) for code in both[:3].tolist()]
    names = manifest.group.names
    manifest.faults.rows(
        "Groups that are in training and in test",
        manifest.at(np.array(first, dtype=np.int64), lambda i: f"'{names[codes[i]]}'"),
        "Move each to one side; overlap=allow keeps them.",
        len(both),
    )


def check_labels(manifest: Manifest, split: Ints) -> None:
    """Note classes that are tested and never trained, or trained and never tested."""
    labels, names, faults = manifest.labels, manifest.class_names, manifest.faults
    if not labels.size:
        return
    for role in ORDER[:1] + ORDER[2:]:
        if not (split == ORDER.index(role)).any():
            faults.add(f"No row is for {'training' if role == 'train' else 'testing'}.")
            return
    known = labels >= 0
    of = [np.unique(labels[known & (split == role)]) for role in (TRAIN, VALID, TEST)]
    for part, what in ((TEST, "test"), (VALID, "validation")):
        lacking = np.setdiff1d(of[part], of[TRAIN])
        first = [int(np.flatnonzero((labels == c) & (split == part))[0]) for c in lacking[:3].tolist()]
        faults.rows(
            f"Labels of {what} rows that are never trained",
            manifest.at(np.array(first, dtype=np.int64), lambda i: f"'{names[labels[i]]}'"),
            "Every class needs training rows: add some, or leave these out (unmatched=drop does).",
            len(lacking),
        )
    every = np.arange(len(names))
    if len(nobody := np.setdiff1d(every, np.union1d(of[TRAIN], of[TEST]))) and known.all():
        listed = ", ".join(f"'{names[c]}'" for c in nobody[:3].tolist())
        faults.add(
            f"Classes without any rows ({len(nobody):,}): {listed}{', …' if len(nobody) > 3 else ''}. Every class "
            "needs training and test rows; class_names=… lists those that there are; labels=names numbers them anew."
        )
    if len(idle := np.setdiff1d(of[TRAIN], of[TEST])):
        listed = ", ".join(f"'{names[c]}'" for c in idle[:3].tolist())
        faults.add(
            f"Classes without test rows ({len(idle):,}): {listed}{', …' if len(idle) > 3 else ''}. Every class needs "
            "some: add them, or leave the classes out (unmatched=drop does)."
        )


def check_experiences(manifest: Manifest, column: Ints, split: Ints, tested_alone: bool) -> None:
    """Note experiences that are numbered with gaps, or have no training or test rows.

    Args:
        column: (N,) the experience of each row. tested_alone: whether each has test rows of its own.
    """
    faults = manifest.faults
    train = split == TRAIN
    empty = np.flatnonzero(train & (column == NONE))
    faults.rows(
        "Training rows without an experience",
        manifest.at(empty, manifest.named),
        "Fill it, or leave out the rows.",
    )
    numbers = np.unique(column[train & (column != NONE)])
    if not len(numbers):
        return
    gaps = np.setdiff1d(np.arange(numbers[-1] + 1), numbers)
    if len(gaps):
        faults.add(
            f"Experiences are numbered from 0 without gaps; they go up to {numbers[-1]}, and no training row has "
            f"{', '.join(map(str, gaps[:3].tolist()))}{' …' if len(gaps) > 3 else ''}."
        )
    for role, what in ((TEST, "test"), (VALID, "validation")):
        there = np.unique(column[(split == role) & (column != NONE)])
        strange = np.setdiff1d(there, numbers)
        rows = np.flatnonzero((split == role) & np.isin(column, strange))
        faults.rows(
            f"{what.capitalize()} rows of experiences without training rows",
            manifest.at(rows, lambda i: f"experience {column[i]}"),
            "Add some, or leave these out.",
        )
        if role == VALID and not len(there):
            continue
        if not tested_alone:
            continue
        lacking = np.setdiff1d(numbers, there)
        if len(lacking):
            listed = ", ".join(map(str, lacking[:5].tolist()))
            faults.add(
                f"Experiences without {what} rows ({len(lacking):,} of {len(numbers):,}): {listed}"
                f"{', …' if len(lacking) > 5 else ''}. Every one needs some; or leave the column empty in all {what} "
                "rows, and they are tested after every experience."
            )
        some = np.flatnonzero((split == role) & (column == NONE))
        faults.rows(
            f"{what.capitalize()} rows without an experience, where others have one",
            manifest.at(some, manifest.named),
            "Fill all of them, or none.",
        )
    if manifest.task is not None:
        pairs = {(int(e), int(t)) for e, t in zip(column[train], manifest.task[train], strict=True)}
        several = sorted({e for e, _ in pairs if sum(e == other for other, _ in pairs) > 1})
        if several:
            faults.add(
                f"Experience {several[0]} has rows of several task labels; all rows of an experience have one."
            )


def check_domains(manifest: Manifest, split: Ints, tested_alone: bool) -> None:
    """Note rows without a domain, and domains that are trained or tested only.

    Args:
        tested_alone: whether each has test rows of its own.
    """
    if manifest.domain is None:
        return
    codes, names, faults = manifest.domain.codes, manifest.domain.names, manifest.faults
    need = split != UNUSED if tested_alone else split == TRAIN
    faults.rows(
        "Rows without a domain",
        manifest.at(np.flatnonzero((codes < 0) & need), manifest.named),
        "by=domain needs that of every row" + ("." if tested_alone else " for training."),
    )
    if not tested_alone:
        return
    of = {role: np.unique(codes[(split == role) & (codes >= 0)]) for role in (TRAIN, VALID, TEST)}
    others = np.union1d(of[TEST], of[VALID])
    for there, absent, what in ((of[TRAIN], of[TEST], "test"), (others, of[TRAIN], "training")):
        lacking = np.setdiff1d(there, absent)
        if len(lacking):
            listed = ", ".join(f"'{names[c]}'" for c in lacking[:3].tolist())
            faults.add(
                f"Domains without {what} rows ({len(lacking):,}): {listed}{', …' if len(lacking) > 3 else ''}. Every "
                "domain, which is an experience, needs training and test rows (unmatched=drop leaves others out); "
                "with tested=class or tested=together, test rows may be of any domain."
            )


def check_cells(manifest: Manifest, array: str | None) -> None:
    """Note rows that the array does not have, and features that are not finite."""
    faults = manifest.faults
    if manifest.kind == "rows" and manifest.rows is not None:
        if array is None:
            faults.add("The column of rows needs the array that they are of: array=FILE.npy.")
            return
        count = len(opened(array))
        beyond = np.flatnonzero(manifest.rows >= count)
        rows = manifest.rows
        faults.rows(
            f"Rows that {array}, of {count:,}, does not have",
            manifest.at(beyond, lambda i: f"row {rows[i]}"),
            "They are counted from 0.",
        )
    if manifest.features is not None and manifest.features.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(manifest.features).all(1))
        faults.rows(
            "Rows of features that are not finite", manifest.at(wrong, manifest.named), MEANT["features"][1]
        )


def check_order(manifest: Manifest, split: Ints, by: str, free: bool) -> None:
    """Note places that are missing or taken twice, and times that run backwards."""
    faults, order, time = manifest.faults, manifest.order, manifest.time
    experience = np.zeros(len(manifest), dtype=np.int64)
    if manifest.experience is not None:
        experience = np.where(manifest.experience == NONE, 0, manifest.experience)
    if order is not None:
        for role in (TRAIN, VALID, TEST):
            rows = np.flatnonzero(split == role)
            told = order[rows] != NONE
            if told.any() and not told.all():
                faults.rows(
                    f"Rows of {ORDER[role]} without a place, where others have one",
                    manifest.at(rows[~told], manifest.named),
                    "order is given for all rows of a split, or for none.",
                )
            elif told.any():
                in_order = rows[np.lexsort((order[rows], experience[rows]))]
                same = (np.diff(experience[in_order]) == 0) & (np.diff(order[in_order]) == 0)
                faults.rows(
                    "Rows whose place is taken",
                    manifest.at(
                        in_order[1:][same], lambda i: f"experience {experience[i]}, order {order[i]}"
                    ),
                    "Every row of an experience has a place of its own.",
                )
    if time is not None and order is None and by == "count":  # they would come first, and nobody would know
        untimed = np.flatnonzero((split == TRAIN) & (time == NONE))
        faults.rows(
            "Rows without a time, by which the stream is ordered",
            manifest.at(untimed, manifest.named),
            "Fill it, or leave out the rows; time='' takes the order of the file.",
        )
    if time is None or free or by not in ("experience", "count") or (by == "count" and order is None):
        return
    rows = np.flatnonzero((split == TRAIN) & (time != NONE) & (experience >= 0))
    if not len(rows):
        return
    if order is None:  # inside an experience, rows are shuffled
        _, of = np.unique(experience[rows], return_inverse=True)
        last = np.full(int(of.max()) + 1, NONE)
        np.maximum.at(last, of, time[rows])
        before = np.concatenate([[NONE], np.maximum.accumulate(last)[:-1]])
        wrong = rows[time[rows] < before[of]]
    else:
        in_order = rows[np.lexsort((order[rows], experience[rows]))]
        wrong = in_order[1:][np.diff(time[in_order]) < 0]
    faults.rows(
        "Times that are earlier than those before them",
        manifest.at(wrong, lambda i: f"{iso(int(time[i]))} in experience {experience[i]}"),
        "Times do not run backwards along experience and order; times=free lets them.",
    )
