"""A network by its name: a registered one or timm's, with weights from elsewhere where they are wanted."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from clbench.errors import ConfigError, RegistryError, suggest
from clbench.machine.numerics import pinned
from clbench.models.base import Classifier
from clbench.models.inputs import Shape, check_reach
from clbench.models.own import seq2seq, text_shape
from clbench.models.timm import TIMM, timm_library, timm_model, timm_network
from clbench.models.weights import WHOLE, find, load_into
from clbench.registry import check_arguments, models


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
        params = {**params, "folder": str(found.path)}
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
    if not timm_library().is_model(bare):
        raise _unknown(name)
    return timm_model(**check_arguments(f"model '{name}'", timm_model, {"name": bare, **given}))


def _unknown(name: str) -> RegistryError:
    timm, registered = timm_library(), models.names()
    others = [*timm.list_models(), *timm.list_pretrained()]
    known = [TIMM + other for other in others] if name.startswith(TIMM) else [*registered, *others]
    return RegistryError(
        f"There is no model named '{name}'.{suggest(name, known)} Known: {', '.join(registered)} and, as "
        f"'{TIMM}NAME', the {len(timm.list_models())} models of timm {timm.__version__}."
    )


def _with_timm_weights(
    name: str, file: Path, input_shape: tuple[int, ...], num_classes: int, params: dict[str, Any]
) -> Classifier:
    """Return a timm model with the weights of a file of timm's, fitted to the inputs as timm fits downloaded ones."""
    bare = name.removeprefix(TIMM)
    if not timm_library().is_model(bare.split(".")[0]):
        raise _unknown(name)
    given = {"name": bare, "input_shape": input_shape, "num_classes": num_classes, **params}
    return timm_network(**check_arguments(f"model '{name}'", timm_model, given), file=file)


def _with_checkpoint(
    name: str, folder: Path, input_shape: tuple[int, ...], num_classes: int, params: dict[str, Any]
) -> Classifier:
    """Return a model of whole checkpoints: an index made of a T5."""
    if name != "seq2seq":
        raise ConfigError(f"{folder} is a folder, a checkpoint for the model seq2seq; '{name}' is another.")
    given = {"input_shape": input_shape, "num_classes": num_classes, **params}
    given = check_arguments("model 'seq2seq'", seq2seq, given)
    defaults = {key: value.default for key, value in inspect.signature(seq2seq).parameters.items()}
    for key in ("width", "layers", "heads", "dropout"):
        if given.get(key, defaults[key]) != defaults[key]:
            raise ConfigError(f"model.{key} is that of the checkpoint in {folder}; leave it out.")
    from clbench.models.spelling.t5 import T5Index

    (length,) = text_shape("seq2seq", input_shape)
    kept = {key: given[key] for key in ("docid", "beam", "k", "leaf") if key in given}
    return T5Index(folder, length, num_classes, **kept)
