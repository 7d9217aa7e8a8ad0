"""Which runs are told together, and what they are called. No torch.

Runs of one stream make a table, runs of one configuration over seeds a row of it. Suites, plots and the leaderboard ask
here, so that none averages or compares what another keeps apart.

Two runs have **one stream** if they name the same benchmark and version, and either their fingerprints are the same or
their arguments are, but for the seed: class orders and permutations, and with them fingerprints, differ by seed. Where
that would put two fingerprints under one seed, the data are not the same, and less joins them (`RELATIONS`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from clbench.config import FULL_ONLY
from clbench.files import canonical_json


@dataclass(frozen=True)
class Run:
    """What decides which runs a run is told with.

    Attributes:
        benchmark: name@version.
        fingerprint: that of its data and stream.
        order: the seed that the stream was drawn with.
        arguments: those of the stream, but for its seed, as JSON.
        row: its configuration, but for its seeds.
    """

    benchmark: str
    fingerprint: str
    order: int
    arguments: str
    row: str

    @staticmethod
    def of(stream: Mapping[str, Any], order: int, benchmark: Mapping[str, Any], row: str) -> Run:
        """Return the run on a stream, given as records hold it; `order` counts where the stream's arguments have no
        seed."""
        arguments = canonical_json({key: value for key, value in known(stream).items() if key != "seed"})
        name = f"{benchmark['name']}@{benchmark['version']}"
        fingerprint = benchmark.get("fingerprint") or arguments
        return Run(name, fingerprint, stream.get("seed", order), arguments, row)


RELATIONS: tuple[Callable[[Run], Iterable[Hashable]], ...] = (
    lambda run: (("data", run.benchmark, run.fingerprint), ("arguments", run.benchmark, run.arguments)),
    lambda run: [(run.benchmark, run.arguments)],
    lambda run: (("data", run.benchmark, run.arguments, run.fingerprint), ("row", run.benchmark, run.row)),
    lambda run: [(run.benchmark, run.arguments, run.fingerprint)],
)
"""What joins runs to one stream, each for the groups in which the one before joins two fingerprints of one seed: data
or arguments; arguments, since an order that was drawn may by chance be the natural one; with the same arguments, data
or a whole configuration, since a path can lead elsewhere for another user; with the same arguments, data."""


def streams(runs: Sequence[Run]) -> list[int]:
    """Return a number for each run, the same for runs of one stream, in the order of their first runs."""
    found = sorted(_split(runs, range(len(runs)), RELATIONS), key=min)
    number = {i: k for k, group in enumerate(found) for i in group}
    return [number[i] for i in range(len(runs))]


def _split(
    runs: Sequence[Run], among: Iterable[int], relations: Sequence[Callable[[Run], Iterable[Hashable]]]
) -> list[list[int]]:
    relation, *finer = relations
    parent: dict[int, int] = {}
    first: dict[Hashable, int] = {}

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i] = parent[parent[i]]
        return i

    for i in among:
        parent[i] = i
        for key in relation(runs[i]):
            parent[root(i)] = root(first.setdefault(key, i))
    groups: dict[int, list[int]] = {}
    for i in parent:
        groups.setdefault(root(i), []).append(i)
    return [
        part
        for members in groups.values()
        for part in ([members] if _consistent(runs, members) or not finer else _split(runs, members, finer))
    ]


def _consistent(runs: Sequence[Run], members: Iterable[int]) -> bool:
    """Whether every order seed has one fingerprint."""
    seen: dict[int, str] = {}
    return all(seen.setdefault(runs[i].order, runs[i].fingerprint) == runs[i].fingerprint for i in members)


def configuration(config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return a configuration but for the run's seed: what the runs of a row share. Seeds that it sets otherwise
    stay."""
    others = {key: value for key, value in config.get("seeds", {}).items() if value != seed}
    stream = {k: v for k, v in known(config.get("stream", {})).items() if k != "seed" or v != seed}
    one = ("threads", 1)  # which older records leave out
    kept = {key: value for key, value in config.items() if key != "seeds" and (key, value) != one}
    return {**kept, "stream": stream, **({"seeds": others} if others else {})}


