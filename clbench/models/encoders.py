"""What reads texts: bytes → tokens → features, each text once where the network stays as it is.

Shapes: N texts of a benchmark, B of a batch, L bytes, T tokens, D features, C classes.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.machine import answers
from clbench.models.base import Classifier
from clbench.transforms.utf8 import rows_of

NONE = -1
"""Stands after the last token of a text; no tokenizer has it."""
BUCKET = 32
"""Texts of similar length that go through together: the fewest computations for filling up, and still few calls."""
LEARNED = 8
"""The same where an encoder learns: batches are small, and of any lengths."""

Tokens = Callable[[Sequence[str]], tuple[list[list[int]], list[bool]]]
"""Texts → the tokens of each, as many as the model reads, and whether it was cut."""


class Reader:
    """Bytes of texts → rows of tokens; each text is taken apart once.

    Args:
        tokens: texts → the tokens of each, at most so many as the model reads, and whether it was cut.
        pools: texts (N, L) uint8 of which batches may come.

    Attributes:
        told: how many texts were cut, in a sentence; empty if none was.
    """

    def __init__(self, tokens: Tokens, pools: Sequence[Tensor]) -> None:
        self._tokens = tokens
        self._known: dict[bytes, Tensor] = {}
        cut = self._learn([row for x in pools for row in rows_of(x)])
        self.width = max((len(ids) for ids in self._known.values()), default=1)
        many = f"{cut:,} of {len(self._known):,} different texts are longer than the {self.width} tokens that are read."
        self.told = many if cut else ""

    def _learn(self, rows: Sequence[bytes]) -> int:
        fresh = list(dict.fromkeys(row for row in rows if row not in self._known))
        found, cut = self._tokens([row.decode(errors="replace") for row in fresh])
        self._known |= {row: torch.tensor(ids) for row, ids in zip(fresh, found, strict=True)}
        return sum(cut)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, L) uint8 → (B, T) int64, `NONE` after a text's end; T tokens has the longest text of the pools."""
        rows = rows_of(x)
        self._learn(rows)
        tokens = torch.full((len(rows), self.width), NONE)
        for row, data in zip(tokens, rows, strict=True):
            ids = self._known[data][: self.width]
            row[: len(ids)] = ids
        return tokens.to(x.device)


