"""`data`: which data sets are here, and fetching more."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from clbench.cli.common import Json, columns


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
