"""Online streams without boundaries: some classes come in one part of the stream, others come back.

Moon et al.: Online class incremental learning on stochastic blurry task boundary via mask and visual prompt tuning
(Si-Blurry; ICCV 2023, arXiv:2308.09303). Koh et al.: Online continual learning on class incremental blurry task
configuration with anytime inference (i-Blurry; ICLR 2022, arXiv:2110.10031).
"""

from __future__ import annotations

from typing import Any

from clbench.data import AxesOrder, Duplicates, Normalise, build_blurry, load, only, read_npz
from clbench.ranges import Count, Natural, Percent, Seed
from clbench.registry import File, register_benchmark, register_benchmarks
from clbench.types import Benchmark

from .split import OPS

NOTES = (
    "One pass in one order, of whose segments nothing is told; classes not exposed yet are masked at evaluation. "
    "A seed has the stream of the authors' sampler."
)


@register_benchmarks("blurry.yaml", primary="a_auc")
def si_blurry(
    told: dict[str, Any],
    *,
    data: str,
    tasks: Count = 5,
    disjoint: Percent = 50,
    blurry: Percent = 10,
    varying: bool = True,
    classes: tuple[Natural, Count] | None = None,
    augment: bool = False,
    seed: Seed = 0,
) -> Benchmark:
    """A data set once, in segments that are not told; some of the classes stray.

    Args:
        tasks: segments.
        disjoint: N, percent of the classes that come in one segment only.
        blurry: M, percent of the examples of the other classes that are dealt out anew.
        varying: segments of random size, as in Si-Blurry, or of equal size, as in i-Blurry.
        classes: [a, b] takes classes a … b − 1 of the data set only, numbered from 0.
        augment: random crop and flip in training.
        seed: of the stream.
    """
    source = load(data)
    return build_blurry(
        source if classes is None else only(source, *classes),
        **{**told, "notes": NOTES},
        tasks=tasks,
        disjoint=disjoint,
        blurry=blurry,
        varying=varying,
        augment=OPS if augment else (),
        seed=seed,
    )


@register_benchmark("si-blurry-npz", version=2, primary="a_auc", paper="arXiv:2308.09303")
def si_blurry_npz(
    path: File,
    layout: AxesOrder = "auto",
    tasks: Count = 5,
    disjoint: Percent = 50,
    blurry: Percent = 10,
    varying: bool = True,
    augment: tuple[str, ...] = (),
    normalise: Normalise = "auto",
    duplicates: Duplicates = "note",
    seed: Seed = 0,
) -> Benchmark:
    """Your own arrays, of an .npz file as for the benchmark npz, once, in segments that are not told.

    Args:
        path: the file, with x_train, y_train, x_test and y_test.
        layout: of images: channels-first, channels-last, or auto, where their shape leaves no doubt.
        tasks: segments.
        disjoint: N, percent of the classes that come in one segment only.
        blurry: M, percent of the examples of the other classes that are dealt out anew.
        varying: segments of random size, as in Si-Blurry, or of equal size, as in i-Blurry.
        augment: training operations: crop, flip.
        normalise: auto: bytes by the training examples, numbers with a point by those of the first segment, whole
            numbers not at all; first: any by the first segment; none: bytes become 0 to 1, others stay as they are.
        duplicates: test examples that are byte-identical to training examples: note them in the record, or refuse.
        seed: of the stream.
    """
    given: dict[str, Any] = dict(locals())
    source = read_npz(given.pop("path"), layout=given.pop("layout"))
    return build_blurry(source, name="si-blurry-npz", version=2, notes=NOTES, **given)
