"""What docstrings say of parameters."""

from __future__ import annotations

import inspect
import re


def meanings(doc: str | None) -> dict[str, str]:
    """The text of each parameter in the section `Args` of a docstring; `a, b: …` is the text of both.

    An entry begins at the section's own indentation, with names and a colon; what is indented further goes on.
    """
    found: dict[str, str] = {}
    section = re.search(r"^Args:\n((?: .*\n?|\n)+)", inspect.cleandoc(doc or ""), re.MULTILINE)
    for entry in re.split(r"\n(?=\S)", inspect.cleandoc(section[1])) if section else ():
        names, _, text = entry.partition(": ")
        found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found
