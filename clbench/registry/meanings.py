"""What docstrings say of parameters."""

from __future__ import annotations

import inspect
import re
import textwrap

SECTION = r"^{}:\n((?: .*\n?|\n)+)"


def section(doc: str | None, title: str) -> list[str]:
    """Return the entries of a section of a docstring, each in one line.

    An entry begins at the section's own indentation; what is indented further goes on.
    """
    found = re.search(SECTION.format(title), inspect.cleandoc(doc or ""), re.MULTILINE)
    entries = re.split(r"\n(?=\S)", textwrap.dedent(found[1]).strip()) if found else []
    return [" ".join(entry.split()) for entry in entries]


def meanings(doc: str | None) -> dict[str, str]:
    """Return the text of each parameter in the section `Args` of a docstring; `a, b: …` is the text of both."""
    said: dict[str, str] = {}
    for entry in section(doc, "Args"):
        names, _, text = entry.partition(": ")
        said |= dict.fromkeys(names.split(", "), text)
    return said


def without_arguments(doc: str) -> str:
    """Return a docstring without its section `Args`."""
    return re.sub(SECTION.format("Args"), "", inspect.cleandoc(doc), flags=re.MULTILINE).strip()
