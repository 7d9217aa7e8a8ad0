"""What a run is made of beside clbench: what others must have of its author to run it again.

A record says it itself: `code.parts` names the plug-ins and objects that took part, `files` what was read. A name that
clbench does not ship is somebody's, whatever the record says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clbench.registry import Entry, Registry, benchmarks, models, strategies
from clbench.results.ledger import IN_MEMORY, Record


def needs(record: Record) -> dict[str, str]:
    """Return what a run needs beside clbench, and where that is from, in words; empty where clbench alone can run it
    again.

    `strategy ft` → `ft.py, SHA-256 0123456789ab`; `stream.path` → `mine.npz`.
    """
    found = dict[str, str]()
    for part in named(record):
        if not part.registry.ships(part.name):
            found[part.what] = "of unknown origin"
        elif (known := part.known) is not None and (takes := known.parameters()) is not None:
            for strange in sorted(part.given.keys() - takes):
                found[part.what] = f"one with a parameter '{strange}'"
    for what, part in record.code.get("parts", {}).items():
        found[what] = part["origin"] + _digits(part["sha256"])
    for where, file in record.files.items():
        path = Path(str(file["path"]))
        # What is not absolute is the name of something that is published, but for the id of weights.
        if path.is_absolute() or where == "model.weights":
            found[where] = path.name + _digits(file["sha256"])
    return found


def missing(record: Record) -> dict[str, str]:
    """Return what of that is not to be had here; weights, and what lies beside a plug-in, are missed where they are
    read."""
    names, parts = {part.what: part for part in named(record)}, record.code.get("parts", {})

    def here(what: str) -> bool:
        if what in names:
            return (
                names[what].registry.knows(names[what].name)
                and parts.get(what, {}).get("origin") != IN_MEMORY
            )
        read = what.startswith(("stream.", "params.", "model.params."))
        return not read or Path(str(record.files[what]["path"])).exists()

    return {what: told for what, told in needs(record).items() if not here(what)}


def in_words(needed: Mapping[str, str]) -> str:
    """`strategy ft (ft.py, SHA-256 0123456789ab), stream.path (mine.npz)`."""
    return ", ".join(f"{what} ({told})" for what, told in needed.items())


def _digits(sha256: str | None) -> str:
    return f", SHA-256 {sha256[:12]}" if sha256 else ""


class Named(NamedTuple):
    """What a record says took part: its name and version, and the arguments that it was given, `config.<section>`."""

    registry: Registry[Any]
    name: str
    version: str
    section: str
    given: Mapping[str, Any]

    @property
    def what(self) -> str:
        """Its name in `code.parts`."""
        return f"{self.registry.kind} {self.name}"

    @property
    def known(self) -> Entry | None:
        """What clbench ships under its name, in its version."""
        own = self.registry.ships(self.name) and ":" not in self.name
        known = self.registry.peek(self.name) if own else None
        return known if known is not None and known.own and str(known.version) == self.version else None


def named(record: Record) -> list[Named]:
    """Return what a record says took part; timm's networks have no version of their own."""
    config, parts = record.config, record.strategy["name"].split("+")
    versions = [*str(record.strategy["version"]).split("+"), *[""] * len(parts)][: len(parts)]
    found = [
        Named(strategies, part, version, f"params.{part}", config["params"].get(part, {}))
        for part, version in zip(parts, versions, strict=True)
    ]
    benchmark = str(config.get("benchmark", record.benchmark["name"]))
    found.append(
        Named(benchmarks, benchmark, str(record.benchmark["version"]), "stream", config.get("stream", {}))
    )
    if "version" in record.model:
        given, version = config["model"]["params"], str(record.model["version"])
        found.append(Named(models, record.model["name"], version, "model.params", given))
    return found
