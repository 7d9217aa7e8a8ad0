"""Every registered strategy passes every check of the contract."""

from __future__ import annotations

from collections.abc import Callable

from clbench.testing import parametrize_with_checks


@parametrize_with_checks()
def test_contract(strategy: str, check: Callable[[str], None]) -> None:
    check(strategy)
