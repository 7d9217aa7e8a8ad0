"""What a network takes of its inputs: which pixels reach its features, whether it reads numbers or tokens, and whether
they are still finite as it gets them.

The first two are found out by asking the network, built and in eval mode, so that they hold for every model alike.
Nothing is drawn from torch's global generator, and the weights stay as they are to the bit.

Shapes: C channels, H × W pixels.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import ConfigError, DataError, IncompatibleError
from clbench.machine.precision import DTYPES
from clbench.transforms.augment import Tokenise

if TYPE_CHECKING:
    from clbench.models.base import Classifier, Reading
    from clbench.types import Benchmark, Pool, Stream

PATIENCE = 6
"""Random images in a row that show no further pixel to reach a feature, until the others are taken to reach none: in a
single one, a pixel may not be its pool's largest."""
PUSH = 4.0
"""Standard deviations by which pixels that have reached nothing yet are moved, up and down in turn."""
ATTEMPTS = 16
"""Sizes that are tried in search of one that fits."""
GRIDS = (32, 16, 8, 4, 2, 1)
"""Distances of the sizes that are tried in search of the smallest that a model takes: most halve images five times."""
ROWS = 1024
"""Examples that are looked at together, in search of one that overflows."""

Shape = tuple[int, ...]
Build = Callable[..., "Classifier"]
"""(C, H, W), and parameters in place of those given → the model for such images."""


# --- pixels ---


@torch.no_grad()
def unreached(model: Classifier, input_shape: Shape) -> Tensor:
    """(H, W) bool: the pixels whose values, in some channel, reach no feature.

    By the gradient of a random sum of the features, which is exactly 0 there. Where no pixel has a gradient nothing is
    known, and the answer is none.
    """
    generator = torch.Generator().manual_seed(0)
    missing = torch.ones(input_shape, dtype=torch.bool)
    with _probing(model, generator):
        turn = stale = 0
        while missing.any() and stale < PATIENCE:
            x = torch.randn((1, *input_shape), generator=generator)
            if turn:
                x += PUSH * (-1) ** turn * missing
            with torch.enable_grad():
                features = model.features(x.requires_grad_())
                if not features.requires_grad:
                    break
                weights = torch.randn(features.shape, generator=generator)
                # Of a sum: with `weights` as a gradient from outside, torch would import SymPy to compare the shapes.
                (gradient,) = torch.autograd.grad((features * weights).sum(), x, allow_unused=True)
            if gradient is None:
                break
            left = missing & (gradient[0] == 0)
            stale = stale + 1 if turn and torch.equal(left, missing) else 0
            missing, turn = left, turn + 1
    return missing.any(0) & ~missing.all()


def check_reach(model: Classifier, name: str, input_shape: Shape, build: Build, pads: bool) -> None:
    """Refuse a network that leaves out pixels of its images.

    Args:
        pads: whether it has the parameter `pad`.

    Raises:
        ConfigError: says which, and what would fit.
    """
    if len(input_shape) != 3 or model.crops:
        return
    try:
        missing = unreached(model, input_shape)
    except (RuntimeError, TypeError, ValueError, AttributeError):  # its first step will say what it lacks
        return
    if not missing.any():
        return
    size = input_shape[1:]
    with torch.random.fork_rng(devices=[]):
        found = [_fitting(build, (input_shape, model), step) for step in (-1, 1)]
        patches = _patches(build, input_shape, model)
    ways = []
    if fit := [shape for shape in found if shape is not None]:
        ways.append(f"resize the images to {' or '.join(_times(shape[1:]) for shape in fit)}")
    if patches:
        ways.append(f"set model.patch_size to {' or '.join(map(str, patches))}")
    if found[1] is not None and pads:
        ways.append(f"set model.pad=true, which puts zeros around them up to {_times(found[1][1:])}")
    advice = "; or ".join(ways) or "no other size near does better, so take another model"
    raise ConfigError(
        f"'{name}' would not see {int(missing.sum())} of the {missing.numel()} pixels of images of {_times(size)}"
        f"{_where(missing)}: they reach none of its features. {advice[0].upper()}{advice[1:]}."
    )


