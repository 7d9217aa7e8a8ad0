"""Streams from pools: pure, seeded functions.

    streams = class_incremental(train, test, experiences=5, class_order="shuffled", seed=0)
    Benchmark(..., train=streams.train, test=streams.test, valid=streams.valid, ...)

Labels are never renumbered: class c keeps column c of the logits, whatever the order of the classes.

All randomness comes from the raw 64-bit output of PCG64, which NumPy guarantees not to change (NEP 19),
seeded by a hash of the seed and of what it is drawn for: a class order is the same with and without a
validation split. Only blurry streams are drawn as their authors draw them, by torch's generator.

Shapes: P examples of a pool, n of an experience.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clbench.data.rehearsal import Decay, lag_weights, share_out
from clbench.errors import ConfigError, DataError
from clbench.registry.arguments import validated
from clbench.transforms.augment import Permute, Rotate
from clbench.types import HIDDEN, Change, Data, Experience, Pool, Setting, Stream

Ints = npt.NDArray[np.int64]
Ordering = Literal["natural", "shuffled"] | Sequence[int]
"""Which class or domain comes when: ascending, drawn from the seed, or listed."""
Shares = int | Sequence[Sequence[int]]
"""How many experiences share the classes evenly, or the classes of each one."""


class Streams(NamedTuple):
    """Experience i of each stream belongs to experience i of the others."""

    train: Stream
    test: Stream
    valid: Stream | None


# --- streams ---


@validated
def class_incremental(
    train: Pool,
    test: Pool,
    *,
    valid: Pool | None = None,
    experiences: Shares | None = None,
    classes_per_experience: int | None = None,
    first: int | None = None,
    increment: int | None = None,
    class_order: Ordering = "natural",
    valid_fraction: float = 0.0,
    seed: int = 0,
    task_labels: bool = False,
) -> Streams:
    """New classes in every experience.

    Args:
        valid: validation examples of the data's own.
        experiences: their number, of equal size, or a list of each one's classes; or classes_per_experience: their
            size; or first and increment: size of the first one and of all others.
        class_order: the first experience takes the first classes of it; of no use where classes are listed.
        valid_fraction: share of each class's training examples that goes to the validation stream, without `valid`.
        task_labels: whether experience i carries task label i (`task_incremental`).

    Raises:
        ConfigError: the classes cannot be shared out like this; says what is allowed.
        DataError: a class without test examples, or one that is only tested.
    """
    y, y_test = _labels(train, "training"), _labels(test, "test")
    classes, kind = np.unique(y, return_inverse=True)
    _same("class", classes, np.unique(y_test))
    if experiences is not None and not isinstance(experiences, int):
        if class_order != "natural" or (classes_per_experience, first, increment) != (None, None, None):
            raise ConfigError(
                "Experiences that list their classes leave nothing to class_order, classes_per_experience, first and "
                "increment; leave them out."
            )
        sizes = [len(group) for group in experiences]
        if not all(sizes):
            raise ConfigError(
                f"Every experience needs a class; of {experiences}, number {sizes.index(0)} has none."
            )
        listed = list(itertools.chain.from_iterable(experiences))
        order = _ordered("class", classes, listed, seed, "experiences")
    else:
        order = _ordered("class", classes, class_order, seed)
        sizes = _sizes(len(order), experiences, classes_per_experience, first, increment)
    owner = np.empty(len(classes), dtype=np.int64)  # place of a class among the sorted ones → experience
    owner[np.searchsorted(classes, order)] = np.repeat(np.arange(len(sizes)), sizes)
    groups = [tuple(sorted(part.tolist())) for part in np.split(order, np.cumsum(sizes)[:-1])]

    def experience(i: int, pool: Pool, rows: Tensor) -> Experience:
        return Experience(i, groups[i], Data.of(pool, rows), task=i if task_labels else HIDDEN)

    def of(labels: Ints) -> Ints:
        return owner[np.searchsorted(classes, labels)]

    n, held = len(sizes), _held_out(y, valid_fraction, seed)
    own = None
    if valid is not None:
        y_valid = _labels(valid, "validation")
        _within("class", y_valid, classes)
        own = valid, _rows(of(y_valid), n)
    return _streams(
        (train, _rows(owner[kind], n, ~held)),
        (test, _rows(of(y_test), n)),
        _validation(own, (train, _rows(owner[kind], n, held)) if valid_fraction else None),
        experience,
    )


@validated
def few_shot(
    train: Pool,
    test: Pool,
    *,
    valid: Pool | None = None,
    base: int,
    ways: int,
    shots: int,
    sessions: int | None = None,
    class_order: Ordering = "natural",
    rows: Sequence[int] | None = None,
    valid_fraction: float = 0.0,
    seed: int = 0,
) -> Streams:
    """A base session of many classes with all their examples, then sessions of a few classes with a few examples each.

    Every experience is tested on all test examples of its classes.

    Args:
        valid: validation examples of the data's own.
        base: classes of the first experience.
        ways: classes of each later one. shots: training examples of each of these classes.
        sessions: experiences after the first; None takes as many as there are classes for. Classes that are left over
            are in no experience.
        class_order: the base session takes the first classes of it.
        rows: the rows of `train` that the sessions after the first hold, in their order, ways · shots each. Without
            them, the examples of a class are drawn from the seed; those of few shots are then among those of more.
        valid_fraction: share of each class's training examples that goes to the validation stream, shots excepted,
            without `valid`.
        seed: of what is drawn.

    Raises:
        ConfigError: classes or examples that the pool does not have, or rows that are not such a list; says what is
            wrong with them. DataError: a class without test examples.
    """
    y, y_test = _labels(train, "training"), _labels(test, "test")
    classes = np.unique(y)
    _same("class", classes, np.unique(y_test))
    order = _ordered("class", classes, class_order, seed)
    if min(base, ways, shots) < 1 or (sessions is not None and sessions < 0):
        raise ConfigError(
            f"base, ways and shots are 1 or more and sessions 0 or more; {base}, {ways}, {shots} and {sessions} were "
            "given."
        )
    count = (len(order) - base) // ways if sessions is None else sessions
    wanted = base + max(count, 0) * ways
    if count < 0 or wanted > len(order):
        raise ConfigError(
            f"{base} base classes and {max(count, 0)} sessions of {ways} take {wanted} classes; the data have "
            f"{len(order)}."
        )
    groups = [order[:base], *(order[base + i * ways : base + (i + 1) * ways] for i in range(count))]
    if rows is None:
        few = [_draw_shots(y, group, shots, seed) for group in groups[1:]]
    else:
        few = _listed_shots(y, groups[1:], shots, rows)
    held = _held_out(y, valid_fraction, seed)
    shot = np.zeros(len(y), dtype=bool)
    shot[np.concatenate([np.empty(0, dtype=np.int64), *few])] = True

    def having(labels: Ints, group: Ints, keep: npt.NDArray[np.bool_] | None = None) -> Tensor:
        found = np.isin(labels, group)
        return torch.from_numpy(np.flatnonzero(found if keep is None else found & keep))

    def experience(i: int, pool: Pool, chosen: Tensor) -> Experience:
        return Experience(i, tuple(sorted(groups[i].tolist())), Data.of(pool, chosen))

    drawn = (train, [having(y, group, held & ~shot) for group in groups]) if valid_fraction else None
    own = None
    if valid is not None:
        y_valid = _labels(valid, "validation")
        _within("class", y_valid, classes)
        own = valid, [having(y_valid, group) for group in groups]
    return _streams(
        (train, [having(y, groups[0], ~held), *(torch.from_numpy(found) for found in few)]),
        (test, [having(y_test, group) for group in groups]),
        _validation(own, drawn),
        experience,
    )


def _draw_shots(y: Ints, group: Ints, shots: int, seed: int) -> Ints:
    """Rows of so many examples of each class of a group, by seed and class alone."""
    found = []
    for c in group.tolist():
        there = np.flatnonzero(y == c)
        if len(there) < shots:
            raise ConfigError(f"Class {c} has {len(there)} training examples; {shots} shots were asked for.")
        found.append(there[permutation(len(there), seed, f"shots of class {c}")[:shots]])
    return np.sort(np.concatenate(found))


def _listed_shots(y: Ints, groups: Sequence[Ints], shots: int, rows: Sequence[int]) -> list[Ints]:
    """The listed rows of each group, checked."""
    listed = _numbers("The list of shots", rows, len(rows))
    wanted = shots * sum(map(len, groups))
    if len(listed) != wanted:
        raise ConfigError(
            f"The list of shots needs {wanted} rows, {shots} of each class of {len(groups)} sessions; it has "
            f"{len(listed)}."
        )
    if not wanted:
        return []
    if listed.max() >= len(y):
        raise ConfigError(
            f"The list of shots names row {listed.max()}; the training examples have rows 0 … {len(y) - 1}."
        )
    row, times = np.unique(listed, return_counts=True)
    if (times > 1).any():
        raise ConfigError(f"The list of shots names row {row[times > 1][0]} twice.")
    found = []
    ends = np.cumsum([shots * len(group) for group in groups])
    for i, (group, part) in enumerate(zip(groups, np.split(listed, ends[:-1]), strict=True), 1):
        strange = part[~np.isin(y[part], group)]
        if len(strange):
            raise ConfigError(
                f"The list of shots gives session {i} row {strange[0]}, which is of class {y[strange[0]]}; its classes "
                f"are {', '.join(map(str, sorted(group.tolist())))}. Are the training examples in the order that the "
                "list is made for?"
            )
        for c in group.tolist():
            if (held := int((y[part] == c).sum())) != shots:
                raise ConfigError(
                    f"The list of shots gives session {i} {held} rows of class {c}, not {shots}."
                )
        found.append(np.sort(part))
    return found


@validated
def task_incremental(
    train: Pool,
    test: Pool,
    *,
    experiences: Shares | None = None,
    classes_per_experience: int | None = None,
    first: int | None = None,
    increment: int | None = None,
    class_order: Ordering = "natural",
    valid_fraction: float = 0.0,
    seed: int = 0,
) -> Streams:
    """`class_incremental` with a task label on every experience; the setting says who is told."""
    return class_incremental(
        train,
        test,
        experiences=experiences,
        classes_per_experience=classes_per_experience,
        first=first,
        increment=increment,
        class_order=class_order,
        valid_fraction=valid_fraction,
        seed=seed,
        task_labels=True,
    )


@validated
def domain_incremental(
    train: Pool,
    test: Pool,
    *,
    domain_train: npt.ArrayLike,
    domain_test: npt.ArrayLike,
    valid: Pool | None = None,
    domain_valid: npt.ArrayLike | None = None,
    names: Sequence[str] = (),
    domain_order: Ordering = "natural",
    valid_fraction: float = 0.0,
    seed: int = 0,
) -> Streams:
    """One experience per domain, from the domain of every example.

    Args:
        domain_train, domain_test: (P,) domain numbers from 0, one per example.
        valid, domain_valid: validation examples of the data's own, and their domains.
        names: of domains 0, 1, …; "domain 0" … if there are none.
        valid_fraction: share of each class's training examples in each domain, without `valid`.

    Raises:
        ConfigError: domain numbers that do not fit the pools, or an order that does not fit the domains.
        DataError: a domain without test examples.
    """
    y = _labels(train, "training")
    d = _numbers("domain_train", domain_train, len(y))
    d_test = _numbers("domain_test", domain_test, len(test.y))
    domains, kind = np.unique(d, return_inverse=True)
    _same("domain", domains, np.unique(d_test))
    if names and len(names) <= domains[-1]:
        raise ConfigError(
            f"Domain {domains[-1]} has no name; {len(names)} names were given, for 0 … {len(names) - 1}."
        )
    order = _ordered("domain", domains, domain_order, seed)
    owner = np.empty(len(domains), dtype=np.int64)  # place of a domain among the sorted ones → experience
    owner[np.searchsorted(domains, order)] = np.arange(len(order))

    def experience(i: int, pool: Pool, rows: Tensor) -> Experience:
        name = names[order[i]] if names else f"domain {order[i]}"
        return Experience(i, _classes(pool, rows), Data.of(pool, rows), domain=name)

    def of(numbers: Ints) -> Ints:
        return owner[np.searchsorted(domains, numbers)]

    own = None
    if valid is not None:
        d_valid = _numbers("domain_valid", [] if domain_valid is None else domain_valid, len(valid.y))
        _within("domain", d_valid, domains)
        own = valid, _rows(of(d_valid), len(order))
    n, held = len(order), _held_out(kind * (int(y.max()) + 1) + y, valid_fraction, seed)
    return _streams(
        (train, _rows(owner[kind], n, ~held)),
        (test, _rows(of(d_test), n)),
        _validation(own, (train, _rows(owner[kind], n, held)) if valid_fraction else None),
        experience,
    )


@validated
def changed_domains(
    train: Pool,
    test: Pool,
    changes: Sequence[tuple[str, Change | None]],
    *,
    valid: Pool | None = None,
    valid_fraction: float = 0.0,
    seed: int = 0,
) -> Streams:
    """One experience per change, each of all examples: permuted pixels, rotations.

    Args:
        changes: name of the domain and what it does to the inputs, None for nothing.
        valid: validation examples of the data's own.
        valid_fraction: share of each class's training examples, without `valid`; the same examples in every domain.

    Raises:
        ConfigError: no changes, or two domains of one name. DataError: a class without test examples.
    """
    names = [name for name, _ in changes]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"Domains need different names; given: {', '.join(names) or 'none'}.")
    y = _labels(train, "training")
    _same("class", np.unique(y), np.unique(_labels(test, "test")))
    n, held = len(changes), _held_out(y, valid_fraction, seed)
    kept, drawn = torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))
    own = None if valid is None else (valid, [torch.arange(len(valid.y))] * n)

    def experience(i: int, pool: Pool, rows: Tensor) -> Experience:
        return Experience(i, _classes(pool, rows), Data.of(pool, rows, changes[i][1]), domain=names[i])

    return _streams(
        (train, [kept] * n),
        (test, [torch.arange(len(test.y))] * n),
        _validation(own, (train, [drawn] * n) if valid_fraction else None),
        experience,
    )


@validated
def permutations(count: int, places: int, seed: int) -> list[tuple[str, Change | None]]:
    """Domains of permuted places (pixels or features) for `changed_domains`.

    The first leaves the inputs as they are, so that it is the data set itself. The k-th permutation
    depends on the seed and k alone, so that more domains continue a shorter stream.

    Raises:
        ConfigError: fewer than one domain.
    """
    if count < 1:
        raise ConfigError(f"A permuted stream needs at least one domain; {count} were asked for.")
    return [("identity", None)] + [
        (f"permutation {k}", Permute(torch.from_numpy(permutation(places, seed, f"permutation {k}"))))
        for k in range(1, count)
    ]


@validated
def rotations(degrees: Sequence[float]) -> list[tuple[str, Change | None]]:
    """Domains of rotated images for `changed_domains`, counter-clockwise."""
    return [(f"{angle:g}°", Rotate(angle) if angle % 360 else None) for angle in degrees]


Schedule = Decay | Literal["blocked"]
Reading = Literal["block", "probabilistic", "renewal"]


@validated
def rehearse(
    train: Stream,
    *,
    schedule: Schedule = "power",
    rate: float = 1.0,
    old: int = 200,
    reading: Reading = "block",
    chance: float = 0.5,
    size: int | None = None,
    seed: int = 0,
) -> Stream:
    """An environment in which the past recurs: examples of earlier experiences are mixed into each one.

    They are drawn without replacement, anew for each experience, from all of the earlier one's examples. The
    weight of an experience falls with its lag ℓ, how many experiences ago it was: w = ℓ^−rate for "power",
    e^−rate·(ℓ−1) for "exponential", 1 for "uniform", 0 from ℓ = 2 on for "recency", 0 for "none". "blocked"
    brings all old examples with the last experience, equally many of each, and as many as the others in all.

    Args:
        schedule, rate: how the weight falls.
        old: old examples of each experience but the first, in all; but in the last two readings of every
            experience that recurs.
        reading: "block": `old` examples are shared out in proportion to the weights by largest remainders, so
            that all schedules bring equally many. "probabilistic": an experience recurs with probability
            min(1, chance · w). "renewal": the same, but ℓ counts from when it last recurred.
        chance: probability of an experience of lag 1.
        size: new examples of each experience; all if None.

    Raises:
        ConfigError: more old examples than an experience has, or parameters that do not go together.
    """
    _check_rehearsal(train, schedule, old, reading, chance, size)
    recurs = _recurring(len(train), schedule, rate, old, reading, chance, seed)
    experiences = []
    for k, exp in enumerate(train):
        parts = [exp.data if size is None else _some(exp, size, seed, f"new of {k}")]
        for i in np.flatnonzero(recurs[k]).tolist():
            parts.append(_some(train[i], int(recurs[k, i]), seed, f"old {i} in {k}"))
        past = np.flatnonzero(recurs[k]).tolist()
        classes = sorted({*exp.classes, *(c for i in past for c in train[i].classes)})
        experiences.append(replace(exp, classes=tuple(classes), data=Data.union(parts)))
    return Stream(train.name, tuple(experiences))


def _check_rehearsal(
    train: Stream, schedule: Schedule, old: int, reading: Reading, chance: float, size: int | None
) -> None:
    if old < 0 or (size is not None and size < 1):
        raise ConfigError(f"old is 0 or more and size 1 or more; {old} and {size} were given.")
    if any(exp.task != HIDDEN for exp in train):
        raise ConfigError("Experiences with task labels hold one task each; old examples cannot be mixed in.")
    if reading != "block" and schedule == "blocked":
        raise ConfigError(f"The schedule 'blocked' has no {reading} reading; the reading may be block.")
    if not 0 <= chance <= 1 or (reading == "renewal" and chance == 1):
        raise ConfigError(
            f"chance lies in [0, 1], below 1 in the renewal reading, where everything would recur for ever; "
            f"{chance} was given."
        )


def _recurring(
    n: int, schedule: Schedule, rate: float, old: int, reading: Reading, chance: float, seed: int
) -> Ints:
    """(n, n) how many examples of experience i recur in experience k."""
    counts = np.zeros((n, n), dtype=np.int64)
    if schedule == "blocked":
        if n > 1:
            counts[-1, :-1] = old
        return counts
    weights = lag_weights(schedule, n, rate)
    if reading == "block":
        for k in range(1, n):
            counts[k, :k] = share_out(old, weights[:k])[::-1]
        return counts
    last = np.arange(n)  # when each experience was last present
    for k in range(1, n):
        lag = k - last[:k]
        likely = np.minimum(1, chance * weights[lag - 1])
        present = (bits(k, seed, f"recurs in {k}") >> np.uint64(11)) < likely * 2.0**53
        counts[k, :k] = old * present
        if reading == "renewal":
            last[:k][present] = k
    return counts


def _some(exp: Experience, n: int, seed: int, purpose: str) -> Data:
    """n examples of an experience, drawn without replacement."""
    if n > len(exp):
        raise ConfigError(
            f"{n} examples of experience {exp.index} were asked for, which has {len(exp)}; lower old or size."
        )
    return exp.data.subset(torch.from_numpy(np.sort(permutation(len(exp), seed, purpose)[:n])))


class Blurred(NamedTuple):
    """Which class and which example belongs to which of T tasks.

    Attributes:
        disjoint: classes that come in this task alone.
        blurry: classes whose home this task is; some of their examples come in others.
        rows: (n,) of each task, in the order of the stream.
    """

    disjoint: tuple[tuple[int, ...], ...]
    blurry: tuple[tuple[int, ...], ...]
    rows: tuple[Tensor, ...]


@validated
def blurred(
    y: npt.ArrayLike,
    *,
    tasks: int = 5,
    disjoint: int = 50,
    blurry: int = 10,
    varying: bool = True,
    seed: int = 0,
) -> Blurred:
    """Tasks with unclear boundaries: some classes belong to one task, examples of the others stray.

    1. Of C classes, n_dis = ⌊⌊C·N/100⌋ / T⌋ · T are disjoint and ⌊(C − n_dis) / T⌋ · T blurry, in the order of a random
       permutation; the rest is left out.
    2. Each of the two lists is cut at T − 1 random places, which may repeat, so that a task may get none of it; or,
       not varying, into equal parts.
    3. M % of the blurry examples are exchanged: the first k_j of task j, in the order of the data, are pooled, shuffled
       and handed back in portions of k_1 … k_T. These are the distances of T − 1 random places; or, not varying, M %
       of each task's go and all get as many back.
    4. Each task's examples are shuffled.

    Drawn by torch's generator in the order of the authors' sampler, so that a seed has the stream that it has there.

    Args:
        y: (P,) labels. tasks: T. disjoint: N, percent of the classes. blurry: M, percent of the examples of the others.
        varying: sizes that are drawn (Si-Blurry), or equal ones (i-Blurry).

    Raises:
        ConfigError: numbers that leave no class.

    Reference: Moon et al., "Online Class Incremental Learning on Stochastic Blurry Task Boundary via Mask and Visual
    Prompt Tuning", ICCV 2023, arXiv:2308.09303; of i-Blurry: Koh et al., ICLR 2022, arXiv:2110.10031.

    Differences from the authors' sampler:
        1. Not varying, what an equal share leaves over goes to the first tasks, one each; there it is lost.
    """
    labels = np.asarray(y)
    classes, kind = np.unique(
        labels, return_inverse=True
    )  # kind (P,): the class's place among the sorted ones
    T, C = tasks, len(classes)
    if T < 1 or not 0 <= disjoint <= 100 or not 0 <= blurry <= 100:
        raise ConfigError(
            f"tasks is 1 or more, disjoint and blurry are percentages; {tasks}, {disjoint} and {blurry} were given."
        )
    n_dis = C * disjoint // 100 // T * T
    n_blur = (C - n_dis) // T * T
    if n_dis + n_blur == 0:
        raise ConfigError(f"{C} classes cannot be dealt out to {T} tasks; tasks may be 1 … {C}.")
    generator = torch.Generator().manual_seed(seed)

    def cut(n: int) -> list[int]:
        """(T,) sizes of the parts of n things."""
        if not varying or n == 0:
            return [n // T + (j < n % T) for j in range(T)]
        places = torch.randint(0, n, (T - 1,), generator=generator).sort().values.tolist()
        return [after - before for before, after in itertools.pairwise([0, *places, n])]

    def shuffled(x: Ints) -> Ints:
        order: Ints = torch.randperm(len(x), generator=generator).numpy()
        return x[order]

    order = shuffled(np.arange(C))
    homes = np.split(order[:n_dis], np.cumsum(cut(n_dis))[:-1])
    strays = np.split(order[n_dis : n_dis + n_blur], np.cumsum(cut(n_blur))[:-1])
    kept = [np.flatnonzero(np.isin(kind, part)) for part in homes]  # rows of each task, as in the data
    exchanged = [np.flatnonzero(np.isin(kind, part)) for part in strays]
    if varying:
        gives = takes = cut(sum(map(len, exchanged)) * blurry // 100)
    else:
        gives = [len(rows) * blurry // 100 for rows in exchanged]
        takes = cut(sum(gives))
    pool = shuffled(np.concatenate([rows[:n] for rows, n in zip(exchanged, gives, strict=True)]))
    portions = np.split(pool, np.cumsum(takes)[:-1])
    return Blurred(
        tuple(tuple(classes[part].tolist()) for part in homes),
        tuple(tuple(classes[part].tolist()) for part in strays),
        tuple(
            torch.from_numpy(shuffled(np.concatenate([kept[j], exchanged[j][gives[j] :], portions[j]])))
            for j in range(T)
        ),
    )


@validated
def blurry_stream(
    train: Pool,
    test: Pool,
    *,
    valid: Pool | None = None,
    tasks: int = 5,
    disjoint: int = 50,
    blurry: int = 10,
    varying: bool = True,
    seed: int = 0,
) -> Streams:
    """The tasks of `blurred` as ordered experiences, and a test stream with an experience for each class.

    A task without examples is left out. Whoever is told no boundaries gets one long sequence of batches (`seamless`).

    Data that lie sorted by class are taken in turns, one example of each class after the other, as if they were mixed:
    the first M % would otherwise be whole classes.

    Args:
        valid: validation examples of the data's own, for a stream like the test stream.
        tasks, disjoint, blurry, varying, seed: as of `blurred`.

    Raises:
        ConfigError: numbers that leave no class. DataError: a class without test examples.
    """
    y, y_test = _labels(train, "training"), _labels(test, "test")
    _same("class", np.unique(y), np.unique(y_test))
    order = torch.from_numpy(_in_turns(y))
    parts = blurred(y[order], tasks=tasks, disjoint=disjoint, blurry=blurry, varying=varying, seed=seed)
    there = np.unique(y[order[torch.cat(parts.rows)]])
    place = {int(c): i for i, c in enumerate(there)}
    trained: list[Experience] = []
    for mixed in parts.rows:
        if len(mixed):
            rows = order[mixed]
            held = _classes(train, rows)
            tests = tuple(place[c] for c in held)
            trained.append(Experience(len(trained), held, Data.of(train, rows), tests=tests, ordered=True))

    def by_class(name: str, pool: Pool, labels: Ints) -> Stream:
        having = ((i, c, torch.from_numpy(np.flatnonzero(labels == c))) for c, i in place.items())
        return Stream(name, tuple(Experience(i, (c,), Data.of(pool, rows)) for i, c, rows in having))

    own = None
    if valid is not None:
        y_valid = _labels(valid, "validation")
        _within("class", y_valid, np.unique(y))
        if lacking := sorted(place.keys() - set(y_valid.tolist())):
            raise DataError(
                f"Class {lacking[0]} has no validation examples; every class needs some, or none has."
            )
        own = by_class("valid", valid, y_valid)
    return Streams(Stream("train", tuple(trained)), by_class("test", test, y_test), own)


def _in_turns(y: Ints) -> Ints:
    """(P,) the rows in order; where labels (P,) are sorted, the first of each class, the second of each, and so on."""
    rows = np.arange(len(y))
    if (np.diff(y) < 0).any():
        return rows
    starts = np.searchsorted(y, y)
    return np.lexsort((y, rows - starts))


def seamless(train: Stream) -> tuple[Stream, tuple[int, ...]]:
    """Ordered experiences as a single one, and how many examples have come when each of them ends."""
    classes = tuple(sorted({c for exp in train for c in exp.classes}))
    tests = tuple(dict.fromkeys(i for exp in train for i in exp.tests))
    whole = Experience(0, classes, Data.union([exp.data for exp in train]), tests=tests, ordered=True)
    return Stream(train.name, (whole,)), tuple(np.cumsum([len(exp) for exp in train]).tolist())


def online(setting: Setting) -> Setting:
    """The same stream seen once: one pass over every experience."""
    return replace(setting, passes=1)


# --- randomness ---


def bits(n: int, seed: int, purpose: str) -> npt.NDArray[np.uint64]:
    """(n,) uniform uint64, equal on every machine and for every NumPy version."""
    digest = hashlib.sha256(f"clbench {seed} {purpose}".encode()).digest()
    drawn: npt.NDArray[np.uint64] = np.random.PCG64(int.from_bytes(digest[:16], "little")).random_raw(n)
    return drawn


def permutation(n: int, seed: int, purpose: str) -> Ints:
    """(n,) int64, a uniform permutation of 0 … n−1: what sorts n draws."""
    return np.argsort(bits(n, seed, purpose), kind="stable").astype(np.int64)


# --- shares ---


def _sizes(
    classes: int,
    experiences: int | None,
    per_experience: int | None,
    first: int | None,
    increment: int | None,
) -> list[int]:
    """How many classes each experience takes."""
    given = [experiences is not None, per_experience is not None, first is not None or increment is not None]
    if sum(given) != 1:
        raise ConfigError(
            "Say how to share out the classes in one way: experiences, classes_per_experience, or first and "
            f"increment; {sum(given)} of these were given."
        )
    if experiences is not None:
        if experiences < 1 or classes % experiences:
            divisors = ", ".join(str(n) for n in range(1, classes + 1) if classes % n == 0)
            raise ConfigError(
                f"{classes} classes cannot be shared out evenly over {experiences} experiences; experiences "
                f"may be {divisors}. First and increment allow a first experience of another size."
            )
        return [classes // experiences] * experiences
    if per_experience is not None:
        if per_experience < 1 or classes % per_experience:
            divisors = ", ".join(str(n) for n in range(1, classes + 1) if classes % n == 0)
            raise ConfigError(
                f"{classes} classes cannot be shared out {per_experience} at a time; classes_per_experience "
                f"may be {divisors}. First and increment allow a first experience of another size."
            )
        return [per_experience] * (classes // per_experience)
    if first is None or increment is None:
        raise ConfigError("First and increment go together; only one of them was given.")
    if not 1 <= first <= classes or increment < 1 or (classes - first) % increment:
        raise ConfigError(
            f"{classes} classes cannot be shared out as a first experience of {first} and then {increment} "
            f"each; first must lie in 1 … {classes} and increment must divide the {classes - first} classes "
            "that remain."
        )
    return [first] + [increment] * ((classes - first) // increment)


def _ordered(what: str, known: Ints, order: Ordering, seed: int, name: str = "") -> Ints:
    """The classes or domains in the order asked for, by the parameter of that name."""
    name = name or f"{what}_order"
    if isinstance(order, str):
        return known if order == "natural" else known[permutation(len(known), seed, f"{what} order")]
    listed, there = Counter(order), set(known.tolist())
    wrong = (
        [f"{k} twice" for k, times in listed.items() if times > 1]
        + [f"{k}, which the data lack" for k in listed if k not in there]
        + [f"no {k}" for k in sorted(there - set(listed))]
    )
    if wrong:
        more = f" and {len(wrong) - 3} more faults" if len(wrong) > 3 else ""
        raise ConfigError(
            f"{name} must list every {what} of the data once; it has {', '.join(wrong[:3])}{more}."
        )
    return np.array(order, dtype=np.int64)


def _rows(owner: Ints, n: int, keep: npt.NDArray[np.bool_] | None = None) -> list[Tensor]:
    """Rows of each of n experiences, in the order of the pool, by one stable sort.

    Args:
        owner: (P,) the experience of every row. keep: (P,) which rows count.
    """
    kept = np.arange(len(owner)) if keep is None else np.flatnonzero(keep)
    of = owner[kept]
    rows = kept[np.argsort(of, kind="stable")]
    ends = np.cumsum(np.bincount(of, minlength=n))
    return [torch.from_numpy(part) for part in np.split(rows, ends[:-1])]


def _held_out(stratum: Ints, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """(P,) the rows of the validation split: of each stratum's n rows, fraction · n, rounded to the nearest.

    At least one row of each stratum stays in training.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"The validation fraction lies in [0, 1); {fraction} was given.")
    held = np.zeros(len(stratum), dtype=bool)
    if fraction:
        _, group, sizes = np.unique(stratum, return_inverse=True, return_counts=True)
        rows = np.lexsort((bits(len(stratum), seed, "validation split"), group))  # by stratum, random inside
        rank = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        quota = np.minimum(np.floor(sizes * fraction + 0.5), sizes - 1)
        held[rows[rank < np.repeat(quota, sizes)]] = True
    return held


