"""The id of a run: a hash of what decides its numbers. Imports no torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from clbench.files import canonical_json, sha256

ID_LENGTH = 12
SAID = frozenset(("notes", "about", "primary", "metrics", "domains"))
"""What a record says of its benchmark that is no part of the run's id, as no number follows from it: `about`, what it
is; `notes` on its data, such as how a folder was read; `primary`, the metric that ranks strategies; `metrics` that its
tables show beside that; `domains`, one an experience, where they have names. Older records have `notes` at most."""


def run_id(
    config: Mapping[str, Any],
    benchmark: Mapping[str, Any],
    strategy: Mapping[str, Any],
    model: Mapping[str, Any],
    code: Mapping[str, Any],
    files: Mapping[str, Mapping[str, str | None]] | None = None,
) -> str:
    """Return the id of a run: the first digits of the SHA-256 over what decides its numbers."""
    decides = {
        **by_content(config, files or {}),
        "benchmark": {key: value for key, value in benchmark.items() if key not in SAID},
        "strategy": strategy,
        "model": model,
        "code": [code["version"], code["sources"]],
    }
    return sha256(canonical_json(decides))[:ID_LENGTH]


def by_content(
    config: Mapping[str, Any], files: Mapping[str, Mapping[str, str | None]]
) -> dict[str, dict[str, Any]]:
    """Return a configuration for a hash: files count by what they hold, and not by their paths."""
    if not files:
        return {"config": dict(config)}
    bare = copy.deepcopy(dict(config))
    for address in files:
        name, *places = address.replace("]", "").split("[")  # in a parameter's lists
        section, _, rest = name.partition(".")
        *steps, last = section, *rest.rsplit(".", 1), *places
        inside: Any = bare
        for step in steps:
            inside = _at(inside, step)
        if _at(inside, last) is None:  # a plug-in's own files are no settings
            continue
        if isinstance(inside, list):
            inside[int(last)] = None
        else:
            inside[last] = None
    return {"config": bare, "files": {k: v["sha256"] for k, v in files.items()}}


def _at(tree: Any, step: str) -> Any:
    """Return what stands under a key, or at a place in a list; None where nothing does."""
    if isinstance(tree, list):
        return tree[int(step)] if step.isdecimal() and int(step) < len(tree) else None
    return tree.get(step) if isinstance(tree, dict) else None
