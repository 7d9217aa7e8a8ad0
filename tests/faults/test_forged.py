"""Records and curves that somebody made up: refused with what is wrong, and no harm to others, a page or a terminal."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clbench import cli, config
from clbench.config import Execution
from clbench.errors import LedgerError
from clbench.files import canonical_json, pretty_json, sha256
from clbench.reports.leaderboard import read_board, readme, store, submit
from clbench.results import metrics
from clbench.results.curve import Curve
from clbench.results.ids import run_id
from clbench.results.ledger import read_record
from clbench.runs import identity, lifecycle

SCRIPT = "0</th></tr></table><script>document.title='taken'</script><img src=x onerror=alert(1)>"
Tree = dict[str, Any]
Columns = dict[str, Any]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three experiences of rotated digits by two seeds, and another benchmark, made by a clean checkout."""
    root, found = tmp_path_factory.mktemp("runs"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "_commit", lambda: {"commit": "0" * 40, "dirty": False})
        for name, benchmark, seed, settings in (
            ("first", "rotated-digits", 0, {}),
            ("second", "rotated-digits", 1, {}),
            ("split", "split-digits", 0, {"future": False}),
        ):
            given = {"iterations": 5, "every": 1, "subset": 40, **settings}
            resolved = config.resolve(benchmark, "finetune", given, seed=seed)
            record = lifecycle.start(resolved, Execution(checkpoint_seconds=None), root)
            assert record.folder is not None
            found[name] = record.folder
    return found


def forge(
    run: Path,
    folder: Path,
    change: Callable[[Tree], object] = lambda record: None,
    bend: Callable[[Columns], object] | None = None,
) -> Path:
    """A copy of a run, with another record and curve, and with all sums, the id and the metrics as they would be."""
    shutil.copytree(run, folder)
    path = folder / "record.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    if bend is not None:
        columns = {
            name: np.array(column) for name, column in Curve.load(folder / "curve.npz").columns().items()
        }
        bend(columns)
        curve = Curve.from_columns(columns)
        curve.save(folder / "curve.npz")
        record["curve"]["sha256"] = curve.sha256()
        record["metrics"] = metrics.compute(curve)
    change(record)
    keys = ("config", "benchmark", "strategy", "model", "code", "files")
    record["id"] = run_id(*(record[key] for key in keys))
    bare = {key: value for key, value in record.items() if key != "sha256"}
    path.write_text(pretty_json({**bare, "sha256": sha256(canonical_json(bare))}), encoding="utf-8")
    return folder


def refusal(folder: Path, root: Path) -> str:
    (done,) = submit([folder], root)
    assert done.path is None
    assert done.refused.isprintable()
    return done.refused


def test_what_is_not_forged_is_taken(runs: dict[str, Path], tmp_path: Path) -> None:
    done = submit([forge(run, tmp_path / name) for name, run in runs.items()], tmp_path / "board")
    assert not [s.refused for s in done if s.refused]


