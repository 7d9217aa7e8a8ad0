"""The curve of a run: what was evaluated, when, and with which result. Counts, never averages.

A run appends rows and every number of a record is computed from them later (`clbench.results.metrics`), so a
definition can be corrected without running anything again. Imports no torch: results can be read on any machine.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clbench.errors import LedgerError
from clbench.files import UNREADABLE, expanded
from clbench.results.columns import (
    ALL,
    COLUMNS as COLUMNS,
    FORMAT,
    NETWORK as NETWORK,
    PARTIAL as PARTIAL,
    RANKS,
    ROWS,
    SLOW,
    SPANS,
    TABLES,
    Arrays,
    Floats as Floats,
    Ints as Ints,
    check_rows,
    check_shapes,
    class_tables,
    divide as divide,
    read,
    typed,
    write,
)
from clbench.results.dense import Losses as Losses, Matrix as Matrix, Ticks as Ticks
from clbench.results.indexed import Indexed
from clbench.results.limits import bounds
from clbench.results.predicted import Predicted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


def _view(name: str) -> Any:
    """Return a property of a curve: its column, read-only."""
    return property(lambda curve: curve._column(name))


VIEWS = ("experiences", "streams", "learned", "by_task", "finished", "_ticks", "_matrix")
"""What is computed of a curve once, until there are more rows."""


class Curve(Indexed, Predicted):
    """Append-only columns of equal length, one row for each evaluation of one test stream.

    Columns:
        step: optimizer steps done so far.
        examples: stream examples consumed so far.
        experience: the experience being learned, from 0; −1 before training.
        evaluated: the test stream evaluated, from 0.
        correct, total: examples classified correctly, examples evaluated.
        loss: summed over the examples.
        full: the full test set (before training, and at every experience's end); otherwise a *tick*: the
            fixed subset of every stream seen so far, after an update (or at step 0, before the first).
        of: the examples that the subset or test set has; more than `total` where a tick was *partial*: cut short, as
            the rest could change no extremum (`evaluation.level=racing`); the first of a fixed random order count.
        hits_at_10, reciprocal_at_10: of retrieval: examples with a right answer among the first ten, and the sum of
            1 / rank of the first right one over those. −1 and NaN in all other curves, and in ticks of a racing one.
        characters, bytes: of language, where an example is a token: of the text that the tokens stand for, 0 where no
            tokenizer tells; −1 in all other curves.

    `bound_error` is the probability that a bound of a partial row may fail (`results.limits`), 0 for certain ones.

    The rows of one step with `full` false are one tick. Steps, examples and experiences never decrease. The tables
    `class_correct` and `class_total` have a row for each full evaluation, in order; a class with total 0 was not
    evaluated. `class_present` says which classes an experience had, where test streams do not; `network` what was
    measured of the network. `indexed` says of every document whether it was mapped to itself at `indexed_step`;
    document d is bit d of a row, the highest bit of a byte first.
    """

    __hash__ = None  # type: ignore[assignment]  # a curve grows; its content has `sha256()`

    def __init__(self) -> None:
        super().__init__()
        self._length = 0
        self._sizes: Ints = np.zeros(0, np.int64)  # of the full test sets, 0 where there was none yet
        self._columns: Arrays = {name: np.empty(0, dtype) for name, dtype in ALL.items()}
        self.bound_error = 0.0
        self._tables: Arrays = {name: np.empty((0, 0), dtype) for name, dtype in TABLES.items()}
        self._network: Floats = np.empty((0, len(NETWORK)))

    # --- rows in ---

    def append(
        self,
        *,
        step: ArrayLike,
        examples: ArrayLike,
        experience: ArrayLike,
        evaluated: ArrayLike,
        correct: ArrayLike,
        total: ArrayLike,
        loss: ArrayLike,
        full: ArrayLike,
        of: ArrayLike | None = None,
        hits_at_10: ArrayLike | None = None,
        reciprocal_at_10: ArrayLike | None = None,
        characters: ArrayLike | None = None,
        bytes: ArrayLike | None = None,
    ) -> None:
        """Add rows: arrays of one length, or scalars for all rows; without `of`, all are complete.

        Args:
            step, examples, experience, evaluated, correct, total, loss, full, of, hits_at_10, reciprocal_at_10,
                characters, bytes: rows.

        Raises:
            ValueError: the rows contradict each other or those before; nothing was added then.
        """
        of = total if of is None else of
        hits = -1 if hits_at_10 is None else hits_at_10
        reciprocal = np.nan if reciprocal_at_10 is None else reciprocal_at_10
        spans = (-1 if characters is None else characters, -1 if bytes is None else bytes)
        given = (
            step,
            examples,
            experience,
            evaluated,
            correct,
            total,
            loss,
            full,
            of,
            hits,
            reciprocal,
            *spans,
        )
        arrays = [typed(name, value, ALL[name], copy=False) for name, value in zip(ALL, given, strict=True)]
        block = np.broadcast_arrays(*[np.atleast_1d(array) for array in arrays])
        if block[0].ndim != 1:
            raise ValueError(f"Columns have one dimension; shape {block[0].shape} was given.")
        start, stop = self._length, self._length + len(block[0])
        if stop > ROWS:
            raise ValueError(f"A curve has at most {ROWS:,} rows; evaluate less often (evaluation.every).")
        for name, values in zip(ALL, block, strict=True):
            if stop > len(self._columns[name]):  # doubling: a row costs O(1) however long the run is
                grown = np.empty(max(stop, 2 * start, 64), ALL[name])
                grown[:start] = self._columns[name][:start]
                self._columns[name] = grown
            self._columns[name][start:stop] = values
        for name in ("loss", "reciprocal_at_10"):
            values = self._columns[name][start:stop]
            values[np.isnan(values)] = np.nan  # one NaN and one zero, so that equal content has equal bytes
            values += 0.0
        if stop > start:
            self._sizes = check_rows(self._columns, start, stop, self._sizes)
        self._length = stop
        self._forget()

    def refine(self, step: int, evaluated: int, correct: int, total: int, loss: float) -> None:
        """More examples of a partial row of a tick were evaluated; the counts are those of all so far.

        Args:
            step, evaluated: which row.
            correct, total, loss: its counts and its summed loss, of all examples so far.

        Raises:
            ValueError: there is no such row, or the counts are not of more examples.
        """
        start, stop = np.searchsorted(self.step, [step, step + 1])
        here = slice(int(start), int(stop))
        rows = np.flatnonzero((self.evaluated[here] == evaluated) & ~self.full[here])
        if len(rows) != 1:
            raise ValueError(f"There is no tick of stream {evaluated} at step {step}.")
        row = here.start + int(rows[0])
        before, seen = int(self.correct[row]), int(self.total[row])
        if not (seen <= total <= self.of[row] and before <= correct <= before + total - seen):
            raise ValueError(
                f"Row {row} has {before} of {seen} right; it cannot become {correct} of {total}."
            )
        for name, value in (("correct", correct), ("total", total), ("loss", loss)):
            self._columns[name][row] = value
        self._forget()

    def _forget(self) -> None:
        for name in VIEWS:
            self.__dict__.pop(name, None)

    def append_classes(self, correct: ArrayLike, total: ArrayLike, present: ArrayLike | None = None) -> None:
        """Add the counts of each class at the latest full evaluation, (C,), and maybe whether the experience had it.

        Raises:
            ValueError: the counts do not fit together or the rows before.
        """
        right, of = (np.asarray(value) for value in (correct, total))
        width = self.class_total.shape[1] if len(self.class_total) else right.size
        if right.ndim != 1 or right.shape != of.shape or len(right) != width:
            raise ValueError(f"Class counts have shapes {right.shape}, {of.shape}; both must be ({width},).")
        there = None if present is None else np.asarray(present)[None]
        for name, rows in class_tables(right[None], of[None], there).items():
            before = self._tables.get(name, rows[:0])
            self._tables[name] = np.concatenate([before.reshape(-1, width), rows])

    def append_network(self, values: ArrayLike) -> None:
        """Add what was measured of the network at the latest full evaluation: (4,), in the order of `NETWORK`.

        Raises:
            ValueError: other than so many numbers.
        """
        row = typed("network", values, "<f8")
        if row.shape != (len(NETWORK),):
            raise ValueError(f"A network is measured by {len(NETWORK)} numbers; shape {row.shape} was given.")
        self._network = np.concatenate([self._network, row[None]])

    # --- rows out ---

    def __len__(self) -> int:
        return self._length

    def _column(self, name: str) -> NDArray[Any]:
        view = self._columns[name][: self._length]
        view.flags.writeable = False
        return view

    step: Ints = _view("step")
    examples: Ints = _view("examples")
    experience: Ints = _view("experience")
    evaluated: Ints = _view("evaluated")
    correct: Ints = _view("correct")
    total: Ints = _view("total")
    loss: Floats = _view("loss")
    full: NDArray[np.bool_] = _view("full")
    of: Ints = _view("of")
    hits_at_10: Ints = _view("hits_at_10")
    reciprocal_at_10: Floats = _view("reciprocal_at_10")
    characters: Ints = _view("characters")
    bytes: Ints = _view("bytes")

    @property
    def ranked(self) -> bool:
        """Whether ranks were kept: of a retrieval stream."""
        return bool((self.hits_at_10 >= 0).any())

    @property
    def of_language(self) -> bool:
        """Whether it tells how many characters and bytes its tokens stand for."""
        return bool((self.bytes >= 0).any())

    @property
    def class_correct(self) -> Ints:
        return self._tables["class_correct"]

    @property
    def class_total(self) -> Ints:
        return self._tables["class_total"]

    @property
    def class_present(self) -> NDArray[np.bool_]:
        return self._tables.get("class_present", np.empty((0, 0), "|b1"))

    @property
    def network(self) -> Floats:
        """(full evaluations, 4) what was measured of the network, in the order of `NETWORK`; no row if nothing was."""
        return self._network

    def columns(self) -> Arrays:
        """Return all columns and tables by name, with `PARTIAL` where ticks are partial; what `from_columns` takes."""
        return self._rows(slice(None)) | dict(self._tables) | self._measured() | self._predictions()

    def _measured(self, looks: slice | NDArray[np.bool_] = slice(None)) -> Arrays:
        """Return the side tables that not every curve has, of those looks at documents."""
        measured: Arrays = {"network": self._network} if len(self._network) else {}
        if len(self.indexed_step):
            measured |= {name: table[looks] for name, table in self._indexed.items()}
        return measured

    def _rows(self, chosen: slice | NDArray[np.bool_]) -> Arrays:
        """Return the columns of some rows."""
        columns = {name: self._column(name)[chosen] for name in COLUMNS}
        if (self.of > self.total).any():
            columns |= {"of": self.of[chosen], "bound_error": np.array(self.bound_error)}
        for there, names in ((self.ranked, RANKS), (self.of_language, SPANS)):
            columns |= {name: self._column(name)[chosen] for name in names if there}
        return columns

    def before(self, step: int) -> Curve:
        """Return the curve without what was evaluated after more than `step` steps."""
        measured = self._measured(self.indexed_step <= step)
        measured |= self._predictions(step)
        return Curve.from_columns(self._rows(self.step <= step) | self._tables | measured)

    @classmethod
    def from_columns(cls, columns: Mapping[str, ArrayLike]) -> Curve:
        """Return the curve that has these columns and tables.

        Raises:
            ValueError: a column lacks, is too many, or does not fit the others.
        """
        check_shapes({name: np.shape(value) for name, value in columns.items()})
        curve = cls()
        optional = {name: columns[name] for name in ("of", *RANKS, *SPANS) if name in columns}
        curve.append(**{name: columns[name] for name in COLUMNS}, **optional)
        error = np.asarray(columns.get("bound_error", 0.0))
        if error.dtype.kind != "f" or not 0 <= error < 1:
            raise ValueError(f"'bound_error' is a probability; {error!r} was given.")
        curve.bound_error = float(error)
        partial = np.unique([(curve.total, curve.of)], axis=-1)[0] if error else np.zeros((2, 0))
        if partial[0].sum() > SLOW:
            raise ValueError("bounds of so many and so large partial ticks would take too long")
        right, total = (columns[name] for name in TABLES)
        curve._tables = class_tables(right, total, columns.get("class_present"))
        if np.size(network := columns.get("network", ())):
            curve._network = typed("network", network, "<f8")
        full = len(np.unique(curve.experience[curve.full]))
        for words, table in (
            ("class tables have", curve.class_total),
            ("table 'network' has", curve.network),
        ):
            if len(table) not in (0, full):
                raise ValueError(f"The {words} {len(table)} rows for {full} full evaluations.")
        curve._take_looks(columns)
        curve._take_predictions(columns)
        return curve

    # --- views ---

    @cached_property
    def experiences(self) -> int:
        """E: experiences that were begun."""
        return int(self.experience.max(initial=-1)) + 1

    @cached_property
    def streams(self) -> int:
        """S: test streams that were evaluated, future ones included."""
        return int(self.evaluated.max(initial=-1)) + 1

    @cached_property
    def learned(self) -> Ints:
        """(S,) The experience in which each stream was first seen by a tick; E where none has seen it yet.

        A curve without ticks says nothing of it: stream j is then taken to be learned in experience j.
        """
        ticks = self.ticks()
        if not len(ticks):
            return np.arange(self.streams)
        first = ticks.seen.argmax(0)  # (S,) the tick; 0 where none has
        known = ticks.seen[first, np.arange(self.streams)]
        return np.where(known, ticks.experience[first], self.experiences)

    @cached_property
    def by_task(self) -> bool:
        """Whether experience j teaches stream j, which streams with repetition do not."""
        return np.array_equal(self.learned, np.arange(self.experiences))

    @cached_property
    def finished(self) -> bool:
        """Whether every stream was learned and the last experience has its full evaluation, if any has.

        The rows cannot tell of a run that was cut off between two experiences when all its streams had been seen
        (streams with repetition); its record's status does.
        """
        if not len(self) or (self.learned >= self.experiences).any():
            return False
        return not self.full.any() or bool(self.experience[self.full][-1] == self.experiences - 1)

    def ticks(self) -> Ticks:
        """Return the per-iteration evaluations as dense arrays."""
        return self._ticks

    @cached_property
    def _ticks(self) -> Ticks:
        rows = np.flatnonzero(~self.full)
        step = self.step[rows]
        begins = np.flatnonzero(np.diff(step, prepend=-1))  # steps never decrease and are not negative
        k = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(rows)))  # row → tick
        place = k, self.evaluated[rows]
        counts = self.correct[rows], self.total[rows], self.of[rows]

        def dense(values: Ints) -> Ints:
            table = np.zeros((len(begins), self.streams), np.int64)
            table[place] = values
            return table

        correct, total = map(dense, counts[:2])
        accuracy, of = divide(correct, total), total
        lowest = highest = accuracy
        if (counts[1] != counts[2]).any():
            of = dense(counts[2])
            lowest, highest = (divide(dense(end), of) for end in bounds(*counts, self.bound_error))
        first = rows[begins]
        about = step[begins], self.examples[first], self.experience[first]
        return Ticks(*about, accuracy, correct, total, of, lowest, highest)

    def matrix(self) -> Matrix:
        """Return the accuracy matrix R, the accuracies b before training, and the sizes of the full test sets.

        R has a row for each experience and a column for each stream. Where there are fewer experiences than
        streams (a run cut short), rows of NaN make it square.
        """
        return self._matrix

    @cached_property
    def _matrix(self) -> Matrix:
        return self._matrix_of(self.correct)

    def rank_matrix(self, column: str) -> Matrix:
        """`matrix` of another column per example: `hits_at_10`, or `reciprocal_at_10`; NaN where there are no ranks."""
        values = self._column(column).astype(np.float64)
        return self._matrix_of(np.where(self.hits_at_10 >= 0, values, np.nan))

    def loss_matrix(self, per: str = "total") -> Losses:
        """Return the `matrix` of the loss per example; of language per token, or one of its `characters` or `bytes`."""
        return Losses(*self._matrix_of(self.loss, self._column(per)))

    def _matrix_of(self, values: NDArray[Any], totals: Ints | None = None) -> Matrix:
        """Values (rows) of the full evaluations over their totals."""
        rows = np.flatnonzero(self.full)
        place = self.experience[rows] + 1, self.evaluated[rows]  # row 0: before training
        part = np.zeros((max(self.experiences, self.streams) + 1, self.streams), values.dtype)
        total = np.zeros(part.shape, np.int64)
        part[place], total[place] = values[rows], (self.total if totals is None else totals)[rows]
        share = divide(part, total)
        return Matrix(share[1:], share[0], total.max(0, initial=0))

    def upto(self, experiences: int) -> Curve:
        """Return the curve as if the stream had ended after so many experiences: metrics "after task k"."""
        streams = np.flatnonzero(self.learned < experiences)
        rows = (self.experience < experiences) & np.isin(self.evaluated, streams)
        ends = np.unique(self.experience[self.full]) < experiences
        tables = {name: table[ends] if len(table) else table for name, table in self._tables.items()}
        if len(self._network):
            tables["network"] = self._network[ends]
        if len(self.indexed_step):
            looks = self.indexed_step <= self.step[rows].max(initial=-1)
            tables |= {name: table[looks] for name, table in self._indexed.items()}
        tables |= self._predictions(int(self.step[rows].max(initial=0)) - 1)
        return Curve.from_columns(self._rows(rows) | tables)

    # --- to show ---

    def to_pandas(self) -> DataFrame:
        """Return a data frame with one row for each test stream at each evaluated step, in the order of evaluation.

        Its columns are those of the curve, with `accuracy` beside the counts and `loss` as the mean over the examples.

        Raises:
            ConfigError: pandas is not installed.
        """
        frame: DataFrame = pkgutil.resolve_name("clbench.reports.display.frames:of_curve")(self)
        return frame

    def plot(self, ax: Axes | None = None, names: Sequence[str] = ()) -> Axes:
        """Draw the accuracy, or of language the loss, on every test stream after every iteration; dashed: boundaries.

        Args:
            ax: the axes to draw into; new ones of `pyplot` if None.
            names: of the experiences, such as their domains.

        Returns:
            The axes; `.figure` is their figure.
        """
        axes: Axes = pkgutil.resolve_name("clbench.reports.display.curves:plot")(self, ax, names)
        return axes

    # --- identity ---

    def sha256(self) -> str:
        """Hash of the content: equal for equal curves on every machine, however their files were packed."""
        digest = hashlib.sha256(f"clbench curve {FORMAT}\n".encode())
        for name, array in self._canonical():
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.ravel().data)
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.sha256() == other.sha256() if isinstance(other, Curve) else NotImplemented

    def __repr__(self) -> str:
        return f"<Curve: {len(self)} rows, {len(self.ticks())} ticks, {self.experiences} experiences>"

    def _canonical(self) -> Iterator[tuple[str, NDArray[Any]]]:
        for name, array in sorted(self.columns().items()):
            yield name, np.asarray(array, order="C")

    # --- files ---

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an `.npz` that numpy can read, whole or not at all; equal content gives equal bytes.

        Compression may differ between versions of zlib: across machines compare `sha256()`, not files.
        """
        write(expanded(path), self._canonical())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Curve:
        """Read what `save` wrote.

        Raises:
            LedgerError: the file is missing, damaged, of another version, or no curve; says which.
        """
        try:
            return cls.from_columns(read(expanded(path)))
        except FileNotFoundError:
            raise LedgerError(f"There is no curve {path}.") from None
        except UNREADABLE as error:
            reason = str(error).rstrip(".") or type(error).__name__
            raise LedgerError(f"The curve {path} is damaged or not a curve: {reason}.") from error

    # --- curves from accuracies ---

    @classmethod
    def from_matrix(
        cls, R: ArrayLike, b: ArrayLike | None = None, totals: int | Sequence[int] = 100
    ) -> Curve:
        """Return a curve of full evaluations only, from R (E, S) and b (S,) or a scalar; NaN where not evaluated.

        Raises:
            ValueError: an accuracy is no whole number out of `totals` examples.
        """
        rows = np.atleast_2d(np.asarray(R, np.float64))
        before = np.broadcast_to(np.asarray(np.nan if b is None else b, np.float64), rows.shape[1])
        sizes = np.broadcast_to(np.asarray(totals), rows.shape[1])
        curve = cls()
        for i, row in enumerate([before, *rows]):
            curve._append_accuracies(row[None], sizes, np.array([i]), i - 1, full=True)
        return curve

    @classmethod
    def from_trace(
        cls,
        traces: Sequence[Sequence[float | None]],
        boundaries: Sequence[int],
        totals: int | Sequence[int] = 100,
        *,
        first_step: int = 1,
        examples_per_step: int = 1,
    ) -> Curve:
        """Return a curve of consecutive ticks, from the accuracies of each stream.

        Every experience ends with full evaluations that repeat its last tick.

        Args:
            traces: `traces[j]` has a value for each tick, None or NaN where stream j was not evaluated; a shorter
                one belongs to the last ticks, as a stream seen later has fewer.
            boundaries: the ticks at which the second experience begins, the third, …
            totals: examples of each stream, or of all.
            first_step: of the first tick.
            examples_per_step: stream examples of a step.

        Raises:
            ValueError: an accuracy is no whole number out of `totals` examples.
        """
        K = max(map(len, traces))
        accuracy = np.full((K, len(traces)), np.nan)
        for j, trace in enumerate(traces):
            accuracy[K - len(trace) :, j] = [np.nan if value is None else value for value in trace]
        sizes = np.broadcast_to(np.asarray(totals), len(traces))
        steps = first_step + np.arange(K)
        curve = cls()
        for i, (start, stop) in enumerate(itertools.pairwise([0, *boundaries, K])):
            for rows, full in ((slice(start, stop), False), (slice(stop - 1, stop), True)):
                curve._append_accuracies(accuracy[rows], sizes, steps[rows], i, examples_per_step, full=full)
        return curve

    def _append_accuracies(
        self, accuracy: Floats, sizes: Ints, step: Ints, experience: int, per_step: int = 1, *, full: bool
    ) -> None:
        """Rows for accuracies (K, S) out of sizes (S,) at steps (K,), with counts that are exactly those."""
        k, j = np.nonzero(~np.isnan(accuracy))
        share, total = accuracy[k, j], sizes[j]
        correct = np.rint(share * total)
        if (wrong := np.abs(correct - share * total) > 1e-6).any():
            raise ValueError(
                f"An accuracy of {share[wrong][0]} is no whole number out of {total[wrong][0]} examples; "
                "give other totals."
            )
        self.append(
            step=step[k],
            examples=step[k] * per_step,
            experience=experience,
            evaluated=j,
            correct=correct.astype(np.int64),
            total=total,
            loss=0.0,
            full=full,
        )
