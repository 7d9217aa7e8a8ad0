"""Published collections as manifests: python to_manifest.py NAME ROOT OUT.csv [key=value …]

Each function reads the files of a collection as they are released, and yields a row for each example. The manifest is
for `clbench run manifest er path=OUT.csv root=ROOT`; what else to say stands in each function's first lines.

    python to_manifest.py core50 ~/core50 core50.csv scenario=nicv2_391 run=3
    clbench data describe core50.csv root=~/core50
    clbench run manifest er path=core50.csv root=~/core50 size=32 online=true
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
CORE50 = {
    "ni": "batches_filelists/NI_inc",
    "nc": "batches_filelists/NC_inc",
    "nic": "batches_filelists/NIC_inc",
    "nicv2_79": "NIC_v2_79",
    "nicv2_196": "NIC_v2_196",
    "nicv2_391": "NIC_v2_391",
}


def pairs(file: Path, under: str = "") -> Iterator[Row]:
    """Lines "path label", as Caffe had them."""
    for line in file.read_text().splitlines():
        if line.strip():
            path, label = line.rsplit(maxsplit=1)
            yield {"path": f"{under}{path}", "label": label}


def numbered(file: Path) -> list[Any]:
    """What lists are sorted by: batch 99 comes before batch 100."""
    return [int(part) if part.isdecimal() else part for part in re.split("([0-9]+)", file.name)]


def filelists(
    root: Path, train: str = "train_*.txt", test: str = "test*.txt", under: str = ""
) -> Iterator[Row]:
    """Avalanche's file lists: an experience for each list of training images, in the order of their names; one test
    list is of all experiences, several are of one each. Rows keep the order of the lists with online=true order=order.
    """
    lists, tests = (sorted(root.glob(which), key=numbered) for which in (train, test))
    for which, files in ((train, lists), (test, tests)):
        if not files:
            raise FileNotFoundError(f"{root} holds no file {which}")
    for split, files in (("train", lists), ("test", tests)):
        for number, file in enumerate(files):
            shared = split == "test" and len(tests) == 1
            for place, row in enumerate(pairs(file, under)):
                order = place if split == "train" else ""
                yield row | {"split": split, "experience": "" if shared else number, "order": order}


def core50(
    root: Path, scenario: str = "nicv2_391", run: int = 0, level: str = "object", pixels: int = 128
) -> Iterator[Row]:
    """CORe50: NI (domains), NC (classes), NIC and NICv2 (both), with the full test set after every batch."""
    folder = root / f"{CORE50[scenario]}{'' if level == 'object' else '_cat'}" / f"run{run}"
    for row in filelists(folder, "train_batch_*_filelist.txt", "test_filelist.txt"):
        session = row["path"].split("/")[0]
        yield row | {"path": f"core50_{pixels}x{pixels}/{row['path']}", "domain": session}


def openloris(root: Path, factor: str = "clutter") -> Iterator[Row]:
    """OpenLORIS: a batch for each level of a factor: clutter, illumination, occlusion, pixel or iros."""
    for row in filelists(root / "batches_filelists/domain" / factor, "train_batch_*.txt", "test.txt"):
        yield row | {"domain": f"{factor}-{row['experience']}" if row["split"] == "train" else factor}


def clear(root: Path, protocol: str = "iid") -> Iterator[Row]:
    """CLEAR: a bucket of years for each experience, bucket 0 left for pre-training.

    protocol=iid: the released train and test folders. protocol=streaming: all training images of a bucket are tested,
    too, so that the next bucket is the test of this one; needs overlap=allow.
    """
    for split in ("train", "test") if protocol == "iid" else ("train",):
        names = (root / split / "class_names.txt").read_text().splitlines()
        buckets = json.loads((root / split / "labeled_metadata.json").read_text())
        for bucket in sorted(buckets, key=int):
            if bucket == "0":
                continue
            for label, name in enumerate(filter(None, map(str.strip, names))):
                for image in json.loads((root / split / buckets[bucket][name]).read_text()).values():
                    row = {
                        "path": f"{split}/{image['IMG_PATH']}",
                        "label": label,
                        "experience": int(bucket) - 1,
                    }
                    for use in (split,) if protocol == "iid" else ("train", "test"):
                        yield row | {"split": use}


def cloc(
    root: Path, train: str = "train.txt", test: str = "test.txt", images: str = "images/"
) -> Iterator[Row]:
    """CLOC: photographs by place, strictly in the order of time, with their users: by=count count=10000 online=true.

    Lines of commas: label, …, time, user, …, file; the order of lines is the order of the stream.
    """
    for split, file in (("train", train), ("test", test)):
        with (root / file).open(newline="") as lines:
            for place, line in enumerate(csv.reader(lines)):
                told = {"label": line[0], "time": line[2], "group": line[3], "split": split}
                yield told | {
                    "path": f"{images}{line[-1].strip()}",
                    "order": place if split == "train" else "",
                }


def cglm(root: Path, train: str = "train", test: str = "test") -> Iterator[Row]:
    """CGLM, and others in HDF5 order files (needs h5py): by=count count=10000 online=true labels=names."""
    import h5py

    for split, part in (("train", train), ("test", test)):
        with (
            h5py.File(root / f"order_files/{part}_image_paths.hdf5") as paths,
            h5py.File(root / f"order_files/{part}_labels.hdf5") as labels,
        ):
            both = zip(paths["store_list"], labels["store_list"], strict=True)
            for place, (path, label) in enumerate(both):
                told = {"path": f"data/{path.decode().strip()}", "label": int(label), "split": split}
                yield told | {"order": place if split == "train" else ""}


def stream51(root: Path, classes: int = 10, pad: float = 1.1) -> Iterator[Row]:
    """Stream-51: videos by class, so many classes in an experience, each object cut out: size=64 tested=class.

    Boxes are right, left, bottom, top there; padded about their centre and clipped to the image.
    """
    from PIL import Image

    train = json.loads((root / "Stream-51_meta_train.json").read_text())
    test = json.loads((root / "Stream-51_meta_test.json").read_text())
    in_order = enumerate(sorted(train, key=lambda row: (row[0], row[2], row[1], row[3])))
    for split, rows in (("train", in_order), ("test", enumerate(test))):
        for place, row in rows:
            right, left, bottom, top = row[-2]
            x, y = int(left + (right - left) / 2), int(top + (bottom - top) / 2)
            half = (right - left) * pad / 2, (bottom - top) * pad / 2
            with Image.open(root / row[-1]) as image:
                a, b = max(int(x - half[0]), 0), min(int(x + half[0]), image.width)
                c, d = max(int(y - half[1]), 0), min(int(y + half[1]), image.height)
            told = {"path": row[-1], "label": row[0], "split": split, "box": f"{c},{a},{d - c},{b - a}"}
            stream = {"experience": row[0] // classes, "order": place, "group": f"{row[0]}/{row[2]}"}
            yield told | (stream if split == "train" else {"experience": "", "order": "", "group": ""})


def domainnet(root: Path, domains: str = "real,quickdraw,painting,sketch,infograph,clipart") -> Iterator[Row]:
    """DomainNet's lists: by=domain domain_order=[real,quickdraw,painting,sketch,infograph,clipart] size=64."""
    for domain in domains.split(","):
        for split in ("train", "test"):
            for row in pairs(root / f"{domain}_{split}.txt"):
                yield row | {"split": split, "domain": domain}


