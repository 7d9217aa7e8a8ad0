"""What is put into a transformer: where, to which values, and that the base stays as it is."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clbench import Strategy
from clbench.errors import IncompatibleError
from clbench.models import Classifier, make_model
from clbench.models.clip import Clip
from clbench.models.decoders import Causal, LanguageModel
from clbench.parts.adapters import Adapter, Scaled, Slots, draw_down, scale_features
from clbench.parts.injection import Extended, Place, Target, extend, insert, sites_of
from clbench.parts.lowrank import Dropout, LowRank, Stage
from clbench.testing import tiny_benchmark
from clbench.testing.tiny import by_letters, tiny_vit

PART = Strategy()
RNG = torch.Generator
OFF = Dropout(0.0, None)


def sines(*shape: int, a: float, f: float = 1.0) -> Tensor:
    """The tensor whose entry with index i is sin(a + f·i)."""
    return torch.sin(a + f * torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).view(shape)


def near(found: Tensor, expected: list[Any], atol: float = 1e-8) -> None:
    torch.testing.assert_close(found.detach(), torch.tensor(expected, dtype=found.dtype), rtol=0, atol=atol)


def pair(down: Tensor, up: Tensor, scale: float = 1.0) -> LowRank:
    branch = LowRank([down], len(up), scale, OFF, Stage())
    branch.ups[0].data = up
    return branch


def fused(**branches: LowRank) -> Extended:
    base = nn.Linear(4, 12, dtype=torch.float64)
    base.weight.data, base.bias.data = sines(12, 4, a=0.1), sines(12, a=0.5)
    return Extended(base, ("q", "k", "v"), branches)  # type: ignore[arg-type]


X = sines(1, 2, 4, a=0.3)
Q, V = (sines(2, 4, a=0.2), sines(4, 2, a=0.6)), (sines(2, 4, a=1.1), sines(4, 2, a=1.6))


def test_branches_of_a_fused_projection_reach_their_rows_only() -> None:
    """Numbers of a published implementation, as are those of the next test."""
    q, k, v = fused(q=pair(*Q), v=pair(*V))(X)[0].chunk(3, -1)
    near(
        q,
        [
            [1.595229122, 0.995036805, 0.142449956, -0.104087248],
            [1.341394455, 1.645492026, -1.817920879, 1.967328204],
        ],
    )
    near(
        v,
        [
            [3.577965223, -1.275688957, -2.325942149, 1.830713812],
            [-2.321279426, 1.316286000, 0.022810681, -2.506207864],
        ],
    )
    base = fused()(X)[0].chunk(3, -1)
    near(base[0][0], [2.004799031, -0.387230006, 0.883331968, 0.661548151])
    assert torch.equal(k, base[1])


def test_a_scale_multiplies_its_branch() -> None:
    q, k, _ = fused(k=pair(*Q, scale=0.5), v=pair(*V))(X)[0].chunk(3, -1)
    near(
        k,
        [
            [-2.790582792, 1.075729573, 0.027825173, -0.774378895],
            [1.213467773, -3.730097944, 1.624434761, 2.023772724],
        ],
    )
    assert torch.equal(q, fused()(X)[0].chunk(3, -1)[0])


def test_merged_it_is_the_same_function_and_unmerged_the_same_weights() -> None:
    layer = fused(q=pair(*Q), v=pair(*V, scale=3.0))
    before, weight = layer(X), layer.weight.detach().clone()
    layer.merge()
    torch.testing.assert_close(layer(X), before, rtol=1e-12, atol=1e-12)
    layer.merge()  # a second time it changes nothing
    layer.merge(-1)
    torch.testing.assert_close(layer.weight, weight, rtol=1e-12, atol=1e-12)
    assert torch.equal(layer(X), fused(q=pair(*Q), v=pair(*V, scale=3.0))(X)) or torch.allclose(
        layer(X), before
    )


def test_of_several_pairs_the_present_one_alone_is_trained_and_later_ones_are_not_read() -> None:
    stage = Stage()
    branch = LowRank([sines(2, 4, a=a) for a in (0.1, 0.7, 1.9)], 3, 2.0, OFF, stage)
    for t, up in enumerate(branch.ups):
        up.data = sines(3, 2, a=float(t))
    branch.downs[2].data.fill_(torch.nan)
    stage.current = 1
    expected = 2 * sum(branch.ups[t] @ branch.downs[t] for t in (0, 1))
    torch.testing.assert_close(branch.delta(), expected)
    torch.testing.assert_close(branch(X), X @ expected.T)
    branch(X).sum().backward()
    assert [p.grad is not None for p in branch.downs] == [False, True, False]
    assert [p.grad is not None for p in branch.ups] == [False, True, False]


def test_a_copy_keeps_its_stage_and_a_checkpoint_brings_it_back() -> None:
    model: Any = nn.Module()
    model.stage = Stage()
    model.branch = LowRank([sines(2, 4, a=0.1), sines(2, 4, a=0.2)], 3, 1.0, OFF, model.stage)
    model.stage.current = 1
    teacher = copy.deepcopy(model)
    model.stage.current = 0
    assert teacher.branch.current == 1
    model.load_state_dict(teacher.state_dict())
    assert model.branch.current == 1


def test_at_the_start_the_up_map_has_a_gradient_and_the_down_map_none() -> None:
    branch = pair(Q[0], torch.zeros(4, 2, dtype=torch.float64))
    branch(X).square().sum().backward()
    (fused(q=branch)(X) - 1).square().sum().backward()
    assert not branch.downs[0].grad.any()  # type: ignore[union-attr]
    assert branch.ups[0].grad.any()  # type: ignore[union-attr]


def test_adapter_of_the_reference() -> None:
    adapter = Adapter(sines(2, 4, a=0.2))
    adapter.down_bias.data, adapter.up.data, adapter.up_bias.data = (
        sines(2, a=0.9),
        sines(4, 2, a=1.4),
        sines(4, a=2.0),
    )
    near(
        adapter(sines(1, 2, 4, a=0.6))[0],
        [
            [0.314603030, -0.043889657, -0.251079124, 0.108092604],
            [0.320172193, -0.286994021, -0.054314063, 0.187430652],
        ],
    )


# --- in networks ---


def vit() -> Classifier:
    torch.manual_seed(0)
    return tiny_vit(tiny_benchmark(images=True)).eval()


def bert(kind: str) -> Classifier:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "distilbert":
        config = transformers.DistilBertConfig(vocab_size=30, dim=16, n_layers=2, n_heads=2, hidden_dim=32)
        inner = transformers.DistilBertModel(config)
    elif kind == "modernbert":
        config = transformers.ModernBertConfig(
            **small,
            intermediate_size=32,
            **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
        )
        inner = transformers.ModernBertModel(config)
    else:
        inner = transformers.BertModel(
            transformers.BertConfig(**small, intermediate_size=32), add_pooling_layer=False
        )
    from clbench.models.texts import Pretrained

    return Classifier(Pretrained(inner, 0, "mean", False), 16, 6).eval()


def clip() -> Classifier:
    torch.manual_seed(0)
    tower = {"num_attention_heads": 2, "intermediate_size": 32, "hidden_act": "gelu", "num_hidden_layers": 2}
    image = {**tower, "num_channels": 1, "image_size": 4, "patch_size": 2, "hidden_size": 16}
    text = {**tower, "hidden_size": 12, "vocab_size": 64}
    return Classifier(
        Clip({"projection_dim": 16, "vision_config": image, "text_config": text}, by_letters), 16, 6
    ).eval()


def causal(kind: str) -> Classifier:
    """A language model of transformers, all biases other than 0."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 9,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    if kind == "GPT2":
        sizes = {"vocab_size": 9, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24}
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**sizes))
    for parameter in made.parameters():
        parameter.data.normal_(0, 0.2)
    return LanguageModel(Causal(made, Path()), 16, 9, nn.Linear(16, 9)).eval()