def known(stream: Mapping[str, Any]) -> dict[str, Any]:
    """Return a benchmark's arguments without those that older records do not have, where they change nothing."""
    return {key: value for key, value in stream.items() if key not in ("size", "recipe") or value is not None}


# --- names ---

LAST = ("selection", "data", "files")
"""Settings that are named only where nothing else tells two entries apart; `files` by their first digits."""
LONGEST = 40
"""Characters of a value in a name."""


class Named(NamedTuple):
    """What is to be named: a label, what it labels (a strategy or benchmark), and its settings."""

    label: str
    kind: str
    settings: Mapping[str, Any]


def of_stream(label: str, benchmark: str, streams: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> Named:
    """Return what the name of a table is made of: a label, the arguments that all its runs have, and its digits."""
    differ = {*differing(streams), "seed"}
    shared = {key: value for key, value in flatten(streams[0]).items() if key not in differ}
    return Named(label, benchmark, {"stream": shared, "data": digits(runs)})


def digits(runs: Sequence[Run]) -> str:
    """Return the first digits of a stream's fingerprint, at the least seed that there is."""
    return min(runs, key=lambda run: run.order).fingerprint[:8]


def names(entries: Sequence[Named]) -> list[str]:
    """Return a name for each entry, no two the same: its label, and what tells it from others of that label.

    That is the strategy or benchmark where these differ, then the settings that do: `er memory=20`, `npz path=a.npz`.
    """
    found = [entry.label for entry in entries]
    for members in _alike(found):
        if len({entries[i].kind for i in members}) > 1:
            for i in members:
                label, kind = entries[i].label, entries[i].kind
                found[i] = kind if kind.startswith(label) else f"{label} ({kind})"
    for last in (False, True):
        for members in _alike(found):
            settings = [
                {k: v for k, v in entries[i].settings.items() if (k in LAST) is last} for i in members
            ]
            for i, pairs in zip(members, _pairs(settings), strict=True):
                found[i] = " ".join([found[i], *pairs])
    taken: dict[str, None] = {}  # in their order
    for name in found:
        number = next(k for k in range(1, len(found) + 1) if _numbered(name, k) not in taken)
        taken[_numbered(name, number)] = None
    return list(taken)


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name} ({number})"


def _alike(found: Sequence[str]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(found):
        groups.setdefault(name, []).append(i)
    return [members for members in groups.values() if len(members) > 1]


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the settings, by dotted key, in which these differ."""
    flat = [flatten(tree) for tree in settings]
    return sorted(
        key for key in set().union(*flat) if len({canonical_json(tree.get(key)) for tree in flat}) > 1
    )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{a: {b: 1}}` as `{a.b: 1}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _pairs(settings: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """For each, `key=value` of the settings in which they differ, as on the command line; none where it lacks one."""
    flat = [flatten(tree) for tree in settings]
    keys = differing(settings)
    short = {key: _short(key) for key in keys}
    often = Counter(short.values())
    texts = {key: _texts([tree[key] for tree in flat if key in tree]) for key in keys}
    return [
        [
            f"{short[key] if often[short[key]] == 1 else key.removeprefix('params.')}={next(texts[key])}"
            for key in keys
            if key in tree
        ]
        for tree in flat
    ]


def _short(key: str) -> str:
    """Return a key as the command line takes it: `params.er.memory` is `memory`."""
    first, _, rest = key.partition(".")
    if key == "model.name":
        return "model"
    if first == "files":
        return rest.removeprefix("params.")
    if first == "seeds" or not rest or key == "stream.seed" or (first, rest) in FULL_ONLY:
        return key
    return rest.removeprefix("params.") if first == "model" else rest.partition(".")[2] or rest


def _texts(values: Sequence[Any]) -> Iterator[str]:
    """Values as the command line takes them; paths without the folders that all share, long ones with both ends."""
    folders = re.finditer("/", values[0]) if all(isinstance(value, str) for value in values) else ()
    inside = [values[0][: slash.end()] for slash in folders]
    shared = next((f for f in reversed(inside) if all(value.startswith(f) for value in values)), "")
    half = LONGEST // 2
    for value in values:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text = text.removeprefix(shared)
        yield text if len(text) <= LONGEST else f"{text[: half - 1]}…{text[-half:]}"
