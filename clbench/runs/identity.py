"""What a run is, before it starts: its id, and what the id is made of."""

from __future__ import annotations

import contextlib
import functools
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clbench.config import RunConfig
from clbench.errors import DataError
from clbench.files import canonical_json, file_sha256, sha256
from clbench.files.places import CHECKOUT, VERSION
from clbench.machine.numerics import pinned
from clbench.models import weights
from clbench.registry import Entry, benchmarks
from clbench.registry.closure import code_of
from clbench.registry.reads import digest
from clbench.registry.typed import typed_source
from clbench.results.ids import run_id
from clbench.results.ledger import IN_MEMORY
from clbench.runs import building
from clbench.runs.building import declared, entries_of
from clbench.types import Benchmark

Files = dict[str, dict[str, str | None]]
Code = dict[Path | str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class Identity:
    """A run's id, what the id is made of, and the benchmark that was built for it.

    Attributes:
        resolved: the configuration, with every file that it names where it was found.
        built: None where the benchmark was known.
    """

    id: str
    resolved: RunConfig
    built: Benchmark | None
    benchmark: dict[str, Any]
    strategy: dict[str, Any]
    model: dict[str, Any]
    code: dict[str, Any]
    files: Files


@dataclass
class Known:
    """What the runs of a suite share, looked at once, as it is at that moment.

    Attributes:
        benchmarks: what each is, by its name and arguments.
        code: the files that each file or text is made of, with their SHA-256.
    """

    benchmarks: dict[str, dict[str, Any]] = field(default_factory=dict)
    code: Code = field(default_factory=dict)


def identify(resolved: RunConfig, benchmark: Benchmark | None = None, known: Known | None = None) -> Identity:
    """The id of a configuration.

    The benchmark is built for it: its fingerprint is part of the id, so that other data under the same name (a changed
    file, another `CLBENCH_DATA`) is another run. Other files that are read count by their SHA-256.

    Args:
        resolved: what is identified. benchmark: an object of the caller's, in place of the registered one.
        known: what identities of the same moment share.

    Raises:
        ClbenchError: a name, a file or weights that are not there.
    """
    known, built = known or Known(), benchmark
    stream = canonical_json([resolved.benchmark, resolved.stream])
    if built is None and stream not in known.benchmarks:
        with pinned():
            built = benchmarks.make(resolved.benchmark, **resolved.stream)
            known.benchmarks[stream] = _told(built)
    what = dict(known.benchmarks[stream] if benchmark is None else _told(benchmark))
    parts, network = entries_of(resolved)
    named = [("strategy", part) for part in parts]
    if network is not None:
        named.append(("model", network))
    if benchmark is None:
        named.append(("benchmark", benchmarks.entry(resolved.benchmark)))
    foreign = {f"{kind} {entry.name}": _origin(entry) for kind, entry in named if not entry.own}
    if benchmark is not None:
        foreign[f"benchmark {resolved.benchmark}"] = {"origin": IN_MEMORY, "sha256": None}
    entries = [entry for _, entry in named]
    method = {"name": resolved.strategy, "version": "+".join(str(part.version) for part in parts)}
    model: dict[str, Any] = {"name": resolved.model.name}
    if network is not None:  # timm's are told by its own version, in the environment
        model["version"] = network.version
    files: Files = {
        address: {"path": path, "sha256": None if address.startswith("stream.") else _digest(path)}
        for address, path in declared(resolved).items()
    }
    if resolved.model.weights is not None:
        start_from = weights.find(resolved.model.weights, whole=resolved.model.name in weights.WHOLE)
        model |= {"weights": start_from.sha256, "substrate": start_from.substrate}
        place = str(start_from.path.absolute())
        files["model.weights"] = {"path": place, "sha256": start_from.sha256}
        resolved = resolved.model_copy(update={"model": resolved.model.model_copy(update={"weights": place})})
    sources = {source for entry in entries for source in _sources(entry)}
    code = code_identity(sources, known.code) | {"parts": foreign}
    id = run_id(resolved.model_dump(mode="json"), what, method, model, code, files)
    return Identity(id, resolved, built, what, method, model, code, files)


def _sources(entry: Entry) -> tuple[Path | str, ...]:
    """Return where a plug-in, or an object that a run was given, is defined: files, or texts of a notebook."""
    if entry.made_of is not None:
        return entry.made_of
    file = Path(entry.source)
    if file.is_file():
        return (file,)
    return () if entry.build is None else (typed_source(entry.build, f"'{entry.name}'"),)


def _origin(entry: Entry) -> dict[str, str | None]:
    """Return the distribution that brings a plug-in, or the name of its file, and what the file holds."""
    file = Path(entry.source)
    if not file.is_file():
        return {
            "origin": entry.origin if entry.made_of is not None else "a notebook or a session",
            "sha256": None,
        }
    return {
        "origin": file.name if entry.origin == entry.source else entry.origin,
        "sha256": file_sha256(file),
    }


BUILDING = code_of(Path(building.__file__))
"""What builds and trains a run, as it is imported with this module, and in processes that are forked from this one."""


def code_identity(sources: Iterable[Path | str] = (), known: Code | None = None) -> dict[str, Any]:
    """Return which code runs: version, a digest of what the run executes, and the commit in a checkout.

    What reads, shows and starts runs is no part of it.

    Args:
        sources: where strategies, benchmark and model are defined: files, which count with all that they import, or
            texts of a notebook.
        known: sources that have been looked at; is added to.
    """
    known, code = {} if known is None else known, BUILDING
    for source in sources:
        if source not in known:
            known[source] = code_of(source)
        code |= known[source]
    return {"version": VERSION, "sources": _digest_of(code), **_commit()}


@functools.lru_cache(maxsize=256)
def _digest_of(code: frozenset[tuple[str, str]]) -> str:
    return sha256(canonical_json(sorted(code)))


@functools.cache
def _commit() -> dict[str, Any]:
    """Return the commit of the checkout, and whether files differ from it; None where nothing tells."""
    told, command = ["# branch.oid (initial)"], ["git", "status", "--porcelain=v2", "--branch"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if CHECKOUT is not None:
            how: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 10, "check": True}
            told = subprocess.run(command, cwd=CHECKOUT, **how).stdout.splitlines()
    commit = told[0].removeprefix("# branch.oid ")
    if commit == "(initial)":
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": any(line[0] != "#" for line in told)}


def _digest(path: str) -> str:
    try:
        return digest(Path(path))
    except OSError as error:
        raise DataError(
            f"{error.filename or path}, which the run reads, cannot be read: {error.strerror}."
        ) from error


def _told(benchmark: Benchmark) -> dict[str, Any]:
    """Return what a record says of a benchmark."""
    told = {"name": benchmark.name, "version": benchmark.version, "fingerprint": benchmark.fingerprint}
    words = _words(benchmark)
    return {**told, "words": words} if words else told


def _words(benchmark: Benchmark) -> str | None:
    """SHA-256 of what a benchmark says in words, beyond its fingerprint: names of classes, and the tokenizer."""
    tokenizer = None if benchmark.tokenizer is None else benchmark.tokenizer.to_json()
    if not benchmark.class_names and tokenizer is None:
        return None
    return sha256(canonical_json([benchmark.class_names, tokenizer]))
