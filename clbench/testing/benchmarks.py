"""The rules that every benchmark keeps."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from clbench.data.duplicates import shared
from clbench.errors import ConfigError, DataError
from clbench.registry import benchmarks, check_arguments
from clbench.testing.tools import NotApplicable, Result, attempt, require
from clbench.types import IGNORED, Benchmark


@dataclass(frozen=True)
class Given:
    """A benchmark under test: an object, or a name and what to build it with."""

    benchmark: str | Benchmark
    spec: Mapping[str, Any] = field(default_factory=dict)

    def build(self, **other: Any) -> Benchmark:
        """It, built anew, with these parameters in place of those given.

        Raises:
            NotApplicable: it cannot be built anew, or not with what there is here.
        """
        if isinstance(self.benchmark, Benchmark):
            raise NotApplicable("it is an object, with nothing to build it from again")
        spec = {**self.spec, **other}
        if missing := _missing(self.benchmark, spec):
            asked = " ".join(f"{name}=…" for name in missing)
            raise NotApplicable(f"it needs {', '.join(missing)}: clbench check {self.benchmark} {asked}")
        try:
            built: Benchmark = benchmarks.make(self.benchmark, **spec)
        except DataError as error:
            raise NotApplicable(f"its data cannot be had: {error}") from error
        return built

    @functools.cached_property
    def built(self) -> Benchmark:
        return self.benchmark if isinstance(self.benchmark, Benchmark) else self.build()


def check_benchmark(benchmark: str | Benchmark, **spec: Any) -> list[Result]:
    """Put a benchmark, or a registered one, through what every benchmark must keep.

    Args:
        benchmark: an object or a name.
        spec: the parameters to build a named one with; the others are the defaults.

    Raises:
        RegistryError: an unknown name. ConfigError: a parameter that the benchmark does not have, or a wrong value.
    """
    given = Given(benchmark, spec)
    if isinstance(benchmark, str):
        build = benchmarks.entry(benchmark).build
        assert build is not None
        if not (_missing(benchmark, spec) and spec.keys() <= inspect.signature(build).parameters.keys()):
            check_arguments(f"benchmark '{benchmark}'", build, spec)
    elif spec:
        raise ConfigError(f"{benchmark!r} is built already; leave out {', '.join(spec)}.")
    return [attempt(check, given) for check in BENCHMARK_CHECKS]


def _missing(benchmark: str, spec: Mapping[str, Any]) -> list[str]:
    """Return the parameters without default that are not given."""
    parameters = benchmarks.entry(benchmark).signature().parameters
    return [name for name, p in parameters.items() if p.default is p.empty and name not in spec]


def check_rebuilds(given: Given) -> None:
    """Built twice it has one fingerprint; another seed gives another, or it draws nothing and has seed 0."""
    again, first = given.build(), given.built
    require(first.fingerprint == again.fingerprint, "two builds have different fingerprints")
    if "seed" in benchmarks.entry(str(given.benchmark)).signature().parameters:
        other = given.build(seed=first.seed + 1)
        told, is_so = other.seed != first.seed, other.fingerprint != first.fingerprint
        require(is_so or not told, f"it says seed {first.seed}, and another seed changes nothing")
        require(
            told or not is_so,
            f"another seed changes it, and both say seed {first.seed}; return "
            "`dataclasses.replace(benchmark, seed=seed)`",
        )


def check_rows_disjoint(given: Given) -> None:
    """No example is both trained and tested on, or validated on, nor a byte-identical one, beyond known duplicates."""
    built = given.built
    if built.memorise:
        raise NotApplicable("it asks how well the training examples can be fitted")
    streams = [stream for stream in (built.train, built.valid, built.test) if stream is not None]
    for i, one in enumerate(streams):
        for other in streams[i + 1 :]:
            found, rows = shared(other, [one])
            known = f" (known: {built.duplicates})" if built.duplicates else ""
            require(
                found <= built.duplicates,
                f"{found} of {rows} examples of the {other.name} stream are byte-identical to examples of the "
                f"{one.name} stream{known}",
            )


def check_labels(given: Given) -> None:
    """Every experience holds just the classes it names, all below the number of classes, and is not empty."""
    built = given.built
    for stream in (built.train, built.test, built.valid or ()):
        for exp in stream:
            y = exp.data.y()
            held = tuple(torch.unique(y[y != IGNORED] if built.setting.language else y).tolist())
            require(len(exp) > 0, f"experience {exp.index + 1} is empty")
            require(
                set(held) <= set(exp.classes),
                f"experience {exp.index + 1} names {exp.classes} and holds {held}",
            )
            inside = all(0 <= label < built.num_classes for label in exp.classes)
            require(inside, f"experience {exp.index + 1} has classes outside 0 … {built.num_classes - 1}")


def check_streams_aligned(given: Given) -> None:
    """Experiences are numbered in order, and each names test streams that exist and were taught by then."""
    built = given.built
    for stream in (built.train, built.test, built.valid or ()):
        require(
            [e.index for e in stream] == list(range(len(stream))),
            "experiences are not numbered from 0 in order",
        )
    taught: set[int] = set()
    for exp in built.train:
        taught |= set(exp.classes)
        require(
            all(0 <= t < len(built.test) for t in exp.tests),
            f"experience {exp.index + 1} names missing test streams",
        )
        for t in exp.tests if len(built.test) > 1 else ():  # one set for all is tested from the beginning
            early = set(built.test[t].classes) - taught
            require(
                not early,
                f"test stream {t} counts as seen from experience {exp.index + 1}, before classes {early}",
            )


def check_shapes(given: Given) -> None:
    """All inputs have one shape and type, which the transform turns into finite float32 of that shape."""
    built = given.built
    first = built.train[0].data.take(torch.arange(1))[0]
    for stream in (built.train, built.test, built.valid or ()):
        for exp in stream:
            raw, y = exp.data.take(torch.arange(min(len(exp), 4)))
            like = raw.dtype == first.dtype and raw.shape[1:] == first.shape[1:]
            require(
                like,
                f"experience {exp.index + 1} holds {raw.dtype} {tuple(raw.shape[1:])}, the first {first.dtype}",
            )
            require(y.dtype == torch.int64, f"experience {exp.index + 1} has labels of type {y.dtype}")
            if raw.dtype == torch.int64:  # tokens are embedded by the model
                continue
            x = built.transform.normalise(raw)
            shape = built.transform.shape(tuple(raw.shape[1:]))
            fits = x.dtype == torch.float32 and tuple(x.shape[1:]) == shape and bool(x.isfinite().all())
            require(
                fits,
                f"the transform does not turn experience {exp.index + 1} into finite float32 of the shape {shape}",
            )


BENCHMARK_CHECKS: list[Callable[[Given], None]] = [
    check_rebuilds,
    check_rows_disjoint,
    check_labels,
    check_streams_aligned,
    check_shapes,
]
"""What every benchmark must keep."""
