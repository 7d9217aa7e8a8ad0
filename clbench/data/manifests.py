"""Manifests: tables with a row for each example, and as much of its place in a stream as there is to say.

A manifest is read once, a few hundred rows at a time, into columns of numbers: a million rows take seconds. What is
wrong with it is collected (`Faults`), so that all of it is told at once.

Shapes: N rows.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import unicodedata
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from clbench.data.cells import (
    NONE,
    Bad,
    Words,
    iso_all,
    missing,
    numbers_of,
    texts_of,
    times_of,
    whole_numbers,
)
from clbench.data.draws import Ints
from clbench.data.folders import ROLES, Role
from clbench.data.pixels import SUFFIXES
from clbench.data.source import natural
from clbench.data.tables import ABSENT, Chunk, column_names, read_chunks, unit_of
from clbench.errors import DataError, choices

Kind = Literal["images", "arrays", "texts", "text files", "rows", "features", "pictures"]
"""What the examples are: files of images, of arrays (.npy) or of texts (.txt), texts, rows of one array, numbers in
columns, or images inside the table."""
INPUTS = ("image", "row", "text", "features")
PLACES = ("split", "experience", "domain", "task", "time", "order", "group", "box")
"""What a manifest may say of an example, each in a column of its own."""
ORDER: tuple[Role, ...] = ("train", "valid", "test")
UNUSED = len(ORDER)
"""The split of rows that no stream uses."""


class Faults:
    """What is wrong with a manifest, in sentences."""

    SHOWN = 3

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.told: list[str] = []

    def __bool__(self) -> bool:
        return bool(self.told)

    def add(self, sentence: str) -> None:
        self.told.append(sentence)

    def rows(self, what: str, places: Sequence[tuple[int, str]], cure: str, count: int | None = None) -> None:
        """Add a fault of rows: the first of them are named, all are counted."""
        count = len(places) if count is None else count
        if not count:
            return
        named = "; ".join(f"{self.unit} {n}: {told}" for n, told in places[: self.SHOWN])
        more = f"; and {count - self.SHOWN:,} more" if count > self.SHOWN else ""
        self.add(f"{what} ({count:,}): {named}{more}. {cure}")

    def refuse(self, who: str) -> None:
        """Raise all of them, if there are any.

        Raises:
            DataError: what it says.
        """
        if len(self.told) == 1:
            raise DataError(f"{who}: {self.told[0]}")
        if self.told:
            listed = "\n".join(f"  {i}. {fault}" for i, fault in enumerate(self.told, 1))
            raise DataError(f"{who} cannot be used, for {len(self.told)} reasons:\n{listed}")


class Table(Protocol):
    """What a manifest is read from; hashable, and equal to what is read from the same place."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def unit(self) -> str:
        """What its rows are counted in."""

    def names(self) -> list[str] | None:
        """Return its columns; None where only the rows tell them."""

    def chunks(self, only: Sequence[str] | None) -> Iterator[tuple[Chunk, str | None]]:
        """Yield its rows, with the split that they are of where that is not in a column."""

    def in_table(self, column: str) -> bool:
        """Whether a column holds images themselves."""

    def pictures(self, column: str) -> Iterator[list[bytes]]:
        """Yield the content of the images of a column, in the order of rows."""

    def classes(self, column: str) -> tuple[str, ...]:
        """Return the names of classes that the table itself tells, if it does."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class FileTable:
    """A CSV, TSV, JSON-lines or Parquet file."""

    file: Path

    @property
    def name(self) -> str:
        return str(self.file)

    @property
    def unit(self) -> str:
        return unit_of(self.file)

    def names(self) -> list[str] | None:
        return column_names(self.file)

    def chunks(self, only: Sequence[str] | None) -> Iterator[tuple[Chunk, str | None]]:
        return ((chunk, None) for chunk in read_chunks(self.file, only))

    def in_table(self, column: str) -> bool:
        return False

    def pictures(self, column: str) -> Iterator[list[bytes]]:
        raise NotImplementedError  # there are none

    def classes(self, column: str) -> tuple[str, ...]:
        return ()


@dataclass
class Manifest:
    """A manifest as it was read.

    Attributes:
        who: it, for messages. table: what it was read from. root: what its paths are seen from.
        numbers: (N,) the line, or row, of each example. kind: what the examples are.
        paths: (N,) with slashes, as seen from the root; or texts. rows: (N,) of the array. features: (N, D).
        label: classes of examples as written; labels: (N,) by number, −1 where there is none, and class_names.
        split: (N,) places in `ORDER`, `UNUSED` for others; None where the manifest does not say.
        experience, task, order: (N,) numbers, time: (N,) microseconds since 1970; `NONE` where there is none.
        domain, group, box: words. columns: all that the file has. unused: those that nothing was made of.
        faults: what was wrong with it so far.
    """

    who: str
    table: Table
    root: Path
    faults: Faults
    numbers: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    kind: Kind = "images"
    paths: list[str] = field(default_factory=list)
    rows: Ints | None = None
    features: npt.NDArray[Any] | None = None
    label: Words = field(default_factory=Words)
    labels: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    class_names: tuple[str, ...] = ()
    split: Ints | None = None
    splits_unused: dict[str, int] = field(default_factory=dict)
    experience: Ints | None = None
    task: Ints | None = None
    order: Ints | None = None
    time: Ints | None = None
    domain: Words | None = None
    group: Words | None = None
    box: Words | None = None
    columns: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    picture: str = ""

    def __len__(self) -> int:
        return len(self.numbers)

    def at(self, rows: Ints, told: Callable[[int], str]) -> list[tuple[int, str]]:
        """Return where rows stand, and what is told of each of the first of them."""
        return [(int(self.numbers[i]), told(int(i)) if k < Faults.SHOWN else "") for k, i in enumerate(rows)]

    def named(self, i: int) -> str:
        """Return what an example is called in messages."""
        if self.paths:
            return self.paths[i] if self.kind != "texts" else repr(self.paths[i][:40])
        return f"row {self.rows[i]}" if self.rows is not None else "its features"

    @cached_property
    def by_path(self) -> Ints:
        """(N,) the rows in the order of their paths, folder by folder, as a walk through folders has them; of rows of
        an array by their numbers; of others as they stand in the file."""
        if self.kind in ("images", "arrays", "text files"):
            keys = [path.replace("/", "\0") for path in self.paths]
            return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
        if self.rows is not None:
            return np.argsort(self.rows, kind="stable")
        return np.arange(len(self))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical form, which neither the kind of file nor the order of its rows and columns
        changes.

        Rows sorted by split (train, valid, test, others), experience, order, path and row, missing numbers first, a
        line each of split, experience, order, path, row, label, domain, time, task, group and box, with tabs between
        them; "-" where there is nothing, text in NFC with backslash, tab and newline escaped.
        """
        n = len(self)
        place = np.zeros(n, dtype=np.int64)
        if self.paths:
            place[sorted(range(n), key=self.paths.__getitem__)] = np.arange(n)
        first = np.zeros(n, dtype=np.int64) if self.split is None else self.split
        empty = np.full(n, NONE)
        numbers = [empty if column is None else column for column in (self.experience, self.order)]
        rows = self.rows if self.rows is not None else (np.arange(n) if not self.paths else empty)
        labels = self.labels if self.labels.size else None  # its column may lack, which is told
        in_order = np.lexsort((rows, place, *reversed(numbers), first))
        words = [
            None if column is None else [*map(_escaped, column.names), "-"]
            for column in (self.domain, self.group, self.box)
        ]
        sha = hashlib.sha256()
        for start in range(0, n, 65536):
            part = in_order[start : start + 65536]
            nothing = ["-"] * len(part)

            def texts(k: int, of: Ints = part, nothing: list[str] = nothing) -> list[str]:
                names, column = words[k], (self.domain, self.group, self.box)[k]
                if names is None or column is None:
                    return nothing
                return [names[code] for code in column.codes[of].tolist()]

            def ints(column: Ints | None, of: Ints = part, nothing: list[str] = nothing) -> list[str]:
                if column is None:
                    return nothing
                return ["-" if v == NONE else str(v) for v in column[of].tolist()]

            splits = nothing
            if self.split is not None:
                splits = [(*ORDER, "-")[code] for code in self.split[part].tolist()]
            times = nothing if self.time is None else iso_all(self.time[part])
            paths = _all_escaped([self.paths[i] for i in part.tolist()]) if self.paths else nothing
            fields = [splits, *map(ints, numbers), paths, ints(rows), ints(labels), texts(0), times]
            lines = map("\t".join, zip(*fields, ints(self.task), texts(1), texts(2), strict=True))
            sha.update("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
        return sha.hexdigest()


def _all_escaped(texts: list[str]) -> list[str]:
    every = "".join(texts)
    plain = every.isascii() and not any(rare in every for rare in "\\\t\n")
    return texts if plain else [*map(_escaped, texts)]


def _escaped(text: str) -> str:
    told = text if text.isascii() else unicodedata.normalize("NFC", text)
    return told.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


# --- reading ---


def read_manifest(
    table: Table,
    named: Mapping[str, str],
    *,
    root: Path,
    given: Sequence[str] = (),
    features: Sequence[str] = (),
    numbered: bool = True,
    class_names: Sequence[str] = (),
    splits: Mapping[str, Sequence[str]] | None = None,
) -> Manifest:
    """Return a manifest; what is wrong with its columns and cells is in its `faults`.

    Args:
        named: the column of each of `INPUTS` but features, of the label and of `PLACES`; "" for none.
        given: those whose column the user has named, which then has to be there.
        features: columns of numbers, or one of lists of numbers; `*` stands for any characters.
        numbered: whether labels that are all whole numbers are the numbers of classes.
        class_names: names of classes 0, 1, …, in place of their natural order.
        splits: words of the split column for train, valid and test.

    Raises:
        DataError: the file cannot be read.
    """
    manifest = Manifest(table.name, table, root, Faults(table.unit))
    known = table.names()
    if known is None:
        known = list(dict.fromkeys(key for chunk, _ in table.chunks(None) for key in chunk.columns))
    manifest.columns = tuple(known)
    wanted = _columns(manifest, named, given, features)
    _read_rows(manifest, wanted, splits or {})
    if not len(manifest):
        raise DataError(f"{table.name} holds no rows.")
    if "label" in wanted:
        _number_classes(manifest, wanted["label"][0], numbered, class_names)
    return manifest


def _columns(
    manifest: Manifest, named: Mapping[str, str], given: Sequence[str], features: Sequence[str]
) -> dict[str, list[str]]:
    """Return what is read of which columns, and note those that are not there."""
    known, faults = manifest.columns, manifest.faults
    found: dict[str, list[str]] = {}
    for what, column in named.items():
        if column and column in known:
            found[what] = [column]
        elif column and (what in given or what == "label"):
            faults.add(
                f"There is no column '{column}', of the {what}.{choices(column, known)} {what}=… names another"
                + ("." if what == "label" else f", {what}='' none.")
            )
    numbers: list[str] = []
    for pattern in features:
        fits = [name for name in known if fnmatchcase(name, pattern)]
        if not fits:
            faults.add(f"There is no column '{pattern}', of features.{choices(pattern, known)}")
        numbers += [name for name in fits if name not in numbers]
    if numbers:
        found["features"] = numbers
    inputs = [what for what in INPUTS if what in found]
    if features:
        for what in ("image", "row", "text"):
            if what not in given:
                found.pop(what, None)
        inputs = [what for what in INPUTS if what in found]
    if not inputs and not any("column" in fault for fault in faults.told):
        faults.add(
            f"There is no column of inputs: '{named['image']}' of files, '{named['row']}' of rows of an array, "
            f"'{named['text']}' of texts. It has {', '.join(known)}; image=…, row=…, text=… or features=… names one."
        )
    if len(inputs) > 1:
        faults.add(
            f"There are columns of {' and of '.join(inputs)}: '{found[inputs[0]][0]}' and '{found[inputs[1]][0]}'. "
            f"An example is one of them; {inputs[1]}='' leaves the other out."
        )
        for what in inputs[1:]:
            del found[what]
    used = {name for columns in found.values() for name in columns}
    manifest.unused = tuple(name or "(unnamed)" for name in known if name not in used)
    for what in PLACES:  # a misspelt one would change the stream, and nobody would know
        near = difflib.get_close_matches(
            what, map(str.lower, manifest.unused), cutoff=0.75
        )  # not taken for task
        if what not in found and named.get(what) == what and near:
            column = next(name for name in manifest.unused if name.lower() == near[0])
            faults.add(
                f"The column '{column}' is not used, and looks like '{what}': name it so, or say {what}={column} "
                f"or {what}=''."
            )
    return found


def _read_rows(manifest: Manifest, wanted: dict[str, list[str]], splits: Mapping[str, Sequence[str]]) -> None:
    only = [name for columns in wanted.values() for name in columns]
    inside = "image" in wanted and manifest.table.in_table(wanted["image"][0])
    if inside:
        only.remove(wanted["image"][0])
        only = (
            only or [name for name in manifest.columns if name != wanted["image"][0]][:1]
        )  # to count the rows
        manifest.kind, manifest.picture = "pictures", wanted["image"][0]
    numbers = array("q")
    words = {what: Words() for what in ("label", "split", "domain", "group", "box")}
    counts = {what: array("q") for what in ("experience", "order", "task", "row", "time")}
    features: list[npt.NDArray[Any]] = []
    bad: dict[str, Bad] = {}
    told_split = "split" in wanted
    for chunk, split in manifest.table.chunks(only):
        numbers.extend(chunk.numbers)
        n = len(chunk.numbers)

        def cells(what: str, of: Chunk = chunk, n: int = n) -> Sequence[Any]:
            return of.columns.get(wanted[what][0], [ABSENT] * n)

        for what, column in words.items():
            if what in wanted:
                values = cells(what)
                if values and isinstance(values[0], list | tuple):  # a box in JSON
                    values = [",".join(map(str, v)) if isinstance(v, list | tuple) else v for v in values]
                column.extend(values)
        if split is not None and "split" not in wanted:
            told_split = True
            words["split"].extend([split] * n)
        for what, into in counts.items():
            if what in wanted:
                read = times_of if what == "time" else whole_numbers
                into.extend(read(cells(what), chunk.numbers, bad.setdefault(what, [])))
        if "image" in wanted and not inside:
            manifest.paths += _paths(manifest, cells("image"), chunk.numbers, bad.setdefault("image", []))
        if "text" in wanted:
            manifest.paths += texts_of(cells("text"), chunk.numbers, bad.setdefault("text", []))
        if "features" in wanted:
            width = features[0].shape[1] if features else None
            features.append(numbers_of(chunk, wanted["features"], bad.setdefault("features", []), width))
    manifest.numbers = np.frombuffer(numbers, dtype=np.int64) if numbers else manifest.numbers
    manifest.label = words["label"]
    for what in ("domain", "group", "box"):
        if what in wanted:
            setattr(manifest, what, words[what])
    for what in ("experience", "order", "task", "time"):
        if what in wanted:
            setattr(manifest, what, np.frombuffer(counts[what], dtype=np.int64))
    if told_split:
        _set_splits(manifest, words["split"], splits)
    _set_kind(manifest, wanted, counts["row"], features)
    for what, meant in MEANT.items():
        first, *others = wanted.get(what) or [what]
        manifest.faults.rows(
            f"Cells of '{first}'{' …' if others else ''} that hold no {meant[0]}",
            bad.get(what, []),
            meant[1],
        )


MEANT = {
    "image": ("path", "Fill them, or leave out the rows; paths lie in the folder of the file, or in root=…"),
    "text": ("text", "Fill them, or leave out the rows."),
    "row": ("number of a row", "Rows of an array are whole numbers from 0."),
    "features": ("number", "Fill them, or leave out the rows; every row has as many numbers."),
    "experience": ("number", "Experiences are whole numbers from 0, or empty."),
    "order": ("number", "Places are whole numbers from 0, or empty."),
    "task": ("number", "Task labels are whole numbers from 0, or empty."),
    "time": (
        "time",
        "Times are ISO 8601, such as 2008-03-21T19:14:37Z, or seconds (not milliseconds) since 1970.",
    ),
}
"""What a cell that cannot be used should be, and what to do."""


def _set_kind(
    manifest: Manifest, wanted: Mapping[str, list[str]], rows: array[int], features: list[npt.NDArray[Any]]
) -> None:
    faults = manifest.faults
    if "row" in wanted:
        manifest.kind, manifest.rows = "rows", np.frombuffer(rows, dtype=np.int64)
        empty = np.flatnonzero(manifest.rows < 0)
        faults.rows(
            "Rows of the array that cannot be", manifest.at(empty, lambda i: str(rows[i])), MEANT["row"][1]
        )
    elif "text" in wanted:
        manifest.kind = "texts"
    elif "features" in wanted:
        manifest.kind = "features"
        if features:
            mixed = len({part.dtype.kind for part in features}) > 1
            manifest.features = np.concatenate([f.astype(np.float32) if mixed else f for f in features])
    elif "image" in wanted and manifest.paths:
        ends = {os.path.splitext(end)[1].lower() for end in {path[-6:] for path in manifest.paths}}
        kinds: set[Kind] = {
            "arrays" if end == ".npy" else "text files" if end == ".txt" else "images" for end in ends
        }
        if len(kinds) > 1:
            faults.add(
                f"Paths end in {', '.join(sorted(ends)[:6])}: all are images ({', '.join(SUFFIXES[:4])}, …), or all "
                "arrays (.npy), or all texts (.txt)."
            )
        manifest.kind = sorted(kinds)[0]


def _set_splits(manifest: Manifest, column: Words, splits: Mapping[str, Sequence[str]]) -> None:
    """Say of every row which stream it is of."""
    role_of: dict[str, Role] = {}
    for name in column.names:
        role = ROLES.get(name.lower())
        for wanted in ORDER:
            if splits.get(wanted):
                role = wanted if name in splits[wanted] else (None if role == wanted else role)
        if role is not None:
            role_of[name] = role
    for wanted in ORDER:
        for name in splits.get(wanted, ()):
            if name not in column.names:
                manifest.faults.add(
                    f"No row has the split '{name}', of {wanted}_split.{choices(name, column.names)}"
                )
    unknown = [name for name in column.names if name not in role_of]
    if unknown and not any(splits.values()):
        first = [int(np.argmax(column.codes == column.names.index(name))) for name in unknown]
        manifest.faults.rows(
            "Words of the split that are not known",
            manifest.at(np.array(first), lambda i: repr(column.names[column.codes[i]])),
            f"Known are {', '.join(ROLES)}; train_split=…, valid_split=… and test_split=… name others, and leave out "
            "the rest.",
        )
    codes = [ORDER.index(role_of[name]) if name in role_of else UNUSED for name in column.names]
    manifest.split = np.array([*codes, UNUSED], dtype=np.int64)[column.codes]
    counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.names))
    manifest.splits_unused = {name: int(counts[column.names.index(name)]) for name in unknown}
    empty = np.flatnonzero(column.codes < 0)
    manifest.faults.rows(
        "Rows without a split",
        manifest.at(empty, manifest.named if manifest.paths else lambda i: "empty"),
        "Fill it, or leave out the rows.",
    )
    if not (manifest.split == ORDER.index("test")).any():  # as in folders and tables of files
        manifest.split[manifest.split == ORDER.index("valid")] = ORDER.index("test")


