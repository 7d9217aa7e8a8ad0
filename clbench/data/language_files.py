"""Documents from files: plain texts, JSON lines or Parquet; a domain is a file, a folder or a value of a field."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from clbench.data.files import data_folder
from clbench.data.folders import LITTER
from clbench.data.language import Documents, refuse
from clbench.data.pixels import SUFFIXES
from clbench.data.source import natural
from clbench.data.tables import read_entries
from clbench.data.textfiles import SPLITS
from clbench.errors import ConfigError, DataError, choices, suggest

By = Literal["auto", "folder", "file", "field"]
"""What a domain is: a folder in the one that is given, a file, or a value of a field. Auto: folders if there are some,
the field if one table is given whose first row has it, else files."""
TABLES = (".jsonl", ".parquet")
"""Files with a document in each row; others are plain text."""
TEXTS = {".txt", ".md", ".rst", ".jsonl", ".py", ".c", ".tex"}
"""What names of texts end with; any other file is read as one, too, if it is one."""
AT_ONCE = 1 << 20
"""Bytes that are looked at at a time."""
BEGINS = b"\xef\xbb\xbf"
"""What some programs put before UTF-8."""
Found = dict[str, list[bytes]]


def read_documents(
    path: str | Sequence[str],
    *,
    by: By = "auto",
    domain: str = "domain",
    text: str = "text",
    files: str | Sequence[str] = "*",
    separator: str | None = None,
    who: str = "The texts",
) -> tuple[dict[str, Documents], list[str]]:
    """Return the documents of each domain, and sentences on what was left out.

    A plain-text file is a document, or several with a separator; a row of JSON lines or Parquet is one. A folder with
    train and test, or a file of each, has its own sides; validation is optional. Names that begin with a point are
    passed over. Domains come in their natural order, 2 before 10, and those of a list of files as listed.

    Args:
        path: a folder, a file, or a list of them; each by its path, or its name in `CLBENCH_DATA`.
        by: what a domain is.
        domain, text: fields of rows; that of domains with by=field.
        files: patterns of names, such as *.txt; files that match none are passed over.
        separator: what stands between the documents of a plain-text file.
        who: names the data in messages.

    Raises:
        DataError: files that are no text, with the first wrong byte of each, rows without a field, or nothing to read;
            all that is wrong at once.
    """
    places = [_place(who, one) for one in ([path] if isinstance(path, str) else path)]
    if not places:
        raise ConfigError(f"{who}: path lists no file or folder.")
    reader = _Reader(by, domain, text, (files,) if isinstance(files, str) else tuple(files), separator)
    sides = _sides(who, places[0]) if len(places) == 1 and places[0].is_dir() else {}
    if sides:
        if any(place.is_file() for place in sides.values()):
            reader.by = "field"
        read = {side: reader.domains(place) for side, place in sides.items()}
        names = sorted({name for found in read.values() for name in found}, key=natural)
        data = {
            name: Documents(
                read["train"].get(name, ()),
                read["test"].get(name, ()),
                read.get("valid", {}).get(name, ()),
                shared=False,
            )
            for name in names
        }
    else:
        found = reader.domains(*places)
        data = {name: Documents(documents) for name, documents in found.items()}
    refuse(who, reader.faults or reader.uncut())
    if not data:
        raise DataError(
            f"{who}: there is no file in {', '.join(map(str, places))}"
            + (f" whose name matches {', '.join(reader.patterns)}." if reader.patterns != ("*",) else ".")
        )
    return data, reader.found


def holds_texts(folder: Path) -> bool:
    """Whether a folder holds files whose names are those of texts, and no image."""
    ends = {file.suffix.lower() for file in folder.rglob("*")}
    return bool(ends & TEXTS) and not ends & set(SUFFIXES)


class _Reader:
    """Reads files, and collects what is wrong with them."""

    def __init__(
        self, by: By, domain: str, text: str, patterns: tuple[str, ...], separator: str | None
    ) -> None:
        self.by, self.domain, self.text = by, domain, text
        self.patterns, self.separator = patterns, separator
        self.faults: list[str] = []
        self.found: list[str] = []
        self.parts: list[int] = []  # documents of each plain-text file

    def uncut(self) -> list[str]:
        """Return that a separator stands in no file, if so: every file would be a document, unnoticed."""
        if self.separator is None or not self.parts or max(self.parts) > 1:
            return []
        return [
            f"separator={self.separator!r} stands in none of {len(self.parts):,} plain-text files, whose lines may end "
            "otherwise; in a shell, a blank line is 'separator=\"\\n\\n\"', and without a separator a file is a "
            "document"
        ]

    def domains(self, *places: Path) -> Found:
        """Return the documents of each domain of a folder, or of several files and folders."""
        if self.by == "field" or (self.by == "auto" and self._tells_domains(places)):
            return self._by_field([file for place in places for file in self._files(place)])
        if len(places) > 1 or not places[0].is_dir():
            return self._read(
                {place.stem if place.is_file() else place.name: place for place in places}, places
            )
        root = places[0]
        folders = sorted(
            (p for p in root.iterdir() if p.is_dir() and not _hidden(p.name)), key=lambda p: natural(p.name)
        )
        if self.by == "folder" or (self.by == "auto" and folders):
            if beside := [file.name for file in root.iterdir() if file.is_file() and self._matches(file)]:
                self.found.append(
                    f"{len(beside)} file{'s' * (len(beside) > 1)} beside the folders of {root.name} "
                    f"{'are' if len(beside) > 1 else 'is'} left out, {min(beside)} for one."
                )
            return self._read({folder.name: folder for folder in folders}, folders)
        files = self._files(root)
        return self._read({file.relative_to(root).with_suffix("").as_posix(): file for file in files}, files)

    def _read(self, named: Mapping[str, Path], places: Sequence[Path]) -> Found:
        if len(named) < len(places):
            twice = next(p for p in places if p not in named.values())
            self.faults.append(
                f"two domains would be called '{twice.stem}', one of them for {twice}; rename one"
            )
        return {
            name: [document for file in self._files(place) for document in self._documents(file)]
            for name, place in named.items()
        }

    def _tells_domains(self, places: Sequence[Path]) -> bool:
        """Whether it is one table, whose first row has the field of domains."""
        if len(places) > 1 or places[0].suffix.lower() not in TABLES or not places[0].is_file():
            return False
        try:
            return any(self.domain in entry for _, entry in itertools.islice(read_entries(places[0]), 1))
        except DataError:  # it is told when all of it is read
            return False

    def _by_field(self, files: Sequence[Path]) -> Found:
        found: Found = {}
        for file in files:
            if file.suffix.lower() not in TABLES:
                self.faults.append(f"{file}: by=field reads {' and '.join(TABLES)} only")
                continue
            for name, document in self._rows(file, self.domain):
                found.setdefault(name, []).append(document)
        return {name: found[name] for name in sorted(found, key=natural)}

    def _files(self, place: Path) -> list[Path]:
        if place.is_file():
            return [place]
        inside = (
            file
            for file in place.rglob("*")
            if file.is_file() and self._matches(file) and not any(map(_hidden, file.relative_to(place).parts))
        )
        return sorted(inside, key=lambda file: natural(file.relative_to(place).as_posix()))

    def _matches(self, file: Path) -> bool:
        return not _hidden(file.name) and any(fnmatch(file.name, pattern) for pattern in self.patterns)

    def _documents(self, file: Path) -> list[bytes]:
        if file.suffix.lower() in TABLES:
            return [document for _, document in self._rows(file, None)]
        try:
            data = file.read_bytes().removeprefix(BEGINS)
        except OSError as error:
            self.faults.append(f"{file} cannot be read: {error.strerror}")
            return []
        if wrong := _no_text(data):
            self.faults.append(f"{file} is no text: {wrong}")
            return []
        found = data.split(self.separator.encode()) if self.separator else [data]
        self.parts.append(len(found))
        return found

    def _rows(self, file: Path, domain: str | None) -> Iterator[tuple[str, bytes]]:
        """Yield domain and text of each row; the first fault of a file ends it."""
        try:
            for where, entry in read_entries(file):
                for field in (self.text, domain) if domain else (self.text,):
                    if field not in entry:
                        told = "text=FIELD" if field == self.text else "domain=FIELD"
                        self.faults.append(
                            f"{where}: there is no field '{field}'.{choices(field, entry)} Name it by {told}"
                        )
                        return
                text, name = entry[self.text], entry[domain] if domain else ""
                if not isinstance(text, str):
                    self.faults.append(f"{where}: '{self.text}' holds {text!r:.40}; a text is expected")
                    return
                if domain and (type(name) not in (str, int) or not str(name).strip()):
                    self.faults.append(
                        f"{where}: '{domain}' holds {name!r:.40}; a name or a whole number is expected"
                    )
                    return
                yield str(name), text.encode()
        except UnicodeEncodeError as error:
            self.faults.append(
                f"{where}: '{self.text}' is no Unicode: {error.reason} at character {error.start}"
            )
        except DataError as error:  # the table cannot be read further
            self.faults.append(str(error).removesuffix("."))


def _no_text(data: bytes) -> str:
    """Return what shows that bytes are no text, and where; nothing of a text."""
    if (at := data.find(b"\0")) >= 0:
        kind = " It may be UTF-16; save it as UTF-8" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        return f"byte {at:,} is 0x00, which no text holds." + (
            kind or " Leave it out, by files=*.txt for one"
        )
    at = 0
    while at < len(data):
        part = data[at : at + AT_ONCE]
        try:
            part.decode()
            at += len(part)
        except UnicodeDecodeError as error:
            cut_off = 0 < error.start >= len(part) - 3 and at + len(part) < len(data)
            if not cut_off:
                where = at + error.start
                return f"byte {where:,} is 0x{data[where]:02x}, no UTF-8 ({error.reason}); save it as UTF-8"
            at += error.start
    return ""


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER


def _place(who: str, path: str) -> Path:
    given = Path(path).expanduser()
    for place in (given, data_folder() / given):
        if place.exists():
            return place
    near = suggest(given.name, [p.name for p in given.parent.iterdir()] if given.parent.is_dir() else [])
    raise DataError(
        f"{who}: there are no texts at '{path}': neither {given} nor {data_folder() / given} exists.{near}"
    )


def _sides(who: str, root: Path) -> dict[str, Path]:
    """Return the places of a folder's own sides, if it has some: train and test, and perhaps validation."""
    entries = [
        p for p in root.iterdir() if not _hidden(p.name) and (p.is_dir() or p.suffix.lower() in TABLES)
    ]
    sides: dict[str, Path] = {}
    for entry in entries:
        side = SPLITS.get((entry.name if entry.is_dir() else entry.stem).lower())
        if side is None:
            return {}
        if side in sides:
            raise DataError(
                f"{who}: {root} holds both {sides[side].name} and {entry.name}; leave one of them."
            )
        sides[side] = entry
    return sides if {"train", "test"} <= set(sides) else {}
