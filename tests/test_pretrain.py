"""Pretraining writes a backbone under its hash, and runs start from it or refuse it with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import clbench
from clbench import config, make_model
from clbench.errors import ConfigError, DataError
from clbench.models.weights import Weights, find
from clbench.reports.leaderboard import read_board, submit
from clbench.runs.identity import identify
from clbench.runs.pretrain import pretrain, read

PLAN: dict[str, Any] = {
    "title": "An MLP on digits",
    "benchmark": "rotated-digits",
    "stream": {"angles": [0.0]},
    "model": {"name": "mlp", "params": {"hidden": [8]}},
    "train": {"epochs": 1},
    "evaluation": {"every": 0},
}
RUN: dict[str, Any] = {"model": "mlp", "hidden": [8], "every": 0, "epochs": 1}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    monkeypatch.setenv("CLBENCH_WEIGHTS", str(tmp_path / "weights"))
    made, record = pretrain(PLAN, out=tmp_path / "pretraining")
    assert record.status == "done"
    return made


def test_the_backbone_of_the_run_is_written_and_the_head_is_not(weights: Weights, tmp_path: Path) -> None:
    from clbench.machine import checkpoint

    (run,) = (tmp_path / "pretraining").iterdir()
    trained = checkpoint.load(run / "model.safetensors")
    written = load_file(weights.path)
    assert set(written) == {"1.weight", "1.bias"}
    assert all(torch.equal(written[name], trained[f"backbone.{name}"]) for name in written)
    assert weights.path.with_suffix(".record.json").is_file()


def test_the_same_pretraining_has_the_same_id(weights: Weights, tmp_path: Path) -> None:
    again, _ = pretrain(PLAN, out=tmp_path / "again", folder=tmp_path / "elsewhere")
    other, _ = pretrain(PLAN, out=tmp_path / "again", folder=tmp_path / "elsewhere", seed=1)
    assert again.id == weights.id
    assert other.id != weights.id


def test_a_run_starts_from_the_weights(weights: Weights) -> None:
    model = make_model("mlp", (1, 8, 8), 10, hidden=[8], weights=weights.id)
    theirs = load_file(weights.path)
    assert all(torch.equal(value, theirs[name]) for name, value in model.backbone.state_dict().items())


def test_the_record_states_the_substrate(weights: Weights, tmp_path: Path) -> None:
    record = clbench.run("split-digits", "ncm", out=tmp_path, weights=weights.id, **RUN)
    assert record.model["weights"] == weights.sha256
    assert record.model["substrate"].startswith(
        "mlp trained with finetune on rotated-digits, 90 steps of 16, "
    )
    assert weights.id in record.model["substrate"]
    assert "substrate" not in clbench.run("split-digits", "ncm", out=tmp_path, **RUN).model


def test_a_leaderboard_tells_weights_by_their_id(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they lay is nobody's business, and nobody else's place."""
    monkeypatch.setattr("clbench.runs.identity._commit", lambda: {"commit": "0" * 40, "dirty": False})
    record = clbench.run("split-digits", "ncm", out=tmp_path / "runs", weights=str(weights.path), **RUN)
    assert record.folder is not None
    (taken,) = submit([record.folder], tmp_path / "board")
    assert not taken.refused
    assert taken.needs == {"model.weights": f"{weights.id}, SHA-256 {weights.sha256[:12]}"}
    (there,) = read_board(tmp_path / "board")
    assert (there.id, there.files["model.weights"]["path"]) == (record.id, weights.id)
    assert str(tmp_path) not in there.to_json()


def identity(weights: str | None) -> str:
    return identify(config.resolve("split-digits", "ncm", {**RUN, "weights": weights})).id


def test_the_id_of_a_run_depends_on_the_content_and_not_on_the_place(
    weights: Weights, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "copy.safetensors"
    elsewhere.write_bytes(weights.path.read_bytes())
    assert identity(weights.id) == identity(str(elsewhere)) == identity(str(weights.path))
    assert identity(weights.id) != identity(None)
    tensors = load_file(elsewhere)
    bare = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file in bare:
        save_file(tensors, file)
    assert identity(str(bare[0])) == identity(str(bare[1]))
    save_file({name: t + 1 for name, t in tensors.items()}, elsewhere, metadata={"clbench": "{}"})
    assert identity(str(elsewhere)) != identity(weights.id)


def test_weights_are_found_by_their_id_where_their_place_is_another_machines(weights: Weights) -> None:
    assert identity(f"/nowhere/{weights.id}.safetensors") == identity(weights.id)


def test_absent_weights_are_refused(weights: Weights) -> None:
    with pytest.raises(DataError, match=rf"no weights w0123456789ab: .* is missing.*{weights.id}"):
        identity("w0123456789ab")


def test_altered_weights_are_refused(weights: Weights) -> None:
    with weights.path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x07")
    with pytest.raises(
        DataError, match=f"were altered: by their SHA-256 they are w[0-9a-f]{{12}}, not {weights.id}"
    ):
        identity(weights.id)


def test_anything_but_safetensors_is_refused() -> None:
    with pytest.raises(ConfigError, match="may run code"):
        find("model.pth")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"not this")
    with pytest.raises(DataError, match="damaged or no safetensors file"):
        find(str(path))


