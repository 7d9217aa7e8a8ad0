"""What runs have in common: one stream, one configuration, and names that tell the rest apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from clbench.reports.grouping import Named, Run, configuration, differing, names, streams


def runs(fingerprints: Sequence[str], row: str = "er", *, first: int = 0, **arguments: Any) -> list[Run]:
    """A run for each fingerprint, with seeds from `first` on."""
    return [
        Run.of({"seed": seed, **arguments}, 0, {"name": "npz", "version": 1, "fingerprint": data}, row)
        for seed, data in enumerate(fingerprints, first)
    ]


def together(*given: Sequence[Run]) -> list[list[int]]:
    """Which of the given groups have one stream; in whatever order the runs come."""
    owner = [k for k, group in enumerate(given) for _ in group]
    listed = [run for group in given for run in group]
    found = set()
    for order in (range(len(listed)), reversed(range(len(listed)))):
        places = list(order)
        tables: dict[int, set[int]] = {}
        for place, stream in zip(places, streams([listed[i] for i in places]), strict=True):
            tables.setdefault(stream, set()).add(owner[place])
        found.add(tuple(sorted(tuple(sorted(table)) for table in tables.values())))
    (one,) = found
    return [list(table) for table in one]


def test_a_stream_that_is_drawn_anew_with_every_seed_is_one() -> None:
    assert together(runs("abcde"), runs("abcde", "ewc"), runs("fg", "ewc", first=5)) == [[0, 1, 2]]


def test_other_arguments_are_another_stream() -> None:
    assert together(runs("aaa", experiences=5), runs("bbb", experiences=2)) == [[0], [1]]


def test_other_data_under_the_same_arguments_are_another_stream() -> None:
    """A file at the same path of two users, whether the stream is drawn or not."""
    assert together(runs("aaa"), runs("bbb", "finetune")) == [[0], [1]]
    assert together(runs("abc"), runs("xyz", "finetune")) == [[0], [1]]
    assert together(runs("abc"), runs("abc", "ewc"), runs("xyz", "finetune")) == [[0, 1], [2]]


def test_one_configuration_on_other_data_is_not_averaged_with_it() -> None:
    assert together(runs("aaa"), runs("bbb")) == [[0], [1]]


def test_the_same_data_under_other_arguments_are_the_same_stream() -> None:
    """Another path to the same file; a record from before an argument was there."""
    assert together(runs("abc", path="x"), runs("abc", path="y")) == [[0, 1]]


def test_an_order_that_is_by_chance_the_natural_one_joins_nothing() -> None:
    natural, shuffled = runs("aaa", order="natural"), runs("abc", order="shuffled")
    assert together(natural, shuffled) == [[0], [1]]


def test_names_and_versions_of_benchmarks_are_kept_apart() -> None:
    what = {"name": "npz", "version": 1, "fingerprint": "a"}
    others = [{**what, "version": 2}, {**what, "name": "mine"}]
    assert streams([Run.of({}, 0, benchmark, "er") for benchmark in (what, *others)]) == [0, 1, 2]


def test_without_a_fingerprint_arguments_decide() -> None:
    bare = {"name": "npz", "version": 1}
    assert streams([Run.of({"path": path}, 0, bare, "er") for path in "xyx"]) == [0, 1, 0]


def test_no_two_fingerprints_of_one_seed_are_ever_in_one_stream_of_one_row() -> None:
    """Whatever runs there are: of three seeds, two data each, two rows, two arguments."""
    every = list(itertools.product((0, 1), "ab", ("er", "ewc"), (5, 2)))
    for chosen in itertools.combinations(every, 4):
        made = [
            Run.of({"seed": s, "n": n}, 0, {"name": "b", "version": 1, "fingerprint": f}, row)
            for s, f, row, n in chosen
        ]
        seen: dict[tuple[int, Any, int], str] = {}
        for run, stream in zip(made, streams(made), strict=True):
            assert seen.setdefault((stream, run.row, run.order), run.fingerprint) == run.fingerprint


def test_a_configuration_is_without_the_runs_seed_and_with_those_that_it_sets() -> None:
    plain = {"seeds": {"order": 3, "init": 3, "data": 3}, "stream": {"seed": 3, "n": 5}, "optim": {"lr": 0.1}}
    assert configuration(plain, 3) == {"stream": {"n": 5}, "optim": {"lr": 0.1}}
    fixed = {**plain, "seeds": {"order": 0, "init": 3, "data": 3}, "stream": {"seed": 0}}
    assert configuration(fixed, 3) == {"stream": {"seed": 0}, "seeds": {"order": 0}, "optim": {"lr": 0.1}}


def test_settings_that_differ() -> None:
    assert differing([{"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, {"d": None}]) == ["a.b", "a.c"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([{"params": {"er": {"memory": 20}}}, {"params": {"er": {"memory": 1000}}}], ["memory=20", "memory=1000"]),
        ([{"stream": {"path": "/d/a/x.npz"}}, {"stream": {"path": "/d/b/x.npz"}}], ["path=a/x.npz", "path=b/x.npz"]),
        ([{"model": {"name": "mlp"}}, {"model": {"name": "vit"}}], ["model=mlp", "model=vit"]),
        ([{"model": {"params": {"width": [8]}}}, {"model": {"params": {"width": None}}}], ["width=[8]", "width=null"]),
        ([{"optim": {"name": "sgd"}}, {"optim": {"name": "adam"}}], ["optim.name=sgd", "optim.name=adam"]),
        ([{"optim": {"reset": True}}, {"optim": {"reset": False}}], ["reset=true", "reset=false"]),
        (
            [{"params": {"a": {"k": 1}, "b": {"k": 1}}}, {"params": {"a": {"k": 2}, "b": {"k": 3}}}],
            ["a.k=1 b.k=1", "a.k=2 b.k=3"],
        ),
        ([{}, {"seeds": {"init": 7}}], ["", "seeds.init=7"]),
        ([{"selection": "fixed", "lr": 1}, {"selection": "defaults", "lr": 2}], ["lr=1", "lr=2"]),
        ([{"selection": "fixed"}, {"selection": "defaults"}], ["selection=fixed", "selection=defaults"]),
        ([{"data": "6e7f"}, {"data": "241c"}], ["data=6e7f", "data=241c"]),
        (
            [{"data": "6e7f", "n": 1}, {"data": "241c", "n": 1}, {"data": "241c", "n": 2}],
            ["n=1 data=6e7f", "n=1 data=241c", "n=2"],
        ),
        ([{"files": {"params.er.w": "6e7f"}}, {"files": {"params.er.w": "241c"}}], ["er.w=6e7f", "er.w=241c"]),
        ([{}, {}], ["", "(2)"]),
    ],
    ids=str,
)  # fmt: skip
def test_names_say_what_differs(settings: list[dict[str, Any]], expected: list[str]) -> None:
    found = names([Named("er", "er", one) for one in settings])
    assert found == [f"er {text}".strip() for text in expected]


def test_names_tell_strategies_under_one_label_apart() -> None:
    entries = [Named("x", kind, {"lr": lr}) for kind, lr in (("er", 1), ("er", 2), ("ewc", 1))]
    assert names(entries) == ["x (er) lr=1", "x (er) lr=2", "x (ewc)"]


def test_no_two_names_are_the_same_whatever_labels_say() -> None:
    entries = [
        Named("er", "er", {"memory": 20}),
        Named("er", "er", {"memory": 7}),
        Named("er memory=20", "ewc", {}),
        Named("er memory=20 (2)", "ewc", {}),
        Named("long", "er", {"rows": list(range(1000))}),
        Named("long", "er", {"rows": [*range(500), 0, *range(501, 1000)]}),
    ]
    found = names(entries)
    assert len(set(found)) == len(found)
    assert max(map(len, found)) < 60