def targets(root: Path, train: str, test: str, drop: str = "") -> Iterator[Row]:
    """Lists of ImageNet-R and -A: YAML or JSON with `data` (paths) and `targets`: experiences=10 class_order=shuffled.

    drop: what their paths begin with and yours do not, such as data/.
    """
    import yaml

    for split, file in (("train", train), ("test", test)):
        listed = yaml.safe_load((root / file).read_text())
        for path, label in zip(listed["data"], listed["targets"], strict=True):
            yield {"path": path.removeprefix(drop), "label": label, "split": split}


def imagenet_subset(root: Path, classes: str, train: str = "train", test: str = "val") -> Iterator[Row]:
    """Variants of ImageNet-100: a file with a synset on each line, in the order that numbers the classes; images lie in
    train/SYNSET/ and val/SYNSET/: experiences=10."""
    for label, name in enumerate((root / classes).read_text().split()):
        for split, folder in (("train", train), ("test", test)):
            for file in sorted((root / folder / name).iterdir()):
                yield {"path": file.relative_to(root).as_posix(), "label": label, "split": split}


def wilds(root: Path, data: str) -> Iterator[Row]:
    """WILDS: metadata.csv of iwildcam (its locations are domains) or camelyon17 (centres), or rgb_metadata.csv and
    country_code_mapping.csv of fmow (regions), with times.

    iwildcam: by=time periods=10 labels=names train_split=[train] valid_split=[id_val] test_split=[id_test]
    unmatched=drop. camelyon17: by=domain train_split=[0] test_split=[1]. fmow: by=time
    periods=[2004-01-01,2008-01-01,2012-01-01] train_split=[train] valid_split=[val] test_split=[test].
    """
    regions = {}
    if data == "fmow" and (root / "country_code_mapping.csv").is_file():
        with (root / "country_code_mapping.csv").open(newline="", encoding="utf-8") as lines:
            regions = {line["alpha-3"]: line["region"] for line in csv.DictReader(lines)}
    listed = next(
        (root / name for name in ("rgb_metadata.csv", "metadata.csv") if (root / name).is_file()), None
    )
    if listed is None:
        raise FileNotFoundError(f"{root} holds no metadata.csv, nor rgb_metadata.csv")
    with listed.open(newline="", encoding="utf-8") as lines:
        for number, line in enumerate(csv.DictReader(lines)):
            told = {"split": line["split"]}
            if data == "iwildcam":
                yield told | {
                    "path": f"train/{line['filename']}",
                    "label": line["y"],
                    "domain": line["location_remapped"],
                    "time": line["datetime"],
                    "group": line["sequence_remapped"],
                }
            elif data == "camelyon17":
                place = f"patient_{line['patient']}_node_{line['node']}"
                patch = f"patch_{place}_x_{line['x_coord']}_y_{line['y_coord']}.png"
                told |= {"path": f"patches/{place}/{patch}", "label": line["tumor"]}
                yield told | {"domain": line["center"]}
            elif data == "fmow":
                region = line["region"] if "region" in line else regions.get(line["country_code"], "Other")
                told |= {"path": f"images/rgb_img_{number}.png", "label": line["category"]}
                yield told | {"domain": region or "Other", "time": line["timestamp"]}
            else:
                raise ValueError(f"data is iwildcam, camelyon17 or fmow; {data} was given")


