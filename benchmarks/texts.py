"""Streams of texts to be classified: what people want, and one's own.

Larson et al., "An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction", EMNLP-IJCNLP 2019,
arXiv:1909.02027. Casanueva et al., "Efficient Intent Detection with Dual Sentence Encoders", NLP for ConvAI 2020,
arXiv:2003.04807. Liu et al., "Benchmarking Natural Language Understanding Services for Building Conversational Agents",
IWSDS 2019, arXiv:1903.05566.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from clbench.data import (
    Duplicates,
    by_domain,
    intents,
    read_text_tasks,
    read_texts,
    text_benchmark,
)
from clbench.errors import ConfigError, choices
from clbench.ranges import Count, Fraction, Natural, Part, Seed
from clbench.registry import File, register_benchmark, register_benchmarks
from clbench.types import Benchmark

EXPERIENCES = {"clinc150": 15, "banking77": 7, "hwu64": 8}
"""How many there are unless something is said: those of the literature, and eights of 64."""


@register_benchmarks("texts.yaml")
def split_texts(
    told: dict[str, Any],
    *,
    data: str,
    duplicates: int,
    experiences: Count | None = None,
    first: Count | None = None,
    increment: Count | None = None,
    by: Literal["classes", "domains"] = "classes",
    class_order: Literal["natural", "shuffled"] = "shuffled",
    domain_order: Literal["natural", "shuffled"] = "natural",
    task_labels: bool = False,
    train_per_class: Count | None = None,
    test_per_class: Count | None = None,
    online: bool = False,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """New intents in each experience.

    Args:
        experiences: how many share the classes evenly.
        first: classes of the first experience, in place of `experiences`.
        increment: classes of each experience but the first.
        by: share out classes, or make an experience of each domain.
        class_order: natural, or drawn from the seed.
        domain_order: of experiences by domain: natural, or drawn from the seed.
        task_labels: task-incremental: labels of the task in training and test.
        train_per_class, test_per_class: the first so many texts of each class, in the file's order; all unless given.
        online: one pass over the stream.
        valid: share of the training examples that makes a validation stream.
        seed: of shuffled orders and of the validation split.
        duplicates: texts that are in two streams.
    """
    source = read_texts(data, domain="domain") if data == "hwu64" else intents(data)
    source = replace(source, duplicates=duplicates)
    shares: Any = experiences
    given = (experiences, first, increment) != (None, None, None)
    if by == "domains":
        if given:
            raise ConfigError(
                f"{told['name']}: with by=domains every domain is an experience; leave out experiences, first and "
                "increment."
            )
        shares, class_order = by_domain(source, domain_order, seed), "natural"
    elif not given:
        shares = EXPERIENCES[data]
    built = text_benchmark(
        source,
        **told,
        shift="task" if task_labels else "class",
        experiences=shares,
        first=first,
        increment=increment,
        class_order=class_order,
        train_per_class=train_per_class,
        test_per_class=test_per_class,
        online=online,
        valid=valid,
        seed=seed,
    )
    return replace(built, seed=seed) if by == "domains" and domain_order == "shuffled" else built


ORDERS = {
    "o-lora-1": ("dbpedia", "amazon", "agnews"),
    "o-lora-3": ("amazon", "agnews", "dbpedia"),
    "o-lora-4": (
        *(
            "mnli",
            "cb",
            "wic",
            "copa",
            "qqp",
            "boolq",
            "rte",
            "imdb",
            "yelp",
            "amazon",
            "sst2",
            "dbpedia",
            "agnews",
        ),
    ),
    "o-lora-6": (
        *(
            "yelp",
            "amazon",
            "mnli",
            "cb",
            "copa",
            "qqp",
            "rte",
            "imdb",
            "sst2",
            "dbpedia",
            "agnews",
            "boolq",
            "wic",
        ),
    ),
    "bert-4": ("agnews", "yelp", "amazon", "dbpedia"),
    "bert-5": ("yelp", "amazon", "dbpedia", "agnews"),
    "bert-6": ("dbpedia", "agnews", "amazon", "yelp"),
}
"""Published orders without Yahoo and MultiRC: those of O-LoRA (arXiv:2310.14152), and those of five data sets that
Progressive Prompts (arXiv:2301.12314) numbers 4 to 6, of de Masson d'Autume et al. (arXiv:1906.01076)."""