# --- records that contradict themselves ---


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda r: r["strategy"].update(name="er-ace"),
            r"strategy\.name 'er-ace' is not its config\.strategy, 'finetune'",
        ),
        (
            lambda r: r["benchmark"].update(name="pacs"),
            r"benchmark\.name 'pacs' is not its config\.benchmark",
        ),
        (lambda r: r["model"].update(name="vit"), r"model\.name 'vit' is not its config\.model\.name"),
        (
            lambda r: r["seeds"].update(order=99, init=99, data=99),
            r"seeds\.order 99 is not its config\.seeds\.order, 0",
        ),
        (
            lambda r: r["config"].update(selection="oracle"),
            r"selection '\S+' is not its config\.selection, 'oracle'",
        ),
        (lambda r: r.update(selection="fixed"), r"selection 'fixed' is not its config\.selection"),
        (lambda r: r["code"].update(commit="g" * 40), r"code\.commit is 'g{40}'"),
        (lambda r: r["code"].update(commit="abc"), r"code\.commit is 'abc'"),
        (
            lambda r: r["config"]["optim"].update(lr=-1.0),
            r"its config is none: 'optim\.lr' takes a number > 0",
        ),
        (lambda r: r["config"]["optim"].update(lr="0.1"), r"config\.optim\.lr is '0\.1', and not 0\.1"),
        (lambda r: r["config"]["train"].update(batch_size=10**18 * 10), r"field 'config\.train\.batch_size'"),
        (
            lambda r: r["config"]["stream"].update(angles=[0.0]),
            r"asks for 1 experiences, and its curve has 3",
        ),
        (lambda r: r["config"]["evaluation"].update(subset=3), r"config\.evaluation\.subset"),
        (lambda r: r["budget"].update(steps=14), r"budget\.steps is 14, and its curve ends at 15"),
        (lambda r: r["budget"].update(stream_examples=9), r"budget\.stream_examples is 9"),
        (
            lambda r: r["budget"].update(parameters=0),
            r"budget\.trainable_parameters is \d+, and budget\.parameters 0",
        ),
        (
            lambda r: r["environment"].update(threads=7),
            r"environment\.threads 7 is not its config\.threads, 1",
        ),
        (
            lambda r: r["budget"].update(memory_examples=5),
            r"budget\.memory_bytes is 0, and budget\.memory_examples",
        ),
        (
            lambda r: (r["config"].update(memory_budget=1), r["budget"].update(held_bytes=2)),
            r"budget\.held_bytes is 2, and config\.memory_budget 1",
        ),
        (
            lambda r: r["budget"].update(forward_examples=0),
            r"budget\.forward_examples is 0, and budget\.updates",
        ),
        (lambda r: r["config"]["evaluation"].update(every=0), r"its curve has ticks, and .* asks for none"),
        (
            lambda r: r["evaluation"].update(level="fast"),
            r"evaluation\.level is 'fast', and config\..* 'exact'",
        ),
        (lambda r: r["evaluation"].update(rules=99), r"field 'evaluation\.rules'"),
        (lambda r: r.update(schema=0), r"there is no schema 0"),
        (lambda r: r.update(metrics={}), r"metrics\.\w+ is missing"),
        (lambda r: r["metrics"].pop("average_accuracy"), r"metrics\.average_accuracy is missing"),
        (lambda r: r["metrics"].update(wc_acc=1.0), r"it says wc_acc = 1\.0, its curve says"),
        (lambda r: r["seeds"].update(data=SCRIPT), r"field 'seeds\.data' holds .0</th>"),
        (
            lambda r: r["config"]["params"]["finetune"].update(memory=9),
            r"config\.params\.finetune does not fit: strategy 'finetune' has no parameter 'memory'",
        ),
        (
            lambda r: r["config"]["stream"].update(valid=2.0),
            r"config\.stream does not fit: benchmark 'rotated-digits': parameter 'valid' takes a number ≥ 0",
        ),
        (
            lambda r: r["config"]["stream"].update(valid="0.0"),
            r"config\.stream\.valid is '0\.0', and not 0\.0",
        ),
        (
            lambda r: r["config"]["model"]["params"].update(hidden=[-1]),
            r"config\.model\.params does not fit: .*'hidden' takes a list of whole numbers ≥ 1",
        ),
        (
            lambda r: r["benchmark"].update(metrics=["a_auc"]),
            r"benchmark\.metrics names 'a_auc', and its metrics",
        ),
        (
            lambda r: r["config"]["train"].update(batch_size=2),
            r"budget\.stream_examples is 240, .* config\.train\.batch_size have 30 at most",
        ),
        (
            lambda r: r["config"]["train"].update(iterations=7),
            r"experience 0 has 5 steps, and config\.train\.iterations asks for 7",
        ),
        (
            lambda r: r["config"]["train"].update(iterations=None, epochs=2),
            r"experience 0 has 5 steps, which are no 2 passes \(config\.train\.epochs\)",
        ),
    ],
    ids=range(36),
)
def test_a_record_that_contradicts_itself_is_refused(
    runs: dict[str, Path], tmp_path: Path, change: Callable[[Tree], object], said: str
) -> None:
    folder = forge(runs["first"], tmp_path / "forged", change)
    assert re.search(said, refusal(folder, tmp_path / "board"))