def _number_classes(manifest: Manifest, column: str, numbered: bool, class_names: Sequence[str]) -> None:
    """Number the classes: those that are numbers as they are, names in their natural order."""
    label, faults = manifest.label, manifest.faults
    empty = np.flatnonzero(label.codes < 0)
    faults.rows("Rows without a label", manifest.at(empty, manifest.named), "Fill it, or leave out the rows.")
    for told_of, words in (("labels", label), ("domains", manifest.domain)):
        if words is not None and (alike := _alike(words.names)):
            one, other = (
                int(manifest.numbers[np.argmax(words.codes == words.names.index(name))]) for name in alike
            )
            faults.rows(
                f"{told_of.capitalize()} that differ by spaces or the spelling of a letter or number only",
                [(other, f"{alike[1]!a}, but {alike[0]!a} in {faults.unit} {one}")],
                "Write it in one way.",
            )
    text = manifest.kind in ("texts", "text files")
    used = label.codes if manifest.split is None else label.codes[manifest.split != UNUSED]
    present = [label.names[code] for code in np.unique(used[used >= 0]).tolist()]
    whole = bool(present) and all(name.isdecimal() for name in present)
    told = manifest.table.classes(column) if whole and not class_names else ()
    if told and not numbered:  # those that there are, in the order of all
        there = [i for i in range(len(told)) if str(i) in present]
        manifest.labels = label.renamed([str(i) for i in there])
        manifest.class_names = tuple(told[i] for i in there)
    elif class_names or told:
        names = list(class_names or told)
        strange = [name for name in present if name not in names]
        if strange and not (whole and numbered):
            faults.add(f"The label '{strange[0]}' is none of class_names.{choices(strange[0], names)}")
        elif strange and max(map(int, present)) >= len(names):
            faults.add(f"Labels go up to {max(map(int, present))}; there are names of {len(names)} classes.")
        by_number = [str(i) for i in range(len(names))] if strange else names
        manifest.labels, manifest.class_names = label.renamed(by_number), tuple(names)
    else:
        if whole and numbered and not text:
            numbers = sorted(map(int, present))
            if numbers != list(range(len(numbers))):
                lacking = next(i for i, c in enumerate(numbers) if c != i)
                faults.add(
                    f"No row has the label {lacking}, and labels go up to {numbers[-1]}. Labels that are whole numbers "
                    "are those of classes 0 … C−1, and are never renumbered; labels=names takes them for names."
                )
        key: Any = natural if not text else (int if whole else str)
        manifest.class_names = tuple(sorted(present, key=key))
        manifest.labels = label.renamed(manifest.class_names)


