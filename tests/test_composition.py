"""Every strategy with every modifier, and pairs of modifiers: it runs, or it is refused with the reason.

A third of the pairs is tried at every test, all of them with `-m "slow or not slow"`."""

from __future__ import annotations

import functools
import itertools
import zlib

import pytest
from torch import nn

from clbench import make_strategy
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.parts import CrossEntropy, DarkReplay, FeatureHead, GrowingHead, Normalised, RowLoss, SeenOutputs
from clbench.registry import strategies
from clbench.strategy import Strategy, overrides
from clbench.testing import subject, tiny_benchmark, tiny_run

MODIFIERS = [name for name in strategies.names() if strategies.entry(name).modifier]
BASES = [name for name in strategies.names() if name not in MODIFIERS]
PAIRS = [*itertools.product(BASES, MODIFIERS)]
NOTHING = "depends on nothing that is trained"
ODD = {
    **dict.fromkeys([("gdumb", "cmo"), ("gdumb", "view-batch")], "gdumb learns from none of them"),
    **dict.fromkeys(
        [("scr", "freeze"), *itertools.product(("align", "lingo"), ("freeze-after-first", "ovor"))], NOTHING
    ),
    ("mvp", "ovor"): "asks for more of an image",
    **dict.fromkeys([("fetril", "refresh"), ("slca", "refresh")], "trains the head on features"),
    **dict.fromkeys([("aper", "refresh"), ("ease", "refresh")], "one layer in two places"),
    **dict.fromkeys([("lae", "freeze"), ("seq-star", "freeze")], "parameters of the group 'encoder'"),
    ("dkvb", "ldam-drw"): "linear head",
    ("lingo", "nap"): "",  # its rows are no layer's weights
}
"""What is said of pairs that no property tells apart from others; every other refusal follows from a rule."""


@functools.cache
def run_of(name: str) -> Engine:
    """A run of a strategy, or of a modifier of fine-tuning, before its first step."""
    alone = subject(name)
    return alone.run(alone.benchmark(), epochs=1)


def has(name: str, kind: type[Strategy]) -> bool:
    return any(isinstance(part, kind) for part in run_of(name).strategy.parts)


def does(name: str, *points: str) -> bool:
    """Whether a part other than the plain loss writes one of these points."""
    parts = [part for part in run_of(name).strategy.parts if type(part) is not CrossEntropy]
    return any(overrides(part, point) for part in parts for point in points)


def head_of(base: str) -> nn.Module:
    """The head, inside what only leaves out outputs or columns."""
    head = run_of(base).model.head
    while isinstance(head, SeenOutputs | FeatureHead):
        head = head.inner
    return head


def own_loss(base: str) -> bool:
    """Whether a strategy learns the labels by a loss of its own, which others cannot change row by row."""
    return any(CrossEntropy in p.replaces and overrides(p, "losses") for p in run_of(base).strategy.parts)


def untrained(base: str) -> bool:
    return not run_of(base).parameters()


def in_a_row(base: str) -> bool:
    """Whether a network is linear layers in a row, before a linear head."""
    boxes = [m for m in run_of(base).model.backbone.modules() if list(m.children())]
    return isinstance(head_of(base), nn.Linear) and all(type(box) is nn.Sequential for box in boxes)


def of_outputs(modifier: str) -> bool:
    """Whether a modifier brings a loss of what the network says, and not of its weights alone."""
    return has(modifier, RowLoss) or (does(modifier, "losses") and does(modifier, "order", "end_experience"))


def refusal(base: str, modifier: str) -> str:
    """What is said of a pair that cannot be composed, by what the two are made of; "" if they can be."""
    if (base, modifier) in ODD:
        return ODD[base, modifier]
    if "language" in subject(base).needs and not all(p.language for p in run_of(modifier).strategy.parts):
        return "does not declare `language = True`"
    if does(base, "logits") and does(modifier, "logits"):
        return "may classify"
    if does(base, "order") and does(modifier, "order"):
        return "may order the data"
    if own_loss(base) and has(modifier, RowLoss):
        return "loss on the labels"
    if has(base, DarkReplay) and has(modifier, GrowingHead):
        return "still to come"
    if modifier == "merge" and not any(not name.startswith("head") for name in run_of(base).parameters()):
        return "group 'encoder'"
    if modifier == "redo":
        return "" if in_a_row(base) else "linear head"
    if not list(head_of(base).parameters()):  # classes are told by their names
        if has(modifier, Normalised):
            return "linear head"
        if modifier in ("freeze", "nap"):
            return {"freeze": "parameters of the group 'head'", "nap": "used without being called"}[modifier]
    if untrained(base):
        if of_outputs(modifier):
            return NOTHING
        return "no trainable parameters" if does(modifier, "step", "gradient") else ""
    taught = [part for part in run_of(base).strategy.parts if "teacher" in (*part.state, *vars(part))]
    return "asked about images" if taught and modifier == "ovor" else ""


def often(base: str, modifier: str) -> bool:
    """Whether a pair is tried at every test: a third of them, drawn by their names, and those that need a word."""
    return (base, modifier) in ODD or zlib.crc32(f"{base}+{modifier}".encode()) % 3 == 0


@pytest.mark.parametrize(
    ("base", "modifier"),
    [pytest.param(*pair, marks=() if often(*pair) else pytest.mark.slow) for pair in PAIRS],
)
def test_a_pair_trains_or_is_refused_with_the_reason(base: str, modifier: str) -> None:
    pair, reason = subject(f"{base}+{modifier}"), refusal(base, modifier)
    if reason:
        with pytest.raises(IncompatibleError, match=reason):
            pair.run(pair.benchmark(), epochs=1).fit()
    else:
        run = pair.run(pair.benchmark(), epochs=1)
        run.fit()
        assert (run.updates == 0) == untrained(base)


def test_modifiers_compose_with_one_another() -> None:
    run = tiny_run(make_strategy("derpp+view-batch+refresh+ema"), tiny_benchmark(), epochs=1)
    run.fit()
    assert run.updates


def test_a_penalty_beside_a_base_brings_no_second_loss_on_the_labels() -> None:
    def labels(name: str) -> int:
        return sum(isinstance(part, CrossEntropy) for part in make_strategy(name).parts)

    bases = [base for base in BASES if own_loss(base)]
    assert len(bases) > 5
    assert not [base for base in bases if labels(f"{base}+ewc") != labels(base)]
