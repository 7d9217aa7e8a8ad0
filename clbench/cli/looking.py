"""`list` and `show`: what there is."""

from __future__ import annotations

import json
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from clbench.cli.common import Json, Plugins, columns, load, show_record, warn
from clbench.cli.data import describe as data_described, show_described
from clbench.errors import ClbenchError, ConfigError, choices, suggest
from clbench.files import check_place
from clbench.registry import Entry, benchmarks, chain_parts, strategies
from clbench.registry.meanings import without_arguments

GIVEN = {"input_shape": "Given by the benchmark.", "num_classes": "Given by the benchmark."}
"""What a network is told of the data, and nobody sets."""
KINDS = ("strategies", *strategies.libraries, "benchmarks", "models", "metrics", "suites")


def list_(
    kind: Annotated[str | None, typer.Argument(help=" · ".join(KINDS))] = None,
    plugin: Plugins = None,
    load_all: Annotated[
        bool,
        typer.Option("--load", help="Import every plugin, too, so that one that cannot be loaded is named."),
    ] = False,
    as_json: Json = False,
) -> int:
    """List strategies, those of another library that run here, benchmarks, models, metrics or suites.

    A plugin with a mistake is named on standard error, all others are listed, and the exit code is 2.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"There is no kind '{kind}' to list.{choices(kind, KINDS)}")
    kinds = (kind,) if kind else KINDS
    problems = _load_each(plugin or ()) + _problems(kinds, load_all)
    rows = {k: entries(k) for k in kinds}
    for problem in problems:
        warn(problem)
    if as_json:
        print(json.dumps(rows[kind] if kind else rows, indent=2, ensure_ascii=False))
    for k in () if as_json else kinds:
        if kind is None:
            print(f"{k}:")
        lines = []
        for row in rows[k]:
            brought = f"  [{row['origin']}]" if row.get("origin", "clbench") != "clbench" else ""
            version = f"@{row['version']}" if "version" in row else ""
            other = row.get("primary", Entry.primary) != Entry.primary
            ranks = f"  (ranked by {row['primary']})" if other else ""
            lines.append((row["name"] + version, row["summary"] + ranks + brought))
        print(columns(lines))
    return 2 if problems else 0


def _load_each(plugins: Sequence[str]) -> list[str]:
    """Import plugin files; what is wrong with those that cannot be."""
    problems = []
    for plugin in plugins:
        try:
            load([plugin])
        except ClbenchError as error:
            problems.append(str(error))
    return problems


def _problems(kinds: Sequence[str], load_all: bool) -> list[str]:
    """Return what is wrong with plugins of installed distributions."""
    from clbench import registry

    problems = []
    for kind in kinds:
        if kind not in ("strategies", "benchmarks", "models"):
            continue
        entries = getattr(registry, kind)
        found = entries.problems()
        for name in entries.names() if load_all else ():
            try:
                with warnings.catch_warnings(action="ignore", category=registry.PluginWarning):
                    entries.entry(name)
                if kind == "strategies":
                    entries.make(name)
            except ClbenchError as error:
                found += [] if str(error) in found else [str(error)]
        problems += found
    return problems


def show(
    name: Annotated[str, typer.Argument(help="A registered name, a chain such as er+ewc, or a run folder.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Of a benchmark: what to build it with, path=my.npz …"),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Of a benchmark of images: PNG file for a few of each experience.")
    ] = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> int:
    """Show all there is to know about a strategy, benchmark, model, metric, suite or run; of a chain, each part.

    A benchmark with settings, or with --sheet, is built, and its data are described.
    """
    load(plugin)
    if settings or sheet is not None:
        if not benchmarks.knows(name):
            given = " ".join([*(settings or []), *(["--sheet"] if sheet is not None else [])])
            raise ConfigError(
                f"{given}: only benchmarks are built to be shown.{suggest(name, benchmarks.names())}"
            )
        if sheet is not None:
            if sheet.suffix != ".png":
                raise ConfigError(f"--sheet takes a PNG file; {sheet} was given.")
            check_place(sheet, file=True)
        show_described(data_described(name, settings), as_json, sheet)
        return 0
    if (Path(name) / "config.yaml").is_file() or (Path(name) / "record.json").is_file():
        from clbench.results.ledger import read_record

        record = read_record(Path(name))
        about = record.benchmark.get("about", "")
        for note in record.benchmark.get("notes", ()):  # which come by themselves, below
            about = about.replace(note, "").strip()
        if about and not as_json:
            print(about)
        return show_record(record, as_json)
    parts = chain_parts(name) if "+" in name else [name]
    kinds = ("strategies", *strategies.libraries) if len(parts) > 1 else KINDS
    listed = [(kind, row) for kind in kinds for row in entries(kind)]
    for part in parts:
        if part not in (known := [row["name"] for _, row in listed]):
            no_run = "" if len(parts) > 1 else ", and it is no run folder"
            raise ConfigError(f"Nothing is registered as '{part}'{no_run}.{suggest(part, known)}")
    found = [(kind, row) for part in parts for kind, row in listed if row["name"] == part]
    described = [describe(kind, row) for kind, row in found]
    if as_json:
        print(json.dumps(described if len(described) > 1 else described[0], indent=2, ensure_ascii=False))
        return 0
    for entry in described:
        head = f"{entry['kind']} {entry['name']}" + (f"@{entry['version']}" if "version" in entry else "")
        parameters = entry.get("parameters", [])
        text = without_arguments(entry["documentation"]) if parameters else entry["documentation"]
        print(head, "=" * len(head), text, *([""] if parameters else []), sep="\n")
        for parameter in parameters:
            default = "required" if parameter["required"] else f"= {parameter['default']!r}"
            print(f"    {parameter['name']} {default}   ({parameter['type']})")
            print(textwrap.indent(textwrap.fill(parameter["meaning"], 100), " " * 8))
        for key in ("primary", "paper", "needs", "module", "origin"):
            if entry.get(key):
                print(f"{key}: {', '.join(entry[key]) if isinstance(entry[key], list) else entry[key]}")
        print()
    return 0


def entries(kind: str) -> list[dict[str, Any]]:
    """Return what `list` knows of a kind, without importing plugins or torch."""
    if kind == "metrics":
        from clbench.results.metrics import METRICS

        return [{"name": m.name, "summary": m.summary} for m in METRICS.values()]
    if kind == "suites":
        from clbench.config import config_file, read_yaml, suite_names

        paths = {name: config_file("suites", f"{name}.yaml") for name in suite_names()}
        return [_suite(name, read_yaml(path)) for name, path in paths.items() if path is not None]
    if (adapter := strategies.adapter(kind)) is not None:
        runs, refused = adapter.offers()
        told = {**runs, **{name: f"does not run: it {why}" for name, why in refused.items()}}
        return [{"name": f"{kind}:{name}", "summary": summary} for name, summary in told.items()]
    from clbench import registry

    entries = getattr(registry, kind)
    peeked = [entries.peek(name) for name in entries.names()]
    rows = [
        {
            "name": e.name,
            "version": e.version,
            "summary": e.summary,
            "paper": e.paper,
            "module": e.module,
            "origin": e.origin,
        }
        for e in peeked
    ]
    if kind == "strategies":
        for row, e in zip(rows, peeked, strict=True):
            row["modifier"] = e.modifier
    if kind == "benchmarks":
        for row, e in zip(rows, peeked, strict=True):
            row["primary"] = e.primary
    return rows


def _suite(name: str, tree: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of a suite: a line, and its whole description."""
    seeds = tree.get("seeds", 5)
    counts = {
        "strategy strategies": len(tree["strategies"]),
        "benchmark benchmarks": len(tree["benchmarks"]),
        "seed seeds": seeds if isinstance(seeds, int) else len(seeds),
    }
    sizes = ", ".join(f"{n} {words.split()[n > 1]}" for words, n in counts.items())
    summary = f"{tree.get('title', name)} ({sizes})"
    return {"name": name, "summary": summary, "description": " ".join(tree.get("description", "").split())}


