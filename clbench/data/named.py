"""Any data set: by name, of an .npz file, or of a folder of images; and which benchmark reads a file or folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clbench.data.files import read_npz
from clbench.data.folders import read_folder
from clbench.data.hub import is_hub_folder
from clbench.data.known import KNOWN, load
from clbench.data.language_files import holds_texts
from clbench.data.source import Source
from clbench.data.textfiles import read_texts
from clbench.data.texts import intents
from clbench.errors import DataError, choices

TEXTS = {"banking77": 6, "clinc150": 3, "hwu64": 0}
"""Data sets of texts, and how many of each are in training and test both."""


def any_source(who: str, data: str, texts: Sequence[str] = ()) -> Source:
    """Return a data set by name, or from an .npz file or a folder of images.

    Args:
        texts: names of data sets of texts that will do, too, of `TEXTS`.

    Raises:
        DataError: there is no such data set, file or folder, or it cannot be read.
    """
    if data in texts:
        source = read_texts(data, domain="domain") if data == "hwu64" else intents(data)
        return replace(source, duplicates=TEXTS[data])
    known = ("digits", *KNOWN)
    if data in known:
        return load(data)
    place = Path(data).expanduser()
    if not place.exists():
        raise DataError(
            f"{who}: there is no data set, file or folder '{data}'.{choices(data, (*known, *texts))}"
        )
    return read_folder(place) if place.is_dir() else read_npz(place)


def reader_of(place: Path) -> str:
    """Return the benchmark that reads a file or folder, as its `path`: a manifest, where it is nothing else."""
    if place.is_dir() and not is_hub_folder(place):
        return "text-domains" if holds_texts(place) else "image-folder"
    return "npz" if place.suffix == ".npz" else "manifest"
