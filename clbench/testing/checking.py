"""The contract as results, and as pytest items."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clbench.errors import ConfigError, choices
from clbench.models import Classifier
from clbench.registry import strategies
from clbench.strategy import Strategy
from clbench.testing.contract import CHECKS
from clbench.testing.subjects import Subject, subject
from clbench.testing.tools import TOLD, NotApplicable, Result, attempt, name_of, one_thread
from clbench.types import Benchmark

if TYPE_CHECKING:
    import pytest


def check_strategy(
    strategy: str | Callable[..., Strategy],
    *,
    expected_failures: Mapping[str, str] | None = None,
    model: Callable[[Benchmark], Classifier] | None = None,
    device: str = "cpu",
    null: Mapping[str, Any] | None = None,
    only: Sequence[str] | None = None,
) -> Iterator[Result]:
    """Put a strategy through the contract, check by check.

    Args:
        strategy: a registered name, a chain `"er+ewc"`, or a factory.
        expected_failures: name of a check → why its rule is not kept; that it passes after all is then a failure, and
            so is a crash.
        model: builds the network to check it on, for strategies that need a special one.
        device: where to check.
        null: parameters with which a factory that is not registered is fine-tuning.
        only: names of the checks to make; all if None.

    Raises:
        RegistryError: an unknown strategy. ConfigError: a check that does not exist.
    """
    expected = dict(expected_failures or {})
    _known_checks([*expected, *(only or ())])
    under_test = subject(strategy, model=model, device=device, null=null)
    return (
        attempt(check, under_test, {**under_test.exempt, **expected}.get(name_of(check)))
        for check in CHECKS
        if only is None or name_of(check) in only
    )


def parametrize_with_checks(
    names: Sequence[str] | None = None, expected_failures: Mapping[str, Mapping[str, str]] | None = None
) -> pytest.MarkDecorator:
    """Return a pytest decorator that makes one item for each strategy and check.

    The test takes `strategy` and `check` and calls `check(strategy)`. What a strategy declares as `exempt` may fail.

    Args:
        names: registered strategies or chains; all that are registered if None.
        expected_failures: strategy → name of a check → why it fails.
    """
    import pytest

    shared = functools.lru_cache(maxsize=1)(subject)  # its checks come one after the other

    expected = expected_failures or {}
    for reasons in expected.values():
        _known_checks(reasons)

    def as_test(check: Callable[[Subject], None]) -> Callable[[str], None]:
        @functools.wraps(check)
        def test(strategy: str) -> None:
            under_test = shared(strategy)
            known = {**under_test.exempt, **expected.get(strategy, {})}.get(name_of(check))
            try:
                with one_thread():
                    check(under_test)
            except NotApplicable as reason:
                pytest.skip(str(reason))
            except TOLD:
                if known:
                    pytest.xfail(known)
                raise
            if known:
                pytest.fail(f"it was expected to fail ({known}) and passes; expect it no longer")

        return test

    items = [
        pytest.param(name, as_test(check), id=f"{name}-{name_of(check)}")
        for name in (strategies.names() if names is None else names)
        for check in CHECKS
    ]
    return pytest.mark.parametrize(("strategy", "check"), items)


def _known_checks(names: Iterable[str]) -> None:
    known = [name_of(check) for check in CHECKS]
    for name in names:
        if name not in known:
            raise ConfigError(f"There is no check '{name}'.{choices(name, known)}")
