"""The discrete key-value bottleneck: features choose values from codebooks, and only the values chosen are trained.

Träuble, Goyal, Rahaman, Mozer, Kawaguchi, Bengio, Schölkopf, "Discrete Key-Value Bottleneck", ICML 2023,
arXiv:2207.11240.

Shapes: B examples, D features, K codebooks, P pairs in each, d dimensions of a key, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Run, Strategy, chain, register
from clbench.errors import IncompatibleError
from clbench.parts import CrossEntropy, LowRankTuning, TrainOnly, features_of, replace_head
from clbench.ranges import Count, Fraction, Natural, NotNegative
from clbench.types import MASKED

EPSILON = 1e-5
"""Of Laplace's smoothing of counts."""
FITTED = 256
"""Features in a batch by which keys are fitted."""


class Bottleneck(nn.Module):
    """(B, D) → (B, C): in each codebook, the value of the key that is nearest to the projected features; their mean.

    In eval mode, pairs that training has never chosen are out of the question.

    Args:
        projection: W (K, D, d), whose columns have length 1. keys: (K, P, d). classes: C.

    Attributes:
        values: (K, P, C), which training moves. used: (K, P) bool, pairs that it has chosen.
    """

    projection: Tensor
    keys: Tensor
    used: Tensor

    def __init__(self, projection: Tensor, keys: Tensor, classes: int) -> None:
        super().__init__()
        self.register_buffer("projection", projection)
        self.register_buffer("keys", keys)
        self.register_buffer("used", torch.zeros(keys.shape[:2], dtype=torch.bool))
        self.values = nn.Parameter(torch.zeros(*keys.shape[:2], classes))

    def projected(self, features: Tensor) -> Tensor:
        """(B, D) → u (K, B, d)"""
        return features.float() @ self.projection

    def codes(self, features: Tensor) -> Tensor:
        """(B, D) → (K, B) the nearest key of each codebook."""
        # ‖u − k‖² = ‖u‖² − 2 u·k + ‖k‖², of which the first does not depend on the key
        distances = self.keys.square().sum(2).unsqueeze(1) - 2 * self.projected(
            features
        ) @ self.keys.transpose(1, 2)
        if not self.training:
            distances = distances.masked_fill(~self.used.unsqueeze(1), torch.inf)
        return distances.argmin(2)

    def forward(self, features: Tensor) -> Tensor:
        codes = self.codes(features)
        books = torch.arange(len(codes), device=codes.device).unsqueeze(1)
        chosen: Tensor = self.values[books, codes]  # (K, B, C)
        return chosen.mean(0)


class Codes(nn.Module):
    """Keys that follow what is next to them, by moving averages; no label is asked.

    Attributes:
        keys: (K, P, d). sums: (K, P, d), of what chose a key. counts: (K, P), how much that was.
    """

    def __init__(self, keys: Tensor, decay: float, dead: float) -> None:
        super().__init__()
        self.decay, self.dead = decay, dead
        self.keys, self.sums = keys.clone(), keys.clone()
        self.counts = torch.zeros(keys.shape[:2], device=keys.device)

    def follow(self, u: Tensor, generator: torch.Generator) -> None:
        """Count a batch u (K, B, d) in; keys that hardly anything chooses become some of it, drawn at random."""
        books, many, _ = u.shape
        pairs = self.keys.shape[1]
        distances = self.keys.square().sum(2).unsqueeze(1) - 2 * u @ self.keys.transpose(1, 2)
        chosen = u.new_zeros(books, pairs, many)
        chosen.scatter_(1, distances.argmin(2).unsqueeze(1), 1.0)  # 1 where an example chose the key
        self.counts.mul_(self.decay).add_(chosen.sum(2), alpha=1 - self.decay)
        self.sums.mul_(self.decay).add_(chosen @ u, alpha=1 - self.decay)
        total = self.counts.sum(1, keepdim=True)
        smooth = (self.counts + EPSILON) / (total + pairs * EPSILON) * total
        self.keys = self.sums / smooth.unsqueeze(2)
        drawn = torch.randint(many, (books, pairs), generator=generator, device=u.device)
        others = u.gather(1, drawn.unsqueeze(2).expand_as(self.keys))
        dead = self.counts < self.dead * many / pairs
        self.keys = torch.where(dead.unsqueeze(2), others, self.keys)


def smoothed(logits: Tensor, y: Tensor, share: float) -> Tensor:
    """() cross-entropy of logits (B, C); this share of targets is spread evenly over all classes but `MASKED` ones."""
    log = logits.log_softmax(1)
    possible = logits > MASKED / 2
    evenly = log.masked_fill(~possible, 0.0).sum(1) / possible.sum(1)
    return ((1 - share) * F.nll_loss(log, y, reduction="none") - share * evenly).mean()


