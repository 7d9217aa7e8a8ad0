"""What clbench ships, by family: the tables of the README and the page of strategies.

A strategy names its family where it is registered (`family=`); a benchmark's is the file that defines it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clbench.registry import Entry, Registry, benchmarks, models, strategies

FAMILIES = {
    "bounds": "what to compare with: no method at all, and all data at hand",
    "replay": "stored examples come back",
    "contrast": "replay with losses between examples or with class proxies",
    "projection": "a step may not raise the loss of the past",
    "regularisation": "weights that matter stay near where they were",
    "distillation": "an earlier model teaches the present one",
    "prompts": "inputs learned for a frozen transformer",
    "dual encoders": "images are compared with the names of classes",
    "fixed features": "little or nothing of the backbone is trained",
    "few-shot": "a base session, then a few examples of a few classes",
    "rare classes": "losses and data for classes of which there is little",
    "plasticity": "what keeps a network able to learn",
    "training": "how a step is made, what it sees, which weights predict",
    "retrieval": "an index of documents that learns new ones",
}
"""The families of strategies in the order of the documentation."""

SOURCES = {
    "split": "classes in turn: digits need no download",
    "domains": "the same classes, permuted or rotated pixels",
    "pacs": "styles of images",
    "power_law": "recurring environments",
    "random_labels": "plasticity",
    "blurry": "blurry, without boundaries",
    "few_shot": "few-shot",
    "retrieval": "retrieval of documents",
    "own": "your own data",
}
"""The files of benchmarks, in the order of the documentation, and what is in them; others follow by their names."""


def own(registry: Registry[Any]) -> list[Entry]:
    """Return the entries of the project itself, by name."""
    entries = map(registry.entry, registry.names())
    return [entry for entry in entries if entry.own]


def families() -> dict[str, list[Entry]]:
    """Return clbench's own strategies by family; refuse one without."""
    found: dict[str, list[Entry]] = {family: [] for family in FAMILIES}
    for entry in own(strategies):
        if entry.family not in found:
            known = ", ".join(FAMILIES)
            raise SystemExit(
                f"{entry.source}: strategy '{entry.name}' has the family {entry.family!r}; write "
                f"@register({entry.name!r}, family=…) with one of: {known} (docs/catalogue.py)."
            )
        found[entry.family].append(entry)
    return found


def readme() -> str:
    """Return the tables of the README: every strategy, benchmark and model, linked to what is said of it."""
    by_file: dict[str, list[Entry]] = {stem: [] for stem in SOURCES}
    for entry in own(benchmarks):
        by_file.setdefault(entry.family or Path(entry.source).stem, []).append(entry)
    groups = {
        "strategies": [(f"**{name}**: {FAMILIES[name]}", found) for name, found in families().items()],
        "benchmarks": [(SOURCES.get(stem, stem), found) for stem, found in by_file.items() if found],
        "models": [("built in", own(models))],
    }
    lines: list[str] = []
    for kind, rows in groups.items():
        page = f"docs/{kind}/{{}}.md" if kind == "strategies" else f"docs/{kind}.md#{{}}"
        count = sum(len(found) for _, found in rows)
        lines += ["", f"| {count} {kind} | [one line and the paper of each](docs/{kind}.md) |", "|---|---|"]
        lines += [f"| {text} | {_links(found, page)} |" for text, found in rows]
    others = "any name of timm, at any input size that it sees whole or padded to one"
    return "\n".join([*lines[1:], f"| more | {others} |"]) + "\n"


def strategies_page() -> str:
    """Return the page of strategies: a table for each family, and the hidden list of their pages."""
    lines = ["# Strategies", "", "A modifier changes another strategy and is written behind it: `er+sam`."]
    for family, entries in families().items():
        lines += ["", f"## {_sentence(family)}", "", f"{_sentence(FAMILIES[family])}."]
        lines += ["", "| name | version | what it is | paper |", "|---|---|---|---|"]
        for entry in entries:
            link = f"[`{entry.name}`](strategies/{entry.name}.md){' (modifier)' if entry.modifier else ''}"
            lines.append(f"| {link} | {entry.version} | {entry.summary} | {paper(entry.paper)} |")
    return "\n".join([*lines, "", "```{toctree}", ":hidden:", ":glob:", "", "strategies/*", "```"]) + "\n"


def paper(name: str) -> str:
    """Return a paper as a link where it is on arXiv."""
    number = name.removeprefix("arXiv:")
    return f"[{name}](https://arxiv.org/abs/{number})" if number != name else name


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _links(entries: Iterable[Entry], page: str) -> str:
    return ", ".join(f"[`{entry.name}`]({page.format(entry.name)})" for entry in entries)
