"""What clbench ships, by family: the tables of the README and the page of strategies.

A strategy names its family where it is registered (`family=`); a benchmark's is the file that defines it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import evidence

from clbench import make_strategy
from clbench.registry import Entry, Registry, benchmarks, models, strategies

FAMILIES = {
    "bounds": "what to compare with: no method at all, and all data at hand",
    "replay": "stored examples come back",
    "contrast": "replay with losses between examples or with class proxies",
    "projection": "a step may not raise the loss of the past",
    "regularisation": "weights that matter stay near where they were",
    "distillation": "an earlier model teaches the present one",
    "prompts": "inputs learned for a frozen transformer",
    "low rank": "small branches learned within a frozen transformer: LoRA and adapters",
    "dual encoders": "images are compared with the names of classes",
    "fixed features": "little or nothing of the backbone is trained",
    "few-shot": "a base session, then a few examples of a few classes",
    "rare classes": "losses and data for classes of which there is little",
    "drift": "streams that change untold: detectors as triggers, and floors",
    "plasticity": "what keeps a network able to learn",
    "training": "how a step is made, what it sees, which weights predict",
    "mixtures": "how much of which domain is learned, and when",
    "retrieval": "an index of documents that learns new ones",
}
"""The families of strategies in the order of the documentation."""

CHOOSE = {
    "bounds": "beside every method: `finetune` is what it must beat, `joint` and `offline` what it may hope for",
    "replay": "where some hundred examples may be kept. Begin with `er`; `derpp` also keeps outputs, for half as many "
    "forward passes again",
    "contrast": "where each example is seen once and the head leans to the newest classes; a second view of every "
    "example costs forward passes",
    "projection": "where what was learned must not get worse, and a step may take longer for it",
    "regularisation": "where nothing of the past may be kept, and tasks are told or share their classes; where new "
    "classes come untold, look at `finetune` beside them",
    "distillation": "where no example may be kept, but a copy of the model may; it works as far as new examples "
    "resemble old ones",
    "prompts": "with a pretrained vision transformer, which stays as it is, and nothing kept of the past",
    "low rank": "with a pretrained transformer that has to change, at a small share of its parameters; `ranpac` is "
    "what they must beat",
    "dual encoders": "with a pretrained CLIP, which knows classes by their names; `zero-shot` is its floor",
    "fixed features": "with a pretrained backbone, as the cheap baseline that everything dearer must beat",
    "few-shot": "where a first session is large enough to train a backbone on, and later classes bring a handful",
    "rare classes": "where some classes have far more examples than others; most are losses for a strategy in front",
    "drift": "where rows come in time order and each is predicted before it is learned; `labels-only` is what any of "
    "them must beat, and often does not",
    "plasticity": "for long streams, on which a network stops learning before it forgets",
    "training": "with any strategy in front; `ema` smooths the stability gap, `lawa` averages checkpoints",
    "mixtures": "where whole domains are learned in turn, as in the continual pre-training of language models; "
    "`replay-fraction` comes first, and `skill-it` and `aioli` are bounds",
    "retrieval": "where a query is answered with a document, and documents come and go",
}
"""When to choose which family."""

SOURCES = {
    "split": "classes in turn: digits need no download",
    "domains": "the same classes, permuted or rotated pixels",
    "pacs": "styles of images",
    "sequences": "whole data sets in a row",
    "power_law": "recurring environments",
    "repetition": "classes that come back",
    "random_labels": "plasticity",
    "blurry": "blurry, without boundaries",
    "few_shot": "few-shot",
    "texts": "texts to be classified: those of split-clinc150 and split-banking77 need no download",
    "language": "text for language models: prose-and-code needs no download",
    "skills": "skills that build on each other, as tokens",
    "retrieval": "retrieval of documents",
    "photos": "photographs of the published protocol, from folders or lists",
    "manifest": "any stream, from a table",
    "drift": "rows in time order, each predicted before it is learned",
    "own": "your own data",
}
"""The files of benchmarks, in the order of the documentation, and what is in them; others follow by their names."""

SUITS = {
    "split": "The usual question: does a network that learns new classes keep the old ones? `split-digits` answers in "
    "seconds, `split-mnist` is what most papers begin with, CIFAR takes a convolutional network.",
    "domains": "No new classes, other inputs: forgetting without the head's bias. Rotations are where the stability "
    "gap is usually shown.",
    "pacs": "A change of domain as it is met: photos, then paintings, cartoons and sketches.",
    "sequences": "Other images and other classes at once, and with a pretrained model what it could do before.",
    "power_law": "The past comes back by itself, as it does outside of benchmarks: how little replay is enough then?",
    "repetition": "Classes come, go and come again, in ten experiences or in hundreds: what is kept of those that are "
    "away, and does knowledge accumulate without any method? For any data set.",
    "random_labels": "The same images with new labels, again and again: nothing to keep, and what gets lost is the "
    "ability to learn.",
    "blurry": "One pass, classes that stray between segments, and nobody says where one ends: for online methods.",
    "drift": "Features as they come in time, without a test set, and with change that nobody announces: how much does "
    "a network add to the previous label? Your own table is one, by `drift-file`.",
    "few_shot": "Many base classes, then five examples each of a few new ones.",
    "texts": "Classification on a real pretrained encoder: with `model=minilm` real numbers take minutes on two cores. "
    "BANKING77's intents are the closest to each other.",
    "language": "A language model goes on learning: prose, then code, or domains of your own text, measured in nats "
    "and bits per character. `model=decoder` is small enough for two cores.",
    "skills": "Domains of which one helps the next: for mixtures that follow the losses, `skill-it` and `aioli`.",
    "retrieval": "The model is the index: it names the document that answers a query, and takes in new ones.",
    "photos": "What pretrained vision transformers are compared on, from your folders or the lists of a split.",
    "manifest": "A row for each example, with what it is, where it stands in the stream and when it came.",
    "own": "What you have: arrays or images, split by class, or by folder of a domain.",
}
"""What each of them is for."""


def example(entry: Entry) -> str:
    """Return what to give to `clbench run` for a strategy: data that everyone has, and a network that it works on."""
    made = make_strategy(f"er+{entry.name}" if entry.modifier else entry.name)
    if "documents" in made.all_needs():
        return f"dsi-numpy {made}"
    if "language" in made.all_needs():
        return f"prose-and-code {made}"
    return {"vit": f"split-banking77 {made}", "clip": f"split-digits {made} model=toy-clip"}.get(
        next((part.architecture for part in made.parts if part.architecture), ""), f"split-digits {made}"
    )


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
    groups = {
        "strategies": [(f"**{name}**: {FAMILIES[name]}", found) for name, found in families().items()],
        "benchmarks": [(SOURCES.get(stem, stem), found) for stem, found in by_source().items()],
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
    lines = ["# Strategies", "", *INTRODUCTION]
    for family, entries in families().items():
        about = f"{_sentence(FAMILIES[family])}. Choose it {CHOOSE[family]}."
        lines += ["", f"## {_sentence(family)}", "", *_wrapped(about)]
        lines += ["", "| name | what it is | measured | forwards | kept |", "|---|---|---|---:|---:|"]
        for entry in entries:
            link = f"[`{entry.name}`](strategies/{entry.name}.md){' (modifier)' if entry.modifier else ''}"
            about = f"{entry.summary} {paper(entry.paper)}".rstrip()
            lines.append(f"| {link} | {about} | {' | '.join(evidence.glance(entry.name))} |")
    lines += [
        "",
        "## For language models",
        "",
        *_wrapped(f"{LANGUAGE} {_links(of_language(), 'strategies/{}.md')}"),
    ]
    return "\n".join([*lines, "", "```{toctree}", ":hidden:", ":glob:", "", "strategies/*", "```"]) + "\n"


def of_language() -> list[Entry]:
    """Return clbench's own strategies that are exact, as they are by default, where every token has a label."""
    built = [(entry, make_strategy(entry.name)) for entry in own(strategies)]
    return [entry for entry, strategy in built if all(part.language for part in strategy.parts)]


