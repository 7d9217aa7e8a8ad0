"""`clbench show` of data, and the caches that `clbench data` lists and clears."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import Command, command
from PIL import Image

from clbench import data
from clbench.errors import ConfigError


@pytest.fixture
def clbench(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    return command(monkeypatch, capfd)


@pytest.fixture
def npz() -> Path:
    rng = np.random.default_rng(0)
    y = np.arange(40) % 4
    x = rng.integers(0, 200, (40, 6, 6), np.uint8)
    np.savez(
        "d.npz", x_train=x, y_train=y, x_test=x[::-1], y_test=y, class_names=["ant", "bee", "cat", "dog"]
    )
    return Path("d.npz")


@pytest.fixture
def photos() -> Path:
    for k, path in enumerate(f"photos/{s}/{c}" for s in ("train", "test") for c in ("ant", "bee")):
        Path(path).mkdir(parents=True)
        Image.new("L", (8, 8), 50 * k).save(f"{path}/0.png")
    return Path("photos")


# --- show ---


def test_data_are_shown_by_class_and_experience(clbench: Command, npz: Path) -> None:
    lines = clbench("show", "npz", f"path={npz}", "experiences=2").out.splitlines()
    assert lines[0] == "npz@2: inputs 1 × 6 × 6, 4 classes"
    rows = [line.split() for line in lines]
    assert ["train", "1", "20", "—", "10", "ant,", "bee"] in rows
    assert ["test", "2", "20", "—", "10", "cat,", "dog"] in rows
    assert ["dog", "10", "10"] in rows


def test_show_and_describe_say_the_same(clbench: Command, npz: Path) -> None:
    asked = ("npz", f"path={npz}", "experiences=2")
    assert clbench("show", *asked).out == clbench("data", "describe", *asked).out
    told = json.loads(clbench("show", *asked, "--json").out)
    assert told == json.loads(clbench("data", "describe", *asked, "--json").out)
    assert told["streams"]["train"][0]["counts"] == [10, 10]


def test_a_sheet_is_written_where_it_is_asked_for(clbench: Command, photos: Path) -> None:
    asked = ("image-folder", f"path={photos}", "size=8", "experiences=2")
    assert not clbench("show", *asked).out.splitlines()[-1].startswith("contact sheet")
    assert clbench("show", *asked, "--sheet", "new/s.png").out.splitlines()[-1] == "contact sheet: new/s.png"
    with Image.open("new/s.png") as sheet:
        assert sheet.width > 200
    assert json.loads(clbench("show", *asked, "--sheet", "s.png", "--json").out)["input_shape"] == [3, 8, 8]


def test_a_benchmark_without_settings_is_explained_not_built(clbench: Command) -> None:
    assert "path required" in clbench("show", "npz").out


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("er", "memory=5"), "memory=5: only benchmarks are built to be shown."),
        (("split-digit", "experiences=2"), "Did you mean 'split-digits'?"),
        (("split-digits", "--sheet", "s.jpg"), "--sheet takes a PNG file; s.jpg was given."),
        (("split-digits", "experience=2"), "Did you mean 'experiences'?"),
    ],
)
def test_what_cannot_be_shown_is_refused(clbench: Command, asked: tuple[str, ...], says: str) -> None:
    said = clbench("show", *asked)
    assert (said.code, said.out) == (2, "")
    assert says in said.err


# --- caches ---


def test_decoded_folders_are_listed_and_cleared_and_nothing_else(clbench: Command, photos: Path) -> None:
    folder = data.data_folder() / "folders"
    assert data.caches() == []
    clbench("show", "image-folder", f"path={photos}", "size=8", "experiences=2")
    mine = [data.data_folder() / "data.npz", folder / "mine.npy", folder / f"{'0' * 32}.npy.bak"]
    for file in mine:
        file.write_bytes(b"mine")
    half = folder / f".{'0' * 32}.npy.k3j2h1"  # of a process that was killed while it wrote
    half.write_bytes(b"x")
    row = next(r for r in json.loads(clbench("data", "status", "--json").out) if r["name"] == "folders")
    assert (row["state"], row["path"], row["megabytes"]) == ("cache", str(folder), 1)
    assert "2 files; `clbench data clear folders` removes them" in row["note"]
    said = clbench("data", "clear", "folders").out
    assert said.startswith(f"removed images decoded from folders, 2 files, 1 MB, from {folder}")
    assert sorted(folder.iterdir()) == sorted(mine[1:])
    assert all(file.read_bytes() == b"mine" for file in mine)
    assert len(list(photos.rglob("*.png"))) == 4
    assert clbench("data", "clear", "folders").out == f"there is nothing to remove in {folder}\n"


def test_a_cleared_folder_is_decoded_again(clbench: Command, photos: Path) -> None:
    asked = ("data", "describe", "image-folder", f"path={photos}", "size=8", "experiences=2")
    first = clbench(*asked).out
    clbench("data", "clear", "folders", "--json")
    assert clbench(*asked).out == first


def test_a_cache_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^There is no cache 'mnist'\. Known: folders, answers\.$"):
        data.clear("mnist")
