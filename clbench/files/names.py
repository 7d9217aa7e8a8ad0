"""The one rule for names, which become folders, files and cells of tables, and text as a terminal may show it.

A name has letters, digits and `-_.`, begins and ends with a letter or digit, and is at most 80 characters long. `+`
joins the names of a chain, `:` stands behind the library that a name is borrowed from: `er+ema`, `timm:resnet18`.
"""

from __future__ import annotations

import json
import re
import unicodedata

LONGEST = 80
RULE = (
    f"a name has 1 to {LONGEST} characters, letters (a–z, A–Z), digits and '-_.', and begins and ends with a "
    "letter or digit"
)
_NAME = re.compile(rf"(?=.{{1,{LONGEST}}}\Z)[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"(?=.{1,80}\Z)[A-Za-z0-9][A-Za-z0-9._!-]*(?:\+[A-Za-z0-9._-]+)*")
FOLDER = 255
"""Bytes in the name of a folder, at most, on the file systems there are."""


def name_mistake(name: object) -> str:
    """Return what is wrong with a name that something is to be registered under, as a clause; nothing if it is one."""
    if not isinstance(name, str):
        return f"{name!r:.100} cannot be a name: {RULE}"
    if _NAME.fullmatch(name):
        return ""
    near = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:LONGEST].strip("-._")
    return f"{name!r:.100} cannot be a name: {RULE}" + (f"; '{near}' is one" if near else "")


def full_name_mistake(name: object) -> str:
    """Return the same of a name as a configuration or a record has it: of a chain, or borrowed from a library."""
    if not isinstance(name, str):
        return name_mistake(name)
    bare = [inner for part in name.split("+") for inner in part.split(":", 1)]
    wrong = next(filter(None, map(name_mistake, bare)), "")
    return f"{wrong} (in {name!r:.100})" if wrong and len(bare) > 1 else wrong


def version_mistake(version: object) -> str:
    """Return what is wrong with a version, as a clause: it is a whole number from 0, or as packages have them,
    `0.6.0+cpu`."""
    if isinstance(version, int) and not isinstance(version, bool) and 0 <= version < 10**9:
        return ""
    if isinstance(version, str) and _VERSION.fullmatch(version):
        return ""
    return f"{version!r:.100} cannot be a version, which is a whole number, or as packages have them, 0.6.0"


WEIGHTS_DIGITS = 12
_WEIGHTS = re.compile(rf"w[0-9a-f]{{{WEIGHTS_DIGITS}}}")


def is_weights_id(name: str) -> bool:
    """Whether a name is the id of weights: a w and the first digits of their SHA-256."""
    return _WEIGHTS.fullmatch(name) is not None


def one_line(text: str) -> str:
    """Return a label, free text that stands in a cell, if it is on one line and fits there.

    Raises:
        ValueError: it does not.
    """
    if not text.isprintable() or len(text) > LONGEST:
        raise ValueError(
            f"a label is on one line, with at most {LONGEST} characters, all of which can be seen"
        )
    return text


# --- terminals ---


class _Shown(dict[int, str | int]):
    """A table for `str.translate`: what moves the cursor, changes colours or turns the direction of text is spelled."""

    def __missing__(self, code: int) -> str | int:
        character = chr(code)
        plain = character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs"
        self[code] = code if plain else json.dumps(character)[1:-1] if code != 0x7F else "\\u007f"
        return self[code]


_SHOWN = _Shown()


def printable(text: str) -> str:
    """Text as a terminal may have it, whatever plug-ins, files and records put into it.

    Control and format characters are spelled as JSON spells them, `\\u001b`, so that JSON means what it meant.
    """
    plain = all(
        line.isprintable() for line in text.split("\n")
    )  # as most are, and it takes a tenth of the time
    return text if plain else text.translate(_SHOWN)