def test_a_parameter_that_its_strategy_does_not_have_is_marked_where_the_record_lies(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = forge(
        runs["first"], tmp_path / "forged", lambda r: r["config"]["params"]["finetune"].update(memory=9)
    )
    with monkeypatch.context() as patch:
        patch.setattr(store, "misfit", lambda record: "")  # as of a version that has taken it
        assert submit([folder], tmp_path / "board")[0].path
    page = readme(read_board(tmp_path / "board"))
    assert "it needs strategy finetune (one with a parameter 'memory')" in page


def test_a_file_that_no_setting_names_is_no_matter(runs: dict[str, Path], tmp_path: Path) -> None:
    read = {"stream.angles.x": {"path": None, "sha256": None}}
    folder = forge(runs["first"], tmp_path / "forged", lambda r: r["files"].update(read))
    assert submit([folder], tmp_path / "board")[0].path


def test_what_a_widened_definition_left_undefined_claims_nothing(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = forge(runs["first"], tmp_path / "old", lambda r: r["metrics"].update(average_accuracy=None))
    (done,) = submit([folder], tmp_path / "board")
    assert not done.refused
    (record,) = read_board(tmp_path / "board")
    assert record.metrics == read_record(runs["first"]).metrics


# --- curves that no run has written ---


def only(keep: Callable[[Columns], Any]) -> Callable[[Columns], None]:
    """Leaves other rows out, and the rows of tables that go with them."""

    def bend(columns: Columns) -> None:
        kept = keep(columns)
        ends = len(np.unique(columns["experience"][kept & columns["full"]]))
        for name, column in columns.items():
            columns[name] = column[:ends] if name.startswith("class_") else column[kept]

    return bend


def scaled(columns: Columns) -> None:
    for name in ("correct", "total", "class_correct", "class_total", "loss"):
        columns[name] *= 2


def with_budget(curve: Path) -> Callable[[Tree], None]:
    """The budget that goes with a curve."""

    def change(record: Tree) -> None:
        forged = Curve.load(curve)
        record["budget"] |= {"steps": int(forged.step[-1]), "stream_examples": int(forged.examples[-1])}

    return change


@pytest.mark.parametrize("name", ["record.json", "curve.npz"])
def test_a_pipe_in_a_files_place_is_refused(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(runs["first"], tmp_path / "forged")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(LedgerError, match=r"it is no file|is not finished"):
        _ = read_record(folder).curve


@pytest.mark.parametrize("run", ["first", "split"])
@pytest.mark.parametrize(
    ("bend", "said"),
    [
        (only(lambda c: c["experience"] < 1), "ends before|asks for"),
        (only(lambda c: c["experience"] < 2), "ends before|asks for"),
        (only(lambda c: ~((c["step"] == c["step"].max()) & c["full"])), "ends before"),
        (only(lambda c: (c["step"] != 7) | c["full"]), "of the 1?[0-9]|2[0-9] ticks"),
        (only(lambda c: (c["step"] != 7) | (c["evaluated"] != 0) | c["full"]), "leaves out a test stream"),
        (
            only(lambda c: (c["experience"] != 1) | (c["evaluated"] != 0) | ~c["full"]),
            "lacks|leaves out|sums",
        ),
        (lambda c: c["loss"].__setitem__(3, np.inf), "loss that is not finite"),
        (lambda c: c["class_total"].__setitem__((-1, 0), 10**6), "class_total of its curve has other sums"),
        (lambda c: c["class_correct"].__imul__(0), "class_correct of its curve has other sums"),
        (lambda c: c.update(total=np.where(c["full"], c["total"], 2**30)), "evaluation.subset"),
        (lambda c: c["examples"].__setitem__(slice(-1, None), 2**39), "budget.stream_examples"),
    ],
    ids=range(11),
)
def test_a_curve_that_no_run_has_written_is_refused(
    runs: dict[str, Path], tmp_path: Path, run: str, bend: Callable[[Columns], None], said: str
) -> None:
    change = with_budget(tmp_path / "forged" / "curve.npz") if "budget" not in said else lambda record: None
    folder = forge(runs[run], tmp_path / "forged", change, bend)
    assert re.search(said, refusal(folder, tmp_path / "board"))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("total", 2**62, "stay below 2⁴⁰"),
        ("step", 2**63 - 1, "stay below 2⁴⁰"),
        ("evaluated", 2**39, "streams"),
        ("experience", 2**39, "experiences"),
    ],
)
def test_absurd_counts_are_refused(
    runs: dict[str, Path], tmp_path: Path, column: str, value: int, said: str
) -> None:
    folder = forge(runs["first"], tmp_path / "forged")
    with np.load(folder / "curve.npz") as file:
        arrays = dict(file)
    arrays[column][-1] = value
    np.savez(folder / "curve.npz", **arrays)
    assert said in refusal(folder, tmp_path / "board")


def test_one_curve_under_two_seeds_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    def seeded(seed: int) -> Callable[[Tree], None]:
        def change(record: Tree) -> None:
            seeds = dict.fromkeys(("order", "init", "data"), seed)
            record["seeds"], record["config"]["seeds"] = seeds, dict(seeds)

        return change

    copies = [forge(runs["first"], tmp_path / f"{seed}", seeded(seed)) for seed in range(3)]
    assert [bool(s.path) for s in submit(copies, tmp_path / "board")] == [True, False, False]
    assert "the very curve of" in refusal(copies[1], tmp_path / "board")
    assert len(read_board(tmp_path / "board")) == 1


def test_equal_data_have_equal_test_sets(runs: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "board"
    assert not submit([runs["first"]], root)[0].refused
    folder = forge(
        runs["first"], tmp_path / "forged", lambda r: r["config"]["evaluation"].update(subset=80), scaled
    )
    assert "contradicts" in refusal(folder, root)


# --- one bad record on the board ---


def put(folder: Path, root: Path) -> str:
    """A run on the board, as it would lie there if it had been taken."""
    content = json.loads((folder / "record.json").read_text())
    strategy, benchmark = content["strategy"], content["benchmark"]
    where = [f"{x['name']}@{x['version']}" for x in (benchmark, strategy)]
    path, curve = (
        root / "records" / Path(*where) / f"{content['id']}.json",
        root / f"curves/{content['id']}.npz",
    )
    for file in (path, curve):
        file.parent.mkdir(parents=True, exist_ok=True)
    content["curve"]["file"] = curve.name
    bare = {key: value for key, value in content.items() if key != "sha256"}
    path.write_text(json.dumps({**bare, "sha256": sha256(canonical_json(bare))}))
    shutil.copyfile(folder / "curve.npz", curve)
    manifest = json.loads((root / "manifest.json").read_text())
    for file in (path, curve):
        manifest[file.relative_to(root).as_posix()] = sha256(file.read_bytes())
    (root / "manifest.json").write_text(json.dumps(manifest))
    return path.name


def command(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["clbench", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(budget={}),
        lambda r: r["budget"].update(train_seconds="9"),
        lambda r: r.update(seeds={}),
        lambda r: r.update(environment={}),
        lambda r: r["environment"].update(device=None),
        lambda r: r["environment"].update(threads=10**9),
        lambda r: r["code"].update(commit=5),
        lambda r: r["seeds"].update(data=SCRIPT),
        lambda r: r["config"]["stream"].update(seed=[1]),
        lambda r: r["config"].update(selection="oracle"),
        lambda r: r["metrics"].update(average_accuracy=1.0),
    ],
    ids=range(11),
)
def test_one_bad_record_on_the_board_stops_no_other(
    runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Tree], object],
) -> None:
    root = tmp_path / "board"
    submit([runs["first"], runs["second"]], root)
    whole = readme(read_board(root))
    bad = put(forge(runs["split"], tmp_path / "forged", change), root)
    left_out: list[str] = []
    assert readme(read_board(root, left_out)) == whole
    assert len(left_out) == 1
    assert bad in left_out[0]
    assert command("leaderboard", "--root", str(root), "--html", str(tmp_path / "site")) == 1
    assert bad in capsys.readouterr().err
    assert (root / "README.md").read_text() == whole
    assert "<img" not in "".join(page.read_text() for page in (tmp_path / "site").rglob("*.html"))


