"""When a run writes its checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable

SAVING = 20.0
"""The least time between two checkpoints, in times of what the last one took, so that saving costs 5 % at most."""


class Saving:
    """Checkpoints on a schedule.

    Args:
        write: writes one; None where none can be.
        seconds: time between two of them; 0 after every step, None for none at all.
    """

    def __init__(self, write: Callable[[], None] | None, seconds: float | None) -> None:
        self._write, self._seconds = write, seconds
        self._at, self._took = time.monotonic(), 0.0

    @property
    def due(self) -> bool:
        """Whether it is time for one between two steps."""
        return self._seconds is not None and self._past >= self._seconds and self.worth

    @property
    def worth(self) -> bool:
        """Whether the last one lies far enough back; always, if one is wanted after every step."""
        return self._write is not None and (not self._seconds or self._past >= SAVING * self._took)

    @property
    def _past(self) -> float:
        return time.monotonic() - self._at

    def __call__(self) -> None:
        """Write one, if any are wanted."""
        if self._write is not None and self._seconds is not None:
            began = time.monotonic()
            self._write()
            self._at = time.monotonic()
            self._took = self._at - began
