"""What a run is made of beside clbench: what others must have of its author to run it again.

A record says it itself: `code.parts` names the plug-ins and objects that took part, `files` what was read. A name that
clbench does not ship is somebody's, whatever the record says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clbench.registry import Registry, benchmarks, models, strategies
from clbench.results.ledger import IN_MEMORY, Record


def needs(record: Record) -> dict[str, str]:
    """Return what a run needs beside clbench, and where that is from, in words; empty where clbench alone can run it
    again.

    `strategy ft` → `ft.py, SHA-256 0123456789ab`; `stream.path` → `mine.npz`.
    """
    found = {
        what: "of unknown origin"
        for what, (registry, name) in _names(record).items()
        if not registry.ships(name)
    }
    for what, part in record.code.get("parts", {}).items():
        found[what] = part["origin"] + _digits(part["sha256"])
    for where, file in record.files.items():
        path = Path(str(file["path"]))
        if path.is_absolute():  # and not the name of something that is published
            found[where] = path.name + _digits(file["sha256"])
    return found


def missing(record: Record) -> dict[str, str]:
    """Return what of that is not to be had here; weights, and what lies beside a plug-in, are missed where they are
    read."""
    names, parts = _names(record), record.code.get("parts", {})

    def here(what: str) -> bool:
        if what in names:
            registry, name = names[what]
            return registry.knows(name) and parts.get(what, {}).get("origin") != IN_MEMORY
        read = what.startswith(("stream.", "params.", "model.params."))
        return not read or Path(str(record.files[what]["path"])).exists()

    return {what: told for what, told in needs(record).items() if not here(what)}


def in_words(needed: Mapping[str, str]) -> str:
    """`strategy ft (ft.py, SHA-256 0123456789ab), stream.path (mine.npz)`."""
    return ", ".join(f"{what} ({told})" for what, told in needed.items())


def _digits(sha256: str | None) -> str:
    return f", SHA-256 {sha256[:12]}" if sha256 else ""


def _names(record: Record) -> dict[str, tuple[Registry[Any], str]]:
    """Return what a record says took part, under the names of `code.parts`; timm's networks have no version of their
    own."""
    named = [(strategies, name) for name in record.strategy["name"].split("+")]
    named.append((benchmarks, record.config.get("benchmark", record.benchmark["name"])))
    named += [(models, record.model["name"])] if "version" in record.model else []
    return {f"{registry.kind} {name}": (registry, name) for registry, name in named}
