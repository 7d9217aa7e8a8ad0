"""OnePrompt: the same prefixes for all images, one pass, trained by every experience."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clbench import make_strategy
from clbench.parts import Prompts, TimmBlocks
from clbench.parts.prompts import through_blocks
from clbench.testing import tiny_benchmark, tiny_run, tiny_vit


def test_every_image_gets_the_same_prefix() -> None:
    benchmark = tiny_benchmark(images=True)
    strategy = make_strategy("oneprompt", early=2, late=6, early_layers=(0,), late_layers=(1,))
    run = tiny_run(strategy, benchmark, model=tiny_vit(benchmark))
    prompts: Any = run.model.backbone.prompter.prompts  # type: ignore[union-attr]
    assert [tuple(p.shape) for p in prompts.values()] == [(2, 32), (6, 32)]
    assert all(p.min() >= 0 and p.max() < 1 for p in prompts.values())
    x = run.normalise(benchmark.train[0].data.x()[:3])
    prefixes = {
        i: (prompts[str(i)][:half].expand(3, -1, -1), prompts[str(i)][half:].expand(3, -1, -1))
        for i, half in ((0, 1), (1, 3))
    }
    inner: Any = run.model.backbone.inner  # type: ignore[union-attr]
    blocks = TimmBlocks(inner)
    expected = inner.norm(through_blocks(blocks, blocks.embed(x), Prompts(prefixes=prefixes)).x)[:, 0]
    out = run.forward(x)
    torch.testing.assert_close(out.features, expected)
    before = {name: p.detach().clone() for name, p in prompts.items()}
    run.fit()
    assert not any(torch.equal(p, before[name]) for name, p in prompts.items())


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"early": 3}, "'early' takes a whole number ≥ 2 and a multiple of 2; 3 was given"),
        ({"early_layers": (0, 2)}, "a block is early or late; 2 is both"),
    ],
)
def test_settings_that_make_no_sense_are_refused(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_strategy("oneprompt", **params)
