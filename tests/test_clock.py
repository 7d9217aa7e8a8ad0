"""One clock: what runs is counted once, and what is left out is not."""

from __future__ import annotations

import pytest
import torch

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


class Queue:
    """What a GPU was given to do so far, in seconds; its events are marks in it. The host goes on meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queued = 0.0
        self.asked: list[torch.device] = []
        queue = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self, stream: Queue) -> None:
                self.at = stream.queued

            def synchronize(self) -> None:
                pass

            def elapsed_time(self, end: Event) -> float:
                return 1e3 * (end.at - self.at)

        def current_stream(device: torch.device) -> Queue:
            queue.asked.append(device)
            return queue

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", current_stream)


def test_what_a_gpu_was_given_in_a_pause_is_left_out_whenever_it_is_carried_out(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, gpu = Queue(monkeypatch), torch.device("cuda", 1)
    train, evaluation = Clock(gpu), Clock(gpu)
    with train.running("train"):
        queue.queued += 1
        with train.stopped(), evaluation.running("ticks"):
            queue.queued += 10
        queue.queued += 2
        now[0] += 13  # the host waits for all of it while it trains
    assert (train.seconds, evaluation.seconds) == (3.0, 10.0)
    assert set(queue.asked) == {gpu}


def test_a_cpu_is_timed_by_the_wall_clock(now: list[float]) -> None:
    found = Clock(torch.device("cpu"))
    with found.running("train"):
        now[0] += 1
    assert found.seconds == 1.0