class Kept:
    """What an encoder that stays as it is says of the texts of a data set: asked once for each.

    Texts go through in groups that follow from the data set alone, so that the bits do not depend on who asks first,
    on training or evaluation, or on where an interrupted run goes on. That it has stayed is not believed: whenever it
    has been written to, all is asked anew. A copy of this begins with nothing; copies of an encoder that share it are
    compared with the one that was asked.
    """

    def __init__(self) -> None:
        self._place: dict[bytes, int] = {}
        self._groups: list[Tensor] = []
        self._start: list[int] = []  # of each group, among all texts
        self._tokens: list[int] = []  # of each text
        self._asked: weakref.ref[Encoder] | None = None
        self._version: tuple[object, ...] = ()  # of that one
        self._equal: weakref.WeakKeyDictionary[Encoder, tuple[object, bool]] = weakref.WeakKeyDictionary()
        self._values: Tensor | None = None  # (N, D), or (all tokens, D)
        self._rows = torch.zeros(0, dtype=torch.int64)  # (N + 1,) where each text's values begin
        self._done = torch.zeros(0, dtype=torch.bool)
        self._pools: list[tuple[int, int]] = []  # the groups of each pool
        self._files: dict[tuple[int, int], Path | None] = {}  # where a pool's values are kept for other runs

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()

    def anew(self) -> Kept:
        """Return one that knows the same texts and has asked nobody, for another encoder of them."""
        made = Kept()
        made._place, made._groups, made._start = dict(self._place), list(self._groups), list(self._start)
        made._tokens, made._pools = list(self._tokens), list(self._pools)
        return made

    @property
    def tokens(self) -> int:
        """Return how many there are of all texts."""
        return sum(self._tokens)

    def know(self, x: Tensor) -> None:
        """Take up the texts (N, T) of a pool, those of similar length together."""
        self._values = None  # there is no room for more
        fresh = x.unique(dim=0)
        fresh = fresh[torch.tensor([row.tobytes() not in self._place for row in fresh.numpy()])]
        fresh = fresh[(fresh != NONE).sum(1).sort(stable=True).indices]
        if not len(fresh):
            return
        first = len(self._groups)
        for group in fresh.split(BUCKET):
            self._start.append(len(self._place))
            self._groups.append(group)
            self._tokens += (group != NONE).sum(1).tolist()
            self._place |= {row.tobytes(): len(self._place) + i for i, row in enumerate(group.numpy())}
        self._pools.append((first, len(self._groups)))

    def __call__(self, x: Tensor, encoder: Encoder) -> Tensor:
        """(B, T) → (B, D); of an encoder that gives a state for each token, (B, t, D), t those of the longest text."""
        at = [self._place.get(row.tobytes()) for row in x.cpu().contiguous().numpy()]
        if None in at or not self._stands(
            encoder, x.device
        ):  # of a text that is of no pool, nothing is known
            return encoder.encode(x)
        places = torch.tensor(at)
        starts = torch.tensor(self._start)
        for number in (torch.searchsorted(starts, places, right=True) - 1).unique().tolist():
            if self._values is None or not self._done[number]:
                self._ask(number, x.device, encoder)
        assert self._values is not None
        if not encoder.states:
            return self._values[places.to(x.device)]
        first, lengths = self._rows[places], self._rows[places + 1] - self._rows[places]
        steps = torch.arange(int(lengths.max()))
        there = steps < lengths.unsqueeze(1)  # (B, t)
        rows = torch.where(there, first.unsqueeze(1) + steps, 0).to(x.device)
        return self._values[rows].masked_fill(~there.unsqueeze(2).to(x.device), 0.0)

    def _stands(self, encoder: Encoder, device: torch.device) -> bool:
        """Whether what is kept is what this encoder says; if nobody's answers are, it is the one to be asked."""
        version = _version_of(encoder, device)
        known = self._equal.get(encoder)
        if known is None or known[0] != version:
            asked = None if self._asked is None else self._asked()
            if asked is None or asked is encoder or _version_of(asked, device) != self._version:
                self._asked, self._version, self._values = weakref.ref(encoder), version, None
                self._equal.clear()
                known = version, True
            else:
                pairs = zip(asked.parameters(), encoder.parameters(), strict=True)
                known = (
                    version,
                    all((a.dtype, a.device) == (b.dtype, b.device) and torch.equal(a, b) for a, b in pairs),
                )
            self._equal[encoder] = known
        return known[1]

    def _ask(self, number: int, device: torch.device, encoder: Encoder) -> None:
        group = self._groups[number]
        # Within an evaluation, linear layers without gradient may be computed by other kernels, of other bits.
        with torch.enable_grad():
            found = encoder.encode(group.to(device)).detach()
        if encoder.states:  # one text's tokens after another's
            found = found[(group != NONE)[:, : found.shape[1]].to(device)]
        if self._values is None:
            each = torch.tensor(self._tokens) if encoder.states else torch.ones(len(self._place))
            self._rows = F.pad(each.long().cumsum(0), (1, 0))
            self._values = found.new_empty((int(self._rows[-1]), found.shape[1]))
            self._done = torch.zeros(len(self._groups), dtype=torch.bool)
            self._files.clear()
        self._values[self._of(number, number + 1)] = found
        self._done[number] = True
        self._share(next(pool for pool in self._pools if pool[0] <= number < pool[1]), number, encoder)

    def _of(self, first: int, last: int) -> slice:
        """Return the rows of values that groups have."""
        end = self._start[last] if last < len(self._start) else len(self._place)
        return slice(int(self._rows[self._start[first]]), int(self._rows[end]))

    def _share(self, pool: tuple[int, int], asked: int, encoder: Encoder) -> None:
        """Take the values of a pool from the file that another run has left, or leave them in one once all are there.

        Args:
            asked: the group that has been asked just now; a file that says the same of it is what this network says.
        """
        assert self._values is not None
        place, groups = self._of(*pool), slice(*pool)
        if pool not in self._files:
            told, own = encoder.whole(), self._values[self._of(asked, asked + 1)].clone()
            self._files[pool] = path = (
                None if told is None else answers.place(encoder, told, self._groups[groups], own)
            )
            found = None if path is None else answers.read(path, self._values[place])
            if found is not None:
                self._values[place] = found
                if torch.equal(self._values[self._of(asked, asked + 1)], own):
                    self._done[groups] = True
                else:
                    self._values[self._of(asked, asked + 1)] = own
        elif (path := self._files[pool]) is not None and bool(self._done[groups].all()):
            answers.write(path, self._values[place])


