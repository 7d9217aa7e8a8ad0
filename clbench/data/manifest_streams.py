"""Benchmarks from manifests: one reader for images, arrays, features and texts, and any stream that columns can say.

    benchmark = clbench.from_manifest("photos.csv", size=64)            # path, label, split, experience
    benchmark = clbench.from_manifest("photos.csv", by="time", periods=10)

The examples lie in the order of a folder's files, whatever the order of the rows, and classes and domains are cut by
what cuts those of folders and arrays: the same stream has the same fingerprint, from whichever it comes.

Shapes: N rows of the manifest, P of a pool.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from clbench.data.cells import NONE
from clbench.data.draws import Ints
from clbench.data.families import Preparation, Shift, build, made, numbered, stream_settings, transform_of
from clbench.data.folders import Role
from clbench.data.hub import IMAGES, HubTable, is_hub_folder
from clbench.data.manifest_checks import Overlap
from clbench.data.manifest_plans import By, Plan, Rules, Tested, Unmatched, plan
from clbench.data.manifest_sources import domains_of, source_of_manifest
from clbench.data.manifests import ORDER, FileTable, Manifest, Table, read_manifest
from clbench.data.preparing import recipe_of
from clbench.data.shares import Streams, classes_of, cut, held_out, ordered
from clbench.data.source import Source
from clbench.data.tables import CHUNKS
from clbench.errors import ConfigError, DataError
from clbench.machine.numerics import pinned
from clbench.ranges import Count, Part as Portion
from clbench.registry.arguments import convert, signature_of, validated
from clbench.registry.reads import digest as content_digest
from clbench.types import HIDDEN, Benchmark, Data, Experience, Pool, Setting, Stream

WORDS = (
    "image",
    "row",
    "text",
    "label",
    "split",
    "experience",
    "domain",
    "task",
    "time",
    "order",
    "group",
    "box",
)
"""Parameters that name columns."""


@pinned()
@validated
def from_manifest(
    path: str | Path,
    *,
    image: str | None = "path",
    row: str | None = "row",
    text: str | None = "text",
    features: str | Sequence[str] = (),
    label: str | None = "label",
    split: str | None = "split",
    experience: str | None = "experience",
    domain: str | None = "domain",
    task: str | None = "task",
    time: str | None = "time",
    order: str | None = "order",
    group: str | None = "group",
    box: str | None = "box",
    root: str | Path | None = None,
    array: str | Path | None = None,
    by: By = "auto",
    periods: Count | Sequence[float | str] | None = None,
    count: Count | None = None,
    tested: Tested = "auto",
    boundaries: bool | None = None,
    labels: Literal["auto", "names"] = "auto",
    class_names: Sequence[str] = (),
    train_split: str | int | Sequence[str | int] = (),
    valid_split: str | int | Sequence[str | int] = (),
    test_split: str | int | Sequence[str | int] = (),
    size: Count | None = None,
    recipe: Preparation = None,
    channels: Literal[1, 3] = 3,
    test_fraction: Portion = 0.2,
    longest: Count = 4096,
    overlap: Overlap = "refuse",
    unmatched: Unmatched = "refuse",
    times: Literal["checked", "free"] = "checked",
    name: str = "manifest",
    **params: Any,
) -> Benchmark:
    """A benchmark from a table with a row for each example: CSV, TSV, JSON lines or Parquet (with pyarrow).

    A folder that `datasets` of Hugging Face has saved, or of a data set's Parquet files, is such a table, too; its
    column `image` (or `img`) holds images then, and its files tell the splits.

    Args:
        path: the file, or that folder.
        image, row, text: the column of each example's file (an image, an array .npy, a text .txt), of its row in
            `array`, or of the text itself; one of them.
        features: in their place, columns of numbers (`*` stands for any characters), or one of lists of numbers.
        label: the column of classes: names, or whole numbers, which are the numbers of classes.
        split: of train, test and val; without it, a fixed share of each class is for testing; without test, val is.
        experience: of experiences, from 0. Where all test rows leave it empty, they are tested after every one.
        domain, task, time, order, group, box: of domains, task labels, times (ISO 8601, or seconds since 1970), places
            in the stream, what may not be both in training and test, and parts of images (top,left,height,width).
        root: what paths are seen from; the folder of the file, if None.
        array: the .npy file that `row` counts in.
        by: what makes the experiences. "auto": the column, if there is one, else the classes.
        periods: for by="time": how many, of equal counts of training rows, or the times between them.
        count: for by="count": rows of each, in the order of `order`, else of `time`, else of the file.
        tested: "own": the test rows of the experience; "together": all of them, in one; "class": those of the classes
            that it holds. "auto": own, where test rows have experiences; else together, where the first experience
            holds all classes; else class.
        boundaries: whether the learner is told when experiences begin; if None, not with by="count".
        labels: "names" takes whole numbers for names, so that there may be gaps.
        class_names: of classes 0, 1, …; if not given, names in their natural order (2 before 10).
        train_split, valid_split, test_split: words of the split column in place of the usual ones of each; rows of
            other words are left out then.
        size: images are cropped to squares and resized to size × size pixels; None leaves them as they are.
        recipe: how images are prepared for a pretrained network, in place of that.
        channels: 3 for colour, 1 for grey.
        test_fraction: that share.
        longest: bytes that are kept of a text.
        overlap: whether a file may be in several rows, or a group in training and test.
        unmatched: "drop" leaves out classes that are only trained or only tested, and such domains with by="domain".
        times: "free" lets them run backwards.
        name: of the benchmark.
        params: the others of `from_arrays`: `shift`, `experiences`, `class_order`, `online`, `seed`, …

    Raises:
        DataError: says all that is wrong with it. ConfigError: a parameter that does not fit.
    """
    own = [key for key in signature_of(from_manifest).parameters if key not in ("name", "params")]
    given = dict(locals())
    settings = stream_settings("from_manifest()", params, own)
    rules = Rules(**{key: given[key] for key in Rules.__dataclass_fields__})
    manifest = manifest_of(path, given)
    return benchmark_of(manifest, rules, name=name, **settings)


def settings_of_manifest(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return all parameters of `from_manifest`, and those of `build`, that some of both are.

    Raises:
        ConfigError: there is no such parameter, or it does not take this value.
    """
    own = {
        k: p.default for k, p in signature_of(from_manifest).parameters.items() if k not in ("path", "params")
    }
    mine = {k: v for k, v in given.items() if k in own}
    others = {k: v for k, v in given.items() if k not in own and (k, v) != ("shift", "auto")}
    checked = stream_settings("from_manifest()", others, list(own))
    return own | convert("from_manifest()", from_manifest, mine), checked


