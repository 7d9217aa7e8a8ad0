"""Learners of River: naive Bayes, a Hoeffding tree, a linear model, one row at a time.

Montiel et al., "River: machine learning for streaming data in Python", JMLR 2021.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from clbench import Batch, Output, Run, Strategy, chain, register
from clbench.errors import ConfigError
from clbench.parts import TrainOnly
from clbench.types import Stream

Learner = Literal["naive-bayes", "hoeffding-tree", "softmax-regression"]


def make(learner: Learner) -> Any:
    """Return a fresh learner of River, with its defaults.

    Raises:
        ConfigError: River is not installed.
    """
    try:
        from river import linear_model, naive_bayes, preprocessing, tree
    except ImportError as error:
        raise ConfigError(f"Learners are River's ({error}); pip install 'clbench[drift]'.") from error
    if learner == "naive-bayes":
        gaussian: Any = naive_bayes.GaussianNB
        return gaussian()
    if learner == "hoeffding-tree":
        return tree.HoeffdingTreeClassifier()
    return preprocessing.StandardScaler() | linear_model.SoftmaxRegression()


class River(Strategy):
    """Shows a learner every example of the stream once, in order, as it is; the network is left as it is.

    A score is the learner's probability of the class, and 1 more for the class that it predicts, so that River's own
    rule decides between equal ones. A class that it has not met has score 0.
    """

    waits = 2
    parallel = "its learner learns one row after the other, and each process would see a part of them"

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.model = make(learner)

    def setup(self, run: Run) -> None:
        self.model = make(self.learner)
        self.learned: list[tuple[int, int]] = []  # experience and row of each example

    def after_step(self, batch: Batch, out: Output) -> None:
        if self.run.epoch:
            return
        x, y, rows = (batch.firsts(column) for column in (batch.raw, batch.y, batch.index))
        self._learn(self.run.normalise(x), torch.stack([y, rows], 1), self.run.experience)

    def _learn(self, x: Tensor, told: Tensor, experience: int) -> None:
        for features, (label, row) in zip(x.flatten(1).tolist(), told.tolist(), strict=True):
            self.model.learn_one(dict(enumerate(features)), label)
            self.learned.append((experience, row))

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        return self.run.mask_tasks(self._scores(x).to(x.device), task)

    def _scores(self, x: Tensor) -> Tensor:
        scores = torch.zeros((len(x), self.run.num_classes))
        for i, features in enumerate(x.flatten(1).tolist()):
            found = self.model.predict_proba_one(dict(enumerate(features)))
            for c, probability in found.items():
                scores[i, c] = probability
            if found:
                scores[i, max(found, key=found.get)] += 1
        return scores

    # A learner is no tensor: a checkpoint holds which rows it has learned, and it learns them again.

    def state_dict(self) -> dict[str, Any]:
        return {"learned": torch.tensor(self.learned, dtype=torch.int64).view(-1, 2)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model, self.learned = make(self.learner), []
        train: Stream = self.run.train
        learned = state["learned"].to("cpu")
        for experience in learned[:, 0].unique_consecutive().tolist():
            rows = learned[learned[:, 0] == experience, 1]
            x, y = train[experience].data.take(rows)
            x = self.run.normalise(x.to(self.run.device))
            self._learn(x, torch.stack([y, rows], 1), experience)


@register("river", family="drift")
def river(learner: Learner = "naive-bayes") -> Strategy:
    """A learner of River in place of the network: what a stream yields to classical methods.

    Test, then train, with batches of one: predict_one(x), then learn_one(x, y), which is what River itself reports. The
    inputs are the benchmark's own, not standardised by what has come, except by the linear model's own scaler.

    Args:
        learner: naive-bayes, Gaussian; hoeffding-tree; or softmax-regression, linear on features standardised by what
            has come. All with River's defaults.

    Reference: Montiel et al., "River: machine learning for streaming data in Python", JMLR 2021.

    Differences from other strategies:
        1. It learns on the CPU, one row after the other, and once a row whatever the passes: no speed compares.
        2. The network is not trained; its forward pass is made and left out of account.
    """
    return chain(TrainOnly(), River(learner))
