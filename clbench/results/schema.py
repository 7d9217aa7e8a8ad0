"""What a record holds: each field's type, by which it is read, submitted and verified. Imports no torch.

A field that may be missing is one that earlier versions did not write.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from clbench.ranges import Count, Natural, NotNegative, Seed, Share
from clbench.registry.arguments import shown

DEEPEST = 32
"""Levels of settings within settings."""


class Keys:
    """As an annotation of a dictionary: the keys that it has, those that it may have, and what each holds."""

    others: Literal["forbid", "allow"] = "forbid"

    def __init__(self, optional: Mapping[str, Any] | None = None, /, **required: Any) -> None:
        self.optional, self.required = dict(optional or {}), required

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        fields = {
            key: core_schema.typed_dict_field(handler.generate_schema(hint), required=key in self.required)
            for key, hint in (self.optional | self.required).items()
        }
        return core_schema.typed_dict_schema(fields, extra_behavior=self.others)


class Some(Keys):
    """The same, of some keys; others hold anything."""

    others = "allow"


def _version(value: Any) -> Any:
    if type(value) not in (int, str):
        raise ValueError("a version is a whole number or text")
    return value


def _beside(name: str) -> str:
    if name in (".", "..") or any(c in name for c in "/\\\0"):
        raise ValueError("the curve must lie beside its record")
    return name


Tree = dict[str, Any]
Text = Annotated[str, Field(max_length=100_000)]
Name = Annotated[str, Field(max_length=500)]  # whether something may be called so is asked at submission
Version = Annotated[Any, AfterValidator(_version)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Threads = Annotated[int, Field(ge=1, le=4096)]
Amount = Annotated[int, Field(ge=0, le=1 << 50)]
Number = Annotated[float, BeforeValidator(lambda v: float(v) if v in ("nan", "inf", "-inf") else v)]
"""JSON has no infinity and no NaN; they are held by name."""

Seeds = Annotated[dict[str, int], Keys(order=Seed, init=Seed, data=Seed)]
Config = Annotated[
    Tree,
    Keys(
        {"threads": Threads, "memory_budget": Amount},
        **dict.fromkeys(("benchmark", "strategy", "precision", "selection"), Name),
        **dict.fromkeys(("optim", "train", "evaluation"), Tree),
        stream=Annotated[Tree, Some({"seed": Seed})],
        params=dict[str, Tree],
        model=Annotated[Tree, Keys({"weights": Text | None}, name=Name, params=Tree)],
        channels_last=bool,
        seeds=Seeds,
    ),
]
Benchmark = Annotated[
    Tree,
    Keys(
        {
            "words": Digest,
            **dict.fromkeys(("notes", "domains"), list[Text]),
            "primary": Name,
            "metrics": list[Name],
            "about": Text,
        },
        name=Name,
        version=Version,
        fingerprint=Digest,
    ),
]
Method = Annotated[Tree, Keys(name=Name, version=Version)]
Model = Annotated[Tree, Keys({"version": Version, "weights": Digest, "substrate": Text}, name=Name)]
Code = Annotated[
    Tree,
    Keys(
        {
            "commit": Name | None,
            "dirty": bool | None,
            "parts": dict[str, Annotated[Tree, Keys(origin=Text, sha256=Digest | None)]],
        },
        version=Name,
        sources=Name,
    ),
]
Environment = Annotated[
    Tree,
    Keys(
        {
            **dict.fromkeys(("device_name", "gradients", "instructions"), Text),
            "numerics": Tree,
            "processes": Count,
        },
        **dict.fromkeys(("python", "system", "processor", "device"), Text),
        threads=Threads,
        libraries=dict[str, Text | None],
    ),
]
Budget = Annotated[
    Tree,
    Keys(
        {**dict.fromkeys(("whole_cpu_joules", "whole_gpu_joules"), NotNegative | None), "held_bytes": Amount},
        **dict.fromkeys(("steps", "updates", "stream_examples", "forward_examples", "parameters"), Amount),
        **dict.fromkeys(("trainable_parameters", "memory_examples", "memory_bytes"), Amount),
        **dict.fromkeys(("strategy_state_bytes", "peak_memory_bytes"), Amount),
        **dict.fromkeys(("train_seconds", "eval_seconds"), NotNegative),
    ),
]
Metrics = dict[Name, Number | None]
Evidence = Annotated[dict[str, str], Keys(file=Annotated[Name, AfterValidator(_beside)], sha256=Digest)]
RULES = 2
"""Which rules the counts follow, in a record's `evaluation`; without it, the first.

1: the last tick of an experience was taken before `end_experience`, and the full evaluation after it; of equal highest
   scores, the one of the class with the smallest number was the prediction.
2: both are taken after it; equal highest scores predict no class, and among documents of equal scores the right one is
   the last.
"""

Evaluation = Annotated[
    Tree,
    Keys(
        {
            "rules": Annotated[Count, Field(le=RULES)],
            "level": Text,
            "forward": Text,
            "portions": dict[str, Natural],
            "notes": list[Text],
            "disagreement": dict[str, Number],
            "share_evaluated": Share,
            "error": Share,
            "kept": dict[str, dict[str, Natural]],
            "other_process_seconds": NotNegative,
            "branches": list[Annotated[Tree, Keys(experience=Natural, from_step=Amount, to_step=Amount)]],
        }
    ),
]
Files = dict[str, Annotated[dict[str, str | None], Keys(path=Text | None, sha256=Digest | None)]]


def unfit(value: dict[str, Any] | list[Any], field: str = "", depth: int = 0) -> Iterator[str]:
    """Yield what stands nowhere in a record, whatever the field: what is no text, no finite number, or nested for
    ever."""
    if depth > DEEPEST:
        yield f"field '{field:.200}' has more than {DEEPEST} levels"
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(key, str) and (wrong := _unfit(key)):
            yield f"field '{field}.' {wrong}"
        if isinstance(inner, dict | list):
            yield from unfit(inner, f"{field}.{key}" if field else str(key), depth + 1)
        elif wrong := _unfit(inner):
            yield f"field '{field}.{key}' {wrong}" if field else f"field '{key}' {wrong}"


def _unfit(value: Any) -> str:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            return f"holds {value!r:.80}, which is no text"  # but half a character
    elif isinstance(value, float):
        if not math.isfinite(value):
            return f"holds {value}, which is no finite number"
    elif value is not None and not -(1 << 63) <= value < 1 << 63:
        return "holds a whole number beyond 2⁶³"
    return ""


def told(error: ValidationError) -> str:
    """Return the first thing that is wrong, with its field."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(key) for key in first["loc"])
    if first["type"] == "missing":
        return f"field '{field}' is missing"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"field '{field}' is unknown"
    why = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"field '{field}' holds {shown(first['input'])}: {why[:1].lower()}{why[1:]}"
