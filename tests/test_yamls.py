"""The one reader of YAML: what it refuses, by file and line, and what it takes as people mean it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clbench.config import parse_pairs, read_yaml
from clbench.config.yamls import dump
from clbench.errors import ConfigError
from clbench.runs import suite


def read(text: str, folder: Path) -> dict[str, Any]:
    (folder / "c.yaml").write_text(text)
    return read_yaml(folder / "c.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1\nmemory: 2\nlr: 3", r"c\.yaml, line 3: the key 'lr' stands there twice, first in line 1"),
        ("optim:\n  lr: 1\n  lr: 1", r"c\.yaml, line 3: the key 'lr' stands there twice, first in line 2"),
        ("optim: {lr: 1, lr: 2}", r"line 1: the key 'lr' stands there twice"),
        ("a: [{b: 1}, {c: 1,\n  c: 2}]", r"line 2: the key 'c' stands there twice, first in line 1"),
        ("'lr': 1\nlr: 2", r"line 2: the key 'lr' stands there twice"),
        ("a: &a {b: 1}\nc: &c {d: 1}\ne:\n  <<: *a\n  <<: *c", r"line 5: the key '<<' stands there twice"),
        ("on: 1", r"line 1: the key on is read as true or false; keys are words, so quote it: 'on'"),
        ("a:\n  true: 1", r"line 2: the key true is read as true or false"),
        ("1: 2", r"line 1: the key 1 is read as a number"),
        ("1e3: 2", r"line 1: the key 1e3 is read as a number"),
        ("null: 2", r"line 1: the key null is read as nothing"),
        ("? [a, b]\n: 2", r"line 1: the key … is read as no word"),
        ("x: 0\nmemory: 010", r"line 2: 010 is an octal number to some readers .* write 10, or '010'"),
        ("seeds: [1, 08]", r"line 1: 08 is an octal number to some"),
        ("lr: .nan", r"line 1: \.nan is no number that a setting can have"),
        ("lr: .NaN", r"line 1: \.NaN is no number"),
        ("a: !!set {b}", r"line 1: !!set is not read; there are texts, numbers"),
        ("a: !!binary aGk=", r"line 1: !!binary is not read"),
        ("a: !!omap [b: 1]", r"line 1: !!omap is not read"),
        ("a: !!timestamp 2024-01-01", r"line 1: !!timestamp is not read"),
        ("a: !!python/object/apply:os.getcwd []", r"line 1: !!python/object/apply:os\.getcwd is not read"),
    ],
)
def test_what_is_refused_and_where(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read(text, tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("[1e-3, 2]", [1e-3, 2]),
        ("0.1", 0.1),
        (".5", 0.5),
        ("-1.5e+3", -1500.0),
        ("0", 0),
        ("-7", -7),
        ("1_000", 1000),
        ("-1_000_000.5e3", -1000000.5e3),
        ("0xff_ff", 0xFFFF),
        ("0x1F", 31),
        (".inf", float("inf")),
        ("yes", True),
        ("off", False),
        ("~", None),
        ("", None),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("'010'", "010"),
        ("'1e3'", "1e3"),
        ("1e", "1e"),
        ("w0123456789ab", "w0123456789ab"),
    ],
)
def test_what_people_mean(text: str, value: Any, tmp_path: Path) -> None:
    assert read(f"a: {text}", tmp_path) == {"a": value}
    assert parse_pairs([f"a={text}"]) == {"a": value}


def test_what_is_merged_in_lies_under_what_is_said(tmp_path: Path) -> None:
    assert read("a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}", tmp_path)["d"] == {"b": 3, "c": 2}


@pytest.mark.parametrize(
    "pair",
    ["memory=010", "a={b: 1, b: 2}", "lr=.nan", "lr=1_0", "lr=1_0.5", "lr=0.1_5", "lr=1_0e3", "lr=1_000_0"],
)
def test_a_pair_that_is_refused_is_named(pair: str) -> None:
    with pytest.raises(ConfigError, match=f"^'{pair}': "):
        parse_pairs([pair])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("photos #2", "photos #2"),
        ("#3", "#3"),
        ("'a #b'", "a #b"),
        ("[1, 2]", [1, 2]),
        ("", None),
        ("a#b", "a#b"),
    ],
)
def test_a_pair_has_no_comment(text: str, value: Any) -> None:
    assert parse_pairs([f"path={text}"]) == {"path": value}


@pytest.mark.parametrize(
    "text", ["010", "1e3", "on", "no", "2024-01-01", "1:30", "null", "0x1", ".5", "<<", "-", "~"]
)
def test_what_is_written_is_read_back(text: str, tmp_path: Path) -> None:
    tree = {"a": text, "b": [text, 1e-7, 1e22, None, True, 3], text: 1}
    assert read(dump(tree), tmp_path) == tree


def test_a_suite_is_read_by_it(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("strategies: [er]\nbenchmarks: [split-digits]\nstrategies: [ewc]\n")
    with pytest.raises(
        ConfigError, match=r"s\.yaml, line 3: the key 'strategies' stands there twice, first in line 1"
    ):
        suite.load(str(tmp_path / "s.yaml"))
