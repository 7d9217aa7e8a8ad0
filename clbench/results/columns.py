"""The columns of a curve: names, types, and the file that holds them. Imports no torch.

A file from elsewhere is read by its headers first, so that a few kilobytes can neither take long nor ask for much
memory.
"""

from __future__ import annotations

import functools
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clbench.files import atomic_write, check_size, memory_bytes

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]

FORMAT = 1
"""Version of the file; a reader refuses one that it does not know."""

COLUMNS = {
    "step": "<i8",
    "examples": "<i8",
    "experience": "<i8",
    "evaluated": "<i8",
    "correct": "<i8",
    "total": "<i8",
    "loss": "<f8",
    "full": "|b1",
}
"""Columns and their types, little-endian on every machine."""

TABLES = {"class_correct": "<i8", "class_total": "<i8"}
"""Side tables: one row for each full evaluation, one column for each class."""

PRESENT = {"class_present": "|b1"}
"""A side table of streams whose test stream does not tell it: which classes the experience before each full evaluation
had."""

PARTIAL = {"of": "<i8", "bound_error": "<f8"}
"""What only a curve with partial ticks has: a column, and a number."""

RANKS = {"hits_at_10": "<i8", "reciprocal_at_10": "<f8"}
"""Columns that only a curve of a retrieval stream has."""

SPANS = {"characters": "<i8", "bytes": "<i8"}
"""Columns that only a curve of language has: of the text that the evaluated tokens stand for."""

INDEXED = {"indexed": "|u1", "indexed_step": "<i8"}
"""Side tables that only a run that looked at its documents has: one row for each look, bits packed; and its step."""

PREDICTED = {"predicted": "<i4", "label": "<i4", "predicted_step": "<i8"}
"""Side tables that only a prequential run has: one row for each example of the stream."""

NETWORK = ("weight_norm", "effective_learning_rate", "dormant_units", "effective_rank")
"""Columns of the table `network`, one row for each full evaluation, where `evaluation.network` asks for it."""

ALL = COLUMNS | {"of": PARTIAL["of"]} | RANKS | SPANS
DTYPES = COLUMNS | TABLES | PRESENT | PARTIAL | RANKS | SPANS | INDEXED | PREDICTED | {"network": "<f8"}

_KINDS = {"i": ("iu", "integers"), "f": ("fiu", "numbers"), "b": ("b", "booleans")}
"""Of a type: the kinds of arrays that it takes, and what these are called."""

BEYOND = 1 << 40
"""What no count reaches: sums of them stay within 64 bits."""
ROWS = 1 << 24
"""Rows of a curve at most: a gigabyte."""
SPARSE = 1 << 22
"""Cells that dense views may have in any case; more only by the rows."""
SLOW = 1 << 26
"""Cells that a side table has at most; and examples of partial ticks, each number of them counted once, for bounds."""


