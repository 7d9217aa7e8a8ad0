"""What a manifest holds, and what is wrong with it, before anything is trained."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clbench.data.cells import NONE, iso
from clbench.data.decoded import for_each
from clbench.data.draws import Ints
from clbench.data.manifest_checks import TEST, TRAIN, UNREAD, check_files
from clbench.data.manifest_plans import Plan, Rules, plan
from clbench.data.manifest_sources import rows_of
from clbench.data.manifest_streams import manifest_of, settings_of_manifest, stream_of
from clbench.data.manifests import ORDER, UNUSED, Manifest
from clbench.data.pixels import MISREAD, decode
from clbench.data.source import Source
from clbench.errors import ClbenchError
from clbench.types import Benchmark, Pool


@dataclass(frozen=True)
class Held:
    """What an experience of a stream holds; times are the first and the last."""

    stream: str
    experience: int
    rows: int
    classes: int
    domain: str | None
    times: tuple[str, str] | None

    def __str__(self) -> str:
        classes = f"{self.classes:,} class{'es' * (self.classes != 1)}"
        domain = f", domain {self.domain}" if self.domain else ""
        times = f", {self.times[0]} to {self.times[1]}" if self.times else ""
        return f"{self.stream} {self.experience + 1}: {self.rows:,} rows, {classes}{domain}{times}"


@dataclass(frozen=True)
class Report:
    """A manifest, before anything is trained.

    Attributes:
        file, kind, rows, sha256: it, what its examples are, their number, and the hash of its canonical form.
        splits: rows by stream, and of those that none uses. classes: rows by class, of the streams.
        by: what makes the experiences, and experiences: what each holds.
        unused: columns that nothing is made of.
        overlap: test rows whose bytes are those of training rows; None where they cannot be compared.
        duplicates: training rows whose bytes are those of an earlier one.
        faults: what keeps it from being used.
    """

    file: str
    kind: str
    rows: int
    sha256: str
    splits: dict[str, int]
    classes: dict[str, int]
    by: str
    experiences: tuple[Held, ...]
    unused: tuple[str, ...]
    overlap: int | None
    duplicates: int | None
    faults: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __repr__(self) -> str:
        counts = list(self.classes.values())
        lines = [
            f"{self.file}: {self.rows:,} rows of {self.kind}",
            f"canonical SHA-256 {self.sha256}",
            "rows: " + ", ".join(f"{n:,} {name}" for name, n in self.splits.items()),
        ]
        if counts:
            span = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
            lines.append(f"classes: {len(counts):,}, of {span} rows")
        if self.unused:
            lines.append(f"columns not used: {', '.join(self.unused)}")
        if self.overlap is not None:
            lines.append(f"test rows that are byte-identical to training rows: {self.overlap:,}")
            lines.append(f"training rows that are byte-identical to others: {self.duplicates:,}")
        lines.append(f"experiences by {self.by}: {sum(held.stream == 'train' for held in self.experiences)}")
        lines += [f"  {held}" for held in self.experiences]
        if self.faults:
            lines.append(f"faults: {len(self.faults)}")
            lines += [f"  {i}. {fault}" for i, fault in enumerate(self.faults, 1)]
        else:
            lines.append("faults: none")
        return "\n".join(lines)


def describe_manifest(path: str | Path, **params: Any) -> Report:
    """Return what a manifest holds and what is wrong with it; every file that it names is read.

    Args:
        path, params: as of `from_manifest`.

    Raises:
        DataError: the manifest itself cannot be read. ConfigError: a parameter that does not fit.
    """
    given, settings = settings_of_manifest(params)
    name = given["name"]
    manifest = manifest_of(path, given)
    rules = Rules(**{key: given[key] for key in Rules.__dataclass_fields__})
    shift = settings.get("shift")
    found = plan(manifest, rules, shift)
    digests = _digests(manifest, found, rules)
    overlap = duplicates = None
    if digests is not None:
        train = digests[found.split == TRAIN]
        known = Counter(train.tolist())
        known.pop(b"", None)
        overlap = sum(one in known for one in digests[found.split == TEST].tolist())
        duplicates = sum(known.values()) - len(known)
    experiences: tuple[Held, ...] = ()
    if not manifest.faults:
        try:
            experiences = _experiences(manifest, found, rules, name, settings)
        except ClbenchError as error:
            manifest.faults.add(str(error))
    splits: dict[str, int] = {
        role: int((found.split == k).sum()) for k, role in enumerate(ORDER) if (found.split == k).any()
    }
    if unused := int((found.split == UNUSED).sum()):
        splits["in no stream"] = unused
    used = manifest.labels[(found.split != UNUSED) & (manifest.labels >= 0)] if manifest.labels.size else []
    counts: list[int] = np.bincount(used, minlength=len(manifest.class_names)).tolist() if len(used) else []
    return Report(
        manifest.who,
        manifest.kind,
        len(manifest),
        manifest.digest,
        splits,
        dict(zip(manifest.class_names, counts, strict=False)),
        found.by,
        experiences,
        manifest.unused,
        overlap,
        duplicates,
        tuple(manifest.faults.told),
    )


def _digests(manifest: Manifest, found: Plan, rules: Rules) -> Any:
    """(N,) hashes of the examples' bytes, "" of those that are not there; None of tables of another kind.

    Images are decoded, so that those are found that cannot be.
    """
    digests = np.full(len(manifest), b"", dtype=object)
    if manifest.kind == "texts":
        digests[:] = [hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in manifest.paths]
        return digests
    if manifest.features is not None:
        digests[:] = [hashlib.sha256(row.tobytes()).digest() for row in manifest.features]
        return digests
    if manifest.kind == "pictures":
        return _digests_of_pictures(manifest, rules)
    if manifest.kind not in ("images", "arrays", "text files"):
        return None
    rows = check_files(manifest, found.split != UNUSED, quietly=True)

    def look(k: int) -> tuple[bytes, str]:
        try:
            content = (manifest.root / manifest.paths[rows[k]]).read_bytes()
            if manifest.kind == "images":
                decode(content, 1, rules.channels)
            return hashlib.sha256(content).digest(), ""
        except MISREAD as error:
            return b"", str(error)

    looked = for_each(look, len(rows))
    digests[rows] = [digest for digest, _ in looked]
    bad = [
        (int(manifest.numbers[i]), f"{manifest.paths[i]} ({why})")
        for i, (_, why) in zip(rows, looked, strict=True)
        if why
    ]
    manifest.faults.told = [told for told in manifest.faults.told if not told.startswith(UNREAD)]
    manifest.faults.rows(UNREAD, bad, "Remove, replace or convert them.")
    return digests


def _digests_of_pictures(manifest: Manifest, rules: Rules) -> Any:
    digests = np.full(len(manifest), b"", dtype=object)
    bad, start = [], 0
    for chunk in manifest.table.pictures(manifest.picture):
        for i, content in enumerate(chunk, start):
            try:
                decode(content, 1, rules.channels)
                digests[i] = hashlib.sha256(content).digest()
            except MISREAD as error:
                bad.append((int(manifest.numbers[i]), str(error)))
        start += len(chunk)
    manifest.faults.told = [told for told in manifest.faults.told if not told.startswith(UNREAD)]
    manifest.faults.rows(UNREAD, bad, "Remove or replace them.")
    return digests


def _experiences(
    manifest: Manifest, found: Plan, rules: Rules, name: str, settings: dict[str, Any]
) -> tuple[Held, ...]:
    """Return what each experience holds: the stream is cut as it would be, of rows in place of examples."""
    rows = rows_of(manifest, found)
    pools = {
        role: Pool(torch.from_numpy(part).unsqueeze(1), torch.from_numpy(manifest.labels[part]))
        for role, part in rows.items()
    }
    domains: dict[str, Ints | None] = dict.fromkeys(ORDER)
    names: tuple[str, ...] = ()
    if found.by == "domain" and found.tested == "own" and manifest.domain is not None:
        names = tuple(manifest.domain.names)
        domains |= {role: manifest.domain.codes[part] for role, part in rows.items()}
    source = Source(
        pools["train"],
        pools["test"],
        manifest.class_names,
        domains["train"],
        domains["test"],
        names,
        valid=pools.get("valid"),
        domain_valid=domains["valid"],
    )
    kept = {
        key: value
        for key, value in settings.items()
        if key not in ("augment", "mean", "std", "recipe", "size")
    }
    kept |= {"normalise": "none", "duplicates": "note"}
    built: Benchmark = stream_of(manifest, rules, found, source, rows, name, kept)
    listed = []
    for stream in (built.train, built.valid, built.test):
        for exp in stream or ():
            held = exp.data.x()[:, 0].numpy()
            times = None
            if manifest.time is not None and (told := manifest.time[held][manifest.time[held] != NONE]).size:
                times = iso(int(told.min())), iso(int(told.max()))
            listed.append(Held(stream.name, exp.index, len(exp), len(exp.classes), exp.domain, times))  # type: ignore[union-attr]
    return tuple(listed)
