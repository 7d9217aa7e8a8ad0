"""SimpleCIL: the cosine to means of features as they are, which is neither that of scaled features nor a distance."""

from __future__ import annotations

from dataclasses import replace

import torch
from clbench.strategies.simple_cil import scores
from torch import Tensor

from clbench import make_strategy
from clbench.parts import ClassSums
from clbench.testing import tiny_benchmark, tiny_run
from clbench.types import Stream


def sines(*shape: int, a: float, f: float = 1.0) -> Tensor:
    """The tensor whose entry with index i is sin(a + f·i)."""
    return torch.sin(a + f * torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).view(shape)


def test_scores_of_the_reference() -> None:
    """Numbers of the authors' classifier, of features whose means differ from those of scaled ones."""
    x = sines(6, 4, a=1) * torch.tensor([1.0, 5, 1, 3, 1, 1], dtype=torch.float64).unsqueeze(1)
    classes = ClassSums(3, 4)
    classes.add(x, torch.tensor([0, 0, 1, 1, 2, 2]))
    expected = [-1.976575194, -0.243890032, 1.713026501, 2.094994369]
    torch.testing.assert_close(
        classes.means()[0], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8
    )
    found = scores(sines(2, 4, a=2.5), classes)
    expected_scores = torch.tensor(
        [[-0.909399683, 0.043954487, 0.600671172], [0.132190078, 0.822214960, -0.996573680]],
        dtype=torch.float64,
    )
    torch.testing.assert_close(found, expected_scores, rtol=0, atol=1e-8)


def test_a_class_that_comes_again_has_the_mean_of_all_its_examples() -> None:
    benchmark = tiny_benchmark(experiences=2, classes=2, repeat=True)
    run = tiny_run(make_strategy("simple-cil"), benchmark)
    run.fit()
    both = torch.cat([exp.data.x()[exp.data.y() == 0] for exp in benchmark.train])
    with torch.no_grad(), run.evaluating():
        mean = run.model.features(run.normalise(both)).double().mean(0)
    torch.testing.assert_close(run.strategy.parts[-1].classes.means()[0], mean, rtol=1e-6, atol=1e-7)


def test_passes_and_order_make_no_difference() -> None:
    benchmark, found = tiny_benchmark(), []
    for order, epochs in (([0, 1, 2], 1), ([2, 0, 1], 3)):
        experiences = tuple(replace(benchmark.train[k], index=i, tests=(k,)) for i, k in enumerate(order))
        stream = replace(benchmark, train=Stream("train", experiences))
        run = tiny_run(make_strategy("simple-cil"), stream, epochs=epochs)
        run.fit()
        found.append(run.strategy.parts[-1].classes.means())
    torch.testing.assert_close(
        found[0], found[1], rtol=1e-7, atol=1e-8
    )  # features are float32, of other batches
