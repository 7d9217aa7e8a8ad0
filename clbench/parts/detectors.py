"""Drift detectors of River as triggers: they watch whether the network is right about what the stream brings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from clbench.errors import ConfigError, IncompatibleError
from clbench.strategy import Run, State, Strategy
from clbench.types import Batch, Output

DetectorName = Literal[
    "adwin", "page-hinkley", "kswin", "ddm", "eddm", "fhddm", "hddm-a", "hddm-w", "given", "none"
]
"""A detector of River; the rows that are given; or none."""
CLASSES = {
    "adwin": "ADWIN",
    "page-hinkley": "PageHinkley",
    "kswin": "KSWIN",
    "ddm": "binary.DDM",
    "eddm": "binary.EDDM",
    "fhddm": "binary.FHDDM",
    "hddm-a": "binary.HDDMA",
    "hddm-w": "binary.HDDMW",
}
"""In `river.drift`."""


class Detector(Protocol):
    """What River's detectors are."""

    drift_detected: bool

    def update(self, x: Any) -> Any:
        """Take one error more, 0 or 1."""


class Given:
    """Detects a drift with the first row of each concept, as it is told them.

    Args:
        at: rows from 0.
    """

    def __init__(self, at: tuple[int, ...] = ()) -> None:
        self.at, self.row, self.drift_detected = frozenset(at), -1, False

    def update(self, x: Any) -> None:
        """Count one row more."""
        self.row += 1
        self.drift_detected = self.row in self.at


def detector_of(name: DetectorName, settings: Mapping[str, Any]) -> Callable[[], Detector]:
    """Return what makes a fresh detector.

    Args:
        settings: arguments of River's class, such as {delta: 0.01}; {at: […]} for rows that are given.

    Raises:
        ConfigError: River is not installed, or its detector does not take such settings.
    """
    if name in ("given", "none"):
        if set(settings) - ({"at"} if name == "given" else set()):
            raise ConfigError(f"The detector '{name}' takes {'at' if name == 'given' else 'no settings'}.")
        return functools.partial(Given, tuple(settings.get("at", ())))
    try:
        from river import drift
        from river.drift import binary
    except ImportError as error:
        raise ConfigError(
            f"The detector '{name}' is River's ({error}); pip install 'clbench[drift]'."
        ) from error
    within, _, kind = CLASSES[name].rpartition(".")
    # River's KSWIN draws from its window, by chance where it has no seed.
    chosen = {"seed": 0, **settings} if name == "kswin" else dict(settings)
    make = functools.partial(getattr(binary if within else drift, kind), **chosen)
    try:
        make()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The detector {kind} of River does not take {chosen}: {error}.") from error
    detector: Callable[[], Detector] = make
    return detector


class Watch(Strategy):
    """Feeds a detector with the errors that the network makes on the stream's rows before it learns from them.

    An error is 1 where the network's own head, in the forward pass of the step, names another class than the label: no
    further forward pass is made, and replayed rows do not count. The detector gets one row after the other; if it flags
    one of a batch or more, `drift` is called once, after the batch was learned.

    Args:
        detector, settings: as of `detector_of`.
        every: steps between two looks; what a GPU knows is fetched once in so many, and a drift is seen so late.

    Attributes:
        drifts: rows at which a drift was flagged, from 0.
    """

    parallel = True
    waits = 1

    def __init__(self, detector: DetectorName, settings: Mapping[str, Any] | None, every: int) -> None:
        self.make = detector_of(detector, settings or {})
        self.idle = detector == "none"
        self.every = every

    def setup(self, run: Run) -> None:
        if run.benchmark.setting.documents:
            raise IncompatibleError(
                f"{self} watches errors of classification; {run.benchmark.id} is of documents."
            )
        self._begin()

    def _begin(self) -> None:
        self.detector = self.make()
        self.errors: list[bool] = []
        self.waiting: list[Tensor] = []
        self.drifts: list[int] = []

    def after_step(self, batch: Batch, out: Output) -> None:
        if self.idle:
            return
        y = batch.firsts(batch.y)
        self.waiting.append(batch.firsts(out.logits).argmax(1) != y)
        if len(self.waiting) < self.every:
            return
        wrong: list[bool] = torch.cat(self.waiting).tolist()
        self.waiting.clear()
        if self._feed(wrong):
            self.drift()

    def _feed(self, wrong: list[bool]) -> bool:
        """Give the detector some rows more; whether it flags one."""
        before = len(self.drifts)
        for error in wrong:
            self.detector.update(int(error))
            if self.detector.drift_detected:
                self.drifts.append(len(self.errors))
            self.errors.append(error)
        return len(self.drifts) > before

    def drift(self) -> None:
        """Answer a drift."""

    # A detector is no tensor: what it was given is kept, 1 byte for each row, and it is given it again.

    def state_dict(self) -> State:
        told = torch.tensor(self.errors, dtype=torch.bool)
        return {**super().state_dict(), "errors": told, "waiting": list(self.waiting)}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._begin()
        self._feed(state["errors"].tolist())
        self.waiting = list(state["waiting"])
