"""LingoCL: rows of names that stay as they are, and controls that are as well spread."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from clbench.strategies.lingo import FixedRows, orthogonal, simplex
from torch import nn
from torch.nn import functional as F

import clbench
from clbench import make_model, make_strategy
from clbench.errors import ConfigError, IncompatibleError
from clbench.models import Classifier
from clbench.models.encoders import TextClassifier
from clbench.testing import tiny_benchmark, tiny_run

NAMES = ["lost_card", "card_stolen", "exchange_rate", "top_up"]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def texts(order: Any = "natural", experiences: int = 2) -> tuple[Any, TextClassifier]:
    """A stream of four classes of texts, and a bag of words that reads them."""
    words = [f"{name.split('_')[0]} {i}" for i in range(6) for name in NAMES]
    labels = NAMES * 6
    how: dict[str, Any] = {"experiences": experiences, "class_order": order, "class_names": NAMES}
    stream = clbench.from_texts(words[:16], labels[:16], words[16:], labels[16:], **how)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make_model("bag-of-words", stream.input_shape, 4, width=12)
    assert isinstance(model, TextClassifier)
    return stream, model


def test_the_gradient_is_that_of_a_linear_head_of_these_rows() -> None:
    head = FixedRows((4, 5), 3.0, nn.Identity(), cosine=False)
    head.rows.copy_(F.normalize(torch.randn(4, 5, generator=rng()), dim=1))
    features, y = torch.randn((6, 5), generator=rng(1)).requires_grad_(), torch.tensor([0, 1, 2, 3, 0, 1])
    (found,) = torch.autograd.grad(F.cross_entropy(head(features), y, reduction="sum"), features)
    p = (3.0 * features @ head.rows.T).softmax(1)
    torch.testing.assert_close(found, (p - F.one_hot(y, 4)) @ (3.0 * head.rows))


@pytest.mark.parametrize(("n", "size"), [(3, 2), (4, 3), (4, 9), (77, 96)])
def test_rows_of_a_simplex_are_equally_far_from_each_other(n: int, size: int) -> None:
    rows = simplex(n, size, rng())
    expected = torch.full((n, n), -1 / (n - 1)).fill_diagonal_(1.0)
    torch.testing.assert_close(rows @ rows.T, expected, rtol=0, atol=1e-5)
    assert not torch.equal(rows, simplex(n, size, rng(1)))


def test_orthogonal_rows_are() -> None:
    rows = orthogonal(5, 8, rng())
    torch.testing.assert_close(rows @ rows.T, torch.eye(5), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", ["names", "random", "orthogonal", "etf"])
def test_rows_come_with_their_classes_and_then_stay(rows: str) -> None:
    stream, model = texts()
    run = tiny_run(make_strategy("lingo", rows=rows), stream, model=model, checkpoint_seconds=0.0)
    head, seen = run.model.head.inner, []
    run.fit(lambda: seen.append((run.place.experience, run.place.phase, head.rows.clone())))
    first = [rows for i, phase, rows in seen if i == 0 and phase == "within"]
    last = seen[-1][2]
    assert all(torch.equal(rows, first[0]) for rows in first)
    assert torch.equal(first[0][:2], last[:2])
    assert not first[0][2:].any()  # which have not come
    torch.testing.assert_close(last.norm(dim=1), torch.ones(4))
    assert not any(p is head.rows for group in run.optimizer.param_groups for p in group["params"])


def test_a_row_depends_on_its_name_alone() -> None:
    stream, model = texts()
    embedded = F.normalize(model.embed([f"a {name.replace('_', ' ')}" for name in NAMES]), dim=1)
    for order in ("natural", [3, 1, 0, 2]):
        stream, model = texts(order)
        run = tiny_run(make_strategy("lingo"), stream, model=model)
        run.fit()
        assert torch.equal(run.model.head.inner.rows, embedded)
    assert embedded[0] @ embedded[1] > embedded[0] @ embedded[3]  # they have a word in common


def test_a_map_begins_as_the_identity_or_where_widths_differ() -> None:
    stream, model = texts()
    before = tiny_run(make_strategy("lingo", linear=True), stream, model=model)
    assert torch.equal(before.model.head.inner.linear.weight, torch.eye(12))
    stream, model = texts()
    run = tiny_run(make_strategy("lingo", rows="etf", width=20), stream, model=model)
    assert run.model.head.inner.linear.weight.shape == (20, 12)


@pytest.mark.parametrize("host", ["er", "growing-head+er", "lwf", "pred-kd"])
def test_it_goes_beside_replay_and_behind_heads_that_grow(host: str) -> None:
    stream, model = texts()
    run = tiny_run(make_strategy(f"{host}+lingo"), stream, model=model)
    run.fit()
    assert run.finished


def frozen(model: Classifier) -> Classifier:
    model.backbone.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("strategy", "params", "message"),
    [
        ("wa+lingo", {}, r"linear head; here it is a SeenOutputs"),
        ("slca+lingo", {}, r"linear head; here it is a SeenOutputs"),
        ("lingo", {"prompt": "a"}, r"the prompt takes a name at \{\}, which 'a' does not hold"),
        (
            "lingo",
            {"rows": "orthogonal", "width": 3},
            r"rows=orthogonal of 4 classes take a width of 4; width=3",
        ),
    ],
)
def test_what_does_not_fit_is_refused(strategy: str, params: dict[str, Any], message: str) -> None:
    stream, model = texts()
    with pytest.raises((ConfigError, IncompatibleError), match=message):
        tiny_run(make_strategy(strategy, **params), stream, model=model)


def test_an_encoder_that_is_frozen_needs_a_map() -> None:
    stream, model = texts()
    with pytest.raises(IncompatibleError, match=r"this one is frozen.* Set linear=true"):
        tiny_run(make_strategy("lingo"), stream, model=frozen(model))
    tiny_run(make_strategy("lingo", linear=True), stream, model=frozen(model)).fit()


def test_names_are_needed_for_rows_of_names() -> None:
    with pytest.raises(IncompatibleError, match=r"tells classes by their names; tiny names 0 of 6"):
        tiny_run(make_strategy("lingo"), replace(tiny_benchmark(), class_names=()))