CONVERTERS: dict[str, Callable[..., Iterable[Row]]] = {
    "filelists": filelists,
    "core50": core50,
    "openloris": openloris,
    "clear": clear,
    "cloc": cloc,
    "cglm": cglm,
    "stream51": stream51,
    "domainnet": domainnet,
    "targets": targets,
    "imagenet-subset": imagenet_subset,
    "wilds": wilds,
}


def convert(name: str, root: Path, out: Path, **settings: Any) -> int:
    """Write the manifest of a collection; return its number of rows."""
    rows = iter(CONVERTERS[name](root, **settings))
    count, first = 0, next(rows)
    with out.open("w", newline="") as file:
        table = csv.DictWriter(file, first)
        table.writeheader()
        for row in itertools.chain([first], rows):
            table.writerow(row)
            count += 1
    return count


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] not in CONVERTERS:
        sys.exit(f"{__doc__}\nNAME is one of {', '.join(CONVERTERS)}.")
    name, root, out, *given = sys.argv[1:]
    settings = {key: int(v) if v.isdecimal() else v for key, v in (pair.split("=", 1) for pair in given)}
    try:
        print(f"{convert(name, Path(root).expanduser(), Path(out), **settings):,} rows")
    except (OSError, KeyError, TypeError, ValueError) as error:
        sys.exit(f"{name}: {type(error).__name__}: {error}")
