"""What is measured of a network: norms, effective learning rate, dormant units, effective rank, over experiences."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import clbench
from clbench import Classifier, Curve, make_benchmark, make_model, make_strategy
from clbench.config import EvaluationConfig, OptimConfig
from clbench.evaluation.plasticity import (
    dormant_units,
    effective_learning_rate,
    effective_rank,
    hidden_weights,
    observe,
)
from clbench.results import metrics
from clbench.testing import tiny_benchmark, tiny_run


def test_effective_learning_rate_is_a_geometric_mean() -> None:
    weights = [torch.full((2, 2), 1.0), torch.full((4, 4), 2.0)]  # norms 2 and 8
    assert effective_learning_rate(weights, OptimConfig(lr=0.1)).item() == pytest.approx(0.1 / (2 * 8))
    adam = OptimConfig(name="adam", lr=0.1)
    assert effective_learning_rate(weights, adam).item() == pytest.approx(0.1 / 4)


def test_dormant_units_are_a_share_of_all_layers() -> None:
    """Means 1 and 0.1: thresholds 0.025 and 0.0025, so one of four and one of two."""
    layers = [torch.tensor([0.02, 0.03, 1.0, 2.95]), torch.tensor([0.0, 0.2])]
    assert dormant_units(layers).item() == pytest.approx(2 / 6)


def test_effective_rank() -> None:
    """Equal singular values: their number. 3 and 1: exp(−¾ ln ¾ − ¼ ln ¼)."""
    assert effective_rank(torch.eye(5)[:, :3]).item() == pytest.approx(3)
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))).item() == pytest.approx(expected)


def test_activations_are_seen_in_every_kind_of_network() -> None:
    for name, shape, layers in (
        ("mlp", (1, 4, 4), 2),
        ("slim-resnet18", (3, 8, 8), 17),
        ("test_vit", (3, 8, 8), 6),
    ):
        params = {"mlp": {"hidden": (8, 6)}, "slim-resnet18": {"width": 2}, "test_vit": {"patch_size": 4}}[
            name
        ]
        model = make_model(name, shape, 4, **params).eval()
        with torch.no_grad():
            features, means = observe(
                model, torch.randn((3, *shape), generator=torch.Generator().manual_seed(0))
            )
        assert len(means) == layers, name
        assert torch.equal(features, model.features(torch.zeros((1, *shape)))) is False


def test_units_of_maps_are_channels() -> None:
    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(x).mean((2, 3))

    x = torch.stack([torch.full((2, 2), -1.0), torch.full((2, 2), 3.0)])[None]  # (1, 2, 2, 2)
    _, (means,) = observe(Classifier(Maps(), 2, 3), x)
    assert means.tolist() == [0.0, 3.0]


def fitted(**evaluation: object) -> clbench.Curve:
    run = tiny_run(make_strategy("finetune"), tiny_benchmark())
    run.evaluator.config = EvaluationConfig(every=0, **evaluation)
    run.fit()
    return run.evaluator.curve


def test_a_row_for_each_full_evaluation() -> None:
    run = tiny_run(make_strategy("finetune"), tiny_benchmark())
    run.evaluator.config = EvaluationConfig(every=0, network=True)
    run.fit()
    table = run.evaluator.curve.network
    assert table.shape == (4, 4)
    norm = torch.stack([w.norm() for w in hidden_weights(run.model)]).square().sum().sqrt()
    assert table[-1, 0] == pytest.approx(norm.item(), rel=1e-6)


def test_measuring_changes_nothing_of_the_run() -> None:
    plain, measured = fitted(), fitted(network=True)
    assert len(plain.network) == 0
    assert np.array_equal(plain.correct, measured.correct)
    assert np.array_equal(plain.loss, measured.loss)


def test_a_curve_without_the_table_is_what_it_was(tmp_path: Path) -> None:
    curve = fitted()
    assert "network" not in curve.columns()
    curve.save(tmp_path / "curve.npz")
    assert Curve.load(tmp_path / "curve.npz") == curve


def test_a_curve_keeps_the_table_in_files_and_in_cuts(tmp_path: Path) -> None:
    curve = fitted(network=True)
    curve.save(tmp_path / "curve.npz")
    assert np.array_equal(Curve.load(tmp_path / "curve.npz").network, curve.network)
    assert len(curve.upto(2).network) == 3


def test_metrics_are_undefined_unless_measured() -> None:
    names = ["plasticity_loss", "weight_norm", "dormant_units", "effective_rank", "effective_learning_rate"]
    assert set(metrics.compute(fitted(), names).values()) == {None}
    assert all(value is not None for value in metrics.compute(fitted(network=True), names).values())


def test_plasticity_loss_by_hand() -> None:
    """Eight experiences learned to .9, .8, …, .2: first two .85, last two .25."""
    accuracy = np.full((8, 8), 0.1)
    np.fill_diagonal(accuracy, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    curve = Curve.from_matrix(accuracy)
    assert metrics.plasticity_loss(curve) is None  # nothing of the network was measured
    for _ in range(8):
        curve.append_network([1.0, 1.0, 0.0, 1.0])
    assert metrics.plasticity_loss(curve) == pytest.approx(0.6)


def test_growth_of_norms() -> None:
    curve = Curve.from_matrix(np.full((2, 2), 0.5))
    for norm in (2.0, 3.0):
        curve.append_network([norm, 1.0, 0.0, 1.0])
    assert metrics.weight_norm_growth(curve) == 1.5


def test_random_labels_are_the_same_images_with_other_labels() -> None:
    benchmark = make_benchmark("random-labels-digits", experiences=3, examples=300)
    first, second, third = benchmark.train
    assert torch.equal(first.data.x(), third.data.x())
    assert not torch.equal(first.data.y(), second.data.y())
    counts = torch.cat([exp.data.y() for exp in benchmark.train]).bincount(minlength=10)
    assert counts.sum() == 900
    assert counts.min() > 55  # 90 expected, with a standard deviation of 9
    assert torch.equal(benchmark.test[1].data.y(), second.data.y())


def test_random_labels_can_be_fitted_and_training_accuracy_is_reported(tmp_path: Path) -> None:
    record = clbench.run(
        "random-labels-digits",
        "finetune+nap",
        out=tmp_path,
        examples=40,
        iterations=100,
        **{"stream.experiences": 3},
    )
    assert record.metrics["learning_accuracy"] > 0.9
    assert record.metrics["weight_norm_growth"] == pytest.approx(1, abs=1e-5)
    first, last = record.curve.network[[0, -1], 1]
    assert first == pytest.approx(last, rel=1e-5)


def test_plasticity_is_drawn(tmp_path: Path) -> None:
    """The plot with a line has other pixels than one without."""
    from clbench.reports import plots

    drawn = plots.plasticity({"er": [fitted(network=True)]}, tmp_path / "drawn.png")
    empty = plots.plasticity({"er": [fitted()]}, tmp_path / "empty.png")
    assert drawn.read_bytes()[:4] == b"\x89PNG"
    assert drawn.read_bytes() != empty.read_bytes()
