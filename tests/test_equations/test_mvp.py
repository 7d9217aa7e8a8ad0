"""MVP: selection by distance and mass, masks, the loss on keys, feature scaling and the focal loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clbench.strategies.mvp import choose, contrast, feature_scores, gradient_scores
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.parts import Prompts, TimmBlocks
from clbench.parts.prompts import through_blocks
from clbench.testing import subject, tiny_benchmark, tiny_run, tiny_vit
from clbench.types import MASKED, Batch

LAYERS: dict[str, Any] = {"general_layers": (0,), "expert_layers": (1,), "general": 2, "expert": 3, "pool": 4}


def run_of(**params: Any) -> Engine:
    benchmark = tiny_benchmark(images=True, boundaries=False)
    return tiny_run(make_strategy("mvp", **{**LAYERS, **params}), benchmark, model=tiny_vit(benchmark))


def part(run: Engine) -> Any:
    return run.strategy.parts[0]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch_of(run: Engine, n: int = 8) -> Batch:
    raw, y = run.benchmark.train[0].data.take(torch.arange(n))
    hidden, zero = torch.full_like(y, -1), torch.zeros_like(y)
    return Batch(run.normalise(raw), y, hidden, raw, zero, zero, n)


def test_selection_by_hand() -> None:
    """Distances (0.2, 0.3), counts (9, 0): masses (10, 1), products 2.0 and 0.3."""
    distance = torch.tensor([[0.2, 0.3]])
    assert choose(distance, torch.tensor([9.0, 0.0]), 1).tolist() == [[1]]
    assert choose(distance, torch.zeros(2), 1).tolist() == [[0]]


@pytest.mark.parametrize(
    ("contrast", "counts_matter"), [("paper", True), ("released", True), ("pull", False)]
)
def test_without_the_contrast_prompts_are_chosen_by_distance_alone(
    contrast: str, counts_matter: bool
) -> None:
    run = run_of(contrast=contrast)
    pool, x = part(run).prompter, batch_of(run).x
    query = run.forward(x).features[:, 32:64]
    distance = 1 - F.cosine_similarity(query[:, None], pool.keys[None], dim=2)
    pool.counts.zero_()
    pool.counts[distance[0].argmin()] = (
        99.0  # so often chosen that the nearest to the first query is out of question
    )
    expected = (distance * (pool.counts + 1) if counts_matter else distance).argmin(1)
    assert torch.equal(run.forward(x).features[:, 64].long(), expected)
    assert torch.equal(expected, distance.argmin(1)) is not counts_matter


def test_contrast_by_hand() -> None:
    """Two orthogonal keys, q = k_1, nothing chosen yet: A = 1.859141, B = 1, loss 0.430405."""
    keys, index = torch.eye(2), torch.tensor([[0]])
    for form in ("paper", "released"):
        value = contrast(keys[:1], keys, torch.zeros(2), index, form)  # type: ignore[arg-type]
        assert value.item() == pytest.approx(0.430405, abs=2e-6)


@pytest.mark.parametrize("seed", range(3))
def test_contrast_by_the_definition(seed: int) -> None:
    q, keys, counts = normal(5, 6, seed=seed), normal(4, 6, seed=seed + 9), torch.tensor([3.0, 0.0, 7.0, 1.0])
    index = torch.tensor([[2], [0], [0], [3], [1]])
    p = index.squeeze(1).tolist()

    def d(a: Tensor, b: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(a, b, dim=0)

    w = [counts[m] + 1 for m in p]
    rows = [[d(keys[m], keys[j]) for j in range(4)] for m in p]
    a = torch.stack([(rows[b][j] / w[b]).exp() for b in range(5) for j in range(4)]).mean()
    near = torch.stack([(d(q[b], keys[p[b]]) / w[b]).exp() for b in range(5)]).mean()
    torch.testing.assert_close(contrast(q, keys, counts, index, "paper"), -(a / (a + near) + 1e-6).log())
    slip_a = torch.stack(
        [(rows[b][j] / w[c]).exp() for b in range(5) for c in range(5) for j in range(4)]
    ).mean()
    slip = torch.stack([(d(q[b], keys[p[b]]) / w[c]).exp() for b in range(5) for c in range(5)]).mean()
    expected = -(slip_a / (slip_a + slip) + 1e-6).log()
    torch.testing.assert_close(contrast(q, keys, counts, index, "released"), expected)
    own = torch.stack([(d(keys[m], keys[m]) / v).exp() for m, v in zip(p, w, strict=True)]).mean()
    torch.testing.assert_close(contrast(q, keys, counts, index, "later"), -(own / a).log())
    pulled = torch.stack([d(q[b], keys[p[b]]) for b in range(5)]).mean()
    torch.testing.assert_close(contrast(q, keys, counts, index, "pull"), pulled)


def test_feature_scores_by_hand() -> None:
    """Aligned: 0.5; orthogonal: 1.5; cosine 0.6: 0.9, a multiplier of 1.1111."""
    own = torch.tensor([[1.0, 0.0]] * 3)
    feature = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.6, 0.8]])
    torch.testing.assert_close(feature_scores(feature, own, 0.5), torch.tensor([0.5, 1.5, 0.9]))


@pytest.mark.parametrize("seed", range(3))
def test_gradient_scores_are_those_of_one_backward_pass_for_each_image(seed: int) -> None:
    f, mask, y = normal(6, 5, seed=seed), normal(6, 4, seed=1).sigmoid(), torch.tensor([0, 1, 1, 3, 0, 1])
    head = nn.Linear(5, 4)
    logits = head(f) * mask
    each = F.cross_entropy(logits, y, reduction="none")
    (batch,) = torch.autograd.grad(each.mean(), head.weight, retain_graph=True)
    expected = []
    for i in range(6):
        (own,) = torch.autograd.grad(each[i], head.weight, retain_graph=True)
        expected.append(1 - F.cosine_similarity(own[y[i]], batch[y[i]], dim=0))
    found = gradient_scores(logits.detach(), f, mask, y)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_focal_by_hand() -> None:
    """CE 1.5, cosine 0.2: ½ · 1.5 + ½ · 0.8² · 1.5 = 1.23."""
    assert pytest.approx(1.23) == 0.5 * 1.5 + 0.5 * (1 - 0.2) ** 2 * 1.5


@pytest.mark.parametrize("focal", ["paper", "released", "none"])
@pytest.mark.parametrize("scaling", [True, False])
def test_fit_of_a_run(focal: str, scaling: bool) -> None:
    run = run_of(focal=focal, scaling=scaling, margin=0.3, alpha=0.4, gamma=1.5)
    batch = part(run).extend(batch_of(run))
    with torch.no_grad():  # masks and rows of the head that differ
        part(run).masked.masks += normal(*part(run).masked.masks.shape)
    out = run.forward(batch.x)
    fit = part(run).losses(batch, out)["fit"]
    masked = part(run).masked
    w, b = masked.inner.weight, masked.inner.bias
    f, index = out.features[:, :32], out.features[:, 64:].long().squeeze(1)
    mask, y = 2 * masked.masks[index].sigmoid(), batch.y
    hidden = torch.ones(6).index_fill(0, torch.tensor([0, 1]), 0.0).bool()

    def logits(features: Tensor) -> Tensor:
        return ((features @ w.T + b) * mask).masked_fill(hidden, -torch.inf)

    score = 1 - F.cosine_similarity(w[y], f, dim=1) + 0.3
    z = logits(f / score.detach()[:, None]) if scaling else logits(f)
    each = F.cross_entropy(z, y, reduction="none")
    plain = F.cross_entropy(logits(f.detach()), y, reduction="none")
    grads = torch.stack([torch.autograd.grad(plain[i], w, retain_graph=True)[0][y[i]] for i in range(8)])
    (mean,) = torch.autograd.grad(plain.mean(), w)
    ignored = (1 - F.cosine_similarity(grads, mean[y], dim=1)) ** 1.5
    factor = 0.6 + 0.4 * ignored.detach()
    expected = {
        "paper": (factor * each).mean(),
        "released": (factor * each.mean()).mean(),
        "none": each.mean(),
    }
    torch.testing.assert_close(fit, expected[focal], rtol=1e-4, atol=1e-5)
    # The scores carry no gradient: with constants in their place the gradients are the same.
    theta = [w, masked.masks, part(run).prompter.experts]
    found, wanted = (torch.autograd.grad(loss, theta, retain_graph=True) for loss in (fit, expected[focal]))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_masks_start_at_0_5379_and_leave_outputs_alone_at_0() -> None:
    run = run_of()
    out = run.forward(batch_of(run).x)
    masked = part(run).masked
    assert masked.mask(out.features)[0, 0].item() == pytest.approx(0.537883, abs=1e-6)
    plain = masked.inner(out.features[:, :32])
    torch.testing.assert_close(masked(out.features), 0.5378828 * plain)
    with torch.no_grad():
        masked.masks.zero_()
    torch.testing.assert_close(masked(out.features), plain)


def test_prompts_join_blocks_and_the_query_skips_the_last_block_and_the_norm() -> None:
    run = run_of()
    x = batch_of(run).x
    inner: Any = run.model.backbone.inner  # type: ignore[union-attr]
    p = part(run).prompter
    query = inner.blocks[0](TimmBlocks(inner).embed(x).x)[:, 0]
    index = (1 - F.cosine_similarity(query[:, None], p.keys[None], dim=2)).argmin(1)
    tokens = {0: p.general[0].expand(8, -1, -1), 1: p.experts[index, 0]}
    blocks = TimmBlocks(inner)
    expected = inner.norm(through_blocks(blocks, blocks.embed(x), Prompts(tokens=tokens)).x)[:, 0]
    features = run.forward(x).features
    torch.testing.assert_close(
        features, torch.cat([expected, query, index[:, None].float()], 1), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("top", [1, 2])
def test_prefixes_pass_the_projections_of_keys_and_values(top: int, qkv_bias: bool) -> None:
    """By an independent formula, image by image and head by head: softmax(q (W_k [x; p_k])ᵀ / √d) W_v [x; p_v]."""
    run = run_of(tuning="prefix", top=top, expert_layers=(0, 1))
    inner: Any = run.model.backbone.inner  # type: ignore[union-attr]
    if not qkv_bias:
        for block in inner.blocks:
            block.attn.qkv.bias = None
    p = part(run).prompter
    assert (p.general.shape, p.experts.shape) == ((1, 4, 32), (4, 2, 6, 32))
    x = batch_of(run, 3).x
    features = run.forward(x).features
    states, query = TimmBlocks(inner).embed(x).x, features[:, 32:64]
    index = (1 - F.cosine_similarity(query[:, None], p.keys[None], dim=2)).topk(top, 1, largest=False).indices
    assert torch.equal(features[:, 64:].long(), index)
    for i in range(3):
        tokens = states[i]
        for n, block in enumerate(inner.blocks):
            chosen = [p.experts[m, n] for m in index[i]]
            keys, values = [rows[:3] for rows in chosen], [rows[3:] for rows in chosen]
            if n == 0:
                keys, values = [p.general[0, :2], *keys], [p.general[0, 2:], *values]
            normed = block.norm1(tokens)
            w_q, w_k, w_v = block.attn.qkv.weight.split(32)
            b_q, b_k, b_v = block.attn.qkv.bias.split(32) if qkv_bias else (0, 0, 0)
            q = normed @ w_q.T + b_q
            k = torch.cat([normed, *keys]) @ w_k.T + b_k
            v = torch.cat([normed, *values]) @ w_v.T + b_v
            heads = [
                (q[:, at] @ k[:, at].T / 16**0.5).softmax(1) @ v[:, at] for at in (slice(16), slice(16, 32))
            ]
            tokens = tokens + block.attn.proj(torch.cat(heads, 1))
            tokens = tokens + block.mlp(block.norm2(tokens))
        torch.testing.assert_close(features[i, :32], inner.norm(tokens)[0], rtol=1e-4, atol=1e-5)


def test_prefixes_learn_and_leave_the_transformer_alone() -> None:
    run = run_of(tuning="prefix")
    inner: Any = run.model.backbone.inner  # type: ignore[union-attr]
    before = {key: value.clone() for key, value in inner.state_dict().items()}
    general, experts = (t.detach().clone() for t in (part(run).prompter.general, part(run).prompter.experts))
    run.fit()
    assert not torch.equal(general, part(run).prompter.general)
    assert not torch.equal(experts, part(run).prompter.experts)
    assert all(torch.equal(value, before[key]) for key, value in inner.state_dict().items())


def test_counts_are_of_training_only_and_one_for_each_image_of_an_update() -> None:
    run = run_of()
    run.fit()
    counts = part(run).prompter.counts
    assert counts.sum() == run.examples == 2 * 3 * 64
    before = counts.clone()
    with torch.no_grad(), run.evaluating():
        run.predict(batch_of(run).x, torch.full((8,), -1))
    assert torch.equal(counts, before)


def test_classes_that_no_batch_has_brought_are_out_of_the_question() -> None:
    run = run_of()
    x, hidden = batch_of(run).x, torch.full((8,), -1)
    part(run).extend(batch_of(run))
    with torch.no_grad(), run.evaluating():
        scores = run.predict(x, hidden)
    assert (scores[:, 2:] == MASKED).all()
    assert (scores[:, :2] != MASKED).all()


def test_it_learns_with_its_own_settings() -> None:
    checked = subject("mvp")
    run = checked.run(
        checked.benchmark(experiences=1, classes=4, boundaries=False),
        checked.make(mvp__alpha=0.5, mvp__margin=0.5, mvp__pool=4),
        batch_size=16,
        epochs=12,
        optim=OptimConfig(name="adam", lr=2e-2),
    )
    run.fit()
    curve = run.evaluator.curve
    assert curve.correct[-1] / curve.total[-1] > 0.9