def padded(build: Build, trial: Build, input_shape: Shape, usual: int) -> Classifier:
    """Return the model for the smallest images, not smaller than these, all of whose pixels it sees; it fills these up
    itself.

    Zeros come in on all sides, after normalisation, so that they are the mean; an odd one more below and on the right.

    Args:
        trial: builds what the search asks, which pixels reach its features at a size; of the model, `build` is.
        usual: pixels on a side of images that the model is known to take.

    Raises:
        ConfigError: there is no such size.
    """
    with torch.random.fork_rng(devices=[]):
        whole = _fitting(trial, _taken(trial, input_shape, usual), 1)
    if whole is None:
        raise ConfigError(
            f"There is no size near {_times(input_shape[1:])} to which images could be padded for this model; leave "
            "out model.pad."
        )
    model = build(whole)
    if whole != input_shape:
        pad = Pad(input_shape, whole)
        for module in {model.backbone, *_seeing(model, whole)}:
            module.register_forward_pre_hook(pad)
    return model


class Pad:
    """A hook before a module: images of one shape become those of another, with zeros on all sides."""

    def __init__(self, shape: Shape, whole: Shape) -> None:
        (height, width), self.shape = (whole[1] - shape[1], whole[2] - shape[2]), shape
        self.sides = (width // 2, width - width // 2, height // 2, height - height // 2)

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """What is of any other shape, such as images that are padded, is left as it is."""
        if not args or tuple(args[0].shape[-3:]) != self.shape:
            return None
        return (F.pad(args[0], self.sides), *args[1:])


def _fitting(build: Build, first: tuple[Shape, Classifier], step: int) -> Shape | None:
    """Return the nearest shape, going up or down, all of whose pixels the model sees; the first one if it does so
    already.

    Args:
        first: the shape to begin with, and the model for it; its windows are those at every size.
    """
    shape, model = first
    size, moving = list(shape[1:]), [True, True]
    windows = _windows(model, shape)
    for attempt in range(ATTEMPTS):
        if attempt:
            for axis in (0, 1):
                while moving[axis] and size[axis] > 0 and not _clear(windows, axis, size[axis]):
                    size[axis] += step
            if min(size) < 1:
                return None
            shape, moving = (shape[0], *size), [True, True]
            try:
                model = build(shape)
            except ConfigError:
                size = [n + step for n in size]
                continue
        if not (missing := unreached(model, shape)).any():
            return shape
        if not any(moving := _axes(missing)):
            return None
        size = [n + step * more for n, more in zip(size, moving, strict=True)]
    return None


def _taken(build: Build, input_shape: Shape, usual: int) -> tuple[Shape, Classifier]:
    """Return the smallest images, not smaller than these, that the model takes at all, and the model for them.

    That it takes any is found out first, at its usual size. Then sizes grow on a coarse grid until it takes one, and
    finer grids are looked through below that one.

    Raises:
        ConfigError: it takes none.
    """

    def on(grid: int, side: int) -> Shape:
        """Return the next shape on a grid, no side shorter than this."""
        return (input_shape[0], *(-(-max(n, side) // grid) * grid for n in input_shape[1:]))

    with contextlib.suppress(ConfigError):
        return input_shape, build(input_shape)
    largest = on(usual, 1)
    try:
        found = largest, build(largest)
    except ConfigError as error:
        raise ConfigError(
            f"model.pad=true finds no size for images of {_times(input_shape[1:])}, as the model does not even take "
            f"its usual one: {error}"
        ) from error
    low = min(input_shape[1:])
    for grid in GRIDS:
        for side in range(-(-low // grid) * grid, min(found[0][1:]) + 1, grid):
            if (shape := on(grid, side)) == found[0]:
                break
            try:
                found = shape, build(shape)
                break
            except ConfigError:
                low = side + 1
    return found


def _axes(missing: Tensor) -> list[bool]:
    """Whether whole rows, and whether whole columns, are missing."""
    return [bool(missing.all(1 - axis).any()) for axis in (0, 1)]


def _seeing(model: nn.Module, input_shape: Shape) -> list[nn.Module]:
    """Return the modules that are given the images as they are."""
    return [module for module, given in _calls(model, input_shape) if tuple(given.shape[1:]) == input_shape]


def _windows(model: nn.Module, input_shape: Shape) -> list[list[tuple[int, int, int]]]:
    """For each axis, reach, stride and padding of the windows that slide over maps of the images' size."""
    found: list[list[tuple[int, int, int]]] = [[], []]
    for module, given in _calls(model, input_shape):
        if not (hasattr(module, "kernel_size") and hasattr(module, "stride")):
            continue
        if given.ndim != 4 or tuple(given.shape[2:]) != tuple(input_shape[1:]):
            continue
        for axis in (0, 1):
            kernel, stride, padding, dilation = (
                _at(getattr(module, key, default), axis)
                for key, default in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1))
            )
            if padding is not None and kernel is not None:
                found[axis].append((1 + (dilation or 1) * (kernel - 1), stride or kernel, padding))
    return found


def _at(value: Any, axis: int) -> int | None:
    """Return a setting of an axis; None where it is a word, such as "same"."""
    one = value[axis % len(value)] if isinstance(value, tuple | list) else value
    return one if isinstance(one, int) else None


def _clear(windows: Sequence[Sequence[tuple[int, int, int]]], axis: int, size: int) -> bool:
    """Whether windows of these reaches, strides and paddings leave nothing over of so many pixels."""
    return all(
        size + 2 * padding >= reach and (size + 2 * padding - reach) % stride <= padding
        for reach, stride, padding in windows[axis]
    )


def _calls(model: nn.Module, input_shape: Shape) -> list[tuple[nn.Module, Tensor]]:
    """Return the modules below a model, in the order in which they are called with images, and what they are given
    first."""
    calls: list[tuple[nn.Module, Tensor]] = []

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            calls.append((module, args[0]))

    hooks = [module.register_forward_pre_hook(look) for module in model.modules()]
    try:
        with torch.no_grad(), _probing(model, None), contextlib.suppress(RuntimeError):
            model.features(torch.zeros(1, *input_shape))  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _patches(build: Build, input_shape: Shape, model: nn.Module) -> list[int]:
    """Sizes of patches, smaller than the network's own, that leave no pixel of these images out."""
    most = max((reach for axis in _windows(model, input_shape) for reach, _, _ in axis), default=0)
    sides = math.gcd(*input_shape[1:])
    smaller = [n for n in range(min(most - 1, sides), 1, -1) if sides % n == 0]
    try:
        fits = smaller and not unreached(build(input_shape, patch_size=smaller[0]), input_shape).any()
    except ConfigError:  # it has no such parameter
        return []
    return smaller[:3] if fits else []


def _where(missing: Tensor) -> str:
    """` (rows 16–27, columns 16–27)`, where whole ones are missing."""
    named = []
    for axis, word in ((0, "rows"), (1, "columns")):
        lines = missing.all(1 - axis).nonzero().flatten().tolist()
        if lines and lines[-1] - lines[0] + 1 == len(lines):
            named.append(f"{word} {lines[0]}–{lines[-1]}" if len(lines) > 1 else f"{word[:-1]} {lines[0]}")
        elif lines:
            named.append(f"{len(lines)} {word}")
    return f" ({', '.join(named)})" if named else ""


def _times(size: Sequence[int]) -> str:
    return " × ".join(map(str, size))


@contextlib.contextmanager
def _probing(model: nn.Module, generator: torch.Generator | None) -> Iterator[None]:
    """Eval mode; with a generator, entries of weights that are 0 are small and random: they will not stay 0."""
    modes = [(module, module.training) for module in model.modules()]
    kept: list[tuple[Tensor, Tensor]] = []
    for module, _ in modes:
        module.training = False
    try:
        with torch.random.fork_rng(devices=[]):
            weights: list[Tensor] = [*model.parameters()] if generator is not None else []
            for weight in weights:
                zero = weight == 0
                if weight.is_floating_point() and zero.any():
                    kept.append((weight, weight.clone()))
                    weight.copy_(
                        torch.where(zero, 0.1 * torch.randn(weight.shape, generator=generator), weight)
                    )
            yield
    finally:
        for weight, before in kept:
            weight.copy_(before)
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def probing(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, and torch's global generator as before: for a look at what a network gives."""
    with torch.no_grad(), _probing(model, None):
        yield


# --- numbers or tokens ---


def fitted(benchmark: Benchmark, model: Classifier) -> Benchmark:
    """Return a benchmark whose inputs come to the model as it wants them: whole numbers as tokens, or as numbers.

    Tokens are for a network that embeds them; to any other, whole numbers are features like those with a point.

    Raises:
        IncompatibleError: texts for a model that reads numbers, or numbers with a point for one that reads tokens.
        DataError: tokens that the model does not have.
    """
    if benchmark.setting.language != model.language:
        raise IncompatibleError(
            f"{benchmark.id} is a stream for language models, and this one says one thing of an example. Take "
            "model=decoder, or model=hf:FOLDER with a causal model."
            if benchmark.setting.language
            else f"This is a language model, which says what comes next, and {benchmark.id} asks for something else. "
            "Take a benchmark of language, such as prose-and-code or text-domains."
        )
    parts = [part for stream in _streams(benchmark) for exp in stream for part in exp.data.parts]
    pools = dict.fromkeys(pool for pool, _, _ in parts if benchmark.texts)  # in the order of the streams
    reading = model.reading([pool.x for pool in pools])
    if benchmark.texts or reading is not None:
        return _reading_texts(benchmark, reading)
    dtype = benchmark.train[0].data.parts[0][0].x.dtype
    pixels = dtype.is_floating_point or dtype == torch.uint8
    embeds = any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in model.modules())
    if pixels and (len(benchmark.input_shape) != 1 or not embeds):
        return benchmark
    size, who = vocabulary(model, benchmark.input_shape), benchmark.id
    if size is None:
        if benchmark.tokenizer is not None or benchmark.setting.documents:
            raise IncompatibleError(
                f"The inputs of {who} are tokens, numbers that stand for words, and the model computes with their "
                "values. Take one that embeds tokens, such as model=dual-encoder."
            )
        return benchmark if pixels else _reading(benchmark, "numbers")
    if dtype.is_floating_point or (not pixels and benchmark.transform.mean):
        what = f"{str(dtype).removeprefix('torch.')}" + (
            " to be normalised" if benchmark.transform.mean else ""
        )
        raise IncompatibleError(
            f"The model embeds tokens, whole numbers from 0 that are not normalised; the inputs of {who} are {what}. "
            "Take one that computes with numbers, such as model=mlp"
            + (", or leave out mean, std and normalise." if not pixels else ".")
        )
    for stream in _streams(benchmark):
        for pool in _pools(stream):
            _check_tokens(pool, size, f"{who}: x of the {stream.name} stream")
    return benchmark if dtype == torch.int64 else _reading(benchmark, "tokens")


def _reading_texts(benchmark: Benchmark, reading: Reading | None) -> Benchmark:
    if reading is None:
        raise IncompatibleError(
            f"The inputs of {benchmark.id} are texts, and the model computes with numbers. Take one that reads texts: "
            "model=minilm, model=hf:FOLDER or model=bag-of-words."
        )
    if not benchmark.texts:
        raise IncompatibleError(
            f"The model reads texts, and the inputs of {benchmark.id} are none. Take a benchmark of texts, such as "
            "split-clinc150 or text-file."
        )
    transform = Tokenise(**vars(benchmark.transform), tokens=reading)
    told = (*benchmark.found, reading.told) if reading.told else benchmark.found
    return replace(benchmark, transform=transform, found=told)


def _reading(benchmark: Benchmark, what: Literal["numbers", "tokens"]) -> Benchmark:
    return replace(benchmark, transform=replace(benchmark.transform, reads=what))


def _check_tokens(pool: Pool, size: int, who: str) -> None:
    for value in (int(pool.x.min()), int(pool.x.max())):
        if not 0 <= value < size:
            row = int((pool.x == value).flatten(1).any(1).nonzero()[0])
            raise DataError(
                f"{who} holds the token {value}, first in example {row}; the model has {size:,}, 0 … {size - 1}. "
                "Give it a larger model.vocabulary, or number the tokens from 0."
            )


@torch.no_grad()
def vocabulary(model: Classifier, input_shape: Shape) -> int | None:
    """Return how many tokens a network tells apart; None if it computes with the inputs' values.

    Raises:
        IncompatibleError: it takes neither.
    """
    sizes: dict[int, list[Tensor]] = {}
    layers = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]

    def look(layer: nn.Module, args: tuple[Any, ...]) -> None:
        sizes.setdefault(layer.num_embeddings, []).append(args[0])  # type: ignore[arg-type]

    def fails(value: float | int) -> Exception | None:
        try:
            model.features(torch.full((2, *input_shape), value, device=device))
        except (RuntimeError, TypeError, IndexError, ValueError) as error:
            return error
        return None

    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with _probing(model, None):
        if fails(0.0) is None:
            return None
        hooks = [layer.register_forward_pre_hook(look) for layer in layers]
        error = fails(0) or fails(1)
        for hook in hooks:
            hook.remove()
    if error is not None:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise IncompatibleError(
            f"The model takes inputs of shape {tuple(input_shape)} neither as numbers nor as tokens: {first}."
        ) from error
    told = [n for n, given in sizes.items() if any(not torch.equal(given[0], other) for other in given[1:])]
    return min(told, default=torch.iinfo(torch.int64).max)


# --- numbers that stay finite ---


def check_finite(benchmark: Benchmark, precision: str) -> None:
    """Refuse inputs that are infinite as the model gets them: normalised in float32, and trained on in a precision.

    Raises:
        DataError: names the stream and the largest value that is.
    """
    halves = DTYPES[precision] or torch.float32
    for stream in _streams(benchmark):
        dtype = halves if stream is benchmark.train else torch.float32
        ends = (_ends(benchmark, pool) for pool in _pools(stream))
        if not all(torch.isfinite(end.to(dtype)).all() for end in ends) and (
            found := _largest_lost(benchmark, stream, dtype)
        ):
            value, experience, lost = found
            ends_at = f"{str(dtype).removeprefix('torch.')} ends at {torch.finfo(dtype).max:.3g}"
            why = f"and is infinite once normalised by mean and std: {ends_at}"
            cure = "Scale the data, or give a mean and std that fit them"
            if not math.isfinite(value):
                why, cure = "which no network can learn from", "Remove or fill it"
            elif not lost:
                why = f"and is infinite with precision={precision}: {ends_at}"
                cure = (
                    f"Scale the data, or take precision={'fp32' if precision == 'bf16' else 'bf16 or fp32'}"
                )
            raise DataError(
                f"{benchmark.name}@{benchmark.version}: x of the {stream.name} stream reaches {value:.6g} in "
                f"experience {experience + 1}, {why}. {cure}."
            )


def reach(benchmark: Benchmark) -> float | None:
    """Return the largest magnitude, to be expected from the pools, of a training input once normalised; None for
    tokens."""
    ends = [_ends(benchmark, pool).abs().max() for pool in _pools(benchmark.train)]
    return max((float(end) for end in ends), default=None)


def _streams(benchmark: Benchmark) -> list[Stream]:
    return [stream for stream in (benchmark.train, benchmark.test, benchmark.valid) if stream is not None]


def _pools(stream: Stream) -> set[Pool]:
    return {pool for exp in stream for pool, _, _ in exp.data.parts}


def _ends(benchmark: Benchmark, pool: Pool) -> Tensor:
    """Two examples, (2, …) normalised, between which all of a pool lie; of bytes not looked up; none of tokens."""
    x = pool.x
    if x.numel() == 0:
        return torch.empty(0)
    ends = torch.tensor([0, 255], dtype=torch.uint8) if x.dtype == torch.uint8 else torch.stack(x.aminmax())
    made = benchmark.transform.normalise(ends.view(2, *(1,) * (x.dim() - 1)).expand(2, *x.shape[1:]))
    return made if made.is_floating_point() else torch.empty(0)


def _largest_lost(benchmark: Benchmark, stream: Stream, dtype: torch.dtype) -> tuple[float, int, bool] | None:
    """Return the largest input, as stored, that is infinite in a type once normalised; its experience; and whether it
    is infinite in float32 already. None where there is none.
    """
    found: tuple[float, int, bool] | None = None
    for place, exp in enumerate(stream):
        for rows in torch.arange(len(exp.data)).split(ROWS):
            x = exp.data.take(rows)[0]
            made = benchmark.transform.normalise(x)
            lost = ~torch.isfinite(made.to(dtype))
            if not lost.any():
                continue
            at = int(torch.where(lost, x.double().abs(), -1.0).argmax())
            value = float(x.flatten()[at])
            if found is None or not abs(value) <= abs(found[0]):
                found = value, place, not math.isfinite(float(made.flatten()[at]))
    return found
