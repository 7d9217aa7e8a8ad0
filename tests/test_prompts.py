"""Prompts in a frozen transformer: where they enter, what they leave alone, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clbench.strategies.oneprompt import Shared
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import make_model, make_strategy
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.machine.torchvision import torchvision
from clbench.models import Classifier
from clbench.parts import Prompted, Prompter, Prompts, TimmBlocks, Tokens, attend
from clbench.parts.blocks import prefixed
from clbench.parts.prompts import through_blocks
from clbench.testing import subject, tiny_benchmark, tiny_run, tiny_vit

METHODS = ("l2p", "dualprompt", "coda-prompt", "oneprompt", "mvp")


def vit(seed: int = 0, **options: Any) -> Any:
    """A small transformer of timm with random weights, in eval mode."""
    torchvision()
    from timm.models.vision_transformer import VisionTransformer

    given = {
        "img_size": 4,
        "patch_size": 2,
        "in_chans": 1,
        "num_classes": 0,
        "embed_dim": 12,
        "depth": 2,
        "num_heads": 3,
        "mlp_ratio": 1.0,
        **options,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = VisionTransformer(**given)
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.3)
    return made.eval()


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run_of(name: str, **how: Any) -> Engine:
    """A run of a method on the tiny transformer."""
    checked = subject(name)
    return checked.run(checked.benchmark(**how.pop("spec", {})), **how)


def walked(network: Any, states: Tensor, prompts: Prompts) -> Tensor:
    """States (B, N, D) before the first block → those after the last one."""
    return through_blocks(TimmBlocks(network), Tokens(states), prompts).x


def embedded(network: Any, x: Tensor) -> Tensor:
    return TimmBlocks(network).embed(x).x


class Nothing(Prompter):
    def forward(self, query: Tensor) -> Prompts:
        return Prompts(note=query)


KINDS: dict[str, dict[str, Any]] = {
    "class token": {},
    "mean of tokens": {"global_pool": "avg", "class_token": False},
    "registers": {"reg_tokens": 2},
    "normalised queries and keys": {"qk_norm": True},
    "layer scale and drop path": {
        "init_values": 0.5,
        "drop_path_rate": 0.3,
        "drop_rate": 0.2,
        "attn_drop_rate": 0.2,
    },
    "attention pooling": {"global_pool": "map"},
    "norm before": {"pre_norm": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_without_prompts_it_is_the_transformer_itself_in_eval_mode(kind: str) -> None:
    network, x = vit(**KINDS[kind]), normal(5, 1, 4, 4)
    expected = network(x)
    out = Prompted(TimmBlocks(network), Nothing()).train()(x)
    torch.testing.assert_close(out, torch.cat([expected, expected], 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("post", [False, True], ids=["norm first", "norm last"])
def test_an_empty_prefix_changes_nothing(kind: str, post: bool) -> None:
    if post and ("init_values" in KINDS[kind]):
        pytest.skip("such blocks have no layer scale")
    from timm.models.vision_transformer import Block, ResPostBlock

    network = vit(**KINDS[kind], block_fn=ResPostBlock if post else Block)
    states = embedded(network, normal(3, 1, 4, 4))
    empty = torch.zeros(3, 0, 12)
    torch.testing.assert_close(prefixed(network.blocks[0], states, empty, empty), network.blocks[0](states))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_prefix_by_an_independent_formula(seed: int, qk_norm: bool, fused: bool) -> None:
    attention = vit(seed, qk_norm=qk_norm).blocks[0].attn
    attention.fused_attn = fused
    x, keys, values = (
        normal(4, 5, 12, seed=seed),
        normal(4, 3, 12, seed=seed + 10),
        normal(4, 3, 12, seed=seed + 20),
    )
    out = attend(attention, x, keys, values)
    w, b = attention.qkv.weight, 0 if attention.qkv.bias is None else attention.qkv.bias
    for i in range(4):
        q, k, v = (x[i] @ w.T + b).split(12, dim=1)
        heads = []
        for h in range(3):
            at = slice(4 * h, 4 * h + 4)
            qh, kh = attention.q_norm(q[:, at]), attention.k_norm(k[:, at])
            kh, vh = torch.cat([keys[i][:, at], kh]), torch.cat([values[i][:, at], v[:, at]])
            heads.append(((qh @ kh.T) / 2).softmax(1) @ vh)  # √4
        expected = torch.cat(heads, 1) @ attention.proj.weight.T + attention.proj.bias
        torch.testing.assert_close(out[i], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_of_the_tokens_themselves_before_the_projection_is_that_of_their_keys_and_values(
    kind: str,
) -> None:
    """Rows that equal the normalised tokens: every key and every value is there twice, and the mean is the same."""
    network = vit(**KINDS[kind])
    states = embedded(network, normal(3, 1, 4, 4))
    rows = network.blocks[0].norm1(states)
    twice = walked(network, states, Prompts({0: (rows, rows)}, projected=False))
    torch.testing.assert_close(twice, network.blocks(states), rtol=1e-4, atol=1e-5)


def test_where_queries_see_no_key_a_zero_prefix_dilutes_the_mean_of_values() -> None:
    """q · k = 0 and P = 0: the attention's output is N / (N + m) times the mean of v."""
    attention = vit(qkv_bias=False).blocks[0].attn
    with torch.no_grad():
        attention.qkv.weight[:12] = 0.0  # queries
        attention.proj.weight.copy_(torch.eye(12))
        attention.proj.bias.zero_()
    x, zero = normal(2, 5, 12), torch.zeros(2, 3, 12)
    mean = (x @ attention.qkv.weight[24:].T).mean(1, keepdim=True)
    torch.testing.assert_close(attend(attention, x, zero, zero), (5 / 8 * mean).expand(-1, 5, -1))


