"""The code that a run is made of: what imports lead to, and what of a file counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from clbench.files.places import HOME, ROOT
from clbench.registry.closure import closure, code_of

# --- what imports lead to ---


def written(folder: Path, **files: str) -> Path:
    """A package `mine` of these modules; returns its `plugin.py`."""
    package = folder / "mine"
    for name, text in {"__init__": "", **files}.items():
        file = package / f"{name.replace('_in_', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return package / "plugin.py"


@pytest.mark.parametrize(
    "line",
    [
        "from .losses import f",
        "from . import losses",
        "from mine.losses import f",
        "import mine.losses",
        "from mine import losses",
    ],
)
def test_a_module_of_the_same_package_is_found_however_it_is_imported(tmp_path: Path, line: str) -> None:
    plugin = written(tmp_path, plugin=line, losses="")
    assert tmp_path / "mine" / "losses.py" in closure(plugin)


def test_what_imports_import_is_found(tmp_path: Path) -> None:
    plugin = written(tmp_path, plugin="from .a import x", a="from mine.deep.b import y", deep_in_b="")
    assert tmp_path / "mine" / "deep" / "b.py" in closure(plugin)


def test_other_libraries_are_not_followed(tmp_path: Path) -> None:
    plugin = written(tmp_path / "site-packages", plugin="import other\nimport clbench")
    (tmp_path / "site-packages" / "other.py").write_text("")
    assert {file for file in closure(plugin) if tmp_path in file.parents} == {plugin}


def test_a_loose_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("import helper, torch\n")
    (tmp_path / "helper.py").write_text("")
    assert closure(tmp_path / "plugin.py") == {tmp_path / "plugin.py", tmp_path / "helper.py"}


FACE = {"__init__": "from .losses import f\nfrom .others import g\nhere = 1\n", "losses": "", "others": ""}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from . import f", {"losses"}),
        ("from mine import f as k", {"losses"}),
        ("import mine\nmine.f()", {"losses"}),
        ("import mine as m\nm.others.g()", {"others"}),
        ("from . import here", {"__init__", "losses", "others"}),
        ("import mine\nprint(mine)", {"__init__", "losses", "others"}),
        ("from mine import *", {"__init__", "losses", "others"}),
        ("import mine.losses\nmine.losses.f()", {"losses"}),
        ("def late():\n    from . import g", {"others"}),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import f\nelse:\n    from . import g",
            {"others"},
        ),
    ],
)
def test_a_package_that_hands_names_on_leads_to_where_they_are_from(
    tmp_path: Path, line: str, found: set[str]
) -> None:
    assert {file.stem for file in closure(written(tmp_path, plugin=line, **FACE))} == {"plugin", *found}


@pytest.mark.parametrize(
    "face", ["from . import losses\n", "from mine import losses\n", "import mine.losses\n"]
)
def test_a_package_may_hand_on_its_own_modules(tmp_path: Path, face: str) -> None:
    plugin = written(tmp_path, plugin="from mine import losses", __init__=face, losses="")
    assert {file.stem for file in closure(plugin)} == {"plugin", "losses"}


def test_a_name_that_a_package_makes_anew_is_its_own(tmp_path: Path) -> None:
    face = {**FACE, "__init__": "from .losses import f\nfrom .others import g\nf = g(f)\n"}
    found = closure(written(tmp_path, plugin="from mine import f", **face))
    assert {file.stem for file in found} == {"plugin", "__init__", "losses", "others"}


def test_a_folder_without_init_is_a_package_too(tmp_path: Path) -> None:
    plugin = written(tmp_path, plugin="from .deep import part", part_in_x="")
    (tmp_path / "mine" / "deep").mkdir()
    (tmp_path / "mine" / "deep" / "part.py").write_text("")
    assert tmp_path / "mine" / "deep" / "part.py" in closure(plugin)


def test_names_of_clbench_lead_to_its_modules(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("from clbench.parts import CrossEntropy\n")
    found = closure(tmp_path / "plugin.py")
    assert HOME / "parts" / "losses.py" in found
    assert not {HOME / "__init__.py", HOME / "parts" / "__init__.py", HOME / "parts" / "replay.py"} & found


@pytest.mark.parametrize("name", ["strategies/er.py", "strategies/l2p.py", "benchmarks/split.py"])
def test_what_shows_and_starts_runs_takes_no_part_in_them(name: str) -> None:
    rooms = {file.relative_to(HOME).parts[0] for file in closure(ROOT / name) if HOME in file.parents}
    assert not rooms & {"__init__.py", "bench", "cli", "interop", "reports", "runs", "testing"}


def test_no_run_needs_metrics_or_records() -> None:
    base = closure(HOME / "runs" / "building.py")
    assert {file.name for file in base if file.parent.name == "runs"} == {"building.py"}
    assert not [file for file in base if "metrics" in file.parts or file.name in ("ledger.py", "ids.py")]


# --- what of a file counts ---

CODE = "import os\n\n\ndef f(x: int = 1) -> str:\n    if x:\n        return f'{x!r:>{9}} # {os}'\n    return '#'\n"


def digest(text: str) -> object:
    return code_of(text)


@pytest.mark.parametrize(
    "same",
    [
        '"""Says."""\n' + CODE,
        CODE.replace("int = 1) -> str:\n", 'int = 1) -> str:\n    """Says.\n\n    More ≥ 1.\n    """\n'),
        CODE.replace("    if x:\n", "    if x:  # why\n        # because\n\n"),
        CODE.replace("    return '#'\n", "    return '#'   \n\n# 'end\n"),
        CODE.replace("\n", "\r\n"),
        CODE.replace("import os\n", "import os\n'An attribute: ' 'what it is.'  # so\n"),
    ],
    ids=["module", "function", "comments", "end", "windows", "attribute"],
)
def test_comments_and_docstrings_do_not_count(same: str) -> None:
    assert digest(same) == digest(CODE)


@pytest.mark.parametrize(
    "other",
    [
        CODE.replace("'#'", "'# '"),
        CODE.replace("# {os}", "#  {os}"),
        CODE.replace("x: int = 1", "x: int = 2"),
        CODE.replace("    return '#'", "        return '#'"),
        CODE.replace("'#'", '"""\n\n"""'),
        CODE.replace("'#'", '"""\n \n"""'),
    ],
)
def test_whatever_else_is_written_counts(other: str) -> None:
    assert digest(other) != digest(CODE)


def test_lines_of_a_text_count() -> None:
    assert digest('x = """\n\n"""\n') != digest('x = """\n"""\n')


def test_what_is_no_python_counts_as_it_is(tmp_path: Path) -> None:
    for content in (b"\0compiled", b"a b  # c"):
        (tmp_path / "x.py").write_bytes(content)
        assert len(code_of(tmp_path / "x.py")) == 1
