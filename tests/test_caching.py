"""What is asked once for each test example: as often as it must be, with the bits of asking anew, never stale."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clbench.machine.caching
from clbench import Strategy, chain
from clbench.config import EvaluationConfig
from clbench.engine.engine import Engine
from clbench.machine.caching import Kept, keeping_nothing, once
from clbench.parts import CrossEntropy, Settling
from clbench.testing import difference, subject, tiny_benchmark, tiny_run

KEEPING = ("l2p", "linear-probe", "ncm", "base-ncm", "decoupled-cosine", "zero-shot")


class Test:
    """Something that answers can be kept for."""

    __test__ = False

    def __init__(self, n: int) -> None:
        self.x = torch.randn((n, 3), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.x)


class Asker:
    """A network, and how many rows it was asked in each evaluation."""

    def __init__(self) -> None:
        self.network = nn.Linear(3, 2).requires_grad_(False)
        self.kept = Kept()
        self.asked: list[int] = []

    def _compute(self, rows: Tensor) -> Tensor:
        self.asked.append(len(rows))
        return self.network(rows)  # type: ignore[no-any-return]

    def anew(self, test: Test) -> Tensor:
        """What the network says now, in portions of 4."""
        return torch.cat([self.network(part) for part in test.x.split(4)])

    @torch.no_grad()
    def evaluate(self, test: Test, portion: int, rows: Tensor | None = None) -> Tensor:
        """What `once` gives for all examples, or for some."""
        inputs = test.x if rows is None else test.x[rows]
        self.asked, found = [], []
        with self.kept.evaluating(test, test.x, portion) as asked:
            for start in range(0, len(inputs), portion):
                part = slice(start, min(start + portion, len(inputs)))
                x = inputs[part]
                asked.show(x, part if rows is None else rows[part])
                found.append(once("features", self.network, x, self._compute))
        return torch.cat(found)


def test_a_test_set_is_asked_once_in_its_portions() -> None:
    asker, test = Asker(), Test(10)
    first = asker.evaluate(test, 4)
    assert asker.asked == [4, 4, 2]
    assert torch.equal(asker.evaluate(test, 4), first)
    assert asker.asked == []
    assert torch.equal(first, asker.anew(test))


def test_some_rows_ask_for_the_portions_they_lie_in() -> None:
    asker, test = Asker(), Test(10)
    rows = torch.tensor([9, 1, 0])
    assert torch.equal(asker.evaluate(test, 4, rows), asker.anew(test)[rows])
    assert sorted(asker.asked) == [2, 4]
    assert torch.equal(asker.evaluate(test, 4), asker.anew(test))
    assert asker.asked == [4]


def test_a_network_that_has_moved_by_a_bit_is_asked_anew() -> None:
    asker, test = Asker(), Test(5)
    asker.evaluate(test, 4)
    with torch.no_grad():  # as a view of the data, which no version counter sees
        asker.network.weight.data[0, 0] = torch.nextafter(asker.network.weight.data[0, 0], torch.tensor(9.0))
    assert torch.equal(asker.evaluate(test, 4), asker.anew(test))
    assert asker.asked == [4, 1]
    assert list(asker.kept.moved().values()) == [1]


def test_answers_are_of_one_test_set_and_go_with_it() -> None:
    asker, test, other = Asker(), Test(5), Test(6)
    asker.evaluate(test, 8), asker.evaluate(other, 8)
    assert asker.asked == [6]
    assert asker.kept.describe()["features"] == {"examples": 11, "bytes": 88, "refused": 0, "moved": 0}
    del test
    assert len(asker.kept.answers) == 1


def test_a_test_set_that_goes_on_inherits_whole_portions() -> None:
    """Of ten rows in portions of four, two portions are the same in twelve; the third was shorter."""
    asker, longer = Asker(), Test(12)
    shorter = Test(10)
    shorter.x = longer.x[:10]
    asker.evaluate(shorter, 4)
    asker.kept.inherit(shorter, longer, (10, 12), 4)
    assert torch.equal(asker.evaluate(longer, 4), asker.anew(longer))
    assert asker.asked == [4]


def test_what_a_moved_network_said_is_not_inherited() -> None:
    asker, longer = Asker(), Test(12)
    shorter = Test(10)
    shorter.x = longer.x[:10]
    asker.evaluate(shorter, 4)
    asker.network.weight.data.mul_(2)
    asker.kept.inherit(shorter, longer, (10, 12), 4)
    assert torch.equal(asker.evaluate(longer, 4), asker.anew(longer))
    assert asker.asked == [4, 4, 4]


def test_what_does_not_fit_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clbench.machine.caching, "LIMIT", 39)
    asker, test = Asker(), Test(5)  # 5 rows of 2 floats, 40 bytes
    for _ in range(2):
        assert torch.equal(asker.evaluate(test, 4), asker.anew(test))
        assert asker.asked == [4, 1]
    two = asker.evaluate(
        test, 4, torch.tensor([4, 0])
    )  # in a portion of another size, which may round otherwise
    torch.testing.assert_close(two, asker.anew(test)[[4, 0]])
    assert asker.kept.describe()["features"] == {"examples": 0, "bytes": 0, "refused": 5, "moved": 0}


@torch.no_grad()
def test_other_inputs_are_computed() -> None:
    asker, test = Asker(), Test(4)
    asker.evaluate(test, 4)
    with asker.kept.evaluating(test, test.x, 4) as asked:
        asked.show(test.x, slice(0, 4))
        flipped = test.x.flip(0)
        assert torch.equal(once("features", asker.network, flipped, asker.network), asker.network(flipped))
    assert torch.equal(once("features", asker.network, test.x, asker._compute), asker.anew(test))


def test_a_copy_begins_with_nothing() -> None:
    asker = Asker()
    asker.evaluate(Test(4), 4)
    for copied in (copy.deepcopy(asker.kept), pickle.loads(pickle.dumps(asker.kept))):
        assert not copied.networks
        assert not copied.answers


# --- in runs ---


def fitted(name: str, **evaluation: Any) -> Engine:
    checked = subject(name)
    run = checked.run(checked.benchmark())
    given = {"every": 1, "batch_size": 12, **evaluation}
    run.config = run.config.model_copy(update={"evaluation": EvaluationConfig(**given)})
    run.evaluator.config = run.config.evaluation
    run.fit()
    return run


@pytest.mark.parametrize("name", KEEPING)
def test_the_curve_has_the_bits_of_asking_anew(name: str) -> None:
    kept = fitted(name)
    with keeping_nothing():
        anew = fitted(name)
    assert kept.evaluator.curve == anew.evaluator.curve
    assert difference(kept.model.state_dict(), anew.model.state_dict()) is None
    about = kept.evaluator.describe()["kept"]
    assert all(one["examples"] and not one["moved"] for one in about.values())
    assert "kept" not in anew.evaluator.describe()
    assert kept.budget()["forward_examples"] == anew.budget()["forward_examples"]


def test_the_test_sets_of_experience_ends_grow_without_asking_anew() -> None:
    """Of three streams of 32, in portions of 12: 32, then 40 of 64 (two portions are the same), then 36 of 96."""
    asked: list[tuple[int, int]] = []
    checked = subject("ncm")
    run = checked.run(checked.benchmark())
    run.evaluator.config = EvaluationConfig(every=0, batch_size=12, future=False)
    network = run.model.backbone.inner  # type: ignore[union-attr]
    network.register_forward_pre_hook(  # type: ignore[union-attr]
        lambda module, given: None if run.model.training else asked.append((run.experience, len(given[0])))
    )
    run.fit()
    assert [sum(n for exp, n in asked if exp == index) for index in range(3)] == [32, 40, 36]


def test_a_race_keeps_too_and_finds_the_same_minima() -> None:
    def racing() -> Engine:
        return fitted("l2p", level="racing", prefix=4)

    kept = racing()
    with keeping_nothing():
        anew = racing()
    assert kept.evaluator.curve.correct.tolist() == anew.evaluator.curve.correct.tolist()
    assert kept.evaluator.describe()["kept"]["query"]["examples"]


def test_a_backbone_that_settles_later_is_asked_once_from_then_on() -> None:
    asked: list[tuple[int, int]] = []

    class Counts(Strategy):
        def wrap(self, model: nn.Module) -> nn.Module:
            inner = model.backbone.inner  # type: ignore[union-attr]
            inner.register_forward_pre_hook(  # type: ignore[union-attr]
                lambda network, given: (
                    asked.append((self.run.experience, len(given[0])))
                    if not torch.is_grad_enabled() and not self.run.model.training
                    else None
                )
            )
            return model

    freeze = subject("freeze-after-first").make().parts
    run = tiny_run(chain(CrossEntropy(), *freeze, Counts()), tiny_benchmark(), every=1)
    run.fit()
    assert isinstance(run.model.backbone, Settling)
    steps = len(run.train) * 4  # two passes of two batches each
    first, second = (sum(n for exp, n in asked if exp == index) for index in (0, 1))
    assert run.step == steps
    assert first >= 5 * 32  # at each tick
    assert second == (2 + 3) * 32  # two streams' ticks, and all full test sets, once
