"""`data`: which data sets are here, fetching more, and what a benchmark makes of its data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clbench.cli.common import Json, Pairs, Plugins, columns, load
from clbench.errors import DataError

if TYPE_CHECKING:
    from clbench.reports.display.benchmarks import Description


def data_status(as_json: Json = False) -> None:
    """Which data sets and caches are here, and where."""
    from clbench import data

    rows = [*data.status(), *data.caches()]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False, default=str))
        return
    cells = [
        (r["name"], r["state"], f"{r['megabytes']:,}" if r["megabytes"] else "—", r["path"], r["note"])
        for r in rows
    ]
    print(columns([("data set", "state", "MB", "file", "note"), *cells], indent=0))


def data_fetch(names: Annotated[list[str], typer.Argument(help="Data sets, such as mnist cifar10.")]) -> None:
    """Download data sets, check their hashes, and cache them decoded."""
    from clbench import data

    for name in names:
        print(data.fetch(name))


def data_clear(
    cache: Annotated[str, typer.Argument(help="The cache: `folders`, images decoded from folders.")],
    as_json: Json = False,
) -> None:
    """Remove a cache, which is made again when it is needed. Images and data sets of yours are never touched.

    Runs that read it at that moment may fail; the same command goes on.
    """
    from clbench import data

    removed = data.clear(cache)
    if as_json:
        print(json.dumps(removed, indent=2, ensure_ascii=False))
    elif removed["files"]:
        files = f"{removed['files']} file{'s' * (removed['files'] != 1)}, {removed['megabytes']:,} MB"
        print(
            f"removed {removed['what']}, {files}, from {removed['path']}; the images themselves are untouched"
        )
    else:
        print(f"there is nothing to remove in {removed['path']}")


def data_describe(
    benchmark: Annotated[
        str, typer.Argument(help="A benchmark's name, such as image-folder; or a file or folder of data.")
    ],
    settings: Pairs = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> int:
    """Say how data are read, what each experience holds, and what is wrong with them, before anything is trained.

    Of a benchmark, it is built. Of a manifest (a CSV, TSV, JSON-lines or Parquet file), every file that it names is
    read, and all faults are listed; it ends with 1 if there are some. A folder is one of images or, without any, of
    texts for language models; an .npz file one of arrays.
    """
    from clbench.registry import benchmarks

    load(plugin)
    place = Path(benchmark).expanduser()
    if not place.exists() and not benchmarks.knows(benchmark) and (place.suffix or place.name != benchmark):
        raise DataError(f"There is no file or folder {benchmark}, and no benchmark of that name.")
    if benchmarks.knows(benchmark) or not place.exists():
        show_described(describe(benchmark, settings), as_json)
        return 0
    from clbench.data import describe_manifest, reader_of

    if (kind := reader_of(place)) != "manifest":
        show_described(describe(kind, [f"path={benchmark}", *(settings or [])]), as_json)
        return 0
    from clbench.config import parse_pairs

    given = {key.removeprefix("stream."): value for key, value in parse_pairs(settings or []).items()}
    found = describe_manifest(place, **given)
    print(json.dumps(found.as_dict(), indent=2, ensure_ascii=False) if as_json else printable_lines(found))
    return 1 if found.faults else 0


def printable_lines(found: object) -> str:
    from clbench.files.names import printable

    return "\n".join(map(printable, str(found).splitlines()))


def describe(benchmark: str, settings: Sequence[str] | None) -> Description:
    """Build a benchmark with the settings that were given, and describe it."""
    from clbench.config import parse_pairs
    from clbench.runs.building import make_benchmark

    given = parse_pairs(settings or [])
    built = make_benchmark(benchmark, **{key.removeprefix("stream."): v for key, v in given.items()})
    described: Description = built.describe()
    return described


def show_described(described: Description, as_json: bool, sheet: Path | None = None) -> None:
    """Print what a benchmark is made of, and write its contact sheet where one is asked for."""
    if sheet is not None:
        described.sheet(sheet)
    print(json.dumps(described.as_dict(), indent=2, ensure_ascii=False) if as_json else described)
    if sheet is not None and not as_json:
        print(f"contact sheet: {sheet}")
