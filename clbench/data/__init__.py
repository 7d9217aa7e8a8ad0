"""Data sets: where they come from, what they must look like, and benchmarks from one's own.

    import clbench
    benchmark = clbench.from_arrays(x_train, y_train, x_test, y_test, experiences=5)
    benchmark = clbench.from_folder("photos", size=64)  # photos/train/CLASS/*, photos/test/CLASS/*
    benchmark = clbench.from_dataset(train_set, test_set)  # of torch, torchvision

A data set is decoded once, to uint8 with channels first, and lies as `<name>.npz` in `$CLBENCH_DATA` (default
`~/.cache/clbench`). A file that is already there is used as it is; the fingerprint of a benchmark holds the
hash of its data. Building a benchmark never downloads; `fetch` does.

Shapes: N examples, C channels, H × W pixels, D features.
"""

from clbench.data.beir import Collection, beir_folder, read_beir
from clbench.data.blurry import build_blurry
from clbench.data.caches import Cleared, caches, clear
from clbench.data.curriculum import design
from clbench.data.draws import bits, permutation
from clbench.data.drift import Times, drift_stream, generated, known_rows, read_rows_in_time
from clbench.data.duplicates import Duplicates, remarks, shared
from clbench.data.families import Normalise, Shift, build, from_arrays, from_folder, from_npz
from clbench.data.few_shot import FEW_SHOT, build_few_shot, few_shot
from clbench.data.files import data_folder, read_npz, read_rows
from clbench.data.folders import read_folder
from clbench.data.given import from_data, from_dataset, from_frame, settings_of
from clbench.data.known import DRAWERS, KNOWN, Known, Omniglot, Status, digits, fetch, load, omniglot, status
from clbench.data.language import from_documents, language, prose_and_code
from clbench.data.language_files import By as DomainBy, read_documents
from clbench.data.lists import read_published
from clbench.data.manifest_checks import Overlap
from clbench.data.manifest_plans import By, Tested, Unmatched
from clbench.data.manifest_report import Report, describe_manifest
from clbench.data.manifest_streams import from_manifest
from clbench.data.named import any_source, reader_of
from clbench.data.preparing import recipe_of
from clbench.data.recurrence import Reading, Schedule, rehearse
from clbench.data.repetition import Again, First, Plan, build_repeated, by_occurrence, by_slots, scole
from clbench.data.retrieval import Order as CorpusOrder, Titles, retrieval
from clbench.data.sequences import Labels, Normalised, in_a_row
from clbench.data.source import AxesOrder, Source, chosen, first_of_each, moments, only, source_of
from clbench.data.streams import (
    changed_domains,
    class_incremental,
    domain_incremental,
    permutations,
    rotations,
)
from clbench.data.textfiles import read_text_tasks, read_texts
from clbench.data.texts import by_domain, from_texts, intents, text_benchmark

__all__ = [
    "DRAWERS",
    "FEW_SHOT",
    "KNOWN",
    "Again",
    "AxesOrder",
    "By",
    "Cleared",
    "Collection",
    "CorpusOrder",
    "DomainBy",
    "Duplicates",
    "First",
    "Known",
    "Labels",
    "Normalise",
    "Normalised",
    "Omniglot",
    "Overlap",
    "Plan",
    "Reading",
    "Report",
    "Schedule",
    "Shift",
    "Source",
    "Status",
    "Tested",
    "Times",
    "Titles",
    "Unmatched",
    "any_source",
    "beir_folder",
    "bits",
    "build",
    "build_blurry",
    "build_few_shot",
    "build_repeated",
    "by_domain",
    "by_occurrence",
    "by_slots",
    "caches",
    "changed_domains",
    "chosen",
    "class_incremental",
    "clear",
    "data_folder",
    "describe_manifest",
    "design",
    "digits",
    "domain_incremental",
    "drift_stream",
    "fetch",
    "few_shot",
    "first_of_each",
    "from_arrays",
    "from_data",
    "from_dataset",
    "from_documents",
    "from_folder",
    "from_frame",
    "from_manifest",
    "from_npz",
    "from_texts",
    "generated",
    "in_a_row",
    "intents",
    "known_rows",
    "language",
    "load",
    "moments",
    "omniglot",
    "only",
    "permutation",
    "permutations",
    "prose_and_code",
    "read_beir",
    "read_documents",
    "read_folder",
    "read_npz",
    "read_published",
    "read_rows",
    "read_rows_in_time",
    "read_text_tasks",
    "read_texts",
    "reader_of",
    "recipe_of",
    "rehearse",
    "remarks",
    "retrieval",
    "rotations",
    "scole",
    "settings_of",
    "shared",
    "source_of",
    "status",
    "text_benchmark",
]
