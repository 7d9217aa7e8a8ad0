"""One clock: what runs is counted once, and what is left out is not."""

from __future__ import annotations

import pytest

from clbench.machine import clock
from clbench.machine.clock import Clock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    time = [100.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: time[0])
    return time


def test_what_is_stopped_is_left_out(now: list[float]) -> None:
    found = Clock()
    with found.running("train"):
        now[0] += 1
        with found.stopped():
            now[0] += 10
        now[0] += 2
    now[0] += 100
    assert found.by == {"train": 3.0}


def test_what_runs_inside_is_counted_once(now: list[float]) -> None:
    found = Clock()
    with found.running("full"):
        now[0] += 1
        with found.running("ticks"):
            now[0] += 2
    with found.running("ticks"):
        now[0] += 4
    assert found.by == {"full": 3.0, "ticks": 4.0}
    assert found.seconds == 7.0


def test_an_error_in_a_pause_does_not_start_it_again(now: list[float]) -> None:
    found = Clock()

    def fail() -> None:
        with found.running("train"):
            now[0] += 1
            with found.stopped():
                now[0] += 10
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert found.by == {"train": 1.0}


def test_a_pause_of_what_does_not_run_starts_nothing(now: list[float]) -> None:
    found = Clock()
    with found.stopped():
        now[0] += 1
    now[0] += 1
    assert found.by == {}
