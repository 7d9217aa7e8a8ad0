"""Every strategy with every modifier, and pairs of modifiers: it runs, or it is refused with the reason."""

from __future__ import annotations

import itertools

import pytest

from clbench import make_strategy
from clbench.errors import IncompatibleError
from clbench.parts import CrossEntropy
from clbench.registry import strategies
from clbench.testing import subject, tiny_benchmark, tiny_run

MODIFIERS = [name for name in strategies.names() if strategies.entry(name).modifier]
BASES = [name for name in strategies.names() if name not in MODIFIERS]
PAIRS = [*itertools.product(BASES, MODIFIERS)]
ROWS = ("balanced-loss", "balanced-softmax", "ldam-drw", "cmo", "imbsam")
"""Modifiers of the loss on labels, row by row."""
OWN_LOSS = (
    *("er-ace", "gdumb", "hpcr", "icarl", "pcr", "pred-kd", "scr"),
    *("base-only", "base-ncm", "decoupled-cosine"),
    *("l2p", "dualprompt", "coda-prompt", "oneprompt", "mvp"),
)
"""Strategies that learn labels by a loss of their own, which those cannot change."""
NAMES = ("align", "cpe-clip", "zero-shot")
"""Strategies that tell classes by their names, without a linear head."""
REFUSED = {
    **{(base, "ema"): "may classify" for base in ("icarl", "ncm", "pcr", "hpcr", "scr")},
    **{(base, "growing-head"): "classes that are still to come" for base in ("der", "derpp")},
    **dict.fromkeys([("ncm", "refresh"), ("ncm", "sam")], "no trainable parameters"),
    **{(base, "redo"): "linear head" for base in ("pcr", "hpcr", "ncm", "linear-probe")},
    **{(base, "ovor"): "asked about images" for base in ("lwf", "pred-kd", "feat-kd", "icarl")},
    **{(base, "redo"): "linear head" for base in ("l2p", "dualprompt", "coda-prompt", "oneprompt", "mvp")},
    ("mvp", "ovor"): "asks for more of an image",
    ("ncm", "ovor"): "depends on nothing that is trained",
    **dict.fromkeys([("scr", "freeze"), ("ncm", "view-batch")], "depends on nothing that is trained"),
    **{(base, modifier): "loss on the labels" for base in OWN_LOSS for modifier in ROWS},
    ("base-ncm", "ema"): "may classify",
    **{
        (base, "redo"): "linear head"
        for base in ("continued-indexing", "document-replay", "generative-memory", "retrain")
    },
    **dict.fromkeys(
        [("base-only", "redo"), ("base-ncm", "redo"), ("decoupled-cosine", "redo")], "linear head"
    ),
    **{
        (base, m): "still to come"
        for base in ("der", "derpp")
        for m in ("balanced-loss", "balanced-softmax", "ldam-drw")
    },
    **{("ncm", modifier): "depends on nothing that is trained" for modifier in ROWS},
    ("gdumb", "cmo"): "learns from none of them",
    **{(base, "freeze"): "no trainable parameters of the group 'head'" for base in NAMES},
    **{(base, "nap"): "used without being called" for base in NAMES},
    **{(base, modifier): "linear head" for base in NAMES for modifier in ("redo", "ldam-drw")},
    **{
        ("zero-shot", modifier): "depends on nothing that is trained"
        for modifier in ("balanced-loss", "balanced-softmax", "cmo", "imbsam", "view-batch")
    },
    **{("zero-shot", modifier): "no trainable parameters" for modifier in ("refresh", "sam")},
    ("zero-shot", "ema"): "may classify",
    **dict.fromkeys(
        [("align", "freeze-after-first"), ("align", "ovor"), ("zero-shot", "ovor")],
        "depends on nothing that is trained",
    ),
    ("gdumb", "view-batch"): "view-batch arranges the stream's batches, and gdumb learns from none of them",
}
"""Pairs that cannot be composed, with what the message says."""
UNTRAINED = ("ncm", "zero-shot")


@pytest.mark.parametrize(("base", "modifier"), [p for p in PAIRS if p not in REFUSED])
def test_a_pair_trains(base: str, modifier: str) -> None:
    pair = subject(f"{base}+{modifier}")
    run = pair.run(pair.benchmark(), epochs=1)
    run.fit()
    assert (run.updates == 0) == (base in UNTRAINED)


@pytest.mark.parametrize(("base", "modifier"), REFUSED)
def test_a_pair_that_cannot_be_composed_is_refused_with_the_reason(base: str, modifier: str) -> None:
    pair = subject(f"{base}+{modifier}")
    with pytest.raises(IncompatibleError, match=REFUSED[base, modifier]):
        pair.run(pair.benchmark(), epochs=1).fit()


def test_modifiers_compose_with_one_another() -> None:
    run = tiny_run(make_strategy("derpp+view-batch+refresh+ema"), tiny_benchmark(), epochs=1)
    run.fit()
    assert run.updates


@pytest.mark.parametrize("base", ["er-ace", "icarl", "pcr", "hpcr", "scr", "gdumb", "pred-kd"])
def test_a_penalty_beside_a_base_brings_no_second_loss_on_the_labels(base: str) -> None:
    parts = make_strategy(f"{base}+ewc").parts
    alone = make_strategy(base).parts
    assert sum(isinstance(p, CrossEntropy) for p in parts) == sum(isinstance(p, CrossEntropy) for p in alone)
