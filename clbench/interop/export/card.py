"""The README.md of an exported model: what it is, of which record, and the lines that use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clbench.engine.engine import Engine
from clbench.interop.export.folders import ADAPTER, Folder
from clbench.interop.export.plain import Plain
from clbench.results import metrics
from clbench.results.ledger import Record


def lines_for(found: Folder, place: str) -> str:
    """Return the Python that uses a folder at a place."""
    return "\n".join([*found.imports, "", *(line.replace("FOLDER", place) for line in found.lines)])


def card(
    record: Record, engine: Engine, network: Plain, found: Folder, about: Mapping[str, Any], python: str
) -> str:
    """Return the README.md.

    Args:
        about: what `clbench.json` says. python: the lines that use the folder.
    """
    named, number = record.benchmark, about["experience"]
    key = "average_loss" if engine.benchmark.setting.language else "average_accuracy"
    reached = metrics.compute(record.curve.upto(number), (key,))[key]
    told = "" if reached is None else f"{100 * reached:.1f} %"
    if reached is not None and engine.benchmark.setting.language:
        told = f"{reached:.3f} nats per token"
    accuracy = told and f", {told} on the test sets up to there"
    commit = record.code.get("commit")
    lines = [
        "---",
        f"library_name: {found.library}",
        "tags: [continual-learning, clbench]",
        "---",
        "",
        f"# {record.strategy['name']} on {named['name']}, after experience {number} of {about['experiences']}",
        "",
        f"- record: `{record.id}`, clbench {record.code['version']}{f', commit `{commit}`' if commit else ''}",
        f"- benchmark: {named['name']}@{named['version']}, fingerprint `{named['fingerprint']}`",
        f"- strategy: {record.strategy['name']}@{record.strategy['version']}; model: {record.model['name']}; "
        f"seed {record.seeds['data']}{accuracy}",
        *(f"- {note}" for note in network.notes),
        "",
        "## Use",
        "",
        f"{_inputs(about)}",
        "",
        "```python",
        python,
        "```",
        "",
        _outputs(engine, about),
    ]
    if network.branches:
        wrapped = "timm.create_model(BASE, pretrained=True, num_classes=0)"
        if found.library == "transformers":
            wrapped = f"{found.imports[-1].split()[3].rstrip(',')}.from_pretrained(BASE)"
        lines += [
            "",
            f"`{ADAPTER}/` has the low-rank branches alone, for `BASE`, what they were trained on: "
            f'`peft.PeftModel.from_pretrained({wrapped}, "{ADAPTER}")` gives what the network above gives.',
        ]
    return "\n".join(lines) + "\n"


def _inputs(about: Mapping[str, Any]) -> str:
    given = about["input"]
    if given["stored"] == "texts":
        return "`texts` is a list of texts."
    x = f"`x` is (B, {', '.join(map(str, given['shape']))})"
    if given["stored"].startswith("int"):
        way = "" if "tokenizer" not in about else "; its tokenizer is in `clbench.json`"
        return f"{x}, int64, as the benchmark has it{way}."
    scaled = (
        [f"pixels from 0 to 255 times {given['scale']:.8g}"] if given["stored"] == "uint8" else ["as stored"]
    )
    mean = [f"minus {given['mean']}", f"over {given['std']}"] if given["mean"] else []
    return f"{x}, float32: {', '.join([*scaled, *mean])}."


def _outputs(engine: Engine, about: Mapping[str, Any]) -> str:
    if engine.benchmark.setting.language:
        return "Row t of a block's logits scores what comes after token t. `clbench.json` has the domains, in order."
    if about["head"] is None:
        return "The features are what the run's head is given. Classes are in `clbench.json`: `labels`, in order."
    told = (
        f"Column c of the logits is `labels[c]` of `clbench.json`, where `seen` lists the {len(about['seen'])} classes "
        "that had been learned."
    )
    if engine.task_classes is not None:
        told += (
            " In the run, a test example's task was told: only the classes of its experience, in `classes`, were "
            "answers."
        )
    return told
