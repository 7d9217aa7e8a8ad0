"""Racing: extrema equal to the full evaluation's, from a part of the images."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import hypergeom

from clbench.evaluation.speed.racing import Race, Request, error_of_a_bound, looks
from clbench.results import metrics
from clbench.results.curve import Curve
from clbench.results.limits import bounds, lower_limits

RECORDED = Path(__file__).parent / "data" / "split-mnist-er.npz"


class Recording:
    """Whether each test example was right at each tick: (K, S, N), in the order in which a race sees them."""

    def __init__(self, right: np.ndarray, experience: np.ndarray) -> None:
        self.right, self.experience = right, experience
        self.cumulative = np.concatenate([np.zeros((*right.shape[:2], 1), np.int64), right.cumsum(2)], 2)

    @staticmethod
    def load() -> Recording:
        """ER on split-mnist, 600 steps of 10+10 examples, 1,000 test images of each experience, every step."""
        with np.load(RECORDED) as file:
            shape, experience = tuple(file["shape"]), file["experience"]
            right = np.unpackbits(file["right"])[: np.prod(shape)].reshape(shape).astype(bool)
        order = np.random.default_rng(0).permutation(shape[2])
        return Recording(right[:, :, order], experience)

    @staticmethod
    def drawn(seed: int, ticks: int = 40, streams: int = 3, size: int = 200) -> Recording:
        """Accuracies that fall at each switch and recover, with noise; each example has a difficulty of its own."""
        rng = np.random.default_rng(seed)
        experience = np.arange(streams).repeat(ticks)
        since = np.tile(np.arange(ticks), streams)[:, None]
        own = experience[:, None] == np.arange(streams)
        accuracy = np.where(own, 1 - 0.9 * np.exp(-since / 5), 0.85 - 0.6 * np.exp(-since / 4) * (since > 0))
        accuracy = np.clip(accuracy + 0.03 * rng.standard_normal(accuracy.shape), 0, 1)
        return Recording(rng.random((streams, size)) < accuracy[:, :, None], experience)

    def curve(self, race: Race | None, spoiled: Recording | None = None) -> Curve:
        """What a run with that race would have written; without one, the full evaluation.

        Args:
            spoiled: what the last tick of each experience saw before it was taken again.
        """
        K, S, N = self.right.shape
        curve = Curve()
        curve.bound_error = 0.0 if race is None else race.error
        for k in range(K):
            seen = int(self.experience[k]) + 1
            last = k == K - 1 or self.experience[k + 1] != self.experience[k]
            common = {
                "step": k + 1,
                "examples": k + 1,
                "experience": int(self.experience[k]),
                "evaluated": np.arange(seen),
            }
            if race is None:
                curve.append(**common, correct=self.cumulative[k, :seen, N], total=N, loss=0.0, full=False)
            else:
                race.see(range(seen), [N] * seen, int(self.experience[k]))

                def look(
                    requests: Sequence[Request], k: int = k, now: np.ndarray = self.cumulative
                ) -> list[tuple[int, float]]:
                    at = [(self.cumulative if age else now)[k - age, j] for age, j, _, _ in requests]
                    return [
                        (int(right[r.stop] - right[r.start]), 0.0)
                        for right, r in zip(at, requests, strict=True)
                    ]

                again = []
                if last and spoiled is not None:
                    first = functools.partial(look, now=spoiled.cumulative)
                    again += race.tick(k + 1, int(self.experience[k]), False, first)[1]
                rows, more = race.tick(k + 1, int(self.experience[k]), bool(last), look)
                again += more
                correct, total = [row.correct for row in rows], [row.total for row in rows]
                curve.append(**common, correct=correct, total=total, loss=0.0, full=False, of=N)
                for stream, row in again:
                    curve.refine(row.step, stream, row.correct, row.total, row.loss)
            if last:
                full = self.cumulative[k, :, N]
                curve.append(
                    **{**common, "evaluated": np.arange(S)}, correct=full, total=N, loss=0.0, full=True
                )
        return curve


def share(curve: Curve) -> float:
    ticks = ~curve.full
    return float(curve.total[ticks].sum() / curve.of[ticks].sum())


def race_for(recording: Recording, windows: Sequence[int], error: float, prefix: int = 32) -> Race:
    K, S, N = recording.right.shape
    return Race(prefix, windows, error_of_a_bound(error, K, [N] * S, prefix) if error else 0.0)


def found(curve: Curve, names: Sequence[str]) -> list[float | None]:
    values = metrics.compute(curve, names)
    return [values[name] for name in names]


MINIMA = ("min_acc", "wc_acc")


@pytest.mark.parametrize(
    ("windows", "error", "names", "at_most"),
    [
        ((), 0.0, MINIMA, 1 / 3),
        ((), 0.01, MINIMA, 1 / 5),
        ((10,), 0.01, (*MINIMA, "wf10"), 1 / 5),
        ((10, 100), 0.01, (*MINIMA, "wf10", "wf100"), 0.4),
        ((10,), 0.0, (*MINIMA, "wf10"), 0.45),
    ],
    ids=str,
)
def test_extrema_of_a_recorded_run_are_those_of_the_full_evaluation(
    windows: tuple[int, ...], error: float, names: tuple[str, ...], at_most: float
) -> None:
    recording = Recording.load()
    curve = recording.curve(race_for(recording, windows, error))
    assert found(curve, names) == pytest.approx(found(recording.curve(None), names), abs=1e-12)
    assert share(curve) <= at_most


@pytest.mark.parametrize("error", [0.0, 0.01])
@pytest.mark.parametrize("windows", [(), (10,), (3, 10)], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_extrema_of_drawn_runs_are_those_of_the_full_evaluation(
    seed: int, windows: tuple[int, ...], error: float
) -> None:
    recording = Recording.drawn(seed)
    names = (*MINIMA, "wf10") if 10 in windows else MINIMA
    curve = recording.curve(race_for(recording, windows, error, prefix=10))
    assert found(curve, names) == pytest.approx(found(recording.curve(None), names), abs=1e-12)
    assert share(curve) < 1


def spoiled(recording: Recording) -> Recording:
    """Nothing is right."""
    return Recording(np.zeros_like(recording.right), recording.experience)


@pytest.mark.parametrize("error", [0.0, 0.01])
@pytest.mark.parametrize("windows", [(), (3, 10)], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_a_tick_that_is_taken_again_takes_the_place_of_the_first(
    seed: int, windows: tuple[int, ...], error: float
) -> None:
    recording = Recording.drawn(seed)
    names = (*MINIMA, "wf10") if windows else MINIMA
    curve = recording.curve(race_for(recording, windows, error, prefix=10), spoiled(recording))
    assert found(curve, names) == pytest.approx(found(recording.curve(None), names), abs=1e-12)
    assert share(curve) < 1


def test_what_a_race_does_not_settle_is_not_defined() -> None:
    recording = Recording.drawn(0)
    curve = recording.curve(Race(10))
    values = metrics.compute(curve)
    for name in ("wf10", "wp10", "average_anytime_accuracy", "a_auc_100", "average_stability_gap", "lca10"):
        assert metrics.compute(recording.curve(None))[name] is not None
        assert values[name] is None, name
    full = metrics.compute(recording.curve(None))
    assert values["average_accuracy"] == full["average_accuracy"]
    assert values["forgetting"] == full["forgetting"]


def test_every_extremum_and_every_end_of_an_experience_is_evaluated_whole() -> None:
    curve = Recording.drawn(1).curve(Race(10))
    ticks = curve.ticks()
    ends = np.flatnonzero(np.append(np.diff(ticks.experience) > 0, True))
    assert (ticks.total[ends] == ticks.of[ends]).all()
    assert (ticks.total < ticks.of).any()


def test_a_constant_accuracy_cannot_be_raced() -> None:
    """Where no tick is better than the minimum, a certain bound needs every right example at every tick."""
    right = np.zeros((20, 2, 100), bool)
    right[:, :, ::2] = True
    curve = Recording(right, np.arange(2).repeat(10)).curve(Race(10))
    old = (~curve.full) & (curve.evaluated == 0) & (curve.experience == 1)
    assert (curve.total[old] >= 99).all()


def test_a_race_goes_on_where_it_was() -> None:
    class Resumed(Race):
        """Taken up anew from its state before every tick."""

        def tick(self, *given: Any) -> Any:
            fresh = Race(self.prefix, self.windows, self.error)
            fresh.load_state_dict(json.loads(json.dumps(self.state_dict())))
            self.lanes = fresh.lanes
            return super().tick(*given)

    recording = Recording.drawn(2)
    for first in (None, spoiled(recording)):
        assert recording.curve(Resumed(10, (10,)), first) == recording.curve(Race(10, (10,)), first)


def test_looks_grow_to_the_whole() -> None:
    assert looks(100, 32) == [32, 48, 72, 100]
    assert looks(20, 32) == [20]


# --- bounds ---


def test_certain_bounds_count_what_is_left() -> None:
    low, high = bounds(np.array([3, 5]), np.array([4, 10]), np.array([10, 10]))
    assert (low.tolist(), high.tolist()) == ([3, 5], [9, 5])


@pytest.mark.parametrize(("n", "size"), [(5, 12), (12, 30), (30, 30)])
def test_a_lower_limit_fails_as_rarely_as_it_says(n: int, size: int) -> None:
    """For every number K of right ones: P[limit(X) > K] ≤ error, X ~ hypergeometric."""
    for error in (0.2, 0.05, 1e-3):
        limits = lower_limits(n, size, error)
        for K in range(size + 1):
            counts = np.arange(n + 1)
            probability = hypergeom.pmf(counts, size, K, n)[limits > K].sum()
            assert probability <= error + 1e-12
        assert (np.diff(limits) >= 0).all()


def test_a_lower_limit_is_the_closest() -> None:
    """9 right of the first 10 of 20: with 11 right in all, P[X ≥ 9] = 0.0027; with 12 it is 0.0099, with 13 0.0286."""
    assert lower_limits(10, 20, 0.01)[9] == 13
    assert lower_limits(10, 20, 0.005)[9] == 12


def test_the_probabilities_of_all_bounds_add_up_to_the_error() -> None:
    """2 bounds × 100 ticks × (3 looks + 1 look)."""
    assert error_of_a_bound(0.01, 100, [72, 20], 32) == pytest.approx(0.01 / 800)


# --- the curve ---


def partial() -> Curve:
    curve = Curve()
    common = {"examples": 1, "experience": 0, "evaluated": [0, 1], "full": False}
    curve.append(step=1, correct=[5, 6], total=[10, 8], of=[10, 10], loss=[1.0, 2.0], **common)
    curve.append(step=2, correct=[9, 1], total=[10, 2], of=[10, 10], loss=[1.0, 2.0], **common)
    return curve


def test_a_partial_tick_lies_between_its_bounds() -> None:
    ticks = partial().ticks()
    assert not ticks.complete
    assert ticks.accuracy.tolist() == [[0.5, 0.75], [0.9, 0.5]]
    assert ticks.lowest.tolist() == [[0.5, 0.6], [0.9, 0.1]]
    assert ticks.highest.tolist() == [[0.5, 0.8], [0.9, 0.9]]


def test_a_row_is_refined_by_more_of_its_examples() -> None:
    curve = partial()
    curve.refine(1, 1, 7, 10, 2.5)
    assert (curve.correct[1], curve.total[1], curve.loss[1]) == (7, 10, 2.5)
    for step, stream, correct, total in ((1, 2, 1, 1), (2, 1, 5, 4), (2, 1, 1, 11), (2, 1, 0, 3)):
        with pytest.raises(ValueError, match=r"There is no tick|cannot become"):
            curve.refine(step, stream, correct, total, 0.0)


def test_a_partial_curve_comes_back_from_its_file(tmp_path: Path) -> None:
    curve = partial()
    curve.bound_error = 1e-6
    curve.save(tmp_path / "curve.npz")
    again = Curve.load(tmp_path / "curve.npz")
    assert again == curve
    assert again.of.tolist() == [10] * 4
    assert again.bound_error == 1e-6


def test_a_complete_curve_is_written_as_before() -> None:
    curve = Curve.from_matrix([[0.5]])
    assert set(curve.columns()) == {
        *("step", "examples", "experience", "evaluated", "correct", "total", "loss", "full"),
        *("class_correct", "class_total"),
    }


def test_a_row_with_more_than_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at most all of its examples"):
        Curve().append(
            step=1, examples=1, experience=0, evaluated=0, correct=1, total=5, of=4, loss=0.0, full=False
        )
