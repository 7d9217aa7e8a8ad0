"""iCaRL: BCE with σ(f_old) as targets of old classes, herding, ⌊M / C⌋ exemplars a class, nearest mean."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from clbench.strategies.icarl import class_means, herd
from torch import Tensor

from clbench import Batch, make_strategy
from clbench.parts import binary_loss
from clbench.runs.building import build_strategy
from clbench.testing import tiny_benchmark, tiny_run, watch
from clbench.types import MASKED


def by_hand(z: Tensor, y: list[int], seen: list[int], old: list[int], teacher: Tensor | None) -> float:
    terms = []
    for row in range(len(z)):
        for c in seen:
            target = float(y[row] == c)
            if teacher is not None and c in old:
                target = 1 / (1 + float(torch.exp(-teacher[row, c])))
            p = 1 / (1 + float(torch.exp(-z[row, c])))
            terms.append(-target * torch.tensor(p).log() - (1 - target) * torch.tensor(1 - p).log())
    return float(sum(terms) / len(terms))  # type: ignore[arg-type]


def mask(classes: list[int], n: int) -> Tensor:
    return torch.tensor([c in classes for c in range(n)])


def test_loss_by_hand() -> None:
    """Outputs 0 for two of four classes: log 2. A teacher that says 0 halves its classes' targets."""
    z, y = torch.zeros(3, 4), torch.tensor([0, 1, 1])
    assert float(binary_loss(z, y, mask([0, 1], 4), mask([], 4), None)) == pytest.approx(0.6931472)
    z[:, 2] = 1.0  # softplus(1) = 1.3132617; target ½: 0.8132617; label 0: 1.3132617
    old = binary_loss(z, y, mask([1, 2], 4), mask([2], 4), torch.zeros(3, 4))
    assert float(old) == pytest.approx((0.6931472 + 0.8132617) / 2)
    new = binary_loss(z, y, mask([1, 2], 4), mask([], 4), torch.zeros(3, 4))
    assert float(new) == pytest.approx((0.6931472 + 1.3132617) / 2)