def write(path: Path, arrays: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """An `.npz` that numpy can read, whole or not at all; equal content gives equal bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, array in [*arrays, ("format", np.array(FORMAT, "<i8"))]:
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            # np.savez would write the time, and zipfile the operating system.
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            archive.writestr(entry, content.getvalue())
    atomic_write(path, packed.getvalue())


def read(path: Path) -> Arrays:
    """Return what `write` wrote.

    Raises:
        ValueError: the arrays are not those of a curve. Whatever `clbench.files.UNREADABLE` names: it is no archive.
    """
    if path.exists() and not path.is_file():  # a pipe would never end
        raise ValueError("it is no file")
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        check_size(archive)
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    heads = {name: _Packed(content, entry) for name, entry in entries.items()}
    version = heads.pop("format").array() if "format" in heads else np.array(-1)
    if version.shape != () or version != FORMAT:
        raise ValueError(f"its format is {version}, and this clbench reads {FORMAT}")
    check_shapes({name: head.shape for name, head in heads.items()})
    for name, head in heads.items():
        if head.dtype != np.dtype(DTYPES[name]):
            raise ValueError(f"its column '{name}' has type {head.dtype} and not {np.dtype(DTYPES[name])}")
    arrays = {name: heads.pop(name).array() for name in ("step", "experience", "evaluated")}
    _check_room(**arrays)
    return arrays | {name: head.array() for name, head in heads.items()}


def check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse columns and tables that cannot be of one curve; before any of them is read, where they lie in a file."""
    wanted = [*COLUMNS, *TABLES]
    if missing := [name for name in wanted if name not in shapes]:
        raise ValueError(f"The column '{missing[0]}' is missing.")
    if unknown := [name for name in shapes if name not in DTYPES]:
        raise ValueError(f"There is no column '{unknown[0]}'; a curve has {', '.join(wanted)}.")
    lengths = {shapes[name] for name in ALL if name in shapes}
    if len(lengths) > 1 or len(next(iter(lengths))) != 1:
        raise ValueError(f"The columns differ in shape: {', '.join(map(str, sorted(lengths)))}.")
    if shapes.get("bound_error", ()) != ():
        raise ValueError(f"'bound_error' is one probability; shape {shapes['bound_error']} was given.")
    ((rows,),) = lengths
    if rows > ROWS:
        raise ValueError(f"A curve has at most {ROWS:,} rows; {rows:,} were given. Evaluate less often.")
    right, of = (shapes[name] for name in TABLES)
    if len(right) != 2 or right != of:
        raise ValueError(f"The class tables have shapes {right} and {of}.")
    if shapes.get("class_present", right) != right:
        raise ValueError(f"The class tables have shapes {right} and {shapes['class_present']}.")
    network = shapes.get("network", (0,))
    if network != (0,) and network[1:] != (len(NETWORK),):
        raise ValueError(f"A network is measured by {len(NETWORK)} numbers; the table has shape {network}.")
    looks, steps = (shapes.get(name, (0,)) for name in INDEXED)
    if len(steps) != 1 or looks[:1] != steps or (looks != (0,) and len(looks) != 2):
        raise ValueError(f"The tables of documents have shapes {looks} and {steps}.")
    tables = [shapes[name] for name in PREDICTED if name in shapes]
    if tables and (len(tables) < len(PREDICTED) or {*map(len, tables)} != {1} or len({*tables}) > 1):
        raise ValueError(f"The tables of predictions have shapes {', '.join(map(str, tables))}.")
    if tables and tables[0][0] > SLOW:
        raise ValueError(f"Of a stream, {SLOW:,} examples are kept at most; there are {tables[0][0]:,}.")
    for name, table in (("class_total", right), ("network", network), ("indexed", looks)):
        if math.prod(table) > SLOW:
            raise ValueError(f"The table '{name}' has the shape {table}, which is too large.")
        if name != "indexed" and table[0] > rows:  # one for each full evaluation, which has a row at least
            raise ValueError(f"The table '{name}' has {table[0]} rows, more than the {rows} of the columns.")


def _check_room(step: Ints, experience: Ints, evaluated: Ints) -> None:
    """Refuse columns whose dense views would be far larger than they are, or that say a thing many times."""
    if not len(step):
        return
    streams, experiences = int(evaluated.max()) + 1, int(experience.max()) + 1
    moments = int(np.count_nonzero(np.diff(step))) + 1  # ticks at most
    if len(step) > streams * (moments + experiences + 1):
        raise ValueError(
            f"{len(step)} rows of {streams} streams at {moments} steps and {experiences} ends of experiences"
        )
    cells = (moments + max(experiences, streams) + 1) * streams
    if cells > SPARSE + 16 * len(step) or 64 * cells > memory_bytes():
        raise ValueError(f"{len(step)} rows of {experiences} experiences and {streams} streams")


def check_rows(columns: Arrays, start: int, stop: int, sizes: Ints) -> Ints:
    """Refuse rows that no run can have written; [start, stop) are new.

    Args:
        sizes: of the full test sets so far, 0 where there was none yet.

    Returns:
        The sizes with those of the new rows.
    """
    column = {name: values[max(start - 1, 0) : stop] for name, values in columns.items()}
    for name in ("step", "examples", "experience"):
        if (column[name][1:] < column[name][:-1]).any():
            raise ValueError(f"The column '{name}' decreases; rows are appended in the order of the run.")
    new = {name: values[start:stop] for name, values in columns.items()}
    for name in (
        "step",
        "examples",
        "experience",
        "evaluated",
        "of",
        "bytes",
    ):  # which bounds the other counts
        if new[name].max() >= BEYOND:
            raise ValueError(f"The column '{name}' holds {new[name].max()}; counts stay below 2⁴⁰.")
    if min(new["step"].min(), new["examples"].min(), new["evaluated"].min()) < 0:
        raise ValueError("The columns 'step', 'examples' and 'evaluated' cannot be negative.")
    if new["experience"].min() < -1 or (new["experience"][~new["full"]] < 0).any():
        raise ValueError("Experiences count from 0; only a full evaluation can be before training (−1).")
    if ((new["correct"] < 0) | (new["correct"] > new["total"]) | (new["total"] <= 0)).any():
        raise ValueError("Counts must satisfy 0 ≤ correct ≤ total and total > 0.")
    if (new["of"] < new["total"]).any() or (new["full"] & (new["of"] > new["total"])).any():
        raise ValueError("A row evaluates at most all of its examples, and a full evaluation all of them.")
    kept = new["hits_at_10"] >= 0
    if (kept != ~np.isnan(new["reciprocal_at_10"])).any() or (
        kept & ((new["hits_at_10"] < new["correct"]) | (new["hits_at_10"] > new["total"]))
    ).any():
        raise ValueError("Ranks must satisfy correct ≤ hits_at_10 ≤ total, with a sum of reciprocal ranks.")
    if (
        (np.minimum(new["characters"], new["bytes"]) < -1).any()
        or ((new["characters"] < 0) != (new["bytes"] < 0)).any()
        or (new["characters"] > new["bytes"]).any()
    ):
        raise ValueError("Tokens stand for characters, and for as many bytes or more.")
    # A tick may come in several pieces, so rows that share the first new step are looked at again.
    again = int(np.searchsorted(columns["step"][:start], new["step"][0]))
    last = {name: values[again:stop] for name, values in columns.items()}
    tick = ~last["full"]
    steps, streams, experiences = (last[name][tick] for name in ("step", "evaluated", "experience"))
    if _repeats(steps, streams):
        raise ValueError("A tick evaluates a stream twice.")
    if ((steps[1:] == steps[:-1]) & (experiences[1:] != experiences[:-1])).any():
        raise ValueError("A tick belongs to two experiences.")
    if new["full"].any():
        # As with ticks, rows that share the first new experience are looked at again, and none before them.
        again = int(np.searchsorted(columns["experience"][:start], new["experience"][0]))
        last = {name: values[again:stop] for name, values in columns.items()}
        experiences, streams = (last[name][last["full"]] for name in ("experience", "evaluated"))
        if _repeats(experiences, streams):
            raise ValueError("An experience has two full evaluations of one stream.")
        streams, totals = (new[name][new["full"]] for name in ("evaluated", "total"))
        sizes = np.pad(sizes, (0, max(0, int(streams.max()) + 1 - len(sizes))))
        sizes[streams] = np.where(sizes[streams] > 0, sizes[streams], totals)
        if (sizes[streams] != totals).any():
            raise ValueError("The full test set of a stream changed its size.")
    return sizes


def _repeats(a: Ints, b: Ints) -> bool:
    """Whether a pair (a, b) occurs twice; a never decreases."""
    if ((a[1:] > a[:-1]) | (b[1:] > b[:-1])).all():  # as clbench writes them
        return False
    order = np.lexsort((b, a))
    return bool(((np.diff(a[order]) == 0) & (np.diff(b[order]) == 0)).any())


def typed(name: str, value: ArrayLike, dtype: str, *, copy: bool = True) -> NDArray[Any]:
    """Return the values as the column's type; a float is no count, so nothing is rounded silently."""
    array = np.asarray(value)
    kinds, words = _KINDS[np.dtype(dtype).kind]
    if array.dtype.kind not in kinds and array.size:
        raise ValueError(f"The column '{name}' takes {words}; {array.dtype} was given.")
    return array.astype(dtype, copy=copy)


def class_tables(correct: ArrayLike, total: ArrayLike, present: ArrayLike | None = None) -> Arrays:
    """The tables, (evaluations, C) each, checked."""
    right, of = (typed(name, value, "<i8") for name, value in zip(TABLES, (correct, total), strict=True))
    if ((right < 0) | (right > of)).any():
        raise ValueError("A class has more correct examples than examples, or a negative count.")
    there = {} if present is None else {"class_present": typed("class_present", present, "|b1")}
    return {"class_correct": right, "class_total": of} | there


def divide(part: ArrayLike, whole: Ints) -> Floats:
    """part / whole; NaN where the whole is 0."""
    ratio = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def row_sums(counts: NDArray[Any]) -> Ints:
    """(K,) sums over the second axis (K, S) of whole numbers; numpy's `sum` takes several times as long on a short
    one."""
    sums: Ints = counts @ np.ones(counts.shape[1], np.int64)
    return sums


class _Packed:
    """An array in an archive: what it says that it is, checked against its size there; unpacked when it is asked for.

    `zipfile` reads the archive's directory. Its files of the parts take longer than what they unpack.
    """

    def __init__(self, archive: bytes, entry: zipfile.ZipInfo) -> None:
        self._entry, self._inflate = entry, zlib.decompressobj(-zlib.MAX_WBITS)
        name, extra = struct.unpack_from("<26x2H", archive, entry.header_offset)
        begin = entry.header_offset + 30 + name + extra
        packed = archive[begin : begin + entry.compress_size]
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"its column '{entry.filename}' is packed in a way that curves are not")
        if entry.compress_type == zipfile.ZIP_STORED:
            begun, self._packed = packed, b""
        else:
            begun = self._inflate.decompress(packed, _HEAD)
            self._packed = self._inflate.unconsumed_tail
        length = 2 * begun[6]  # of the number of bytes that the head has, by the format's version
        begins = 8 + length + int.from_bytes(begun[8 : 8 + length], "little")
        self.shape, fortran, self.dtype = _header(begun[:begins])
        self._order: Literal["C", "F"] = "F" if fortran else "C"
        if self.dtype.hasobject:
            raise ValueError(f"its column '{entry.filename}' holds no numbers: Object arrays are not read")
        self._size = math.prod(self.shape) * self.dtype.itemsize
        if min(self.shape, default=0) < 0 or self._size != entry.file_size - begins:
            raise ValueError(f"its column '{entry.filename}' has another size than its shape {self.shape}")
        self._first, self._sum = begun[begins:], zlib.crc32(begun)

    def array(self) -> NDArray[Any]:
        rest = self._inflate.decompress(self._packed, self._size) if len(self._first) < self._size else b""
        content = self._first + rest
        if len(content) != self._size or zlib.crc32(rest, self._sum) != self._entry.CRC:
            raise ValueError(f"its column '{self._entry.filename}' is not what its sum says")
        return np.frombuffer(content, self.dtype).reshape(self.shape, order=self._order)


_HEAD = 128
"""Bytes of a part that are unpacked first: what its array says that it is has so many."""


@functools.lru_cache(maxsize=1024)  # numpy has Python parse it, and curves of one stream have the same
def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = io.BytesIO(head)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"it holds an array of the unknown format {version}")
    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(file)
    return found
