"""Which class has which number decides nothing: equal scores name no class."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from clbench import Benchmark
from clbench.evaluation.ticker import named
from clbench.models import Classifier
from clbench.registry import strategies
from clbench.results import metrics
from clbench.results.curve import Curve
from clbench.testing import subject, tiny_benchmark, tiny_model
from clbench.testing.tiny import KINDS
from clbench.types import IGNORED, MASKED, Data, Pool, Stream

DRAWS = {
    **dict.fromkeys(
        ("ewc", "rft"), "it draws labels from the model, and a draw goes through the classes by number"
    ),
    "lamol": "classes are tokens: labels, and inputs",
    "shrink-perturb": "a fresh head is drawn row by row",
    "lingo": "rows that are no names are drawn class by class",
    "slca": "features of old classes are drawn class by class",
}
"""What draws by class number is, after relabelling, another draw."""


def relabelled(benchmark: Benchmark, new: Tensor) -> Benchmark:
    """The same examples in the same order, of class new[c] (C,) in place of c."""

    def data(old: Data) -> Data:
        return Data(tuple((Pool(pool.x, called(pool.y)), rows, change) for pool, rows, change in old.parts))

    def called(y: Tensor) -> Tensor:
        return torch.where(y == IGNORED, y, new[y])

    def stream(old: Stream) -> Stream:
        classes = [tuple(sorted(int(new[c]) for c in exp.classes)) for exp in old]
        return Stream(
            old.name,
            tuple(replace(e, classes=c, data=data(e.data)) for e, c in zip(old, classes, strict=True)),
        )

    names = tuple(benchmark.class_names[old] for old in new.argsort().tolist())
    return replace(benchmark, train=stream(benchmark.train), test=stream(benchmark.test), class_names=names)


AS_THEY_ARE, OTHERWISE = (0, 1, 2, 3, 4, 5), (3, 5, 4, 1, 0, 2)


@functools.cache
def curve_of(name: str, renamed: tuple[int, ...]) -> Curve:
    """Of a tiny run with classes renamed, the outputs of the fresh network with them."""
    new = torch.tensor(renamed)
    make = KINDS.get(subject(name).architecture, tiny_model)

    def model(benchmark: Benchmark) -> Classifier:
        made = make(benchmark)
        with torch.no_grad():
            for parameter in made.head.parameters():
                if len(parameter) == len(new):
                    parameter.copy_(parameter[new.argsort()].clone())
        return made

    under_test = subject(name, model=model)
    run = under_test.fitted(relabelled(under_test.benchmark(), new), every=1)
    return run.evaluator.curve


@pytest.mark.parametrize("name", [name for name in strategies.names() if name not in DRAWS])
def test_relabelling_changes_no_metric(name: str) -> None:
    plain, other = (metrics.compute(curve_of(name, new)) for new in (AS_THEY_ARE, OTHERWISE))
    assert other == pytest.approx(plain, abs=1e-12)


@pytest.mark.parametrize("name", strategies.names())
def test_an_experience_ends_with_a_tick_of_what_its_full_evaluation_sees(name: str) -> None:
    curve = curve_of(name, AS_THEY_ARE)
    for i in range(curve.experiences):
        full = curve.full & (curve.experience == i) & (curve.learned[curve.evaluated] <= i)
        tick = ~curve.full & (curve.step == curve.step[full][0])
        assert curve.correct[tick].tolist() == curve.correct[full].tolist()


@pytest.mark.parametrize("name", ["ncm", "scr", "pcr", "growing-head"])
def test_what_cannot_name_classes_to_come_transfers_nothing_to_them(name: str) -> None:
    for new in (AS_THEY_ARE, (2, 3, 0, 1, 4, 5), OTHERWISE):
        assert metrics.compute(curve_of(name, new))["forward_transfer"] == 0


@pytest.mark.parametrize(
    ("scores", "right"),
    [
        ([1.0, 2.0, 0.0], [False, True, False]),
        ([2.0, 2.0, 0.0], [False, False, False]),
        ([1.0, 2.0, 1.0], [False, True, False]),
        ([MASKED, MASKED, MASKED], [False, False, False]),
        ([0.0, MASKED, MASKED], [True, False, False]),
        ([-torch.inf, -torch.inf, 0.0], [False, False, True]),
        ([torch.inf, 0.0, 0.0], [True, False, False]),
        ([torch.nan, 2.0, 0.0], [False, False, False]),
        ([torch.nan, torch.nan, torch.nan], [False, False, False]),
        ([1.0], [True]),
    ],
    ids=str,
)
def test_scores_name_the_class_that_alone_is_highest(scores: list[float], right: list[bool]) -> None:
    z = torch.tensor(scores).expand(len(scores), -1)
    assert named(z, torch.arange(len(scores))).tolist() == right


def test_where_no_scores_are_equal_it_is_the_argmax() -> None:
    generator = torch.Generator().manual_seed(0)
    z, y = torch.randn(500, 7, generator=generator), torch.randint(7, (500,), generator=generator)
    assert torch.equal(named(z, y), z.argmax(1) == y)


@pytest.mark.parametrize("level", ["exact", "fast", "racing", "racing+fast"])
def test_a_head_of_zeros_names_nothing_at_any_level(level: str) -> None:
    from clbench import make_strategy
    from clbench.config import EvaluationConfig
    from clbench.testing import tiny_run

    benchmark = tiny_benchmark(images=True)
    run = tiny_run(make_strategy("finetune"), benchmark)
    torch.nn.init.zeros_(run.model.head.weight)  # type: ignore[union-attr,arg-type]
    torch.nn.init.zeros_(run.model.head.bias)  # type: ignore[union-attr,arg-type]
    run.config = run.config.model_copy(update={"evaluation": EvaluationConfig(level=level, prefix=4)})  # type: ignore[arg-type]
    run.evaluator.config = run.config.evaluation
    run.fit()
    curve = run.evaluator.curve
    assert not curve.correct[curve.step == 0].any()
    assert curve.correct[curve.step > 0].any()
