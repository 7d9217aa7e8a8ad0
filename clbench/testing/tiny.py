"""A benchmark and a model that cost nothing, and the engine around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from clbench.config import EvaluationConfig, Execution, OptimConfig, RunConfig, Seeds, TrainConfig
from clbench.engine.engine import Engine
from clbench.engine.observer import Observer
from clbench.machine.randomness import derive_seed
from clbench.models import Classifier
from clbench.models.clip import Clip, Tokens, padded
from clbench.models.decoders import decoder
from clbench.models.own import BagOfTokens
from clbench.strategy import Strategy
from clbench.transforms.augment import Transform
from clbench.types import IGNORED, Benchmark, Data, Experience, Pool, Setting, Stream

TOKENS, LENGTH = 8, 6
"""A tiny retrieval stream has so many tokens of a document's own, one more than it uses, and tokens of an example."""
BLOCK, ANSWER = 10, 2
"""Tokens of an example of a tiny language stream, and how many of its labels count."""


def tiny_benchmark(
    *,
    shift: Literal["class", "domain", "task"] = "class",
    experiences: int = 3,
    classes: int = 2,
    examples: int = 64,
    images: bool = False,
    repeat: bool = False,
    tasks: Sequence[int] | None = None,
    boundaries: bool = True,
    task_labels: Literal["never", "train", "always"] | None = None,
    passes: int | None = None,
    memory: int | None = None,
    documents: bool = False,
    language: bool = False,
    seed: int = 0,
) -> Benchmark:
    """Experiences of a few well separated Gaussian classes; half as many test examples.

    Args:
        shift: with "domain", all experiences hold the same classes, at other places.
        experiences, classes, examples: how many; classes and examples of each experience.
        images: (1, 4, 4) uint8 images in place of 8 float features.
        repeat: the last experience holds the first class again in place of one of its own.
        tasks: the experiences' true task labels; their indices if None.
        boundaries, task_labels, passes, memory: of the `Setting`; task labels are always told under "task"
            shift unless said otherwise.
        documents: a retrieval stream: a class is a document, of tokens of its own, with several passages; half of the
            first experience's examples are labelled queries, and so are all test examples.
        language: a stream of domains for language models: a class is a token, an example a block of random ones and an
            answer, each of whose tokens is further by as much as the experience says than the one before it.
        seed: of everything drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    shift = "domain" if language else shift
    domain = shift == "domain"
    starts = [0 if domain else i * classes for i in range(experiences)]
    clusters = experiences * classes
    groups = [tuple(range(start, start + classes)) for start in starts]
    if repeat:
        groups[-1] = (0, *groups[-1][1:])
    if language:
        groups = [tuple(range(clusters))] * experiences
    pixels, features = images and not documents and not language, 16 if images else 8
    # Means on corners of a cube, so that classes are apart in several features.
    corners = torch.rand((clusters, features), generator=generator).round() * 4 - 2
    means = corners + torch.eye(clusters, features)
    labels = tuple(tasks) if tasks is not None else tuple(range(experiences))

    def asked(name: str, i: int, size: int) -> int:
        """Return how many examples come before the queries."""
        return 0 if name == "test" else -(-size // 2) if i == 0 else size

    def stream(name: str, size: int) -> Stream:
        xs, ys = [], []
        for i, group in enumerate(groups):
            y = torch.tensor(group)[torch.arange(size) % len(group)]
            place = y + i * classes if domain else y
            if language:
                block = torch.randint(clusters, (size, BLOCK + 1), generator=generator)
                answer = block[:, -ANSWER - 1, None] + (i + 1) * torch.arange(1, ANSWER + 1)
                block[:, -ANSWER:] = answer % clusters
                y = block[:, 1:].masked_fill(torch.arange(BLOCK) < BLOCK - ANSWER, IGNORED)
                xs.append(block[:, :-1])
            elif documents:
                row = torch.randint(1, TOKENS, (size, LENGTH), generator=generator) + TOKENS * place[:, None]
                queries = torch.arange(size) >= asked(name, i, size)
                xs.append(torch.where(queries[:, None] & (torch.arange(LENGTH) >= 3), 0, row))
            else:
                xs.append(means[place] + 0.5 * torch.randn((size, features), generator=generator))
            ys.append(y)
        x = torch.cat(xs)
        if pixels:
            x = (x * 32 + 128).clamp(0, 255).to(torch.uint8).view(-1, 1, 4, 4)
        pool = Pool(x, torch.cat(ys))
        return Stream(
            name,
            tuple(
                Experience(
                    i,
                    tuple(sorted(group)),
                    Data.of(pool, torch.arange(i * size, (i + 1) * size)),
                    labels[i],
                    f"domain {i}" if domain else None,
                    documents=asked(name, i, size) if documents else None,
                )
                for i, group in enumerate(groups)
            ),
        )

    count = classes if domain and not language else clusters
    return Benchmark(
        name="tiny",
        version=1,
        setting=Setting(
            shift=shift,
            boundaries=boundaries,
            task_labels=task_labels or ("always" if shift == "task" else "never"),
            passes=passes,
            memory=memory,
            documents=documents,
            language=language,
        ),
        train=stream("train", examples),
        test=stream("test", max(examples // 2, 1)),
        num_classes=count,
        transform=Transform(mean=(0.5,), std=(0.25,)) if pixels else Transform(),
        seed=seed,
        primary="average_loss" if language else "average_accuracy",
        class_names=tuple(f"{c} or {NAMES[c % len(NAMES)]}" for c in range(count)),
    )


NAMES = ("ape", "bird", "cow", "dog", "elk", "fox", "gnu")
"""Names of classes, which their numbers join."""


class Letters:
    """A tokenizer whose tokens stand for a character each, some of them of two bytes, and the last one for none."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.characters = torch.ones(size, dtype=torch.int64)
        self.characters[-1] = 0
        self.bytes = self.characters + (torch.arange(size) >= size // 2) * self.characters

    def to_json(self) -> str:
        return f"{self.size} letters"


def tiny_language(
    *, domains: int = 2, blocks: int = 24, held: int = 6, length: int = 8, tokens: int = 11, seed: int = 0
) -> Benchmark:
    """Return a stream for language models: each domain counts by steps of its own.

    Args:
        domains, blocks, held: blocks of a domain to train on, and held out.
        length: of a block.
        tokens: of the vocabulary.
        seed: of where blocks begin.
    """
    generator = torch.Generator().manual_seed(seed)

    def stream(name: str, n: int) -> Stream:
        experiences = []
        for i in range(domains):
            starts = torch.randint(tokens, (n, 1), generator=generator)
            block = (starts + (i + 1) * torch.arange(length + 1)) % tokens  # (n, L + 1)
            data = Data.of(Pool(block[:, :-1], block[:, 1:]), torch.arange(n))
            experiences.append(Experience(i, tuple(range(tokens)), data, domain=f"by {i + 1}"))
        return Stream(name, tuple(experiences))

    tokenizer: Any = Letters(tokens)
    setting = Setting("domain", language=True)
    streams = stream("train", blocks), stream("test", held)
    return Benchmark(
        "tiny-language",
        1,
        setting,
        *streams,
        tokens,
        Transform(),
        primary="average_loss",
        tokenizer=tokenizer,
    )


def tiny_decoder(benchmark: Benchmark) -> Classifier:
    """Return a language model of one block for a benchmark, freshly initialised."""
    return decoder(benchmark.input_shape, benchmark.num_classes, width=16, layers=1, heads=2)


def tiny_model(benchmark: Benchmark, *, norm: bool = True) -> Classifier:
    """One hidden layer of 16 units, with batch normalisation unless said otherwise.

    Its running statistics show whatever runs the model once too often, or in the wrong mode. Of language, a
    `tiny_decoder`.
    """
    if benchmark.setting.language:
        return tiny_decoder(benchmark)
    size_in = torch.Size(benchmark.input_shape).numel()
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(size_in, 16)]
    if benchmark.setting.documents:
        tokens = 1 + max(int(exp.data.x().max()) for exp in (*benchmark.train, *benchmark.test))
        layers = [BagOfTokens(tokens, 16), nn.Linear(16, 16)]
    if norm:
        layers.append(nn.BatchNorm1d(16))
    return Classifier(nn.Sequential(*layers, nn.ReLU()), 16, benchmark.num_classes)