def manifest_of(path: str | Path, given: Mapping[str, Any]) -> Manifest:
    """Return a manifest that was read from a file, by the parameters of `from_manifest`.

    Raises:
        DataError: the file cannot be read.
    """
    file = Path(path).expanduser()
    if file.is_dir() and not is_hub_folder(file):
        raise DataError(
            f"{file} is a folder, and neither saved by `datasets` nor one of Parquet files; a manifest is a file "
            f"({', '.join(CHUNKS)}), and images in folders are for image-folder."
        )
    try:
        digest = content_digest(file)
    except OSError as error:
        raise DataError(f"The manifest {path} cannot be read: {error.strerror}.") from error
    table: Table = HubTable(file) if file.is_dir() else FileTable(file)
    if file.is_dir() and given["image"] == IMAGES[0]:
        names = table.names() or []
        given = {**given, "image": next((name for name in IMAGES if name in names), IMAGES[0])}
    root = (
        Path(given["root"]).expanduser()
        if given["root"] is not None
        else file
        if file.is_dir()
        else file.parent
    )
    return read(table, digest, root, given)


def read(table: Table, digest: str, root: Path, given: Mapping[str, Any]) -> Manifest:
    """Return a manifest from a table whose content has a digest."""
    defaults = signature_of(from_manifest).parameters
    named = {key: given[key] or "" for key in WORDS}
    told = tuple(key for key in WORDS if named[key] != defaults[key].default)
    splits = tuple((role, _listed(given[f"{role}_split"])) for role in ORDER)
    manifest = _read(
        table,
        digest,
        tuple(named.items()),
        Path(root).absolute(),
        told,
        _listed(given["features"]),
        given["labels"] == "auto",
        tuple(given["class_names"]),
        splits,
    )
    manifest = copy.copy(manifest)  # which the next reader gets as it was read
    manifest.faults = copy.deepcopy(manifest.faults)
    return manifest


def _listed(words: str | int | Sequence[str | int]) -> tuple[str, ...]:
    return (str(words),) if isinstance(words, str | int) else tuple(map(str, words))


