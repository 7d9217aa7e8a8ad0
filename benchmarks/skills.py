"""Skills that build on each other, as sequences of tokens: chains of variables.

Zhang et al., "Unveiling Transformers with LEGO: A Synthetic Reasoning Task", 2022, arXiv:2206.04301; by depth as skills
in Chen et al., "Skill-it!", NeurIPS 2023, arXiv:2307.14430.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from clbench.data import bits
from clbench.errors import ConfigError
from clbench.ranges import Count, Seed
from clbench.registry import register_benchmark
from clbench.transforms.augment import Transform
from clbench.types import IGNORED, Benchmark, Data, Experience, Pool, Setting, Stream

LETTERS = 26
TOKENS = (*"abcdefghijklmnopqrstuvwxyz01", "val", "not", "=", ",", ":")
ZERO, VAL, NOT, EQUALS, COMMA, ASKS = (TOKENS.index(token) for token in ("0", "val", "not", "=", ",", ":"))


@register_benchmark("lego", version=1, primary="average_loss", paper="arXiv:2206.04301")
def lego(
    skills: Count = 5,
    train_blocks: Count = 2000,
    test_blocks: Count = 256,
    labels: Literal["answer", "all"] = "answer",
    online: bool = False,
    seed: Seed = 0,
) -> Benchmark:
    """Chains of variables, of which one is asked for: skills that build on each other, for language models.

    As in `b = not y, r = val 1, …: b =`. Every block has a clause for each of k variables, in random order: the first
    of the chain has a value, each other that of the one before it, or its opposite. Experience i asks for the i-th of
    the chain. What a skill takes is what the one before it has found.

    Args:
        skills: k, variables of a chain and experiences of the stream; 26 at most.
        train_blocks, test_blocks: chains of each experience, all drawn anew.
        labels: what is learned and measured: the answer only; or all tokens, most of which nothing can tell.
        online: one pass over the stream.
        seed: of all chains.
    """
    if skills > LETTERS:
        raise ConfigError(
            f"lego names the variables of a chain by {LETTERS} letters; skills={skills} was given."
        )

    def stream(name: str, n: int) -> Stream:
        experiences = []
        for i in range(skills):
            blocks = chains(n, skills, i, seed, f"lego: {name} of skill {i}")
            y = blocks[:, 1:].clone()
            if labels == "answer":
                y[:, :-1] = IGNORED
            data = Data.of(Pool(blocks[:, :-1], y), torch.arange(n))
            experiences.append(
                Experience(i, tuple(range(len(TOKENS))), data, domain=f"the {i + 1}. of a chain")
            )
        return Stream(name, tuple(experiences))

    return Benchmark(
        "lego",
        1,
        Setting("domain", passes=1 if online else None, language=True),
        stream("train", train_blocks),
        stream("test", test_blocks),
        len(TOKENS),
        Transform(),
        primary="average_loss",
        metrics=("next_token_accuracy", "forgetting_nats", "gap_nats"),
        seed=seed,
        class_names=TOKENS,
        notes="Values are 0 and 1, and guessing is right half the time: ln 2 = 0.693 nats.",
    )


def chains(n: int, k: int, asked: int, seed: int, purpose: str) -> torch.Tensor:
    """(n, 5 k + 3) int64 tokens of chains of k variables: five for each one's clause, then the question and its answer.

    Args:
        asked: place in the chain, from 0, of the variable that is asked for.
        seed, purpose: of all draws.
    """
    drawn = bits(n * (LETTERS + 2 * k), seed, purpose).reshape(n, -1)
    names = drawn[:, :LETTERS].argsort(1, kind="stable")[:, :k]  # (n, k) along the chain
    turns = (drawn[:, LETTERS : LETTERS + k] >> np.uint64(63)).astype(
        np.int64
    )  # the first one's is its value
    values = turns.cumsum(1) % 2
    clauses = np.full((n, k, 5), EQUALS)
    clauses[..., 0], clauses[..., 4] = names, COMMA
    clauses[..., 2] = np.where(turns == 1, NOT, VAL)
    clauses[:, 1:, 3] = names[:, :-1]
    clauses[:, 0, 2], clauses[:, 0, 3] = VAL, ZERO + values[:, 0]
    order = drawn[:, LETTERS + k :].argsort(1, kind="stable")[..., None]
    told = np.take_along_axis(clauses, order, 1).reshape(n, -1)
    told[:, -1] = ASKS
    asks = np.stack([names[:, asked], np.full(n, EQUALS), ZERO + values[:, asked]], 1)
    return torch.from_numpy(np.concatenate([told, asks], 1).astype(np.int64))
