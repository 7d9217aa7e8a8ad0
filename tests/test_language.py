"""Language models: blocks of tokens whose every position has a label; their losses, curves and metrics."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import clbench
from clbench import make_strategy
from clbench.errors import ConfigError, IncompatibleError
from clbench.evaluation.testset import Examples, TestSet
from clbench.evaluation.ticker import tallied
from clbench.models import make_model
from clbench.reports.leaderboard.evidence import contradictions
from clbench.results import metrics
from clbench.results.curve import Curve
from clbench.runs.again import first_steps
from clbench.testing import difference, tiny_benchmark, tiny_decoder, tiny_language, tiny_model, tiny_run
from clbench.testing.tiny import Letters
from clbench.types import IGNORED, Benchmark, Data, Output, Pool, Stream

V, L = 11, 8

SETTINGS = {
    "model": "decoder",
    "model.width": 16,
    "model.layers": 1,
    "model.heads": 2,
    "iterations": 4,
    "batch_size": 4,
    "optim.name": "adamw",
    "optim.lr": 0.01,
}


# --- sums of losses ---


def gold(*shape: int) -> torch.Tensor:
    """The tensor whose element i, in row-major order from 0, is sin(1 + 0.7 i), in float64."""
    return torch.sin(1 + 0.7 * torch.arange(math.prod(shape), dtype=torch.float64)).view(shape)


def test_a_block_s_loss_is_the_sum_over_its_tokens() -> None:
    targets = torch.tensor([[0, 2, 5, 1, 3]])
    right, nll = tallied(2 * gold(1, 5, 6), targets)
    assert nll.item() == pytest.approx(6.400218928479, abs=1e-11)
    assert right.item() == (2 * gold(5, 6)).argmax(1).eq(targets[0]).sum()


def test_what_is_ignored_counts_nowhere() -> None:
    targets = torch.tensor([[0, 2, 5, 1, 3], [IGNORED] * 5])
    right, nll = tallied(2 * gold(2, 5, 6), targets)
    assert right[1] == nll[1] == 0
    logits, y = 2 * gold(1, 5, 6), torch.tensor([[0, 2, IGNORED, 1, 3]])
    kept = F.cross_entropy(logits[0, [0, 1, 3, 4]], y[0, [0, 1, 3, 4]])
    assert Output(logits, logits).cross_entropy(y) == pytest.approx(kept.item())


def curve(losses: list[list[float]], tokens: int = 5, characters: int = 17, size: int = 19) -> Curve:
    """A curve of two domains: losses before training and after each experience, one tick at each end."""
    made = Curve()
    about = {
        "correct": 1,
        "total": tokens,
        "characters": characters,
        "bytes": size,
        "evaluated": np.arange(2),
    }
    for i, row in enumerate(losses):
        at = {"step": 10 * i, "examples": 10 * i, "loss": np.array(row) * tokens}
        if i:
            seen = {
                name: value[:i] if isinstance(value, np.ndarray) else value
                for name, value in (at | about).items()
            }
            made.append(**seen, experience=i - 1, full=False)
        made.append(**at, **about, experience=i - 1, full=True)
    return made


def test_bits_are_of_the_text_and_not_of_its_tokens() -> None:
    nll = 6.400218928479
    one = curve([[9, 9], [nll / 5, nll / 5], [nll / 5, nll / 5]])
    found = metrics.compute(one, ["average_loss", "perplexity", "bits_per_character", "bits_per_byte"])
    assert found["average_loss"] == pytest.approx(1.280043785696, abs=1e-12)
    assert found["perplexity"] == pytest.approx(3.596797210390, abs=1e-11)
    assert found["bits_per_character"] == pytest.approx(0.543150829925, abs=1e-12)
    assert found["bits_per_byte"] == pytest.approx(0.485977058354, abs=1e-12)


def test_transfer_and_forgetting_in_nats() -> None:
    found = metrics.compute(curve([[4.0, 5.0], [1.0, 4.5], [1.75, 1.5]]))
    assert found["forgetting_nats"] == pytest.approx(0.75)
    assert found["backward_transfer_nats"] == pytest.approx(-0.75)
    assert found["forward_transfer_nats"] == pytest.approx(0.5)
    assert found["plasticity_nats"] == pytest.approx((3.0 + 3.0) / 2)
    assert found["average_loss"] == pytest.approx(1.625)


def ticking(losses: list[float]) -> Curve:
    """A run of two experiences of which the first ends at 1 nat; then the losses of the first domain, step by step."""
    made = Curve()
    about = {"correct": 0, "total": 10, "characters": 10, "bytes": 10, "examples": 0}
    made.append(step=5, experience=0, evaluated=0, loss=10.0, full=False, **about)
    made.append(step=5, experience=0, evaluated=0, loss=10.0, full=True, **about)
    for t, loss in enumerate(losses, 6):
        made.append(step=t, experience=1, evaluated=[0, 1], loss=[10 * loss, 10.0], full=False, **about)
    made.append(step=t, experience=1, evaluated=[0, 1], loss=[10 * losses[-1], 10.0], full=True, **about)
    return made


@pytest.mark.parametrize(
    ("losses", "gap", "steps", "recovered"),
    [
        ([1.2, 1.5, 1.1, 0.9, 1.3], 0.5, 4, 1),
        ([0.9, 0.8, 0.7], 0.0, 0, 1),
        ([0.9, 1.25, 1.5], 0.5, 3, 0),  # what comes before the peak is no recovery
    ],
)
def test_the_gap_is_the_largest_rise_above_the_boundary(
    losses: list[float], gap: float, steps: int, recovered: float
) -> None:
    found = metrics.compute(ticking(losses))
    assert found["gap_nats"] == pytest.approx(gap)
    assert (found["gap_recovery_steps"], found["recovered_share"]) == (steps, recovered)


def test_a_curve_of_anything_else_has_no_metrics_of_language() -> None:
    plain = Curve.from_matrix([[0.5, 0.1], [0.4, 0.6]])
    assert not any(metrics.METRICS[name].language for name in metrics.compute(plain))
    assert metrics.compute(plain, ["average_loss"]) == {"average_loss": None}


def test_a_curve_keeps_characters_and_bytes_in_its_file(tmp_path) -> None:
    made = curve([[4.0, 5.0], [1.0, 4.5], [1.75, 1.5]])
    made.save(tmp_path / "curve.npz")
    again = Curve.load(tmp_path / "curve.npz")
    assert again == made
    assert set(again.characters) == {17}
    with pytest.raises(ValueError, match="characters"):
        made.append(
            step=90,
            examples=90,
            experience=2,
            evaluated=0,
            correct=0,
            total=5,
            loss=1.0,
            full=True,
            characters=5,
            bytes=4,
        )


# --- test sets ---


def test_a_test_set_counts_tokens_and_what_they_stand_for() -> None:
    y = torch.tensor([[0, 6, V - 1, IGNORED], [1, 1, 1, 1], [7, 7, IGNORED, IGNORED]])
    task = torch.full((3,), -1)
    parts = [
        Examples(0, y[:2].clamp(min=0), y[:2], task[:2]),
        Examples(1, y[2:].clamp(min=0), y[2:], task[2:]),
    ]
    test = TestSet(parts, None, False, tokenizer=Letters(V))
    assert test.totals.tolist() == [7, 2]
    assert test.spans is not None
    assert test.spans.tolist() == [[6, 2], [7, 4]]
    assert [len(part.y) for part in test.parts()] == [2, 1]


# --- runs ---


def test_a_run_s_losses_are_those_of_its_model() -> None:
    run = tiny_run(make_strategy("finetune"), tiny_language(), batch_size=8, every=2)
    run.fit()
    found = run.evaluator.curve
    for j, exp in enumerate(run.benchmark.test):
        x, y = exp.data.x(), exp.data.y()
        with run.evaluating(), torch.no_grad():
            nll = F.cross_entropy(run.model(x).flatten(0, 1), y.flatten(), reduction="sum")
        last = found.full & (found.experience == 1) & (found.evaluated == j)
        assert found.loss[last][0] == pytest.approx(nll.item(), rel=1e-5)
        assert found.total[last][0] == y.numel()
    assert found.class_total.size == 0


def test_a_record_has_the_metrics_of_language(tmp_path) -> None:
    settings = {"every": 2, "evaluation.subset": 2, "memory": 8}
    record = clbench.run(tiny_language(), "er", **SETTINGS, **settings, out=tmp_path)
    found, curve = record.metrics, record.curve
    assert found["perplexity"] == pytest.approx(math.exp(found["average_loss"]))
    assert {name for name, m in metrics.METRICS.items() if m.language} <= found.keys()
    assert record.budget["memory_examples"] == 8  # blocks, each with all its labels
    assert set(curve.total[~curve.full]) == {2 * L}  # a subset is of blocks
    assert set(curve.total[curve.full]) == {6 * L}


def test_a_run_of_text_files_is_verified(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"{name} line of text\n" * 40)
    told = {"path": [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], "length": L}
    record = clbench.run("text-domains", "finetune", **told, **SETTINGS, out=tmp_path / "runs")
    assert not list(contradictions(record, record.curve))
    assert first_steps(record, 2).differing == 0


def test_a_run_goes_on_to_the_same_bits() -> None:
    whole, half = (
        tiny_run(make_strategy("er", memory=8), tiny_language(), batch_size=8, every=1) for _ in range(2)
    )
    whole.fit()
    half.until = 4
    with pytest.raises(KeyboardInterrupt):
        half.fit()
    again = tiny_run(make_strategy("er", memory=8), tiny_language(), batch_size=8, every=1)
    again.load_state_dict(half.state_dict())
    again.fit()
    assert again.evaluator.curve == whole.evaluator.curve
    assert not difference(again.model.state_dict(), whole.model.state_dict())


# --- refusals ---


def refused(
    match: str, strategy: str = "finetune", benchmark: str | Benchmark = "", **settings: object
) -> None:
    with pytest.raises(IncompatibleError, match=match):
        clbench.run(benchmark or tiny_language(), strategy, **{**SETTINGS, **settings})


def test_a_strategy_for_single_labels_is_refused() -> None:
    refused("does not declare `language = True`", "icarl")


def test_a_model_of_one_answer_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="model=decoder"):
        clbench.run(tiny_language(), "finetune", model="mlp", iterations=2)


def test_a_language_model_is_refused_elsewhere() -> None:
    refused("says what comes next", benchmark="dsi-numpy")


@pytest.mark.parametrize("level", ["fast", "racing"])
def test_losses_are_evaluated_exactly(level: str) -> None:
    refused("evaluated exactly", **{"evaluation.level": level})


# --- the decoder ---


def test_no_state_depends_on_a_later_token() -> None:
    model = make_model("decoder", (L,), V, width=16, layers=2, heads=2).eval()
    x = torch.arange(L)[None] % V
    other = x.clone()
    other[0, 5:] = 0
    assert torch.equal(model(x)[0, :5], model(other)[0, :5])


def test_positions_are_relative() -> None:
    """A head's score of two tokens hangs on their distance: the same pair later scores the same."""
    attn = make_model("decoder", (L,), V, width=8, layers=1, heads=1).backbone.blocks[0].attn
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    turned_q, turned_k = (attn._turned(v.expand(1, 1, L, 8))[0, 0] for v in (q, k))
    scores = turned_q @ turned_k.T
    for distance in (1, 3):
        diagonal = scores.diagonal(-distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-5)


