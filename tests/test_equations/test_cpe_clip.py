"""CPE-CLIP: λ_t on the gradients, −9999 for earlier classes in training, names that are told one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Strategy, chain, make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.machine.optim import schedule_factor
from clbench.models import Classifier
from clbench.models.clip import Clip
from clbench.testing import tiny_benchmark, tiny_clip, tiny_model, tiny_run
from clbench.types import Benchmark


def a_run(benchmark: Benchmark | None = None, *extra: Strategy, **params: Any) -> Engine:
    made = make_strategy("cpe-clip", **params)
    return tiny_run(
        chain(made, *extra) if extra else made, benchmark or tiny_benchmark(images=True), epochs=1
    )


def part(run: Engine) -> Any:
    return run.strategy.parts[0]


def scaled(run: Engine) -> list[Tensor]:
    prompted = part(run).prompted
    return [prompted.prompts, prompted.projection.weight, prompted.projection.bias]


class Compare(Strategy):
    """Gradients before and after those of the chain's parts before it."""

    def __init__(self) -> None:
        self.raw: list[Tensor] = []
        self.ratios: list[list[Tensor]] = []

    def gradient(self, batch: Any, inner: Any) -> Any:
        out = inner(batch)
        self.raw = [t.grad.clone() for t in scaled(self.run)]
        return out

    def gradients(self) -> None:
        self.ratios.append([t.grad / g for t, g in zip(scaled(self.run), self.raw, strict=True)])