@functools.lru_cache(maxsize=1)  # a suite builds the same data set for every seed
def _read(
    table: Table,
    _digest: str,
    named: tuple[tuple[str, str], ...],
    root: Path,
    told: tuple[str, ...],
    features: tuple[str, ...],
    numbered: bool,
    class_names: tuple[str, ...],
    splits: tuple[tuple[str, tuple[str, ...]], ...],
) -> Manifest:
    return read_manifest(
        table,
        dict(named),
        root=root,
        given=told,
        features=features,
        numbered=numbered,
        class_names=class_names,
        splits=dict(splits),
    )


# --- benchmarks ---


def benchmark_of(manifest: Manifest, rules: Rules, *, name: str, **settings: Any) -> Benchmark:
    """Return the benchmark of a manifest; `settings` are those of `build`.

    Raises:
        DataError: says all that is wrong with the manifest. ConfigError: a parameter that does not fit.
    """
    found = plan(manifest, rules, settings.get("shift"))
    manifest.faults.refuse(manifest.who)
    files = manifest.kind in ("images", "pictures")
    if rules.recipe is not None or (rules.size is not None and not files):
        settings = {**settings, "recipe": rules.recipe, "size": rules.size}
    by = recipe_of(name, rules.recipe, rules.size) if rules.recipe is not None and files else None
    source, rows = source_of_manifest(manifest, rules, found, by)
    built = stream_of(manifest, rules, found, source, rows, name, settings)
    return replace(built, texts=manifest.kind in ("texts", "text files"))


def stream_of(
    manifest: Manifest,
    rules: Rules,
    found: Plan,
    source: Source,
    rows: Mapping[Role, Ints],
    name: str,
    settings: dict[str, Any],
) -> Benchmark:
    """Return a benchmark of the examples of a manifest, cut as its plan says.

    Args:
        rows: of the manifest, of the examples of each pool in turn. settings: those of `build`.

    Raises:
        ConfigError: a parameter that does not fit.
    """
    shift = settings.get("shift")
    if found.by not in ("class", "domain"):
        return _cut(manifest, rules, found, source, rows, name, dict(settings))
    if shift is not None and (found.by == "domain") != (shift == "domain"):
        raise ConfigError(
            f"{name}: by={found.by} and shift={shift} exclude each other; leave one of them out."
        )
    if found.tested != "own" and shift == "task":
        raise ConfigError(f"{name}: with shift=task, every task is tested with its label; leave out tested.")
    if found.by == "domain" and found.tested != "own":
        return _of_domains(manifest, rules, found, source, rows, name, dict(settings))
    built: Benchmark = build(source, name=name, **{**settings, "shift": shift or found.by})
    if found.tested != "own":
        streams = _together(Streams(built.train, built.test, built.valid), source, found.tested == "class")
        built = replace(built, train=streams.train, test=streams.test, valid=streams.valid)
    if rules.boundaries is not None:
        built = replace(built, setting=replace(built.setting, boundaries=rules.boundaries))
    return built


def _of_domains(
    manifest: Manifest,
    rules: Rules,
    found: Plan,
    source: Source,
    rows: Mapping[Role, Ints],
    name: str,
    settings: dict[str, Any],
) -> Benchmark:
    """Return a benchmark with an experience for each domain, tested on rows of any domains; as `stream_of`."""
    assert manifest.domain is not None
    known, seed = domains_of(manifest.domain, rows)[0], settings.get("seed", 0)
    order = numbered(name, "domain", settings.pop("domain_order", "natural"), known)
    names = [known[d] for d in ordered("domain", np.arange(len(known)), order, seed)]
    experience = manifest.domain.renamed(names)
    cut_so = replace(found, experience=np.where(experience < 0, NONE, experience))
    built = _cut(manifest, rules, cut_so, source, rows, name, {**settings, "shift": "domain"})
    return replace(built, seed=seed) if order == "shuffled" else built


