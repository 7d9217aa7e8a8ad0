"""The examples of manifests: images, arrays, features and texts, as a data set.

Shapes: N rows of the manifest, P of a pool.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clbench.data.arrays import gathered, opened, stacked
from clbench.data.cells import Words
from clbench.data.decoded import Size, decoded, decoded_files
from clbench.data.draws import Ints
from clbench.data.folders import Role
from clbench.data.manifest_checks import box_of
from clbench.data.manifest_plans import Plan, Rules
from clbench.data.manifests import ORDER, Manifest
from clbench.data.pixels import Box
from clbench.data.source import Source, natural, source_of
from clbench.data.texts import Row, text_source
from clbench.errors import DataError
from clbench.files.mapped import Mapped
from clbench.transforms.recipes import Recipe
from clbench.types import Pool


def source_of_manifest(
    manifest: Manifest, rules: Rules, plan: Plan, recipe: Recipe | None = None
) -> tuple[Source, dict[Role, Ints]]:
    """Return the data set of a manifest, and the rows of it that the examples of each pool are.

    Raises:
        DataError: files that cannot be read, or arrays that cannot be used.
    """
    rows = rows_of(manifest, plan)
    domain = manifest.domain if plan.by == "domain" and plan.tested == "own" else None
    told = [
        f"The manifest has {len(manifest):,} rows of {manifest.kind}; the SHA-256 of its canonical form is "
        f"{manifest.digest}."
    ]
    if left := sum(manifest.splits_unused.values()):
        told.append(f"{left:,} rows of the splits {', '.join(sorted(manifest.splits_unused))} are left out.")
    if plan.dropped:
        told.append(plan.dropped)
    if manifest.unused:
        told.append(f"Nothing is made of its columns {', '.join(manifest.unused)}.")
    if manifest.kind in ("images", "pictures"):
        source = _images(manifest, rules, plan, rows, domain, recipe)
    elif manifest.kind in ("texts", "text files"):
        source = _texts(manifest, rules, rows, domain)
    else:
        source = _arrays(manifest, rules, rows, domain)
    return replace(source, found=(*told, *source.found)), rows


def rows_of(manifest: Manifest, plan: Plan) -> dict[Role, Ints]:
    """Return the rows of each stream that has some, in the order of their files or rows."""
    of = plan.split[manifest.by_path]
    rows = {role: manifest.by_path[of == k] for k, role in enumerate(ORDER)}
    return {role: part for role, part in rows.items() if len(part)}


def domains_of(domain: Words | None, rows: Mapping[Role, Ints]) -> tuple[tuple[str, ...], dict[Role, Ints]]:
    """Return the names of domains in their natural order, and the domains of each pool's rows by number."""
    if domain is None:
        return (), {}
    names = sorted({domain.names[c] for c in np.unique(domain.codes[rows["train"]]).tolist()}, key=natural)
    codes = domain.renamed(names)
    return tuple(names), {role: codes[part] for role, part in rows.items()}


def _images(
    manifest: Manifest,
    rules: Rules,
    plan: Plan,
    rows: Mapping[Role, Ints],
    domain: Words | None,
    recipe: Recipe | None,
) -> Source:
    size: Size = rules.size if rules.size is not None else (plan.pixels or (1, 1))
    if recipe is not None:
        size = recipe.side(False)
    every = np.concatenate(list(rows.values()))
    boxes: list[Box | None] | None = None
    if manifest.box is not None:
        known = [*map(box_of, manifest.box.names), None]
        boxes = [known[code] for code in manifest.box.codes[every].tolist()]
    if manifest.kind == "pictures":
        file = _pictures(manifest, rows, size, rules.channels, recipe, boxes)
    else:
        root = manifest.root.as_posix().rstrip("/")
        paths = [f"{root}/{manifest.paths[i]}" for i in every.tolist()]
        file = decoded_files(paths, size, rules.channels, recipe, boxes)
    pools, start = {}, 0
    for role, part in rows.items():
        labels = torch.from_numpy(manifest.labels[part])
        pools[role] = Pool.mapped(Mapped.rows(str(file), start, start + len(part)), labels)
        start += len(part)
    names, domains = domains_of(domain, rows)
    height, width = (size, size) if isinstance(size, int) else size
    return Source(
        pools["train"],
        pools["test"],
        manifest.class_names,
        domains.get("train"),
        domains.get("test"),
        names,
        valid=pools.get("valid"),
        domain_valid=domains.get("valid"),
        found=(f"Its images are read at {width} × {height} pixels.",),
    )


def _texts(manifest: Manifest, rules: Rules, rows: Mapping[Role, Ints], domain: Words | None) -> Source:
    def text(i: int) -> str:
        if manifest.kind == "texts":
            return manifest.paths[i]
        file = manifest.root / manifest.paths[i]
        try:
            return file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read as text: {error}.") from error

    def row(i: int) -> Row:
        where = f"{manifest.who}, {manifest.faults.unit} {manifest.numbers[i]}"
        return Row(
            where,
            text(i),
            manifest.class_names[manifest.labels[i]],
            None if domain is None else domain.names[domain.codes[i]],
        )

    listed: dict[str, Sequence[Row]] = {role: [row(i) for i in part.tolist()] for role, part in rows.items()}
    return text_source(listed, class_names=manifest.class_names, longest=rules.longest, who=manifest.who)


def _arrays(manifest: Manifest, rules: Rules, rows: Mapping[Role, Ints], domain: Words | None) -> Source:
    names, domains = domains_of(domain, rows)
    given: dict[str, Any] = {}
    if manifest.kind == "features":
        assert manifest.features is not None
        held = manifest.features
        given = {f"x_{role}": held[part] for role, part in rows.items()}
    elif manifest.kind == "arrays":
        every = np.concatenate(list(rows.values()))
        held, start = stacked([manifest.root / manifest.paths[i] for i in every.tolist()]), 0
        for role, part in rows.items():
            given[f"x_{role}"] = held[start : start + len(part)]
            start += len(part)
    else:
        held = opened(str(rules.array))
        assert manifest.rows is not None
        given = {f"x_{role}": gathered(held, manifest.rows[part]) for role, part in rows.items()}
    for role, part in rows.items():
        given[f"y_{role}"] = manifest.labels[part]
        if domain is not None:
            given[f"domain_{role}"] = domains[role]
    return source_of(**given, class_names=manifest.class_names, domain_names=names, who=manifest.who)


def _pictures(
    manifest: Manifest,
    rows: Mapping[Role, Ints],
    size: Size,
    channels: int,
    recipe: Recipe | None,
    boxes: Sequence[Box | None] | None,
) -> Path:
    """Return the .npy file of images that lie in the table itself, one stream after the other."""

    def chunks() -> Iterator[list[bytes]]:
        for part in rows.values():
            wanted = np.zeros(len(manifest), dtype=bool)
            wanted[part] = True
            start = 0
            for found in manifest.table.pictures(manifest.picture):
                yield list(itertools.compress(found, wanted[start : start + len(found)]))
                start += len(found)

    every = np.concatenate(list(rows.values()))

    def named(k: int) -> str:
        return f"{manifest.who}, {manifest.faults.unit} {manifest.numbers[every[k]]}"

    return decoded(chunks, lambda content: content, named, len(every), size, channels, recipe, boxes)
