"""The rules that every benchmark keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from clbench.data.duplicates import shared
from clbench.errors import DataError
from clbench.registry import benchmarks
from clbench.testing.tools import NotApplicable, Result, attempt, require
from clbench.types import Benchmark


def check_benchmark(benchmark: str | Benchmark) -> list[Result]:
    """Put a benchmark, or a registered one with its defaults, through what every benchmark must keep.

    Raises:
        RegistryError: an unknown name.
    """
    if isinstance(benchmark, str):
        benchmarks.entry(benchmark)
    return [attempt(check, benchmark) for check in BENCHMARK_CHECKS]


def check_rebuilds(benchmark: str | Benchmark) -> None:
    """Built twice it has one fingerprint; another seed gives another, or it draws nothing and has seed 0."""
    name = _registered(benchmark)
    first = _built(name)
    require(first.fingerprint == _built(name).fingerprint, "two builds have different fingerprints")
    if "seed" in benchmarks.entry(name).signature().parameters:
        other = _built(name, seed=first.seed + 1)
        told, is_so = other.seed != first.seed, other.fingerprint != first.fingerprint
        require(is_so or not told, f"it says seed {first.seed}, and another seed changes nothing")
        require(
            told or not is_so,
            f"another seed changes it, and both say seed {first.seed}; return "
            "`dataclasses.replace(benchmark, seed=seed)`",
        )


def check_rows_disjoint(benchmark: str | Benchmark) -> None:
    """No example is both trained and tested on, or validated on, nor a byte-identical one, beyond known duplicates."""
    built = _built(benchmark)
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


def check_labels(benchmark: str | Benchmark) -> None:
    """Every experience holds just the classes it names, all below the number of classes, and is not empty."""
    built = _built(benchmark)
    for stream in (built.train, built.test, built.valid or ()):
        for exp in stream:
            held = tuple(torch.unique(exp.data.y()).tolist())
            require(len(exp) > 0, f"experience {exp.index} is empty")
            require(
                set(held) <= set(exp.classes), f"experience {exp.index} names {exp.classes} and holds {held}"
            )
            inside = all(0 <= label < built.num_classes for label in exp.classes)
            require(inside, f"experience {exp.index} has classes outside 0 … {built.num_classes - 1}")


def check_streams_aligned(benchmark: str | Benchmark) -> None:
    """Experiences are numbered in order, and each names test streams that exist and were taught by then."""
    built = _built(benchmark)
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
            f"experience {exp.index} names missing test streams",
        )
        for t in exp.tests:
            early = set(built.test[t].classes) - taught
            require(
                not early,
                f"test stream {t} counts as seen from experience {exp.index}, before classes {early}",
            )


def check_shapes(benchmark: str | Benchmark) -> None:
    """All inputs have one shape and type, which the transform turns into finite float32 of that shape."""
    built = _built(benchmark)
    first = built.train[0].data.take(torch.arange(1))[0]
    for stream in (built.train, built.test, built.valid or ()):
        for exp in stream:
            raw, y = exp.data.take(torch.arange(min(len(exp), 4)))
            like = raw.dtype == first.dtype and raw.shape[1:] == first.shape[1:]
            require(
                like,
                f"experience {exp.index} holds {raw.dtype} {tuple(raw.shape[1:])}, the first {first.dtype}",
            )
            require(y.dtype == torch.int64, f"experience {exp.index} has labels of type {y.dtype}")
            if raw.dtype == torch.int64:  # tokens are embedded by the model
                continue
            x = built.transform.normalise(raw)
            fits = x.dtype == torch.float32 and x.shape == raw.shape and bool(x.isfinite().all())
            require(
                fits,
                f"the transform does not turn experience {exp.index} into finite float32 of the same shape",
            )


BENCHMARK_CHECKS: list[Callable[[str | Benchmark], None]] = [
    check_rebuilds,
    check_rows_disjoint,
    check_labels,
    check_streams_aligned,
    check_shapes,
]
"""What every benchmark must keep."""


def _registered(benchmark: str | Benchmark) -> str:
    if isinstance(benchmark, Benchmark):
        raise NotApplicable("it is an object, with nothing to build it from again")
    return benchmark


def _needs_values(benchmark: str) -> list[str]:
    parameters = benchmarks.entry(benchmark).signature().parameters
    return [name for name, parameter in parameters.items() if parameter.default is parameter.empty]


def _built(benchmark: str | Benchmark, **spec: Any) -> Benchmark:
    if isinstance(benchmark, Benchmark):
        return benchmark
    if missing := _needs_values(benchmark):
        raise NotApplicable(f"it cannot be built without {', '.join(missing)}; check what you build with it")
    try:
        built: Benchmark = benchmarks.make(benchmark, **spec)
    except DataError as error:
        raise NotApplicable(f"its data is not here: {error}") from error
    return built