def network(kind: str) -> tuple[Classifier, Tensor]:
    images = torch.linspace(-1, 1, 48).view(3, 1, 4, 4)
    if kind == "vit":
        return vit(), images
    if kind == "clip":
        return clip(), images
    if kind == "decoder":
        torch.manual_seed(0)
        decoder = make_model("decoder", (5,), 9, width=16, layers=2, heads=2).eval()
        return decoder, torch.tensor([[1, 5, 7, 2, 0], [1, 2, 3, 4, 5]])
    if kind in ("GPTNeoX", "GPT2"):
        return causal(kind), torch.tensor([[1, 5, 7, 2, 0], [1, 2, 3, 4, 5]])
    return bert(kind), torch.tensor([[1, 5, 7, 2, -1], [1, 2, 3, 4, 5]])


KINDS = ["vit", "clip", "bert", "distilbert", "modernbert"]
LAYERED = [*KINDS, "decoder", "GPTNeoX", "GPT2"]
"""Those that have layers; language models have no place for an adapter."""
ALL: tuple[Target, ...] = ("q", "k", "v", "proj", "fc1", "fc2")


def adapter(width: int) -> Adapter:
    return Adapter(draw_down(width, 3, RNG().manual_seed(0)))


def low_rank(inputs: int, outputs: int) -> LowRank:
    return LowRank([torch.rand(2, inputs, generator=RNG().manual_seed(0)) - 0.5], outputs, 1.0, OFF, Stage())


