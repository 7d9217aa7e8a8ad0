"""The registered benchmarks. Those on data that must be fetched are skipped without CLBENCH_DATA."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clbench.benchmarks.domains import rotated
from PIL import Image

from clbench import data
from clbench.config.yamls import read_yaml
from clbench.errors import ConfigError, DataError, RegistryError
from clbench.registry import Registry, benchmarks
from clbench.registry.entry import read_decorators
from clbench.registry.rows import Row, factory, read_rows
from clbench.results.metrics import METRICS
from clbench.types import Benchmark, Stream

DIGITS = ("split-digits", "rotated-digits", "permuted-digits")
FETCHED = {
    "split-mnist": "mnist",
    "permuted-mnist": "mnist",
    "rotated-mnist": "mnist",
    "split-fashion-mnist": "fashion_mnist",
    "split-cifar10": "cifar10",
    "split-cifar100": "cifar100",
    "pacs": "pacs",
    "fscil-cifar100": "cifar100",
    "fscil-omniglot": "omniglot",
    "split-usps": "usps",
    "split-gtsrb": "gtsrb",
    "split-omniglot": "omniglot",
}
OWN = ("npz", "image-folder", "few-shot")


def make(name: str, **params: Any) -> Benchmark:
    benchmark = benchmarks.make(name, **params)
    assert isinstance(benchmark, Benchmark)
    return benchmark


def needs(name: str) -> None:
    path = data.data_folder() / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"needs {path.name} in CLBENCH_DATA")


def check(benchmark: Benchmark) -> None:
    """What holds of every benchmark."""
    assert benchmark.version == benchmarks.peek(benchmark.name).version
    assert len(benchmark.train) == len(benchmark.test)
    few = benchmark.name in ("fscil-cifar100", "fscil-omniglot", "few-shot")
    assert benchmark.primary == ("harmonic_mean" if few else "average_accuracy")
    assert ("harmonic_mean" in benchmark.metrics) == few
    assert set(benchmark.metrics) <= set(METRICS)
    assert benchmark.notes or benchmark.name in OWN
    for stream in (benchmark.train, benchmark.test, benchmark.valid or Stream("valid", ())):
        for i, experience in enumerate(stream):
            assert experience.index == i
            assert len(experience)
            assert set(experience.data.y().unique().tolist()) == set(experience.classes)
            assert max(experience.classes) < benchmark.num_classes
    for trained, tested in zip(benchmark.train, benchmark.test, strict=True):
        assert (trained.classes, trained.task, trained.domain) == (tested.classes, tested.task, tested.domain)
    raw = benchmark.train[0].data.take(torch.arange(4))[0]
    x = benchmark.transform.train(raw, torch.Generator().manual_seed(0))
    assert x.dtype == torch.float32
    assert x.shape[1:] == benchmark.input_shape


def test_all_are_registered() -> None:
    assert set(benchmarks.names()) >= {*DIGITS, *FETCHED, *OWN}


@pytest.mark.parametrize("name", [*DIGITS, *FETCHED, *OWN])
def test_what_the_list_shows(name: str) -> None:
    """Parameters are annotated, take a seed, and each is explained; a summary fits a line."""
    entry = benchmarks.entry(name)
    assert entry.version == benchmarks.peek(name).version >= 1
    assert 20 < len(entry.summary) < 110
    parameters = entry.signature().parameters
    assert parameters["seed"].default == 0
    for parameter in parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        assert parameter.name in str(entry.build.__doc__)


# Recorded once: data, split, order, normalisation and setting of a benchmark at a version never change.
FINGERPRINTS = {
    ("split-digits", ()): "fb11f1912d8aa8ce32e0319cff83ac1ed7ef967e3999352a0a401dee0913204d",
    (
        "split-digits",
        (("class_order", "shuffled"), ("seed", 1), ("valid", 0.1)),
    ): "0b9ea152bf41a0332d6cc452b8b509c0622b2fdbb8c6d9f1199e59e097a921a2",
    ("rotated-digits", ()): "83a6235ae59fb0d15959550b0bb93675a44cf2b6e9b4d6e5d584f44e4f4ad9a1",
    ("permuted-digits", ()): "2b3227046ff9d1e4d30268f93265a47d5ce7f5d9b0e5fbce9cc95c04bf5b648d",
}


@pytest.mark.parametrize(("name", "params"), FINGERPRINTS)
def test_fingerprints_are_the_same_everywhere(name: str, params: tuple[tuple[str, Any], ...]) -> None:
    assert make(name, **dict(params)).fingerprint == FINGERPRINTS[name, params]


@pytest.mark.parametrize("name", DIGITS)
@pytest.mark.parametrize("valid", [0.0, 0.2])
def test_digits(name: str, valid: float) -> None:
    benchmark = make(name, valid=valid)
    check(benchmark)
    assert benchmark.name == name
    assert benchmark.num_classes == 10
    assert (benchmark.valid is not None) == (valid > 0)


def test_split_digits_has_five_pairs_in_natural_order() -> None:
    benchmark = make("split-digits")
    assert [e.classes for e in benchmark.train] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert benchmark.setting.offers() >= {"boundaries", "several passes", "memory"}
    assert "task labels" not in benchmark.setting.offers()


def test_variants_of_a_split() -> None:
    plain = make("split-digits")
    variants = {
        "task": make("split-digits", task_labels=True),
        "online": make("split-digits", online=True),
        "two": make("split-digits", experiences=2),
        "shuffled": make("split-digits", class_order="shuffled"),
        "other": make("split-digits", class_order="shuffled", seed=1),
        "valid": make("split-digits", valid=0.1),
    }
    assert len({plain.fingerprint, *(b.fingerprint for b in variants.values())}) == 7
    assert variants["task"].setting.shift == "task"
    assert [e.task for e in variants["task"].test] == [0, 1, 2, 3, 4]
    assert variants["online"].setting.passes == 1
    assert make("split-digits", seed=1).fingerprint == plain.fingerprint  # nothing is drawn


def test_permutations_differ_by_seed_and_rotations_do_not() -> None:
    assert make("permuted-digits").fingerprint != make("permuted-digits", seed=1).fingerprint
    assert make("rotated-digits").fingerprint == make("rotated-digits", seed=1).fingerprint
    assert make("permuted-digits").setting.shift == "domain"
    assert [e.domain for e in make("rotated-digits").train] == ["0°", "80°", "160°"]


def test_parameters_come_as_text_and_wrong_ones_are_refused() -> None:
    assert len(make("split-digits", experiences="2").train) == 2
    assert [e.domain for e in make("rotated-digits", angles=[0, 45]).train] == ["0°", "45°"]
    with pytest.raises(ConfigError, match=r"has no parameter 'experience'. Did you mean 'experiences'"):
        make("split-digits", experience=2)
    with pytest.raises(
        ConfigError, match="class_order is natural, shuffled, a list, a file of one, or a publ"
    ):
        make("split-digits", class_order="random")
    with pytest.raises(ConfigError, match="experiences may be 1, 2, 5, 10"):
        make("split-digits", experiences=3)


@pytest.mark.parametrize(("name", "source"), FETCHED.items())
def test_without_the_data(name: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path))
    with pytest.raises(DataError, match=rf"{source}\.npz"):
        make(name)


@pytest.mark.parametrize("name", FETCHED)
def test_with_the_data(name: str) -> None:
    needs(FETCHED[name])
    benchmark = make(name)
    check(benchmark)
    assert (len(benchmark.train), benchmark.num_classes, benchmark.input_shape) == {
        "split-mnist": (5, 10, (1, 28, 28)),
        "permuted-mnist": (10, 10, (1, 28, 28)),
        "rotated-mnist": (3, 10, (1, 28, 28)),
        "split-fashion-mnist": (5, 10, (1, 28, 28)),
        "split-cifar10": (5, 10, (3, 32, 32)),
        "split-cifar100": (10, 100, (3, 32, 32)),
        "pacs": (4, 7, (3, 64, 64)),
        "fscil-cifar100": (9, 100, (3, 32, 32)),
        "fscil-omniglot": (6, 150, (1, 28, 28)),
        "split-usps": (5, 10, (1, 16, 16)),
        "split-gtsrb": (6, 43, (3, 32, 32)),
        "split-omniglot": (50, 1_623, (1, 28, 28)),
    }[name]
    assert benchmark.transform.ops == (("crop", "flip") if "cifar" in name or name == "pacs" else ())


@pytest.mark.parametrize("name", [name for name, known in data.KNOWN.items() if known.mean])
def test_published_moments_are_those_of_the_data(name: str) -> None:
    needs(name)
    source = data.load(name)
    mean, std = data.moments(source.train.x, 1 / 255)
    # Four digits, and some copies of the data have been through a lossy format.
    assert source.mean == pytest.approx(mean, abs=3e-4)
    assert source.std == pytest.approx(std, abs=3e-4)


def test_split_cifar100_is_shuffled_and_splits_in_usual_ways() -> None:
    needs("cifar100")
    first, second = make("split-cifar100"), make("split-cifar100", seed=1)
    assert first.train[0].classes != second.train[0].classes
    assert (first.seed, second.seed) == (0, 1)
    assert make("split-cifar100", class_order="natural").train[0].classes == tuple(range(10))
    half = make("split-cifar100", first=50, increment=10)
    assert [len(e.classes) for e in half.train] == [50, 10, 10, 10, 10, 10]
    assert [len(make("split-cifar100", experiences=n).train) for n in (5, 10, 20)] == [5, 10, 20]


def test_pacs_goes_from_photos_to_sketches() -> None:
    needs("pacs")
    benchmark = make("pacs")
    assert [e.domain for e in benchmark.train] == ["photo", "art_painting", "cartoon", "sketch"]
    sizes = [len(a) + len(b) for a, b in zip(benchmark.train, benchmark.test, strict=True)]
    assert sizes == [1670, 2048, 2344, 3929]  # as published
    back = make("pacs", domains=["sketch", "cartoon", "art_painting", "photo"])
    assert back.train[0].domain == "sketch"
    with pytest.raises(ConfigError, match="no domain 'painting'; domains lists all of photo"):
        make("pacs", domains=["painting"])


def test_ones_own_npz(tmp_path: Path) -> None:
    x = np.arange(4 * 8 * 8 * 3, dtype=np.uint32).astype(np.uint8).reshape(12, 8, 8)
    y = np.arange(12) % 4
    path = tmp_path / "own.npz"
    np.savez(
        path, x_train=x, y_train=y, x_test=x[:4], y_test=y[:4], domain_train=y % 2, domain_test=y[:4] % 2
    )
    benchmark = make("npz", path=str(path), experiences=2, class_order=[3, 1, 0, 2], augment=["flip"])
    check(benchmark)
    assert [e.classes for e in benchmark.train] == [(1, 3), (0, 2)]
    assert benchmark.transform.ops == ("flip",)
    assert len(make("npz", path=str(path), shift="domain").train) == 2
    with pytest.raises(ConfigError, match="needs a value for 'path'"):
        make("npz")


def test_ones_own_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (9, 9), (i, 0, 0)).save(tmp_path / "photos" / name / f"{i}.png")
    benchmark = make("image-folder", path=str(tmp_path / "photos"), size=8, experiences=2)
    check(benchmark)
    assert benchmark.class_names == ("ant", "bee")
    assert [len(e) for e in benchmark.test] == [2, 2]


# --- few-shot ---


def test_fscil_cifar100_is_the_published_protocol() -> None:
    """30,000 images, then 25 eight times; 6,000 + 500 t tested; the union of all sessions without duplicates."""
    needs("cifar100")
    benchmark = make("fscil-cifar100")
    assert [len(e) for e in benchmark.train] == [30_000] + [25] * 8
    tested = np.cumsum([len(e) for e in benchmark.test])
    assert tested.tolist() == [6_000 + 500 * t for t in range(9)]
    assert [e.classes for e in benchmark.train] == [
        tuple(range(60)),
        *(tuple(range(60 + 5 * t, 65 + 5 * t)) for t in range(8)),
    ]
    rows = torch.cat([e.data.parts[0][1] for e in benchmark.train])
    assert len(rows.unique()) == len(rows) == 30_200
    assert benchmark.setting.memory == 0
    assert make("fscil-cifar100", seed=1).fingerprint != benchmark.fingerprint
    assert make("fscil-cifar100", sessions=2, shots=1).train[2].classes == tuple(range(65, 70))


def _few_of(path: Path, order: Any) -> np.ndarray[Any, Any]:
    """A tiny stand-in for CIFAR-100: 500 × 100 black images whose labels come in some order."""
    y = order(np.arange(50_000) % 100)
    x = np.zeros((50_000, 4, 4, 3), dtype=np.uint8)
    np.savez(path / "cifar100.npz", x_train=x, y_train=y, x_test=x[:100], y_test=np.arange(100))
    return np.asarray(y)


def test_published_shots_where_the_data_are_in_the_published_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clbench.benchmarks.few_shot import PUBLISHED

    assert PUBLISHED[:5] == (29774, 33344, 4815, 6772, 48317)
    assert len(set(PUBLISHED)) == 200
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path))

    def official(y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Labels with which the published rows are of the classes that they should be."""
        y = np.sort(y)
        listed = np.array(PUBLISHED)
        wanted = 60 + np.arange(200) // 5
        rest = np.setdiff1d(np.arange(50_000), listed)
        counts = np.bincount(wanted, minlength=100)
        y[listed] = wanted
        y[rest] = np.repeat(np.arange(100), 500 - counts)
        return y

    _few_of(tmp_path, official)
    benchmark = make("fscil-cifar100")
    assert "the published list" in benchmark.notes
    assert benchmark.seed == 0
    listed = [e.data.parts[0][1].tolist() for e in benchmark.train[1:]]
    assert [sorted(PUBLISHED[25 * t : 25 * t + 25]) for t in range(8)] == listed
    assert make("fscil-cifar100", seed=3).fingerprint == benchmark.fingerprint
    assert make("fscil-cifar100", shot_list="published").fingerprint == benchmark.fingerprint
    assert "drawn by the seed" in make("fscil-cifar100", shots=1).notes
    drawn = make("fscil-cifar100", shot_list="drawn", seed=3)
    assert (drawn.seed, drawn.fingerprint != benchmark.fingerprint) == (3, True)

    _few_of(tmp_path, lambda y: y)
    assert "not in the published order" in make("fscil-cifar100").notes
    with pytest.raises(
        ConfigError, match=r"not in the published order, in which rows 29774, .* are of class 60"
    ):
        make("fscil-cifar100", shot_list="published")


