"""L2P: which prompts an image gets, where they enter, and the loss that pulls keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clbench.strategies.l2p import LearnToPrompt, Pool, majority, pull_loss
from torch import Tensor
from torch.nn import functional as F

from clbench import make_strategy
from clbench.engine.engine import Engine
from clbench.parts import Prompted, Prompts, TimmBlocks
from clbench.parts.prompts import through_blocks
from clbench.testing import tiny_benchmark, tiny_run, tiny_vit

SMALL: dict[str, Any] = {"pool": 6, "length": 2, "top": 3}


def run_of(**params: Any) -> Engine:
    benchmark = tiny_benchmark(images=True)
    return tiny_run(make_strategy("l2p", **params), benchmark, model=tiny_vit(benchmark))


def pool_of(run: Engine) -> Pool:
    return next(p for p in run.strategy.parts if isinstance(p, LearnToPrompt)).prompter


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(3))
def test_pull_by_hand_and_within_its_range(seed: int) -> None:
    """−(1/B) Σ_b Σ_{m chosen} cos(q_b, k_m), in [−k, k]."""
    q, k = normal(5, 8, seed=seed), normal(7, 8, seed=seed + 1)
    cosine = F.cosine_similarity(q[:, None], k[None], dim=2)
    index = cosine.topk(4, dim=1).indices
    expected = -sum(cosine[b, m] for b in range(5) for m in index[b].tolist()) / 5
    value = pull_loss(cosine, index, "cosine")
    torch.testing.assert_close(value, expected)
    assert -4 <= value <= 4


def test_all_pairs_are_summed_or_averaged() -> None:
    """B = 3, M = 5, k = 2: indexing the second axis by (B, k) gives 3 × 3 × 2 terms."""
    cosine = normal(3, 5).tanh()
    index = torch.tensor([[0, 1], [2, 4], [1, 3]])
    terms = [1 - cosine[b, m] for b in range(3) for row in index.tolist() for m in row]
    assert len(terms) == 18
    torch.testing.assert_close(pull_loss(cosine, index, "pairs-sum"), torch.stack(terms).sum())
    torch.testing.assert_close(pull_loss(cosine, index, "pairs-mean"), torch.stack(terms).mean())


def test_the_loss_of_a_run_is_the_pull_of_its_queries() -> None:
    run = run_of(variant="pilot", **SMALL)
    x = run.normalise(run.benchmark.train[0].data.x()[:5])
    out = run.forward(x)
    backbone: Any = run.model.backbone
    query = backbone.inner(x)
    torch.testing.assert_close(out.features[:, 32:], query)
    part: Any = run.strategy.parts[0]
    keys = pool_of(run).keys[0]
    cosine = F.cosine_similarity(query[:, None], keys[None], dim=2)
    best = cosine.topk(3, dim=1).values
    unused: Any = None
    torch.testing.assert_close(part.losses(unused, out)["pull"], -0.1 * best.sum(1).mean())


@pytest.mark.parametrize(
    ("variant", "over_layers"),
    [("coda", sum), ("coda-deep", sum), ("ovor", lambda terms: sum(terms) / len(terms))],
)
@pytest.mark.parametrize("layers", [(1,), (0, 1)])
def test_the_pull_of_several_layers(variant: str, over_layers: Any, layers: tuple[int, ...]) -> None:
    """The code of CODA-Prompt adds up what each layer says; OVOR's divides by the number of layers."""
    run = run_of(variant=variant, layers=layers, pool=6, length=4, top=2)
    query, terms = normal(5, 32), []
    for keys in pool_of(run).keys:
        cosine = F.cosine_similarity(query[:, None], keys[None], dim=2)
        pairs = 1 - cosine[:, cosine.topk(2, dim=1).indices]  # (5, 5, 2)
        terms.append(pairs.mean() if variant == "ovor" else pairs.sum())
    assert len(terms) == len(layers)
    torch.testing.assert_close(pool_of(run).pull(query), over_layers(terms))


