"""What a run is, before it starts: its id, and what the id is made of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clbench.config import RunConfig
from clbench.errors import DataError
from clbench.files import canonical_json, file_sha256, sha256
from clbench.machine.numerics import pinned
from clbench.models import weights
from clbench.registry import Entry, benchmarks, models, strategies
from clbench.registry.reads import digest, watched
from clbench.registry.sources import typed_source
from clbench.results.ledger import IN_MEMORY, code_identity, run_id
from clbench.types import Benchmark

Files = dict[str, dict[str, str | None]]


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
        benchmarks: what each is, by its name and arguments. code: as of `code_identity`, by its files and texts.
    """

    benchmarks: dict[str, dict[str, Any]] = field(default_factory=dict)
    code: dict[tuple[tuple[str, ...], frozenset[str]], dict[str, Any]] = field(default_factory=dict)


@pinned()
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
    sources = {entry.source for entry in entries if Path(entry.source).is_file()}
    typed = {
        typed_source(entry.build, f"'{entry.name}'")
        for entry in entries
        if entry.build is not None and entry.source not in sources
    }
    texts = tuple(sorted(sources)), frozenset(typed)
    if texts not in known.code:
        known.code[texts] = code_identity(*texts)
    code = {**known.code[texts], "parts": foreign}
    id = run_id(resolved.model_dump(mode="json"), what, method, model, code, files)
    return Identity(id, resolved, built, what, method, model, code, files)


def _origin(entry: Entry) -> dict[str, str | None]:
    """Of a plug-in: the distribution that brings it, or the name of its file, and what the file holds."""
    file = Path(entry.source)
    if not file.is_file():
        return {"origin": "a notebook or a session", "sha256": None}
    return {
        "origin": file.name if entry.origin == entry.source else entry.origin,
        "sha256": file_sha256(file),
    }


def entries_of(resolved: RunConfig) -> tuple[list[Entry], Entry | None]:
    """Where a configuration's strategies and its network are registered; None for one of timm's."""
    name = resolved.model.name
    return (
        [strategies.entry(part) for part in resolved.parts()],
        models.entry(name) if name in models.names() else None,
    )


def declared(resolved: RunConfig) -> dict[str, str]:
    """Where the files and folders lie that a run is said to read, by the setting or the plug-in that says so.

    What a benchmark reads (`stream.…`) is told by its fingerprint; a name where nothing lies is a name.
    """
    parts, network = entries_of(resolved)
    given = [("strategy", part, f"params.{part.name}", resolved.params.get(part.name, {})) for part in parts]
    if network is not None:
        given.append(("model", network, "model.params", resolved.model.params))
    if resolved.stream and benchmarks.knows(resolved.benchmark):  # and not an object of the caller's
        given.append(("benchmark", benchmarks.entry(resolved.benchmark), "stream", resolved.stream))
    found: dict[str, str] = {}
    for kind, entry, section, values in given:
        for key, value in entry.named(values).items():
            if kind == "benchmark" or Path(value).exists():
                found[f"{section}.{key}"] = value
        found |= {f"{kind} {entry.name}: {name}": str(path) for name, path in entry.files().items()}
    return found


@contextlib.contextmanager
def reading_what_is_declared(resolved: RunConfig) -> Iterator[None]:
    """Inside, while a run is built, a plug-in may read what it has declared.

    Raises:
        RegistryError: a plug-in has read another file; names it, and how it is declared.
    """
    parts, network = entries_of(resolved)
    foreign = [entry for entry in (*parts, network) if entry is not None and not entry.own]
    if not foreign:
        yield
        return
    covered: list[str | Path] = [*declared(resolved).values()]
    if resolved.model.weights is not None:
        covered.append(weights.find(resolved.model.weights).path)
    with watched() as watch:
        yield
    named = " or ".join(f"'{entry.name}' ({entry.origin})" for entry in foreign)
    watch.refuse(f"{named}, as the run is built,", covered)


def _digest(path: str) -> str:
    try:
        return digest(Path(path))
    except OSError as error:
        raise DataError(
            f"{error.filename or path}, which the run reads, cannot be read: {error.strerror}."
        ) from error


def _told(benchmark: Benchmark) -> dict[str, Any]:
    """What a record says of a benchmark."""
    told = {"name": benchmark.name, "version": benchmark.version, "fingerprint": benchmark.fingerprint}
    words = _words(benchmark)
    return {**told, "words": words} if words else told


def _words(benchmark: Benchmark) -> str | None:
    """SHA-256 of what a benchmark says in words, beyond its fingerprint: names of classes, and the tokenizer."""
    tokenizer = None if benchmark.tokenizer is None else benchmark.tokenizer.to_json()
    if not benchmark.class_names and tokenizer is None:
        return None
    return sha256(canonical_json([benchmark.class_names, tokenizer]))
