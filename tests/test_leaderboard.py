"""The leaderboard: what it takes, that it notices every change, that the same records give the same bytes."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clbench import config, from_arrays
from clbench.cli import ranking
from clbench.cli.judging import plot, verify
from clbench.config import Execution
from clbench.errors import ConfigError, LedgerError
from clbench.files import atomic_write, canonical_json, pretty_json, sha256
from clbench.registry import load_plugin, strategies
from clbench.reports.leaderboard import read_board, readme, row_id, rows_of, store, submit, write_site
from clbench.reports.leaderboard.board import TwiceWarning
from clbench.reports.leaderboard.private import missing, needs
from clbench.reports.rows import Cell, Row, table_rows
from clbench.results import ids
from clbench.results.ledger import Record, read_record
from clbench.results.schema import RULES
from clbench.results.traces import Mean
from clbench.runs import again, identity, lifecycle

SETTINGS = {"iterations": 4, "every": 1}


def run(strategy: str, seed: int, folder: Path, **settings: Any) -> Path:
    resolved = config.resolve("split-digits", strategy, {**SETTINGS, **settings}, seed=seed)
    record = lifecycle.start(resolved, Execution(checkpoint_seconds=None), folder)
    assert record.folder is not None
    return record.folder


def made_of(row: Row, records: Sequence[Record]) -> Row:
    """The row with these records of its runs, and the values that it has."""
    cells = [Cell.of(record, row.benchmark, row.strategy) for record in records]
    return replace(row, cells=cells)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seeds of two strategies and one of a bound, made by a clean checkout."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "_commit", lambda: {"commit": "0" * 40, "dirty": False})
        for seed in range(5):
            run("finetune", seed, folder)
            run("er", seed, folder, memory=50)
        run("joint", 0, folder)
    return folder


@pytest.fixture
def board(runs: Path, tmp_path: Path) -> Path:
    root = tmp_path / "leaderboard"
    assert all(s.path for s in submit(sorted(runs.iterdir()), root))
    return root


def signed(content: dict[str, Any]) -> dict[str, Any]:
    """A record that names its own SHA-256, as one does who forges it."""
    bare = {key: value for key, value in content.items() if key != "sha256"}
    return {**bare, "sha256": sha256(canonical_json(bare))}


def altered(folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a run whose record was changed."""
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    content = json.loads((copy / "record.json").read_text())
    change(content)
    (copy / "record.json").write_text(pretty_json(signed(content)))
    return copy


def refusal(folder: Path, root: Path) -> str:
    (submission,) = submit([folder], root)
    assert submission.path is None
    return submission.refused


# --- what it takes ---