@pytest.mark.parametrize("form", ["lines", "commas", "npz"])
def test_shots_from_a_file(form: str, tmp_path: Path) -> None:
    y = np.arange(60) % 6
    own = tmp_path / "own.npz"
    x = np.zeros((60, 4), dtype=np.float32)
    np.savez(own, x_train=x, y_train=y, x_test=x, y_test=y)
    listed = np.array([4, 10, 5, 11])
    path = tmp_path / ("list.npz" if form == "npz" else "list.txt")
    if form == "npz":
        np.savez(path, listed)
    else:
        path.write_text(("\n" if form == "lines" else ", ").join(map(str, listed)) + "\n")
    benchmark = make("few-shot", path=str(own), base=4, ways=1, shots=2, shot_list=str(path))
    check(benchmark)
    assert [e.data.parts[0][1].tolist() for e in benchmark.train[1:]] == [[4, 10], [5, 11]]
    for content, message in (("4 ten", "holds 'ten'"), ("4 -10", "holds '-10'")):
        wrong = tmp_path / "wrong.txt"
        wrong.write_text(content)
        with pytest.raises(DataError, match=message):
            make("few-shot", path=str(own), base=4, ways=1, shots=2, shot_list=str(wrong))
    with pytest.raises(DataError, match="cannot be read"):
        make("few-shot", path=str(own), base=4, ways=1, shots=2, shot_list=str(tmp_path / "none"))


