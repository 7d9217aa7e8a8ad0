"""What becomes of each row of a manifest: its stream and its experience, by columns or by a rule.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from clbench.data import manifest_checks as checks
from clbench.data.cells import NONE, microseconds
from clbench.data.draws import Ints
from clbench.data.folders import share_of
from clbench.data.manifest_checks import TEST, TRAIN, Overlap
from clbench.data.manifests import UNUSED, Manifest
from clbench.data.shares import held_out
from clbench.errors import ConfigError

By = Literal["auto", "experience", "class", "domain", "time", "count"]
"""What makes the experiences: a column, the classes, the domains, windows of time, or so many rows each."""
Unmatched = Literal["refuse", "drop"]
"""What becomes of classes, and of domains that are experiences, that are only trained or only tested."""
Tested = Literal["auto", "own", "together", "class"]
"""Which test rows count as seen after an experience: those of its own, all of them, or those of its classes."""


@dataclass(frozen=True)
class Rules:
    """How a manifest becomes a stream; `from_manifest` says what each is."""

    by: By = "auto"
    periods: int | tuple[float, ...] | None = None
    count: int | None = None
    tested: Tested = "auto"
    boundaries: bool | None = None
    size: int | None = None
    recipe: str | Mapping[str, Any] | None = None
    channels: Literal[1, 3] = 3
    array: str | None = None
    test_fraction: float = 0.2
    longest: int = 4096
    overlap: Overlap = "refuse"
    unmatched: Unmatched = "refuse"
    labels: Literal["auto", "names"] = "auto"
    times: Literal["checked", "free"] = "checked"


@dataclass
class Plan:
    """Which stream and experience each row is of.

    Attributes:
        by: what makes the experiences. split: (N,) places in `ORDER`, or `UNUSED`.
        experience: (N,) `NONE` where there is none; of no use where classes or domains make them.
        rank: (N,) what rows are ordered by in an experience, if they are. tested: how test rows are.
        pixels: height and width of images that are not resized.
        dropped: what records tell of rows that are left out, if any are.
    """

    by: By
    split: Ints
    experience: Ints | None = None
    rank: Ints | None = None
    tested: Tested = "own"
    pixels: tuple[int, int] | None = None
    dropped: str = ""


def plan(manifest: Manifest, rules: Rules, shift: str | None) -> Plan:
    """Return what becomes of each row; what is wrong with them is noted in the manifest's faults."""
    faults, by = manifest.faults, rules.by
    if by == "auto":
        by = "experience" if manifest.experience is not None else "domain" if shift == "domain" else "class"
    _check_columns(manifest, rules, by)
    if not (manifest.paths or manifest.rows is not None or manifest.features is not None or manifest.picture):
        return Plan(by, np.full(len(manifest), UNUSED))  # what lacks is told
    drop, dropped = rules.unmatched == "drop", ""
    if drop and manifest.split is not None:
        dropped = _drop_unmatched(manifest, rules, by, manifest.split.copy())
    experience = manifest.experience if by == "experience" else None
    if by == "time" and manifest.time is not None:
        experience = _windows(manifest, rules)
    split = manifest.split
    if split is None:
        split = _drawn(manifest, rules.test_fraction, experience)
        dropped = _drop_unmatched(manifest, rules, by, split) if drop else ""
    rank = manifest.order
    if by == "count" and rules.count is not None:
        in_order = np.flatnonzero(split == TRAIN)
        key = next((c for c in (manifest.order, manifest.time) if c is not None), None)
        if key is not None:  # rows of one time by their paths, so that the order of lines changes nothing
            train = manifest.by_path[split[manifest.by_path] == TRAIN]
            in_order = train[np.argsort(key[train], kind="stable")]
        experience, rank = np.full(len(manifest), NONE), np.zeros(len(manifest), dtype=np.int64)
        experience[in_order] = np.arange(len(in_order)) // rules.count
        rank[in_order] = np.arange(len(in_order))
    found = Plan(by, split, experience, rank, dropped=dropped)
    if experience is not None:
        found.tested = _tested(manifest, rules, split, experience)
        checks.check_experiences(manifest, experience, split, found.tested == "own")
    elif rules.tested != "auto":
        found.tested = rules.tested
    used = split != UNUSED
    there = checks.check_files(manifest, used)
    checks.check_repeats(manifest, split, rules.overlap)
    checks.check_groups(manifest, split, rules.overlap)
    checks.check_labels(manifest, split)
    if by == "domain":
        checks.check_domains(manifest, split, found.tested == "own")
    checks.check_order(manifest, split, by, rules.times == "free")
    checks.check_boxes(manifest)
    checks.check_cells(manifest, rules.array)
    as_they_are = rules.size is None and rules.recipe is None
    if manifest.kind == "images" and (as_they_are or faults):
        found.pixels = checks.check_images(manifest, there, not as_they_are)
    if manifest.kind == "pictures" and as_they_are:
        found.pixels = checks.check_pictures(manifest, used)
    return found


