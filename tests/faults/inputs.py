"""Bad input, drawn by hypothesis, and how it must be taken: accepted, or refused with a message. Nothing else."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st

from clbench import ClbenchError

SECONDS = 20.0
"""Of processor time that an input may take; more is a hang."""

BYTES = 4 << 30
"""Of memory that an input may take beyond what is there; more is a failed allocation."""


# --- what may not happen ---


STARTS = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "socket.connect")
CHANGES = ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate")
"""Python's audit events of what an input may not bring about at all, or not outside its folder."""


class _Watch:
    """While a folder is set: what is written outside it, unpickled, started, or asked of a network."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.seen: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
        if event in STARTS or (
            event == "subprocess.Popen" and args[0] != "git"
        ):  # which names a run's commit
            self.seen.append(f"{event} {args!r:.200}")
        elif event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & writes):
            self._written(args[0])

    def _written(self, path: Any) -> None:
        if isinstance(path, int) or self.folder is None:
            return
        whole = os.path.realpath(os.fsdecode(path))
        allowed = whole.startswith(self.folder) or whole == os.devnull
        if not allowed and "__pycache__" not in whole and ".hypothesis" not in whole:
            self.seen.append(f"wrote {whole}")


_watch = _Watch()
sys.addaudithook(_watch)


@contextlib.contextmanager
def _watched(folder: Path) -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s of processor time")

    _watch.folder, _watch.seen = os.path.realpath(folder), []
    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        _watch.folder = None
    assert not _watch.seen, _watch.seen


def fuzz(
    inputs: st.SearchStrategy[Any], take: Callable[[Any], object], number: int, folder: Path
) -> Counter[str]:
    """Take so many drawn inputs; returns how many were accepted and how many refused.

    Anything but a `ClbenchError` with a message is a failure, as are hangs, writes outside of `folder`, unpickling,
    programs that are started, and connections.
    """
    outcomes: Counter[str] = Counter()

    @seed(0)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(inputs)
    def check(one: Any) -> None:
        with _watched(folder):
            try:
                take(one)
            except ClbenchError as error:
                outcomes["refused" if str(error).strip() else "refused without a word"] += 1
            else:
                outcomes["accepted"] += 1
        assert not outcomes["refused without a word"]

    check()
    return outcomes


# --- trees ---

WORDS = st.sampled_from(
    ["er", "lr", "sgd", "cosine", "mlp", "memory", "seed", "", "nan", "1e-3", "../x", "/etc", "null", "a.b"]
)
NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, -(2**63), 10**30]),
    st.floats(allow_nan=True, allow_infinity=True),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, st.text(max_size=8))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(WORDS, st.text(max_size=4)), inner, max_size=3)
    ),
    max_leaves=6,
)


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all nodes below the root."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [found for key, value in inside for found in [(*path, key), *_places(value, (*path, key))]]


@st.composite
def mutated(draw: Any, base: Any) -> Any:
    """A tree in which one to three nodes are replaced, removed, renamed, doubled or added."""
    tree = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(tree)
        if not places:
            break
        *above, key = draw(st.sampled_from(places))
        node = tree
        for step in above:
            node = node[step]
        how = draw(st.sampled_from(["replace", "replace", "remove", "rename", "add"]))
        if how == "replace":
            node[key] = draw(VALUES)
        elif how == "remove":
            del node[key]
        elif isinstance(node, dict):
            name = draw(st.one_of(st.text(max_size=6), WORDS, st.just(f"{key}s")))
            node[name] = node.pop(key) if how == "rename" else draw(VALUES)
        else:
            node.append(draw(VALUES))
    return tree


@st.composite
def bent(draw: Any, data: bytes) -> bytes:
    """Bytes with a piece overwritten, cut out, put in, or cut off."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        piece = draw(st.binary(max_size=8))
        how = draw(st.sampled_from(["over", "in", "out", "off"]))
        if how == "over":
            data = data[:at] + piece + data[at + len(piece) :]
        elif how == "in":
            data = data[:at] + piece + data[at:]
        elif how == "out":
            data = data[:at] + data[at + draw(st.integers(0, 64)) :]
        else:
            data = data[:at]
    return data


# --- configurations ---


