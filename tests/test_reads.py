"""Files that a run reads count by what they hold; files that nobody has declared are refused."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import clbench
from clbench import config
from clbench.errors import ClbenchError, LedgerError, RegistryError
from clbench.files import file_sha256
from clbench.registry import benchmarks, load_plugin, models, strategies
from clbench.registry.reads import File, digest, located, with_files
from clbench.reports.leaderboard.board import names_of, row_id, rows_of
from clbench.reports.leaderboard.store import check
from clbench.results.ledger import read_record
from clbench.runs import lifecycle
from clbench.runs.again import first_steps
from clbench.runs.identity import identify

TINY: dict[str, Any] = {"iterations": 2, "every": 1, "hidden": [4]}

PLUGIN = """
from pathlib import Path
import numpy as np, torch
from torch import nn
from torch.nn import functional as F
import clbench
from clbench import Benchmark, Classifier, Strategy, register, register_benchmark, register_model

HERE = Path(__file__).parent
{top}

class Weighted(Strategy):
    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight
    def losses(self, batch, out):
        return {{"fit": self.weight * F.cross_entropy(out.logits, batch.y)}}

class Late(Weighted):
    def setup(self, run):
        {read}

@register("mine"{reads})
def mine({parameter}) -> Strategy:
    "Reads a file."
    {body}
    return Weighted()

@register("late"{reads})
def late() -> Strategy:
    "Reads a file when it is set up."
    return Late()

@register_model("mine-model"{reads})
def mine_model(input_shape: tuple[int, ...], num_classes: int{more}) -> Classifier:
    "Reads a file."
    {model_body}
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), 4, num_classes)

@register_benchmark("mine-stream")
def mine_stream() -> Benchmark:
    "Reads a file, and its data count."
    return clbench.from_npz(HERE / "data.npz", experiences=2)
