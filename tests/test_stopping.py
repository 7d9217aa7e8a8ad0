"""A signal asks what runs to end, a second one ends it; handlers are left as they were found."""

# ruff: noqa: PT012 — a signal needs a statement of its own within what raises

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from clbench.errors import Stopped
from clbench.machine import stopping
from clbench.machine.stopping import SIGNALS, ask, ending, stoppable
from clbench.registry.entry import named


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Handlers as Python has them, however the tests were started (nohup ignores SIGHUP)."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    default = {n: signal.default_int_handler if n == signal.SIGINT else signal.SIG_DFL for n in SIGNALS}
    for number, usual in default.items():
        signal.signal(number, usual)
    yield
    after = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == default


class Work:
    """What runs until it is asked to end."""

    def __init__(self) -> None:
        self.asked = 0

    def stop(self) -> None:
        self.asked += 1


def own(number: int, frame: object) -> None:
    own.calls.append(number)  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_and_then_ends_the_program(number: signal.Signals, capsys: Any) -> None:
    work = Work()
    with pytest.raises(Stopped) as end, stoppable(work.stop):
        signal.raise_signal(number)
        assert work.asked == 1
        raise KeyboardInterrupt  # as an engine ends that was asked to
    assert end.value.code == 128 + number
    assert isinstance(end.value, SystemExit)
    said = capsys.readouterr().err
    assert said == f"clbench: ended by {number.name}; the same call goes on from the last checkpoint.\n"


def test_an_interrupt_stays_one() -> None:
    work = Work()
    with pytest.raises(KeyboardInterrupt), stoppable(work.stop):
        signal.raise_signal(signal.SIGINT)
        assert work.asked == 1


def test_what_ends_by_itself_meanwhile_ends_the_program_as_well() -> None:
    """Otherwise a script would begin its next run."""
    reached = False
    with pytest.raises(Stopped), stoppable(Work().stop):
        signal.raise_signal(signal.SIGTERM)
        reached = True
    assert reached


def test_a_mistake_is_not_hidden_by_a_signal() -> None:
    with pytest.raises(ValueError, match="a mistake"), stoppable(Work().stop):
        signal.raise_signal(signal.SIGTERM)
        raise ValueError("a mistake")


def test_a_second_interrupt_is_not_waited_for() -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt), stoppable(Work().stop):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        reached = True
    assert not reached


def test_a_second_request_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "ONE_REQUEST", -1.0)
    reached = False
    with pytest.raises(Stopped) as end, ending(), stoppable(Work().stop):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        reached = True
    assert not reached
    assert end.value.signal == signal.SIGHUP


def test_what_a_shell_repeats_is_one_request() -> None:
    work = Work()
    with pytest.raises(Stopped) as end, stoppable(work.stop):
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        assert work.asked == 1
    assert end.value.signal == signal.SIGHUP


def test_a_handler_of_the_caller_s_stays() -> None:
    own.calls = []  # type: ignore[attr-defined]
    work, before = Work(), signal.signal(signal.SIGTERM, own)
    with stoppable(work.stop):
        signal.raise_signal(signal.SIGTERM)
    assert signal.signal(signal.SIGTERM, before) is own
    assert own.calls == [signal.SIGTERM]  # type: ignore[attr-defined]
    assert not work.asked


def test_what_is_ignored_stays_ignored() -> None:
    """As after nohup."""
    work, before = Work(), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ending(), stoppable(work.stop):
        signal.raise_signal(signal.SIGHUP)
    assert signal.signal(signal.SIGHUP, before) is signal.SIG_IGN
    assert not work.asked


def test_other_threads_take_no_signals() -> None:
    found: list[Any] = []

    def there() -> None:
        with ending(), stoppable(Work().stop):
            found.extend(signal.getsignal(number) for number in SIGNALS)

    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(number) for number in SIGNALS]


def test_the_outer_of_two_takes_the_signal() -> None:
    outer, inner = Work(), Work()
    with pytest.raises(Stopped), stoppable(outer.stop), stoppable(inner.stop):
        signal.raise_signal(signal.SIGTERM)
    assert (outer.asked, inner.asked) == (1, 0)


def test_who_asks_without_a_signal_ends_nothing_else() -> None:
    work = Work()
    assert not ask()
    with stoppable(work.stop):
        assert ask()
    assert work.asked == 1
    assert not ask()


def test_before_anything_runs_a_signal_ends_at_once() -> None:
    with pytest.raises(Stopped) as end, ending():
        signal.raise_signal(signal.SIGHUP)
    assert end.value.code == 129


def test_a_signal_while_a_plugin_is_imported_is_no_mistake_of_it() -> None:
    with pytest.raises(Stopped), ending(), named("The plugin x.py cannot be loaded: ", ""):
        signal.raise_signal(signal.SIGTERM)