Share = tuple[Pool, list[Tensor]]
"""A pool and the rows of it that each experience has."""


def _validation(own: Share | None, drawn: Share | None) -> Share | None:
    """The validation examples that the data have, or those drawn from the training examples."""
    if own is not None and drawn is not None:
        raise ConfigError(
            "The data have validation examples of their own; leave the validation fraction at 0 to use them."
        )
    return own or drawn


def _streams(
    train: Share,
    test: Share,
    valid: Share | None,
    experience: Callable[[int, Pool, Tensor], Experience],
) -> Streams:
    """The streams from each one's pool and the rows of its experiences."""

    def stream(name: str, pool: Pool, rows: list[Tensor]) -> Stream:
        return Stream(name, tuple(experience(i, pool, r) for i, r in enumerate(rows)))

    if valid is not None:
        empty = [i for i, rows in enumerate(valid[1]) if not len(rows)]
        if empty:
            drawn = valid[0] is train[0]
            who = "The validation fraction" if drawn else "The data's own validation set"
            way = "raise it, or set it to 0 for no validation stream" if drawn else "add some of its classes"
            raise ConfigError(f"{who} leaves experience {empty[0]} no validation example; {way}.")
    return Streams(
        stream("train", *train), stream("test", *test), stream("valid", *valid) if valid is not None else None
    )