class KeyValues(Strategy):
    """The head is a `Bottleneck`, whose keys are fitted to the first experience's features before training begins.

    Args:
        codebooks: K. pairs: P. width: d. updates: of the keys, a batch of features each.
        decay: of their moving averages. dead: share of the mean count below which a key is drawn anew.
        smoothing: of labels.
    """

    needs = frozenset({"boundaries"})
    replaces = (CrossEntropy,)
    parallel = True

    def __init__(
        self,
        codebooks: int,
        pairs: int,
        width: int,
        updates: int,
        decay: float,
        dead: float,
        smoothing: float,
    ) -> None:
        self.shape, self.updates = (codebooks, pairs, width), updates
        self.decay, self.dead, self.smoothing = decay, dead, smoothing

    def wrap(self, model: nn.Module) -> nn.Module:
        (books, pairs, width), device = self.shape, self.run.device
        size: int = model.feature_size  # type: ignore[assignment]
        generator = self.run.rng("keys")
        projection = torch.randn((books, size, width), generator=generator, device=device)
        keys = torch.randn((books, pairs, width), generator=generator, device=device)
        replace_head(model, Bottleneck(F.normalize(projection, dim=1), keys, self.run.num_classes))
        return model

    def setup(self, run: Run) -> None:
        if any(isinstance(part, LowRankTuning) for part in run.strategy.parts):
            raise IncompatibleError(
                f"dkvb fits its keys to features of a network that stays as it is, and another part of {run.strategy} "
                "trains it; leave one of them out."
            )
        self.head = next(m for m in run.model.modules() if isinstance(m, Bottleneck))

    def begin_experience(self, exp: Experience) -> None:
        if exp.index > 0:
            return
        features, _ = features_of(self.run, exp.data)
        generator = self.run.rng("keys")
        codes = Codes(self.head.keys, self.decay, self.dead)
        left = self.updates
        while left > 0:
            order = torch.randperm(len(features), generator=generator, device=features.device)
            for rows in order.split(FITTED)[:left]:
                codes.follow(self.head.projected(features[rows]), generator)
                left -= 1
        self.head.keys.copy_(codes.keys)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"fit": smoothed(out.logits, batch.y, self.smoothing)}

    def after_step(self, batch: Batch, out: Output) -> None:
        codes = self.head.codes(out.features)  # in training mode
        self.head.used |= F.one_hot(codes, self.shape[1]).any(1)

    def frozen(self) -> Mapping[str, Tensor]:
        return {"projection": self.head.projection, "keys": self.head.keys}


@register(
    "dkvb",
    family="fixed features",
    version=2,
    paper="arXiv:2207.11240",
    tiny={"codebooks": 16, "pairs": 32, "width": 4, "updates": 20},
)
def dkvb(
    codebooks: Count = 64,
    pairs: Count = 512,
    width: Count = 14,
    updates: Natural = 400,
    decay: Fraction = 0.95,
    dead: NotNegative = 0.1,
    smoothing: Fraction = 0.1,
) -> Strategy:
    """DKVB: features choose a value from each of many codebooks, and only the values that were chosen are trained.

    Features of a backbone that stays as it is are projected at random for each codebook; the nearest of its keys gives
    its value, one number for each class, and the mean of the values are the logits. What an example teaches stays with
    the keys that it chooses, and so leaves alone what other classes chose. Keys are fitted once, without labels, to
    the first experience. Only values that are chosen have a gradient: an optimizer without momentum and weight decay,
    such as SGD with lr=0.3 and clip=1, leaves all others as they are.

    Args:
        codebooks: how many.
        pairs: keys and values in each.
        width: dimensions of a key.
        updates: of the keys, by 256 features of the first experience each; 0 leaves them as they are drawn.
        decay: of the moving averages that keys are.
        dead: a key that counts less than this share of the mean becomes an example, drawn at random.
        smoothing: of labels.

    Reference: Träuble, Goyal, Rahaman, Mozer, Kawaguchi, Bengio, Schölkopf, "Discrete Key-Value Bottleneck", ICML 2023,
    arXiv:2207.11240.

    Differences from the authors' code:
        1. 64 codebooks of 512 pairs, where their experiments have 256 of 4,096: with C classes, that is 10⁶ · C values.
        2. Keys are fitted to the inputs of the first experience, theirs to those of another data set; what later
           experiences bring has no say in them. That takes a stream that tells its boundaries.
        3. They are fitted by 400 batches of 256, whatever the run's and however many features there are: what they
           were drawn as, which lies far from all features, counts 0.95⁴⁰⁰ = 10⁻⁹ then. Ten passes over an experience of
           a thousand texts, where theirs are over 50,000 images, leave 0.95⁴⁰ = 0.13, and 37.5 % instead of 82.5 on
           BANKING77.
    """
    return chain(KeyValues(codebooks, pairs, width, updates, decay, dead, smoothing), TrainOnly("head"))
