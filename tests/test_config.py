"""From layers and keys to one resolved tree; every mistake refused with its nearest fix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clbench import make_strategy
from clbench.config import Execution, RunConfig, layers, parse_pairs, read_yaml, resolve, validate
from clbench.errors import ClbenchError, ConfigError, IncompatibleError


def made(strategy: str = "er", *overrides: dict[str, Any], **more: Any) -> RunConfig:
    return resolve("split-digits", strategy, *overrides, **more)


# --- layers ---


def test_defaults_are_filled_in_everywhere() -> None:
    tree = made()
    assert set(tree.params["er"]) == {"memory", "draw"}
    assert tree.stream["experiences"] == 5
    assert set(tree.model.params) == {"hidden"}


def test_a_resolved_tree_resolves_to_itself() -> None:
    tree = made("er", {"lr": 0.3, "experiences": 2, "hidden": [8]}, seed=4)
    assert resolve("split-digits", "er", file=tree.model_dump(mode="json")) == tree


def test_a_file_is_over_the_defaults_and_keys_are_over_the_file() -> None:
    file = {"optim": {"lr": 0.5, "momentum": 0.9}}
    tree = made("er", {"lr": 0.7}, file=file)
    assert (tree.optim.lr, tree.optim.momentum, tree.optim.name) == (0.7, 0.9, "sgd")


@pytest.mark.parametrize("first", ["lr", "optim.lr"])
@pytest.mark.parametrize("last", ["lr", "optim.lr"])
def test_the_last_of_several_overrides_wins_whatever_it_is_called(first: str, last: str) -> None:
    assert made("er", {"lr": 0.1}, {first: 0.2}, {last: 0.3}).optim.lr == 0.3


def test_a_file_takes_the_keys_of_the_command_line() -> None:
    file = {
        "lr": "5e-1",
        "memory": 7,
        "evaluation.every": 3,
        "optim": {"momentum": 0.5},
        "model": "slim-resnet18",
    }
    tree = made("er", file=file)
    assert (tree.optim.lr, tree.params["er"]["memory"], tree.evaluation.every) == (0.5, 7, 3)
    assert (tree.optim.momentum, tree.model.name) == (0.5, "slim-resnet18")


def test_of_a_chain_a_file_names_the_strategy() -> None:
    tree = made("er+derpp", file={"derpp": {"memory": 9}, "er.memory": 8})
    assert (tree.params["er"]["memory"], tree.params["derpp"]["memory"]) == (8, 9)


def test_a_file_is_over_the_settings_of_a_suite() -> None:
    assert made("er", file={"lr": 0.5}, suite=[{"lr": 0.25}]).optim.lr == 0.5


def test_a_setting_twice_in_a_file_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'lr' and 'optim.lr' are the same setting"):
        made("er", file={"lr": 0.5, "optim": {"lr": 0.25}})


def test_headings_without_anything_under_them_change_nothing() -> None:
    assert made("er", file={"optim": None, "model": None, "params": None}) == made()


def test_another_model_leaves_the_parameters_of_the_first_behind() -> None:
    assert made("er", {"model": "slim-resnet18"}).model.params == {"width": 20}


def test_the_order_of_keys_does_not_matter_to_a_new_model() -> None:
    a, b = {"width": 4, "model": "slim-resnet18"}, {"model": "slim-resnet18", "width": 4}
    assert made("er", a) == made("er", b)
    assert made("er", a).model.params == {"width": 4}


def test_a_timm_model_takes_its_parameters_in_full() -> None:
    tree = made("er", {"model": "timm:resnet18", "model.pretrained": False})
    assert tree.model.params == {"pretrained": False}


def test_a_chain_holds_the_parameters_of_each_part() -> None:
    tree = made("er+ewc", {"memory": 5, "ewc.strength": 3.0})
    assert (tree.params["er"]["memory"], tree.params["ewc"]["strength"]) == (5, 3.0)


# --- seeds ---


def test_one_seed_is_all_three() -> None:
    assert made(seed=3).seeds.model_dump() == {"order": 3, "init": 3, "data": 3}


def test_one_of_the_three_seeds_changes_that_one_only() -> None:
    assert made("er", {"seeds.init": 7}, seed=3).seeds.model_dump() == {"order": 3, "init": 7, "data": 3}


def test_the_stream_is_seeded_by_the_seed_of_the_order() -> None:
    assert made("er", {"seeds.order": 7}, seed=3).stream["seed"] == 7


# --- values ---


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("200", 200),
        ("0.1", 0.1),
        ("null", None),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ("a=b", "a=b"),
    ],
)
def test_values_are_read_as_people_mean_them(text: str, value: object) -> None:
    assert parse_pairs([f"key={text}"]) == {"key": value}


def test_text_that_is_no_yaml_is_text() -> None:
    assert parse_pairs(["key=@x: ["]) == {"key": "@x: ["}


# --- mistakes ---


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "memry",
            1,
            r"There is no setting 'memry'\. Did you mean 'memory'\? Also near: every, memory_budget; \d+ are known",
        ),
        ("device", "cpu", r"^'device' says how runs are carried out, .* give it as --device cpu"),
        ("workers", 2, r"give it as --workers N of `clbench suite`, or .*execution=\{'workers': N\}"),
        ("out", "x", "give it as --out FOLDER"),
        ("seeds", 3, "give it as --seed N of a run, --seeds N of a suite"),
        ("prefetch", 3, r"give it as execution=\{'prefetch': …\} of clbench.run"),
        ("optm.lr", 1, r"There is no setting 'optm\.lr'\. Did you mean 'optim\.lr'\?"),
        (
            "optim.lrr",
            1,
            r"There is no setting 'optim\.lrr'\. Did you mean 'lr'\? Also near: floor; \d+ are known",
        ),
        (
            "er.memry",
            1,
            r"strategy 'er' has no parameter 'memry'\. Did you mean 'memory'\? It takes: memory, draw\.",
        ),
        (
            "stream.experience",
            1,
            r"benchmark 'split-digits' has no parameter 'experience'\. Did you mean 'experiences'",
        ),
        ("model.hiden", 1, r"model 'mlp' has no parameter 'hiden'\. Did you mean 'hidden'\?"),
        ("benchmark.experiences", 2, r"There is no setting 'benchmark\.experiences'"),
        ("strategy.memory", 2, r"There is no setting 'strategy\.memory'"),
        ("precision.x", 2, r"There is no setting 'precision\.x'"),
        ("seed", 3, r"The seed of a run is given as --seed N"),
        ("memory", "abc", r"strategy 'er': parameter 'memory' takes a whole number ≥ 0; 'abc' was given"),
        (
            "experiences",
            "many",
            r"benchmark 'split-digits': parameter 'experiences' takes a whole number ≥ 1; 'many' was given",
        ),
        ("lr", -1, r"'optim\.lr' takes a number > 0; -1 was given"),
        ("lr", float("inf"), r"'optim\.lr' takes a number > 0; inf was given \(not finite\)"),
        (
            "schedule",
            "cosin",
            r"'optim\.schedule' takes one of 'constant', .*; 'cosin' was given\. Did you mean 'cosine'\?",
        ),
        ("precision", "fp8", r"'precision' takes one of 'fp32', 'bf16', 'fp16'; 'fp8' was given"),
        ("batch_size", 0, r"'train\.batch_size' takes a whole number ≥ 1; 0 was given"),
        ("seeds.data", -1, r"'seeds\.data' takes a whole number ≥ 0; -1 was given"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_nearest_fix(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made("er", {key: value})


def test_a_key_of_two_parts_is_ambiguous() -> None:
    with pytest.raises(
        ConfigError, match=r"^'memory' could mean er\.memory or derpp\.memory; write which\.$"
    ):
        made("er+derpp", {"memory": 5})


def test_one_setting_by_two_names_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^'lr' and 'optim\.lr' are the same setting; give one of them\.$"):
        made("er", {"lr": 1, "optim.lr": 2})


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^A seed is a whole number, 0 or more; -1 was given\.$"):
        made(seed=-1)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["memory"], r"^'memory' is not of the form key=value"),
        (["=5"], r"^'=5' is not of the form key=value"),
        (["memory=5", "memory=6"], r"^'memory' is given twice: 5 and 6\.$"),
    ],
)
def test_a_wrong_pair_is_refused(pairs: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_pairs(pairs)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"optimm": {}}, r"There is no setting 'optimm'\. Did you mean 'optim'\?"),
        ({"optim": 5}, r"'optim' takes `key: value` lines; 5 was given"),
        ({"model": ["mlp"]}, r"'model' takes `key: value` lines; \['mlp'\] was given"),
        ({"seeds": 3}, r"'seeds' takes `key: value` lines; 3 was given"),
        ({"params": 3}, r"'params' takes `key: value` lines; 3 was given"),
        ({"optim": {"lr": "fast"}}, r"'optim\.lr' takes a number > 0; 'fast' was given"),
        ({"benchmark": "split-mnist"}, r"names another benchmark or strategy"),
    ],
    ids=str,
)
def test_a_wrong_file_is_refused(file: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(file=file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", r"c\.yaml, line \d is not YAML"),
        (b"- 1", r"c\.yaml must hold `key: value` lines; it holds a list"),
        (b"\xff\xfe\x00", r"c\.yaml cannot be read|is not YAML"),
        (b"1: 2", r"c\.yaml, line 1: the key 1 is read as a number; keys are words"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_yaml(tmp_path / "c.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no file .*c\.yaml"):
        read_yaml(tmp_path / "c.yaml")


def test_an_empty_file_is_an_empty_configuration(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "c.yaml") == {}


@pytest.mark.parametrize(
    "names", [("split-digts", "er"), ("split-digits", "derp"), ("split-digits", "er+derp")]
)
def test_an_unknown_name_is_refused_with_the_nearest(names: tuple[str, str]) -> None:
    with pytest.raises(
        ClbenchError,
        match=r"^There is no (\w+) named '\S+'\. Did you mean '\S+'\? .*`clbench list \w+` shows all",
    ):
        resolve(*names)


@pytest.mark.parametrize("chain", ["ewc+er+ewc", "lwf+lwf", "er+er"])
def test_a_strategy_that_a_chain_holds_twice_is_refused(chain: str) -> None:
    with pytest.raises(IncompatibleError, match=rf"'{re.escape(chain)}' holds \w+ more than once"):
        resolve("split-digits", chain)


def test_a_second_copy_that_changes_nothing_is_allowed() -> None:
    """And dropped when the strategy is made."""
    chain = "finetune+growing-head+growing-head"
    assert resolve("split-digits", chain).strategy == chain
    assert len(make_strategy(chain).parts) == 2


def test_wrong_execution_is_refused() -> None:
    with pytest.raises(ConfigError, match="'workers'"):
        validate(Execution, {"workers": -1})


def test_every_shipped_configuration_resolves() -> None:
    from clbench.registry import benchmarks, strategies

    files = [f for f in layers._configs().glob("*/*.yaml") if f.parent.name != "suites"]
    for file in files:
        names = [file.stem] if file.stem != "defaults" else ["finetune"]
        if file.parent.name in benchmarks.names() and all(
            n in strategies.names() for n in names[0].split("+")
        ):
            modifies = all(strategies.entry(part).modifier for part in names[0].split("+"))
            asked = benchmarks.entry(file.parent.name).signature().parameters.values()
            given = {f"stream.{p.name}": "mine" for p in asked if p.default is p.empty}
            resolve(file.parent.name, f"finetune+{names[0]}" if modifies else names[0], given)


@pytest.mark.parametrize("seed", ["a", 1.5, None, -1])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(ConfigError, match=r"A seed is a whole number, 0 or more; .* was given"):
        resolve("split-digits", "er", seed=seed)


def test_numbers_of_numpy_are_taken_as_pythons_own() -> None:
    given = {
        "memory": np.int64(20),
        "batch_size": np.int32(8),
        "lr": np.float32(0.5),
        "hidden": np.array([3, 4]),
    }
    resolved = resolve("split-digits", "er", given, seed=np.int64(3))
    assert (resolved.params["er"]["memory"], resolved.train.batch_size, resolved.optim.lr) == (20, 8, 0.5)
    assert (resolved.model.params["hidden"], resolved.seeds.init) == ([3, 4], 3)


# --- values that are no numbers, or none to compute with ---


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden", {10}),
        ("optim.betas", {0.9, 0.99}),
        ("optim.betas", frozenset({0.9, 0.99})),
        ("evaluation.windows", {10, 20}),
        ("class_order", [{0, 1}]),
        ("memory", {200}),
        ("lr", {0.1}),
    ],
)
def test_a_set_has_no_order_and_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"cannot be a set, which has no order; write a list instead of "):
        resolve("split-digits", "er", {key: value})


@pytest.mark.parametrize(
    "line",
    [
        *(
            "memory: true",
            "memory: 010",
            "memory: 1:30",
            "memory: .nan",
            "memory: !!set {200}",
            "memory: yes",
        ),
        *("lr: true", "lr: 010", "lr: 1:30", "lr: .nan", "lr: -.inf", "lr: !!set {0.1}", "lr: 1e300"),
        *("batch_size: 99999999999999999999", "batch_size: true", "batch_size: 010", "epochs: on"),
        *("betas: [2.0, -1]", "betas: [true, 0.9]", "betas: [.nan, 0.9]", "betas: !!set {0.9, 0.8}"),
        *("hidden: [true]", "hidden: [010]", "hidden: [1:30]", "experiences: true", "momentum: 1e300"),
    ],
)
def test_what_is_no_number_is_refused_where_one_belongs(line: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(line)
    with pytest.raises(ConfigError) as refused:
        resolve("split-digits", "er", file=read_yaml(file))
    message = str(refused.value)
    assert line.partition(":")[0] in message or "mine.yaml, line 1: " in message
    assert "\n" not in message
