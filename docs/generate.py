"""Write the pages of `docs/` that follow from the code: strategies, metrics, settings, commands … `--check` compares.

python docs/generate.py [--check]
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import catalogue
import reference
import typer
from catalogue import own, paper
from evidence import reliability, section
from pydantic.fields import FieldInfo

from clbench import cli
from clbench.config import (
    EvaluationConfig,
    Execution,
    ModelConfig,
    OptimConfig,
    RunConfig,
    Seeds,
    TrainConfig,
)
from clbench.interop.avalanche.known import REFUSED, all_known
from clbench.registry import Entry, Registry, benchmarks, models, strategies
from clbench.registry.arguments import hints_of, type_name
from clbench.results.metrics import METRICS

DOCS = Path(__file__).resolve().parent
NOTE = "<!-- Written by docs/generate.py; do not edit. -->\n\n"


def pages() -> dict[str, str]:
    """File name → content of every generated page."""
    return {
        "../README.md": _within("../README.md", catalogue.readme()),
        "strategies.md": NOTE + catalogue.strategies_page(),
        **{f"strategies/{entry.name}.md": _strategy(entry) for entry in own(strategies)},
        "benchmarks.md": _plugins("Benchmarks", "benchmark", benchmarks),
        "models.md": _plugins("Models", "model", models),
        "metrics.md": _metrics(),
        "settings.md": _settings(),
        "cli.md": _command_line(),
        "python.md": NOTE + reference.page(),
        "avalanche.md": _within("avalanche.md", _avalanche()),
        "reliability.md": _within("reliability.md", reliability()),
    }


def _strategy(entry: Entry) -> str:
    kind = "A modifier: it changes another strategy, as in" if entry.modifier else "Run it:"
    lines = [f"# {entry.name}", "", *_body("strategy", entry)]
    lines += ["", f"{kind} `clbench run {catalogue.example(entry)}`. Version {entry.version}."]
    if entry.paper:
        lines += ["", f"Paper: {paper(entry.paper)}."]
    lines += ["", "## Configurations", ""]
    files = sorted((DOCS.parent / "configs").glob(f"*/{entry.name}.yaml"))
    for file in files:
        text = file.read_text(encoding="utf-8").strip()
        lines += [f"`configs/{file.parent.name}/{file.name}`:", "", "```yaml", text, "```", ""]
    if not files:
        lines += ["None of its own: its defaults, and each benchmark's.", ""]
    return NOTE + "\n".join(lines[:-1] + section(entry.name)) + "\n"


BEGIN, END = (
    "<!-- From here to the next note: written by docs/generate.py. -->\n\n",
    "\n<!-- End of it. -->\n",
)


def _within(name: str, content: str) -> str:
    """A page written by hand, with new content between the two notes."""
    before, _, rest = (DOCS / name).read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + content + END + rest.partition(END)[2]


def _avalanche() -> str:
    """What of Avalanche runs and what does not."""
    lines = ["| runs | what it does | needs | resumes |", "|---|---|---|---|"]
    for name, known in all_known().items():
        needs = ", ".join(sorted(known.needs - {"boundaries"})) or "—"
        lines.append(
            f"| `{name}` | {known.summary} | {needs} | {f'no: {known.resumes}' if known.resumes else 'yes'} |"
        )
    lines += ["", "| does not run | since it |", "|---|---|"]
    lines += [f"| `{name}` | {why} |" for name, why in REFUSED.items()]
    return "\n".join(lines) + "\n"


def _plugins(title: str, kind: str, registry: Registry[Any]) -> str:
    entries = own(registry)
    lines, depth = [f"# {title}", ""], "##"
    if kind == "benchmark":
        lines += [*catalogue.benchmarks_page(), "", "## Each of them"]
        depth = "###"
    else:
        lines += ["| name | version | what it is | paper |", "|---|---|---|---|"]
        lines += [
            f"| [`{e.name}`](#{e.name}) | {e.version} | {e.summary} | {paper(e.paper)} |" for e in entries
        ]
    for entry in entries:
        lines += ["", f"{depth} {entry.name}", "", *_body(kind, entry)]
    return NOTE + "\n".join(lines) + "\n"


SECTION = re.compile(r"^(Args|Returns|Raises|Differences from [^:]*):$")


def _prose(text: str) -> list[str]:
    """A docstring as Markdown: paragraphs, and its sections as lists."""
    lines: list[str] = []
    items = False  # whether we are within a section of items
    for line in text.splitlines():
        if found := SECTION.match(line):
            lines += [f"**{found[1]}**", ""] if lines and not lines[-1] else ["", f"**{found[1]}**", ""]
            items = True
        elif items and (found := re.match(r"    (\d+)\. (.*)", line)):
            lines.append(f"{found[1]}. {_plain(found[2])}")
        elif items and (found := re.match(r"    (\S.*?): (.*)", line)):
            lines.append(f"- {', '.join(f'`{name}`' for name in found[1].split(', '))}: {_plain(found[2])}")
        elif items and line.startswith("     "):
            lines.append(f"   {_plain(line.strip())}")
        else:
            items = items and not line.strip()
            lines.append(_plain(line.strip()))
    return lines


def _plain(text: str) -> str:
    """Text in which Markdown finds nothing to mark, but for what stands in backquotes."""
    parts = text.split("`")
    return "`".join(
        re.sub(r"([\\*_<>|\[\]])", r"\\\1", part) if i % 2 == 0 else part for i, part in enumerate(parts)
    )


def _body(kind: str, entry: Entry) -> list[str]:
    text, hints = inspect.getdoc(entry.build) or "", hints_of(entry.name, entry.build)
    parameters = [
        f"| `{name}` | {_plain(type_name(hints[name]))} | {'—' if p.default is p.empty else f'`{p.default!r}`'} |"
        for name, p in entry.signature().parameters.items()
        if name not in ("input_shape", "num_classes")
    ]
    lines = _prose(text)
    if parameters:
        lines += ["", "| parameter | takes | default |", "|---|---|---|", *parameters]
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
        "An example counts as right if its class, and no other one, has the highest score. Equal highest scores",
        "name no class: which one they would name, could only hang on how the classes are numbered. So a network",
        "that scores all classes alike, as an untrained one does whose method masks classes to come, has accuracy",
        "0, not chance.",
        "",
        "The last tick of an experience is of the model that `end_experience` leaves behind, as the full evaluation",
        "is. Records whose `evaluation` does not say `rules: 2` took it before, so that their metrics of ticks miss",
        "what a method does at an experience's end; and of equal highest scores, they named the class with the",
        "smallest number.",
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
            "| field | takes | default |",
            "|---|---|---|",
        ]
        for field, info in model.model_fields.items():
            default = "—" if info.is_required() or info.default_factory else f"`{info.default!r}`"
            lines.append(f"| `{field}` | {_takes(info)} | {default} |")
    return NOTE + "\n".join(lines) + "\n"


def _takes(info: FieldInfo) -> str:
    """What a field takes, with its range."""
    return _plain(
        type_name(Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation)
    )


def _command_line() -> str:
    """Every command with its arguments and options."""
    lines = [
        "# Command line",
        "",
        "`clbench COMMAND --help` shows the same.",
        "",
        "```text",
        inspect.getdoc(cli) or "",
        "```",
    ]
    root = typer.main.get_command(cli.app)
    for path, command in _commands(root, ("clbench",)):
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join([*path, *(_metavar(p) for p in arguments), "[OPTIONS]"])
        lines += [
            "",
            f"## {' '.join(path[1:])}",
            "",
            "```text",
            usage,
            "",
            inspect.cleandoc(command.help or ""),
            "```",
        ]
        rows = []
        for p in command.params:
            name = ", ".join(p.opts) if p.param_type_name == "option" else p.name
            rows.append(f"| `{name}` | {(getattr(p, 'help', None) or '').replace('|', 'or')} |")
        lines += ["", "| argument or option | meaning |", "|---|---|", *rows] if rows else []
    return NOTE + "\n".join(lines) + "\n"


def _metavar(parameter: Any) -> str:
    name = parameter.metavar or str(parameter.name).upper()
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, one in inner.items():
        yield from _commands(one, (*path, name))


def main(check: bool) -> int:
    stale, wanted = [], pages()
    for name, content in wanted.items():
        path = DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            stale.append(name)
            if not check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(content, encoding="utf-8")
    for path in sorted((DOCS / "strategies").glob("*.md")):  # of strategies that are no more
        if f"strategies/{path.name}" not in wanted:
            stale.append(f"strategies/{path.name}")
            if not check:
                path.unlink()
    if stale:
        print(f"{'out of date' if check else 'written'}: {', '.join(stale)}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