def configurations() -> st.SearchStrategy[Any]:
    """(strategy, a configuration file's tree, pairs of the command line)."""
    from clbench import config

    base = config.resolve("split-digits", "derpp+refresh").model_dump(mode="json")
    file = {key: value for key, value in base.items() if key not in ("benchmark", "strategy")}
    keys = st.one_of(
        st.sampled_from(
            ["lr", "memory", "hidden", "optim.lr", "derpp.alpha", "stream.experiences", "model", "epochs"]
        ),
        WORDS,
    )
    pairs = st.lists(st.builds(lambda key, value: f"{key}={value}", keys, SCALARS), max_size=2)
    names = st.one_of(
        st.just("derpp+refresh"),
        st.sampled_from(["er", "ewc+er", "refresh", "er+", "+"]),
        st.text(max_size=5),
    )
    trees = st.one_of(
        mutated(file), st.dictionaries(st.one_of(st.sampled_from(list(base)), WORDS), VALUES, max_size=3)
    )
    return st.tuples(names, trees, pairs)


def take_configuration(given: Any) -> None:
    from clbench import config

    strategy, file, pairs = given
    config.resolve("split-digits", strategy, config.parse_pairs(pairs), file=file)


def yaml_files(folder: Path) -> st.SearchStrategy[Path]:
    """Files that should hold a suite."""
    from clbench.config import config_file

    shipped = config_file("suites", "quickstart.yaml")
    assert shipped is not None
    text = shipped.read_bytes()
    tree = yaml.safe_load(text)
    contents = st.one_of(
        bent(text),
        st.binary(max_size=40),
        mutated(tree).map(lambda value: yaml.safe_dump(value).encode()),
        st.sampled_from(
            [b"!!python/object/apply:os.system ['touch x']", b"a: &a [*a]", b"&a {b: *a}", b"- " * 2000]
        ),
    )
    return contents.map(lambda content: _file(folder / "suite.yaml", content))


def take_suite(path: Path) -> None:
    from clbench.config import resolve
    from clbench.runs import suite

    loaded = suite.load(str(path))[1]
    for benchmark in loaded.benchmarks:
        for strategy in loaded.strategies:
            resolve(
                benchmark.name,
                strategy.name,
                seed=loaded.seeds[0],
                suite=(loaded.settings, benchmark.settings, strategy.settings),
            )


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# --- the command line ---

COMMANDS = [
    "run",
    "resume",
    "suite",
    "list",
    "show",
    "verify",
    "plot",
    "submit",
    "leaderboard",
    "reproduce",
    "data",
    "tune",
    "tune-suite",
    "new",
]
OPTIONS = [
    *(
        "--seed",
        "--out",
        "--device",
        "--precision",
        "--config",
        "--plugin",
        "--log",
        "--threads",
        "--checkpoint",
    ),
    *(
        "--json",
        "--workers",
        "--retries",
        "--time-limit",
        "--launcher",
        "--steps",
        "--html",
        "--check",
        "--help",
    ),
    *("--root", "--trials", "--protocol", "--space", "--overlap", "--seeds"),
]
ARGUMENTS = [
    *(
        "split-digits",
        "er",
        "derpp+refresh",
        "npz",
        "image-folder",
        "avalanche:Replay",
        "strategies",
        "benchmarks",
    ),
    *(
        "status",
        "lr=0.1",
        "lr=x",
        "memory=-1",
        "path=nowhere.npz",
        "model=timm:no",
        "hidden=[8]",
        "x=y=z",
        "=",
        "-",
    ),
    *(
        "--",
        ".",
        "..",
        "nowhere",
        "strategy",
        "cpu",
        "cuda:9",
        "fp32",
        "0",
        "-1",
        "1e9",
        "é\udc80",
        "a\nb",
        "",
    ),
]
"""No shipped suite, no data set that could be fetched: those would do as they are told."""


def command_lines() -> st.SearchStrategy[list[str]]:
    words = st.one_of(st.sampled_from(OPTIONS), st.sampled_from(ARGUMENTS), st.text(max_size=6))
    return st.builds(
        lambda first, rest: [first, *rest],
        st.sampled_from([*COMMANDS, "", "rnu"]),
        st.lists(words, max_size=6),
    )


def take_command(arguments: list[str]) -> None:
    """In this process, with one step a run where it comes to one; an exit code of 2 is a refusal."""
    from clbench import cli

    if arguments[0] in ("run", "tune", "tune-suite"):
        arguments = [*arguments, "iterations=1", "experiences=2"]
    if arguments[0] in ("tune", "tune-suite"):
        arguments = [*arguments, "--trials", "1"]
    before, sys.argv = sys.argv, ["clbench", *arguments]
    said, shown = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
            cli.main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    assert code in (0, 1, 2, 3), (code, said.getvalue())
    assert "Traceback" not in said.getvalue()
    if code == 2:
        raise ClbenchError(said.getvalue())


