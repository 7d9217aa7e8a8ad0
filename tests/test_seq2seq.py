"""The index that spells: what it computes, and that runs with it are runs like others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import clbench
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.evaluation.forward import EvaluationCopy, obstacle, weights_of
from clbench.models import make_model
from clbench.models.spelling.docids import END, semantic
from clbench.models.spelling.seq2seq import START, DocidHead, SpellingIndex, pack, unpack
from clbench.runs.building import make_benchmark, make_strategy
from clbench.testing import tiny_run
from clbench.testing.tools import everything, same
from clbench.types import MASKED

SMALL = {"vocabulary": 600, "width": 16, "layers": 2, "heads": 2}
STREAM: dict[str, Any] = {"documents": 40, "corpora": 2, "length": 12, "vocabulary": 600}


def index(documents: int = 37, length: int = 7, seed: int = 0, **params: Any) -> SpellingIndex:
    torch.manual_seed(seed)
    model = make_model("seq2seq", (length,), documents, **{**SMALL, **params})
    assert isinstance(model, SpellingIndex)
    for parameter in model.parameters():  # so that probabilities are far from uniform
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return model


def head_of(model: SpellingIndex) -> DocidHead:
    assert isinstance(model.head, DocidHead)
    return model.head


def texts(batch: int = 5, length: int = 7) -> Tensor:
    """Rows of different lengths, the last one empty."""
    x = torch.randint(1, 600, (batch, length), generator=torch.Generator().manual_seed(1))
    keep = torch.arange(length) < torch.tensor([length, 3, 1, 5, 0])[:batch].unsqueeze(1)
    return x * keep


def run_of(strategy: str, precision: Any = "fp32", docid: str = "naive", **given: Any) -> Engine:
    benchmark = make_benchmark("dsi-numpy", **STREAM)
    torch.manual_seed(3)
    params = {**SMALL, "dropout": 0.1, "layers": 1}
    model = make_model("seq2seq", benchmark.input_shape, benchmark.num_classes, docid=docid, **params)
    adam = OptimConfig(name="adam", lr=1e-3)
    return tiny_run(
        make_strategy(strategy), benchmark, model=model, optim=adam, precision=precision, epochs=1, **given
    )


# --- what it computes ---


def test_features_keep_states_and_what_is_there() -> None:
    states, present = torch.randn(2, 3, 4), torch.tensor([[True, True, False], [True, False, False]])
    back, there = unpack(pack(states, present), 4)
    assert torch.equal(there, present)
    assert torch.equal(back[present], states[present])
    assert not back[~present].any()


def test_a_text_does_not_depend_on_what_fills_it_up() -> None:
    model = index().eval()
    short, long = torch.tensor([[5, 9, 7]]), torch.tensor([[5, 9, 7, 0, 0, 0, 0]])
    torch.testing.assert_close(head_of(model)(model.features(short)), head_of(model)(model.features(long)))


@torch.no_grad()
def test_scores_are_products_over_symbols_by_hand() -> None:
    """log p(d|x) symbol after symbol, each from a pass of its own; nothing looks ahead."""
    model = index(documents=13)
    head, features = head_of(model), model.features(texts())
    states, present = unpack(features, 16)
    expected = torch.zeros(5, 13)
    for c in range(13):
        begun = [START]
        for symbol in [*map(int, str(c)), END]:
            x = head.decoder.embed(torch.tensor([begun])) + head.decoder.place[: len(begun)]  # type: ignore
            x = x.expand(5, -1, -1).unsqueeze(1)  # (B, 1, t, D)
            for block in head.decoder.blocks:  # type: ignore
                x = block.decode(x, states, present)
            last = head.decoder.out(head.decoder.norm(x))[:, 0, -1]  # type: ignore
            expected[:, c] += F.log_softmax(last, 1)[:, symbol]
            begun.append(symbol)
    torch.testing.assert_close(head(features), expected, rtol=1e-5, atol=1e-5)
    each = head.log_prob(features, torch.tensor([[3], [12], [0], [7], [10]])).squeeze(1)
    torch.testing.assert_close(each, expected[range(5), [3, 12, 0, 7, 10]], rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 4, 60])
def test_prediction_scores_what_the_search_finds(beam: int) -> None:
    model = index(beam=beam)
    head, features = head_of(model), model.features(texts())
    scores, exact = head.predict(features), head(features)
    found = scores > MASKED
    assert (found.sum(1) == min(beam, 37)).all()
    torch.testing.assert_close(scores[found], exact[found], rtol=1e-5, atol=1e-5)
    if beam >= 37:
        assert torch.equal(scores.argsort(descending=True), exact.argsort(descending=True))


@torch.no_grad()
def test_documents_not_seen_are_not_predicted() -> None:
    model = index()
    head, features = head_of(model), model.features(texts())
    head.seen[10:] = False
    assert (head.predict(features)[:, 10:] == MASKED).all()
    assert (head(features)[:, 10:] == MASKED).all()
    assert torch.equal(head.predict(features)[:, :10].argmax(1), head(features)[:, :10].argmax(1))


def test_the_copy_for_evaluation_predicts_the_same() -> None:
    run = run_of("finetune+growing-head")
    assert obstacle(run) is None
    copy = EvaluationCopy(run.model, None)
    x, task = texts(4, 12), torch.full((4,), -1)
    run.model.head.seen[:9] = True  # type: ignore[union-attr, operator]
    copy.load(weights_of(run.model))
    with run.evaluating(), torch.no_grad():
        assert torch.equal(copy.logits(x, task), run.predict(x, task))


# --- in a run ---


def test_the_loss_on_labels_is_that_of_the_identifier() -> None:
    run = run_of("finetune")
    run.model.eval()
    x, y = texts(5, 12), torch.tensor([0, 39, 17, 3, 8])
    out = run.forward(x)
    expected = -run.model.head(run.model.features(x))[range(5), y].mean()  # type: ignore[operator]
    torch.testing.assert_close(out.cross_entropy(y), expected)
    torch.testing.assert_close(out.logits[range(5), y].mean(), -expected)
    assert out.logits.requires_grad


def test_logits_are_of_the_weights_before_the_update() -> None:
    run = run_of("finetune")
    asked, late = run.forward(texts(4, 12)), run.forward(texts(4, 12))
    assert asked.logits is asked.logits
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.add_(0.1)
    assert asked.logits.shape == (4, 40)
    with pytest.raises(IncompatibleError, match="asked for after the update"):
        _ = late.logits


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns_its_documents(precision: str) -> None:
    run = run_of("finetune+growing-head", precision, docid="semantic")
    x, y = run.benchmark.train[0].data.take(torch.arange(20))
    losses = []
    run.model.train()
    run.model.head.seen[:20] = True  # type: ignore[union-attr, operator]
    optimizer = torch.optim.Adam(run.model.parameters(), 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = run.forward(x).cross_entropy(y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with run.evaluating(), torch.no_grad():
        right = (run.predict(x, torch.full_like(y, -1)).argmax(1) == y).float().mean().item()
    assert losses[-1] < 0.3 * losses[0]
    assert right >= 0.8


def test_semantic_identifiers_are_those_of_the_documents() -> None:
    run = run_of("finetune", docid="semantic")
    train = run.benchmark.train
    documents = torch.cat([exp.data.take(torch.arange(exp.documents or 0))[0] for exp in train])
    corpus = torch.cat([torch.full((exp.documents or 0,), exp.index) for exp in train])
    ids = semantic(documents, corpus, 600)
    symbols = run.model.head.symbols  # type: ignore[union-attr]
    spelled = ["".join(str(s) for s in row if 0 <= s < END) for row in symbols.tolist()]  # type: ignore[operator]
    assert spelled == ids


def test_a_run_continues_to_the_same_bits() -> None:
    whole = run_of("er+growing-head", docid="semantic", every=3)
    whole.fit()
    states: list[dict[str, Any]] = []
    cut = run_of("er+growing-head", docid="semantic", every=3, checkpoint_seconds=0.0)
    cut.fit(lambda: states.append(clbench.machine.checkpoint.clone(cut.state_dict())))
    again = run_of("er+growing-head", docid="semantic", every=3)
    again.load_state_dict(states[len(states) // 2])
    again.fit()
    same(everything(whole), everything(again), "it went on to other bits")


def carried_out(strategy: str, out: Path, **params: Any) -> clbench.Record:
    sizes = {f"model.{key}": value for key, value in (SMALL | {"width": 8, "layers": 1}).items()}
    stream = {f"stream.{key}": value for key, value in (STREAM | {"documents": 24}).items()}
    train = {"iterations": 2, "later_iterations": 2, "batch_size": 8, "evaluation.every": 1}
    return clbench.run("dsi-numpy", strategy, out=out, model="seq2seq", **stream, **sizes, **train, **params)


@pytest.mark.parametrize("strategy", ["joint", "l2", "lwf"])
def test_other_strategies_train_it(strategy: str, tmp_path: Path) -> None:
    assert carried_out(strategy, tmp_path).status == "done"


def test_stored_logits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="a strategy that stores logits"):
        carried_out("der", tmp_path)


@pytest.mark.parametrize("level", ["fast", "racing"])
def test_evaluation_has_its_levels(level: str, tmp_path: Path) -> None:
    assert carried_out("finetune", tmp_path, **{"evaluation.level": level}).status == "done"


def test_what_does_not_fit_is_refused() -> None:
    benchmark = make_benchmark("dsi-numpy", **STREAM)
    model = make_model("seq2seq", (12,), 40, **{**SMALL, "vocabulary": 50})
    with pytest.raises(IncompatibleError, match=r"model\.vocabulary="):
        tiny_run(make_strategy("finetune"), benchmark, model=model)
    digits = make_benchmark("split-digits")
    with pytest.raises(IncompatibleError, match=r"model\.docid=naive"):
        tiny_run(
            make_strategy("finetune"),
            digits,
            model=make_model("seq2seq", (64,), 10, vocabulary=20, docid="semantic"),
        )