@pytest.mark.parametrize("kind", LAYERED)
def test_fresh_branches_are_the_base_bit_for_bit_and_each_one_counts(kind: str) -> None:
    model, x = network(kind)
    before, names = model.features(x), set(model.state_dict())
    layers = extend(model.backbone, PART, ALL, low_rank)
    assert names <= set(model.state_dict())  # weights keep their names
    assert torch.equal(model.features(x), before)
    branches = [b for layer in layers for b in layer.branches.values()]
    assert len(branches) == 12
    reached = []
    for branch in branches:
        branch.ups[0].data.fill_(0.1)
        reached.append(not torch.equal(model.features(x), before))
        branch.ups[0].data.zero_()
    assert all(reached)


@pytest.mark.parametrize("kind", LAYERED)
def test_merged_networks_are_the_same_function(kind: str) -> None:
    model, x = network(kind)
    layers = extend(model.backbone, PART, ALL, low_rank)
    for layer in layers:
        for branch in layer.branches.values():
            branch.ups[0].data.normal_(0, 0.1, generator=RNG().manual_seed(1))
    before = model.features(x)
    for layer in layers:
        layer.merge()
    torch.testing.assert_close(model.features(x), before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        (k, p)
        for k in KINDS
        for p in ("mlp", "attention", "sequential")
        if (k, p) not in {("distilbert", "attention"), ("modernbert", "mlp"), ("modernbert", "attention")}
    ],
)
def test_fresh_adapters_are_the_base_bit_for_bit_and_each_one_counts(kind: str, place: Place) -> None:
    model, x = network(kind)
    before = model.features(x)
    branches: list[Any] = insert(model.backbone, PART, place, adapter)
    assert len(branches) == (4 if place == "sequential" else 2)
    assert torch.equal(model.features(x), before)
    for branch in branches:
        branch.up_bias.data.copy_(torch.linspace(0, 1, len(branch.up_bias)))
        assert not torch.equal(model.features(x), before)
        branch.up_bias.data.zero_()


def test_an_adapter_sees_the_residual_before_the_norm() -> None:
    model, x = network("vit")
    insert(model.backbone, PART, "mlp", adapter)
    blocks: Any = model.backbone.blocks
    for block in blocks:
        nn.init.zeros_(block.inner.norm2.weight), nn.init.zeros_(block.inner.norm2.bias)
        block.branch.up.data.fill_(0.5)
    changed = model.features(x)
    for block in blocks:
        block.branch.up.data.zero_()
    assert not torch.equal(model.features(x), changed)