def test_a_record_and_its_curve_are_taken_as_they_are(runs: Path, board: Path) -> None:
    records = {record.id: record for record in read_board(board)}
    for folder in runs.iterdir():
        given, taken = read_record(folder), records[folder.name]
        assert taken.metrics == given.metrics
        assert taken.curve.sha256() == given.curve.sha256()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r["code"].update(dirty=True), "uncommitted changes"),
        (lambda r: r["config"]["optim"].update(lr=0.2), "was altered: its configuration"),
        (
            lambda r: r["metrics"].update(average_accuracy=0.99),
            "says average_accuracy = 0.99, its curve says",
        ),
        (lambda r: r["metrics"].update(invented=1.0), "not known: 'invented'"),
        (lambda r: r["curve"].update(sha256="0" * 64), "SHA-256 differs"),
        (lambda r: r["strategy"].update(name="../../x"), "was altered"),
    ],
    ids=["dirty", "config", "metric", "invented", "curve", "path"],
)
def test_what_is_refused_and_why(
    runs: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    folder = altered(next(iter(sorted(runs.iterdir()))), tmp_path, change)
    assert reason in refusal(folder, tmp_path / "board")


def test_a_run_without_evidence_is_refused_and_keeps_no_other_out(runs: Path, tmp_path: Path) -> None:
    first, second = sorted(runs.iterdir())[:2]
    bare = altered(first, tmp_path, lambda r: None)
    (bare / "curve.npz").unlink()
    refused, taken = submit([bare, second], tmp_path / "board")
    assert "curve.npz" in refused.refused
    assert taken.path
    assert len(read_board(tmp_path / "board")) == 1


def forged(folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a run whose record was changed, with the id that belongs to it."""

    def all_of_it(content: dict[str, Any]) -> None:
        change(content)
        decides = [content[key] for key in ("config", "benchmark", "strategy", "model", "code", "files")]
        content["id"] = ids.run_id(*decides)

    return altered(folder, tmp_path, all_of_it)


def called(name: str) -> Callable[[dict[str, Any]], object]:
    def change(content: dict[str, Any]) -> None:
        content["strategy"]["name"] = content["config"]["strategy"] = name

    return change


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (called("mylab/ft"), "strategy.name 'mylab/ft'"),
        (called(".."), "strategy.name '..'"),
        (called("\x1b[2J"), r"strategy.name '\x1b[2J'"),
        (called("f" * 300), "strategy.name 'fff"),
        (called("+".join(["f" * 80] * 4)), "strategy.name 'fff"),
        (lambda r: r["strategy"].update(version="../1"), "strategy.version '../1'"),
        (lambda r: r["benchmark"].update(version="1/2"), "benchmark.version '1/2'"),
        (lambda r: r["benchmark"].update(name="a\nb"), r"benchmark.name 'a\nb'"),
        (lambda r: r["model"].update(name="m\u202elp"), r"model.name 'm\u202elp'"),
    ],
    ids=["slash", "dots", "escape", "long", "long chain", "version", "its version", "newline", "bidi"],
)
def test_a_run_that_cannot_be_a_file_is_refused_by_its_field_and_keeps_no_other_out(
    runs: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], field: str
) -> None:
    first, second, third = sorted(runs.iterdir())[:3]
    bad = forged(second, tmp_path, change)
    done = submit([first, bad, third], tmp_path / "board")
    assert [bool(s.path) for s in done] == [True, False, True]
    assert field in done[1].refused
    assert {record.id for record in read_board(tmp_path / "board")} == {first.name, third.name}


def test_what_is_there_already_stays_as_it_is(runs: Path, board: Path) -> None:
    files = {path: path.read_bytes() for path in board.rglob("*") if path.is_file()}
    done = submit(sorted(runs.iterdir()), board)
    assert all(s.already and s.path for s in done)
    assert {path: path.read_bytes() for path in board.rglob("*") if path.is_file()} == files


def test_a_name_that_differs_by_case_alone_is_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder would be that of the other where the file system does not tell them apart."""
    (tmp_path / "mine.py").write_text(
        "from clbench import Strategy, register\nfrom clbench.parts import CrossEntropy\n\n"
        "@register('ER')\ndef mine() -> Strategy:\n    return CrossEntropy()\n"
    )
    monkeypatch.setattr(identity, "_commit", lambda: {"commit": "0" * 40, "dirty": False})
    load_plugin(tmp_path / "mine.py")
    mine = run("ER", 0, tmp_path / "mine")
    forget("ER")
    shipped = next(
        folder for folder in sorted(runs.iterdir()) if read_record(folder).strategy["name"] == "er"
    )
    first, second = submit([shipped, mine], tmp_path / "leaderboard")
    assert first.path is not None
    assert "/ER@1 differs by case alone from records/" in second.refused


def test_other_content_of_a_run_replaces_nothing(runs: Path, board: Path, tmp_path: Path) -> None:
    before = (board / "manifest.json").read_bytes()
    other = altered(next(runs.iterdir()), tmp_path, lambda r: r["budget"].update(train_seconds=77.0))
    assert f"has a run {other.name} already, with other budget. It stays; `clbench" in refusal(other, board)
    assert (board / "manifest.json").read_bytes() == before


def test_a_second_run_of_a_row_and_seed_is_refused_until_the_first_is_gone(
    runs: Path, board: Path, tmp_path: Path
) -> None:
    """Whatever the ids: the last one by id would have counted."""
    first = next(runs.iterdir())
    again_ = forged(first, tmp_path, lambda r: r["code"].update(sources="1" * 64, commit="1" * 40))
    id_ = read_record(again_).id
    why = refusal(again_, board)
    assert f"already, {first.name}, made by other code (00000000" in why
    assert f"--remove {first.name}`" in why
    store.remove([first.name], board)
    assert submit([again_], board)[0].path
    assert {first.name, id_} & {record.id for record in read_board(board)} == {id_}
    assert len(submit([again_, first, again_], tmp_path / "other")) == 3
    assert len(read_board(tmp_path / "other")) == 1


def test_two_runs_of_a_row_and_seed_are_never_silent(runs: Path) -> None:
    record = read_record(next(runs.iterdir()))
    with pytest.warns(TwiceWarning, match=f"{record.id} and {'f' * 12}, by other code; {'f' * 12} counts"):
        rows_of([record, replace(record, id="f" * 12)])


def test_a_full_disk_keeps_out_what_could_not_be_written(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sorted(runs.iterdir())[:2]

    def full(path: Path, content: bytes | str) -> None:
        if path.name == f"{second.name}.npz":
            raise LedgerError("The disk is full")
        atomic_write(path, content)

    monkeypatch.setattr("clbench.reports.leaderboard.store.atomic_write", full)
    taken, refused = submit([first, second], tmp_path)
    assert (taken.refused, refused.refused) == ("", "The disk is full")
    assert {record.id for record in read_board(tmp_path)} == {first.name}
    assert store.unlisted(tmp_path) == []


# --- what others cannot run again ---


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of a plug-in on data in a file, and what it is made of."""
    folder = tmp_path_factory.mktemp("private")
    (folder / "ft.py").write_text(
        "from clbench import Strategy, register\nfrom clbench.parts import CrossEntropy\n\n"
        "@register('mylab-ft')\ndef ft() -> Strategy:\n    return CrossEntropy()\n"
    )
    noise = np.random.default_rng(0)
    x, y = noise.integers(0, 255, (40, 6, 6), dtype=np.uint8), np.arange(40) % 4
    np.savez(folder / "mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    settings = {"path": str(folder / "mine.npz"), "experiences": 2, **SETTINGS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "_commit", lambda: {"commit": "0" * 40, "dirty": False})
        load_plugin(folder / "ft.py")
        resolved = config.resolve("npz", "mylab-ft", settings, seed=0)
        lifecycle.start(resolved, Execution(checkpoint_seconds=None), folder / "runs")
    forget("mylab-ft")
    return folder


def forget(name: str) -> None:
    del sys.modules[strategies._made.pop(name).module]


def test_a_run_with_private_parts_is_taken_and_marked(private: Path, tmp_path: Path) -> None:
    (taken,) = submit((private / "runs").iterdir(), tmp_path / "board")
    plugin = sha256((private / "ft.py").read_bytes())
    assert taken.needs == {"strategy mylab-ft": f"ft.py, SHA-256 {plugin[:12]}", "stream.path": "mine.npz"}
    page = (tmp_path / "board" / "README.md").read_text(encoding="utf-8")
    needs = f"strategy mylab-ft (ft.py, SHA-256 {plugin[:12]}), stream.path (mine.npz)"
    assert re.search(
        rf"`(\w+)` † \|\n\n† `\1` cannot be run again by clbench alone; it needs {re.escape(needs)}", page
    )
    site = write_site(read_board(tmp_path / "board"), tmp_path / "board", tmp_path / "site")
    assert " †</a>" in site.read_text(encoding="utf-8")
    (row,) = (tmp_path / "site" / "rows").iterdir()
    assert needs in row.read_text(encoding="utf-8")


def test_what_clbench_has_is_not_marked(board: Path) -> None:
    assert "†" not in (board / "README.md").read_text(encoding="utf-8")


def test_reproducing_what_is_private_says_what_is_missing(
    private: Path, board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit((private / "runs").iterdir(), board)
    with pytest.raises(ConfigError, match=r"without what its author has: strategy mylab-ft \(ft\.py") as why:
        ranking.reproduce("npz", board)
    assert "stream.path" not in str(why.value)  # which is here
    try:
        assert ranking.reproduce("npz", board, plugin=[str(private / "ft.py")], out=tmp_path) == 0
    finally:
        forget("mylab-ft")
    capsys.readouterr()


def test_an_object_in_memory_is_not_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not under the name of a benchmark that clbench has."""
    monkeypatch.setattr(identity, "_commit", lambda: {"commit": "0" * 40, "dirty": False})
    x, y = np.zeros((8, 2), np.uint8), np.arange(8) % 2
    mine = from_arrays(x, y, x, y, experiences=1, name="split-digits")
    record = lifecycle.run(mine, "finetune", out=tmp_path, device="cpu", iterations=1)
    assert needs(record) == missing(record) == {"benchmark split-digits": "an object in memory"}


# --- any change is noticed ---


def test_a_byte_of_any_file_is_noticed(board: Path) -> None:
    """Its first, one in the middle and one at the end, in turn."""
    kinds = [*board.rglob("*.npz")], [*board.rglob("records/**/*.json")]
    assert min(map(len, kinds)) >= 3
    for number, file in itertools.chain(*map(enumerate, kinds)):
        content = file.read_bytes()
        at = (0, len(content) // 2, len(content) - 2)[number % 3]
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(LedgerError, match=file.name):
            read_board(board)
        file.write_bytes(content)
    assert read_board(board)


def test_a_file_that_is_gone_or_was_not_submitted_is_noticed(board: Path) -> None:
    file = next(board.rglob("*.npz"))
    file.rename(file.with_name("other.npz"))
    with pytest.raises(LedgerError, match=r"other\.npz is not in manifest"):
        read_board(board)
    (file.with_name("other.npz")).unlink()
    with pytest.raises(LedgerError, match="is missing"):
        read_board(board)


def test_what_was_not_submitted_counts_for_nothing(board: Path, runs: Path) -> None:
    """Such as half a submission of a process that was killed, by an older version."""
    before = [record.id for record in read_board(board)]
    stray = board / "curves" / "0123456789ab.npz"
    stray.write_text("anything")
    assert [record.id for record in read_board(board)] == before
    assert store.unlisted(board) == [stray]
    store.remove([stray.stem], board)
    assert store.unlisted(board) == []


@pytest.mark.parametrize("damage", ["altered", "gone", "no JSON", "curve gone"])
def test_a_record_is_taken_out_even_if_it_cannot_be_read(board: Path, damage: str) -> None:
    file = next(board.rglob("records/**/*.json"))
    if damage == "altered":
        file.write_text(file.read_text().replace("done", "undone"))
    elif damage == "no JSON":
        file.write_bytes(b"\xff{")
    else:
        (file if damage == "gone" else board / "curves" / f"{file.stem}.npz").unlink()
    with pytest.raises(LedgerError, match=f"`clbench leaderboard --remove {file.stem}` takes it out"):
        read_board(board)
    gone, problem = store.remove([file.stem], board)
    assert sorted(path.suffix for path in gone) == [".json", ".npz"]
    assert not any(path.exists() for path in gone)
    assert (problem, file.stem in (board / "manifest.json").read_text()) == ("", False)
    assert ranking.leaderboard(board, check=True) == 0


def test_records_are_taken_out_together_or_one_by_one(board: Path) -> None:
    """A board that is damaged twice has no new page until both are gone; what no record has is refused."""
    first, second, *others = sorted(board.rglob("records/**/*.json"))
    for file in (first, second):
        file.write_text("{")
    page = (board / "README.md").read_bytes()
    with pytest.raises(ConfigError, match="has no record 'ffffffffffff'"):
        store.remove([first.stem, "ffffffffffff"], board)
    assert first.is_file()
    assert second.name in store.remove([first.stem], board)[1]
    assert (board / "README.md").read_bytes() == page
    assert store.remove([second.stem], board)[1] == ""
    assert (board / "README.md").read_bytes() != page
    assert len(read_board(board)) == len(others)


def test_a_table_on_a_part_of_the_data_is_called_by_it(board: Path) -> None:
    """Also the only one; and not where another run calls the same stream the whole."""
    whole = read_board(board)

    def on(stream: dict[str, Any], records: Sequence[Record], fingerprint: str) -> list[Record]:
        return [
            replace(
                r,
                config={**r.config, "stream": {**r.config["stream"], **stream}},
                benchmark={**r.benchmark, "fingerprint": fingerprint},
            )
            for r in records
        ]

    part = on({"valid": 0.2, "classes": [0, 5]}, whole, "f" * 64)
    assert list(rows_of(part)) == ["split-digits@1 classes=[0,5] valid=0.2"]
    first, second = [r for r in whole if r.strategy["name"] == "er"][:2]
    same = [*on({"train_per_class": 10**6}, [first], "e" * 64), *on({}, [second], "e" * 64)]
    assert list(rows_of(same)) == ["split-digits@1"]


def test_a_forged_sum_does_not_hide_a_forged_number(board: Path) -> None:
    file = next(board.rglob("records/**/*.json"))
    content = json.loads(file.read_text())
    content["metrics"]["average_accuracy"] = 0.99
    file.write_text(pretty_json(signed(content)))
    manifest = json.loads((board / "manifest.json").read_text())
    manifest[file.relative_to(board).as_posix()] = sha256(file.read_bytes())
    (board / "manifest.json").write_text(pretty_json(manifest))
    with pytest.raises(LedgerError, match="its curve says"):
        read_board(board)


# --- the table ---


def test_the_page_depends_on_the_records_alone(runs: Path, board: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for folder in sorted(runs.iterdir(), reverse=True):
        submit([folder], other)
    assert readme(read_board(other)) == readme(read_board(board))
    assert (other / "manifest.json").read_bytes() == (board / "manifest.json").read_bytes()


def test_rows_hold_all_seeds_of_a_configuration(board: Path) -> None:
    (rows,) = rows_of(read_board(board)).values()
    found = {row.strategy: (list(row.seeds), row.bound, row.rank is not None) for row in rows}
    five = [0, 1, 2, 3, 4]
    assert found == {
        "er@1": (five, False, True),
        "finetune@1": (five, False, True),
        "joint@1": ([0], True, False),
    }


def test_an_oracle_and_a_row_with_a_diverged_run_have_no_rank(board: Path) -> None:
    records = read_board(board)

    def changed(record: Record) -> Record:
        if record.strategy["name"] == "finetune":
            return replace(record, selection="oracle")
        if record.strategy["name"] == "er" and record.seeds["data"] == 4:
            return replace(record, status="diverged")
        return record

    (rows,) = rows_of([changed(record) for record in records]).values()
    assert [row.rank for row in rows] == [None, None, None]
    assert {row.strategy: row.unfinished for row in rows}["er@1"] == {"diverged": 1}


def test_settings_tell_rows_of_one_strategy_apart(runs: Path, board: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "_commit", lambda: {"commit": "0" * 40, "dirty": False})
        submit([run("er", 0, tmp_path / "runs", memory=20)], board)
    page = readme(read_board(board))
    assert "params.er.memory=20" in page
    assert "params.er.memory=50" in page


def of(record: Record, fingerprint: str = "", **changes: Any) -> Record:
    """The record of another stream, or of another configuration, under an id of its own."""
    benchmark = {**record.benchmark, **({"fingerprint": fingerprint} if fingerprint else {})}
    stream = {**record.config["stream"], **changes.pop("stream", {})}
    config = {**record.config, "stream": stream, **changes}
    seeds = changes.get("seeds", record.seeds)
    id = sha256(canonical_json([config, benchmark]))[:12]
    return replace(record, id=id, config=config, benchmark=benchmark, seeds=seeds)


def found(records: list[Record]) -> dict[str, dict[str, list[int]]]:
    """Table → strategy → seeds."""
    return {
        title: {row.strategy: [r.seeds["data"] for r in row.records] for row in rows}
        for title, rows in rows_of(records).items()
    }


def of_strategy(board: Path, name: str) -> list[Record]:
    return [record for record in read_board(board) if record.strategy["name"] == name]


def test_other_arguments_of_the_stream_are_another_table(board: Path) -> None:
    """Two experiences are not ranked against five."""
    er, finetune = of_strategy(board, "er"), of_strategy(board, "finetune")
    easy = [of(record, "e" * 64, stream={"experiences": 2}) for record in er]
    five = [0, 1, 2, 3, 4]
    assert found([*easy, *finetune]) == {
        "split-digits@1 experiences=2": {"er@1": five},
        "split-digits@1 experiences=5": {"finetune@1": five},
    }
    page = readme([*easy, *finetune])
    assert "## split-digits@1 experiences=2\n" in page
    assert [row.id for row in again.chosen([*easy, *er], "split-digits@1 experiences=5")] == [
        row.id for row in again.chosen(er, "split-digits")
    ]
    assert len(again.chosen([*easy, *er], "split-digits")) == 2


@pytest.mark.parametrize("drawn", [False, True])
def test_other_data_under_the_same_arguments_are_another_table(board: Path, drawn: bool) -> None:
    er, finetune = of_strategy(board, "er"), of_strategy(board, "finetune")
    theirs = [
        of(r, f"{r.seeds['order'] * drawn:x}".ljust(64, "0"), stream={"path": "images"}) for r in finetune
    ]
    ours = [of(r, f"{8 + r.seeds['order'] * drawn:x}".ljust(64, "0"), stream={"path": "images"}) for r in er]
    five = [0, 1, 2, 3, 4]
    tables = found([*theirs, *ours])
    assert sorted(tables.values(), key=str) == [{"er@1": five}, {"finetune@1": five}]
    assert all(title.startswith("split-digits@1 data=") for title in tables)
    assert [row.rank for rows in rows_of([*theirs, *ours]).values() for row in rows] == [(1, 1), (1, 1)]
    assert not any(row.best for rows in rows_of([*theirs, *ours]).values() for row in rows)


def test_one_configuration_on_two_data_sets_is_two_rows(board: Path) -> None:
    er = of_strategy(board, "er")
    other = [of(record, "e" * 64) for record in er]
    rows = [row for table in rows_of([*er, *other]).values() for row in table]
    assert [row.seeds for row in rows] == [(0, 1, 2, 3, 4)] * 2
    (plain,) = {row_id(record) for record in er}
    assert {row.id for row in rows} == {f"{plain}-eeeeeeee", f"{plain}-{er[0].benchmark['fingerprint'][:8]}"}


def test_a_seed_that_is_set_is_a_row_of_its_own_and_is_run_again_so(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    er = of_strategy(board, "er")
    fixed = [of(r, seeds={**r.seeds, "init": 7}) for r in er]
    (rows,) = rows_of([*er, *fixed]).values()
    assert sorted((len(row.seeds), row.apart) for row in rows) == [
        (5, ""),
        (5, "seeds.init=7"),
    ]
    given: list[Any] = []

    def start(config: Any, execution: Execution, runs: Path) -> Record:
        given.append(config)
        return er[0]

    monkeypatch.setattr("clbench.runs.lifecycle.start", start)
    (row,) = [row for row in rows if "seeds" in row.config]
    again.reproduce(row, [3], tmp_path, Execution())
    assert given[0].seeds.model_dump() == {"order": 3, "init": 7, "data": 3}
    assert given[0].stream["seed"] == 3


def test_what_an_older_version_left_undefined_is_what_the_curve_says(runs: Path, tmp_path: Path) -> None:
    """A definition was widened; nothing is hidden by saying nothing."""
    folder = sorted(runs.iterdir())[0]
    older = altered(folder, tmp_path, lambda r: r["metrics"].update(average_accuracy=None))
    assert not submit([older], tmp_path / "board")[0].refused
    (record,) = read_board(tmp_path / "board")
    assert record.metrics == read_record(folder).metrics


def test_a_plot_tells_configurations_and_streams_apart(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, dict[str, int]] = {}

    def keep(curves: dict[str, Mean], file: Path, **_: Any) -> None:
        drawn[file.name] = {name: of.runs for name, of in curves.items()}

    others = [run("er", 0, tmp_path, memory=20), run("er", 1, tmp_path, experiences=2)]
    monkeypatch.setattr("clbench.reports.plots.stability_gap", keep)
    plot([*runs.iterdir(), *others], tmp_path / "gap.png")
    assert drawn == {
        "gap-split-digits-experiences-2.png": {"er": 1},
        "gap-split-digits-experiences-5.png": {
            "er memory=50": 5,
            "er memory=20": 1,
            "finetune": 5,
            "joint": 1,
        },
    }


# --- run again ---


def test_a_row_reproduces_to_the_bit(board: Path, tmp_path: Path) -> None:
    (row,) = [row for row in again.chosen(read_board(board), "split-digits") if row.strategy == "er@1"]
    verdicts = again.reproduce(row, [0, 3], tmp_path, Execution(checkpoint_seconds=None))
    assert verdicts
    assert all(v.agrees and v.same_bits for v in verdicts)


def test_a_broken_strategy_disagrees(board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ER that forgets to replay."""
    from clbench.parts import Replay

    (row,) = [row for row in again.chosen(read_board(board), "split-digits") if row.strategy == "er@1"]
    longer = {"train": {**row.config["train"], "iterations": 40}}
    long = made_of(row, [replace(record, config=record.config | longer) for record in row.records])
    honest = again.reproduce(long, None, tmp_path / "a", Execution(checkpoint_seconds=None))
    recorded = replace(long, values={v.metric: {} for v in honest})
    values = {
        seed: read_record(folder).metrics
        for folder in (tmp_path / "a").iterdir()
        for seed in [read_record(folder).seeds["data"]]
    }
    recorded = replace(
        long,
        values={name: {s: m[name] for s, m in values.items() if m[name] is not None} for name in values[0]},
    )
    monkeypatch.setattr(Replay, "extend", lambda self, batch: batch)
    verdicts = again.reproduce(recorded, None, tmp_path / "b", Execution(checkpoint_seconds=None))
    assert not all(v.agrees for v in verdicts)


def test_a_wrong_record_disagrees(board: Path) -> None:
    (row,) = [row for row in again.chosen(read_board(board), "split-digits") if row.strategy == "er@1"]
    wrong = {seed: value + 0.2 for seed, value in row.values["average_accuracy"].items()}
    verdicts = again.compare(row, {**row.values, "average_accuracy": wrong}, {})
    assert [v.metric for v in verdicts if not v.agrees] == ["average_accuracy"]


def test_a_metric_that_does_not_come_out_disagrees(board: Path) -> None:
    row = again.chosen(read_board(board), "split-digits@1")[0]
    assert not any(v.agrees for v in again.compare(row, {}, {}))


@pytest.mark.parametrize(
    ("recorded", "now", "agrees"),
    [
        ((1, 1, 1, 1, 1), (1, 1, 1, 1, 1), True),
        ((0, 0, 0, 0, 0), (0, 0, 1, 0, 0), False),
        ((1, 1, 1, 1, 1), (0,), False),
    ],
)
def test_runs_that_diverge_are_compared(
    board: Path, recorded: tuple[int, ...], now: tuple[int, ...], agrees: bool
) -> None:
    (row,) = [row for row in again.chosen(read_board(board), "split-digits") if row.strategy == "er@1"]
    ended = {seed: "diverged" if did else "done" for seed, did in enumerate(recorded)}
    row = made_of(row, [replace(record, status=ended[record.seeds["data"]]) for record in row.records])
    row = replace(row, values={} if all(recorded) else row.values)
    new = {} if all(now) else row.values
    verdicts = again.compare(row, new, {seed: bool(did) for seed, did in enumerate(now)})
    assert {v.metric: v.agrees for v in verdicts}["diverged"] is agrees
    assert all(v.agrees for v in verdicts if v.metric != "diverged")


def test_a_row_is_run_again_with_the_threads_of_its_record(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = again.chosen(read_board(board), "split-digits@1")[0]
    given: list[int | None] = []

    def start(config: Any, execution: Execution, runs: Path) -> Any:
        given.append(config.threads)
        return row.records[0]

    monkeypatch.setattr("clbench.runs.lifecycle.start", start)
    environment = {**row.records[0].environment, "threads": 7}  # where older records say so
    odd = made_of(row, [replace(row.records[0], environment=environment)])
    again.reproduce(odd, None, tmp_path, Execution())
    again.reproduce(odd, None, tmp_path, Execution(), threads=2)
    assert given == [7, 2]


def test_an_unknown_row_gets_the_nearest_name(board: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'split-digits@1'"):
        again.chosen(read_board(board), "split-digit@1")


# --- of another version ---


def made_otherwise(record: Record, **changes: Mapping[str, Any]) -> Record:
    """A record with other entries in some of its mappings."""
    return replace(record, **{name: {**getattr(record, name), **new} for name, new in changes.items()})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluation": {"rules": 1}}, f"rules of evaluation 1 (here {RULES})"),
        ({"evaluation": {"rules": 99}}, f"rules of evaluation 99 (here {RULES})"),
        ({"strategy": {"version": "0"}}, "strategy er 0 (here 1)"),
        ({"benchmark": {"version": 7}}, "benchmark split-digits 7 (here 1)"),
        ({"model": {"version": 7}}, "model mlp 7 (here 1)"),
        ({"strategy": {"name": "er+ema", "version": "1+0"}}, "strategy er+ema 1+0 (here 1+"),
    ],
)
def test_a_record_of_other_versions_says_which_and_where_its_code_is(
    board: Path, changes: dict[str, Any], said: str
) -> None:
    (row,) = [row for row in again.chosen(read_board(board), "split-digits") if row.strategy == "er@1"]
    told = again.outdated([made_otherwise(row.records[0], **changes)], "It")
    assert told.startswith(f"It was recorded with {said}")
    assert f"check out commit {'0' * 12}, as the record says" in told
    assert "\n" not in told


def test_a_record_of_these_versions_or_of_a_strategy_not_at_hand_says_nothing_of_them(board: Path) -> None:
    records = read_board(board)
    assert again.outdated(records, "All") == ""
    assert again.outdated([made_otherwise(records[0], strategy={"name": "mine", "version": "9"})], "It") == ""


def test_reproduce_says_first_that_the_rules_were_others(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = [row for row in again.chosen(read_board(board), "split-digits") if row.strategy == "er@1"]
    old = made_of(row, [made_otherwise(record, evaluation={"rules": 1}) for record in row.records])
    monkeypatch.setattr(again, "chosen", lambda records, name: [old])
    monkeypatch.setattr(again, "reproduce", lambda row, *how: again.compare(row, {}, {}))
    assert ranking.reproduce(row.id, board) == 1
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(f"Row {row.id} was recorded with rules of evaluation 1 (here {RULES})")
    assert "DISAGREES" in "".join(others)


def test_verify_says_first_that_the_rules_were_others(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(__file__).parent / "historic" / "0.1.0-first"
    verify(folder, steps=0)
    first = capsys.readouterr().out.splitlines()[0]
    assert f"was recorded with rules of evaluation 1 (here {RULES})" in first
    assert "check out commit b4e53f3caf88" in first


# --- the first steps ---


def test_first_steps_come_out_to_the_bit(runs: Path) -> None:
    begun = again.first_steps(read_record(next(iter(sorted(runs.iterdir())))), 6)
    assert begun.agrees
    assert begun.differing == 0
    assert begun.rows > 6  # one row a step and stream, and the full evaluations before


def test_first_steps_that_end_an_experience_go_on_to_the_next(runs: Path) -> None:
    record = read_record(next(iter(sorted(runs.iterdir()))))
    curve = record.curve
    ends = np.unique(curve.step[curve.full & (curve.experience >= 0)]).tolist()
    for asked, made in ((ends[0], ends[0] + 1), (ends[0] - 1, ends[0] - 1)):
        begun = again.first_steps(record, asked)
        assert begun.agrees
        assert begun.steps == made
        assert begun.rows == (curve.step + curve.full * (curve.step > 0) <= made).sum()
    assert again.first_steps(record, ends[-1]).agrees


def test_first_steps_of_a_broken_strategy_differ(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clbench.parts import Replay

    folder = next(f for f in sorted(runs.iterdir()) if read_record(f).strategy["name"] == "er")
    monkeypatch.setattr(Replay, "extend", lambda self, batch: batch)
    begun = again.first_steps(read_record(folder), 12)
    assert begun.differing
    assert not begun.agrees


def test_a_run_from_elsewhere_may_differ_a_little(runs: Path) -> None:
    same = again.first_steps(read_record(next(iter(sorted(runs.iterdir())))), 2)
    assert replace(same, differing=3, largest=0.01, elsewhere=("processor",)).agrees
    assert not replace(same, differing=3, largest=0.01).agrees
    assert not replace(same, differing=3, largest=0.2, elsewhere=("processor",)).agrees


def test_a_processor_of_the_same_name_may_have_other_instructions(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clbench.parts import Replay

    record = next(r for f in sorted(runs.iterdir()) if (r := read_record(f)).strategy["name"] == "er")
    here = record.environment
    older = {key: value for key, value in here.items() if key != "instructions"}

    def elsewhere(environment: dict[str, Any]) -> tuple[str, ...]:
        return again.first_steps(replace(record, environment=environment), 12).elsewhere

    assert elsewhere(here) == elsewhere(older) == ()
    assert elsewhere(here | {"instructions": "another"}) == ("instructions",)
    monkeypatch.setattr(Replay, "extend", lambda self, batch: batch)
    assert elsewhere(here) == ()
    assert elsewhere(older) == ("instructions (not recorded)",)


def test_the_projects_own_leaderboard_follows_from_its_records() -> None:
    root = Path(__file__).resolve().parent.parent / "leaderboard"
    records = read_board(root)
    assert records
    assert readme(records) == (root / "README.md").read_text(encoding="utf-8")
    for title, rows in rows_of(records).items():  # and a suite's report of the same runs marks the same
        cells = [
            Cell(title, row.id, r.seeds["data"], r.status, r.metrics, bound=row.bound, config=row.config)
            for row in rows
            for r in row.records
        ]
        marked = {row.strategy for row in table_rows(cells) if "average_accuracy" in row.best}
        assert marked == {row.id for row in rows if row.best}