# --- arrays ---


class Touches:
    """What unpickling would run."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def _npy(array: Any) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, np.asarray(array), allow_pickle=True)
    return content.getvalue()


def _lying(shape: str, descr: str, data: bytes) -> bytes:
    """An .npy whose header says what its data is not."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


SHAPES = st.sampled_from([(12, 4), (12, 3, 3), (12, 3, 3, 3), (12,), (), (0, 4), (13, 4), (12, 0)])
DTYPES = st.sampled_from(
    ["u1", "i8", "f4", "f8", "f2", "c8", "S3", "U2", "M8[s]", "?", "u8", ">i4", "V4", "O", "i4,f4"]
)


@st.composite
def arrays(draw: Any) -> bytes:
    shape, dtype = draw(SHAPES), np.dtype(draw(DTYPES))
    if dtype.kind == "O":
        return _npy(np.full(shape, Touches(), dtype=object))
    fill = draw(st.sampled_from([0, 1, 3]))
    return _npy(np.full(shape, fill).astype(dtype) if dtype.kind not in "V" else np.zeros(shape, dtype))


def _good() -> dict[str, bytes]:
    x, y = np.arange(48, dtype=np.uint8).reshape(12, 4), np.arange(12) % 3
    found = {"x_train": x, "y_train": y, "x_test": x, "y_test": y, "class_names": np.array(["a", "b", "c"])}
    return {name: _npy(array) for name, array in found.items()}


@st.composite
def npz_contents(draw: Any) -> bytes:
    entries = _good()
    for _ in range(draw(st.integers(0, 2))):
        name = draw(
            st.sampled_from(
                ["x_train", "y_train", "x_test", "y_test", "domain_train", "domain_test", "class_names"]
            )
        )
        entries[name] = draw(
            st.one_of(
                arrays(),
                st.binary(max_size=30),
                bent(entries.get(name, entries["x_test"])),
                st.builds(
                    _lying,
                    st.sampled_from(
                        ["(12, 4)", "(10**12, 4)", "(12, -4)", "'x'", "(1,)*70", "(999999999999999999, 9)"]
                    ),
                    st.sampled_from(["'|u1'", "'<i8'", "'|O'", "'x'", "[('a','<i4')]", "__import__('os')"]),
                    st.binary(max_size=50),
                ),
            )
        )
    names = {name: f"{name}.npy" for name in entries}
    if draw(st.booleans()):
        odd = draw(
            st.sampled_from(["../../escaped.npy", "/tmp/escaped.npy", "x_train.npy/../y.npy", "", "a" * 300])
        )
        entries["odd"], names["odd"] = entries["x_test"], odd
    content = io.BytesIO()
    with zipfile.ZipFile(
        content, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    ) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(names[name]), data)
    return content.getvalue()


