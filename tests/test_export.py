"""An exported model is loaded by transformers, timm or peft without clbench, and gives the logits of the run's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import clbench
from clbench.errors import ConfigError, DataError, IncompatibleError, LedgerError
from clbench.interop.export import Exported, export
from clbench.machine import checkpoint
from clbench.results.ledger import Record
from clbench.runs.again import rebuilt
from clbench.transforms.utf8 import rows_of
from tests.command import Command, command
from tests.test_clip import CONFIG, a_clip, the_library, write
from tests.test_encoders import WORDS, written

VIT = {"model": "vit_tiny_patch16_224", "model.patch_size": 4, "model.embed_dim": 24, "model.num_heads": 2}
SMALL: dict[str, Any] = {"epochs": 1, "every": 0, "experiences": 2}
TINY: dict[str, Any] = {**SMALL, **VIT, "model.depth": 2, "iterations": 2}


@pytest.fixture
def clb(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command(monkeypatch, capfd)


def live(record: Record, file: str = "model.safetensors") -> tuple[Tensor, list[str], Tensor, Tensor]:
    """Some test examples, as inputs and as texts, and what the run's own network says of them."""
    assert record.folder is not None
    engine = rebuilt(record, "cpu")
    engine.model.load_state_dict(checkpoint.load(record.folder / file))
    raw = torch.cat([exp.data.take(torch.arange(min(4, len(exp.data))))[0] for exp in engine.benchmark.test])
    x = engine.normalise(raw)
    texts = [row.decode() for row in rows_of(raw)] if engine.benchmark.texts else []
    with engine.evaluating(), torch.no_grad():
        return x, texts, engine.model.features(x), engine.predict(x, torch.full((len(x),), -1))  # type: ignore[operator]


def used(done: Exported, x: Tensor, texts: list[str]) -> Any:
    """What the lines of Python give, which import nothing of clbench unless clbench is to load it."""
    assert ("clbench" in done.python.replace(str(done.folder), "")) == (done.loads_with == "clbench")
    scope: dict[str, Any] = {"x": x, "texts": texts}
    exec(done.python, scope)
    return scope


def agrees(done: Exported, record: Record, file: str = "model.safetensors") -> dict[str, Any]:
    x, texts, _, logits = live(record, file)
    scope = used(done, x, texts)
    torch.testing.assert_close(scope["logits"].detach(), logits, rtol=1e-6, atol=1e-5)
    return dict(scope)


def text_run(folder: Path, strategy: str, **settings: Any) -> Record:
    """A run on a few texts, by an encoder in a folder."""
    folder.mkdir(exist_ok=True)
    written(folder / "encoder", settings.pop("kind", "Bert"))
    rows = [{"text": f"{w} {i} {v}", "label": w} for w in WORDS[:4] for i in range(3) for v in WORDS[:2]]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return clbench.run(
        "text-file",
        strategy,
        out=folder / "runs",
        path=str(folder / "texts.jsonl"),
        test_fraction=0.5,
        **{"model": f"hf:{folder / 'encoder'}", "lr": 0.5, **SMALL, **settings},
    )


# --- texts ---


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        ("finetune", {"kind": "Bert", "model.tune": 1, "model.pooling": "cls"}),
        ("seq-star", {"kind": "Bert"}),  # a cosine head
        pytest.param("finetune", {"kind": "Roberta"}, marks=pytest.mark.slow),
        pytest.param("linear-probe", {"kind": "ModernBert", "model.tune": 0}, marks=pytest.mark.slow),
        pytest.param("lora", {"kind": "DistilBert", "rank": 2}, marks=pytest.mark.slow),
        pytest.param("inflora", {"kind": "Bert", "rank": 2}, marks=pytest.mark.slow),
    ],
)
def test_transformers_gives_the_logits(strategy: str, settings: dict[str, Any], tmp_path: Path) -> None:
    record = text_run(tmp_path, strategy, **settings)
    done = export(record.folder or tmp_path, tmp_path / "out")
    assert done.loads_with == "transformers"
    agrees(done, record)