def test_ones_own_images_few_shot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    for name in ("ant", "bee", "cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (9, 9), (i, 0, 0)).save(tmp_path / "photos" / name / f"{i}.png")
    benchmark = make("few-shot", path=str(tmp_path / "photos"), size=8, base=2, ways=1, shots=3)
    check(benchmark)
    assert [len(e) for e in benchmark.train] == [16, 3, 3]
    mean, std = data.moments(benchmark.train[0].data.x(), 1 / 255)
    assert (benchmark.transform.mean, benchmark.transform.std) == (mean, std)  # of the base session alone


def test_omniglot_divides_by_alphabets_and_drawers() -> None:
    needs("omniglot")
    whole = data.omniglot(5)
    assert (whole.source.num_classes, int(whole.background.sum())) == (1623, 964)
    benchmark = make("fscil-omniglot")
    assert [len(e) for e in benchmark.train] == [1500] + [50] * 5
    assert [len(e) for e in benchmark.test] == [500] + [50] * 5
    names = np.array(whole.source.class_names)
    of_background = set(names[whole.background].tolist())
    assert set(benchmark.class_names[:100]) <= of_background
    assert not set(benchmark.class_names[100:]) & of_background
    natural = make("fscil-omniglot", class_order="natural", base=10, sessions=1)
    assert natural.class_names[:10] == tuple(names[:10])
    assert make("fscil-omniglot", seed=1).class_names != benchmark.class_names
    with pytest.raises(ConfigError, match="has 659 later characters; 700 were asked for"):
        make("fscil-omniglot", sessions=70)


def test_omniglot_of_another_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path))
    x, y, drawer = np.zeros((40, 2, 2, 1), np.uint8), np.arange(2).repeat(20), np.tile(np.arange(20), 2)
    arrays = {"x": x, "y": y, "alphabet": y, "drawer": drawer, "background": y == 0}
    np.savez(tmp_path / "omniglot.npz", **arrays)
    assert data.omniglot(5).background.tolist() == [True, False]
    assert len(data.load("omniglot").test.y) == 10
    with pytest.raises(ConfigError, match="1 to 19 are for testing; 20"):
        data.omniglot(20)
    np.savez(tmp_path / "omniglot.npz", **arrays | {"background": drawer == 0})
    with pytest.raises(DataError, match="in both the background and the evaluation set"):
        data.omniglot(5)
    np.savez(tmp_path / "omniglot.npz", **arrays | {"drawer": drawer[:7]})
    with pytest.raises(DataError, match="drawer must hold one number"):
        data.omniglot(5)
    del arrays["drawer"]
    np.savez(tmp_path / "omniglot.npz", **arrays)
    with pytest.raises(DataError, match="has no drawer"):
        data.omniglot(5)