def test_weights_of_another_network_are_refused_with_what_they_are_of(weights: Weights) -> None:
    with pytest.raises(
        ConfigError, match=r"of another network: '3.bias' differs.* model=mlp model.hidden=\[8\]\."
    ):
        make_model("mlp", (1, 8, 8), 10, hidden=[8, 8], weights=weights.id)


def test_an_id_is_never_read_as_a_number(weights: Weights) -> None:
    assert isinstance(config.parse_pairs([f"weights={weights.id}"])["weights"], str)
    assert isinstance(yaml.safe_load(weights.id), str)


def test_weights_of_timm_are_fitted_to_the_inputs(tmp_path: Path) -> None:
    """Position embeddings of a 160 × 160 image to one of 32 × 32, the classifier left out; all else as it is."""
    source = make_model("test_vit", (3, 160, 160), 7)
    theirs = {
        **source.backbone.state_dict(),
        "head.weight": source.head.weight,
        "head.bias": source.head.bias,
    }
    path = tmp_path / "timm.safetensors"
    save_file({name: tensor.detach() for name, tensor in theirs.items()}, path)
    model = make_model("test_vit", (3, 32, 32), 4, weights=str(path))
    ours = model.backbone.state_dict()
    assert torch.equal(ours["blocks.0.attn.qkv.weight"], theirs["blocks.0.attn.qkv.weight"])
    assert ours["pos_embed"].shape[1] < theirs["pos_embed"].shape[1]
    assert model.head.weight.shape[0] == 4


@pytest.mark.parametrize("whole", [False, True], ids=["backbone", "network"])
def test_a_registered_model_starts_from_a_file_of_elsewhere(whole: bool, tmp_path: Path) -> None:
    source = make_model("mlp", (1, 8, 8), 7, hidden=[8])
    save_file((source if whole else source.backbone).state_dict(), tmp_path / "it.safetensors")
    model = make_model("mlp", (1, 8, 8), 4, hidden=[8], weights=str(tmp_path / "it.safetensors"))
    assert torch.equal(model.backbone[1].weight, source.backbone[1].weight)  # type: ignore[index]
    assert model.head.weight.shape[0] == 4


def test_weights_that_do_not_fit_are_named_with_what_would(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"1.weight": torch.zeros(3, 64), "1.bias": torch.zeros(8)}, path)
    with pytest.raises(
        ConfigError,
        match=r"other\.safetensors do not fit: for '1\.weight' they hold \(3, 64\), .* \(8, 64\)\.",
    ):
        make_model("mlp", (1, 8, 8), 4, hidden=[8], weights=str(path))


@pytest.mark.parametrize("name", config.shipped("pretrain"))
def test_shipped_configurations_resolve(name: str) -> None:
    tree = {key: value for key, value in read(name).items() if key not in ("title", "benchmark")}
    strategy = tree.pop("strategy", "finetune")
    resolved = config.resolve("split-cifar100", strategy, file=tree)
    classes = {"half": 50, "base60": 60}[name.rpartition("-")[2]]
    assert resolved.stream["classes"] == [0, classes]
    if strategy == "align":  # its network reads a sentence encoder's folder
        return
    parameters = sum(
        p.numel()
        for p in make_model(resolved.model.name, (3, 32, 32), 1, **resolved.model.params).parameters()
    )
    assert (
        parameters
        == {"vit-cifar100": 1_217_025, "vit-tiny-cifar100": 5_361_025, "slim-resnet18-cifar100": 1_093_301}[
            name.rpartition("-")[0]
        ]
    )


def test_an_unknown_configuration_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'vit-cifar100-half'"):
        read("vit-cifar10-half")


def test_classes_of_a_data_set_are_numbered_from_zero() -> None:
    from clbench.data import digits, only

    half, whole = only(digits(), 5, 10), digits()
    assert half.num_classes == 5
    assert torch.equal(half.train.x, whole.train.x[whole.train.y >= 5])
    assert torch.equal(half.test.y, whole.test.y[whole.test.y >= 5] - 5)
    with pytest.raises(ConfigError, match=r"0 ≤ a < b ≤ 10; \[5, 11\] was given"):
        only(digits(), 5, 11)


def test_a_table_says_what_its_rows_started_from() -> None:
    from clbench.reports.rows import Cell, table_rows
    from clbench.reports.tables import note_of

    cells = [Cell("b", name, 0, "done", substrate=text) for name, text in (("ncm", "a ViT"), ("er", ""))]
    assert note_of(table_rows(cells)).endswith("Started from a ViT: ncm. Started from random weights: er.")
    assert "Started" not in note_of(table_rows(cells[1:]))