@pytest.mark.slow
def test_sentence_transformers_gives_the_features_and_clbench_goes_on_from_them(tmp_path: Path) -> None:
    record = text_run(tmp_path, "finetune", **{"model.length": 3})
    done = export(record.folder or tmp_path, tmp_path / "out")
    x, texts, features, _ = live(record)
    again = clbench.make_model("hf", x.shape[1:], 4, folder=str(done.folder), length=3)
    torch.testing.assert_close(again.embed(texts), features, rtol=0, atol=1e-5)  # type: ignore[operator]
    sentences = pytest.importorskip("sentence_transformers")
    found = sentences.SentenceTransformer(str(done.folder), device="cpu").encode(
        texts, convert_to_tensor=True
    )
    torch.testing.assert_close(found, features, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft's own calls of transformers
@pytest.mark.parametrize(
    "strategy", ["lora", *(pytest.param(s, marks=pytest.mark.slow) for s in ("o-lora", "sd-lora"))]
)
def test_peft_reads_the_low_rank_branches(strategy: str, tmp_path: Path) -> None:
    record = text_run(tmp_path, strategy, rank=2)
    done = export(record.folder or tmp_path, tmp_path / "out")
    scope = agrees(done, record)
    peft = pytest.importorskip("peft")
    from transformers import AutoModel

    base = AutoModel.from_pretrained(tmp_path / "encoder")
    tokens = {name: value for name, value in scope["tokens"].items() if name != "token_type_ids"}
    plain = base(**tokens).last_hidden_state
    states = peft.PeftModel.from_pretrained(base, done.folder / "adapter").eval()(**tokens).last_hidden_state
    torch.testing.assert_close(states, scope["states"], rtol=0, atol=1e-5)
    assert not torch.allclose(plain, states, atol=1e-3)


# --- images ---


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        pytest.param("er-ace", {**TINY, "head": "cosine"}, id="a cosine head, which is a file beside it"),
        pytest.param("growing-head+finetune", TINY, marks=pytest.mark.slow),
        pytest.param("coact", TINY, marks=pytest.mark.slow),  # a head of its own that is linear
        pytest.param(
            "finetune",
            {**SMALL, "iterations": 2, "model": "timm:resnet10t", "model.pad": True},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_timm_gives_the_logits(strategy: str, settings: dict[str, Any], tmp_path: Path) -> None:
    record = clbench.run("split-digits", strategy, out=tmp_path, **settings)
    done = export(record.folder or tmp_path, tmp_path / "out")
    assert done.loads_with == "timm"
    agrees(done, record)


def test_timm_has_low_rank_branches_in_its_weights(tmp_path: Path) -> None:
    """And nobody else has the weights below them, so that they are not written alone."""
    record = clbench.run("split-digits", "lora", out=tmp_path, targets=["q", "v", "fc1"], lr=0.5, **TINY)
    done = export(record.folder or tmp_path, tmp_path / "out")
    agrees(done, record)
    assert not (done.folder / "adapter").exists()
    assert "They are not written as peft reads them" in done.notes[-1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_peft_reads_branches_of_some_rows_of_a_layer_of_timm(tmp_path: Path) -> None:
    """Of qkv, those of q and v: one branch of twice the rank, with zeros in the rows of k."""
    peft = pytest.importorskip("peft")
    import timm
    from safetensors.torch import save_file

    options = {"patch_size": 4, "embed_dim": 24, "num_heads": 2, "depth": 2, "img_size": 8, "in_chans": 1}
    base = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options).eval()
    save_file(base.state_dict(), tmp_path / "base.safetensors")
    weights = str(tmp_path / "base.safetensors")
    record = clbench.run("split-digits", "lora", out=tmp_path, rank=2, lr=0.5, weights=weights, **TINY)
    done = export(record.folder or tmp_path, tmp_path / "out", head=False)
    x, _, features, _ = live(record)
    plain = base(x)
    found = peft.PeftModel.from_pretrained(base, done.folder / "adapter").eval()(x)
    torch.testing.assert_close(found, features, rtol=0, atol=1e-5)
    assert not torch.allclose(plain, features, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["finetune", "lora", "zero-shot"])
def test_transformers_has_the_image_tower_of_clip(strategy: str, tmp_path: Path) -> None:
    the_library()
    write(tmp_path / "clip", CONFIG, a_clip())
    weights = str(tmp_path / "clip" / "model.safetensors")
    record = clbench.run(
        "split-digits", strategy, out=tmp_path, model="clip", weights=weights, iterations=2, **SMALL
    )
    if strategy == "zero-shot":  # by names
        done = export(record.folder or tmp_path, tmp_path / "out", head=False)
        x, _, features, _ = live(record)
        torch.testing.assert_close(used(done, x, [])["features"], features, rtol=0, atol=1e-5)
        return
    done = export(record.folder or tmp_path, tmp_path / "out")
    agrees(done, record)
    assert (done.folder / "adapter").exists() == (strategy == "lora")


# --- clbench's own ---


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "er", "experiences": 5},
        {"strategy": "er-ace", "head": "cosine"},
        pytest.param({"strategy": "finetune", "model": "slim-resnet18"}, marks=pytest.mark.slow),
        pytest.param({"strategy": "growing-head+ewc", "model": "mlp"}, marks=pytest.mark.slow),
    ],
)
def test_clbench_loads_its_own_networks_without_the_run(settings: dict[str, Any], tmp_path: Path) -> None:
    record = clbench.run("split-digits", out=tmp_path / "runs", **{**SMALL, "iterations": 2, **settings})
    done = export(record.folder or tmp_path, tmp_path / "out")
    assert done.loads_with == "clbench"
    agrees(done, record)


def test_a_network_of_clbenchs_that_reads_texts(tmp_path: Path) -> None:
    record = text_run(tmp_path, "er", model="bag-of-words")
    agrees(export(record.folder or tmp_path, tmp_path / "out"), record)


