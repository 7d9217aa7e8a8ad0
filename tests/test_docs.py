"""The documentation is true: generated pages are current, links lead somewhere, shown code is the code that runs."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from plugins import forgotten

from clbench import registry
from clbench.config import Execution, resolve
from clbench.registry import benchmarks, models, strategies
from clbench.runs.building import build
from clbench.testing import check_strategy

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def without_docstrings_and_imports(code: str) -> list[str]:
    code = re.sub(r'"""(.*?)"""', "", code, flags=re.DOTALL)
    return [
        line for line in code.splitlines() if line.strip() and not line.startswith(("from", "import", "# "))
    ]


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}: run `make docs`"


def imported() -> dict[str, set[str]]:
    """Module of clbench → the names that pages, and files of examples, import from it."""
    code = [block for page in PAGES for block in code_blocks(page, "python")]
    code += [path.read_text(encoding="utf-8") for path in (ROOT / "examples").rglob("*.py")]
    found: dict[str, set[str]] = {}
    for text in code:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "clbench":
                found.setdefault(str(node.module), set()).update(alias.name for alias in node.names)
    return found


def test_the_python_reference_has_all_that_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that `clbench` exports, and all that pages import, with what is exported beside it."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    reference = importlib.import_module("reference")
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    known = {full or short: short for short, full in reference.PYTHON.items()}
    public = imported()
    assert public.keys() >= {"clbench", "clbench.parts"}
    assert public.keys() - known.keys() == set()
    for module, short in known.items():
        loaded = importlib.import_module(module)
        names = {*public.get(module, ()), *getattr(loaded, "__all__", ())}
        told = {name for name in names if f"\n### {short}.{name}\n" in page} | reference.explained(loaded)
        assert {name for name in names - told if not name.startswith("_")} == set(), module


@pytest.mark.parametrize("kind", ["strategies", "benchmarks", "models"])
def test_generated_pages_say_what_every_parameter_means(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    generate = importlib.import_module("generate")
    for entry in generate.own(getattr(registry, kind)):
        page = "\n".join(generate._prose(inspect.getdoc(entry.build)))
        heads = re.findall(r"^- ((?:`\w+`(?:, )?)+): \S", page, re.MULTILINE)
        told = {name for head in heads for name in re.findall(r"\w+", head)}
        assert told == entry.signature().parameters.keys() - {"input_shape", "num_classes"}, entry.name


def test_the_readme_names_all_that_is_shipped() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    entries = [kind.entry(n) for kind in (strategies, benchmarks, models) for n in kind.names()]
    assert [e.name for e in entries if e.own and f"[`{e.name}`](docs/" not in text] == []


@pytest.mark.parametrize("name", ["er", "gdumb", "ema"])
def test_the_numbers_beside_a_strategy_are_those_of_its_records(name: str) -> None:
    """Of the leaderboard's table of split-mnist; a modifier's are those of `er` with it."""
    folders = (ROOT / "leaderboard" / "records" / "split-mnist@1").iterdir()
    named = next(f for f in folders if re.fullmatch(rf"(er\+)?{name}@[\d+]+", f.name))
    records = [json.loads(file.read_text(encoding="utf-8")) for file in named.iterdir()]
    accuracy = 100 * sum(record["metrics"]["average_accuracy"] for record in records) / len(records)
    kept = records[0]["budget"]["strategy_state_bytes"] / 1e6
    page = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8").replace("\xa0", " ")
    (row,) = (line for line in page.splitlines() if line.startswith(f"| [`{name}`]"))
    assert f"ACC {accuracy:.1f} ±" in row
    assert row.endswith(f"| {kept:.1f} MB |")


def test_a_family_says_when_to_choose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    catalogue = importlib.import_module("catalogue")
    assert list(catalogue.CHOOSE) == list(catalogue.FAMILIES)
    assert catalogue.SUITS.keys() >= catalogue.SOURCES.keys()


def test_a_strategy_without_a_family_is_told_which_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    catalogue = importlib.import_module("catalogue")
    monkeypatch.delitem(catalogue.FAMILIES, "bounds")
    with pytest.raises(SystemExit, match=r"finetune.* has the family 'bounds'; write .*replay, contrast"):
        catalogue.families()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "docs" / "your-own-strategy.md"], ids=lambda p: p.name
)
def test_the_strategy_shown_is_the_one_in_examples(page: Path) -> None:
    shown = next(code for code in code_blocks(page, "python") if "my-er-ace" in code)
    example = (ROOT / "examples" / "my_er_ace.py").read_text(encoding="utf-8")
    assert without_docstrings_and_imports(shown) == without_docstrings_and_imports(example)


@pytest.mark.parametrize(
    ("name", "file"),
    [("my-er-ace", "my_er_ace.py"), ("stay-close", "stay_close.py"), ("mixup-replay", "mixup_replay.py")],
)
def test_the_examples_pass_the_contract(name: str, file: str) -> None:
    with forgotten():
        registry.load_plugin(ROOT / "examples" / file)
        results = [*check_strategy(name)]
    assert not [result for result in results if result.status == "failed"]


@pytest.mark.parametrize("file", ["stay_close.py", "mixup_replay.py"])
def test_the_other_strategies_shown_are_those_in_examples(file: str) -> None:
    blocks = code_blocks(ROOT / "docs" / "your-own-strategy.md", "python")
    shown = next(code for code in blocks if code.startswith(f"# {file}\n"))
    assert shown.partition("\n")[2].strip() in (ROOT / "examples" / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("file", ["my_er_ace.py", "stay_close.py", "mixup_replay.py"])
def test_a_method_takes_sixty_lines_at_most(file: str) -> None:
    assert len((ROOT / "examples" / file).read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs" / "strategies").glob("*.md")), ids=lambda page: page.stem
)
def test_the_run_that_a_strategys_page_shows_begins(page: Path) -> None:
    found = re.search(r"`clbench run (\S+) ([^\s`]+)([^`]*)`", page.read_text(encoding="utf-8"))
    assert found is not None
    settings = dict(word.split("=") for word in found[3].split())
    build(resolve(found[1], found[2], settings), Execution(checkpoint_seconds=None))


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "sphinx", "-q", "--fail-on-warning", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    fetched = (
        r"<(?:script|img|iframe)[^>]*src=\"(?:https?:)?//|<link[^>]*href=\"(?:https?:)?//|url\((?:https?:)?//"
    )
    texts = [path for path in tmp_path.rglob("*") if path.suffix in (".html", ".css")]
    assert len(texts) > 20
    assert [path.name for path in texts if re.search(fetched, path.read_text(encoding="utf-8"))] == []
