"""Manifests: one stream from any kind of file, rules that make experiences, and all faults at once."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Command, command
from PIL import Image

import clbench
from clbench import data
from clbench.data.manifest_streams import manifest_of, settings_of_manifest
from clbench.errors import ConfigError, DataError

clbench_command = pytest.fixture(command)
Row = dict[str, Any]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    return tmp_path


def paint(path: Path, seed: int, size: tuple[int, int] = (6, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Two experiences of two classes, three images for training and two for testing each, in files; shuffled."""
    listed = []
    for split, n in (("train", 3), ("test", 2)):
        for c in range(4):
            for i in range(n):
                path = f"photos/{split}/c{c}/{i}.png"
                paint(tmp_path / path, 100 * c + 10 * n + i)
                listed.append({"path": path, "label": f"c{c}", "split": split, "experience": c // 2})
    order = np.random.default_rng(0).permutation(len(listed))
    return [listed[i] for i in order]


def write(file: Path, rows: list[Row]) -> Path:
    """A manifest of the kind that the name of the file says."""
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps({k: v for k, v in row.items() if v != ""}) + "\n" for row in rows))
    elif file.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = {k: [None if row[k] == "" else row[k] for row in rows] for k in rows[0]}
        parquet.write_table(pyarrow.table(columns), file)
    else:
        with file.open("w", newline="") as out:
            table = csv.DictWriter(out, rows[0].keys(), delimiter="\t" if file.suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    return file


# --- one stream, one fingerprint ---


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_stream_is_one_from_a_manifest_a_folder_and_arrays(
    rows: list[Row], tmp_path: Path, kind: str
) -> None:
    folder = clbench.from_folder(tmp_path / "photos", size=6, experiences=2)
    columns = clbench.from_manifest(write(tmp_path / f"m.{kind}", rows))
    classes = clbench.from_manifest(tmp_path / f"m.{kind}", experience="", size=6, experiences=2)
    pools = [stream[0].data.parts[0][0] for stream in (folder.train, folder.test)]
    arrays = clbench.from_arrays(*(part for pool in pools for part in (pool.x, pool.y)), experiences=2)
    assert columns.fingerprint == classes.fingerprint == folder.fingerprint == arrays.fingerprint
    assert columns.class_names == ("c0", "c1", "c2", "c3")


def test_without_a_split_the_share_for_testing_is_that_of_a_folder(tmp_path: Path) -> None:
    for i in range(20):
        paint(tmp_path / f"all/c{i % 4}/{i}.png", i)
    listed = sorted((tmp_path / "all").rglob("*.png"))
    lines = [{"path": p.relative_to(tmp_path / "all"), "label": p.parent.name} for p in listed]
    made = clbench.from_manifest(write(tmp_path / "all" / "m.csv", lines), experiences=2)
    (tmp_path / "all" / "m.csv").rename(tmp_path / "m.csv")
    assert made.fingerprint == clbench.from_folder(tmp_path / "all", size=6, experiences=2).fingerprint


def test_domains_are_those_of_a_folder(tmp_path: Path) -> None:
    lines = []
    for k, (split, domain, label, i) in enumerate(
        (s, d, c, i)
        for s in ("train", "test")
        for d in ("photo", "art")
        for c in ("ant", "bee")
        for i in (0, 1)
    ):
        paint(tmp_path / "pacs" / split / domain / label / f"{i}.png", k)
        lines.append(
            {"file": f"{split}/{domain}/{label}/{i}.png", "y": label, "style": domain, "split": split}
        )
    file = write(tmp_path / "m.csv", lines[::-1])
    named, order = {"image": "file", "label": "y", "domain": "style"}, ["photo", "art"]
    made = clbench.from_manifest(file, **named, root=tmp_path / "pacs", by="domain", domain_order=order)
    same = clbench.from_folder(tmp_path / "pacs", size=6, shift="domain", domain_order=order)
    assert made.fingerprint == same.fingerprint
    assert [exp.domain for exp in made.train] == ["photo", "art"]


def test_features_and_rows_of_an_array_are_those_of_arrays(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    y, split = np.arange(20) % 4, ["train"] * 12 + ["test"] * 8
    same = clbench.from_arrays(x[:12], y[:12], x[12:], y[12:], experiences=2)
    np.save(tmp_path / "x.npy", x)
    columns = [{"label": y[i], "split": split[i], **{f"f{k}": x[i, k] for k in range(3)}} for i in range(20)]
    lists = [{"label": int(y[i]), "split": split[i], "z": x[i].tolist()} for i in range(20)]
    numbers = [{"label": y[i], "split": split[i], "row": i} for i in range(20)]
    made = [
        clbench.from_manifest(write(tmp_path / "a.csv", columns), features=["f*"], experiences=2),
        clbench.from_manifest(write(tmp_path / "b.jsonl", lists), features=["z"], experiences=2),
        clbench.from_manifest(
            write(tmp_path / "c.csv", numbers[::-1]), array=tmp_path / "x.npy", experiences=2
        ),
    ]
    assert [one.fingerprint for one in made] == [same.fingerprint] * 3


def test_numbers_are_read_however_they_are_written(tmp_path: Path) -> None:
    written = [[True, 2], ["1", "2"], [1.0, "2e0"], [1, 2]]
    lines = [{"v": written[i % 4], "label": i % 2, "split": ("train", "test")[i // 4]} for i in range(8)]
    made = clbench.from_manifest(write(tmp_path / "m.jsonl", lines), features="v", experiences=2)
    assert made.train[0].data.x().tolist() == [[1.0, 2.0]] * 2


@pytest.mark.parametrize(
    ("odd", "at", "told"),
    [
        ([1.0], 600, r"\(1\): line 601: 1 numbers, where the first has 2"),
        ([1.0, "two"], 3, r"\(1\): line 4: 'two'"),
        (None, 0, r"\(1\): line 1: None"),
    ],
)
def test_rows_of_features_that_do_not_fit_are_told(tmp_path: Path, odd: Any, at: int, told: str) -> None:
    lines = [{"v": odd if i == at else [1.0, i], "label": i % 2} for i in range(601)]
    with pytest.raises(DataError, match=f"Cells of 'v' that hold no number {told}"):
        clbench.from_manifest(write(tmp_path / "m.jsonl", lines), features="v")


def test_files_of_arrays_are_rows_of_one(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    for i in range(8):
        np.save(tmp_path / f"{i}.npy", x[i])
    lines = [{"path": f"{i}.npy", "label": i % 2, "split": "train" if i < 4 else "test"} for i in range(8)]
    made = clbench.from_manifest(write(tmp_path / "m.csv", lines), experiences=2)
    same = clbench.from_arrays(x[:4], [0, 1, 0, 1], x[4:], [0, 1, 0, 1], experiences=2)
    assert made.fingerprint == same.fingerprint


@pytest.mark.parametrize("files", [False, True])
def test_texts_are_those_of_lists(tmp_path: Path, files: bool) -> None:
    texts = [f"what is {i}?" for i in range(8)]
    lines: list[Row] = [
        {"text": t, "label": "ab"[i % 2], "split": "train" if i < 4 else "test"} for i, t in enumerate(texts)
    ]
    for i, line in enumerate(lines if files else []):
        (tmp_path / f"{i}.txt").write_text(line.pop("text"))
        line["path"] = f"{i}.txt"
    made = clbench.from_manifest(write(tmp_path / "m.csv", lines), experiences=2)
    same = clbench.from_texts(texts[:4], [*"abab"], texts[4:], [*"abab"], experiences=2)
    assert made.fingerprint == same.fingerprint
    assert made.texts


def read(file: Path, **params: Any) -> Any:
    return manifest_of(file, settings_of_manifest(params)[0])


def test_the_canonical_form_has_the_hash_of_the_specification(tmp_path: Path) -> None:
    keys = ("split", "experience", "order", "path", "label", "domain", "time", "group", "box")
    told = [
        ("train", 0, 0, "core50_32x32/s1/o1/C_01_01_050.png", 0, "s1", "", "", ""),
        ("train", 0, 1, "core50_32x32/s1/o2/C_01_02_051.png", 1, "s1", "", "", ""),
        ("train", 1, 0, "core50_32x32/s2/o1/C_02_01_050.png", 0, "s2", "", "", ""),
        ("train", 1, 1, "stream51/a/frame_7.jpg", 2, "", "2008-03-21T19:14:37Z", "vid3", "12,30,100,80"),
        ("test", "", "", "core50_32x32/s3/o1/C_03_01_050.png", 0, "s3", "", "", ""),
    ]
    lines = [dict(zip(keys, line, strict=True)) for line in told]
    digests = {
        read(write(tmp_path / f"m.{kind}", order)).digest
        for kind in ("csv", "jsonl")
        for order in (lines, lines[::-1], [dict(reversed(line.items())) for line in lines])
    }
    assert digests == {"7de7f4384893f2d2ca95d2677d722b2e882608bab55e4c50f8947cf42fad402a"}
    lines[0]["label"], lines[1]["label"] = 1, 0
    assert read(write(tmp_path / "m.csv", lines)).digest not in digests


# --- experiences ---


def test_test_rows_without_experience_are_tested_after_each(rows: list[Row], tmp_path: Path) -> None:
    empty = [row | {"experience": row["experience"] if row["split"] == "train" else ""} for row in rows]
    made = clbench.from_manifest(write(tmp_path / "m.csv", empty))
    assert [exp.tests for exp in made.train] == [(0, 1), (2, 3)]  # those of classes that it holds
    recurring = [row | {"experience": i % 2 if row["split"] == "train" else ""} for i, row in enumerate(rows)]
    for row in recurring:
        row["label"] = "same" if row["label"] in ("c0", "c1") else "other"
    made = clbench.from_manifest(write(tmp_path / "m.csv", recurring))
    assert [len(exp) for exp in made.test] == [8]
    assert [exp.tests for exp in made.train] == [(0,), (0,)]
    assert made.setting.shift == "domain"


def test_the_order_of_rows_is_kept(rows: list[Row], tmp_path: Path) -> None:
    for i, row in enumerate(rows):
        row |= {"order": 100 - i}
    made = clbench.from_manifest(write(tmp_path / "m.csv", rows))
    exp = made.train[1]
    own = [row for row in rows if row["split"] == "train" and row["experience"] == 1]
    in_order = [row["label"] for row in sorted(own, key=lambda row: row["order"])]
    assert [made.class_names[c] for c in exp.data.y().tolist()] == in_order
    assert exp.ordered
    assert not made.test[0].ordered


def timed(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.arange(30, dtype=np.float32).reshape(15, 2))
    lines = [
        {
            "row": i,
            "label": i % 2,
            "split": "test" if i % 3 == 2 else "train",
            "time": f"2020-01-{i + 1:02}T00:00:00Z",
        }
        for i in range(15)
    ]
    return write(tmp_path / "m.csv", lines[::-1])


def test_windows_of_time_hold_equal_counts(tmp_path: Path) -> None:
    made = clbench.from_manifest(timed(tmp_path), array=tmp_path / "x.npy", by="time", periods=2)
    assert [exp.data.x()[:, 0].tolist() for exp in made.train] == [[0, 2, 6, 8, 12], [14, 18, 20, 24, 26]]
    assert [exp.data.x()[:, 0].tolist() for exp in made.test] == [[4, 10], [16, 22, 28]]


def test_windows_of_time_may_be_listed(tmp_path: Path) -> None:
    edges = ["2020-01-03", 1578268800.0]  # the third, and the sixth of January
    made = clbench.from_manifest(
        timed(tmp_path), array=tmp_path / "x.npy", by="time", periods=edges, tested="class"
    )
    assert [len(exp) for exp in made.train] == [2, 2, 6]


def test_a_stream_is_cut_by_count_in_the_order_of_time(tmp_path: Path) -> None:
    made = clbench.from_manifest(timed(tmp_path), array=tmp_path / "x.npy", by="count", count=4, online=True)
    assert [exp.data.x()[:, 0].tolist() for exp in made.train] == [[0, 2, 6, 8], [12, 14, 18, 20], [24, 26]]
    assert all(exp.ordered for exp in made.train)
    assert not made.setting.boundaries
    assert made.setting.passes == 1


def test_rows_of_one_time_come_in_the_order_of_their_paths(rows: list[Row], tmp_path: Path) -> None:
    timed = [row | {"time": row["experience"]} for row in rows]
    rule: dict[str, Any] = {"by": "count", "count": 5, "experience": ""}
    one, other = (
        clbench.from_manifest(write(tmp_path / "m.csv", each), **rule) for each in (timed, timed[::-1])
    )
    assert one.fingerprint == other.fingerprint


def test_task_labels_are_those_of_the_column(rows: list[Row], tmp_path: Path) -> None:
    for row in rows:
        row["task"] = 7 + row["experience"]
    made = clbench.from_manifest(write(tmp_path / "m.csv", rows))
    assert (made.setting.shift, made.setting.task_labels) == ("task", "always")
    assert [exp.task for exp in made.train] == [7, 8]


def test_other_splits_are_named_and_the_rest_left_out(rows: list[Row], tmp_path: Path) -> None:
    for row in rows:
        row["split"] = "id_test" if row["split"] == "test" else "train"
    rows.append(rows[0] | {"path": "gone.png", "split": "ood"})
    made = clbench.from_manifest(write(tmp_path / "m.csv", rows), test_split=["id_test"])
    assert len(made.test) == 2
    assert "1 rows of the splits ood are left out" in made.notes


@pytest.mark.parametrize("by", ["class", "domain"])
def test_what_is_tested_is_told_where_classes_or_domains_are_experiences(
    rows: list[Row], tmp_path: Path, by: str
) -> None:
    for row in rows:  # no domain is both trained and tested, as in collections that test on others
        row["domain"] = f"{row['split']} {row['experience']}"
        del row["experience"]
    file, order = write(tmp_path / "m.csv", rows), ["train 1", "train 0"]
    params: dict[str, Any] = {"by": by, **({"domain_order": order} if by == "domain" else {"experiences": 2})}
    made = clbench.from_manifest(file, **params, tested="together", boundaries=False)
    assert [exp.domain for exp in made.train] == (order if by == "domain" else [None, None])
    assert ([exp.tests for exp in made.train], [len(exp) for exp in made.test]) == ([(0,), (0,)], [8])
    assert (made.setting.shift, made.setting.boundaries) == (by, False)
    made = clbench.from_manifest(file, **params, tested="class")
    assert [exp.tests for exp in made.train] == ([(2, 3), (0, 1)] if by == "domain" else [(0, 1), (2, 3)])
    if by == "domain":
        with pytest.raises(DataError, match="with tested=class or tested=together"):
            clbench.from_manifest(file, by=by)


@pytest.mark.parametrize("split", ["split", ""])
def test_classes_that_are_only_trained_or_only_tested_may_be_left_out(
    rows: list[Row], tmp_path: Path, split: str
) -> None:
    kept = [row for row in rows if row["label"] in ("c0", "c2")]
    alone = [row | {"split": "test" if row["label"] == "c1" else "train"} for row in rows if row not in kept]
    if not split:  # of one row, none can be for testing
        alone = [next(row for row in rows if row["label"] == "c1")]
    params: dict[str, Any] = {"split": split, "experience": "", "experiences": 2}
    same = clbench.from_manifest(write(tmp_path / "same.csv", kept), **params)
    file = write(tmp_path / "m.csv", kept + alone)
    made = clbench.from_manifest(file, **params, unmatched="drop")
    assert (made.fingerprint, made.class_names) == (same.fingerprint, ("c0", "c2"))
    assert f"{len(alone)} rows of classes that are only trained, or only tested, are left out." in made.notes
    with pytest.raises(DataError, match="unmatched=drop"):
        clbench.from_manifest(file, **params)


def test_classes_with_final_numbers_are_not_numbered_anew(rows: list[Row], tmp_path: Path) -> None:
    listed = [
        row | {"label": row["label"][1:]} for row in rows if row["split"] == "train" or row["label"] != "c1"
    ]
    file = write(tmp_path / "m.csv", listed)
    with pytest.raises(DataError, match="labels=names"):
        clbench.from_manifest(file, unmatched="drop")
    assert clbench.from_manifest(file, unmatched="drop", labels="names").class_names == ("0", "2", "3")


def test_domains_without_counterparts_may_be_left_out(rows: list[Row], tmp_path: Path) -> None:
    listed = [row | {"domain": "a", "experience": ""} for row in rows]
    listed += [
        row | {"domain": "b" if row["split"] == "train" else "c", "path": f"{row['path']}"} for row in rows
    ]
    for row in listed[len(rows) :]:
        row["path"] = row["path"].replace("photos", "more")
        paint(tmp_path / row["path"], 1)
    made = clbench.from_manifest(
        write(tmp_path / "m.csv", listed), by="domain", experience="", unmatched="drop"
    )
    assert ([exp.domain for exp in made.train], [len(exp) for exp in made.train]) == (["a"], [12])


def test_words_of_the_split_may_be_numbers(clbench_command: Command, rows: list[Row], tmp_path: Path) -> None:
    file = write(tmp_path / "m.csv", [row | {"split": 2 * (row["split"] == "test")} for row in rows])
    said = clbench_command("show", "manifest", f"path={file}", "train_split=[0]", "test_split=[2]")
    assert (said.code, said.err) == (0, "")
    told = data.describe_manifest(file, train_split=[0], test_split=[2], experience="", experiences=4)
    assert (told.splits, "experiences by class: 4" in repr(told)) == ({"train": 12, "test": 8}, True)


def test_experiences_are_counted_in_training(rows: list[Row], tmp_path: Path) -> None:
    for row in rows:
        row["experience"] = "" if row["split"] == "test" else row["experience"]
    told = repr(data.describe_manifest(write(tmp_path / "m.csv", rows)))
    assert "experiences by experience: 2" in told
    assert "test 4: 2 rows, 1 class" in told


def test_groups_are_kept_together(rows: list[Row], tmp_path: Path) -> None:
    lines = [{"path": row["path"], "label": row["label"], "user": row["path"][-5]} for row in rows]
    made = clbench.from_manifest(
        write(tmp_path / "m.csv", lines), group="user", test_fraction=0.4, experiences=2
    )
    assert sum(map(len, made.test)) in (8, 4)  # the images of one user


def test_boxes_are_cut_out_first(rows: list[Row], tmp_path: Path) -> None:
    for row in rows:
        row["box"] = "1,2,3,3"
    made = clbench.from_manifest(write(tmp_path / "m.csv", rows))
    first = Image.open(tmp_path / "photos/train/c0/0.png")
    assert (made.train[0].data.x()[0].permute(1, 2, 0).numpy() == np.asarray(first)[1:4, 2:5]).all()


@pytest.mark.parametrize("experience", ["experience", ""])
def test_images_are_prepared_by_the_recipe_of_a_folder(
    rows: list[Row], tmp_path: Path, experience: str
) -> None:
    shares = {} if experience else {"experiences": 2}
    recipe = {"size": 4, "recipe": "pilot"}
    made = clbench.from_manifest(write(tmp_path / "m.csv", rows), experience=experience, **shares, **recipe)
    same = clbench.from_folder(tmp_path / "photos", experiences=2, **recipe)
    assert made.fingerprint == same.fingerprint


def test_a_held_out_share_makes_a_validation_stream(rows: list[Row], tmp_path: Path) -> None:
    made = clbench.from_manifest(write(tmp_path / "m.csv", rows), valid=0.3)
    assert made.valid is not None
    assert [(len(a), len(b)) for a, b in zip(made.train, made.valid, strict=True)] == [(4, 2), (4, 2)]


def test_rules_change_nothing_that_is_shuffled(rows: list[Row], tmp_path: Path) -> None:
    made = clbench.from_manifest(write(tmp_path / "m.csv", rows))
    again = clbench.from_manifest(write(tmp_path / "m.csv", rows[::-1]))
    assert made.fingerprint == again.fingerprint
    assert made.notes == again.notes


# --- faults ---

Change = Callable[[list[Row]], object]
FAULTS: dict[str, tuple[Change, dict[str, Any], str]] = {
    "missing file": (
        lambda rows: rows[0].update(path="photos/nowhere.png"),
        {},
        r"Files that are not there \(1\): line 2: photos/nowhere\.png",
    ),
    "never trained": (
        lambda rows: [r.update(label="wasp") for r in rows if r["path"] == "photos/test/c1/0.png"],
        {},
        r"Labels of test rows that are never trained \(1\): line \d+: 'wasp'",
    ),
    "other label": (
        lambda rows: rows.append(rows[0] | {"label": "c9"}),
        {},
        r"Rows of one file with other labels \(1\): line 22: .* is 'c9', but 'c\d' in line 2",
    ),
    "twice": (
        lambda rows: rows.append(dict(rows[0])),
        {},
        r"Rows of a file that is in the split already \(1\): line 22",
    ),
    "both splits": (
        lambda rows: rows.append(rows[0] | {"split": "test" if rows[0]["split"] == "train" else "train"}),
        {},
        r"Rows of a file that is in another split \(1\)",
    ),
    "no test rows": (
        lambda rows: [r.update(experience=2) for r in rows if r["split"] == "train" and r["label"] == "c3"],
        {},
        r"Experiences without test rows \(1 of 3\): 2",
    ),
    "backwards": (
        lambda rows: [r.update(time=f"20{20 - r['experience']}-01-01") for r in rows],
        {},
        r"Times that are earlier than those before them \(6\): line \d+: 2019-01-01T00:00:00Z in experience 1",
    ),
    "no column": (
        lambda rows: None,
        {"label": "lable"},
        r"There is no column 'lable', of the label. Did you mean 'label'",
    ),
    "near column": (
        lambda rows: [r.update(domian="a") for r in rows],
        {},
        r"The column 'domian' is not used, and looks like 'domain'",
    ),
    "capitalised column": (
        lambda rows: [r.update(Domain="a") for r in rows],
        {},
        r"The column 'Domain' is not used.*domain=Domain",
    ),
    "sizes": (
        lambda rows: paint(Path("photos/train/c0/0.png"), 0, (7, 5)),
        {},
        r"Images of other sizes than the first, which is . × .*7 × 5|6 × 6",
    ),
    "gap": (
        lambda rows: [r.update(experience=2) for r in rows if r["experience"] == 1],
        {},
        r"they go up to 2, and no training row has 1",
    ),
    "label gap": (
        lambda rows: [r.update(label=int(r["label"][1]) * 2) for r in rows],
        {},
        r"No row has the label 1, and labels go up to 6.*labels=names",
    ),
    "outside": (
        lambda rows: rows[0].update(path="../x.png"),
        {},
        r"line 2: \.\./x\.png, which does not lie in",
    ),
    "no label": (lambda rows: rows[0].update(label=""), {}, r"Rows without a label \(1\): line 2"),
    "no number": (lambda rows: rows[0].update(experience="one"), {}, r"hold no number \(1\): line 2: 'one'"),
    "unknown split": (
        lambda rows: rows[0].update(split="dev"),
        {},
        r"split that are not known \(1\): line 2: 'dev'",
    ),
    "place taken": (
        lambda rows: [r.update(order=0) for r in rows],
        {},
        r"Rows whose place is taken \(10\)",
    ),
    "group": (
        lambda rows: [r.update(group="mary") for r in rows],
        {},
        r"Groups that are in training and in test \(1\): line \d+: 'mary'",
    ),
    "capitals": (
        lambda rows: rows[0].update(path=rows[0]["path"].replace("png", "PNG")),
        {},
        r"Files that are not there \(1\): line 2: .*PNG \(but '\d\.png'\)",
    ),
    "unicode": (
        lambda rows: (paint(Path("photos/ä/1.png"), 0), rows[0].update(path="photos/a\u0308/1.png")),
        {},
        r"Files that are not there \(1\): line 2: .*1\.png \(but that in the Unicode form NFC\)",
    ),
    "spaces": (
        lambda rows: next(r for r in rows[::-1] if r["label"] == "c0").update(label="c0 "),
        {},
        r"Labels that differ by spaces .*: line \d+: 'c0 ', but 'c0' in line \d+\. Write it in one way",
    ),
    "milliseconds": (
        lambda rows: [r.update(time=1_600_000_000_000) for r in rows],
        {},
        r"hold no time \(20\): line 2: '1600000000000'; .*seconds \(not milliseconds\)",
    ),
    "no time": (
        lambda rows: [
            r.update(time="" if r is rows[0] else 5, split="train" if r is rows[0] else r["split"])
            for r in rows
        ],
        {"by": "count", "count": 4, "experience": ""},
        r"Rows without a time, by which the stream is ordered \(1\): line 2",
    ),
    "unused": (lambda rows: None, {"by": "class"}, r"by=class does not use; experience='' leaves it out"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_before_training(rows: list[Row], tmp_path: Path, fault: str) -> None:
    change, params, message = FAULTS[fault]
    change(rows)
    with pytest.raises(DataError, match=message):
        clbench.from_manifest(write(tmp_path / "m.csv", rows), **params)


@pytest.mark.parametrize(
    ("name", "mark", "message"),
    [
        (
            "m.csv",
            ";",
            r"line 1 is one column, 'path;label'; .* by commas in .*, not by semicolons\. Save it so\.",
        ),
        ("m.csv", "\t", r"not by tabs\. Save it so, or name it \.tsv"),
        ("m.tsv", ",", r"by tabs in .*, not by commas\. Save it so, or name it \.csv"),
    ],
)
def test_another_delimiter_is_told(tmp_path: Path, name: str, mark: str, message: str) -> None:
    (tmp_path / name).write_text(f"path{mark}label\na.png{mark}ant\n")
    with pytest.raises(DataError, match=message):
        clbench.from_manifest(tmp_path / name)


def test_all_faults_are_told_at_once(rows: list[Row], tmp_path: Path) -> None:
    rows[0] |= {"path": "gone.png"}
    rows[1] |= {"label": ""}
    rows += [rows[3] | {"label": "c7"}]
    with pytest.raises(DataError, match=r"cannot be used, for [4-9] reasons") as raised:
        clbench.from_manifest(write(tmp_path / "m.csv", rows))
    for told in ("line 2: gone.png", "without a label", "line 22", "never trained|without test rows"):
        assert any(word in str(raised.value) for word in told.split("|"))


def test_overlap_may_be_allowed(rows: list[Row], tmp_path: Path) -> None:
    rows += [dict(row) for row in rows if row["split"] == "train"]
    made = clbench.from_manifest(write(tmp_path / "m.csv", rows), overlap="allow")
    assert [len(exp) for exp in made.train] == [12, 12]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"by": "time"}, "by=time needs a column of it.*by=time needs periods"),
        ({"by": "domain"}, "by=domain needs a column"),
        ({"count": 3}, "count is for by=count, and by is experience"),
        ({"experiences": 2}, "experiences does nothing with by=experience"),
        ({"shift": "task"}, "needs a column of task labels"),
        ({"test_split": ["tset"]}, "No row has the split 'tset'.*Did you mean 'test'"),
        ({"labels": "name"}, "labels"),
    ],
)
def test_rules_that_do_not_fit_are_refused(
    rows: list[Row], tmp_path: Path, params: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, DataError)) as raised:
        clbench.from_manifest(write(tmp_path / "m.csv", rows), **params)
    assert re.search(message, str(raised.value), re.DOTALL)


def test_numbers_may_be_names(rows: list[Row], tmp_path: Path) -> None:
    for row in rows:
        row["label"] = 2 * int(row["label"][1])
    made = clbench.from_manifest(write(tmp_path / "m.csv", rows), labels="names")
    assert made.class_names == ("0", "2", "4", "6")


# --- the command ---


def test_a_manifest_is_described_before_training(
    clbench_command: Command, rows: list[Row], tmp_path: Path
) -> None:
    said = clbench_command("data", "describe", write(tmp_path / "m.csv", rows))
    assert said.code == 0
    for line in (
        "rows: 12 train, 8 test",
        "classes: 4, of 5 rows",
        "train 1: 6 rows, 2 classes",
        "faults: none",
    ):
        assert line in said.out


@pytest.mark.parametrize(
    ("rename", "told"),
    [({"label": "lable"}, "no column 'label'.*'lable'"), ({"path": "file"}, "no column of inputs")],
)
def test_a_column_that_lacks_is_described(
    clbench_command: Command, rows: list[Row], tmp_path: Path, rename: dict[str, str], told: str
) -> None:
    renamed = [{rename.get(key, key): value for key, value in row.items()} for row in rows]
    said = clbench_command("data", "describe", write(tmp_path / "m.csv", renamed))
    assert (said.code, bool(re.search(told, said.out))) == (1, True)


def test_a_word_that_is_no_column_is_left_alone(rows: list[Row], tmp_path: Path) -> None:
    told = data.describe_manifest(write(tmp_path / "m.csv", [row | {"taken": "2020"} for row in rows]))
    assert (told.unused, told.faults) == (("taken",), ())


def test_a_file_that_is_not_there_is_no_benchmark(clbench_command: Command, tmp_path: Path) -> None:
    said = clbench_command("data", "describe", tmp_path / "gone.csv")
    assert (said.code, "There is no file or folder" in said.err) == (2, True)


def test_duplicates_overlaps_and_faults_are_described(
    clbench_command: Command, rows: list[Row], tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    (photos / "test/c0/0.png").write_bytes((photos / "train/c0/0.png").read_bytes())
    (photos / "train/c1/1.png").write_bytes((photos / "train/c1/0.png").read_bytes())
    (photos / "train/c2/0.png").write_bytes((photos / "train/c2/0.png").read_bytes()[:60])
    said = clbench_command("data", "describe", write(tmp_path / "m.csv", rows), "--json")
    told = json.loads(said.out)
    assert said.code == 1
    assert (told["overlap"], told["duplicates"]) == (1, 1)
    assert len(told["faults"]) == 1
    assert "photos/train/c2/0.png (" in told["faults"][0]


def test_folders_and_arrays_are_described_by_their_names(
    clbench_command: Command, rows: list[Row], tmp_path: Path
) -> None:
    said = clbench_command("data", "describe", tmp_path / "photos", "size=6", "experiences=2")
    assert said.code == 0
    assert "image-folder@2" in said.out


def test_a_run_takes_a_manifest(clbench_command: Command, rows: list[Row], tmp_path: Path) -> None:
    file = write(tmp_path / "m.csv", rows)
    said = clbench_command("check", "manifest", f"path={file}")
    assert "0 failed" in said.out
    assert data.describe_manifest(file).experiences[0].rows == 6