def _drop_unmatched(manifest: Manifest, rules: Rules, by: By, split: Ints) -> str:
    """Leave out, in a split that it makes the manifest's, rows of classes that are only trained or only tested, and of
    such domains where each is tested alone; classes that are names are numbered anew. Return what to tell of it."""
    columns = [manifest.labels]
    if by == "domain" and rules.tested in ("auto", "own") and manifest.domain is not None:
        columns.append(manifest.domain.codes)
    before = (split != UNUSED).sum()
    while True:  # what one column leaves out may be all that there is of another
        lone = np.zeros(len(split), dtype=bool)
        for codes in (codes for codes in columns if codes.size):
            used = (split != UNUSED) & (codes >= 0)
            both = np.intersect1d(codes[used & (split == TRAIN)], codes[used & (split == TEST)])
            lone |= used & ~np.isin(codes, both)
        if not lone.any():
            break
        split[lone] = UNUSED
    manifest.split, labels, names = split, manifest.labels, manifest.class_names
    final = rules.labels == "auto" and all(name.isdecimal() for name in manifest.label.names)
    if labels.size and (manifest.kind in ("texts", "text files") or not final):
        kept = np.unique(labels[(split != UNUSED) & (labels >= 0)])
        manifest.labels = np.where(np.isin(labels, kept), np.searchsorted(kept, labels), NONE)
        manifest.class_names = tuple(names[c] for c in kept.tolist())
    gone, what = (
        int(before - (split != UNUSED).sum()),
        "classes" if len(columns) == 1 else "classes or domains",
    )
    return f"{gone:,} rows of {what} that are only trained, or only tested, are left out." if gone else ""


def _check_columns(manifest: Manifest, rules: Rules, by: By) -> None:
    """Note columns and rules that need each other, or exclude each other."""
    faults = manifest.faults
    columns = {"experience": manifest.experience, "time": manifest.time, "domain": manifest.domain}
    if by in columns and columns[by] is None:
        faults.add(f"by={by} needs a column of it, and there is none; {by}=… names one.")
    if by != "experience" and manifest.experience is not None:
        faults.add(
            f"There is a column of experiences, which by={by} does not use; experience='' leaves it out."
        )
    for what, column in (("order", manifest.order), ("task", manifest.task)):
        if column is not None and (by in ("class", "domain") or (what == "task" and by != "experience")):
            faults.add(f"There is a column of {what}, which by={by} does not use; {what}='' leaves it out.")
    for what, rule, value in (("periods", "time", rules.periods), ("count", "count", rules.count)):
        if (by == rule) != (value is not None):
            faults.add(
                f"by={rule} needs {what}."
                if value is None
                else f"{what} is for by={rule}, and by is {by}; leave it out."
            )


def _windows(manifest: Manifest, rules: Rules) -> Ints | None:
    """(N,) the window of time that each row is of; of so many, all have as many training rows."""
    time, windows = manifest.time, rules.periods
    assert time is not None
    told = time != NONE
    train = told if manifest.split is None else told & (manifest.split == TRAIN)
    manifest.faults.rows(
        "Rows without a time",
        manifest.at(
            np.flatnonzero(~told & (train if manifest.split is None else manifest.split == TRAIN)),
            manifest.named,
        ),
        "by=time needs that of every training row.",
    )
    rows = manifest.by_path[train[manifest.by_path]]
    rows = rows[np.argsort(time[rows], kind="stable")]
    found = np.full(len(manifest), NONE)
    if windows is None or not len(rows):
        return None
    if isinstance(windows, int):
        parts = np.array_split(rows, windows)
        if len(rows) < windows:
            manifest.faults.add(f"{len(rows)} training rows cannot make {windows} windows.")
            return None
        edges = np.array([time[part[0]] for part in parts[1:]], dtype=np.int64)
        found[told] = np.searchsorted(edges, time[told], "right")
        for i, part in enumerate(parts):  # rows of one time may be of two windows
            found[part] = i
        return found
    try:
        edges = np.array([microseconds(edge) for edge in windows], dtype=np.int64)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"periods={list(windows)}: times are ISO 8601 or seconds since 1970 ({error})."
        ) from error
    if (np.diff(edges) <= 0).any():
        raise ConfigError(f"periods={list(windows)}: the times between windows come one after the other.")
    found[told] = np.searchsorted(edges, time[told], "right")
    return found


def _drawn(manifest: Manifest, fraction: float, experience: Ints | None) -> Ints:
    """(N,) a fixed share of each class, in each domain and experience, for testing; of groups, whole ones."""
    n = len(manifest)
    split = np.full(n, TRAIN)
    if manifest.group is not None:
        groups = manifest.group.codes
        chosen = share_of(manifest.group.names, fraction)
        split[np.isin(groups, [k for k, name in enumerate(manifest.group.names) if name in chosen])] = TEST
        return split
    labels = manifest.labels if manifest.labels.size else np.zeros(n, dtype=np.int64)
    strata = [labels]
    if manifest.domain is not None:
        strata.append(manifest.domain.codes)
    if experience is not None:
        strata.append(experience)
    _, stratum = np.unique(np.stack(strata, 1), axis=0, return_inverse=True)
    if manifest.kind in ("images", "arrays", "text files"):  # as folders are
        in_order = np.argsort(stratum, kind="stable")
        for rows in np.split(in_order, np.cumsum(np.bincount(stratum))[:-1]):
            chosen = share_of([manifest.paths[i] for i in rows.tolist()], fraction)
            split[[i for i in rows.tolist() if manifest.paths[i] in chosen]] = TEST
    elif manifest.kind == "texts":  # as files of texts are
        seen = np.zeros(n, dtype=np.int64)
        in_order = np.argsort(stratum, kind="stable")
        sizes = np.bincount(stratum)
        seen[in_order] = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
        split[(seen * fraction).astype(np.int64) > ((seen - 1) * fraction).astype(np.int64)] = TEST
    else:  # as data sets are
        held = held_out(stratum, fraction, 0)
        assert held is not None
        split[held] = TEST
    return split


def _tested(manifest: Manifest, rules: Rules, split: Ints, experience: Ints) -> Tested:
    """Return how test rows are told of, where nobody says it."""
    test = split == TEST
    if rules.tested != "auto":
        return rules.tested
    if not test.any() or (experience[test] != NONE).any():
        return "own"
    if not manifest.labels.size:
        return "together"
    first = manifest.labels[(split == TRAIN) & (experience == 0)]
    return "together" if np.isin(manifest.labels[test], first).all() else "class"
