"""`export`: a run's model, for others."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from clbench.cli.common import Json, Plugins, load


def export(
    run: Annotated[Path, typer.Argument(help="A run folder with a record, runs/<id>.")],
    folder: Annotated[Path, typer.Argument(help="The folder to write, a new one.")],
    experience: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="After which, from 1, of a run that was made with --keep-models.  [default: the last one]",
        ),
    ] = None,
    backbone: Annotated[
        bool, typer.Option("--backbone", help="Leave out the head: the folder gives features.")
    ] = False,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Write a run's model into a folder that others load, and print the Python that uses it.

    An encoder of texts becomes a folder of transformers with its tokenizer, a network of timm one of timm, both loaded
    without clbench; networks of clbench's own are loaded by clbench.load_model. Weights are safetensors, never pickled;
    README.md is a model card with the record's id. Low-rank branches are added to the weights, and lie beside them as
    peft reads them. What was written is loaded again and must give the run's own logits to 1e-5.
    """
    load(plugin)
    from clbench.interop.export import export as write

    done = write(run, folder, experience, head=not backbone)
    if as_json:
        print(json.dumps({**asdict(done), "folder": str(done.folder)}, indent=2, ensure_ascii=False))
        return
    for note in done.notes:
        print(note)
    print(f"{done.folder} is loaded by {done.loads_with}; its README.md says more.\n\n{done.python}")
