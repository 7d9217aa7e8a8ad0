"""How hyper-parameters were chosen: said of what was chosen, and of nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from clbench.config import resolve
from clbench.config.selection import is_protocol
from clbench.errors import ConfigError
from clbench.runs import suite


def selection(strategy: str = "derpp", *overrides: dict[str, Any], **more: Any) -> str:
    return resolve("split-digits", strategy, *overrides, **more).selection


TUNED = {"lr": 0.05, "alpha": 0.3, "selection": "first-2-experiences"}


@pytest.mark.parametrize(
    "change",
    [{"lr": 0.5}, {"optim.lr": 0.5}, {"alpha": 1.0}, {"derpp.beta": 2.0}, {"params.derpp.memory": 7}],
    ids=str,
)
def test_whoever_changes_what_was_chosen_makes_it_fixed(change: dict[str, Any]) -> None:
    assert selection() == "validation"
    assert selection("derpp", change) == "fixed"
    assert selection(file=change) == "fixed"
    assert selection(suite=[change]) == "fixed"


@pytest.mark.parametrize(
    "change",
    [
        {"seeds.init": 3},
        {"evaluation.every": 5, "subset": 20},
        {"threads": 2},
        {"experiences": 2},
        {"lr": 0.179},
        {"optim.momentum": 0.5},
    ],
    ids=str,
)
def test_what_was_not_chosen_or_stays_as_it_was_changes_nothing(change: dict[str, Any]) -> None:
    assert selection("derpp", change, seed=4) == "validation"


def test_a_tuned_file_says_how_until_one_of_its_settings_is_changed() -> None:
    assert selection(file=TUNED) == "first-2-experiences"
    assert selection("derpp", {"lr": 0.05}, file=TUNED) == "first-2-experiences"
    assert selection("derpp", {"lr": 0.5}, file=TUNED) == "fixed"
    assert selection("derpp", {"beta": 0.5}, file=TUNED) == "fixed"  # of the shipped file, and tuned with it
    assert (
        selection(file={"optim": {"lr": 0.05}, "selection": "first-2-experiences"}) == "first-2-experiences"
    )


def test_who_names_a_protocol_beside_a_setting_says_how_it_was_chosen() -> None:
    assert selection("derpp", {"lr": 0.5, "selection": "oracle"}) == "oracle"
    assert selection("derpp", {"lr": 0.5}, file={"alpha": 1.0, "selection": "validation"}) == "fixed"


def test_another_network_than_the_one_that_was_chosen_for_is_fixed() -> None:
    tuned = {"model": "mlp", "hidden": [8], "lr": 0.1, "selection": "validation"}
    assert selection(file=tuned) == "validation"
    assert selection("derpp", {"hidden": (8,)}, file=tuned) == "validation"
    assert selection("derpp", {"hidden": [9]}, file=tuned) == "fixed"
    assert selection("derpp", {"model": "slim-resnet18"}, file=tuned) == "fixed"


def test_what_was_chosen_for_a_part_was_not_chosen_for_the_chain() -> None:
    assert selection("er") == selection("ewc") == "validation"
    assert selection("er+ewc") == "fixed"
    assert (
        selection("er+ewc", file={"lr": 0.1, "ewc.strength": 2.0, "selection": "validation"}) == "validation"
    )


def test_of_a_suite_all_settings_belong_together() -> None:
    layers = [{"selection": "first-2-experiences", "optim.momentum": 0.0}, {}, {"optim.lr": 0.147}]
    assert selection("er", suite=layers) == "first-2-experiences"
    assert selection("er", {"lr": 0.5}, suite=layers) == "fixed"
    assert selection("er", file={"lr": 0.5}, suite=layers) == "fixed"


def test_shipped_suites_are_chosen_as_they_say() -> None:
    cells = suite.plan(suite.load("leaderboard-split-digits")[1], seeds=[0])
    assert {cell.resolved.selection for cell in cells} == {"first-2-experiences"}
    changed = suite.plan(suite.load("leaderboard-split-digits")[1], {"optim.lr": 0.5}, seeds=[0])
    assert {cell.resolved.selection for cell in changed} == {"fixed"}


@pytest.mark.parametrize(
    "name", ["validaton", "first-0-experiences", "first-x-experiences", "by hand", "", 5, None]
)
def test_an_unknown_protocol_is_refused_even_where_it_no_longer_holds(name: Any) -> None:
    assert not is_protocol(name)
    for given in ({"selection": name}, {"selection": name, "lr": 0.5}):
        with pytest.raises(ConfigError, match=r"[Tt]here is no protocol '.*Known: first-k-experiences"):
            selection("derpp", given)
        with pytest.raises(ConfigError, match=r"[Tt]here is no protocol"):
            selection("derpp", {"lr": 0.25}, file=given)


def test_the_nearest_protocol_is_named() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'validation'"):
        selection("er", {"selection": "validaton"})


def test_a_configuration_says_of_itself_what_it_said(tmp_path: Path) -> None:
    whole = resolve("split-digits", "derpp", file=TUNED).model_dump(mode="json")
    tree = yaml.safe_load(yaml.safe_dump(whole))
    assert selection(file=tree) == "first-2-experiences"
    assert selection("derpp", {"batch_size": 8}, file=tree) == "fixed"


CHOSEN_FOR = {"protocol": "first-2-experiences", "benchmark": "split-digits", "strategy": "er"}


@pytest.mark.parametrize(
    ("benchmark", "strategy", "said"),
    [
        ("split-digits", "er", "first-2-experiences"),
        ("split-digits", "derpp", "fixed"),
        ("rotated-digits", "er", "fixed"),
        ("split-digits", "er+ewc", "fixed"),
        ("split-digits", "er+refresh", "fixed"),
    ],
)
def test_what_was_chosen_for_one_strategy_and_benchmark_was_chosen_for_no_other(
    benchmark: str, strategy: str, said: str
) -> None:
    tuned = {"lr": 0.05, "selection": CHOSEN_FOR}
    assert resolve(benchmark, strategy, file=tuned).selection == said
    assert resolve(benchmark, strategy, suite=[tuned]).selection == said
    assert resolve(benchmark, strategy, tuned).selection == said


@pytest.mark.parametrize(
    ("strategy", "said"), [("er+ewc", "validation"), ("ewc+er", "fixed"), ("er", "fixed"), ("ewc", "fixed")]
)
def test_what_was_chosen_for_a_chain_was_chosen_for_it_as_it_is_spelled(strategy: str, said: str) -> None:
    chosen_for = {"protocol": "validation", "benchmark": "split-digits", "strategy": "er+ewc"}
    assert selection(strategy, file={"lr": 0.05, "selection": chosen_for}) == said


@pytest.mark.parametrize(
    ("chosen", "given"),
    [
        ({"epochs": 2}, {"iterations": 5}),
        ({"epochs": 2}, {"later_epochs": 5}),
        ({"epochs": 2, "later_epochs": 3}, {"train.iterations": 5}),
        ({"iterations": 5}, {"later_iterations": 9}),
        ({"batch_size": 16}, {"later_batch_size": 8}),
        ({"lr": 0.05}, {"later_lr": 0.5}),
    ],
    ids=str,
)
def test_a_setting_that_counts_in_the_place_of_a_chosen_one_makes_it_fixed(
    chosen: dict[str, Any], given: dict[str, Any]
) -> None:
    assert selection("er", file=chosen | {"selection": CHOSEN_FOR}) == "first-2-experiences"
    assert selection("er", given, file=chosen | {"selection": CHOSEN_FOR}) == "fixed"
    assert selection("er", file=chosen | given | {"selection": CHOSEN_FOR}) == "first-2-experiences"


@pytest.mark.parametrize(
    "given",
    [{}, {"protocol": "validation"}, {**CHOSEN_FOR, "seed": "1"}, {**CHOSEN_FOR, "strategy": 1}],
    ids=str,
)
def test_a_selection_that_says_less_or_more_than_for_what_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"'selection' takes a protocol's name, or \{protocol: NAME, "):
        selection("er", file={"lr": 0.05, "selection": given})


def test_an_unknown_protocol_is_refused_for_whatever_it_chose() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'oracle'"):
        selection("derpp", file={"selection": {**CHOSEN_FOR, "protocol": "orakle"}})
