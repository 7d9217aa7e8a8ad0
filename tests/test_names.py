"""One rule for names, wherever they come from, and no control character on a terminal."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.text import Text

from clbench import from_arrays
from clbench.cli.terminal import cleaned, console
from clbench.config import validate
from clbench.errors import ConfigError, RegistryError
from clbench.files.names import LONGEST, full_name_mistake, name_mistake, printable, version_mistake
from clbench.parts import CrossEntropy
from clbench.registry import Registry, benchmarks, load_plugin, models, strategies
from clbench.results.metrics.core import METRICS, metric
from clbench.runs.suite import Choice
from clbench.strategy import Strategy

GOOD = ["er", "er-ace", "ER_ACE", "vit_tiny_patch16_224.augreg_in21k", "a", "0", "x" * LONGEST]
BAD = [
    *(
        "",
        ".",
        "..",
        "a/b",
        "a\\b",
        "a+b",
        "a:b",
        "a b",
        " a",
        "a\n",
        "\na",
        "a\nb",
        "-a",
        "a-",
        ".a",
        "a.",
        "_a",
    ),
    *(
        "a\x1b[31m",
        "\x1b]0;t\x07",
        "a\u202eb",
        "a\x00",
        "a\x7f",
        "\x9b",
        "\u200b",
        "ä",
        "名",
        "٣",
        "a" * (LONGEST + 1),
    ),
    *("a" * 500, "a@1", "a*", "a?", "~", "$a", "<b>", "a|b", "a`b"),
]
CONTROLS = "\x00\x07\x08\x0b\r\x1b\x7f\x85\x9b\u200b\u200e\u202a\u202e\u2066\u2028\ufeff\ud800\U000e0001"


@pytest.mark.parametrize("name", GOOD)
def test_what_is_a_name(name: str) -> None:
    assert name_mistake(name) == ""


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_what_is_none(name: str) -> None:
    assert "cannot be a name" in name_mistake(name)
    assert printable(name_mistake(name)) == name_mistake(name)


@pytest.mark.parametrize("name", [None, 3, b"er", ["er"]], ids=repr)
def test_what_is_no_text_is_none(name: object) -> None:
    assert "cannot be a name" in name_mistake(name)
    assert "cannot be a name" in full_name_mistake(name)


def test_chains_and_borrowed_names_are_names_in_full_only() -> None:
    assert all(full_name_mistake(name) == "" for name in ("er+ema", "avalanche:ER_ACE", "er+avalanche:EWC"))
    for name in ("er+", "+", "er++ema", "a:", ":a", "a:b:c", "../x+er", "a:b/c"):
        assert name_mistake(name)
        assert full_name_mistake(name)


def test_versions() -> None:
    assert all(version_mistake(v) == "" for v in (0, 1, 12, "1", "1+1", "0.6.0", "2.13.0+cpu", "1+0.6.0"))
    bad: list[Any] = [-1, True, 1.0, None, "", "../1", "1/2", "1\n", "\x1b", "1" * 81, 10**9, "+1"]
    assert all("cannot be a version" in version_mistake(v) for v in bad)


# --- where names come from ---


@pytest.mark.parametrize("registry", [strategies, benchmarks, models], ids=lambda r: r.kind)
@pytest.mark.parametrize(
    "name", ["", "..", "a/b", "a+b", "a:b", "a\nb", "\x1b[31m", "\u202e", "a" * 500], ids=ascii
)
def test_no_registry_takes_another_name(registry: Registry[Any], name: str) -> None:
    with pytest.raises(RegistryError, match="cannot be a name: a name has") as refused:
        registry.register(name)(lambda: None)
    assert registry.kind in str(refused.value)
    assert name not in registry.names()


def test_no_registry_takes_another_version() -> None:
    with pytest.raises(RegistryError, match="cannot be a version"):
        strategies.register("mine", version="1/../..")(CrossEntropy)  # type: ignore[arg-type]


def test_no_metric_has_another_name() -> None:
    with pytest.raises(RegistryError, match="cannot be a name"):
        metric("my/metric", title="M", higher_is_better=True, reference="none")(lambda curve: 1.0)
    assert "my/metric" not in METRICS


def test_no_benchmark_has_another_name() -> None:
    x, y = np.zeros((4, 2), np.uint8), np.array([0, 1, 0, 1])
    with pytest.raises(ConfigError, match=r"'my/data' cannot be a name: .*; 'my-data' is one"):
        from_arrays(x, y, x, y, experiences=2, name="my/data")


def test_labels_of_a_suite_are_text_on_one_line() -> None:
    assert validate(Choice, {"name": "er", "label": "ER, ours (ø)"}).label == "ER, ours (ø)"
    for label in ("two\nlines", "\x1b[31m", "\u202e", "a" * 500):
        with pytest.raises(ConfigError, match="label is on one line"):
            validate(Choice, {"name": "er", "label": label})


def test_a_plugin_with_another_name_is_refused_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from clbench import register\n\n@register('my/ft')\ndef ft(): ...\n")
    with pytest.raises(RegistryError, match=r"mine\.py cannot be registered: 'my/ft' cannot be a name"):
        load_plugin(file)


@pytest.mark.parametrize(
    ("point", "decorated"),
    [("a/b", "ab"), ("\x1b[31mab", "ab"), ("ab", "a/b")],
    ids=["point", "escape", "source"],
)
def test_an_entry_point_with_another_name_is_told_and_not_to_be_had(
    point: str, decorated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "misnamed.py").write_text(
        f"from clbench import register\n\n@register({decorated!r})\ndef ab(): ...\n"
    )
    about = tmp_path / "misnamed-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: misnamed\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[misnamed.strategies]\n{point} = misnamed:ab\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[Any] = Registry(
        "strategy",
        plural="strategies",
        package="clbench._nothing",
        decorator="register",
        group="misnamed.strategies",
        base=lambda: Strategy,
    )
    (problem,) = registry.problems()
    assert "misnamed 1.0" in problem
    assert "cannot be a name" in problem
    assert printable(problem) == problem
    assert registry.names() == ([] if point != "ab" else ["ab"])


# --- terminals ---


def test_control_characters_are_spelled_and_nothing_else_changes() -> None:
    assert printable("\x1b[31mred\x9b\u202e") == r"\u001b[31mred\u009b\u202e"
    plain = "ACC 91.1 ± 0.3\n\tüber, 名前 – “x” \N{NO-BREAK SPACE}⅓ 🙂"
    assert printable(plain) == plain
    assert not {c for c in printable(CONTROLS) if not c.isprintable()}


def test_json_means_what_it_meant() -> None:
    written = json.dumps({"name": CONTROLS}, ensure_ascii=False)
    assert json.loads(printable(written)) == {"name": CONTROLS}


def test_what_is_printed_is_cleaned(capsys: pytest.CaptureFixture[str]) -> None:
    with cleaned():
        print(CONTROLS)
        print(CONTROLS, file=sys.stderr)
        sys.stdout.writelines([CONTROLS])
    out, err = capsys.readouterr()
    assert not {c for c in out + err if not c.isprintable()} - {"\n"}


def test_a_drawn_table_is_cleaned_and_markup_is_text() -> None:
    file = io.StringIO()
    console(file, width=200).print("[red]one[/red]", Text(f"[bold]{CONTROLS}\x1b[31m"), ":smile:")
    assert "[red]one[/red] [bold]" in file.getvalue()
    assert ":smile:" in file.getvalue()
    assert not {c for c in file.getvalue() if not c.isprintable()} - {"\n"}
