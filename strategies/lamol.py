"""LAMOL: a language model writes examples of its past.

Sun, Ho, Lee, "LAMOL: LAnguage MOdeling for Lifelong Language Learning", ICLR 2020, arXiv:1909.03329.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Run, Strategy, register
from clbench.errors import IncompatibleError
from clbench.parts import CrossEntropy, check_writes, exact, nearest, written
from clbench.ranges import Count, NotNegative, Share
from clbench.types import IGNORED

Start = Literal["tokens", "end"]
AT_ONCE = 4096
"""Blocks that are looked at together."""


@dataclass(frozen=True)
class Layout:
    """Where the answers of an experience are, and how its blocks begin.

    Attributes:
        starts: (V,) int64, how many blocks begin with each token.
        counts: (L,) bool, which positions count in some block.
        asks: whether there are questions, text whose labels do not count.
        mark: −1 where no position counts in one block and not in the text of another; otherwise the token that stands
            once in each, before the first label that counts; None where there is no such token.
    """

    starts: Tensor
    counts: Tensor
    asks: bool
    mark: int | None


class Lamol(Strategy):
    """Blocks that the model has written before an experience join its batches; loss on answers and on all text.

    Attributes:
        starts, counts: (E, V) and (E, L), of the layouts of the E experiences so far; marks, tasks: (E,).
        text, right, task: what was written for the present experience, (N, L + 1) tokens; (N, L), which labels count.
        rows, given: of the present experience so far: rows of the stream, and written ones that joined them.
    """

    needs = frozenset({"boundaries", "language"})
    state = ("starts", "counts", "marks", "tasks", "text", "right", "task", "rows", "given")
    replaces = (CrossEntropy,)
    parallel = True
    capturable = True
    language = True

    def __init__(self, share: float, lm: float, top: int, start: Start) -> None:
        self.share, self.lm, self.top, self.start = exact(share), lm, top, start

    def setup(self, run: Run) -> None:
        check_writes(run)
        self.end: int | None = getattr(run.benchmark.tokenizer, "end", None)
        if self.start == "end" and self.end is None:
            raise IncompatibleError(
                f"{run.strategy} starts from the token that ends documents (start=end), and the tokens of "
                f"{run.benchmark.id} have none; take start=tokens."
            )
        layouts = [layout_of(exp, run.num_classes) for exp in run.train]
        for exp, found in zip(run.train[:-1], layouts, strict=False):
            if found.mark is None:
                raise IncompatibleError(
                    f"{run.strategy} cannot tell where an answer begins in what it writes of experience "
                    f"{exp.index + 1} of {run.benchmark.id}: labels count at different positions of its blocks, and no "
                    "token stands once in each, before the first that counts. Put such a token between question and "
                    "answer."
                )
        self.asks = any(found.asks for found in layouts)
        (length,), device = run.input_shape, run.device
        self.starts = torch.zeros((0, run.num_classes), dtype=torch.int64, device=device)
        self.counts = torch.zeros((0, length), dtype=torch.bool, device=device)
        self.marks = self.tasks = self.task = self.starts.new_zeros(0)
        self.text, self.right = self.starts.new_zeros((0, length + 1)), self.counts
        self.rows = self.given = 0

    def end_experience(self, exp: Experience) -> None:
        found, device = layout_of(exp, self.run.num_classes), self.run.device
        self.starts = torch.cat([self.starts, found.starts.to(device)[None]])
        self.counts = torch.cat([self.counts, found.counts.to(device)[None]])
        self.marks = torch.cat(
            [self.marks, self.marks.new_tensor([-1 if found.mark is None else found.mark])]
        )
        self.tasks = torch.cat([self.tasks, self.tasks.new_tensor([exp.task])])

    def begin_experience(self, exp: Experience) -> None:
        run, earlier = self.run, len(self.starts)
        come = min(len(exp), run.steps_of(exp) * run.batch_size_of(exp) * run.config.train.updates)
        n = nearest(self.share, come) if earlier else 0
        self.rows = self.given = 0
        self.text, self.right, self.task = self.text[:0], self.right[:0], self.task[:0]
        if not n:
            return
        rng = run.rng("lamol")
        source = torch.arange(n, device=run.device) % earlier  # of which experience each is to be
        first = torch.empty_like(source)
        for j, starts in enumerate(self.starts):
            part = first[j::earlier]
            if self.start == "end":
                part.fill_(self.end or 0)
            elif len(part):
                part.copy_(torch.multinomial(starts.double(), len(part), replacement=True, generator=rng))
        text = written(run, first, run.input_shape[0], self.top, rng)
        x, mark = text[:, :-1], self.marks[source]
        kept = ((mark < 0) | ((x == mark[:, None]).sum(1) == 1)).nonzero().squeeze(1)
        self.text, self.task = text[kept], self.tasks[source[kept]]
        self.right = answers(x, self.counts[source], mark, self.end)[kept]

    def extend(self, batch: Batch) -> Batch:
        if not len(self.text):
            return batch
        self.rows += batch.new
        start, self.given = self.given, nearest(self.share, self.rows)
        if start == self.given:
            return batch
        chosen = torch.arange(start, self.given, device=self.text.device) % len(self.text)
        text, right, task = (rows.index_select(0, chosen) for rows in (self.text, self.right, self.task))
        x, y = text[:, :-1], torch.where(right, text[:, 1:], IGNORED)
        return batch.join(self.run.augment(x), y, task, x)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if not self.asks:
            return {"fit": out.cross_entropy(batch.y)}
        text = out.cross_entropy(text_labels(batch.raw, batch.y))
        return {"answer": out.cross_entropy(batch.y), "text": self.lm * text}


def text_of(y: Tensor) -> Tensor:
    """(B, L) bool, up to the last label of blocks y (B, L) that counts: what follows is filling."""
    return (y != IGNORED).flip(1).cumsum(1).flip(1) > 0


def text_labels(x: Tensor, y: Tensor) -> Tensor:
    """(B, L) the next token at every position of the text of blocks x (B, L) with labels y (B, L)."""
    ahead = F.pad(x[:, 1:], (0, 1), value=IGNORED)
    return torch.where(text_of(y), torch.where(y == IGNORED, ahead, y), IGNORED)


def answers(x: Tensor, counts: Tensor, mark: Tensor, end: int | None) -> Tensor:
    """(N, L) bool, the positions that count in written blocks.

    Args:
        x: (N, L) tokens. counts: (N, L) bool, where there is no mark. mark: (N,) the token from which on they count.
        end: the token that ends documents, and so an answer, if there is one.
    """
    begun = (x == mark[:, None]).cumsum(1) > 0
    if end is not None:
        begun &= ((x == end) & begun).cumsum(1) == 0
    return torch.where((mark < 0)[:, None], counts, begun)


def layout_of(exp: Experience, tokens: int) -> Layout:
    """Return where the answers of an experience are, of so many tokens that there are."""
    x, y = exp.data.take(torch.arange(1))
    # (L,) a position counts in some block; does not, within the text of some block.
    ever = unless = torch.zeros_like(y[0], dtype=torch.bool)
    mark = int(x[0, (y[0] != IGNORED).int().argmax()])
    starts, marked = torch.zeros(tokens, dtype=torch.int64), True
    for rows in torch.arange(len(exp)).split(AT_ONCE):
        x, y = exp.data.take(rows)
        counts = y != IGNORED
        ever, unless = ever | counts.any(0), unless | (text_of(y) & ~counts).any(0)
        before = x.gather(1, counts.int().argmax(1, keepdim=True))
        marked = marked and bool((before == mark).all() and ((x == mark).sum(1) == 1).all())
        starts += torch.bincount(x[:, 0], minlength=tokens)
    same = not bool((ever & unless).any())
    return Layout(starts, ever, bool(unless.any()), -1 if same else mark if marked else None)


@register("lamol", family="replay", paper="arXiv:1909.03329", null={"share": 0.0})
def lamol(share: Share = 0.2, lm: NotNegative = 0.25, top: Count = 20, start: Start = "tokens") -> Strategy:
    """The language model itself writes examples of its past before it learns more, and learns from them as from others.

    Before experience i ≥ 2 of |T_i| blocks, the model writes γ·|T_i| blocks, token by token, each drawn among the k
    likeliest; every earlier experience has equally many, to a block. They join the batches: after R blocks of the
    stream, ⌊γ·R + ½⌋ written ones have come. L = L_QA + λ · L_LM: the mean cross-entropy of the labels that count, the
    answers, and that of all next tokens, of questions and answers. No example is kept.

    Where all labels count, as in running text, there are no questions: L = L_LM, with weight 1, and λ is not used.

    Args:
        share: γ; the paper has 0.05, too. 0 is fine-tuning, without L_LM on questions, which only writing needs.
        lm: λ.
        top: k.
        start: what a written block begins with: tokens, drawn by how often blocks of the experience that it is to be of
            began with each; or end, the token that ends documents, whatever the experience.

    Reference: Sun, Ho, Lee, "LAMOL: LAnguage MOdeling for Lifelong Language Learning", ICLR 2020, arXiv:1909.03329.

    Differences from the paper:
        1. The vocabulary is the stream's and gets no tokens that ask for an example, or for one of a task. With tokens,
           first tokens stand for those of tasks, and may say little: most of what is written is then like the latest
           experience, which must be expected to get worse with the number of experiences. Their counts are kept.
        2. Written blocks join every batch in proportion, and a batch has γ times as many more; there, data are shuffled
           together, and a pass has more steps. Where fewer blocks than |T_i| are to come, γ times as many are written.
        3. Which labels of a written block count is told by their positions, if they are the same in all blocks of its
           experience; else a token that stands once in each of these, before the answer, tells it. Written blocks
           without exactly one are thrown away, as there; then those that are left come more often. What is neither is
           refused.
        4. Blocks have the stream's length; nothing is cut at the end of a document.
    """
    return Lamol(share, lm, top, start) if share else CrossEntropy()
