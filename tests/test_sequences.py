"""Whole data sets in a row: columns, one form of images, normalisation of each set, and what is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clbench
from clbench import make_benchmark
from clbench.errors import ClbenchError
from clbench.results.curve import Curve
from clbench.results.metrics import average_accuracy, compute, mtil_average, mtil_transfer
from clbench.testing import check_benchmark
from clbench.transforms.sets import Framed, PerSet
from clbench.types import Benchmark


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small data set of colour images, of four classes."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("sets") / "blots.npz"
    y = np.repeat(np.arange(4), 6)
    x = rng.integers(0, 60, (24, 3, 28, 28), dtype=np.uint8) + (40 * y[:, None, None, None]).astype(np.uint8)
    np.savez(path, x_train=x, y_train=y, x_test=x[::2] + 1, y_test=y[::2])
    return str(path)


def built(other: str, **spec: Any) -> Benchmark:
    return make_benchmark("data-sets", sets=["digits", other], train_per_class=6, test_per_class=3, **spec)


def test_columns_follow_the_list_and_not_the_order(other: str) -> None:
    plain, turned = built(other), built(other, order=["blots", "digits"])
    assert [exp.classes for exp in plain.train] == [tuple(range(10)), (10, 11, 12, 13)]
    assert [exp.classes for exp in turned.train] == [(10, 11, 12, 13), tuple(range(10))]
    assert [exp.domain for exp in turned.test] == ["blots", "digits"]
    assert plain.class_names[9:11] == ("digits/nine", "blots/0")
    assert turned.train[0].data.y().unique().tolist() == [10, 11, 12, 13]
    assert (plain.num_classes, plain.setting.shift) == (14, "class")


def test_a_shuffled_order_is_of_the_seed(other: str) -> None:
    orders = {tuple(e.domain for e in built(other, order="shuffled", seed=s).train) for s in range(8)}
    assert len(orders) == 2


def test_each_set_has_one_form_and_its_own_normalisation(other: str) -> None:
    found = built(other)
    assert found.input_shape == (3, 32, 32)
    for exp, padded in zip(found.train, (False, True), strict=True):
        raw = exp.data.x()
        assert raw.shape[1:] == (4, 32, 32)
        assert raw[:, 3].unique().tolist() == [exp.index]
        x = found.transform.normalise(raw)
        inside = x[:, :, 2:-2, 2:-2] if padded else x
        assert inside.mean().item() == pytest.approx(0, abs=0.1)
        assert inside.std().item() == pytest.approx(1, abs=0.2)
    mixed = torch.cat([exp.data.x()[:2] for exp in found.train])
    alone = [found.transform.normalise(exp.data.x()[:2]) for exp in found.train]
    assert torch.equal(found.transform.normalise(mixed), torch.cat(alone))


def test_a_crop_keeps_the_number_of_the_set(other: str) -> None:
    found = built(other, augment=True)
    raw = found.train[1].data.x()
    moved = found.transform.augment(raw, torch.Generator().manual_seed(0))
    assert not torch.equal(moved, raw)
    assert isinstance(found.transform, PerSet)
    inside = found.transform.normalise(moved)[:, :, 14:18, 14:18]
    assert inside.abs().max() < 4


def test_frames() -> None:
    grey = torch.full((1, 1, 28, 28), 16, dtype=torch.uint8)
    framed = Framed(32, white=16)(grey)
    assert framed.shape == (1, 3, 32, 32)
    assert framed[0, :, 2:-2, 2:-2].unique().tolist() == [255]
    assert framed[0, :, :2].unique().tolist() == framed[0, :, -2:].unique().tolist() == [0]
    wide = torch.zeros((1, 3, 40, 80), dtype=torch.uint8)
    wide[..., 20:60] = 200
    assert Framed(20)(wide)[..., 1:-1].unique().tolist() == [200]  # of which the middle is cut out
    assert Framed(8)(torch.full((2, 3, 16, 16), 7, dtype=torch.uint8)).unique().tolist() == [7]
    assert Framed(32, number=5).shape((1, 28, 28)) == (4, 32, 32)


def test_one_normalisation_for_all_has_no_further_channel(other: str) -> None:
    found = built(other, normalise="shared")
    assert found.train[0].data.x().shape[1:] == (3, 32, 32)
    assert found.transform.mean == (0.5, 0.5, 0.5)


def test_task_labels_are_of_the_set(other: str) -> None:
    found = built(other, labels="told", order=[1, 0])
    assert [exp.task for exp in found.train] == [1, 0]
    assert found.setting.task_labels == "always"


@pytest.mark.parametrize("labels", ["union", "told"])
def test_every_rule_of_benchmarks_is_kept(labels: str, other: str) -> None:
    spec = {"sets": ["digits", other], "labels": labels, "valid": 0.2}
    assert not [result for result in check_benchmark("data-sets", **spec) if result.status == "failed"]


def test_a_run_replays_images_of_other_sets(other: str, tmp_path: Path) -> None:
    spec: dict[str, Any] = {"sets": ["digits", other], "model": "mlp", "hidden": [8], "test_per_class": 3}
    record = clbench.run("data-sets", "er", seed=0, out=tmp_path, iterations=3, every=0, memory=20, **spec)
    assert record.status == "done"
    assert {"mtil_transfer", "mtil_average", "average_accuracy_weighted"} <= record.metrics.keys()


def test_transfer_average_and_last() -> None:
    curve = Curve.from_matrix([[0.90, 0.30, 0.10], [0.85, 0.95, 0.20], [0.80, 0.80, 0.90]], 0.1)
    assert mtil_transfer(curve) == pytest.approx(0.225)
    assert mtil_average(curve) == pytest.approx(0.64444, abs=1e-5)
    assert average_accuracy(curve) == pytest.approx(0.83333, abs=1e-5)


def test_transfer_as_clear_and_others_have_it() -> None:
    curve = Curve.from_matrix([[0.90, 0.30, 0.10], [0.85, 0.95, 0.20], [0.80, 0.80, 0.90]], 0.1)
    named = {
        "in_domain_accuracy": 0.91667,
        "next_domain_accuracy": 0.25,
        "lower_triangle_accuracy": 0.86667,
        "forward_transfer_raw": 0.2,
        "backward_transfer_all_pairs": -0.1,
    }
    assert compute(curve, [*named]) == pytest.approx(named, abs=1e-5)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"sets": ["digits"]}, "two or more different data sets; digits was given"),
        ({"sets": ["digits", "digits"]}, "two or more different"),
        ({"sets": ["digits", "usbs"]}, "Did you mean 'usps'"),
        (
            {"sets": ["digits", "OTHER"], "order": ["digits", "blot"]},
            "there is no set 'blot'. Did you mean 'blots'",
        ),
        ({"sets": ["digits", "OTHER"], "order": ["digits"]}, "'blots' is missing"),
        ({"sets": ["digits", "OTHER"], "order": [0, 2]}, "order lists every set once"),
        ({"sets": ["digits", "OTHER"], "labels": "shared"}, "they have digits 10, blots 4"),
    ],
)
def test_what_cannot_be_is_refused(spec: dict[str, Any], said: str, other: str) -> None:
    spec["sets"] = [other if one == "OTHER" else one for one in spec["sets"]]
    with pytest.raises(ClbenchError, match=said):
        make_benchmark("data-sets", **spec)


def test_features_are_no_images(tmp_path: Path) -> None:
    path, y = tmp_path / "features.npz", np.arange(4) % 2
    np.savez(
        path, x_train=np.ones((4, 5), np.float32), y_train=y, x_test=np.zeros((4, 5), np.float32), y_test=y
    )
    with pytest.raises(ClbenchError, match=r"features has inputs torch.float32 of shape \(5,\)"):
        make_benchmark("data-sets", sets=["digits", str(path)])
