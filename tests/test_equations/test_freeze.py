"""Freezing: exactly the named parameters move, and buffers of a frozen backbone do not."""

from __future__ import annotations

import pytest
import torch

from clbench import make_model, make_strategy
from clbench.testing import tiny_benchmark, tiny_run


def changed(strategy: str, **params: object) -> set[str]:
    run = tiny_run(make_strategy(strategy, **params), tiny_benchmark())
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.fit()
    return {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}


def test_head_only_moves_no_statistics() -> None:
    assert changed("finetune+freeze") == {"head.weight", "head.bias"}


def test_linear_probe_is_the_same() -> None:
    assert changed("linear-probe") == {"head.weight", "head.bias"}


def test_encoder_leaves_the_head() -> None:
    names = changed("finetune+freeze", train="encoder")
    assert names
    assert not any(name.startswith("head.") for name in names)


@pytest.mark.parametrize("strategy", ["finetune+freeze", "l2+freeze"])
def test_attention_of_a_transformer(strategy: str) -> None:
    """Weight and bias of qkv in every block and the head; nothing else, the rest to the bit."""
    benchmark = tiny_benchmark(images=True, experiences=1)
    model = make_model("test_vit", benchmark.input_shape, benchmark.num_classes, patch_size=2)
    run = tiny_run(make_strategy(strategy, train="qkv"), benchmark, model=model, epochs=1)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.fit()
    moved = {n for n, value in run.model.state_dict().items() if not torch.equal(value, before[n])}
    assert moved == {n for n in before if ".qkv." in n or n.startswith("head.")}
