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
DEFAULTS: dict[str, dict[str, Any]] = {"kswin": {"seed": 0}, "page-hinkley": {"mode": "up"}}
"""What differs from River's: KSWIN draws from its window, and a drift is a rise of the errors."""
RECENT = 30
"""Errors that are compared with those before, where a detector flags falls, too, and has no estimate of its own."""


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
        name: which.
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
    chosen = {**DEFAULTS.get(name, {}), **settings}
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
    one of a batch or more, and the errors have risen, `drift` is called once, after the batch was learned. ADWIN and
    KSWIN flag errors that fall, too, as a network that learns makes them; such a flag is no drift, as in River's
    adaptive trees.

    Args:
        detector, settings: as of `detector_of`.
        every: steps between two looks; what a GPU knows is fetched once in so many, and a drift is seen so late.

    Attributes:
        flags, drifts: rows that the detector flagged, from 0, and those of them at which errors had risen.
    """

    parallel = True
    waits = 1

    def __init__(self, detector: DetectorName, settings: Mapping[str, Any] | None, every: int) -> None:
        self.make = detector_of(detector, settings or {})
        self.kind, self.idle = detector, detector == "none"
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
        self.flags: list[int] = []
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
        for row, error in enumerate(wrong, len(self.errors)):
            estimate = getattr(self.detector, "estimation", None)
            self.detector.update(int(error))
            self.errors.append(error)
            if self.detector.drift_detected:
                self.flags.append(row)
                if self._rose(estimate):
                    self.drifts.append(row)
        return len(self.drifts) > before

    def _rose(self, before: float | None) -> bool:
        """Whether errors have become more, by the detector's estimate where it has one; KSWIN has none."""
        if before is not None:
            return bool(self.detector.estimation > before)  # type: ignore[attr-defined]
        if self.kind != "kswin":  # which flag rises only
            return True
        recent, past = self.errors[-RECENT:], self.errors[-100:-RECENT]
        return sum(recent) * len(past) > sum(past) * len(recent)

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