def test_the_head_is_the_embedding() -> None:
    model = make_model("decoder", (L,), 100)
    assert model.head.weight is model.backbone.embed.weight
    assert sum(p.numel() for p in model.parameters()) == 804_096


def test_a_width_that_heads_cannot_share_is_told() -> None:
    with pytest.raises(ConfigError, match="heads=3"):
        make_model("decoder", (L,), V, width=18, heads=4)


def test_labels_are_part_of_the_fingerprint() -> None:
    one, other = tiny_language(), tiny_language()
    assert one.fingerprint == other.fingerprint
    pool, rows, _ = other.train[0].data.parts[0]
    y = pool.y.clone()
    y[0, 0] = IGNORED
    changed = replace(other.train[0], data=Data.of(Pool(pool.x, y), rows))
    assert replace(other, train=Stream("train", (changed, other.train[1]))).fingerprint != one.fingerprint


@pytest.mark.parametrize("strategy", ["finetune", "derpp"])
def test_portions_of_a_batch_give_the_gradient_of_the_whole(strategy: str) -> None:
    """Also where stored examples are passed by themselves."""
    found = []
    for size in (None, 3):
        benchmark = tiny_language() if strategy == "finetune" else tiny_benchmark()
        network = tiny_decoder(benchmark) if strategy == "finetune" else tiny_model(benchmark, norm=False)
        network.load_state_dict(
            {k: torch.full_like(v, 0.1).cumsum(0) for k, v in network.state_dict().items()}
        )
        run = tiny_run(make_strategy(strategy), benchmark, batch_size=8, micro_batch=size, model=network)
        run.fit()
        found.append(run.model.state_dict())
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], atol=1e-5), name


def test_batch_normalisation_is_not_passed_in_portions() -> None:
    with pytest.raises(IncompatibleError, match="micro_batch=3"):
        tiny_run(make_strategy("finetune"), tiny_benchmark(), micro_batch=3)
