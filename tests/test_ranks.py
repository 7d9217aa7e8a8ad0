"""Ranks: hits and reciprocal ranks in the curve, unseen documents, looks at what is indexed; and the dual encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clbench import make_strategy
from clbench.config import EvaluationConfig
from clbench.engine.engine import Engine
from clbench.errors import ConfigError, IncompatibleError
from clbench.evaluation.ticker import ranked
from clbench.models import make_model
from clbench.results import metrics
from clbench.results.curve import Curve
from clbench.testing import difference, tiny_benchmark, tiny_run
from clbench.testing.tools import everything, learned
from clbench.types import MASKED

# --- one ranking ---


def by_sorting(logits: Tensor, right: Tensor, unseen: Tensor) -> tuple[list[float], list[float], list[float]]:
    """Whether first, whether among ten, 1 / rank: by a list sorted by score, of equal ones the wrong first."""
    first, hits, reciprocal = [], [], []
    for row, relevant in zip(logits.tolist(), right.tolist(), strict=True):
        order = sorted((c for c in range(len(row)) if not unseen[c]), key=lambda c: (-row[c], c in relevant))
        rank = next((i for i, c in enumerate(order, 1) if c in relevant), len(row) + 100)
        first.append(float(rank == 1))
        hits.append(float(rank <= 10))
        reciprocal.append(1 / rank if rank <= 10 else 0.0)
    return first, hits, reciprocal


@pytest.mark.parametrize("seed", range(4))
def test_ranks_against_sorting(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((50, 40), generator=generator)
    if seed % 2:
        logits = logits.round()  # many equal ones
    unseen = torch.rand(40, generator=generator) < 0.3
    right = torch.randint(40, (50, 3), generator=generator)
    right[:, 1:][torch.rand((50, 2), generator=generator) < 0.5] = -1
    found = ranked(logits, right, ~unseen)
    first, hits, reciprocal = by_sorting(logits, right, unseen)
    assert found[0].tolist() == first
    assert found[2].tolist() == hits
    assert found[3].tolist() == pytest.approx(reciprocal)
    seen = logits.double().masked_fill(unseen, -torch.inf).log_softmax(1)
    possible = ~unseen[right[:, 0]]
    expected = -seen.gather(1, right[:, :1]).squeeze(1)[possible]
    torch.testing.assert_close(found[1][possible], expected, rtol=1e-5, atol=1e-5)


def test_an_index_that_says_nothing_hits_nothing() -> None:
    """All scores equal, and no document has come: whichever is asked for."""
    logits = torch.zeros(30, 30)
    for there in (True, False):
        found = ranked(logits, torch.arange(30)[:, None], torch.full((30,), there))
        assert not found[[0, 2, 3]].any()


@pytest.mark.parametrize(
    ("scores", "right", "rank"),
    [
        ([2.0, 2.0, 1.0], [0], 2),
        ([2.0, 2.0, 1.0], [1], 2),
        ([1.0, 2.0, 1.0, 1.0], [2], 4),
        ([2.0, 2.0, 1.0], [0, 1], 1),
        ([2.0, 2.0, 2.0], [0, 2], 2),
        ([2.0, 2.0, 1.0], [2, 1, 1, -1], 2),
        ([MASKED, 1.0, MASKED], [0], None),
        ([torch.inf, torch.inf, 0.0], [1], 2),
    ],
    ids=str,
)
def test_a_tie_counts_against_the_right_document(
    scores: list[float], right: list[int], rank: int | None
) -> None:
    found = ranked(torch.tensor([scores]), torch.tensor([right]), None)
    assert found[[0, 2, 3], 0].tolist() == [rank == 1, rank is not None, 1 / rank if rank else 0]


def test_relabelling_documents_moves_no_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(4, (60, 25), generator=generator).float()
    logits[torch.rand(60, 25, generator=generator) < 0.4] = MASKED
    right = torch.randint(25, (60, 2), generator=generator)
    right[::2, 1] = -1
    exposed = torch.rand(25, generator=generator) < 0.8
    plain = ranked(logits, right, exposed)[[0, 2, 3]]
    for _ in range(5):
        new = torch.randperm(25, generator=generator)  # the number of what was c
        old = new.argsort()
        other = torch.where(right < 0, right, new[right.clamp(min=0)])
        assert torch.equal(ranked(logits[:, old], other, exposed[old])[[0, 2, 3]], plain)


def test_with_ten_documents_all_are_hits() -> None:
    logits = torch.randn((20, 10), generator=torch.Generator().manual_seed(0))
    found = ranked(logits, torch.arange(20)[:, None] % 10, torch.ones(10, dtype=torch.bool))
    assert bool((found[2] == 1).all())
    assert bool((found[2] >= found[0]).all())


def masked_scores(dtype: torch.dtype = torch.float32) -> Tensor:
    """(1, 20) of which a search has found 7, 8 and 9."""
    scores = torch.full((1, 20), MASKED, dtype=dtype)
    scores[0, 7:10] = torch.tensor([-1.0, -2.0, -3.0])
    return scores


@pytest.mark.parametrize("document", [0, 4, 12])
@pytest.mark.parametrize("mask", [MASKED, -torch.inf, MASKED - 3.0, float(torch.tensor(MASKED).bfloat16())])
def test_what_the_search_has_not_found_has_no_rank(document: int, mask: float) -> None:
    scores = masked_scores()
    scores[scores == MASKED] = mask
    found = ranked(scores, torch.tensor([[document]]), None)
    assert found[[0, 2, 3], 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_what_the_search_has_found_is_ranked_among_what_it_has_found(dtype: torch.dtype) -> None:
    scores = masked_scores(dtype)
    for right, reciprocal in (([8], 1 / 2), ([9, 0], 1 / 3), ([0, 12, 7], 1.0), ([13, -1], 0.0)):
        found = ranked(scores, torch.tensor([right]), torch.arange(20) != 15)
        assert found[[0, 2, 3], 0].tolist() == [reciprocal == 1, reciprocal > 0, reciprocal]


def test_a_score_just_above_the_mask_is_found_and_one_below_stands_behind_nobody() -> None:
    scores = masked_scores()
    scores[0, 7:10] = torch.tensor([MASKED + 2**-10, 2 * MASKED, -1.0])
    assert ranked(scores, torch.tensor([[7]]), None)[[0, 2, 3], 0].tolist() == [0, 1, 0.5]
    assert ranked(scores, torch.tensor([[8]]), None)[[0, 2, 3], 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("beam", [1, 3, 10])
def test_hits_of_a_narrow_search_are_among_what_it_finds(beam: int) -> None:
    """Untrained, by the search itself: the rank of the right document among those that it names."""
    benchmark = tiny_benchmark(documents=True, classes=16, experiences=2)
    torch.manual_seed(0)
    model = make_model("seq2seq", benchmark.input_shape, 16, vocabulary=1000, beam=beam, width=8, heads=2)
    exp = benchmark.test[0]
    x, y = exp.data.x(), exp.data.y()
    with torch.no_grad():
        features = model.eval().features(x)
        scores = model.head.predict(features)  # type: ignore[operator]
        named, _ = model.head.best(features)  # type: ignore[operator]
    places = [
        row.index(d) + 1 if d in row else None for row, d in zip(named.tolist(), y.tolist(), strict=True)
    ]
    found = ranked(scores, y[:, None], None)
    assert found[2].tolist() == [float(place is not None) for place in places]
    assert found[3].tolist() == pytest.approx([1 / place if place else 0 for place in places])


# --- runs ---


def run_of(strategy: str = "finetune", *, benchmark: Any = None, **evaluation: Any) -> Engine:
    benchmark = benchmark or tiny_benchmark(documents=True, classes=6)
    run = tiny_run(make_strategy(strategy), benchmark, epochs=2, batch_size=16)
    config = run.config.model_copy(
        update={"evaluation": EvaluationConfig(**{"every": 2, "indexed": 4, **evaluation})}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        from clbench.testing import tiny_model

        return Engine(benchmark, make_strategy(strategy), tiny_model(benchmark), config, run.execution)


def test_columns_are_those_of_the_model() -> None:
    """The last full evaluation again, by hand; before it, documents that had not come were no answers."""
    run = run_of()
    run.fit()
    curve = run.evaluator.curve
    last = np.flatnonzero(curve.full)[-3:]
    for row, exp in zip(last, run.benchmark.test, strict=True):
        with torch.no_grad(), run.evaluating():
            logits = run.predict(exp.data.x(), torch.full((len(exp),), -1))
        first, hits, reciprocal = by_sorting(logits, exp.data.y()[:, None], torch.zeros(18, dtype=torch.bool))
        assert curve.correct[row] == sum(first)
        assert curve.hits_at_10[row] == sum(hits)
        assert curve.reciprocal_at_10[row] == pytest.approx(sum(reciprocal))
    early = curve.full & (curve.evaluated > curve.experience)
    assert early.any()
    assert not curve.correct[early].any()
    assert not curve.hits_at_10[early].any()
    one = curve.full & (curve.experience == 0) & (curve.evaluated == 0)
    assert (curve.hits_at_10[one] == curve.total[one]).all()  # six documents


def test_looks_are_those_of_the_documents() -> None:
    run = run_of()
    run.fit()
    curve = run.evaluator.curve
    assert curve.indexed_step.tolist() == list(range(4, run.step + 1, 4))
    indexed = torch.zeros(18, dtype=torch.bool)
    for exp in run.benchmark.train:
        x, y = exp.data.take(torch.arange(exp.documents or 0))
        with torch.no_grad(), run.evaluating():
            right = run.predict(x, torch.full_like(y, -1)).argmax(1) == y
        indexed[y] = right
    assert curve.indexed_step[-1] == run.step
    assert curve.indexed[-1, :18].tolist() == indexed.tolist()
    assert not curve.indexed[:, 18:].any()
    assert not curve.indexed[curve.indexed_step <= 8, 6:].any()  # not before they have come


def test_looking_changes_no_bit_of_the_run() -> None:
    states = []
    for evaluation in ({"every": 0, "indexed": 0}, {"every": 1, "indexed": 1}):
        run = run_of("er", **evaluation)
        run.fit()
        state = everything(run)
        state.pop("evaluator")
        states.append(state)
    assert difference(*states) is None


def test_a_run_goes_on_to_the_same_bits() -> None:
    whole = run_of()
    saved: list[Any] = []
    whole.fit()
    first = run_of()
    first.until = 9
    with pytest.raises(KeyboardInterrupt):
        first.fit(lambda: saved.append(everything(first)))
    fresh = run_of()
    state = first.state_dict()
    fresh.load_state_dict(state)
    fresh.fit()
    assert difference(learned(whole), learned(fresh)) is None
    assert len(fresh.evaluator.curve.indexed_step)


@pytest.mark.parametrize("level", ["fast", "racing", "racing+fast"])
def test_other_levels(level: str) -> None:
    """Full evaluations are exact at any level; ticks of a race have no ranks."""
    exact, other = run_of(), run_of(level=level, prefix=4)
    for run in (exact, other):
        run.fit()
    a, b = exact.evaluator.curve, other.evaluator.curve
    for name in ("correct", "hits_at_10", "reciprocal_at_10"):
        assert getattr(a, name)[a.full].tolist() == getattr(b, name)[b.full].tolist()
    assert ((b.hits_at_10[~b.full] < 0).all()) == level.startswith("racing")
    assert metrics.compute(a)["hits_at_10"] == metrics.compute(b)["hits_at_10"]


def test_without_documents_nothing_is_looked_at() -> None:
    with pytest.raises(
        IncompatibleError, match=r"evaluation.indexed looks at documents, of which tiny has none"
    ):
        run_of(benchmark=tiny_benchmark())
    run = tiny_run(make_strategy("finetune"), tiny_benchmark(), every=1)
    run.fit()
    curve = run.evaluator.curve
    assert not curve.ranked
    assert {"hits_at_10", "indexed"}.isdisjoint(curve.columns())
    assert {"hits_at_1", "hits_at_10"}.isdisjoint(metrics.compute(curve))


# --- the curve ---


def curve_of(indexed: list[list[int]]) -> Curve:
    """A finished run of one corpus, with looks at N documents."""
    curve = Curve.from_matrix([[0.5]])
    n = len(indexed[0])
    curve.append_classes(np.zeros(n, int), np.ones(n, int))
    for step, row in enumerate(indexed, 1):
        curve.append_indexed(step, np.array(row, bool))
    return curve


def test_forgetting_events_by_hand() -> None:
    """Correct, wrong, correct, wrong are two; never correct is none; forgotten is who has one."""
    looks = [[1, 0, 1, 0], [0, 0, 1, 1], [1, 0, 1, 1], [0, 0, 1, 1]]
    curve = curve_of(looks)
    assert metrics.forgetting_events(curve) == 2
    assert metrics.documents_forgotten(curve) == 0.25
    assert metrics.forgetting_events(Curve.from_matrix([[0.5]])) is None


def test_metrics_by_hand() -> None:
    nan = np.nan
    curve = Curve.from_matrix([[0.7, nan, nan], [0.4, 0.8, nan], [0.2, 0.5, 0.9]], totals=10)
    assert metrics.hits_at_1(curve) == pytest.approx(0.53333333)
    assert metrics.index_forgetting(curve) == pytest.approx(0.40)
    assert metrics.index_learning(curve) == pytest.approx(0.85)
    assert metrics.hits_at_10(curve) is None
    assert metrics.index_forgetting(Curve.from_matrix([[0.7]], totals=10)) is None


def test_metrics_of_ranks_by_hand() -> None:
    """P of Hits@10 is ((.7, 0), (.4, .8)); the first corpus is at its best before; MRR is of the last row."""
    curve = Curve()
    for experience, (hits, sums) in enumerate([((7, 0), (3.5, 0.0)), ((4, 8), (2.0, 6.0))]):
        curve.append(
            step=experience + 1, examples=1, experience=experience, evaluated=[0, 1], correct=[1, 0], total=10,
            loss=0.0, full=True, hits_at_10=hits, reciprocal_at_10=sums,
        )  # fmt: skip
    assert metrics.hits_at_10(curve) == pytest.approx(0.6)
    assert metrics.mrr_at_10(curve) == pytest.approx(0.4)
    assert metrics.index_forgetting_at_10(curve) == pytest.approx(0.3)
    assert metrics.index_learning_at_10(curve) == pytest.approx(0.8)


def test_a_curve_comes_back_from_its_file(tmp_path: Any) -> None:
    run = run_of()
    run.fit()
    curve = run.evaluator.curve
    curve.save(tmp_path / "curve.npz")
    again = Curve.load(tmp_path / "curve.npz")
    assert again == curve
    assert metrics.compute(again) == metrics.compute(curve)
    assert curve.upto(1).indexed_step.tolist() == [4, 8]


def test_a_curve_that_is_cut_keeps_the_looks_before() -> None:
    curve = Curve()
    for step in range(1, 5):
        curve.append(
            step=step, examples=step, experience=0, evaluated=0, correct=1, total=2, loss=0.0, full=False,
            hits_at_10=2, reciprocal_at_10=1.5,
        )  # fmt: skip
        curve.append_indexed(step, [True, step % 2 == 0])
    cut = curve.before(2)
    assert cut.indexed[:, :2].tolist() == [[True, False], [True, True]]
    assert cut.hits_at_10.tolist() == [2, 2]


def test_counts_that_no_run_can_have(tmp_path: Any) -> None:
    row: dict[str, Any] = {
        "step": 0, "examples": 0, "experience": 0, "evaluated": 0, "correct": 3, "total": 5, "loss": 0.0, "full": True
    }  # fmt: skip
    for hits, reciprocal in ((2, 2.0), (6, 2.0), (4, np.nan)):
        with pytest.raises(ValueError, match="Ranks must satisfy"):
            Curve().append(**row, hits_at_10=hits, reciprocal_at_10=reciprocal)
    curve = Curve()
    curve.append_indexed(4, [True, False])
    with pytest.raises(ValueError, match="cannot follow"):
        curve.append_indexed(4, [True, False])


# --- the model ---


def test_the_dual_encoder_by_hand() -> None:
    torch.manual_seed(0)
    model = make_model("dual-encoder", (5,), 7, vocabulary=20, width=4, hidden=6, blocks=2)
    x = torch.tensor([[3, 9, 4, 0, 0], [0, 0, 0, 0, 0]])
    embedding = model.backbone[0].embedding.weight
    expected = (embedding[3] + embedding[9] + embedding[4]) / 3
    for block in list(model.backbone)[1:]:
        expected = expected + block.down(torch.relu(block.up(expected)))
    features = model.features(x)
    torch.testing.assert_close(features[0], expected)
    torch.testing.assert_close(model(x)[0], model.head.weight @ expected)
    assert model.head.bias is None
    assert bool(features.isfinite().all())


def test_a_dual_encoder_that_cannot_be_built() -> None:
    with pytest.raises(ConfigError, match="needs to know how many tokens"):
        make_model("dual-encoder", (5,), 7)
    with pytest.raises(ConfigError, match="takes texts, rows of tokens"):
        make_model("dual-encoder", (3, 8, 8), 7, vocabulary=20)


# --- updates against retraining ---


def ticks_of(averages: list[list[float]], per: int) -> Curve:
    """Ticks every `per` updates whose Hits@10 over ten queries of each corpus so far is as given, and full rows."""
    curve = Curve()
    step = 0
    for k, values in enumerate(averages):
        for value in values:
            step += per
            row: dict[str, Any] = {
                "step": step, "examples": step, "experience": k, "evaluated": np.arange(k + 1), "correct": 0,
                "total": 10, "loss": 0.0, "hits_at_10": round(10 * value), "reciprocal_at_10": 0.0,
            }  # fmt: skip
            curve.append(**row, full=False)
        curve.append(**row, full=True)
    return curve


def test_updates_against_retraining_by_hand() -> None:
    """.6 after 2·10 and .5 after 2·10 updates; retraining has them after 3·10 and never in 4·10: 70 / 40 at least."""
    update = ticks_of([[0.9], [0.4, 0.6], [0.5, 0.5]], per=10)
    retrain = ticks_of([[0.9], [0.2, 0.5, 0.6, 0.7], [0.1, 0.2, 0.3, 0.4]], per=10)
    steps, hits = metrics.average_hits_at_10(retrain, 1)
    assert steps.tolist() == [10, 20, 30, 40]
    assert hits.tolist() == pytest.approx([0.2, 0.5, 0.6, 0.7])
    assert metrics.updates_to_reach(retrain, 1, 0.6) == 30
    assert metrics.updates_to_reach(retrain, 2, 0.5) is None
    assert metrics.updates_saved(update, retrain) == (70 / 40, 1)
    with pytest.raises(ValueError, match="no evaluations with ranks"):
        metrics.average_hits_at_10(Curve.from_matrix([[0.5]]), 0)
