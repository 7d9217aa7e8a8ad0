"""Published collections: a miniature of each one's released layout makes the stream that it should."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import clbench
from clbench.types import Benchmark

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "to_manifest.py"
spec = importlib.util.spec_from_file_location("to_manifest", EXAMPLE)
assert spec is not None
assert spec.loader is not None
to_manifest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(to_manifest)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))


def paint(root: Path, *paths: str, size: int = 8) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        seed = int.from_bytes(path.encode()[-6:], "little")
        pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / path)


def put(file: Path, lines: Iterable[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def made(name: str, root: Path, rules: dict[str, Any], **settings: Any) -> Benchmark:
    out = root / "manifest.csv"
    assert to_manifest.convert(name, root, out, **settings) > 0
    return clbench.from_manifest(out, root=root, **{"size": 8, **rules})


def labels_of(stream: Benchmark) -> list[int]:
    return [label for exp in stream.train for label in exp.data.y().tolist()]


@pytest.mark.parametrize(
    ("scenario", "lists", "of"),
    [
        ("nc", "batches_filelists/NC_inc", [("s1", 0), ("s1", 1), ("s1", 2)]),
        ("ni", "batches_filelists/NI_inc", [("s1", None), ("s2", None), ("s4", None)]),
        ("nicv2_391", "NIC_v2_391", [("s1", 0), ("s2", 1), ("s4", 0), ("s5", 2)]),
    ],
)
def test_core50(tmp_path: Path, scenario: str, lists: str, of: list[tuple[str, int | None]]) -> None:
    objects = range(3)
    for number, (session, only) in enumerate(of):
        held = objects if only is None else [only]
        named = [
            (f"{session}/o{o + 1}/C_{session[1:]:0>2}_{o + 1:02}_{i:03}.png", o) for o in held for i in (1, 0)
        ]
        put(tmp_path / lists / f"run3/train_batch_{number:02}_filelist.txt", (f"{p} {o}" for p, o in named))
        paint(tmp_path / "core50_32x32", *(path for path, _ in named))
    test = [(f"s3/o{o + 1}/C_03_{o + 1:02}_000.png", o) for o in objects]
    put(tmp_path / lists / "run3/test_filelist.txt", (f"{path} {o}" for path, o in test))
    paint(tmp_path / "core50_32x32", *(path for path, _ in test))
    stream = made("core50", tmp_path, {}, scenario=scenario, run=3, pixels=32)
    assert [exp.classes for exp in stream.train] == [tuple(objects) if c is None else (c,) for _, c in of]
    assert all(exp.ordered for exp in stream.train)
    assert stream.setting.shift == ("domain" if scenario == "ni" else "class")
    assert sum(map(len, stream.test)) == 3
    if scenario == "nicv2_391":
        assert [exp.tests for exp in stream.train] == [(0,), (1,), (0,), (2,)]


def test_openloris_and_lists_of_avalanche(tmp_path: Path) -> None:
    lists = tmp_path / "batches_filelists/domain/clutter"
    for batch in range(3):
        named = [f"train/task{batch}/{c}-{i}.jpg {c}" for c in range(2) for i in range(2)]
        put(lists / f"train_batch_{batch:02}.txt", named)
        paint(tmp_path, *(line.split()[0] for line in named))
    put(lists / "test.txt", ["test/0.jpg 0", "test/1.jpg 1"])
    paint(tmp_path, "test/0.jpg", "test/1.jpg")
    stream = made("openloris", tmp_path, {})
    assert [exp.domain for exp in stream.train] == ["clutter-0", "clutter-1", "clutter-2"]
    assert [exp.tests for exp in stream.train] == [(0,)] * 3
    same = made(
        "filelists",
        tmp_path,
        {},
        train="batches_filelists/domain/clutter/train_*.txt",
        test="batches_filelists/domain/clutter/test.txt",
    )
    assert [len(exp) for exp in same.train] == [4, 4, 4]


def test_batch_99_comes_before_batch_100(tmp_path: Path) -> None:
    for batch in (99, 100):
        put(tmp_path / f"train_batch_{batch}.txt", [f"{batch}.jpg 0"])
    with pytest.raises(FileNotFoundError, match=r"holds no file test\*\.txt"):
        next(to_manifest.filelists(tmp_path))
    put(tmp_path / "test.txt", ["1.jpg 0"])
    rows = list(to_manifest.filelists(tmp_path))[:2]
    assert [(row["path"], row["experience"]) for row in rows] == [("99.jpg", 0), ("100.jpg", 1)]


@pytest.mark.parametrize("protocol", ["iid", "streaming"])
def test_clear(tmp_path: Path, protocol: str) -> None:
    names = ["BACKGROUND", "camera"]
    for split, n in (("train", 2), ("test", 1)):
        put(tmp_path / split / "class_names.txt", names)
        told: dict[str, dict[str, str]] = {}
        for bucket in range(4):
            for name in names:
                paths = [f"labeled_images/{bucket}/{name}/{split}{i}.jpg" for i in range(n)]
                paint(tmp_path / split, *paths)
                file = f"labeled_metadata/{bucket}/{name}.json"
                put(
                    tmp_path / split / file,
                    [json.dumps({str(i): {"IMG_PATH": p} for i, p in enumerate(paths)})],
                )
                told.setdefault(str(bucket), {})[name] = file
        put(tmp_path / split / "labeled_metadata.json", [json.dumps(told)])
    overlap = "refuse" if protocol == "iid" else "allow"
    stream = made("clear", tmp_path, {"overlap": overlap}, protocol=protocol)
    assert [len(exp) for exp in stream.train] == [4, 4, 4]
    assert [len(exp) for exp in stream.test] == [2, 2, 2] if protocol == "iid" else [4, 4, 4]
    assert stream.setting.shift == "domain"


def test_cloc(tmp_path: Path) -> None:
    for split, n in (("train", 8), ("test", 4)):
        lines = [f"{i % 2},x,{1_200_000_000 + i},{split}-user{i % 3},y,{split}{i}.jpg" for i in range(n)]
        put(tmp_path / f"{split}.txt", lines)
        paint(tmp_path / "images", *(f"{split}{i}.jpg" for i in range(n)))
    stream = made("cloc", tmp_path, {"by": "count", "count": 3, "online": True})
    assert [len(exp) for exp in stream.train] == [3, 3, 2]
    assert labels_of(stream) == [0, 1, 0, 1, 0, 1, 0, 1]
    assert not stream.setting.boundaries


def test_cglm(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "order_files").mkdir()
    for split, n in (("train", 6), ("test", 2)):
        paint(tmp_path / "data", *(f"{split}{i}.jpg" for i in range(n)))
        for what, values in (
            ("image_paths", [f"{split}{i}.jpg\n".encode() for i in range(n)]),
            ("labels", [7 * (i % 2) for i in range(n)]),
        ):
            with h5py.File(tmp_path / f"order_files/{split}_{what}.hdf5", "w") as file:
                file["store_list"] = values
    stream = made("cglm", tmp_path, {"by": "count", "count": 2, "labels": "names"})
    assert labels_of(stream) == [0, 1] * 3
    assert stream.class_names == ("0", "7")


def test_stream51(tmp_path: Path) -> None:
    train = [
        [c, 0, v, f, [6, 2, 7, 3], f"train/{c}/{v}-{f}.jpg"]
        for v in (1, 0)
        for c in range(4)
        for f in range(2)
    ]
    test = [[c, [8, 0, 8, 0], f"test/{c}.jpg"] for c in range(4)]
    for split, rows in (("train", train), ("test", test)):
        put(tmp_path / f"Stream-51_meta_{split}.json", [json.dumps(rows)])
        paint(tmp_path, *(str(row[-1]) for row in rows))
    stream = made("stream51", tmp_path, {"size": 4}, classes=2)
    assert [exp.classes for exp in stream.train] == [(0, 1), (2, 3)]
    assert [exp.tests for exp in stream.train] == [(0, 1), (2, 3)]
    with (tmp_path / "manifest.csv").open(newline="") as lines:
        boxes = {row["split"]: row["box"] for row in csv.DictReader(lines)}
    assert boxes == {
        "train": "2,1,5,5",
        "test": "0,0,8,8",
    }  # 4 × 4 about (4, 5), times 1.1: 1.8 … 6.2 and 2.8 … 7.2


def test_domainnet(tmp_path: Path) -> None:
    for domain in ("real", "sketch"):
        for split in ("train", "test"):
            named = [f"{domain}/c{c}/{domain}_{split}_{c}.jpg {c}" for c in range(2)]
            put(tmp_path / f"{domain}_{split}.txt", named)
            paint(tmp_path, *(line.split()[0] for line in named))
    rules = {"by": "domain", "domain_order": ["sketch", "real"]}
    stream = made("domainnet", tmp_path, rules, domains="real,sketch")
    assert [exp.domain for exp in stream.train] == ["sketch", "real"]


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_split_lists_of_imagenet_r(tmp_path: Path, kind: str) -> None:
    for split in ("train", "test"):
        paths = [f"imagenet-r/n0{c}/{split}{c}.jpg" for c in range(4)]
        paint(tmp_path, *paths)
        listed = {"data": [f"data/{path}" for path in paths], "targets": list(range(4))}
        put(
            tmp_path / f"r_{split}.{kind}", [json.dumps(listed) if kind == "json" else yaml.safe_dump(listed)]
        )
    rules = {"experiences": 2, "class_order": [3, 1, 0, 2]}
    stream = made("targets", tmp_path, rules, train=f"r_train.{kind}", test=f"r_test.{kind}", drop="data/")
    assert [exp.classes for exp in stream.train] == [(1, 3), (0, 2)]


def test_a_variant_of_imagenet_100(tmp_path: Path) -> None:
    names = ["n02", "n01"]  # numbered in the order of the file
    put(tmp_path / "classes.txt", names)
    for name in [*names, "n03"]:
        paint(tmp_path, f"train/{name}/a_{name}.JPEG", f"val/{name}/b_{name}.JPEG")
    stream = made("imagenet-subset", tmp_path, {"experiences": 2}, classes="classes.txt")
    alone = np.asarray(Image.open(tmp_path / "train/n02/a_n02.JPEG")).transpose(2, 0, 1)
    assert (stream.train[0].data.x()[0].numpy() == alone).all()


def table(file: Path, rows: list[dict[str, Any]]) -> None:
    with file.open("w", newline="") as out:
        written = csv.DictWriter(out, rows[0])
        written.writeheader()
        written.writerows(rows)


def test_iwildcam_of_wilds(tmp_path: Path) -> None:
    rows = [
        {"split": split, "location_remapped": i % 2, "sequence_remapped": 10 * n + i,
         "datetime": f"2013-06-0{i + 1} 10:00:00", "y": i % 2, "filename": f"{split}{i}.jpg"}
        for n, split in enumerate(("train", "val", "test", "id_test"))
        for i in range(4)
    ]  # fmt: skip
    table(tmp_path / "metadata.csv", rows)
    paint(tmp_path / "train", *(row["filename"] for row in rows))
    rules = {"by": "time", "periods": 2, "train_split": ["train"], "test_split": ["id_test"]}
    stream = made("wilds", tmp_path, rules, data="iwildcam")
    assert [len(exp) for exp in stream.test] == [2, 2]
    columns = {"image": "filename", "label": "y", "domain": "location_remapped", "time": "datetime"}
    same = clbench.from_manifest(
        tmp_path / "metadata.csv",
        root=tmp_path / "train",
        **columns,
        group="sequence_remapped",
        size=8,
        **rules,
    )
    assert same.fingerprint == stream.fingerprint  # without a converter, too


def test_camelyon17_of_wilds(tmp_path: Path) -> None:
    rows = [
        {
            "patient": f"{c:03}",
            "node": i,
            "x_coord": 10 * i,
            "y_coord": 5,
            "tumor": i % 2,
            "center": c,
            "split": i // 2,
        }
        for c in range(3)
        for i in range(4)
    ]
    table(tmp_path / "metadata.csv", rows)
    for row in rows:
        place = f"patient_{row['patient']}_node_{row['node']}"
        paint(tmp_path / "patches" / place, f"patch_{place}_x_{row['x_coord']}_y_5.png")
    rules = {"by": "domain", "train_split": ["0"], "test_split": ["1"]}
    stream = made("wilds", tmp_path, rules, data="camelyon17")
    assert [exp.domain for exp in stream.train] == ["0", "1", "2"]


def test_fmow_of_wilds(tmp_path: Path) -> None:
    rows = [
        {"split": "train" if i < 4 else "test", "region": i % 2, "category": f"c{i % 2}",
         "timestamp": f"20{10 + i % 4 // 2}-08-01T07:30:00Z"}
        for i in range(8)
    ]  # fmt: skip
    table(tmp_path / "metadata.csv", rows)
    paint(tmp_path, *(f"images/rgb_img_{i}.png" for i in range(8)))
    stream = made("wilds", tmp_path, {"by": "time", "periods": ["2011-01-01"]}, data="fmow")
    assert [len(exp) for exp in stream.train] == [2, 2]


def test_fmow_as_it_is_released(tmp_path: Path) -> None:
    rows = [
        {"split": "seq" if i == 2 else "train" if i < 5 else "test", "country_code": ("AAA", "BBB", "ZZZ")[i % 3],
         "category": "c", "timestamp": "2010-08-01T07:30:00Z"}
        for i in range(8)
    ]  # fmt: skip
    table(tmp_path / "rgb_metadata.csv", rows)
    regions = (("AAA", "Europe"), ("BBB", "Asia"))
    table(
        tmp_path / "country_code_mapping.csv",
        [{"alpha-3": code, "region": region} for code, region in regions],
    )
    written = [*to_manifest.wilds(tmp_path, "fmow")]
    assert [row["domain"] for row in written] == [("Europe", "Asia", "Other")[i % 3] for i in range(8)]
    assert written[7]["path"] == "images/rgb_img_7.png"  # rows that are held back are numbered, too
