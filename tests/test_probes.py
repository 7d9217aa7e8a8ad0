"""Recognition and recall of studied sentences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.evaluation.probes import recall, recognition, sentence_losses
from clbench.types import IGNORED

V = 7


class Counting(nn.Module):
    """Says that the next token is one more, with certainty in proportion to `sure`."""

    def __init__(self, sure: float) -> None:
        super().__init__()
        self.sure = sure

    def forward(self, x: Tensor) -> Tensor:
        return self.sure * F.one_hot((x + 1) % V, V).float()


COUNT, OTHER = torch.tensor([[0, 1, 2, 3, 4]]), torch.tensor([[0, 1, 2, 3, 5]])


def test_recognition_is_the_share_of_pairs_and_equal_ones_are_half() -> None:
    studied, foils = torch.tensor([2.1, 1.7, 3.0, 2.2]), torch.tensor([2.5, 1.9, 2.8, 2.6])
    assert recognition(studied, foils) == 0.75
    assert recognition(studied, studied) == 0.5


def test_a_sentence_s_loss_is_the_sum_of_its_tokens() -> None:
    tokens = torch.cat([COUNT, OTHER])
    found = sentence_losses(Counting(3.0), tokens)
    log_p = F.log_softmax(Counting(3.0)(tokens[:, :-1]), 2).gather(2, tokens[:, 1:, None])
    assert torch.allclose(found, -log_p.double().sum((1, 2)))
    labels = tokens[:, 1:].clone()
    labels[:, -1] = IGNORED
    assert (
        sentence_losses(Counting(3.0), tokens[:, :-1], labels).unique().numel() == 1
    )  # they differ in the last only


def test_a_model_that_knows_nothing_recognises_half() -> None:
    assert recognition(*(sentence_losses(Counting(0.0), tokens) for tokens in (COUNT, OTHER))) == 0.5


def test_recall_goes_on_from_what_was_written() -> None:
    assert recall(Counting(1.0), torch.cat([COUNT, OTHER]), cue=1) == 0.5
    assert recall(Counting(1.0), OTHER, cue=3) == 0.0


@pytest.mark.parametrize("cue", [0, 5])
def test_a_cue_leaves_something_to_recall(cue: int) -> None:
    with pytest.raises(ValueError, match="1 to 4 can be a cue"):
        recall(Counting(1.0), COUNT, cue)


def test_what_are_no_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="compares pairs"):
        recognition(torch.zeros(2), torch.zeros(3))
