"""Chains of variables: every answer follows from its block, and what is asked lies as deep as its experience says."""

from __future__ import annotations

import pytest
from clbench.benchmarks.skills import TOKENS

from clbench import make_benchmark, make_strategy
from clbench.errors import ConfigError
from clbench.testing import check_benchmark, difference, tiny_run
from clbench.types import IGNORED

FINGERPRINT = "32a5f8137de51939c506bb87179386e69a5f8258ea689d90ba34e7a43a955737"


def solved(tokens: list[str]) -> tuple[dict[str, int], dict[str, int]]:
    """The value of every variable of a block, and how deep it lies in the chain."""
    clauses = {tokens[i]: (tokens[i + 2], tokens[i + 3]) for i in range(0, len(tokens) - 3, 5)}
    values: dict[str, int] = {}
    depths: dict[str, int] = {}
    while len(values) < len(clauses):
        for name, (word, of) in clauses.items():
            if of in "01":
                values[name], depths[name] = int(of), 0
            elif of in values:
                values[name], depths[name] = values[of] ^ (word == "not"), depths[of] + 1
    return values, depths


def test_answers_follow_from_their_blocks() -> None:
    benchmark = make_benchmark("lego", skills=4, train_blocks=40, test_blocks=10)
    assert (
        benchmark.fingerprint == make_benchmark("lego", skills=4, train_blocks=40, test_blocks=10).fingerprint
    )
    asked: list[str] = []
    for stream in (benchmark.train, benchmark.test):
        for i, exp in enumerate(stream):
            for x, y in zip(exp.data.x().tolist(), exp.data.y().tolist(), strict=True):
                said = [TOKENS[token] for token in x]
                values, depths = solved(said)
                assert sorted(depths.values()) == [0, 1, 2, 3]
                assert said[-3::2] == [":", "="]
                assert depths[said[-2]] == i
                assert y == [IGNORED] * (len(y) - 1) + [TOKENS.index(str(values[said[-2]]))]
                asked.append(TOKENS[y[-1]])
    assert 70 < asked.count("1") < 130  # of 200
    every = make_benchmark("lego", skills=4, train_blocks=5, test_blocks=5, labels="all").train[0].data
    assert every.y()[:, :-1].equal(every.x()[:, 1:])


def test_it_keeps_what_every_benchmark_must() -> None:
    found = check_benchmark("lego", skills=2, train_blocks=30, test_blocks=20)
    assert {result.status for result in found} == {"passed"}
    with pytest.raises(ConfigError, match="26 letters; skills=27 was given"):
        make_benchmark("lego", skills=27)


def test_rows_that_only_answer_are_replayed_and_mixed() -> None:
    benchmark = make_benchmark("lego", skills=2, train_blocks=16, test_blocks=8)
    for strategy in (
        make_strategy("replay-fraction", share=0.25),
        make_strategy("skill-it", graph=((1.0, 0.5), (0.0, 1.0)), update=2, check=1, held=4),
    ):
        run = tiny_run(strategy, benchmark, batch_size=8, epochs=1)
        before = {name: value.clone() for name, value in run.model.state_dict().items()}
        run.fit()
        assert run.updates == 4
        assert difference(before, dict(run.model.state_dict())) is not None