LANGUAGE = (
    "Where an example is a block of tokens and each of them has a label, these run, in any chain, and `pred-kd` with "
    "`pred-kd.loss=softmax`; others are refused by name. Losses and divergences are means over the tokens that count; "
    "importances of weights are of whole blocks; memories keep blocks, and so do counts of examples:"
)


INTRODUCTION = (
    "A modifier changes another strategy and is written behind it: `er+sam`.",
    "",
    "What was *measured* and what it cost are, where nothing else is said, of [the leaderboard](leaderboard.md)'s",
    f"table of `{evidence.REFERENCE}`: one pass over the stream, five seeds, settings chosen on its first two",
    "experiences, 500 examples in memories. *Forwards*: examples through the network in training, in times of",
    "`finetune`'s. *Kept*: bytes of examples, copies and weights' importances, beside the network. Numbers of one",
    "stream say little of another: run what you mean to use on yours.",
)


def benchmarks_page() -> list[str]:
    """Return the beginning of the page of benchmarks: a table for each kind."""
    lines = [
        "*Measured* is what [the leaderboard](leaderboard.md) ranks by, average accuracy or a language model's loss:",
        "nothing done about forgetting, the best method there, and the bound by all data.",
    ]
    for stem, entries in by_source().items():
        lines += [
            "",
            f"## {_sentence(SOURCES.get(stem, stem))}",
            "",
            *_wrapped(SUITS.get(stem, "")),
        ]
        lines += ["", "| name | what it is | measured |", "|---|---|---|"]
        for entry in entries:
            about = f"{entry.summary} {paper(entry.paper)}".rstrip()
            lines.append(f"| [`{entry.name}`](#{entry.name}) | {about} | {evidence.span(entry.name)} |")
    return lines


def by_source() -> dict[str, list[Entry]]:
    """Return clbench's own benchmarks by the file that defines them."""
    found: dict[str, list[Entry]] = {stem: [] for stem in SOURCES}
    for entry in own(benchmarks):
        found.setdefault(entry.family or Path(entry.source).stem, []).append(entry)
    return {stem: entries for stem, entries in found.items() if entries}


def paper(name: str) -> str:
    """Return a paper as a link where it is on arXiv."""
    number = name.removeprefix("arXiv:")
    return f"[{name}](https://arxiv.org/abs/{number})" if number != name else name


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 120, break_on_hyphens=False)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _links(entries: Iterable[Entry], page: str) -> str:
    return ", ".join(f"[`{entry.name}`]({page.format(entry.name)})" for entry in entries)