"""
READERS = {
    "torch": "torch.load(HERE / 'w.pt')",
    "numpy": "np.load(HERE / 'w.npy')",
    "mapped": "np.load(HERE / 'w.npy', mmap_mode='r')",
    "safetensors": "__import__('safetensors.torch').torch.load_file(HERE / 'w.safetensors')",
    "text": "(HERE / 'w.txt').read_text()",
    "os": "os.read(os.open(HERE / 'w.txt', os.O_RDONLY), 9)",
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    write(1.0)
    x = torch.arange(40 * 64, dtype=torch.float32).reshape(40, 64) / 99
    np.savez("data.npz", x_train=x, y_train=np.arange(40) % 4, x_test=x, y_test=np.arange(40) % 4)
    yield
    for registry in (strategies, models, benchmarks):
        for name in [n for n, e in registry._made.items() if e.module.startswith("clbench_plugin_mine")]:
            del registry._made[name]
    for name in [name for name in sys.modules if name.startswith("clbench_plugin_mine")]:
        del sys.modules[name]


def write(value: float) -> None:
    torch.save(torch.tensor(value), "w.pt")
    np.save("w.npy", np.float32(value))
    save_file({"w": torch.tensor(value)}, "w.safetensors")
    Path("w.txt").write_text(str(value))


def plugin(**parts: str) -> None:
    empty = {"top": "import os", "read": "pass", "reads": "", "parameter": "", "more": ""}
    given = {**empty, "body": "pass", "model_body": "pass", **parts}
    Path("mine.py").write_text(PLUGIN.format(**given))
    load_plugin("mine.py")


def run(strategy: str = "er", benchmark: str = "split-digits", **settings: Any) -> clbench.Record:
    given = {**TINY, **settings}
    if settings.get("model", "mlp") != "mlp":
        del given["hidden"]
    return clbench.run(benchmark, strategy, device="cpu", **given)


# --- undeclared ---


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("place", ["body", "read", "model_body"])
def test_a_plug_in_that_reads_what_it_does_not_declare_is_refused(place: str, reader: str) -> None:
    plugin(**{place: READERS[reader]})
    asked = {"body": ("mine", {}), "read": ("late", {}), "model_body": ("er", {"model": "mine-model"})}[place]
    with pytest.raises(
        RegistryError, match=r"reads \S+/w\.\w+, which a run's id does not count.*reads=\['w\."
    ):
        run(asked[0], **asked[1])  # type: ignore[arg-type]
    assert not list(Path("runs").glob("*"))


@pytest.mark.parametrize("reader", READERS)
def test_so_is_one_that_reads_it_as_it_is_imported(reader: str) -> None:
    with pytest.raises(RegistryError, match=r"as it is imported, reads \S+/w\.\w+, which"):
        plugin(top=f"import os\nW = {READERS[reader]}")
    assert "mine" not in strategies.names()


def test_a_mistake_that_the_plug_in_swallows_is_told_all_the_same() -> None:
    plugin(body="\n    ".join(("try:", "    torch.load(HERE / 'w.pt')", "except Exception:", "    pass")))
    with pytest.raises(RegistryError, match=r"reads \S+/w\.pt"):
        run("mine")


@pytest.mark.parametrize(
    "body",
    [
        "import json.tool, sklearn.datasets; sklearn.datasets.load_digits()",
        "Path('/proc/self/status').read_text(); Path('/etc/hosts').read_text()",
        "import tempfile; f = tempfile.NamedTemporaryFile('w+'); f.write('x'); Path(f.name).read_text(); f.close()",
        "(HERE / 'new.txt').write_text('x'); (HERE / 'new.txt').read_text()",
        "clbench.make_strategy('derpp'); clbench.make_model('mlp', (4,), 2)",
        "import os; os.path.exists(HERE / 'w.pt') and os.listdir(HERE)",
        "\n    ".join(("try:", "    open(HERE / 'absent.txt')", "except OSError:", "    pass")),
        "Path(os.environ['XDG_CACHE_HOME'], 'kept.txt').read_text()",
        "Path(__file__).read_text()",
    ],
    ids=["library", "system", "temporary", "written", "clbench", "looked", "absent", "cache", "source"],
)
def test_what_is_nobodys_weights_is_read_in_peace(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kept.txt").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plugin(body=body)
    assert run("mine").status == "done"


def test_a_benchmark_may_read_what_it_likes() -> None:
    plugin()
    assert run("er", "mine-stream").files == {}


# --- declared ---


def ids(strategy: str, **settings: Any) -> tuple[str, str]:
    """Of a run, and of the same one when the files hold something else."""
    write(1.0)
    before = run(strategy, **settings).id
    write(3.0)
    after = run(strategy, **settings).id
    write(1.0)
    assert run(strategy, **settings).id == before
    return before, after


@pytest.mark.parametrize("reader", READERS)
def test_what_lies_beside_a_plug_in_counts_by_content(reader: str) -> None:
    files = "reads=['w.pt', 'w.npy', 'w.safetensors', 'w.txt']"
    plugin(body=READERS[reader], read=READERS[reader], model_body=READERS[reader], reads=f", {files}")
    for strategy, settings in (("mine", {}), ("late", {}), ("er", {"model": "mine-model"})):
        before, after = ids(strategy, **settings)
        assert before != after


def test_a_parameter_that_names_a_file_counts_by_content() -> None:
    plugin(
        parameter="path: clbench.File = 'w.pt', other: clbench.File | None = None",
        body="torch.load(path)",
        more=", path: clbench.File = 'w.pt'",
        model_body="torch.load(path)",
    )
    before, after = ids("mine")
    assert before != after
    assert (
        len({run("mine", path=path).id for path in ("w.pt", "./w.pt", os.path.abspath("w.pt"), Path("w.pt"))})
        == 1
    )
    before, after = ids("er", model="mine-model")
    assert before != after
    record = run("mine")
    assert record.files == {
        "params.mine.path": {"path": str(Path("w.pt").resolve()), "sha256": digest(Path("w.pt"))}
    }


def test_files_in_lists_count_by_content_in_their_order() -> None:
    plugin(
        parameter="paths: tuple[clbench.File, ...] | None = None",
        body="[(Path(path)).read_text() for path in paths or []]",
    )
    Path("a.txt").write_text("a")
    Path("b.txt").write_text("b")
    shutil.copy("b.txt", "copy.txt")
    record = run("mine", paths=["a.txt", "./b.txt"])
    assert {where: file["sha256"] for where, file in record.files.items()} == {
        f"params.mine.paths[{i}]": digest(Path(name)) for i, name in enumerate(("a.txt", "b.txt"))
    }
    assert run("mine", paths=["a.txt", "copy.txt"]).id == record.id
    assert run("mine", paths=["b.txt", "a.txt"]).id != record.id
    assert run("mine", paths=["a.txt"]).id != record.id


def test_a_factory_may_have_a_parameter_of_any_name() -> None:
    plugin(parameter="name: str = 'x', entry: int = 1, self: int = 2")
    assert run("mine", name="y").config["params"]["mine"] == {"name": "y", "entry": 1, "self": 2}


def test_a_folder_counts_by_all_that_is_in_it() -> None:
    Path("folder/inner").mkdir(parents=True)
    Path("folder/inner/a.txt").write_text("a")
    plugin(parameter="path: clbench.File = 'folder'", body="(Path(path) / 'inner/a.txt').read_text()")
    before = run("mine").id
    shutil.copytree("folder", "copy")
    assert run("mine", path="copy").id == before
    Path("folder/inner/b.txt").write_text("")
    assert run("mine").id != before


def test_a_declared_file_that_is_not_there_is_named() -> None:
    plugin(reads=", reads=['absent.pt']")
    with pytest.raises(ClbenchError, match=r"absent\.pt, which the run reads, cannot be read"):
        run("mine")


def test_words_that_a_type_lists_are_no_files() -> None:
    hint = Literal["auto"] | File
    given = ("auto", "x.npz", None, "", 3)
    changed = [with_files(hint, value, lambda at, path: f"!{path}") for value in given]
    assert changed == ["auto", "!x.npz", None, "", 3]
    assert located("x.npz") == "x.npz"  # nothing lies there


def test_a_hash_is_of_the_present_content() -> None:
    path = Path("w.txt")
    seen = set()
    for text in ("1", "2", "3"):
        path.write_text(text)
        os.utime(path, (1, 1))
        seen.add(file_sha256(path))
    assert len(seen) == 3


# --- data ---


def test_one_file_of_data_is_one_run_however_its_path_is_spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path.cwd()
    Path("sub").mkdir()
    shutil.copy("data.npz", "sub/copy.npz")
    spelled = [
        "data.npz",
        "./data.npz",
        f"{here}/data.npz",
        f"{here}/sub/.././data.npz",
        "sub/copy.npz",
    ]
    found = {
        identify(config.resolve("npz", "er", {**TINY, "path": path, "experiences": 2})).id for path in spelled
    }
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.chdir("sub")
    spelled = ["../data.npz", "copy.npz", "~/data.npz"]
    found |= {
        identify(config.resolve("npz", "er", {**TINY, "path": path, "experiences": 2})).id for path in spelled
    }
    assert len(found) == 1


def test_so_is_one_folder_of_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "cache"))
    for name in "ab":
        for i in range(4):
            Path("photos", name).mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 20 * i + ord(name)).save(Path("photos", name, f"{i}.png"))
    shutil.copytree("photos", "copy")
    given = {**TINY, "size": 8, "experiences": 2}
    paths = ("photos", "./photos/", os.path.abspath("photos"), "copy")
    assert len({identify(config.resolve("image-folder", "er", {**given, "path": p})).id for p in paths}) == 1


def test_names_of_classes_count(tmp_path: Path) -> None:
    """A strategy may read them."""
    with np.load("data.npz") as file:
        arrays = dict(file)
    found = set()
    for names in (["a", "b", "c", "d"], ["a", "b", "c", "e"]):
        np.savez("named.npz", class_names=names, **arrays)
        found.add(run("er", "npz", path="named.npz", experiences=2).id)
    assert len(found) == 2


def test_a_run_goes_on_and_is_verified_from_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    record = run("er", "npz", path="./data.npz", experiences=2)
    assert record.folder is not None
    folder, curve = record.folder.resolve(), record.curve.sha256()
    assert record.config["stream"]["path"] == str(Path("data.npz").resolve())
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert first_steps(read_record(folder), 2).agrees
    (folder / "record.json").unlink()
    assert lifecycle.resume(folder).curve.sha256() == curve


def test_data_that_have_changed_since_are_told_apart_from_numbers_that_differ() -> None:
    record = run("er", "npz", path="data.npz", experiences=2)
    with np.load("data.npz") as file:
        arrays = dict(file)
    arrays["x_train"][0, 0] += 1
    np.savez("data.npz", **arrays)
    with pytest.raises(LedgerError, match="The data of npz are others than those of the run"):
        first_steps(record, 2)


def test_a_declared_file_that_has_changed_since_is_told() -> None:
    plugin(reads=", reads=['w.txt']")
    record = run("mine")
    assert first_steps(record, 2).agrees
    Path("w.txt").write_text("changed")
    with pytest.raises(
        LedgerError, match=r"has read \S+w\.txt \(strategy mine: w\.txt\), which has changed since"
    ):
        first_steps(record, 2)


def test_a_record_with_files_is_checked_and_its_row_does_not_hang_on_a_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clbench.runs.identity._commit", lambda: {"commit": "0" * 40, "dirty": False})
    save_file({"1.weight": torch.ones(4, 64), "1.bias": torch.zeros(4)}, "m.safetensors")
    shutil.copy("m.safetensors", "n.safetensors")
    shutil.copy("data.npz", "copy.npz")
    given = {"experiences": 2, "weights": "m.safetensors"}
    first = run("er", "npz", path="data.npz", **given)
    check(first)
    shutil.rmtree("runs")
    other = run("er", "npz", path="copy.npz", **{**given, "weights": "n.safetensors"})
    assert (other.id, row_id(other)) == (first.id, row_id(first))
    assert other.config["model"]["weights"] != first.config["model"]["weights"]


def test_rows_whose_files_hold_something_else_are_told_apart_by_them() -> None:
    plugin(reads=", reads=['w.txt']")
    records = [run("mine")]
    Path("w.txt").write_text("changed")
    records.append(run("mine"))
    (rows,) = rows_of(records).values()
    digits = {record.files["strategy mine: w.txt"]["sha256"][:8] for record in records}
    assert {row.apart for row in rows} == {f"files.strategy mine: w.txt={d}" for d in digits}
    assert len(set(names_of(rows))) == 2
