"""Strategies on streams for language models: each trains, and on blocks of one token it is what it is on labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from clbench.strategies.ewc import fisher_information
from clbench.strategies.inflora import InterferenceFree
from clbench.strategies.mas import sensitivity
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Benchmark, make_strategy
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.models import Classifier
from clbench.models.decoders import Decoder, LanguageModel
from clbench.parts import mean_of_labels
from clbench.registry import strategies
from clbench.testing import difference, tiny_language, tiny_run
from clbench.types import IGNORED, Data, Pool, Setting, Stream

EXACT: dict[str, dict[str, Any]] = {
    "a-gem": {"memory": 8},
    "aioli": {"sweeps": 1, "steps": 1, "update": 6, "held": 4},
    "dmt": {"share": 0.25},
    "er": {"memory": 8},
    "er-projected": {"memory": 8},
    "er+ema": {},
    "er+lcia": {},
    "ewc": {},
    "feat-kd": {},
    "finetune": {},
    "finetune+lawa": {"lawa__period": 1},
    "finetune+merge": {},
    "finetune+sam": {},
    "finetune+shrink-perturb": {},
    "gem": {"memory": 8},
    "joint": {},
    "joint+restart": {},
    "l2": {},
    "lwf": {},
    "mas": {"strength": 1e-5},
    "mix-cpt": {},
    "mix-cpt+replay-fraction": {"replay-fraction__share": 0.25},
    "offline": {},
    "power-law-replay": {"memory": 8},
    "pred-kd": {"loss": "softmax"},
    "replay-fraction": {"share": 0.25},
    "si": {},
    "skill-it": {"update": 4, "check": 2, "held": 4},
}
"""What learns language as it learns labels, with parameters for a tiny stream."""
LANGUAGE_ONLY = (
    "lamol", "lora", "o-lora", "inflora", "sd-lora", "mora", "lift",
    "finetune+freeze", "finetune+growing-head", "finetune+subset",
)  # fmt: skip
UNTIED = ("linear-probe",)
"""What trains a head whose weights are not those of the embedding."""


def run_of(name: str, benchmark: Benchmark, **how: Any) -> Engine:
    given = {"freeze__train": "encoder"} if name == "finetune+freeze" else EXACT.get(name, {})
    return tiny_run(make_strategy(name, **given), benchmark, batch_size=8, epochs=1, **how)


def with_filling(benchmark: Benchmark) -> Benchmark:
    """The same stream with a last label in every other block that does not count."""

    def padded(stream: Stream) -> Stream:
        found = []
        for exp in stream:
            ((pool, rows, change),) = exp.data.parts
            y = pool.y.clone()
            y[::2, -1] = IGNORED
            found.append(replace(exp, data=Data.of(Pool(pool.x, y), rows, change)))
        return Stream(stream.name, tuple(found))

    return replace(benchmark, train=padded(benchmark.train), test=padded(benchmark.test))


@pytest.mark.parametrize("name", [*EXACT, *LANGUAGE_ONLY])
def test_learns_language(name: str) -> None:
    run = run_of(name, with_filling(tiny_language(length=4)))
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    run.fit()
    assert run.updates >= 4
    assert difference(before, dict(run.model.state_dict())) is not None
    assert torch.cat([p.flatten() for p in run.model.parameters()]).isfinite().all()


def test_what_says_that_it_learns_language_is_tested() -> None:
    """A part that inherits the word from another one shows up here."""
    says = {name for name in strategies.names() if all(part.language for part in make_strategy(name).parts)}
    tested = {part for name in (*EXACT, *LANGUAGE_ONLY, *UNTIED) for part in name.split("+")}
    assert says == tested - {"pred-kd"}


class FirstToken(nn.Module):
    """States of single tokens: (B, 1) → (B, 1, D), or (B, D)."""

    def __init__(self, tokens: int, alone: bool) -> None:
        super().__init__()
        self.embed, self.alone = nn.Embedding(tokens, 8), alone

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.embed(x)
        return states[:, 0] if self.alone else states


def trained(name: str, alone: bool) -> dict[str, Tensor]:
    """The weights after a stream of blocks of one token, as language or as labels."""
    benchmark = tiny_language(length=1)
    if alone:
        streams = (
            Stream(
                s.name,
                tuple(
                    replace(e, data=Data.of(Pool(e.data.x(), e.data.y()[:, 0]), torch.arange(len(e))))
                    for e in s
                ),
            )
            for s in (benchmark.train, benchmark.test)
        )
        train, test = streams
        setting = Setting("domain")
        benchmark = replace(
            benchmark, train=train, test=test, setting=setting, primary="average_accuracy", tokenizer=None
        )
    torch.manual_seed(3)
    backbone, head = FirstToken(11, alone), nn.Linear(8, 11)
    model = LanguageModel(backbone, 8, 11, head)
    if alone:
        model = Classifier(backbone, 8, 11)  # type: ignore[assignment]
        model.head = head
    run = run_of(name, benchmark, model=model)
    run.fit()
    return dict(run.model.state_dict())


@pytest.mark.parametrize("name", EXACT)
def test_blocks_of_one_token_are_labels(name: str) -> None:
    language, labels = trained(name, alone=False), trained(name, alone=True)
    assert language.keys() == labels.keys()
    for key, value in labels.items():
        torch.testing.assert_close(language[key], value, rtol=1e-5, atol=1e-7)


def test_importances_are_of_whole_blocks() -> None:
    """One gradient for a block: of its summed log-likelihood for EWC, of its squared logits for MAS."""
    benchmark = with_filling(tiny_language(length=4, blocks=6))
    run = tiny_run(make_strategy("ewc", fisher="empirical"), benchmark, batch_size=4)
    run.batch_size = 4
    exp, theta = run.train[0], dict(run.parameters())
    x, y = exp.data.take(torch.arange(6))
    fisher, weights = Counter[str](), Counter[str]()
    for x1, y1 in zip(x, y, strict=True):
        logits = run.model.head(run.model.features(x1[None]))[0][y1 != IGNORED]  # type: ignore[operator]
        summed = F.cross_entropy(logits, y1[y1 != IGNORED], reduction="sum")
        for total, value, size in (
            (fisher, summed, torch.square),
            (weights, logits.square().sum(), torch.abs),
        ):
            found = torch.autograd.grad(value, list(theta.values()), retain_graph=True)
            for name, g in zip(theta, found, strict=True):
                total[name] = total[name] + size(g) / 6  # type: ignore[assignment]
    for found, expected in (
        (fisher_information(run, exp, "empirical"), fisher),
        (sensitivity(run, exp), weights),
    ):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    for estimator in ("sampled", "predicted", "batch"):
        assert all(v.isfinite().all() for v in fisher_information(run, exp, estimator).values())  # type: ignore[arg-type]


def test_what_inputs_use_is_of_tokens_with_labels() -> None:
    """InfLoRA's second moments leave out what only fills a block up."""
    run = run_of("inflora", with_filling(tiny_language(length=4)))
    part = next(part for part in run.strategy.parts if isinstance(part, InterferenceFree))
    data, decoder = run.train[0].data, cast("Decoder", run.model.backbone.inner)
    tokens = decoder.blocks[0].norm1(decoder.embed(data.x()))[data.y() != IGNORED].double()  # type: ignore[operator]
    torch.testing.assert_close(part.moments(data)[0], tokens.T @ tokens / len(tokens))


def test_means_are_over_labels_that_count() -> None:
    values, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5, IGNORED], [0, 1]])
    assert mean_of_labels(values, y).item() == pytest.approx(8 / 3)
    assert mean_of_labels(values[0], y[:, 0]).item() == 1.5


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("pred-kd", {}, "BinaryCrossEntropy does not declare `language = True`"),
        ("derpp", {}, "DarkReplay does not declare"),
        ("ewc", {"fisher": "exact"}, "ewc.fisher=exact goes through the classes of one label"),
    ],
)
def test_what_is_made_for_single_labels_is_refused(name: str, params: dict[str, Any], said: str) -> None:
    with pytest.raises(IncompatibleError, match=said):
        tiny_run(make_strategy(name, **params), tiny_language())
