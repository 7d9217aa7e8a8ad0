"""A run's model after an experience, as a folder that transformers, timm, peft, or clbench without the run, loads."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError, LedgerError
from clbench.files import check_place, make_folder, pretty_json
from clbench.interop.export.card import card, lines_for
from clbench.interop.export.folders import Folder, labels_of, texts_of, written
from clbench.interop.export.language import language_folder
from clbench.interop.export.plain import Plain, plain
from clbench.machine import checkpoint
from clbench.machine.numerics import pinned
from clbench.models.base import head_of
from clbench.models.clip import Clip
from clbench.models.decoders import Causal
from clbench.models.exported import ABOUT
from clbench.models.texts import Pretrained
from clbench.results.ledger import Record, read_record
from clbench.runs.again import outdated, rebuilt
from clbench.runs.kept import kept

CLOSE = 1e-5
"""How far what a folder gives may lie from what the run's network gives, as a difference or a share."""
ROWS = 32
"""Test examples by which that is checked."""


class ExportWarning(UserWarning):
    """A record was made with something else than what exports its model."""


@dataclass(frozen=True)
class Exported:
    """A folder with a model.

    Attributes:
        folder: where. run: the record's id. experience: after which, from 1. loads_with: the library that reads it.
        python: the lines that use it. notes: what was done to the network.
    """

    folder: Path
    run: str
    experience: int
    loads_with: str
    python: str
    notes: tuple[str, ...]


def export(run: Path, out: Path, experience: int | None = None, *, head: bool = True) -> Exported:
    """Write a run's model into a new folder, and try it: loaded from there, it gives the logits of the run's own.

    Args:
        run: a run folder with a record.
        out: the folder to write, which is not there, or empty.
        experience: after which, from 1; the last one if None.
        head: whether the head comes along; without it, the folder gives features.

    Raises:
        LedgerError: no record, no such model kept, or a folder that is there. IncompatibleError: what the method has
            made cannot be had without it. ClbenchError: the run cannot be built here.
    """
    record = read_record(run)
    check_place(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LedgerError(f"{out} is there, and nothing is written over; name another folder, or remove it.")
    if said := outdated([record], record.id):
        warnings.warn(said, ExportWarning, stacklevel=2)
    with pinned(record.config.get("threads", 1)):
        engine = rebuilt(record, "cpu")
        experiences = len(engine.train)
        number = experiences if experience is None else experience
        state = checkpoint.load(kept(record, number, experiences))
        before = {name: value.clone() for name, value in engine.model.backbone.state_dict().items()}  # type: ignore[union-attr]
        try:
            engine.model.load_state_dict(state)
        except RuntimeError as error:
            raise LedgerError(
                f"The run {record.id} has kept a model that this version of clbench would build otherwise; export it "
                f"with the version that made it. {str(error).splitlines()[0]}"
            ) from error
        network = plain(engine, head)
        _standing_on(network, engine, before)
        with _beside(out) as place:
            found, about = _first_right(record, number, network, engine, place)
            text = card(record, engine, network, found, about, lines_for(found, out.name))
            (place / "README.md").write_text(text, encoding="utf-8")
    return Exported(out, record.id, number, found.library, lines_for(found, str(out)), tuple(network.notes))


def _standing_on(network: Plain, engine: Engine, before: dict[str, Tensor]) -> None:
    """Leave out low-rank branches by themselves where what they stand on is not what a run began with, or is nowhere
    to be had."""
    model, after = engine.config.model, engine.model.backbone.state_dict()  # type: ignore[union-attr]
    same = all(torch.equal(after[name], value) for name, value in before.items() if ".branches." not in name)
    elsewhere = (
        isinstance(network.backbone, Pretrained | Causal) or model.weights or model.params.get("pretrained")
    )
    known = isinstance(network.backbone, Pretrained | Causal | Clip) or hasattr(network.backbone, "made_with")
    if network.branches and not (same and elsewhere and known):
        why = "trained, too" if elsewhere else "drawn by the run, so that nobody has them"
        if elsewhere and same:
            why = "those of a network of clbench, which peft does not know"
        network.notes.append(f"They are not written as peft reads them: the weights below them were {why}.")
        network.branches = {}


def _first_right(
    record: Record, number: int, network: Plain, engine: Engine, place: Path
) -> tuple[Folder, dict[str, Any]]:
    """Write a folder in the first way that gives what the run's network does; return what it says of itself, too.

    Raises:
        IncompatibleError: none does.
    """
    apart, tests = 0.0, engine.benchmark.test
    some = [exp.data.take(torch.arange(min(-(-ROWS // len(tests)), len(exp.data))))[0] for exp in tests]
    x = torch.cat([engine.normalise(raw) for raw in some])
    texts = [text for raw in some for text in texts_of(engine, raw)]
    with engine.evaluating(), torch.no_grad():
        features: Tensor = engine.model.features(x)  # type: ignore[operator]
        right = head_of(engine.model).predict(features) if network.scores is not None else features
        ways = written(network, engine, place)
        if engine.benchmark.setting.language:
            ways = [lambda: language_folder(network, engine, place)]
        for way in ways:
            for old in place.iterdir():
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            found = way()
            about = _about(record, engine, network, found, number, place)
            (place / ABOUT).write_text(pretty_json(about), encoding="utf-8")
            given = found.forward(x, texts)
            if given.shape == right.shape and torch.allclose(given, right, rtol=CLOSE, atol=CLOSE):
                return found, about
            apart = float((given - right).abs().max()) if given.shape == right.shape else float("inf")
    raise IncompatibleError(
        f"{engine.strategy} has changed the network in a way that cannot be written: what is read back gives numbers "
        f"that are up to {apart:.1e} away from the run's own, on {len(x)} test examples. Nothing was written."
    )


def _about(
    record: Record, engine: Engine, network: Plain, found: Folder, number: int, place: Path
) -> dict[str, Any]:
    """Return what the folder says of itself, for programs."""
    transform, scores = engine.benchmark.transform, network.scores
    language, learned = engine.benchmark.setting.language, [sorted(exp.classes) for exp in engine.train]
    named: dict[str, Any] = {
        "labels": labels_of(engine),
        "classes": learned,
        "seen": sorted({c for classes in learned[:number] for c in classes}),
    }
    if language:  # whose classes are all tokens
        named = {"domains": [exp.domain for exp in engine.train], "seen": list(range(number))}
        if (tokenizer := engine.benchmark.tokenizer) is not None and not (place / "tokenizer.json").is_file():
            named["tokenizer"] = json.loads(tokenizer.to_json())
    about: dict[str, Any] = {
        "format": 1,
        "run": record.id,
        "experience": number,
        "experiences": len(learned),
        "loads_with": found.library,
        **named,
        "input": {
            "shape": list(engine.input_shape),
            "stored": "texts"
            if engine.benchmark.texts
            else str(engine.benchmark.test[0].data.parts[0][0].x.dtype)[6:],
            "scale": transform.scale,
            "mean": list(transform.mean),
            "std": list(transform.std),
        },
        "head": None if scores is None else {"eps": scores.eps},
    }
    if found.library == "clbench":
        about["network"] = {"name": engine.config.model.name, "params": engine.config.model.params}
    return about


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Make a folder beside another, which becomes that one at the end, and nothing if it fails."""
    whole = Path(os.path.abspath(out))
    made = make_folder(whole.with_name(f".{whole.name}.{os.getpid()}"))
    try:
        yield made
        os.replace(made, whole)
    finally:
        shutil.rmtree(made, ignore_errors=True)