# --- tables ---

ROOT = Path(__file__).resolve().parent.parent
TABLES = sorted((ROOT / "benchmarks").glob("*.yaml"))
ROW = {"says": "One.", "fixed": {"data": "digits"}, "takes": {"experiences": 5}}


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_a_table_is_strict_yaml_and_its_rows_are_short(table: Path) -> None:
    assert [row.name for row in read_rows(table)] == list(read_yaml(table))
    rows = re.split(r"\n(?=\S)", table.read_text(encoding="utf-8").strip())
    assert max(len(row.splitlines()) for row in rows) <= 12


def test_the_row_of_the_documentation_is_one_more_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the page shows, on images in place of the real ones."""
    page = (ROOT / "docs" / "add-a-benchmark.md").read_text(encoding="utf-8")
    shown = re.findall(r"```yaml\n(rotated.*?)```", page, re.DOTALL)[0]
    assert len(shown.splitlines()) <= 12
    table = tmp_path / "table.yaml"
    table.write_text(shown, encoding="utf-8")
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28)).astype(np.uint8)
    split = {"x_train": images, "y_train": np.arange(20) % 10, "x_test": images[:10], "y_test": np.arange(10)}
    np.savez(tmp_path / "fashion_mnist.npz", **split)
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path))
    [row] = read_rows(table)
    more = fresh()
    more.register(row.name, version=row.version)(factory(row, rotated))
    made = more.make("rotated-fashion-mnist", angles=[0, 90])
    assert made.name == "rotated-fashion-mnist"
    assert [experience.domain for experience in made.train] == ["0°", "90°"]
    assert made.train[1].data.x().shape == (20, 1, 28, 28)


def fresh() -> Registry[Any]:
    """A registry without entries."""
    return Registry(
        "benchmark",
        plural="benchmarks",
        package="no_such_package",
        decorator="register_benchmark",
        group="no.such.group",
        base="clbench.types.Benchmark",
        told_by_data=True,
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"one": {**ROW, "take": {}}}, "row 'one' has a key 'take'. Did you mean 'takes'?"),
        ({"one": {"fixed": {}}}, "row 'one' needs a text under 'says'"),
        ({"one": {**ROW, "version": -1}}, "cannot be a version"),
        (
            {"one": {**ROW, "fixed": ["data"]}},
            "row 'one' needs `key: value` lines under 'fixed'; ['data'] was given",
        ),
        (
            {"one": {**ROW, "needs": "path"}},
            "row 'one' needs a list of names under 'needs'; 'path' was given",
        ),
        ({"One!": ROW}, "One!"),
        (["one"], "must map names to rows"),
        ("one: [", "cannot be read"),
        ("one: {says: One.}\ntwo: {says: Two.}\none: {says: x}", "line 3: the key 'one' stands there twice"),
        ("one: {says: One., fixed: {data: a, data: b}}", "line 1: the key 'data' stands there twice"),
    ],
)
def test_rows_that_cannot_be(table: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "table.yaml"
    file.write_text(table if isinstance(table, str) else json.dumps(table), encoding="utf-8")
    with pytest.raises(RegistryError, match=re.escape(message)):
        read_rows(file)


def test_a_row_names_arguments_that_the_function_has() -> None:
    row = Row("one", "One.", fixed={"data": "digits"}, takes={"angle": 0.0})
    with pytest.raises(RegistryError, match=r"takes no 'angle'\. Did you mean 'angles'\?"):
        factory(row, rotated)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Row("one", "One."), r"Row 'one': rotated needs 'data'; give it under 'fixed'"),
        (
            Row("one", "One.", fixed={"data": "digits"}, takes={"seed": -3}),
            r"Row 'one': rotated: parameter 'seed' takes a whole number ≥ 0; -3 was given",
        ),
        (
            Row("one", "One.", fixed={"data": 3}),
            r"Row 'one': rotated: parameter 'data' takes text; 3 was given",
        ),
    ],
    ids=["nothing fixed", "a seed below 0", "a number for a name"],
)
def test_a_row_has_what_the_function_needs(row: Row, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        factory(row, rotated)


def test_a_file_of_ones_own_has_tables_too(tmp_path: Path) -> None:
    """They are read without running it."""
    plugin = tmp_path / "own.py"
    plugin.write_text(
        "raise SystemExit\n@register_benchmarks('rows.yaml')\ndef own(told): ...\n", encoding="utf-8"
    )
    (tmp_path / "rows.yaml").write_text("one:\n  says: The one. And more.\n  version: 3\n", encoding="utf-8")
    [entry] = read_decorators(plugin, "own", "register_benchmark")
    assert (entry.name, entry.version, entry.summary) == ("one", 3, "The one.")
