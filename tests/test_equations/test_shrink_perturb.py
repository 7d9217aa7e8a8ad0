"""Shrink and perturb: θ ← λ θ + σ ξ when an experience but the first begins."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clbench import Experience, Strategy, chain, make_strategy
from clbench.testing import tiny_benchmark, tiny_run, watch


def begun(**params: float) -> list[tuple[Tensor, Tensor]]:
    """All weights at the end of each experience but the last, and when the next one begins."""
    ends: list[Tensor] = []
    begins: list[Tensor] = []

    class Record(Strategy):
        def begin_experience(self, exp: Experience) -> None:
            begins.append(torch.cat([p.detach().flatten() for p in self.run.parameters().values()]))

        def end_experience(self, exp: Experience) -> None:
            ends.append(torch.cat([p.detach().flatten() for p in self.run.parameters().values()]))

    tiny_run(chain(make_strategy("finetune+shrink-perturb", **params), Record()), tiny_benchmark()).fit()
    return list(zip(ends[:-1], begins[1:], strict=True))


def test_weights_shrink() -> None:
    for end, begin in begun(shrink=0.25, noise=0.0):
        assert torch.equal(begin, 0.25 * end)


def test_noise_may_be_the_weights_of_a_network_anew() -> None:
    """As torch initialises layers: linear ones within ±1/√inputs, BatchNorm with 1 and 0; its statistics begin anew."""
    strategy = make_strategy("finetune+shrink-perturb", shrink=0.5, noise=0.1, of="network")
    ends: list[dict[str, Tensor]] = []
    begins: list[dict[str, Tensor]] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point != "begin_experience":
            return call()
        ends.append({name: v.clone() for name, v in run.model.state_dict().items()})
        call()
        begins.append({name: v.clone() for name, v in run.model.state_dict().items()})
        return None

    watch(strategy.parts[1], probe)
    run = tiny_run(strategy, tiny_benchmark(experiences=2))
    run.fit()
    assert ends[1]["backbone.2.num_batches_tracked"] > 0
    assert torch.equal(begins[1]["backbone.2.running_mean"], torch.zeros(16))
    assert torch.equal(begins[1]["backbone.2.running_var"], torch.ones(16))
    assert begins[1]["backbone.2.num_batches_tracked"] == 0
    fresh = {
        name: (begins[1][name] - 0.5 * ends[1][name]) / 0.1 for name in dict(run.model.named_parameters())
    }
    torch.testing.assert_close(fresh["backbone.2.weight"], torch.ones(16), rtol=0, atol=1e-5)
    torch.testing.assert_close(fresh["backbone.2.bias"], torch.zeros(16), rtol=0, atol=1e-5)
    for name, inputs in (("backbone.1.weight", 8), ("head.weight", 16)):
        assert 0.7 * inputs**-0.5 < fresh[name].abs().max() <= 1.001 * inputs**-0.5
    assert torch.equal(begins[0]["head.weight"], ends[0]["head.weight"])


def test_noise_is_standard_normal() -> None:
    """Of some 300 draws, mean and deviation within 5 of their standard errors; and not the same twice."""
    draws = [(begin - 0.5 * end) / 0.1 for end, begin in begun(shrink=0.5, noise=0.1)]
    for xi in draws:
        n = len(xi)
        assert abs(xi.mean()) < 5 / n**0.5
        assert abs(xi.std() - 1) < 5 / (2 * n) ** 0.5
    assert not torch.equal(draws[0], draws[1])
