"""The contract that every strategy passes, and a tiny benchmark to try things on. Public: plugins use it.

    from clbench.testing import check_strategy
    for result in check_strategy("my-strategy"):
        print(result.check, result.status, result.message)

or, one pytest item for each strategy and check:

    from clbench.testing import parametrize_with_checks

    @parametrize_with_checks(["my-strategy"])
    def test_contract(strategy, check):
        check(strategy)

A check is a function of a `Subject`; the sentence in its docstring is the rule. It raises `Violation` where
the rule is broken and `NotApplicable` where it says nothing about a strategy. What the contract cannot know
is the method itself: a strategy also has a test of its equations.
"""

from __future__ import annotations

from clbench.testing.benchmarks import BENCHMARK_CHECKS, check_benchmark
from clbench.testing.checking import check_strategy, parametrize_with_checks
from clbench.testing.contract import CHECKS
from clbench.testing.rehearsal import GPU_CHECKS, rehearse
from clbench.testing.subjects import Subject, subject
from clbench.testing.tiny import (
    tiny_benchmark,
    tiny_clip,
    tiny_decoder,
    tiny_language,
    tiny_model,
    tiny_run,
    tiny_vit,
)
from clbench.testing.tools import (
    NotApplicable,
    Result,
    Violation,
    difference,
    name_of,
    rule_of,
    stored_examples,
    watch,
)

__all__ = [
    "BENCHMARK_CHECKS",
    "CHECKS",
    "GPU_CHECKS",
    "NotApplicable",
    "Result",
    "Subject",
    "Violation",
    "check_benchmark",
    "check_strategy",
    "difference",
    "name_of",
    "parametrize_with_checks",
    "rehearse",
    "rule_of",
    "stored_examples",
    "subject",
    "tiny_benchmark",
    "tiny_clip",
    "tiny_decoder",
    "tiny_language",
    "tiny_model",
    "tiny_run",
    "tiny_vit",
    "watch",
]