def test_a_zero_prefix_is_not_no_prefix() -> None:
    network = vit()
    states, zero = embedded(network, normal(2, 1, 4, 4)), torch.zeros(2, 3, 12)
    with_zero = walked(network, states, Prompts(prefixes={0: (zero, zero)}))
    assert not torch.allclose(with_zero, network.blocks(states), atol=1e-3)


def test_tokens_of_a_block_are_dropped_after_it_and_tokens_of_the_start_stay() -> None:
    network = vit()
    states, rows, start = embedded(network, normal(2, 1, 4, 4)), normal(2, 3, 12), normal(2, 4, 12, seed=5)
    x = network.blocks[1](torch.cat([network.blocks[0](states), rows], 1))[:, :5]
    torch.testing.assert_close(walked(network, states, Prompts(tokens={1: rows})), x)
    x = network.blocks(torch.cat([start, states], 1))
    torch.testing.assert_close(walked(network, states, Prompts(start=start)), x)


def test_every_image_has_its_own_prompts() -> None:
    network = vit()
    x, keys, values, rows = (
        normal(4, 1, 4, 4),
        normal(4, 3, 12),
        normal(4, 3, 12, seed=2),
        normal(4, 2, 12, seed=3),
    )
    together = walked(network, embedded(network, x), Prompts({0: (keys, values)}, tokens={1: rows}))
    for i in range(4):
        one = slice(i, i + 1)
        prompts = Prompts({0: (keys[one], values[one])}, tokens={1: rows[one]})
        torch.testing.assert_close(walked(network, embedded(network, x[one]), prompts), together[one])


# --- frozen ---


@pytest.mark.parametrize("name", METHODS)
def test_the_transformer_stays_to_the_bit_in_eval_mode_without_gradients(name: str) -> None:
    run = run_of(name)
    inner = next(m for m in run.model.modules() if isinstance(m, Prompted)).inner
    before = {key: value.clone() for key, value in inner.state_dict().items()}
    run.fit()
    assert run.updates
    assert all(torch.equal(value, before[key]) for key, value in inner.state_dict().items())
    assert run.model.training
    assert not any(module.training for module in inner.modules())
    assert all(p.grad is None for p in inner.parameters())
    declared = {key for part in run.strategy.parts for key in part.frozen()}
    assert set(before) <= declared


# --- what it costs ---


@pytest.mark.parametrize(("name", "passes"), [(name, 1 if name == "oneprompt" else 2) for name in METHODS])
def test_query_passes_count_and_are_as_many_as_counted(name: str, passes: int) -> None:
    """By hooks on the blocks: every image goes through the first block as often as the budget says."""
    run = run_of(name, epochs=1)
    inner: Any = next(m for m in run.model.modules() if isinstance(m, Prompted)).inner
    seen = [0]

    def count(module: nn.Module, given: Any, made: Tensor) -> None:
        seen[0] += len(made)

    hook = inner.blocks[0].mlp.register_forward_hook(count)
    out = run.forward(run.normalise(run.benchmark.train[0].data.x()[:7]))
    hook.remove()
    assert (run.forwards, seen[0]) == (7 * passes, 7 * passes)
    assert len(out.logits) == 7
    run.forwards = 0
    run.fit()
    assert run.budget()["forward_examples"] == passes * run.examples


