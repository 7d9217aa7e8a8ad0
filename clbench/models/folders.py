"""Folders that transformers has saved: config.json, weights in safetensors, tokenizer.json. Nothing is downloaded, and
nothing is unpickled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from clbench.errors import DataError
from clbench.files import read_json
from clbench.machine.torchvision import torchvision


def read_config(folder: Path) -> dict[str, Any]:
    """Return a folder's config.json.

    Raises:
        DataError: there is no such folder, or it lacks the file or weights in safetensors.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} with a model. Nothing is downloaded.")
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder} holds no config.json, which says how the model is built.")
    if not any(folder.glob("*.safetensors")):
        others = ", ".join(
            sorted(f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".h5", ".msgpack"))
        )
        raise DataError(
            f"{folder} holds no weights in safetensors{f', only {others}' if others else ''}. Other formats may run "
            "code when they are read; transformers' save_pretrained writes model.safetensors."
        )
    return dict(read_json(folder / "config.json"))


def read_by_transformers(kind: str, folder: Path) -> Any:
    """Return what one of transformers' classes reads from a folder, in float32.

    Args:
        kind: the name of the class, such as AutoModel.

    Raises:
        DataError: transformers is not installed, cannot read it, would draw weights that the folder lacks, or leave out
            those of a language model.
    """
    torchvision()  # transformers imports it, and it may not load by itself
    try:
        import transformers
    except ImportError as error:
        raise DataError(
            f"A model of texts needs transformers ({error}); pip install 'clbench[text]'."
        ) from error
    reader: Any = getattr(transformers, kind)
    with quiet_transformers():
        try:
            model, told = reader.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise DataError(f"transformers cannot read the model in {folder}: {error}") from error
    if lacking := sorted(name for name in told["missing_keys"] if "pooler" not in name):
        raise DataError(
            f"The weights in {folder} lack {len(lacking)} that config.json asks for, {lacking[0]} for one, and they "
            "would be random; save model and config together, by save_pretrained."
        )
    if kind == "AutoModelForCausalLM" and (left := sorted(told["unexpected_keys"])):
        raise DataError(
            f"The weights in {folder} hold {len(left)} that its config.json has no place for, {left[0]} for one, so "
            "another model would be read than was trained; save model and config together, by save_pretrained."
        )
    return model.float()


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within it, transformers shows no progress and reports no weights that it leaves out, such as a pooler's."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # its functions have no types
    showing, told = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(told)
        if showing:
            logging.enable_progress_bar()