def describe(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    import inspect

    from clbench import registry
    from clbench.registry.arguments import hints_of, type_name
    from clbench.registry.meanings import meanings

    registered = "strategies" if kind in strategies.libraries else kind
    singular = "strategy" if registered == "strategies" else kind.removesuffix("s")
    described = {"kind": singular, **row, "documentation": row["summary"]}
    if kind == "metrics":
        from clbench.results.metrics import METRICS

        described["documentation"] = inspect.getdoc(METRICS[row["name"]].function) or row["summary"]
    if kind == "suites":
        described["documentation"] = f"{row['summary']}\n\n{textwrap.fill(row['description'], 100)}"
    if kind in ("metrics", "suites"):
        return described
    entry = getattr(registry, registered).entry(row["name"])
    described["documentation"] = inspect.getdoc(entry.build) or ""
    hints, said = hints_of(entry.name, entry.build), meanings(described["documentation"])
    described["parameters"] = [
        {
            "name": name,
            "default": None if p.default is p.empty else p.default,
            "required": p.default is p.empty,
            "type": type_name(hints[name]),
            "meaning": said.get(name, GIVEN.get(name, "")),
        }
        for name, p in entry.signature().parameters.items()
    ]
    if kind == "strategies":
        described["needs"] = sorted(registry.strategies.make(row["name"]).all_needs())
    return described