@register_benchmark("text-tasks", version=1, paper="arXiv:2310.14152")
def text_tasks(
    path: File = "cl_text_tasks",
    order: str | list[str] = "o-lora-4",
    labels: Literal["separate", "shared"] = "separate",
    task_labels: bool = False,
    longest: Count = 2048,
    train_per_class: Count | None = None,
    test_per_class: Count | None = None,
    online: bool = False,
    valid: Fraction = 0.0,
    duplicates: Duplicates = "note",
    seed: Seed = 0,
) -> Benchmark:
    """Data sets of texts one after another: topics, reviews, inferences, questions; up to 13 tasks of 3 to 14 classes.

    The published orders as far as the data sets at hand go, so that figures do not compare with published ones.

    Args:
        path: a folder with one for each task, of train.jsonl and test.jsonl with text and label, or its name in
            CLBENCH_DATA.
        order: of tasks: o-lora-1, o-lora-3 (three tasks), o-lora-4, o-lora-6 (13), bert-4, bert-5, bert-6 (four), which
            are published ones without Yahoo and MultiRC; or a list of folders.
        labels: separate classes for each task; or shared, where labels of one name, such as True, are one class.
        task_labels: task-incremental: labels of the task in training and test; with separate labels only.
        longest: bytes that are kept of a text.
        train_per_class, test_per_class: the first so many texts of each class, in the file's order; all unless given.
        online: one pass over the stream.
        valid: share of the training texts that makes a validation stream.
        duplicates: test texts that are training texts, too: note them in the record, or refuse.
        seed: of the validation split.
    """
    if isinstance(order, str) and order not in ORDERS:
        raise ConfigError(
            f"text-tasks: there is no order '{order}'.{choices(order, ORDERS)} A list names tasks."
        )
    if task_labels and labels == "shared":
        raise ConfigError(
            "text-tasks: shared labels leave nothing for task labels to tell; take labels=separate."
        )
    tasks = ORDERS[order] if isinstance(order, str) else order
    source = read_text_tasks(path, tasks, shared=labels == "shared", longest=longest)
    how: dict[str, Any] = {"shift": "domain"}
    if labels == "separate":
        how = {"shift": "task" if task_labels else "class", "experiences": by_domain(source, "natural", seed)}
    return text_benchmark(
        source,
        name="text-tasks",
        train_per_class=train_per_class,
        test_per_class=test_per_class,
        online=online,
        valid=valid,
        duplicates=duplicates,
        seed=seed,
        **how,
    )


@register_benchmark("text-file", version=1)
def text_file(
    path: File,
    text: str = "text",
    label: str = "label",
    domain: str | None = None,
    test_fraction: Part = 0.2,
    longest: Count = 4096,
    shift: Literal["class", "domain", "task"] = "class",
    experiences: Count | list[list[Natural | str]] | None = None,
    first: Count | None = None,
    increment: Count | None = None,
    class_order: Literal["natural", "shuffled"] | list[Natural | str] = "natural",
    domain_order: Literal["natural", "shuffled"] | list[Natural | str] = "natural",
    train_per_class: Count | None = None,
    test_per_class: Count | None = None,
    online: bool = False,
    valid: Fraction = 0.0,
    duplicates: Duplicates = "note",
    seed: Seed = 0,
) -> Benchmark:
    """Your own texts, from a CSV, TSV, JSON-lines or Parquet file, or a folder with train.* and test.* of these.

    Args:
        path: the file or folder, or its name in CLBENCH_DATA; valid.* in a folder makes a validation stream, and
            classes.txt, a label a line, numbers the classes. A part may be in numbered files, train-00000-of-00002.*.
        text: the column of texts.
        label: the column of labels, names or whole numbers.
        domain: the column of domains, for shift=domain.
        test_fraction: of a single file, the share of each class that is for testing, evenly spaced.
        longest: bytes that are kept of a text.
        shift: new classes, one domain, or new classes with task labels in each experience.
        experiences: how many share the classes evenly, 5 unless given; or a list of the classes of each.
        first: classes of the first experience, in place of `experiences`.
        increment: classes of each experience but the first.
        class_order, domain_order: ascending, drawn from the seed, or a list of all, by number or name.
        train_per_class, test_per_class: the first so many texts of each class, in the file's order; all unless given.
        online: one pass over the stream.
        valid: share of the training texts that makes a validation stream, where the data have none.
        duplicates: test texts that are training texts, too: note them in the record, or refuse.
        seed: of shuffled orders and of the validation split.
    """
    source = read_texts(
        path, text=text, label=label, domain=domain, test_fraction=test_fraction, longest=longest
    )
    return text_benchmark(
        source,
        name="text-file",
        shift=shift,
        experiences=experiences,
        first=first,
        increment=increment,
        class_order=class_order,
        domain_order=domain_order,
        train_per_class=train_per_class,
        test_per_class=test_per_class,
        online=online,
        valid=valid,
        duplicates=duplicates,
        seed=seed,
    )
