"""A pretrained T5 from a folder on disk, as an index that spells and as a writer of queries.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020,
arXiv:1910.10683. Through transformers, which `clbench[t5]` installs; nothing is downloaded and nothing is unpickled.

The folder is laid out as on the Hugging Face hub: config.json, model.safetensors (or several such files and their
index) and tokenizer.json.

Shapes: B texts of T tokens, D units of a state, W beginnings of t symbols each, N documents, P pairs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import DataError, IncompatibleError
from clbench.files import read_json
from clbench.machine.torchvision import torchvision
from clbench.models.spelling.docids import END, SYMBOLS
from clbench.models.spelling.generation import QueryGenerator
from clbench.models.spelling.seq2seq import START, SpellingIndex, pack, tokens_present, unpack
from clbench.transforms.text import Tokenizer, load_tokenizer
from clbench.types import Benchmark


def load_t5(folder: Path) -> Any:
    """`transformers.T5ForConditionalGeneration` with the folder's weights, in float32.

    Raises:
        DataError: transformers is not installed, or the folder holds no T5 in safetensors.
    """
    config = folder / "config.json"
    kind = read_json(config).get("model_type") if config.is_file() else None
    if kind != "t5" or not any(folder.glob("*.safetensors")):
        files = ", ".join(sorted(file.name for file in folder.iterdir()))
        raise DataError(
            f"{folder} holds no T5: it needs config.json with the model type t5, weights as model.safetensors and "
            f"tokenizer.json; its model type is {kind}, its files {files}."
        )
    torchvision()  # transformers imports it, and it may not load by itself
    try:
        from transformers import T5ForConditionalGeneration
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise DataError(f"A T5 needs transformers ({error}); pip install 'clbench[t5]'.") from error
    logging: Any = transformers_logging  # its functions have no types
    if showing := logging.is_progress_bar_enabled():
        logging.disable_progress_bar()
    try:
        model: Any = T5ForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"transformers cannot read the T5 in {folder}: {error}.") from error
    finally:
        if showing:
            logging.enable_progress_bar()
    return model.float()


class T5Encoder(nn.Module):
    """T5's encoder: (B, T) tokens → (B, T·(D + 1)) features, as `clbench.models.spelling.seq2seq.pack` packs them."""

    def __init__(self, stack: nn.Module, vocabulary: int) -> None:
        super().__init__()
        self.stack, self.vocabulary = stack, vocabulary

    def forward(self, x: Tensor) -> Tensor:
        present = tokens_present(x)
        states = self.stack(input_ids=x, attention_mask=present.long()).last_hidden_state
        return pack(states, present)


class T5Decoder(nn.Module):
    """T5's decoder, whose vocabulary is the digits and the end: tokens of T5's own, each one digit.

    T5 cuts numbers into pieces that depend on where they stand; single digits do not. The rows of the output layer that
    belong to them become a layer of their own.

    Args:
        t5: as `load_t5` gives it, which keeps no encoder then.
        symbols: (SYMBOLS + 1,) T5's tokens of 0 … 9, of the end and of the start.
    """

    tokens: Tensor

    def __init__(self, t5: Any, symbols: Tensor) -> None:
        super().__init__()
        self.width: int = t5.config.d_model
        rows = t5.lm_head.weight.detach()[symbols[:SYMBOLS]]
        t5.lm_head = nn.Linear(self.width, SYMBOLS, bias=False)
        t5.lm_head.weight = nn.Parameter(rows.clone())
        t5.encoder = t5.shared = nn.Identity()  # they are the features' business
        self.t5 = t5
        self.register_buffer("tokens", symbols)

    def forward(self, features: Tensor, prefix: Tensor) -> Tensor:
        """Features (B, T·(D + 1)) and beginnings (B, W, t) → (B, W, t + 1, SYMBOLS) logits."""
        states, present = unpack(features, self.width)
        beginnings = prefix.shape[1]
        symbols = self.tokens[F.pad(prefix, (1, 0), value=START)].flatten(0, 1)  # (B·W, t + 1)
        out = self.t5(
            encoder_outputs=(states.repeat_interleave(beginnings, 0),),
            attention_mask=present.long().repeat_interleave(beginnings, 0),
            decoder_input_ids=symbols,
            use_cache=False,
        )
        logits: Tensor = out.logits.unflatten(0, (-1, beginnings))
        return logits