def test_a_run_whose_copy_on_the_board_is_damaged_replaces_nothing(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    root = tmp_path / "board"
    submit([runs["first"], runs["second"]], root)
    copy = next(root.rglob(f"{runs['first'].name}.json"))
    copy.write_text("{}")
    left_out: list[str] = []
    (done,) = submit([runs["first"]], root, left_out)
    assert f"clbench leaderboard --remove {copy.stem}" in done.refused
    assert copy.name in left_out[0]
    assert copy.read_text() == "{}"
    assert submit([runs["split"]], root)[0].path


def test_what_most_records_say_of_their_data_stands(runs: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "board"
    submit([runs["first"]], root)
    submit([forge(runs["first"], tmp_path / "b", lambda r: r["config"]["evaluation"].update(check=7))], root)
    double = forge(
        runs["first"], tmp_path / "c", lambda r: r["config"]["evaluation"].update(subset=80), scaled
    )
    content = json.loads((double / "record.json").read_text())
    bad = put(double, root)
    left_out: list[str] = []
    assert content["id"] not in {record.id for record in read_board(root, left_out)}
    assert len(left_out) == 1
    assert bad in left_out[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(environment={}),
        lambda r: r["environment"].update(device=None),
        lambda r: r["environment"].update(threads="x"),
        lambda r: r["environment"].update(threads=10**9),
        lambda r: r["config"].update(threads=10**9),
        lambda r: r["config"].update(seeds={}),
    ],
    ids=range(6),
)
def test_verifying_a_forged_record_is_refused_in_words(
    runs: dict[str, Path],
    tmp_path: Path,
    change: Callable[[Tree], object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = forge(runs["first"], tmp_path / "forged", change)
    assert command("verify", str(folder)) == 2
    assert re.search(r"record\.json is damaged: field '(environment|config)\.", capsys.readouterr().err)


def test_verifying_says_what_contradicts(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = forge(runs["first"], tmp_path / "forged", lambda r: r["strategy"].update(name="er-ace"))
    assert command("verify", str(folder)) == 1
    assert "strategy.name 'er-ace' is not" in capsys.readouterr().out


def test_verifying_compares_with_the_test_sets_themselves(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = forge(
        runs["first"], tmp_path / "forged", lambda r: r["config"]["evaluation"].update(subset=80), scaled
    )
    assert command("verify", str(folder), "--steps", "1") == 2
    assert (
        "has test sets of [710, 710, 710] examples, rotated-digits of [355, 355, 355]"
        in capsys.readouterr().err
    )


# --- pages and terminals ---


def test_no_control_character_reaches_the_terminal(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(record: Tree) -> None:
        record["note"] = record["benchmark"]["notes"] = "\x1b[2J\x1b]0;taken\x07\u202e\x9b31m"
        record["benchmark"]["notes"] = [record["note"]]
        record["config"]["params"]["finetune"] = {"\x1b[31m": "\x1b[31m"}

    folder = forge(runs["first"], tmp_path / "forged", change)
    for words in (
        ("show", str(folder)),
        ("show", str(folder), "--json"),
        ("submit", str(folder), "--root", "b"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            command(*words)
        said = capsys.readouterr()
        assert not [c for c in said.out + said.err if c != "\n" and not c.isprintable()]
        if "--json" in words:
            assert json.loads(said.out)["note"] == "\x1b[2J\x1b]0;taken\x07\u202e\x9b31m"


# --- curves that take long ---


def bomb(path: Path, **arrays: Any) -> None:
    with np.load(path) as file:
        whole = dict(file)
    content = io.BytesIO()
    np.savez_compressed(content, **{**whole, **arrays})
    path.write_bytes(content.getvalue())


BOMBS = {
    "network": {"network": np.zeros((340_000, 4))},
    "classes": {name: np.zeros((500_000, 1), "<i8") for name in ("class_correct", "class_total")},
    "documents": {
        "indexed": np.zeros((1, 1 << 27), "|u1"),
        "indexed_step": np.zeros(1, "<i8"),
    },
    "rows": {
        **{
            name: np.zeros(2_000_000, "<i8")
            for name in ("step", "examples", "experience", "evaluated", "correct")
        },
        "total": np.ones(2_000_000, "<i8"),
        "loss": np.zeros(2_000_000),
        "full": np.zeros(2_000_000, bool),
    },
}
"""Arrays of less than 400 kB, packed."""


@pytest.mark.parametrize("arrays", BOMBS.values(), ids=BOMBS)
def test_a_small_file_that_unpacks_to_much_takes_little_memory(
    runs: dict[str, Path], tmp_path: Path, arrays: dict[str, Any]
) -> None:
    folder = forge(runs["first"], tmp_path / "forged")
    bomb(folder / "curve.npz", **arrays)
    assert (folder / "curve.npz").stat().st_size < 400_000
    tracemalloc.start()
    with pytest.raises(LedgerError, match=r"curve\.npz is damaged"):
        Curve.load(folder / "curve.npz")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < sum(array.nbytes for array in arrays.values())


@pytest.mark.slow  # it takes the time, which other work on the machine takes, too
@pytest.mark.parametrize("arrays", BOMBS.values(), ids=BOMBS)
def test_a_small_file_that_unpacks_to_much_takes_no_time(
    runs: dict[str, Path], tmp_path: Path, arrays: dict[str, Any]
) -> None:
    folder = forge(runs["first"], tmp_path / "forged")
    bomb(folder / "curve.npz", **arrays)
    start = time.process_time()
    with pytest.raises(LedgerError, match=r"curve\.npz is damaged"):
        Curve.load(folder / "curve.npz")
    refused = time.process_time()
    with np.load(folder / "curve.npz") as file:
        dict(file)
    assert refused - start < 2 * (time.process_time() - refused)


def test_a_file_whose_header_says_more_than_it_holds_asks_for_no_memory(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = forge(runs["first"], tmp_path / "forged")
    with zipfile.ZipFile(folder / "curve.npz") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries["step.npy"] = re.sub(rb"'shape': \(\d+,\), }", b"'shape': (10**9,), }", entries["step.npy"])
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<i8", "fortran_order": False, "shape": (10**10,)})
    entries["step.npy"] = head.getvalue() + bytes(80)
    with zipfile.ZipFile(folder / "curve.npz", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(LedgerError, match=r"'step\.npy' has another size than its shape"):
        Curve.load(folder / "curve.npz")
