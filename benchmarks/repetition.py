"""Streams in which classes come back: with repetition, in two ways, and hundreds of times.

Hemati et al., "Class-Incremental Learning with Repetition", CoLLAs 2023, arXiv:2301.11396. Lesort et al., "Challenging
Common Assumptions about Catastrophic Forgetting and Knowledge Accumulation", CoLLAs 2023, arXiv:2207.04543.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clbench.data import (
    Again,
    First,
    Plan,
    any_source,
    build_repeated,
    by_occurrence,
    by_slots,
    first_of_each,
    scole,
)
from clbench.ranges import Count, Fraction, NotNegative, Positive, Seed, Share
from clbench.registry import File, register_benchmark
from clbench.types import Benchmark

from .split import OPS

TEXTS = ("banking77", "clinc150", "hwu64")
METRICS = (
    "average_incremental_accuracy",
    "seen_class_accuracy",
    "missing_class_accuracy",
    "accumulation",
)


def _repeated(
    name: str,
    data: str,
    generate: Any,
    *,
    train_per_class: int | None,
    test_per_class: int | None,
    augment: bool,
    **others: Any,
) -> Benchmark:
    source = any_source(name, data, TEXTS)
    for split, most in (("train", train_per_class), ("test", test_per_class)):
        source = source if most is None else first_of_each(source, split, most)
    ops: Any = (None if others["recipe"] is not None else OPS) if augment else ()
    built = build_repeated(source, generate, name=name, metrics=METRICS, augment=ops, **others)
    return replace(built, texts=data in TEXTS)


@register_benchmark("cir-slots", version=1, paper="arXiv:2301.11396")
def cir_slots(
    data: File = "digits",
    experiences: Count = 10,
    slots: Count = 3,
    train_per_class: Count | None = None,
    test_per_class: Count | None = None,
    online: bool = False,
    augment: bool = False,
    size: Count | None = None,
    recipe: str | dict[str, Any] | None = None,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """Any data set, its classes cut into slots of other examples, some slots in each experience: classes come back.

    As many slots in all as there are classes are class-incremental; as many in each experience, all classes every
    time. A seed has the stream of the authors' code; all test examples of all classes are tested after every
    experience.

    Args:
        data: a data set by name, such as digits, cifar100 or clinc150, an .npz file, or a folder of images.
        experiences: their number.
        slots: of each experience: as many classes, or fewer where the last slots of one class are left.
        train_per_class, test_per_class: the first so many of each class, in the order of the data; all unless given.
        online: one pass over the stream.
        augment: random crop and flip in training, or what the recipe does there.
        size: of the network's images; they are resized to it on the device, bicubic.
        recipe: how images are prepared for a pretrained network, as for split-cifar100.
        valid: share of the training examples that makes a validation stream.
        seed: of slots, classes and examples, and of the validation split.
    """
    given: dict[str, Any] = dict(locals())
    generate = by_slots(experiences=given.pop("experiences"), slots=given.pop("slots"))
    return _repeated("cir-slots", given.pop("data"), generate, **given)


@register_benchmark("cir-sampling", version=1, paper="arXiv:2301.11396")
def cir_sampling(
    data: File = "digits",
    length: Count = 50,
    examples: Count = 100,
    first: First = "geometric",
    first_value: NotNegative = 0.05,
    again: Again = "fixed",
    again_value: NotNegative = 0.2,
    dual: tuple[Share, Share, Share] = (0.5, 0.1, 0.9),
    train_per_class: Count | None = None,
    test_per_class: Count | None = None,
    online: bool = False,
    augment: bool = False,
    size: Count | None = None,
    recipe: str | dict[str, Any] | None = None,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """Any data set in a long stream: each class comes first at a random time, then again and again by chance.

    A seed has the stream of the authors' code; experiences without a class are left out, and the record says how many.
    All test examples of all classes are tested after every experience.

    Args:
        data: a data set by name, such as digits, cifar100 or clinc150, an .npz file, or a folder of images.
        length: experiences, those without a class included.
        examples: of each experience, shared equally by its classes.
        first: how first times are spread: uniform, uniform-alpha, poisson, zipf, zipf-reversed, geometric.
        first_value: p of geometric, the share of uniform-alpha, the mean of poisson, or the exponent of zipf.
        again: how likely a class comes again: fixed, dual, zipf, poisson or random.
        again_value: that probability of fixed, the exponent of zipf, or the mean of poisson.
        dual: of dual: a share of the classes, their probability, and that of the others.
        train_per_class, test_per_class: the first so many of each class, in the order of the data; all unless given.
        online: one pass over the stream.
        augment: random crop and flip in training, or what the recipe does there.
        size: of the network's images; they are resized to it on the device, bicubic.
        recipe: how images are prepared for a pretrained network, as for split-cifar100.
        valid: share of the training examples that makes a validation stream.
        seed: of times, classes and examples, and of the validation split.
    """
    given: dict[str, Any] = dict(locals())
    chances = {key: given.pop(key) for key in ("first", "first_value", "again", "again_value", "dual")}
    generate = by_occurrence(experiences=given.pop("length"), examples=given.pop("examples"), **chances)
    return _repeated("cir-sampling", given.pop("data"), generate, **given)


@register_benchmark("scole", version=1, paper="arXiv:2207.04543")
def scole_(
    data: File = "digits",
    experiences: Count = 500,
    classes_each: Count = 2,
    entropy: NotNegative = 0.0,
    factor: NotNegative | None = None,
    reduction: Positive = 1.0,
    plan: Plan = "drawn",
    share: Share = 1.0,
    train_per_class: Count | None = None,
    test_per_class: Count | None = None,
    online: bool = False,
    augment: bool = False,
    size: Count | None = None,
    recipe: str | dict[str, Any] | None = None,
    valid: Fraction = 0.0,
    seed: Seed = 0,
) -> Benchmark:
    """Any data set in hundreds of experiences, each of all examples of a few classes: does knowledge accumulate?

    All test examples of all classes are tested after every experience, whatever has come.

    Args:
        data: a data set by name, such as digits, fashion_mnist or clinc150, an .npz file, or a folder of images.
        experiences: their number.
        classes_each: classes of each experience, drawn without replacement.
        entropy: 0 draws all classes alike; the larger, the rarer some are: chance i in proportion to
            (1 − f · i)^entropy, shuffled over the classes.
        factor: that f; 0.05, or 0.01 from 21 classes on, if none is given.
        reduction: what the chance of a class is divided by when it has come.
        plan: drawn; cycle, all combinations in turn; restricted, a share of them only; periods, half of the classes in
            each half of the stream; half, from the middle on only half of the classes.
        share: of cycle: of classes that are replaced by others; of restricted: of the combinations.
        train_per_class, test_per_class: the first so many of each class, in the order of the data; all unless given.
        online: one pass over the stream.
        augment: random crop and flip in training, or what the recipe does there.
        size: of the network's images; they are resized to it on the device, bicubic.
        recipe: how images are prepared for a pretrained network, as for split-cifar100.
        valid: share of the training examples that makes a validation stream; the same ones whenever a class comes.
        seed: of the classes of experiences, and of the validation split.
    """
    given: dict[str, Any] = dict(locals())
    keys = ("experiences", "entropy", "factor", "reduction", "plan", "share")
    generate = scole(each=given.pop("classes_each"), **{key: given.pop(key) for key in keys})
    return _repeated("scole", given.pop("data"), generate, **given)
