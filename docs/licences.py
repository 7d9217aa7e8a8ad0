"""Write `docs/dependencies.md`: what clbench needs, directly and through others, with licences from installed metadata.

python docs/licences.py
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from clbench.files import sha256
from clbench.reports.charts import UPLOT
from clbench.reports.markup import ASSETS

PAGE = Path(__file__).resolve().parent / "dependencies.md"
EXTRAS = ("avalanche", "wandb", "tensorboard", "tune", "ray", "pandas", "text", "parquet", "drift")
TEXTS = (
    "Texts that benchmarks are made of lie in `clbench/data`, with sources and licences in a LICENSE.txt beside them:",
    "",
    "| folder | what it holds | licence |",
    "|---|---|---|",
    "| intents | CLINC150, BANKING77 | CC BY 3.0, CC BY 4.0 |",
    "| numpy_docs | docstrings of NumPy | BSD 3-Clause |",
    "| prose_and_code | docstrings of NumPy and SciPy | BSD 3-Clause |",
    "| prose_and_code | CPython's language reference, library and headers | PSF 2.0 |",
)
NOTE = "<!-- Written by docs/licences.py; do not edit. -->\n\n"


def needed(name: str, extra: str = "") -> dict[str, Distribution]:
    """What an extra of a distribution, or it without any, needs directly."""
    try:
        lines = distribution(name).requires or []
    except PackageNotFoundError:
        return {}
    found = {}
    for line in map(Requirement, lines):
        wanted = line.marker is None or line.marker.evaluate({"extra": extra})
        of_extra = line.marker is not None and "extra" in str(line.marker)
        if wanted and of_extra == bool(extra):
            try:
                found[line.name] = distribution(line.name)
            except PackageNotFoundError:  # for other systems, or not installed
                continue
    return {plain(key): value for key, value in found.items()}


def closure(first: dict[str, Distribution]) -> dict[str, Distribution]:
    """These and all that they need."""
    found, waiting = {}, dict(first)
    while waiting:
        name, one = waiting.popitem()
        if name not in found:
            found[name] = one
            waiting |= needed(name)
    return found


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(one: Distribution) -> str:
    """By its expression, else its classifiers, else the first line of its text."""
    about = one.metadata
    classified = [
        entry.rpartition(" :: ")[2]
        for entry in about.get_all("Classifier") or []
        if entry.startswith("License ::") and entry != "License :: OSI Approved"
    ]
    text = (about.get("License") or "").strip().splitlines()
    expression = about.get("License-Expression")
    if expression:
        return str(expression)
    return "; ".join(classified) or (text[0][:60] if text else "not stated")


def shipped() -> list[str]:
    """What lies in the package itself, as its makers released it."""
    name, version = UPLOT.split("-")
    lines = [
        "## Inside the package",
        "",
        f"**{name}** {version} draws the charts of pages. It is the npm package of that name, under the MIT licence,",
        f"lies as it is in `clbench/reports/assets/{UPLOT}/`, and stands with its licence in pages that have charts.",
        "",
        "| file | bytes | SHA-256 |",
        "|---|---:|---|",
    ]
    for file in sorted((ASSETS / UPLOT).iterdir()):
        lines.append(f"| {file.name} | {file.stat().st_size:,} | `{sha256(file.read_bytes())}` |")
    return [*lines, "", *TEXTS]


def main() -> None:
    own = closure(needed("clbench"))
    lines = ["# Dependencies", ""]
    lines += [
        "What clbench needs directly (bold) and through others, as installed under `constraints.txt`, and the licence",
        "that each states. clbench itself is under the MIT licence.",
        "",
    ]
    groups = [("clbench", needed("clbench"), own)]
    for extra in EXTRAS:
        direct = needed("clbench", extra)
        more = {name: one for name, one in closure(direct).items() if name not in own}
        groups.append((f"clbench[{extra}], in addition", direct, more))
    for title, direct, all_ in groups:
        lines += [f"## {title}", "", "| package | version | licence |", "|---|---|---|"]
        for name, one in sorted(all_.items()):
            shown = f"**{name}**" if name in direct else name
            lines.append(f"| {shown} | {one.version.partition('+')[0]} | {licence(one).replace('|', '/')} |")
        lines.append("")
    lines += shipped()
    PAGE.write_text(NOTE + "\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
