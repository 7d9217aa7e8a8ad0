"""Tokens of text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clbench.errors import DataError
from clbench.transforms.text import PAD, UNKNOWN, Tokenizer, fit_tokenizer, load_tokenizer

TEXTS = [
    "The colour orange is named after the ripe orange fruit.",
    "The word comes from the old French orange, from the old term for the fruit.",
    "Café, naïve: the accents go.",
]


def test_rows_have_one_length_and_end_in_zeros() -> None:
    tokens = fit_tokenizer(TEXTS, 300).encode([TEXTS[0], "", "the orange"], 6)
    assert tokens.shape == (3, 6)
    assert tokens.dtype == torch.int64
    assert (tokens[0] > 1).all()  # cut
    assert tokens[1].tolist() == [PAD] * 6
    assert (tokens[2] == PAD).tolist() == sorted((tokens[2] == PAD).tolist())


def test_no_texts_are_no_rows() -> None:
    assert fit_tokenizer(TEXTS, 300).encode([], 6).shape == (0, 6)


def test_decoding_gives_the_lower_cased_text_back() -> None:
    tokenizer = fit_tokenizer(TEXTS, 300)
    assert tokenizer.decode(tokenizer.encode(TEXTS, 99)) == [
        TEXTS[0].lower(),
        TEXTS[1].lower(),
        "cafe, naive: the accents go.",
    ]


def test_ids_are_below_the_size() -> None:
    tokenizer = fit_tokenizer(TEXTS, 40)
    assert tokenizer.size == 40
    tokens = tokenizer.encode(TEXTS, 99)
    assert int(tokens.max()) < 40
    assert UNKNOWN in tokenizer.encode(["你"], 3)


def test_other_processes_learn_the_same_tokenizer() -> None:
    code = (
        f"from clbench.transforms.text import fit_tokenizer; print(fit_tokenizer({TEXTS!r}, 300).to_json())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fit_tokenizer(TEXTS, 300).to_json().strip()


def test_a_tokenizer_comes_back_from_json_and_from_a_folder(tmp_path: Path) -> None:
    tokenizer = fit_tokenizer(TEXTS, 300)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    for again in (Tokenizer.from_json(tokenizer.to_json()), load_tokenizer(tmp_path)):
        assert again.to_json() == tokenizer.to_json()
        assert torch.equal(again.encode(TEXTS, 9), tokenizer.encode(TEXTS, 9))


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tokenizer at .*tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(DataError, match="not the JSON of a tokenizer"):
        Tokenizer.from_json("{}")
    with pytest.raises(ValueError, match="2 tokens"):
        fit_tokenizer(TEXTS, 2)


def test_token_0_must_fill_up() -> None:
    known = json.loads(fit_tokenizer(TEXTS, 300).to_json())
    known["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 1,
        "pad_type_id": 0,
        "pad_token": "[UNK]",
    }
    with pytest.raises(DataError, match="token 1 fills up"):
        Tokenizer.from_json(json.dumps(known))