def bomb(size: int) -> bytes:
    """An archive of some kilobytes whose x_train unpacks to `size` bytes."""
    content, head = io.BytesIO(), _lying(f"({size // 4}, 4)", "'|u1'", b"")
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in _good().items():
            if name != "x_train":
                archive.writestr(f"{name}.npy", data)
        with archive.open("x_train.npy", "w", force_zip64=True) as entry:
            entry.write(head)
            for _ in range(size // (1 << 20)):
                entry.write(bytes(1 << 20))
    return content.getvalue()


def npz_files(folder: Path) -> st.SearchStrategy[Path]:
    """Files that should hold a data set."""
    contents = st.one_of(
        npz_contents(),
        npz_contents().flatmap(bent),
        st.binary(max_size=60),
        st.just(pickle.dumps(Touches())),
        arrays(),
    )
    return contents.map(lambda content: _file(folder / "data.npz", content))


def take_npz(path: Path) -> None:
    from clbench.data.files import _read_npz, read_npz

    _read_npz.cache_clear()
    read_npz(path)


# --- images ---


def _png() -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(content, "PNG")
    return content.getvalue()


def _huge_png() -> bytes:
    """A PNG that says it has 60,000 × 60,000 pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + _png()[33:]
    )


@st.composite
def image_folders(draw: Any, folder: Path) -> Path:
    """Folders that should hold classes of images."""
    root = folder / "images"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    good, names = (
        _png(),
        st.sampled_from(["a", "b", "train", "test", "é", "a b", ".hidden", "x\ny", "\udc80", "con", "a.png"]),
    )
    for _ in range(draw(st.integers(1, 4))):
        below = root.joinpath(*draw(st.lists(names, min_size=0, max_size=2)))
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            below.mkdir(parents=True, exist_ok=True)
        if not below.is_dir():
            continue
        for number in range(draw(st.integers(0, 3))):
            name = draw(
                st.sampled_from(
                    [
                        f"{number}.png",
                        f"{number}.JPG",
                        f"é{number}.gif",
                        "x.txt",
                        ".png",
                        "\udc80.png",
                        f"{number}.tif",
                    ]
                )
            )
            kind = draw(
                st.sampled_from(
                    ["good"] * 5
                    + ["bent", "text", "empty", "huge", "link", "dangling", "loop", "folder", "pickle"]
                )
            )
            path = below / name
            with contextlib.suppress(FileExistsError, IsADirectoryError):
                if kind == "link":
                    path.symlink_to("/etc/passwd")
                elif kind == "dangling":
                    path.symlink_to(root / "nowhere")
                elif kind == "loop":
                    path.symlink_to(root)
                elif kind == "folder":
                    path.mkdir()
                else:
                    made = {
                        "good": good,
                        "text": b"no image",
                        "empty": b"",
                        "huge": _huge_png(),
                        "pickle": pickle.dumps(Touches()),
                    }
                    path.write_bytes(made[kind] if kind in made else draw(bent(good)))
    return root


def take_folder(root: Path) -> None:
    from clbench.data import from_folder

    from_folder(root, size=8, experiences=1)


# --- collections of documents ---


def beir_folders(folder: Path) -> st.SearchStrategy[Path]:
    """Folders that should hold documents, queries and judgements."""
    numbers = range(6)
    good = {
        "corpus.jsonl": "".join(
            json.dumps({"_id": f"d{n}", "title": "", "text": f"word {n}"}) + "\n" for n in numbers
        ),
        "queries.jsonl": "".join(
            json.dumps({"_id": f"q{n}", "text": f"what is {n}"}) + "\n" for n in numbers
        ),
        "qrels/test.tsv": "query-id\tcorpus-id\tscore\n" + "".join(f"q{n}\td{n}\t1\n" for n in numbers),
    }
    entry = mutated({"_id": "d9", "title": "t", "text": "more", "metadata": {}})
    lines = st.one_of(
        st.one_of(entry, VALUES).map(json.dumps),
        st.sampled_from(["[" * 5000, "q0\td0\tnan", "q0\td0\t1e999", "q0\td0", "\x00", "q0\t../../x\t1"]),
        st.text(max_size=20),
    )

    @st.composite
    def contents(draw: Any) -> dict[str, bytes | None]:
        found: dict[str, bytes | None] = {}
        for name, text in good.items():
            data = text.encode()
            how = draw(st.sampled_from(["good", "good", "bent", "line", "binary", "gone"]))
            with_line = data + draw(lines).encode("utf-8", "surrogatepass") + b"\n" if how == "line" else data
            made = {
                "bent": draw(bent(data)),
                "binary": draw(st.binary(max_size=40)),
                "gone": None,
                "line": with_line,
            }
            found[name] = made.get(how, data)
        return found

    def write(given: dict[str, bytes | None]) -> Path:
        root = folder / "collection"
        shutil.rmtree(root, ignore_errors=True)
        (root / "qrels").mkdir(parents=True)
        for name, content in given.items():
            if content is not None:
                (root / name).write_bytes(content)
        return root

    return contents().map(write)


def take_beir(root: Path) -> None:
    from clbench.data.beir import _read_beir, read_beir

    _read_beir.cache_clear()
    read_beir(root)


# --- records, curves, checkpoints ---


def run_folders(whole: Path, folder: Path) -> st.SearchStrategy[Path]:
    """Finished runs whose record or curve is bent, also with a right SHA-256 over wrong content."""
    from clbench.results import ledger

    record, curve = (whole / "record.json").read_bytes(), (whole / "curve.npz").read_bytes()
    tree = json.loads(record)

    def signed(content: Any) -> bytes:
        content = {key: value for key, value in content.items() if key != "sha256"}
        with contextlib.suppress(ValueError, TypeError):
            content["sha256"] = ledger._digest(json.loads(json.dumps(content)))
        return json.dumps(content).encode()

    records = st.one_of(
        st.just(record),
        bent(record),
        mutated(tree).map(signed),
        VALUES.map(lambda v: json.dumps(v).encode()),
        st.just(b"[" * 100_000),
    )
    curves = st.one_of(st.just(curve), bent(curve), npz_contents(), _curves(curve))

    def write(given: tuple[bytes, bytes]) -> Path:
        place = folder / "run"
        place.mkdir(exist_ok=True)
        for name, content in zip(("record.json", "curve.npz"), given, strict=True):
            (place / name).write_bytes(content)
        return place

    return st.tuples(records, curves).map(write)


@st.composite
def _curves(draw: Any, curve: bytes) -> bytes:
    """A curve in which a column is another array."""
    with zipfile.ZipFile(io.BytesIO(curve)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = draw(st.sampled_from(sorted(entries)))
    lies = st.builds(
        _lying,
        st.sampled_from(["(10**12,)", "(12,)", "(2, 5)"]),
        st.sampled_from(["'<i8'", "'|O'"]),
        st.binary(max_size=40),
    )
    entries[name] = draw(st.one_of(arrays(), bent(entries[name]), lies))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for key, data in entries.items():
            archive.writestr(key, data)
    return content.getvalue()


def take_run(folder: Path) -> None:
    """All that reads a finished run: its record, its curve, its metrics, and the leaderboard's checks."""
    from clbench.reports.leaderboard import store
    from clbench.results import metrics
    from clbench.results.curve import Curve
    from clbench.results.ledger import read_record

    first: ClbenchError | None = None
    for read in (
        lambda: metrics.compute(Curve.load(folder / "curve.npz")),
        lambda: repr(read_record(folder)),
        lambda: store.check(read_record(folder)),
        lambda: store.place(read_record(folder)),
    ):
        try:
            read()
        except ClbenchError as error:
            first = first or error
    if first is not None:
        raise first


def checkpoints(folder: Path) -> st.SearchStrategy[Path]:
    """Bent checkpoints, also with a right SHA-256 over a wrong tree."""
    import torch
    from safetensors.torch import save as to_bytes

    from clbench.machine import checkpoint

    path = folder / "state.safetensors"
    checkpoint.save(
        path, {"step": 3, "tensors": [torch.arange(6.0), torch.ones(2, dtype=torch.int64)], "none": None}
    )
    good = path.read_bytes()
    tensors = {"tensors/0": torch.arange(6.0), "tensors/1": torch.ones(2, dtype=torch.int64)}
    tree = checkpoint._pack({"step": 3, "tensors": list(tensors.values()), "none": None}, "", {})

    def signed(content: Any) -> bytes:
        text = json.dumps(content)
        header = {"format": checkpoint.FORMAT, "sha256": checkpoint._digest(text, tensors), "tree": text}
        return to_bytes(tensors, metadata={"clbench": json.dumps(header)})

    deep = '{"list": [' * 3000 + "1" + "]}" * 3000
    header = {"format": checkpoint.FORMAT, "sha256": checkpoint._digest(deep, tensors), "tree": deep}
    contents = st.one_of(
        bent(good),
        st.binary(max_size=60),
        st.one_of(mutated(tree), VALUES).map(signed),
        st.just(to_bytes(tensors, metadata={"clbench": json.dumps(header)})),
        st.just(pickle.dumps(Touches())),
        st.just(struct.pack("<Q", 2**62) + b"{}"),
    )
    return contents.map(lambda content: _file(path, content))


def take_checkpoint(path: Path) -> None:
    """As a run's state, and as weights to start from."""
    import torch

    from clbench.machine import checkpoint
    from clbench.models import weights

    try:
        checkpoint.load(path)
    finally:
        with contextlib.suppress(ClbenchError):
            weights.load_into(torch.nn.Linear(2, 2), weights.find(str(path)))


KINDS: dict[str, tuple[Callable[[Path, Path], Any], Callable[[Any], object], int, int]] = {
    "configurations": (lambda whole, folder: configurations(), take_configuration, 100, 3000),
    "suites": (lambda whole, folder: yaml_files(folder), take_suite, 60, 1000),
    "commands": (lambda whole, folder: command_lines(), take_command, 60, 1500),
    "npz files": (lambda whole, folder: npz_files(folder), take_npz, 150, 3000),
    "image folders": (lambda whole, folder: image_folders(folder), take_folder, 60, 1000),
    "BEIR folders": (lambda whole, folder: beir_folders(folder), take_beir, 100, 3000),
    "runs": (run_folders, take_run, 120, 3000),
    "checkpoints": (lambda whole, folder: checkpoints(folder), take_checkpoint, 120, 3000),
}
"""Name → the inputs, what takes them, and how many in the ordinary and in the full suite."""
