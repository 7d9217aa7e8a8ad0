"""Every registered strategy passes every check of the contract."""

from __future__ import annotations

from collections.abc import Callable

from clbench.testing import parametrize_with_checks

EXPECTED = {
    "zero-shot": {"learns": "it does not learn"},
    "align": {"learns": "100 · cos is too steep for the checks' learning rate"},
    "imbsam": {"takes_effect": "on a domain-incremental stream no class is rare"},
}


@parametrize_with_checks(expected_failures=EXPECTED)
def test_contract(strategy: str, check: Callable[[str], None]) -> None:
    check(strategy)