def _version_of(encoder: nn.Module, device: torch.device) -> tuple[object, ...]:
    """Return what changes when an encoder is written to, or computes elsewhere or otherwise."""
    how = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
    return device, *how, *((p.data_ptr(), p._version, p.device) for p in encoder.parameters())


class Encoder(nn.Module):
    """(B, T) tokens, `NONE` after a text's end → (B, D). Where nothing of it is trained, each text is asked once.

    Attributes:
        states: that it gives a state for each token, (B, t, D), t those of the longest text.
        fixed: that it stays as it is for ever, in eval mode. Copies, in teachers for one, share what it has said, as do
            those of one of which nothing is trained just now.
        still: that nothing of it is trained any more, although it has been.
    """

    states: bool = False
    fixed: bool = False
    still: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept()

    def fix(self) -> None:
        """Stay as it is from now on."""
        self.fixed = True
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Encoder:
        super().train(mode and not self.fixed)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Encoder:
        made = memo[id(self)] = type(self).__new__(type(self))
        if self.fixed or not self.learns:
            memo[id(self.kept)] = self.kept
        made.__dict__ = copy.deepcopy(self.__dict__, memo)
        return made

    def know(self, x: Tensor) -> None:
        """Take up the texts (N, T) of a pool."""
        self.kept.know(x)

    @property
    def told(self) -> str:
        """Return what is to know of what it keeps, in a sentence; empty if nothing is."""
        return ""

    @property
    def asked_once(self) -> bool:
        """Return whether it keeps its answers itself (`clbench.machine.caching`)."""
        return not self.learns

    @property
    def learns(self) -> bool:
        return not self.still and any(p.requires_grad for p in self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        if x.is_floating_point():
            return self.behind(x)
        return self.encode(x) if self.training or self.learns else self.kept(x, self)

    def encode(self, x: Tensor) -> Tensor:
        """(B, T) → (B, D), by the network."""
        raise NotImplementedError

    def whole(self) -> Mapping[str, Any] | None:
        """Return what it does beside its weights, as JSON, so that its answers may be kept on disk; None if that is not
        all known."""
        return None

    def ahead(self, x: Tensor) -> Tensor:
        """(B, T) → what single examples of a batch begin with where the encoder learns; see `Classifier.ahead`."""
        return x

    def behind(self, h: Tensor) -> Tensor:
        """Numbers with a point that `ahead` has given → (B, D)."""
        return h


class TextClassifier(Classifier):
    """An encoder of texts and a head.

    Args:
        backbone: the encoder. tokens: texts → their tokens.
    """

    def __init__(self, backbone: Encoder, feature_size: int, num_classes: int, tokens: Tokens) -> None:
        super().__init__(backbone, feature_size, num_classes)
        self._tokens = tokens

    def reading(self, pools: Sequence[Tensor]) -> Reader:
        reader, encoder = Reader(self._tokens, pools), self.backbone
        assert isinstance(encoder, Encoder)
        for x in pools:
            encoder.know(reader(x))
        reader.told = " ".join(filter(None, (reader.told, encoder.told)))
        return reader

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """(n, D) features of texts, each for itself, as the encoder is now."""
        encoder = next(m for m in self.modules() if isinstance(m, Encoder))
        device, training = next(self.parameters()).device, encoder.training
        encoder.eval()
        found = [encoder.encode(torch.tensor([ids], device=device)) for ids in self._tokens(texts)[0]]
        encoder.train(training)
        return torch.cat(found)

    def ahead(self, x: Tensor, learning: Collection[str]) -> Tensor:
        if any(not name.startswith("head.") for name in learning):
            return next(m for m in self.modules() if isinstance(m, Encoder)).ahead(x)
        with torch.no_grad():
            return self.features(x)  # an encoder passes them on
