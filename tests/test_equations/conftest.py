"""What equation tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from clbench.data import few_shot
from clbench.transforms.augment import Transform
from clbench.types import Benchmark, Pool, Setting

FewShot = Callable[..., Benchmark]


@pytest.fixture
def few_shot_benchmark() -> FewShot:
    """Four base classes of 24 examples, then two sessions of two classes with three each; or as asked for."""

    def build(shots: int = 3, images: bool = False, seed: int = 0) -> Benchmark:
        generator = torch.Generator().manual_seed(seed)
        means = torch.randn((8, 16), generator=generator) * 2

        def pool(each: int) -> Pool:
            y = torch.arange(8).repeat_interleave(each)
            x = means[y] + 0.5 * torch.randn((len(y), 16), generator=generator)
            if images:
                x = (x * 24 + 128).clamp(0, 255).to(torch.uint8).view(-1, 1, 4, 4)
            return Pool(x, y)

        streams = few_shot(pool(24), pool(10), base=4, ways=2, shots=shots, seed=seed)
        transform = Transform(mean=(0.5,), std=(0.25,)) if images else Transform()
        return Benchmark(
            "tiny-few-shot", 1, Setting(memory=0), streams.train, streams.test, 8, transform, seed=seed
        )

    return build