def tiny_vit(benchmark: Benchmark) -> Classifier:
    """Return a vision transformer of timm, 32 wide with 2 blocks, for the images of a tiny benchmark.

    Its weights are large enough that features tell images apart although nothing has trained them.
    """
    from clbench.machine.torchvision import torchvision

    torchvision()
    from timm.layers.attention import Attention
    from timm.models.vision_transformer import VisionTransformer

    channels, height, width = benchmark.input_shape
    size: dict[str, Any] = {"patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 1.0}
    image: dict[str, Any] = {"img_size": (height, width), "in_chans": channels}
    vit = VisionTransformer(num_classes=0, weight_init="jax", **size, **image)
    _enlarge(vit)
    for module in vit.modules():
        # The fused kernel cannot be mapped over examples, as some strategies do.
        if isinstance(module, Attention):
            module.fused_attn = False  # type: ignore[misc]
    return Classifier(vit, vit.num_features, benchmark.num_classes)


def tiny_clip(benchmark: Benchmark) -> Classifier:
    """Return a dual encoder in the form of CLIP, with 16-wide towers of 3 and 2 blocks, that reads names by letters.

    Its weights are large enough that embeddings tell images and names apart although nothing has trained them.
    """
    channels, size, _ = benchmark.input_shape
    tower = {"num_attention_heads": 2, "intermediate_size": 32, "hidden_act": "gelu"}
    image = {"num_channels": channels, "image_size": size, "patch_size": 2}
    vision = {**tower, **image, "hidden_size": 16, "num_hidden_layers": 3}
    text = {**tower, "hidden_size": 12, "num_hidden_layers": 2, "vocab_size": 64}
    clip = Clip({"projection_dim": 16, "vision_config": vision, "text_config": text}, by_letters)
    _enlarge(clip)
    return Classifier(clip, clip.size, benchmark.num_classes)


@torch.no_grad()
def _enlarge(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.weight.mul_(2)


def by_letters(texts: Sequence[str]) -> Tokens:
    """Return a token for each letter between a start and an end token, which has the highest number."""
    return padded([[62, *(1 + ord(letter) % 61 for letter in text), 63] for text in texts])


KINDS = {"vit": tiny_vit, "clip": tiny_clip}
"""What is built for strategies that need a kind of network."""


def architecture_of(strategy: Strategy) -> str:
    """Return the kind of network that a strategy needs; "" where any will do."""
    return next((part.architecture for part in strategy.parts if part.architecture), "")


def tiny_run(
    strategy: Strategy,
    benchmark: Benchmark,
    *,
    seed: int = 0,
    model: Classifier | None = None,
    batch_size: int = 32,
    epochs: int = 2,
    micro_batch: int | None = None,
    every: int = 0,
    optim: OptimConfig | None = None,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    device: str = "cpu",
    checkpoint_seconds: float | None = None,
    observers: Sequence[Observer] = (),
    level: Literal["exact", "fast"] = "exact",
    **execution: Any,
) -> Engine:
    """Return the engine, before its first step, with a freshly initialised `tiny_model` unless one is given.

    Args:
        strategy, benchmark, model: what runs. A strategy that needs a vision transformer or a dual encoder gets
            `tiny_vit` or `tiny_clip`, and needs a benchmark with images; one of language gets a `tiny_decoder`.
        seed: of the initialisation and of everything drawn.
        batch_size, epochs, micro_batch: of training.
        optim: SGD, 0.02 with momentum 0.9, never reset, if None.
        every: steps between evaluations; 0 evaluates at experience ends.
        precision, device: as on the command line.
        checkpoint_seconds: time between checkpoints; None for none.
        observers: who looks on.
        level: of evaluation.
        execution: the rest of `Execution`.
    """
    config = RunConfig(
        benchmark=benchmark.name,
        strategy=str(strategy),
        optim=optim or OptimConfig(lr=0.02, momentum=0.9, reset=False),
        train=TrainConfig(batch_size=batch_size, epochs=epochs, micro_batch=micro_batch),
        evaluation=EvaluationConfig(every=every, level=level),
        precision=precision,
        seeds=Seeds(order=0, init=seed, data=seed),
    )
    how = Execution(device=device, checkpoint_seconds=checkpoint_seconds, **execution)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initialisation"))
        kind = "" if benchmark.setting.language else architecture_of(strategy)
        made = KINDS.get(kind, tiny_model)
        network = made(benchmark) if model is None else model
        return Engine(benchmark, strategy, network, config, how, observers)