class T5Index(SpellingIndex):
    """An index that spells, made of a pretrained T5.

    Args:
        folder: of the checkpoint. length: T. num_classes: C. docid, beam, k, leaf: as of `SpellingIndex`.

    Raises:
        DataError: the folder holds no T5, or its tokenizer no digits.
    """

    def __init__(
        self,
        folder: Path,
        length: int,
        num_classes: int,
        docid: Literal["naive", "semantic"] = "naive",
        beam: int = 10,
        k: int = 10,
        leaf: int = 10,
    ) -> None:
        tokenizer, t5 = load_tokenizer(folder), load_t5(folder)
        symbols = _symbols(tokenizer, t5.config, folder)
        encoder = T5Encoder(t5.encoder, t5.config.vocab_size)
        decoder = T5Decoder(t5, symbols)
        super().__init__(encoder, decoder, length * (decoder.width + 1), num_classes, docid, beam, k, leaf)
        self.folder, self.tokens = folder, tokenizer.to_json()

    def prepare(self, benchmark: Benchmark) -> None:
        """As of `SpellingIndex`; the benchmark's tokens must be T5's.

        Raises:
            IncompatibleError: they are not.
        """
        given = benchmark.tokenizer
        if given is not None and given.to_json() != self.tokens:
            raise IncompatibleError(
                f"{benchmark.name} has other tokens than the T5 in {self.folder} has learned; set "
                f"stream.tokenizer={self.folder / 'tokenizer.json'}."
            )
        super().prepare(benchmark)


def _symbols(tokenizer: Tokenizer, config: Any, folder: Path) -> Tensor:
    """(SYMBOLS + 1,) T5's tokens of 0 … 9, of the end and of the start."""
    found = [tokenizer.token(digit) for digit in "0123456789"]
    if None in found:
        raise DataError(f"The tokenizer in {folder} has no token for the digit {found.index(None)} alone.")
    assert len(found) == END
    return torch.tensor([*found, config.eos_token_id, config.decoder_start_token_id])


class T5Writer(QueryGenerator):
    """A pretrained T5 that writes queries, drawn word by word among the `top` likeliest (Nogueira & Lin's docT5query).

    Args:
        folder: of the checkpoint. top: words to draw among. temperature: of the draw.
    """

    def __init__(self, folder: Path, top: int = 20, temperature: float = 1.0) -> None:
        super().__init__()
        self.t5 = load_t5(folder)
        self.top, self.temperature = top, temperature

    def loss(self, documents: Tensor, queries: Tensor) -> Tensor:
        out = self.t5(
            input_ids=documents,
            attention_mask=tokens_present(documents).long(),
            labels=queries.masked_fill(queries == 0, -100),  # T5's own texts end with its end
        )
        loss: Tensor = out.loss
        return loss

    def sample(self, documents: Tensor, length: int, rng: torch.Generator) -> Tensor:
        present, config = tokens_present(documents).long(), self.t5.config
        states = self.t5.encoder(input_ids=documents, attention_mask=present).last_hidden_state
        begun = documents.new_full((len(documents), 1), config.decoder_start_token_id)
        going = torch.ones(len(documents), dtype=torch.bool, device=documents.device)
        for _ in range(length):
            out = self.t5(
                encoder_outputs=(states,), attention_mask=present, decoder_input_ids=begun, use_cache=False
            )
            best, words = out.logits[:, -1].float().topk(min(self.top, out.logits.shape[2]), dim=1)
            drawn = torch.multinomial((best / self.temperature).softmax(1), 1, generator=rng)
            word = words.gather(1, drawn).squeeze(1)
            begun = torch.cat([begun, (word * going).unsqueeze(1)], dim=1)
            going = going & (word != 0) & (word != config.eos_token_id)
        return begun[:, 1:]