@pytest.mark.parametrize("variant", ["pilot", "released"])
def test_chosen_prompts_join_the_start_and_the_head_sees_the_mean_of_their_last_states(variant: str) -> None:
    """PILOT adds the class token's position embedding to them, as it does to the class token."""
    run = run_of(variant=variant, **SMALL)
    x = run.normalise(run.benchmark.train[0].data.x()[:4])
    inner: Any = next(m for m in run.model.modules() if isinstance(m, Prompted)).inner
    pool = pool_of(run)
    out = run.forward(x)
    for i in range(4):
        one = x[i : i + 1]
        best = F.cosine_similarity(inner(one), pool.keys[0]).topk(3).indices
        rows = torch.cat([pool.prompts[0, m] for m in best.tolist()]).unsqueeze(0)  # (1, 6, D)
        if variant == "pilot":
            rows = rows + inner.pos_embed[0, 0]
        states = inner.norm(inner.blocks(torch.cat([rows, TimmBlocks(inner).embed(one).x], dim=1)))
        feature = states[:, :6].mean(1)
        torch.testing.assert_close(out.features[i : i + 1, :32], feature, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(run.logits(out.features)[i : i + 1], run.logits(feature))


def test_as_a_prefix_every_layer_has_its_own_pool_and_halves() -> None:
    run = run_of(variant="coda", layers=(0, 1), pool=6, length=4, top=2)
    x = run.normalise(run.benchmark.train[0].data.x()[:4])
    inner: Any = next(m for m in run.model.modules() if isinstance(m, Prompted)).inner
    pool = pool_of(run)
    query, prefixes = inner(x), {}
    for layer in (0, 1):
        best = F.cosine_similarity(query[:, None], pool.keys[layer][None], dim=2).topk(2, dim=1).indices
        chosen = pool.prompts[layer][best]  # (4, 2, 4, D)
        prefixes[layer] = (chosen[:, :, :2].reshape(4, 4, -1), chosen[:, :, 2:].reshape(4, 4, -1))
    blocks = TimmBlocks(inner)
    states = through_blocks(blocks, blocks.embed(x), Prompts(prefixes=prefixes)).x
    feature = inner.norm(states)[:, 0]
    torch.testing.assert_close(run.forward(x).features[:, :32], feature, rtol=1e-4, atol=1e-5)


def test_majority_of_a_batch() -> None:
    index = torch.tensor([[0, 3], [3, 2], [3, 1], [2, 0]])
    assert majority(index, 5).tolist() == [[3, 0]] * 4  # 3 thrice; 0 and 2 twice, ties to the first


def test_each_image_chooses_for_itself_unless_the_batch_is_to_choose() -> None:
    for selection, alike in (("instance", False), ("batch", True)):
        pool = Pool(normal(1, 6, 8), normal(1, 6, 2, 8), make_settings(), selection)  # type: ignore[arg-type]
        chosen = pool.chosen(normal(20, 8, seed=4), pool.keys[0])
        assert (len({tuple(sorted(row)) for row in chosen.tolist()}) == 1) is alike


def make_settings() -> Any:
    part: Any = make_strategy("l2p", **SMALL).parts[0]
    return part.settings


def test_only_outputs_of_the_present_experience_compete_in_training() -> None:
    run = run_of(**SMALL)
    run.fit()
    for part in run.strategy.parts:
        part.begin_experience(run.benchmark.train[1])
    out = run.forward(run.normalise(run.benchmark.train[1].data.x()[:4]))
    logits = out.logits.detach().requires_grad_()
    y = torch.tensor([2, 3, 2, 3])
    batch: Any = type("B", (), {"y": y, "new": 4, "__len__": lambda self: 4})()
    from clbench.types import Output

    (loss,) = run.strategy.parts[2].losses(batch, Output(logits, out.features)).values()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[:, [0, 1, 4, 5]] == 0).all()
    torch.testing.assert_close(loss, F.cross_entropy(logits[:, 2:4], y - 2))


@pytest.mark.parametrize(
    ("params", "says"),
    [({"top": 11}, "top is 1 to pool, 10"), ({"variant": "coda", "length": 5}, "as many keys as values")],
)
def test_settings_that_make_no_sense_are_refused(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_strategy("l2p", **params)