def _cut(
    manifest: Manifest,
    rules: Rules,
    found: Plan,
    source: Source,
    rows: Mapping[Role, Ints],
    name: str,
    settings: dict[str, Any],
) -> Benchmark:
    """Return a benchmark whose experiences are numbered in a plan; as `stream_of`."""
    told: Shift | None = settings.pop("shift", None)
    for key in ("experiences", "first", "increment", "class_order", "domain_order"):
        if settings.pop(key, None) not in (None, "natural"):
            raise ConfigError(f"{name}: {key} does nothing with by={found.by}; leave it out.")
    assert found.experience is not None
    owner = {
        role: np.where(found.experience[of] == NONE, -1, found.experience[of]) for role, of in rows.items()
    }
    n = int(owner["train"].max()) + 1
    shift = told or _shift(manifest, source.train, owner["train"])
    if shift == "task" and manifest.task is None:
        raise ConfigError(f"{name}: shift=task needs a column of task labels; task=… names one.")
    in_order = found.rank is not None
    fraction, seed = settings.pop("valid", 0.0), settings.pop("seed", 0)
    y = source.train.y.numpy()
    held = held_out(owner["train"] * source.num_classes + y, fraction, seed)
    domains = {}
    if shift == "domain" and manifest.domain is not None:
        domains = {
            i: {int(c) for c in manifest.domain.codes[rows["train"]][owner["train"] == i]} for i in range(n)
        }

    def experience(i: int, pool: Pool, of: Tensor) -> Experience:
        places = of.numpy()
        if in_order and pool is source.train:
            assert found.rank is not None
            places = places[np.argsort(found.rank[rows["train"][places]], kind="stable")]
        one = domains.get(i, set())
        domain = (
            manifest.domain.names[next(iter(one))] if len(one) == 1 and manifest.domain is not None else None
        )
        task = HIDDEN
        if shift == "task" and manifest.task is not None:
            task = int(manifest.task[rows["train"][owner["train"] == i][0]])
        kept = torch.from_numpy(places)
        return Experience(
            i,
            classes_of(pool, kept),
            Data.of(pool, kept),
            task=task,
            domain=domain,
            ordered=in_order and pool is source.train,
        )

    own = found.tested == "own"
    test = (source.test, owner["test"] if own else np.zeros(len(source.test.y), dtype=np.int64))
    valid = None
    if source.valid is not None and own:
        valid = source.valid, owner["valid"]
    streams = cut((source.train, owner["train"]), test, valid, experience, n=n, held=held)
    if not own:
        streams = _together(streams, source, found.tested == "class")
    boundaries = rules.boundaries if rules.boundaries is not None else found.by != "count"
    online = settings.pop("online", False)
    setting = Setting(
        shift,
        boundaries=boundaries,
        task_labels="always" if shift == "task" else "never",
        passes=1 if online else None,
    )
    transform = transform_of(
        source,
        name,
        settings.pop("augment", None),
        settings.pop("mean", None),
        settings.pop("std", None),
        settings.pop("normalise", "auto"),
        streams.train[0].data,
        recipe_of(name, settings.pop("recipe", None), settings.pop("size", None)),
    )
    return made(
        source,
        streams,
        setting,
        transform,
        settings.pop("duplicates", "note"),
        name=name,
        seed=seed if held is not None else 0,
        notes=settings.pop("notes", ""),
        **{"version": 1, **settings},
    )


def _shift(manifest: Manifest, train: Pool, owner: Ints) -> Shift:
    """Return what changes between experiences, of what the columns say."""
    if manifest.task is not None:
        return "task"
    pairs = np.unique(np.stack([owner, train.y.numpy()], 1), axis=0)
    same = len(np.unique(pairs[:, 1])) * len(np.unique(pairs[:, 0])) == len(pairs)
    return "domain" if same and len(np.unique(pairs[:, 0])) > 1 else "class"


def _together(streams: Streams, source: Source, by_class: bool) -> Streams:
    """Return streams whose test examples are tested after every experience: all in one, or those of each class."""

    def stream(name: str, data: Data) -> Stream:
        y = data.y()
        if not by_class:
            return Stream(name, (Experience(0, tuple(y.unique().tolist()), data),))
        parts = ((c, (y == c).nonzero().squeeze(1)) for c in range(source.num_classes))
        return Stream(name, tuple(Experience(c, (c,), data.subset(rows)) for c, rows in parts))

    def whole(pool: Pool) -> Data:
        return Data.of(pool, torch.arange(len(pool.y)))

    train = tuple(replace(exp, tests=exp.classes if by_class else (0,)) for exp in streams.train)
    valid = None
    if source.valid is not None or streams.valid is not None:
        held = whole(source.valid) if source.valid is not None else _joined(streams.valid)
        valid = stream("valid", held)
    return Streams(Stream("train", train), stream("test", whole(source.test)), valid)


def _joined(stream: Stream | None) -> Data:
    return Data.union([exp.data for exp in stream or ()])
