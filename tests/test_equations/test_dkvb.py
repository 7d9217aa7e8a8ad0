"""DKVB: values of the nearest keys, gradients to those alone, and keys that follow features without labels."""

from __future__ import annotations

import pytest
import torch
from clbench.strategies.dkvb import Bottleneck, Codes, smoothed
from torch.nn import functional as F

from clbench import make_strategy
from clbench.errors import IncompatibleError
from clbench.parts import features_of
from clbench.testing import tiny_benchmark, tiny_run
from clbench.types import MASKED

SMALL = {"codebooks": 8, "pairs": 16, "width": 3, "updates": 20}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_only_values_that_are_chosen_have_a_gradient() -> None:
    """Two examples choose the pairs (0, 2) and (0, 1) of two codebooks; labels 0 and 1."""
    keys = torch.tensor([[[0.0], [9], [8], [7]], [[50.0], [2], [1], [60]]])
    head = Bottleneck(torch.ones(2, 1, 1), keys, 3)
    features = torch.tensor([[0.9], [2.1]])
    assert head.codes(features).T.tolist() == [[0, 2], [0, 1]]
    F.cross_entropy(head(features), torch.tensor([0, 1])).backward()
    expected = torch.zeros(2, 4, 3)
    expected[0, 0] = torch.tensor([-1 / 12, -1 / 12, 1 / 6])
    expected[1, 1] = torch.tensor([1 / 12, -1 / 6, 1 / 12])
    expected[1, 2] = torch.tensor([-1 / 6, 1 / 12, 1 / 12])
    assert head.values.grad is not None
    torch.testing.assert_close(head.values.grad, expected)


def test_logits_are_means_of_the_values_of_the_nearest_keys() -> None:
    projection, keys, features = drawn(4, 6, 3, seed=1), drawn(4, 5, 3, seed=2), drawn(7, 6, seed=3)
    head = Bottleneck(projection, keys, 2)
    torch.nn.init.normal_(head.values, generator=torch.Generator().manual_seed(4))
    for x, logits in zip(features, head(features), strict=True):
        values = []
        for w, own, value in zip(projection, keys, head.values, strict=True):
            values.append(value[(x @ w - own).norm(dim=1).argmin()])
        torch.testing.assert_close(logits, torch.stack(values).mean(0))


def test_labels_are_smoothed_over_the_classes_that_are_possible() -> None:
    logits, y = drawn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    expected = F.cross_entropy(logits, y, label_smoothing=0.1)
    torch.testing.assert_close(smoothed(logits, y, 0.1), expected)
    wider = torch.cat([logits, torch.full((5, 2), MASKED)], 1)
    torch.testing.assert_close(smoothed(wider, y, 0.1), expected)


def test_pairs_that_were_never_chosen_are_left_out_in_evaluation() -> None:
    head = Bottleneck(torch.ones(1, 1, 1), torch.tensor([[[0.0], [5.0]]]), 2)
    head.used[0, 1] = True
    features = torch.zeros(1, 1)
    assert head.codes(features).tolist() == [[0]]
    assert head.eval().codes(features).tolist() == [[1]]


def test_keys_are_moving_averages() -> None:
    keys, u = torch.tensor([[[0.0], [10.0]]]), torch.tensor([[[1.0], [2.0], [12.0]]])
    codes = Codes(keys, decay=0.75, dead=0.0)
    codes.follow(u, torch.Generator())
    counts, sums = torch.tensor([0.5, 0.25]), torch.tensor([0.75, 0.75 * 10 + 0.25 * 12])
    smoothed = (counts + 1e-5) / (0.75 + 2e-5) * 0.75
    torch.testing.assert_close(codes.keys[0, :, 0], sums / smoothed)
    torch.testing.assert_close(codes.counts[0], counts)


def test_a_key_that_is_hardly_chosen_becomes_an_example() -> None:
    codes = Codes(torch.tensor([[[0.0], [1000.0]]]), decay=0.5, dead=0.1)
    u = torch.tensor([[[1.0], [2.0], [3.0]]])
    codes.follow(u, torch.Generator().manual_seed(0))
    assert codes.keys[0, 1].item() in (1.0, 2.0, 3.0)
    assert codes.keys[0, 0].item() not in (1.0, 2.0, 3.0)


def test_keys_lie_among_features_however_few_those_are() -> None:
    """Keys are drawn far from all features; by default they are fitted until nothing of that is left."""
    run = tiny_run(make_strategy("dkvb", codebooks=8, pairs=16, width=3), tiny_benchmark(experiences=2))
    run.fit()
    features, _ = features_of(run, run.train.experiences[0].data)
    u, keys = run.model.head.projected(features), run.model.head.keys
    among = (keys >= u.amin(1, keepdim=True)) & (keys <= u.amax(1, keepdim=True))
    assert among.float().mean() > 0.95


def test_projections_have_columns_of_length_one_and_keys_stay() -> None:
    run = tiny_run(make_strategy("dkvb", **SMALL), tiny_benchmark(experiences=2), checkpoint_seconds=0.0)
    head = run.model.head
    torch.testing.assert_close(head.projection.norm(dim=1), torch.ones(8, 3))
    drawn_first, kept = head.keys.clone(), []
    run.fit(lambda: kept.append(head.keys.clone()))
    assert not torch.equal(drawn_first, kept[0])
    assert all(torch.equal(kept[0], keys) for keys in kept)
    assert head.used.any()
    assert torch.equal(head.values[~head.used], torch.zeros_like(head.values[~head.used]))


def test_keys_do_not_depend_on_labels() -> None:
    found = []
    for repeat in (False, True):  # the last experience has other classes; the first one the same inputs
        run = tiny_run(make_strategy("dkvb", **SMALL), tiny_benchmark(experiences=2, repeat=repeat))
        run.fit()
        found.append(run.model.head.keys)
    assert torch.equal(*found)


def test_a_head_that_grows_takes_it_in() -> None:
    run = tiny_run(make_strategy("growing-head+dkvb", codebooks=4, pairs=8, width=2), tiny_benchmark())
    run.fit()
    assert isinstance(run.model.head.inner, Bottleneck)


def test_a_network_that_is_trained_is_refused() -> None:
    from tests.test_equations.test_lora import run_of

    with pytest.raises(IncompatibleError, match=r"another part of dkvb\+lora trains it"):
        run_of("dkvb+lora")