@pytest.mark.parametrize("seed", [0, 1])
def test_loss_on_random_numbers(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z, teacher = torch.randn((2, 9, 7), generator=generator).double()
    y = torch.randint(5, (9,), generator=generator)
    for old, of in (([], None), ([0, 3], teacher)):
        ours = binary_loss(z, y, mask([0, 1, 2, 3, 4], 7), mask(old, 7), of)
        assert float(ours) == pytest.approx(by_hand(z, y.tolist(), [0, 1, 2, 3, 4], old, of), rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_herding(seed: int) -> None:
    """Against the definition, row by row."""
    phi = torch.randn((30, 5), generator=torch.Generator().manual_seed(seed))
    chosen: list[int] = []
    for k in range(1, 13):
        costs = {
            i: float((phi.mean(0) - (phi[i] + sum(phi[j] for j in chosen)) / k).norm())
            for i in range(30)
            if i not in chosen
        }
        chosen.append(min(costs, key=costs.__getitem__))
    assert herd(phi, 12).tolist() == chosen
    assert sorted(herd(phi, 99).tolist()) == list(range(30))
    spread = [float((phi[herd(phi, 12)[:k]].mean(0) - phi.mean(0)).norm()) for k in (1, 12)]
    assert spread[1] < 0.2 * spread[0]


def test_class_means() -> None:
    means = class_means(torch.tensor([[1.0, 2], [3, 4], [10, 20]]), torch.tensor([2, 2, 0]), 4)
    assert means.tolist() == [[10, 20], [0, 0], [2, 3], [0, 0]]


def recorded(name: str = "icarl", memory: int = 20, **how: Any) -> tuple[Any, list[tuple[int, Batch, float]]]:
    """A run, and the experience, batch and loss of every step."""
    steps: list[tuple[int, Batch, float]] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        result = call()
        if point == "losses" and "fit" in result:
            steps.append((run.experience, arguments[0], float(result["fit"].detach())))
        return result

    strategy = watch(build_strategy(name, {"icarl": {"memory": memory}}), probe)
    run = tiny_run(strategy, tiny_benchmark(images=True, **how), batch_size=16, epochs=4)
    run.fit()
    return run, steps


def test_memory_is_shared_out_evenly() -> None:
    run, _ = recorded(memory=20)
    memory = run.strategy.parts[0].memory
    assert Counter(memory["y"].tolist()) == dict.fromkeys(range(6), 3)
    assert len(memory) == 18


def test_old_classes_keep_their_first_exemplars() -> None:
    kept: list[dict[int, list[bytes]]] = []
    strategy = make_strategy("icarl", memory=20)

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        call()
        if point == "end_experience":
            x, y = strategy.memory["x"], strategy.memory["y"].tolist()  # type: ignore[attr-defined]
            kept.append(
                {c: [r.numpy().tobytes() for r, k in zip(x, y, strict=True) if k == c] for c in set(y)}
            )

    watch(strategy, lambda p, a, c: probe(p, a, c) if p == "end_experience" else c())
    tiny_run(strategy, tiny_benchmark(images=True), batch_size=16, epochs=2).fit()
    assert [len(rows) for rows in kept[0].values()] == [10, 10]
    for before, after in itertools.pairwise(kept):
        for c, rows in before.items():
            assert after[c] == rows[: len(after[c])]


def test_exemplars_are_those_of_herding() -> None:
    run, _ = recorded(memory=12)
    data = run.train[2].data
    with torch.no_grad(), run.evaluating():
        phi = run.model.features(run.normalise(data.x()))
    memory = run.strategy.parts[0].memory
    for c in (4, 5):
        rows = (data.y() == c).nonzero().squeeze(1)
        expected = data.x()[rows[herd(phi[rows], 2)]]
        assert torch.equal(memory["x"][memory["y"] == c], expected)


def test_each_exemplar_comes_once_a_pass() -> None:
    """Two experiences' exemplars are dealt out over the four batches of each pass."""
    _, steps = recorded(memory=21)
    for experience, held in ((1, 20), (2, 20)):
        batches = [batch for e, batch, _ in steps if e == experience]
        for first in range(0, 16, 4):
            rows = Counter(r.numpy().tobytes() for b in batches[first : first + 4] for r in b.raw[b.new :])
            assert sum(rows.values()) == held
            assert set(rows.values()) <= {1, 2}  # two exemplars may be the same picture
        assert {len(b) - b.new for b in batches} == {held // 4}
    assert all(len(batch) == 16 for e, batch, _ in steps if e == 0)


def test_prediction_is_the_nearest_mean() -> None:
    run, _ = recorded(memory=30)
    memory = run.strategy.parts[0].memory
    x = torch.cat([run.normalise(exp.data.x()) for exp in run.benchmark.test])
    with torch.no_grad(), run.evaluating():
        scores = run.predict(x, torch.full((len(x),), -1))
        phi, psi = run.model.features(x), run.model.features(run.normalise(memory["x"]))
    means = torch.stack([psi[memory["y"] == c].mean(0) for c in range(6)])
    expected = torch.stack([((row - means) ** 2).sum(1).argmin() for row in phi])
    assert torch.equal(scores.argmax(1), expected)


@pytest.mark.parametrize(("memory", "held"), [(6, [6, 4, 6]), (5, [4, 4, 0]), (3, [2, 0, 0]), (1, [0, 0, 0])])
def test_with_less_memory_than_classes_it_is_emptied_and_outputs_decide(memory: int, held: list[int]) -> None:
    """⌊M / C⌋ exemplars of each of 2, 4 and 6 classes; where that is none, σ(f(x)) decides among the seen."""
    sizes: list[int] = []
    strategy = make_strategy("icarl", memory=memory)

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        result = call()
        if point == "end_experience":
            sizes.append(len(strategy.memory))  # type: ignore[attr-defined]
            x = torch.cat([run.normalise(exp.data.x()) for exp in run.benchmark.test])
            with torch.no_grad(), run.evaluating():
                scores = run.predict(x, torch.full((len(x),), -1))
                outputs = run.model(x)
            seen = 2 * len(sizes)
            assert (scores[:, seen:] == MASKED).all()
            if not sizes[-1]:
                torch.testing.assert_close(scores[:, :seen], outputs[:, :seen])
        return result

    watch(strategy, probe)
    run = tiny_run(strategy, tiny_benchmark(images=True), batch_size=16, epochs=2)
    run.fit()
    assert sizes == held


def test_a_class_without_exemplars_is_never_the_nearest() -> None:
    """Its mean would be 0, to which features near the origin are nearer than to any other."""
    run, _ = recorded(memory=12)
    part = run.strategy.parts[0]
    rows = part.memory["y"] != 3
    part.memory.keep(**{name: part.memory[name][rows].clone() for name in ("x", "y", "task")})
    part.means = None
    x = torch.cat([run.normalise(exp.data.x()) for exp in run.benchmark.test])
    with torch.no_grad(), run.evaluating():
        scores = run.predict(x, torch.full((len(x),), -1))
    assert (scores[:, 3] == MASKED).all()
    assert (scores[:, [0, 1, 2, 4, 5]] > MASKED).all()


def test_losses_of_a_run() -> None:
    """The first step of the second experience, from the model as the first one left it."""
    found: list[tuple[float, float]] = []
    strategy = make_strategy("icarl", memory=20)

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        result = call()
        if point == "losses" and run.experience == 1:
            batch, out = arguments
            with torch.no_grad():
                teacher = strategy.teacher(batch.x)  # type: ignore[attr-defined]
            assert not strategy.teacher.training  # type: ignore[attr-defined]
            expected = by_hand(out.logits.detach(), batch.y.tolist(), [0, 1, 2, 3], [0, 1], teacher)
            found.append((float(result["fit"].detach()), expected))
        return result

    watch(strategy, probe)
    run = tiny_run(strategy, tiny_benchmark(images=True), batch_size=16, epochs=1)
    run.fit()
    assert len(found) == 4
    for ours, expected in found:
        assert ours == pytest.approx(expected, rel=1e-4)


def test_view_batches_show_exemplars_in_views() -> None:
    run, steps = recorded("icarl+view-batch", memory=40)
    for experience, batch, _ in steps:
        joined = batch.raw[batch.new :]
        assert len(joined) == (10 if experience else 0)
        for group in (joined[:4], joined[4:8]) if experience else ():
            assert torch.equal(group, group[:1].expand_as(group))
    assert Counter(run.strategy.parts[0].memory["y"].tolist()) == dict.fromkeys(range(6), 6)
