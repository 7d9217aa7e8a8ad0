"""The errors clbench raises, as a tree.

ClbenchError
├── ConfigError        a name, key, type or value in a configuration (also a ValueError)
├── RegistryError      a strategy, benchmark, model … that is not known, or registered twice (also a LookupError)
├── IncompatibleError  parts that cannot work together: a strategy and a setting, two parts of a chain
├── DataError          a data set that is missing, damaged or not what its checksum says
├── DivergedError      a loss that is not finite
├── EvaluatorError     the process that evaluates beside training has ended
├── LoaderError        a process that gathers batches has ended
└── LedgerError        a run folder, record or curve that is missing, damaged or altered
    └── BusyError      a run folder that another process holds

Every message says who, what was wrong, what is allowed, what was given and, where there is one, the nearest fix.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class ClbenchError(Exception):
    """Anything clbench refuses or fails at on purpose; the command line prints it without a traceback."""


class ConfigError(ClbenchError, ValueError):
    """A configuration that cannot be resolved."""


class RegistryError(ClbenchError, LookupError):
    """A name that is not registered, or is registered twice."""

    def __str__(self) -> str:  # LookupError's subclasses may quote their argument; a message must not be
        return str(self.args[0]) if self.args else ""


class IncompatibleError(ClbenchError):
    """Parts that cannot work together."""


class DataError(ClbenchError):
    """A data set that cannot be used."""


LARGE = 100.0
"""Normalised inputs beyond this many standard deviations are taken for such that were not normalised."""


class DivergedError(ClbenchError):
    """A loss that is not finite.

    `step`, `experience` and `terms` (loss name → value) say where it happened, `largest` how large the training inputs
    are once normalised, if they are no tokens.
    """

    def __init__(
        self, step: int, experience: int, terms: dict[str, float], largest: float | None = None
    ) -> None:
        super().__init__(
            step, experience, terms, largest
        )  # what it is rebuilt from when it crosses processes
        self.step, self.experience, self.terms, self.largest = step, experience, terms, largest

    def __str__(self) -> str:
        listed = ", ".join(f"{name} = {value}" for name, value in self.terms.items())
        where = f"The loss is not finite at step {self.step} in experience {self.experience + 1}: {listed}."
        inputs = "" if self.largest is None else f" Inputs go up to {self.largest:.3g} once normalised."
        if self.largest is not None and self.largest > LARGE:
            inputs += " Few networks learn from so large ones: give a mean and std, or normalise='first'."
        if self.step == 0:
            return f"{where}{inputs} Nothing was learned yet, so see to the data, the network and the losses."
        return f"{where}{inputs} A smaller learning rate or gradient clipping (optim.clip) is the usual cure."


class EvaluatorError(ClbenchError):
    """The process that evaluates beside training cannot go on; the run can be resumed from its last checkpoint."""


class LoaderError(ClbenchError):
    """A process that gathers batches has ended; the run can be resumed from its last checkpoint."""


class LedgerError(ClbenchError):
    """A run folder, record or curve that cannot be used."""


class BusyError(LedgerError):
    """A run folder that another process holds; it can be used when that process has ended."""


class Stopped(SystemExit):
    """What SIGTERM and SIGHUP end a program with, as `KeyboardInterrupt` is what SIGINT does.

    Attributes:
        code: 128 + the signal's number. signal: which one.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


FEW, MANY = 5, 20
"""Of names that are known: so many of the nearest are shown; more than so many are not shown all."""


def suggest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest of the known names, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def choices(name: str, known: Iterable[str], command: str = "") -> str:
    """Return what to write in place of an unknown name: the nearest, and all that are known or, of many, a few.

    Args:
        command: what to ask for the rest.
    """
    names = list(known)
    if len(names) <= MANY:
        return f"{suggest(name, names)} Known: {', '.join(names) or 'none'}."
    meant, near = suggest(name, names), difflib.get_close_matches(name, names, n=FEW, cutoff=0.5)
    others = ", ".join(near[1:] if meant else near)
    rest = f"`{command}` shows all {len(names)}" if command else f"{len(names)} are known"
    return f"{meant} {f'Also near: {others}; {rest}' if others else rest}."
