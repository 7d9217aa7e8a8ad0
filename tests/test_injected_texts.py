"""Low-rank branches, adapters and first-experience adaptation on encoders of texts, and what is asked of them once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clbench.errors import IncompatibleError
from clbench.models.encoders import Encoder, Kept
from clbench.parts import Extended
from tests.test_encoders import ends, trained, tuned

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("lora", {"rank": 2}),
    ("o-lora", {"rank": 2}),
    ("sd-lora", {"rank": 2}),
    ("inflora", {"rank": 2}),
    ("ease", {"width": 3}),
    ("lae", {"blocks": (0, 1)}),
    ("mora", {"rank": 2, "top": 1}),
    ("coact", {"rank": 2}),
    *(
        ("ranpac", {"projection": 8, "adapt": kind})
        for kind in ("adapter", "lora", "ssf", "vpt", "vpt-shallow")
    ),
    ("aper", {"size": 3}),
]


@pytest.mark.parametrize(("strategy", "params"), METHODS)
def test_the_encoder_of_a_folder_stays_and_what_is_put_into_it_learns(
    strategy: str, params: dict[str, Any], tmp_path: Path
) -> None:
    base, _ = tuned(tmp_path, None)
    run = trained(tmp_path, strategy, None, **params)
    found = run.model.state_dict()

    def same(weight: Tensor) -> bool:
        return any(w.shape == weight.shape and torch.equal(w, weight) for w in found.values())

    assert all(same(weight) for name, weight in base.state_dict().items() if name.startswith("backbone"))
    assert run.budget()["trainable_parameters"] > 0


@pytest.mark.parametrize("strategy", ["ranpac", "aper"])
def test_after_the_first_experience_each_text_is_asked_once(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params: dict[str, Any] = {
        "adapt": "lora",
        "size": 2,
        **({"projection": 8} if strategy == "ranpac" else {}),
    }
    kept = trained(tmp_path, strategy, None, **params)
    adapted = next(m for m in kept.model.backbone.modules() if isinstance(m, Encoder))
    assert adapted.still
    assert adapted.asked_once

    def anew(self: Kept, x: Tensor, encoder: Encoder) -> Tensor:
        return encoder.encode(x)

    monkeypatch.setattr(Kept, "__call__", anew)
    computed = trained(tmp_path, strategy, None, **params)
    for a, b in zip(ends(kept)[1:], ends(computed)[1:], strict=True):
        torch.testing.assert_close(a, b)


def test_branches_go_into_the_blocks_that_are_trained(tmp_path: Path) -> None:
    whole, upper = trained(tmp_path, "lora", None, rank=2), trained(tmp_path, "lora", 1, rank=2)
    count = [sum(isinstance(m, Extended) for m in run.model.modules()) for run in (whole, upper)]
    assert count == [4, 2]


@pytest.mark.parametrize(
    ("strategy", "params", "says"),
    [
        ("lora", {"rank": 2}, "model.tune=0 says that none of them"),
        ("ease", {"width": 3}, "model.tune=0 says that none of them"),
        ("aper", {"adapt": "ssf"}, "model.tune=0 says that none of them"),
        ("lift", {}, "without model.tune=0"),
    ],
)
def test_an_encoder_of_which_nothing_is_tuned_takes_none(
    strategy: str, params: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(IncompatibleError, match=says):
        trained(tmp_path, strategy, 0, **params)


def test_but_rank_0_trains_the_head_alone_there_too(tmp_path: Path) -> None:
    run = trained(tmp_path, "lora", 0, rank=0)
    assert all(name.startswith("head.") for name in run.parameters())
    assert run.updates
