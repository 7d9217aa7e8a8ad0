"""Few-shot class-incremental learning: a base session with much data, then a few examples of a few new classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from clbench.data import (
    DRAWERS,
    AxesOrder,
    Duplicates,
    Normalise,
    Source,
    build_few_shot,
    chosen,
    few_shot as few_shot_streams,
    load,
    omniglot,
    permutation,
    read_folder,
    read_npz,
    read_rows,
)
from clbench.errors import ConfigError
from clbench.ranges import Count, Fraction, Natural, Part, Seed
from clbench.registry import File, register_benchmark
from clbench.types import Benchmark

# The published shots, five of each of classes 60 … 99, as rows of CIFAR-100's training set in its published order. From
# the repository of Tao et al., "Few-Shot Class-Incremental Learning", CVPR 2020, github.com/xyutao/fscil, whose lists
# all later work takes over.
# fmt: off
PUBLISHED = (
    29774, 33344, 4815, 6772, 48317, 29918, 33262, 5138, 7342, 47874, 28864, 32471, 4316, 6436, 47498,
    29802, 33159, 3730, 5093, 47740, 30548, 34549, 2845, 4996, 47866, 28855, 32834, 4603, 6914, 48126,
    29932, 33300, 3860, 5424, 47055, 29434, 32604, 4609, 6380, 47844, 30456, 34217, 4361, 6550, 46896,
    29664, 32857, 4923, 7502, 47270, 31267, 34427, 4799, 6611, 47404, 28509, 31687, 3477, 5563, 48003,
    29545, 33412, 5114, 6808, 47692, 29209, 33265, 4131, 6401, 48102, 31290, 34432, 6060, 8451, 48279,
    32337, 35646, 6022, 9048, 48584, 30768, 34394, 5091, 6510, 48023, 30310, 33230, 5098, 6671, 48349,
    29690, 33490, 4260, 5916, 47371, 31173, 34943, 4517, 6494, 47689, 30281, 33894, 3768, 6113, 48095,
    28913, 32821, 6172, 8276, 48004, 31249, 34088, 5257, 6961, 47534, 30404, 34101, 4985, 6899, 48115,
    31823, 35148, 3922, 6548, 48127, 30815, 34450, 3481, 5089, 47913, 31683, 34591, 5251, 7608, 47984,
    29837, 33823, 4615, 6448, 47752, 31222, 34079, 5686, 7919, 48675, 28567, 32964, 5009, 6201, 47039,
    29355, 33909, 3982, 5389, 47166, 31058, 35180, 5177, 6890, 48032, 31176, 35098, 5235, 7861, 47830,
    30874, 34639, 5266, 7489, 47323, 29960, 34050, 4988, 7434, 48208, 30463, 34580, 5230, 6813, 48605,
    31702, 35249, 5854, 7765, 48444, 30380, 34028, 5211, 7433, 47988, 31348, 34021, 4929, 7033, 47904,
    30627, 33728, 4895, 6299, 47507,
)
# fmt: on


@register_benchmark("fscil-cifar100", version=1, primary="harmonic_mean")
def fscil_cifar100(
    base: Count = 60,
    ways: Count = 5,
    shots: Count = 5,
    sessions: Natural = 8,
    class_order: Literal["natural", "shuffled"] | list[int] = "natural",
    shot_list: Literal["auto", "published", "drawn"] | File = "auto",
    memory: Natural = 0,
    augment: bool = True,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """CIFAR-100, few-shot class-incremental: 60 base classes, then eight sessions of five, five images each.

    The protocol of TOPIC (Tao et al., CVPR 2020) and of CEC (Zhang et al., arXiv:2104.03047) and what followed.

    Args:
        base: classes of the base session, with all their images.
        ways: classes of each later session.
        shots: images of each of them.
        sessions: how many later ones there are.
        class_order: natural, as all published work has it, drawn from the seed, or a list of all.
        shot_list: which images the later sessions have. auto: the published ones where the file's training images come
            in the published order, as `clbench data fetch cifar100` leaves them, and the other parameters are the
            protocol's; drawn from the seed otherwise, and the benchmark's notes say which. published: those, or a
            refusal. drawn. Or a file of row numbers, as text or .npz, session by session.
        memory: images that a strategy may keep; none in the protocol.
        augment: random crop and flip in training.
        valid: share of the training images that makes a validation stream.
        seed: of drawn images, a shuffled class order and the validation split.
    """
    source = load("cifar100")
    rows: list[int] | None
    if shot_list in ("auto", "published"):
        why = _not_published(source, base, ways, shots, sessions, class_order)
        if why and shot_list == "published":
            raise ConfigError(f"fscil-cifar100: the published list of shots does not apply: {why}")
        rows = None if why else list(PUBLISHED[: sessions * ways * shots])
        which = (
            f"drawn by the seed. The published list does not apply: {why}" if why else "the published list."
        )
    else:
        rows = None if shot_list == "drawn" else read_rows(shot_list)
        which = "drawn by the seed." if rows is None else f"the list {Path(shot_list).name}."
    return build_few_shot(
        source,
        name="fscil-cifar100",
        base=base,
        ways=ways,
        shots=shots,
        sessions=sessions,
        class_order=class_order,
        rows=rows,
        memory=memory,
        valid=valid,
        augment=("crop", "flip") if augment else (),
        seed=seed,
        notes=f"Fine labels; tested on all test images of the classes seen. Shots: {which}",
    )


def _not_published(
    source: Source, base: int, ways: int, shots: int, sessions: int, class_order: str | list[int]
) -> str:
    """Why the published list does not apply, as a sentence; empty where it does."""
    if (base, ways, shots) != (60, 5, 5) or sessions > 8 or class_order != "natural":
        return "it is for base=60 ways=5 shots=5, at most eight sessions and the natural order of classes."
    rows = PUBLISHED[: sessions * ways * shots]
    try:
        few_shot_streams(source.train, source.test, base=60, ways=5, shots=5, sessions=sessions, rows=rows)
    except ConfigError:
        there = [int(source.train.y[row]) if row < len(source.train.y) else None for row in rows[:3]]
        return (
            "the training images are not in the published order, in which rows "
            f"{', '.join(map(str, rows[:3]))} are of class 60; here their classes are {', '.join(map(str, there))}. "
            "`clbench data fetch cifar100` makes a file that is, where there is none yet."
        )
    return ""


@register_benchmark("fscil-omniglot", version=1, primary="harmonic_mean")
def fscil_omniglot(
    base: Count = 100,
    ways: Count = 10,
    shots: Count = 5,
    sessions: Natural = 5,
    class_order: Literal["natural", "shuffled"] = "shuffled",
    test_drawers: Annotated[int, Field(ge=1, le=DRAWERS - 1)] = 5,
    memory: Natural = 0,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """Omniglot, few-shot class-incremental: 100 base characters, then five sessions of ten, five drawings each.

    Base characters are of the published background set's 30 alphabets, later ones of the evaluation set's 20 (Lake et
    al., Science 2015), so that new classes come from alphabets never seen. The last drawers are for testing, for every
    character; the others' drawings are for training, all of them in the base session. The numbers are ours: there is no
    established protocol.

    Args:
        base: characters of the base session, of 964.
        ways: characters of each later session, of 659 in all.
        shots: drawings of each of them.
        sessions: how many later ones there are.
        class_order: natural, as the characters are numbered, or drawn from the seed.
        test_drawers: how many of the 20 drawers are for testing.
        memory: drawings that a strategy may keep.
        valid: share of the training drawings that makes a validation stream.
        seed: of the characters, the drawings and the validation split.
    """
    characters = omniglot(test_drawers)
    groups = []
    for what, members, n in (
        ("base characters", characters.background, base),
        ("later characters", ~characters.background, ways * sessions),
    ):
        there = np.flatnonzero(members)
        if n > len(there):
            raise ConfigError(f"fscil-omniglot has {len(there)} {what}; {n} were asked for.")
        order = permutation(len(there), seed, what) if class_order == "shuffled" else np.arange(len(there))
        groups += there[order][:n].tolist()
    return build_few_shot(
        chosen(characters.source, groups),
        name="fscil-omniglot",
        base=base,
        ways=ways,
        shots=shots,
        sessions=sessions,
        memory=memory,
        valid=valid,
        seed=seed,
        draws=class_order == "shuffled",
        notes=f"Drawers 1 to {DRAWERS - test_drawers} for training, the others for testing; 28 × 28 pixels.",
    )


@register_benchmark("few-shot", version=3, primary="harmonic_mean")
def few_shot(
    path: File,
    base: Count,
    ways: Count,
    shots: Count = 5,
    sessions: Natural | None = None,
    class_order: Literal["natural", "shuffled"] | list[int] = "natural",
    shot_list: Literal["drawn"] | File = "drawn",
    memory: Natural = 0,
    augment: tuple[str, ...] = (),
    normalise: Normalise = "auto",
    size: Count = 64,
    channels: Literal[1, 3] = 3,
    test_fraction: Part = 0.2,
    layout: AxesOrder = "auto",
    valid: Fraction = 0.0,
    duplicates: Duplicates = "note",
    seed: Seed = 0,
) -> Benchmark:
    """Your own arrays or images, few-shot class-incremental: base classes, then a few examples of a few new ones.

    Args:
        path: an .npz file with x_train, y_train, x_test and y_test, or a folder of images as for `image-folder`.
        base: classes of the base session, with all their examples.
        ways: classes of each later session.
        shots: examples of each of them.
        sessions: how many later ones there are; as many as there are classes for unless given.
        class_order: ascending, drawn from the seed, or a list of all.
        shot_list: drawn from the seed, or a file of row numbers of the training examples, as text or .npz, session by
            session.
        memory: examples that a strategy may keep.
        augment: training operations: crop, flip.
        normalise: auto: bytes and numbers with a point by the examples of the base session, whole numbers not at all;
            first: any by those; none: bytes become 0 to 1, others stay as they are.
        size: pixels of a side, to which images of a folder are brought.
        channels: of images of a folder: 3 for colour, 1 for grey.
        test_fraction: share of each class of a folder that is for testing, where the folder has no split.
        layout: of images in an .npz file: channels-first, channels-last, or auto, where their shape leaves no doubt.
        valid: share of the training examples that makes a validation stream, where the data have none.
        duplicates: test examples that are byte-identical to training examples: note them in the record, or refuse.
        seed: of drawn examples, a shuffled class order and the validation split.
    """
    if Path(path).expanduser().is_dir():
        source = read_folder(path, size=size, channels=channels, test_fraction=test_fraction)
    else:
        source = read_npz(path, layout=layout)
    return build_few_shot(
        source,
        name="few-shot",
        version=3,
        base=base,
        ways=ways,
        shots=shots,
        sessions=sessions,
        class_order=class_order,
        rows=None if shot_list == "drawn" else read_rows(shot_list),
        memory=memory,
        augment=augment,
        normalise=normalise,
        valid=valid,
        duplicates=duplicates,
        seed=seed,
    )
