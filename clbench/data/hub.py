"""Folders of Hugging Face's `datasets`: those that `save_to_disk` writes, and those of a data set's Parquet files."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clbench.data.folders import ROLES
from clbench.data.tables import AT_ONCE, Chunk
from clbench.errors import DataError

SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")
"""Files that `save_to_disk` writes."""
SHARD = re.compile(r"(.+?)(-\d+-of-\d+(-[0-9a-f]+)?)?$")
"""The name of a Parquet file: its split, and which part of it."""
IMAGES = ("path", "image", "img")
"""Columns of images, by their usual names."""


def is_hub_folder(place: Path) -> bool:
    """Whether a folder is one that `datasets` writes, or holds Parquet files."""
    return place.is_dir() and (
        any((place / name).is_file() for name in SAVED) or next(place.rglob("*.parquet"), None) is not None
    )


@dataclass(frozen=True)
class HubTable:
    """A data set in a folder, as one table whose rows tell their split."""

    folder: Path

    @property
    def name(self) -> str:
        return str(self.folder)

    @property
    def unit(self) -> str:
        return "row"

    def names(self) -> list[str] | None:
        return list(self._schema().names)

    def chunks(self, only: Sequence[str] | None) -> Iterator[tuple[Chunk, str | None]]:
        number = 1
        for split, batch in self._batches(only):
            columns = {
                name: column.to_pylist()
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            }
            yield Chunk(range(number, number + len(batch)), columns), split
            number += len(batch)

    def in_table(self, column: str) -> bool:
        import pyarrow

        kind = self._schema().field(column).type
        if pyarrow.types.is_struct(kind):
            return "bytes" in {kind.field(i).name for i in range(kind.num_fields)}
        return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))

    def pictures(self, column: str) -> Iterator[list[bytes]]:
        """Yield the content of the images of a column."""
        for _, batch in self._batches([column]):
            yield [self._content(cell) for cell in batch.column(0).to_pylist()]

    def classes(self, column: str) -> tuple[str, ...]:
        """Return the names of a column's classes, as the features of the data set have them; none where it has none."""
        metadata = self._schema().metadata or {}
        with contextlib.suppress(ValueError, AttributeError):
            features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
            return tuple(map(str, features.get(column, {}).get("names", ())))
        return ()

    def _content(self, cell: Any) -> bytes:
        if isinstance(cell, bytes):
            return cell
        if isinstance(cell, dict) and cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        if isinstance(cell, dict) and cell.get(
            "path"
        ):  # one that is not there, or outside, is an unreadable image
            file = self.folder.joinpath(cell["path"]).resolve()
            with contextlib.suppress(OSError):
                return file.read_bytes() if file.is_relative_to(self.folder.resolve()) else b""
        return b""

    # --- files ---

    def _schema(self) -> Any:
        saved = self._saved()
        if saved is not None:
            return next(iter(saved.values())).with_format("arrow")[:0].schema
        with _reading(self.folder) as parquet:
            return parquet.read_schema(self._shards()[0][1])

    def _batches(self, only: Sequence[str] | None) -> Iterator[tuple[str | None, Any]]:
        saved = self._saved()
        if saved is not None:
            for split, data in saved.items():
                part = data if only is None else data.select_columns(list(only))
                for table in part.with_format("arrow").iter(AT_ONCE):
                    yield split, table
            return
        with _reading(self.folder) as parquet:
            for split, file in self._shards():
                with parquet.ParquetFile(file) as table:
                    for batch in table.iter_batches(AT_ONCE, columns=only):
                        yield split, batch

    def _saved(self) -> dict[str | None, Any] | None:
        """Return what `save_to_disk` has written, by split; None where there is nothing of it."""
        if not any((self.folder / name).is_file() for name in SAVED):
            return None
        try:
            import datasets
        except ImportError as error:
            raise DataError(
                f"{self.folder} was saved by `datasets`, which is not installed ({error}): pip install 'clbench[hf]'."
            ) from error
        try:
            found = datasets.load_from_disk(str(self.folder))
        except (OSError, ValueError) as error:
            raise DataError(f"{self.folder} cannot be read by `datasets`: {error}") from error
        return dict(found.items()) if isinstance(found, dict) else {None: found}

    def _shards(self) -> list[tuple[str | None, Path]]:
        """Return the Parquet files in order, with the split that each one's name or folder says."""
        found: list[tuple[str | None, Path]] = []
        configurations: set[Path] = set()
        for file in sorted(self.folder.rglob("*.parquet")):
            stem = SHARD.fullmatch(file.stem)
            name = stem[1] if stem and not file.stem.isdecimal() else file.parent.name
            inside = file.parent.parent if file.parent.name.lower() in ROLES else file.parent
            configurations.add(inside if file.parent != self.folder else file.parent)
            found.append((name if file.parent != self.folder or not file.stem.isdecimal() else None, file))
        if len(configurations) > 1:
            first, second, *_ = sorted(configurations)
            raise DataError(
                f"{self.folder} holds Parquet files of several configurations, such as {first} and {second}; path=… "
                "names the folder of one."
            )
        roles = {name: ROLES.get(str(name).lower(), "valid") for name, _ in found}
        return sorted(found, key=lambda one: ("train", "valid", "test").index(roles[one[0]]))


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[Any]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(f"{folder}: Parquet needs pyarrow ({error}): pip install 'clbench[hf]'.") from error
    try:
        yield parquet
    except (ArrowException, OSError) as error:
        raise DataError(
            f"{folder} holds a Parquet file that cannot be read: {str(error).splitlines()[0]}"
        ) from error