def test_of_slots_the_present_one_acts() -> None:
    stage = Stage()
    slots = Slots([Adapter(draw_down(4, 2, RNG().manual_seed(t))) for t in range(2)], stage)
    slots.slots[1].up.data.fill_(1.0)  # type: ignore[union-attr]
    x = torch.rand(3, 4, generator=RNG().manual_seed(0))
    assert not slots(x).any()
    with stage.at(1):
        assert slots(x).any()


@pytest.mark.parametrize("kind", KINDS)
def test_scales_of_one_and_shifts_of_zero_are_the_base(kind: str) -> None:
    model, x = network(kind)
    before = model.features(x)
    scale_features(model.backbone, PART, RNG().manual_seed(0))
    assert not torch.equal(model.features(x), before)  # they begin as noise
    for module in model.modules():
        if isinstance(module, Scaled):
            nn.init.ones_(module.gamma), nn.init.zeros_(module.beta)
    torch.testing.assert_close(model.features(x), before, rtol=1e-6, atol=1e-6)


def large() -> Any:
    """The shapes of ViT-B/16, without memory."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        return timm.create_model("vit_base_patch16_224", num_classes=0)


def test_published_counts_of_parameters() -> None:
    def count(network: nn.Module) -> int:
        return sum(p.numel() for n, p in network.named_parameters() if p.device.type != "meta")

    low = large()
    extend(low, PART, ("q", "v"), lambda i, o: LowRank([torch.zeros(10, i)], o, 1.0, OFF, Stage()))
    assert count(low) == 368_640
    adapted = large()
    insert(adapted, PART, "mlp", lambda width: Adapter(torch.zeros(64, width)))
    assert count(adapted) == 1_189_632
    scaled = large()
    scale_features(scaled, PART, RNG())
    assert count(scaled) == 205_824


@pytest.mark.parametrize(("target", "part"), [("q", 0), ("k", 1), ("v", 2)])
@pytest.mark.parametrize("kind", ["GPTNeoX", "GPT2"])
def test_a_branch_of_one_target_reaches_what_attention_takes_for_it(
    kind: str, target: Target, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-NeoX has q, k and v of each head one after the other, GPT-2 those of all heads; and (i, o) weights."""
    model, x = network(kind)
    asked: list[tuple[Tensor, ...]] = []

    def attention(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        asked.append((q, k, v))
        return v

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", attention)
    model.features(x)
    (layer, *_) = extend(model.backbone, PART, (target,), low_rank, blocks=(0,))
    layer.branches[target].ups[0].data.fill_(0.1)  # type: ignore[index, union-attr]
    model.features(x)
    before, after = asked[0], asked[2]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [i != part for i in range(3)]


def test_what_cannot_be_changed_is_named() -> None:
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    with pytest.raises(
        IncompatibleError, match=r"changes the layers q, v of a timm .*; a Sequential is none"
    ):
        extend(mlp, PART, ("q", "v"), low_rank)
    with pytest.raises(
        IncompatibleError, match=r"adapters \(mlp\) into the blocks of .*; a Sequential is none"
    ):
        insert(mlp, PART, "mlp", lambda width: Adapter(torch.zeros(2, width)))
    model, _ = network("vit")
    with pytest.raises(IncompatibleError, match=r"has the blocks 0 to 1, and no 4"):
        extend(model.backbone, PART, ("q",), low_rank, blocks=(0, 4))
    extend(model.backbone, PART, ("q",), low_rank)
    with pytest.raises(IncompatibleError, match="another part of the chain has done so"):
        extend(model.backbone, PART, ("v",), low_rank)


def test_layers_are_found_by_what_they_are() -> None:
    assert [(s.block, s.targets) for s in sites_of(vit().backbone)] == [
        (block, targets) for block in (0, 1) for targets in (("q", "k", "v"), ("proj",), ("fc1",), ("fc2",))
    ]