def test_gradients_are_scaled_by_the_share_of_new_classes() -> None:
    """2 classes an experience: 1, 2/4, 2/6, exactly."""
    compare = Compare()
    run = a_run(None, compare)
    run.fit()
    assert len(compare.ratios) == 6  # three experiences of two batches
    for step, ratios in enumerate(compare.ratios):
        share = (1.0, 2 / 4, 2 / 6)[step // 2]
        for ratio in ratios:
            known = ratio[ratio.isfinite()]
            assert known.numel()
            assert torch.allclose(known, torch.tensor(share), rtol=1e-6)


def test_the_shares_of_the_published_protocols() -> None:
    """Of 60 + 8 × 5 classes from 5/65 to 0.05, of 100 + 10 × 10 from 10/110 to 0.05."""
    for first, ways, wanted in ((60, 5, [0.0769, 0.0714, 0.0667, 0.0625, 0.0588, 0.0556, 0.0526, 0.05]),):
        shares = []
        run = a_run()
        method, prompts = part(run), part(run).prompted.prompts
        method.counts = [first]
        for _ in wanted:
            method.counts.append(ways)
            prompts.grad = torch.ones_like(prompts)
            method.gradients()
            shares.append(prompts.grad.unique().item())
        assert shares == pytest.approx(wanted, abs=5e-5)
    method.counts = [100, *[10] * 10]
    prompts.grad = torch.ones_like(prompts)
    method.gradients()
    assert prompts.grad.unique().item() == pytest.approx(0.05)


def test_without_scaling_and_with_adam() -> None:
    compare = Compare()
    run = a_run(None, compare, scale=False)
    run.fit()
    assert all(bool((r[r.isfinite()] == 1).all()) for ratios in compare.ratios for r in ratios)
    benchmark = tiny_benchmark(images=True)
    adam = OptimConfig(name="adam", lr=0.01)
    with pytest.raises(
        IncompatibleError, match=r"scales gradients, which adam divides out again; set optim\.name=sgd"
    ):
        tiny_run(make_strategy("cpe-clip"), benchmark, optim=adam)
    tiny_run(make_strategy("cpe-clip", scale=False), benchmark, optim=adam)


def test_as_many_parameters_as_published() -> None:
    """CLIP ViT-B/16: 12 · 2 · 512 prompts, and 512 · 768 + 768 of the projection."""
    with torch.device("meta"):
        clip = Clip(
            {"vision_config": {"patch_size": 16}}, lambda texts: (torch.zeros(1, 3), torch.ones(1, 3))
        )
    run = a_run()
    method = type(part(run))(12, 2, "accumulate", True)
    method.run = run
    prompted = method.put_into(clip)
    trained = {name: p for name, p in prompted.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == 406_272
    assert trained["prompts"].shape == (12, 2, 512)
    bound = (6 / (2 * 512 + 12 * 512)) ** 0.5  # Xavier: fans of L · 512 and D · 512
    assert trained["prompts"].abs().max() <= bound
    assert trained["prompts"].std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_training_is_among_the_present_classes_and_prediction_among_the_seen() -> None:
    run = a_run()
    names, exps = run.benchmark.class_names, run.benchmark.train
    x = run.normalise(exps[0].data.x()[:5])
    method, prompted = part(run), part(run).prompted
    for exp in exps[:2]:
        method.begin_experience(exp)
    run.model.train()
    out = run.forward(x)
    assert out.logits.shape == (5, 6)
    assert (out.logits[:, :2] == -9999).all()
    tokens = prompted.encoder.tokenise([f"{names[c]}." for c in (2, 3)])
    wanted = 100 * prompted(x) @ prompted.text(tokens).T
    assert torch.allclose(out.logits[:, 2:4], wanted, atol=1e-4)
    y = torch.tensor([2, 3, 2, 3, 2])
    assert torch.allclose(F.cross_entropy(out.logits, y), F.cross_entropy(wanted, y - 2), rtol=1e-5)
    (grad,) = torch.autograd.grad(F.cross_entropy(out.logits, y), out.logits)
    assert (grad[:, [0, 1, 4, 5]] == 0).all()
    with torch.no_grad(), run.evaluating():
        seen = run.forward(x).logits
    assert (seen[:, :4].abs() <= 100.001).all()
    assert (seen[:, 4:] == -1e4).all()


def test_the_order_of_classes_permutes_logits_and_nothing_else() -> None:
    benchmark = tiny_benchmark(images=True)
    order = [3, 0, 5, 1, 4, 2]
    renamed = replace(benchmark, class_names=tuple(benchmark.class_names[c] for c in order))
    x, found = None, []
    for given in (benchmark, renamed):
        run = a_run(given)
        for exp in given.train:
            part(run).begin_experience(exp)
        x = run.normalise(given.test[0].data.x())
        with torch.no_grad(), run.evaluating():
            found.append(run.forward(x).logits)
    assert torch.allclose(found[0][:, order], found[1], atol=1e-4)


def test_kept_names_are_those_of_the_present_weights() -> None:
    """They are embedded again after an update, in another mode, and in a copy."""
    run = a_run()
    part(run).begin_experience(run.benchmark.train[0])
    x = run.normalise(run.benchmark.test[0].data.x())

    def logits(model: Any) -> Tensor:
        with torch.no_grad():
            return model.head(model.features(x))[:, :2]

    run.model.eval()
    before = logits(run.model)
    copy = run.frozen()
    with torch.no_grad():
        part(run).prompted.prompts.add_(0.5)
    after = logits(run.model)
    prompted = part(run).prompted
    tokens = prompted.encoder.tokenise([f"{name}." for name in run.benchmark.class_names[:2]])
    with torch.no_grad():
        assert torch.allclose(after, 100 * prompted(x) @ prompted.text(tokens).T, atol=1e-4)
    assert not torch.allclose(before, after, atol=1e-2)
    assert torch.equal(logits(copy), before)


def test_the_learning_rate_goes_by_pass() -> None:
    """A cycle of 200 passes with a rise of 50, from 0.001 to 0.1: 0.001 + 0.00198 k in the first passes."""
    optim = OptimConfig(lr=0.1, schedule="restarts", cycle=200, rise=50, floor=0.01)
    rates = [optim.lr * schedule_factor(optim, step, 15, epochs=5) for step in range(15)]
    wanted = [0.001, 0.00298, 0.00496, 0.00694, 0.00892]
    assert rates == pytest.approx([r for r in wanted for _ in range(3)])
    by_pass = [optim.lr * schedule_factor(optim, step, 400, epochs=400) for step in range(400)]
    assert by_pass[50] == pytest.approx(0.1)
    assert by_pass[125] == pytest.approx(0.0505)
    assert by_pass[:200] == pytest.approx(by_pass[200:])
    assert min(by_pass) == pytest.approx(0.001)


def test_what_it_needs() -> None:
    benchmark = tiny_benchmark(images=True)
    with pytest.raises(
        IncompatibleError, match="a dual encoder such as model=clip or model=toy-clip; the backbone is"
    ):
        tiny_run(make_strategy("cpe-clip"), benchmark, model=tiny_model(benchmark))
    with pytest.raises(IncompatibleError, match="tells classes by their names; tiny names 0 of 6"):
        tiny_run(make_strategy("cpe-clip"), replace(benchmark, class_names=()))


@pytest.mark.parametrize("name", ["cpe-clip", "zero-shot", "align"])
def test_what_is_trained(name: str) -> None:
    """Prompts and projection; nothing; the image tower."""
    benchmark = tiny_benchmark(images=True)
    model: Classifier = tiny_clip(benchmark)
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    run = tiny_run(make_strategy(name), benchmark, model=model, optim=OptimConfig(lr=1e-4))
    run.fit()
    backbone: Any = run.model.backbone
    encoders = {"cpe-clip": lambda: part(run).prompted.encoder, "zero-shot": lambda: backbone.inner}
    encoder = encoders.get(name, lambda: backbone)()
    moved = {k for k, v in encoder.state_dict().items() if not torch.equal(v, before[k])}
    if name == "align":
        assert moved
        assert all(k.startswith(("vision_model", "visual_projection")) for k in moved)
    else:
        assert not moved
    assert run.updates == (0 if name == "zero-shot" else run.step)


def test_aligning_learns() -> None:
    benchmark = tiny_benchmark(images=True, experiences=1, classes=4)
    run = tiny_run(
        make_strategy("align"), benchmark, epochs=30, batch_size=16, optim=OptimConfig(name="adam", lr=3e-3)
    )
    run.fit()
    curve = run.evaluator.curve
    assert curve.correct[-1] > 0.9 * curve.total[-1]


def test_batches_of_later_experiences_may_be_smaller() -> None:
    benchmark = tiny_benchmark(images=True)
    run = tiny_run(make_strategy("cpe-clip"), benchmark, epochs=1)
    run.config = run.config.model_copy(
        update={"train": run.config.train.model_copy(update={"later_batch_size": 8})}
    )
    run.fit()
    assert run.step == 2 + 8 + 8
