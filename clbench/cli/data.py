"""`data`: which data sets are here, fetching more, and what a benchmark makes of its data."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from clbench.cli.common import Json, Pairs, Plugins, columns, load


def data_status(as_json: Json = False) -> None:
    """Which data sets are here, and where."""
    from clbench import data

    rows = data.status()
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


def data_describe(
    benchmark: Annotated[str, typer.Argument(help="A benchmark's name, such as image-folder.")],
    settings: Pairs = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Build a benchmark, and say how its data were read and what each experience holds."""
    from clbench.config import parse_pairs
    from clbench.data import remarks
    from clbench.runs.building import make_benchmark

    load(plugin)
    built = make_benchmark(benchmark, **parse_pairs(settings or []))
    streams = [stream for stream in (built.train, built.valid, built.test) if stream is not None]
    if as_json:
        told = {
            "benchmark": {"name": built.name, "version": built.version, "fingerprint": built.fingerprint},
            "input_shape": built.input_shape,
            "classes": built.class_names or built.num_classes,
            "streams": {
                stream.name: [
                    {"classes": exp.classes, "domain": exp.domain, "examples": len(exp)} for exp in stream
                ]
                for stream in streams
            },
            "notes": remarks(built),
        }
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return
    shape = " × ".join(map(str, built.input_shape))
    print(f"{built.name}@{built.version}: inputs {shape}, {built.num_classes} classes")
    for remark in remarks(built):
        print(f"  {remark}")
    rows = [("stream", "experience", "examples", "domain", "classes")]
    for stream in streams:
        for exp in stream:
            names = [built.class_names[c] if built.class_names else str(c) for c in exp.classes]
            few = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            rows.append((stream.name, str(exp.index), f"{len(exp):,}", exp.domain or "—", few))
    print(columns(rows))