def _alike(names: Sequence[str]) -> tuple[str, str] | None:
    """Return two names that a reader would take for one, if there are any."""
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", " ".join(name.split()))
        key = str(int(key)) if key.isdecimal() else key
        if seen.setdefault(key, name) != name:
            return seen[key], name
    return None


def _paths(manifest: Manifest, values: Sequence[Any], numbers: Sequence[int], bad: Bad) -> list[str]:
    """Return paths as seen from the root, with slashes."""
    if all(type(value) is str for value in values):
        every = "\n".join(["", *values, ""])
        if not any(rare in every for rare in ("\\", "./", "//", "\n/", "\n\n")):
            return list(values)
    root, found = f"{manifest.root.as_posix().rstrip('/')}/", list[str]()
    for value, number in zip(values, numbers, strict=True):
        if missing(value) or not isinstance(value, str):
            bad.append((number, "empty" if missing(value) else repr(value)[:40]))
            found.append("")
            continue
        path = value
        if "\\" in path or "./" in path or "//" in path or path[0] == "/":
            path = os.path.normpath(path.replace("\\", "/") if os.sep != "\\" else path).replace(os.sep, "/")
            path = path.removeprefix(root)
            if path.startswith(("/", "../")) or path == "..":
                bad.append((number, f"{value}, which does not lie in {manifest.root}"))
                path = ""
        found.append(path)
    return found
