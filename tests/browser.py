"""Pages in a real browser, where there is one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


def opened(page: Path | str, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A page, a file or an address, in a browser: what became of it, and what stands on the console."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--dump-dom",
        "--virtual-time-budget=5000",
        *options,
    ]
    command += [f"--user-data-dir={profile}", page if isinstance(page, str) else page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def stepped(page: Path, steps: str, folder: Path, *options: str) -> dict[str, Any]:
    """What a script sees that takes steps on a page, in `seen`, with no message on the console.

    Args:
        steps: the body of an async function that fills `seen`. folder: for a copy's profile.
    """
    told = """const out = document.createElement("pre"); out.id = "seen"; out.textContent = JSON.stringify(seen);
    document.body.replaceChildren(out); document.title = "";"""
    script = f"(async () => {{ const seen = {{}};\n{steps}\n{told} }})();"
    written = page.read_text(encoding="utf-8")
    ours = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    written = written.replace("script-src ", f"script-src 'sha256-{ours}' ", 1)  # or it would not run
    copy = page.with_name(f"stepped-{page.name}")
    copy.write_text(f"{written}<script>{script}</script>", encoding="utf-8")
    done = opened(copy, folder / "profile", *options)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    found = re.search(r'<pre id="seen">(.*)</pre>', done.stdout)
    assert found, done.stdout[-2000:]
    seen: dict[str, Any] = json.loads(
        found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    )
    return seen
