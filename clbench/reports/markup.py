"""Elements, of which pages and figures are made. Imports no torch.

Pages are made of `Markup`, into which only text of the source is put raw; whatever else comes into it is escaped.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from markupsafe import Markup, escape

from clbench.files.names import printable


def tag(name: str, *inside: object, **attributes: object) -> Markup:
    """Return an element. A last `_` of an attribute is left out and others are `-`; None and empty ones are left
    out."""
    given = "".join(
        f' {escape(key.rstrip("_").replace("_", "-"))}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None and value != ""
    )
    end = "" if name in _VOID else f"{join(inside)}</{escape(name)}>"
    return Markup(f"<{escape(name)}{given}>{end}")


_VOID = ("img", "br", "meta", "input")
"""Elements that hold nothing."""


def join(parts: Iterable[object]) -> Markup:
    """Parts after each other."""
    return Markup("".join(map(escape, parts)))


ASSETS = Path(__file__).with_name("assets")
"""Scripts and styles of pages, which stand in them."""


@functools.cache
def asset(name: str) -> Markup:
    """Return a script or a style of ours, as it is."""
    return Markup((ASSETS / name).read_text(encoding="utf-8"))


def data_block(value: object) -> Markup:
    """Return an element that holds data for a script, as JSON, which no text in it can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup('<script type="application/json">{}</script>').format(Markup(text.replace("<", "\\u003c")))


def spelled(page: Markup) -> Markup:
    """The same with control characters spelled, as a terminal has them."""
    return Markup(printable(page))


@functools.cache
def policy(style: Markup, script: Markup) -> Markup:
    """Return the element by which a page loads nothing, and knows no style and runs no script but these."""
    named = [
        Markup("{}-src 'sha256-{}'").format(
            kind, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        )
        for kind, text in (("style", style), ("script", script))
        if text
    ]
    rest = Markup("img-src data:; base-uri 'none'; form-action 'none'")
    said = Markup("; ").join([Markup("default-src 'none'"), *named, rest])
    return Markup('<meta http-equiv="Content-Security-Policy" content="{}">').format(said)
