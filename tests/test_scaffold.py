"""`clbench new strategy`: what it writes is complete as it is, and it overwrites nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from plugins import forgotten

from clbench.errors import ConfigError
from clbench.registry import scaffold

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder outside of any checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout in use, as far as `clbench new` looks at one."""
    for folder in ("clbench", "strategies", "configs/split-digits", "tests/test_equations"):
        (tmp_path / folder).mkdir(parents=True)
    for module in (
        "__init__",
        "parts",
        "ranges",
        "testing",
    ):  # what tells ruff that clbench is no other library
        (tmp_path / "clbench" / f"{module}.py").touch()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setattr(scaffold, "CHECKOUT", tmp_path)
    monkeypatch.chdir(tmp_path / "tests")
    return tmp_path


def tidy(folder: Path) -> str:
    """What ruff says of a folder's files, under the project's own rules; nothing if all is well."""
    said, rules = "", folder if (folder / "pyproject.toml").exists() else ROOT
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache", "--quiet"]):
        ruff = [
            sys.executable,
            "-m",
            "ruff",
            *command,
            "--config",
            str(rules / "pyproject.toml"),
            str(folder),
        ]
        done = subprocess.run(ruff, cwd=folder, capture_output=True, text=True)
        said += "" if done.returncode == 0 else done.stdout + done.stderr
    return said


def test_elsewhere_a_plugin_and_what_belongs_to_it_lie_side_by_side(elsewhere: Path) -> None:
    files = scaffold.new_strategy("my-method")
    assert [str(file) for file in files] == [
        "my_method.py",
        "my_method.yaml",
        "test_my_method.py",
        "my_method.md",
    ]
    assert tidy(elsewhere) == ""


def test_in_a_checkout_they_lie_in_the_project_s_places(checkout: Path) -> None:
    files = scaffold.new_strategy("my-method")
    assert [str(file.relative_to(checkout)) for file in files] == [
        "strategies/my_method.py",
        "configs/split-digits/my-method.yaml",
        "tests/test_equations/test_my_method.py",
    ]
    assert tidy(checkout) == ""


def test_out_takes_a_plugin_out_of_the_checkout(checkout: Path, tmp_path: Path) -> None:
    assert scaffold.new_strategy("my-method", tmp_path / "there")[0] == tmp_path / "there" / "my_method.py"


def test_what_it_writes_keeps_the_contract_and_its_own_test_passes(elsewhere: Path) -> None:
    """The written test holds the contract. It is collected here: another process would begin by importing all anew."""
    test = scaffold.new_strategy("my-method")[2]
    options = ["-q", "-p", "no:cacheprovider", "-W", "error", "--import-mode=importlib"]
    with forgotten():
        assert pytest.main([*options, "--rootdir", str(elsewhere), str(test)]) == 0


@pytest.mark.parametrize("there", ["my_method.py", "test_my_method.py", "my_method.md", "my_method.yaml"])
def test_nothing_is_overwritten(elsewhere: Path, there: str) -> None:
    Path(there).write_text("mine\n")
    with pytest.raises(ConfigError, match=f"{there} is there already, and nothing is overwritten"):
        scaffold.new_strategy("my-method")
    assert [path.name for path in elsewhere.iterdir()] == [there]
    assert Path(there).read_text() == "mine\n"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("MyMethod", "Did you mean 'my-method'"),
        ("my method", "Did you mean 'my-method'"),
        ("3d", "a letter first"),
        ("", "small letters, digits and single hyphens"),
        ("../er", "small letters, digits and single hyphens"),
        ("er", "There is a strategy 'er' already, of clbench"),
        ("json", "Python has a meaning for a file json.py"),
        ("class", "Python has a meaning"),
        ("torch", "Python has a meaning"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused(elsewhere: Path, name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        scaffold.new_strategy(name)
    assert not list(elsewhere.iterdir())