# --- what is refused ---


@pytest.mark.parametrize("name", METHODS)
def test_another_network_is_refused_by_name(name: str) -> None:
    model = make_model("slim-resnet18", (1, 4, 4), 6)
    with pytest.raises(IncompatibleError, match=r"timm VisionTransformer, such as .*_ResNet"):
        tiny_run(make_strategy(name), tiny_benchmark(images=True), model=model)


def test_other_blocks_are_refused_by_name() -> None:
    from timm.models.vision_transformer import ParallelThingsBlock

    benchmark = tiny_benchmark(images=True)
    for options, says in (
        ({"block_fn": ParallelThingsBlock}, "this one has ParallelThingsBlock"),
        ({"attn_layer": "diff", "num_heads": 2}, "Block with DiffAttention"),
    ):
        model = Classifier(vit(**options), 12, benchmark.num_classes)
        with pytest.raises(IncompatibleError, match=says):
            tiny_run(make_strategy("oneprompt"), benchmark, model=model)


@pytest.mark.parametrize("name", ["dualprompt", "oneprompt", "mvp"])
def test_blocks_that_are_not_there_are_refused(name: str) -> None:
    benchmark = tiny_benchmark(images=True)
    with pytest.raises(
        IncompatibleError, match=r"the blocks 0, 1, 2, 3, 4; this transformer has the blocks 0 to 1"
    ):
        tiny_run(make_strategy(name), benchmark, model=tiny_vit(benchmark))


def test_two_prompt_methods_are_refused() -> None:
    with pytest.raises(IncompatibleError, match="another part of the chain has done so already"):
        subject("oneprompt+l2p").run(tiny_benchmark(images=True))


# --- sizes ---


@pytest.mark.parametrize(
    ("name", "params", "width", "expected"),
    [
        ("oneprompt", {}, 768, 107_520),
        ("oneprompt", {}, 192, 26_880),
        ("coda-prompt", {}, 768, 3_840_000),
        ("coda-prompt", {}, 192, 960_000),
        ("dualprompt", {"variant": "coda"}, 768, 493_056),
        ("dualprompt", {"variant": "coda"}, 192, 123_264),
        ("l2p", {"variant": "coda"}, 768, 483_840),
        ("l2p", {}, 192, 21_120),
        ("mvp", {}, 768, 477_160),
    ],
)
def test_parameters_that_are_learned_beside_the_head(
    name: str, params: dict[str, Any], width: int, expected: int
) -> None:
    """Of ten experiences and 100 classes, as wide as ViT-B and ViT-tiny."""
    torchvision()
    benchmark = tiny_benchmark(images=True, experiences=10, classes=10, examples=10)
    network = vit(embed_dim=width, depth=5, num_heads=3, mlp_ratio=0.01)
    run = tiny_run(make_strategy(name, **params), benchmark, model=Classifier(network, width, 100))
    head = sum(p.numel() for p in (run.model.head.get_parameter(n) for n in linear_names(run)))
    assert sum(p.numel() for p in run.parameters().values()) - head == expected
    assert head == 100 * width + 100


def linear_names(run: Engine) -> list[str]:
    """The parameters of the linear head itself, without masks."""
    return [
        name for name, _ in run.model.head.named_parameters() if name.split(".")[-1] in ("weight", "bias")
    ]


def test_one_shared_prefix_reaches_every_image() -> None:
    rows = normal(4, 12)
    prompts = Shared({0: rows})(torch.zeros(3, 0))
    keys, values = prompts.prefixes[0]
    assert torch.equal(keys, rows[:2].expand(3, -1, -1))
    assert torch.equal(values, rows[2:].expand(3, -1, -1))
    assert prompts.note is None


def test_cosines_are_those_of_torch() -> None:
    from clbench.parts import cosines

    q, k = normal(4, 6), normal(3, 6, seed=3)
    torch.testing.assert_close(cosines(q, k), F.cosine_similarity(q[:, None], k[None], dim=2))