def test_a_folder_that_another_library_reads_is_not_loaded_by_clbench(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no clbench\.json"):
        clbench.load_model(tmp_path)
    (tmp_path / "clbench.json").write_text('{"loads_with": "timm"}')
    with pytest.raises(ConfigError, match=r"is read by timm; its README\.md has the lines"):
        clbench.load_model(tmp_path)


# --- after which experience ---


def test_the_model_after_each_experience_is_kept_on_request_and_moves_no_number(tmp_path: Path) -> None:
    kept, plain = (
        clbench.run("split-digits", "er", out=tmp_path / name, iterations=2, experiences=5, execution=how)
        for name, how in (("kept", {"keep_models": True}), ("plain", {}))
    )
    assert kept.folder is not None
    assert (kept.id, kept.metrics) == (plain.id, plain.metrics)
    for number in (1, 2, 5):
        file = "model.safetensors" if number == 5 else f"model-{number}.safetensors"
        done = export(kept.folder, tmp_path / str(number), number)
        agrees(done, kept, file)
        about = json.loads((done.folder / "clbench.json").read_text())
        assert (about["experience"], len(about["seen"])) == (number, sum(map(len, about["classes"][:number])))
    assert not torch.equal(live(kept, "model-1.safetensors")[3], live(kept, "model-2.safetensors")[3])


def test_what_a_run_has_not_kept_is_refused_with_the_way_to_it(tmp_path: Path) -> None:
    record = clbench.run("split-digits", "er", out=tmp_path, iterations=1, experiences=5)
    folder = record.folder or tmp_path
    with pytest.raises(LedgerError, match=r"after experience 2, only after 5 of 5\. .* --keep-models"):
        export(folder, tmp_path / "out", 2)
    with pytest.raises(LedgerError, match="has the experiences 1 to 5, and no 6"):
        export(folder, tmp_path / "out", 6)
    (folder / "record.json").unlink()
    with pytest.raises(LedgerError, match=r"is not finished; `clbench resume .*` continues it"):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_diverged_has_no_model_at_its_end(tmp_path: Path) -> None:
    how = {"keep_models": True}
    record = clbench.run("split-digits", "finetune", out=tmp_path, lr=1e30, experiences=2, execution=how)
    with pytest.raises(LedgerError, match="it has diverged, and the model that it ended with is no result"):
        export(record.folder or tmp_path, tmp_path / "out")


# --- what cannot be exported ---


@pytest.mark.parametrize(
    ("strategy", "settings", "said"),
    [
        ("ncm", {}, "ncm classifies by a rule of its own .* --backbone exports what makes the features"),
        ("nap+finetune", {}, r"nap\+finetune has put a Norm into the network"),
        pytest.param("l2p", TINY, "l2p has put a Prompted into the network", marks=pytest.mark.slow),
    ],
)
def test_what_a_method_alone_knows_is_refused(
    strategy: str, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    record = clbench.run("split-digits", strategy, out=tmp_path, **{**SMALL, "iterations": 1, **settings})
    with pytest.raises(IncompatibleError, match=said):
        export(record.folder or tmp_path, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_the_backbone_alone_gives_the_features_of_a_method_that_classifies_otherwise(tmp_path: Path) -> None:
    record = clbench.run("split-digits", "ncm", out=tmp_path, **SMALL)
    done = export(record.folder or tmp_path, tmp_path / "out", head=False)
    x, texts, features, _ = live(record)
    torch.testing.assert_close(used(done, x, texts)["features"], features)


def test_what_is_read_back_must_give_what_the_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = clbench.run("split-digits", "finetune", out=tmp_path, iterations=1)
    monkeypatch.setattr(
        "clbench.interop.export.folders.save", lambda tensors, path: save_zeros(tensors, path)
    )
    with pytest.raises(IncompatibleError, match=r"up to \d.* away from the run's own, on \d+ test examples"):
        export(record.folder or tmp_path, tmp_path / "out")


def save_zeros(tensors: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, path)


# --- the command ---


def test_the_command_prints_the_python_and_writes_over_nothing(clb: Command, tmp_path: Path) -> None:
    record = clbench.run("split-digits", "er", out=tmp_path, iterations=1)
    said = clb("export", record.folder, tmp_path / "out")
    assert said.code == 0
    assert f'model = clbench.load_model("{tmp_path / "out"}")' in said.out
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"record: `{record.id}`" in card
    assert not [
        file for file in (tmp_path / "out").iterdir() if file.suffix not in (".json", ".md", ".safetensors")
    ]
    again = clb("export", record.folder, tmp_path / "out")
    assert again.code == 2
    assert "nothing is written over; name another folder, or remove it" in again.err
    told = clb("export", record.folder, tmp_path / "other", "--backbone", "--json")
    assert json.loads(told.out)["run"] == record.id


def test_models_are_kept_from_the_command_line_too(clb: Command, tmp_path: Path) -> None:
    words = ("run", "split-digits", "finetune", "iterations=1", "experiences=2", "--out", tmp_path)
    assert clb(*words).code == 0
    assert "--keep-models has nothing of 1 run that was already there" in clb(*words, "--keep-models").err