def _classes(pool: Pool, rows: Tensor) -> tuple[int, ...]:
    return tuple(torch.bincount(pool.y[rows]).nonzero().squeeze(1).tolist())


# --- checks ---


def _labels(pool: Pool, split: str) -> Ints:
    y: Ints = pool.y.numpy()
    if not len(y):
        raise DataError(f"The {split} pool is empty.")
    if y.min() < 0:
        raise DataError(f"Labels are numbers from 0; the {split} pool holds {y.min()}.")
    return y


def _numbers(name: str, given: npt.ArrayLike, n: int) -> Ints:
    numbers = np.asarray(given)
    if numbers.shape != (n,) or numbers.dtype.kind not in "iu" or (n and numbers.min() < 0):
        raise ConfigError(
            f"{name} needs a number from 0 for each of the {n} examples; it is {numbers.dtype} of shape "
            f"{numbers.shape}"
            + (f" and holds {numbers.min()}." if numbers.size and numbers.dtype.kind == "i" else ".")
        )
    return numbers.astype(np.int64)


def _within(what: str, given: Ints, known: Ints) -> None:
    strange = np.setdiff1d(given, known)
    if len(strange):
        raise DataError(
            f"{what.capitalize()} {strange[0]} has validation examples, but no training examples."
        )


def _same(what: str, trained: Ints, tested: Ints) -> None:
    for there, absent, has in ((trained, tested, "test"), (tested, trained, "training")):
        lacking = np.setdiff1d(there, absent)
        if len(lacking):
            raise DataError(
                f"{what.capitalize()} {lacking[0]} has no {has} examples"
                + (f", nor have {len(lacking) - 1} others" if len(lacking) > 1 else "")
                + f"; every {what} needs training and test examples."
            )
