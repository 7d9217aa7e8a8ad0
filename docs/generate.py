"""Write the generated pages of `docs/`: strategies, benchmarks, metrics, settings. `--check` only compares.

python docs/generate.py [--check]
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from evidence import section

from clbench.config import (
    EvaluationConfig,
    Execution,
    ModelConfig,
    OptimConfig,
    RunConfig,
    Seeds,
    TrainConfig,
)
from clbench.metrics import METRICS
from clbench.registry import Entry, Registry, benchmarks, models, strategies

DOCS = Path(__file__).resolve().parent
NOTE = "<!-- Written by docs/generate.py; do not edit. -->\n\n"


def pages() -> dict[str, str]:
    """File name → content of every generated page."""
    return {
        "strategies.md": _index(),
        **{f"strategies/{entry.name}.md": _page(entry) for entry in _shipped(strategies)},
        "benchmarks.md": _plugins("Benchmarks", "benchmark", benchmarks),
        "models.md": _plugins("Models", "model", models),
        "metrics.md": _metrics(),
        "settings.md": _settings(),
    }


def _shipped(registry: Registry[Any]) -> list[Entry]:
    """What clbench itself registers."""
    entries = [registry.entry(name) for name in registry.names()]
    return [entry for entry in entries if entry.module.startswith("clbench.")]


def _index() -> str:
    lines = ["# Strategies", "", "| name | version | what it is | paper |", "|---|---|---|---|"]
    for e in _shipped(strategies):
        kind = " (modifier)" if e.modifier else ""
        lines.append(
            f"| [`{e.name}`](strategies/{e.name}.md){kind} | {e.version} | {e.summary} | {_paper(e.paper)} |"
        )
    return NOTE + "\n".join(lines) + "\n"


def _page(entry: Entry) -> str:
    """A strategy's page: what it is, its parameters, its configurations with their sources, its numbers."""
    lines = [f"# {entry.name}", "", *_body("strategy", entry), "", "## Configurations", ""]
    files = sorted(
        p for p in (DOCS.parent / "configs").glob(f"*/{entry.name}.yaml") if p.parent.name != "suites"
    )
    for file in files:
        text = file.read_text(encoding="utf-8").strip()
        lines += [
            f"[`configs/{file.parent.name}/{file.name}`](../../configs/{file.parent.name}/{file.name}):",
            "",
        ]
        lines += ["```yaml", text, "```", ""]
    if not files:
        lines += ["None of its own: its defaults, and each benchmark's.", ""]
    return NOTE + "\n".join(lines[:-1] + section(entry.name)) + "\n"


def _plugins(title: str, kind: str, registry: Registry[Any]) -> str:
    entries = _shipped(registry)
    lines = [f"# {title}", "", "| name | version | what it is | paper |", "|---|---|---|---|"]
    lines += [f"| [`{e.name}`](#{e.name}) | {e.version} | {e.summary} | {_paper(e.paper)} |" for e in entries]
    for entry in entries:
        lines += ["", f"## {entry.name}", "", *_body(kind, entry)]
    return NOTE + "\n".join(lines) + "\n"


def _paper(paper: str) -> str:
    number = paper.removeprefix("arXiv:")
    return f"[{paper}](https://arxiv.org/abs/{number})" if number != paper else paper


def _body(kind: str, entry: Entry) -> list[str]:
    text = inspect.getdoc(entry.build) or ""
    parameters = [
        f"| `{name}` | `{p.annotation}` | {'—' if p.default is p.empty else f'`{p.default!r}`'} |"
        for name, p in entry.signature().parameters.items()
        if name not in ("input_shape", "num_classes")
    ]
    lines = ["```text", text, "```"]
    if parameters:
        lines += ["", "| parameter | type | default |", "|---|---|---|", *parameters]
    if kind == "strategy":
        needs = sorted(strategies.make(entry.name).all_needs())
        lines += ["", f"Needs: {', '.join(needs) or 'nothing beyond the examples'}."]
        if entry.null is not None:
            same = ", ".join(f"`{k}={v}`" for k, v in entry.null.items())
            what = "changes nothing" if entry.modifier else "is fine-tuning"
            lines += ["", f"With {same} it {what}, bit for bit." if same else "It is fine-tuning."]
    return lines


def _metrics() -> str:
    lines = [
        "# Metrics",
        "",
        "Every number of a record is one of these functions of the run's curve, a table of counts.",
        "",
    ]
    lines += ["| key | short | better | what it is |", "|---|---|---|---|"]
    arrow = {True: "higher", False: "lower", None: ""}
    lines += [
        f"| [`{m.name}`](#{m.name}) | {m.title} | {arrow[m.higher_is_better]} | {m.summary} |"
        for m in METRICS.values()
    ]
    for m in METRICS.values():
        lines += [
            "",
            f"## {m.name}",
            "",
            "```text",
            inspect.getdoc(m.function) or "",
            "```",
            "",
            f"Reference: {m.reference}.",
        ]
        if not m.default:
            lines += ["", "Computed on request only."]
    return NOTE + "\n".join(lines) + "\n"


def _settings() -> str:
    lines = [
        "# Settings",
        "",
        "A key on the command line is `section.field=value`; a field's name alone will do where only one thing is",
        "called so.",
        "Values come, each over the one before, from `configs/defaults.yaml`, `configs/<benchmark>/defaults.yaml`,",
        "`configs/<benchmark>/<strategy>.yaml`, the file of `--config`, and `key=value` pairs.",
    ]
    sections = {
        "(top level)": RunConfig,
        "model": ModelConfig,
        "optim": OptimConfig,
        "train": TrainConfig,
        "evaluation": EvaluationConfig,
        "seeds": Seeds,
        "execution (not part of a run's id)": Execution,
    }
    for name, model in sections.items():
        lines += [
            "",
            f"## {name}",
            "",
            "```text",
            inspect.getdoc(model) or "",
            "```",
            "",
            "| field | default |",
            "|---|---|",
        ]
        for field, info in model.model_fields.items():
            default = "—" if info.is_required() or info.default_factory else f"`{info.default!r}`"
            lines.append(f"| `{field}` | {default} |")
    return NOTE + "\n".join(lines) + "\n"


def main(check: bool) -> int:
    stale = []
    for name, content in pages().items():
        path = DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            stale.append(name)
            if not check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(content, encoding="utf-8")
    wanted = {DOCS / name for name in pages()}
    for path in sorted((DOCS / "strategies").glob("*.md")):
        if path not in wanted:
            stale.append(f"strategies/{path.name} (of no strategy)")
            if not check:
                path.unlink()
    if stale:
        print(f"{'out of date' if check else 'written'}: {', '.join(stale)}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
