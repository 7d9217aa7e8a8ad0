"""How hyper-parameters were chosen: the protocols by name, and whether what a protocol chose is what runs.

    defaults              nothing says how
    fixed                 by hand, or chosen and then changed
    first-k-experiences   by the validation stream of the first k experiences
    validation            by the validation stream of the whole stream
    oracle                by the test stream: what tuning can give at most, shown apart and never ranked

A layer of settings says `selection: NAME`, or with what it was chosen for, as `clbench tune` writes it:
`selection: {protocol: NAME, benchmark: split-digits, strategy: er}`. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator

from clbench.errors import ConfigError, suggest

DEFAULTS, FIXED = "defaults", "fixed"
CHOOSING = ("validation", "oracle")
"""Protocols that choose, beside first-k-experiences."""
_FIRST = re.compile(r"first-([1-9]\d*)-experiences")
_LISTED = ("first-2-experiences", *CHOOSING, FIXED, DEFAULTS)

NOT_CHOSEN = ("seeds", "evaluation", "threads", "memory_budget", "selection")
"""Settings that no protocol chooses; whoever changes one leaves the others as they were chosen."""

Address = tuple[str, ...]

REPLACED: dict[Address, tuple[Address, ...]] = {
    ("optim", "lr"): (("optim", "later_lr"),),
    ("train", "batch_size"): (("train", "later_batch_size"),),
    ("train", "epochs"): (("train", "iterations"), ("train", "later_epochs")),
    ("train", "later_epochs"): (("train", "iterations"),),
    ("train", "iterations"): (("train", "later_iterations"),),
}
"""Settings, and those that count in their place where they are given, in all experiences or in the later ones."""


def experiences_of(name: str) -> int | None:
    """Return the k of first-k-experiences; None for any other name."""
    found = _FIRST.fullmatch(name)
    return int(found[1]) if found else None


def is_protocol(name: Any) -> bool:
    return isinstance(name, str) and (name in _LISTED or experiences_of(name) is not None)


def known(name: str) -> str:
    """Return a protocol's name, as it is.

    Raises:
        ConfigError: there is no such protocol; says the nearest one.
    """
    if not is_protocol(name):
        listed = ", ".join(("first-k-experiences for any k", *_LISTED[1:]))
        raise ConfigError(
            f"There is no protocol '{name}' by which hyper-parameters are chosen.{suggest(str(name), _LISTED)} Known: "
            f"{listed}."
        )
    return name


Selection = Annotated[str, AfterValidator(known)]


class Choice(NamedTuple):
    """A protocol, and the benchmark and the strategy, as they were spelled, that it chose for."""

    protocol: str
    benchmark: str
    strategy: str

    def written(self) -> dict[str, str]:
        """As a file of settings holds it."""
        return self._asdict()


def read(given: Any, benchmark: str, strategy: str) -> Choice:
    """Return what a layer says under `selection`.

    Args:
        benchmark, strategy: what the layer is for, if it names a protocol alone.

    Raises:
        ConfigError: it names a protocol that there is not, or is no such mapping.
    """
    if not isinstance(given, Mapping):
        return Choice(known(given), benchmark, strategy)
    fields = Choice._fields
    if given.keys() != set(fields) or not all(isinstance(value, str) for value in given.values()):
        raise ConfigError(
            f"'selection' takes a protocol's name, or {{{', '.join(f'{key}: NAME' for key in fields)}}}; "
            f"{dict(given)} was given."
        )
    return Choice(known(given["protocol"]), given["benchmark"], given["strategy"])


class Chosen:
    """The protocol that settings were chosen by, and these settings, while layers are laid over each other.

    What a layer sets that names a protocol is chosen by it: a file of `clbench tune`, a suite, a shipped configuration.
    So is what was chosen below it, and stands as it is: the protocol has looked at that, too. What was chosen for
    another benchmark or strategy, a part of the chain or a longer one, was not chosen for this one.

    Args:
        benchmark, strategy: what runs.
    """

    def __init__(self, benchmark: str, strategy: str) -> None:
        self.benchmark, self.strategy = benchmark, strategy
        self.protocol = DEFAULTS
        self._settings: dict[Address, Any] = {}

    def laid(self, settings: Iterable[Address], tree: Mapping[str, Any], strategy: str = "") -> None:
        """Lay a layer over those before.

        Args:
            settings: which it sets. tree: with it. strategy: what it is for, if not for what runs.

        Raises:
            ConfigError: it names a protocol that there is not.
        """
        settings = set(settings)
        if ("selection",) in settings:
            choice = read(tree["selection"], self.benchmark, strategy or self.strategy)
            here = (choice.benchmark, choice.strategy) == (self.benchmark, self.strategy)
            self.protocol = choice.protocol if here or choice.protocol == DEFAULTS else FIXED
            chosen = {at for at in settings if at[0] not in NOT_CHOSEN} | self._settings.keys()
            chosen |= {other for at in chosen for other in REPLACED.get(at, ())}
            self._settings = {at: _at(tree, at) for at in chosen}

    def now(self, tree: Mapping[str, Any]) -> str:
        """Return the protocol of a configuration: that named last, unless a setting that it chose was changed or
        replaced."""
        same = all(_at(tree, at) == value for at, value in self._settings.items())
        return self.protocol if same or self.protocol == DEFAULTS else FIXED


def _at(tree: Any, address: Address) -> Any:
    for key in address:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return list(tree) if isinstance(tree, tuple) else tree


def leaves(tree: Any, above: Address) -> Iterator[Address]:
    """Yield where the settings of a part of a tree stand, which itself stands at `above`."""
    if not isinstance(tree, Mapping):
        yield above
        return
    for key, value in tree.items():
        yield from leaves(value, (*above, key))
