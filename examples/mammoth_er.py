"""Replay and DER++ written in Mammoth's style, run by clbench.

clbench run split-digits mammoth-er --plugin examples/mammoth_er.py buffer_size=100
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from clbench import Strategy, register
from clbench.interop.mammoth import Buffer, ContinualModel, MammothStrategy
from clbench.ranges import Count, NotNegative


class Er(ContinualModel):
    """Stored examples join every batch."""

    NAME = "er"
    COMPATIBILITY = ("class-il", "domain-il", "task-il")

    def __init__(self, backbone, loss, args, transform, dataset=None):
        super().__init__(backbone, loss, args, transform, dataset)
        self.buffer = Buffer(self.args.buffer_size, self.device)

    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        new = len(inputs)
        if not self.buffer.is_empty():
            old_inputs, old_labels = self.buffer.get_data(
                self.args.minibatch_size, transform=self.transform, device=self.device
            )
            inputs, labels = torch.cat([inputs, old_inputs]), torch.cat([labels, old_labels])
        self.opt.zero_grad()
        loss = self.loss(self.net(inputs), labels)
        loss.backward()
        self.opt.step()
        self.buffer.add_data(examples=not_aug_inputs, labels=labels[:new])
        return loss


class Derpp(ContinualModel):
    """Stored examples keep the logits they had, and their labels."""

    NAME = "derpp"
    COMPATIBILITY = ("class-il", "domain-il", "task-il")

    def __init__(self, backbone, loss, args, transform, dataset=None):
        super().__init__(backbone, loss, args, transform, dataset)
        self.buffer = Buffer(self.args.buffer_size, self.device)

    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        self.opt.zero_grad()
        logits = self.net(inputs)
        loss = self.loss(logits, labels)
        if not self.buffer.is_empty():
            size = self.args.minibatch_size
            old_inputs, _, old_logits = self.buffer.get_data(size, transform=self.transform)
            loss = loss + self.args.alpha * F.mse_loss(self.net(old_inputs), old_logits)
            old_inputs, old_labels, _ = self.buffer.get_data(size, transform=self.transform)
            loss = loss + self.args.beta * self.loss(self.net(old_inputs), old_labels)
        loss.backward()
        self.opt.step()
        self.buffer.add_data(examples=not_aug_inputs, labels=labels, logits=logits.data)
        return loss


@register("mammoth-er", paper="arXiv:1902.10486")
def mammoth_er(buffer_size: Count = 200, minibatch_size: Count = 32) -> Strategy:
    """Experience replay, by a class written for Mammoth."""
    return MammothStrategy(Er, needs={"memory"}, buffer_size=buffer_size, minibatch_size=minibatch_size)


@register("mammoth-derpp", paper="arXiv:2004.07211")
def mammoth_derpp(
    buffer_size: Count = 200, minibatch_size: Count = 32, alpha: NotNegative = 0.1, beta: NotNegative = 0.5
) -> Strategy:
    """DER++, by a class written for Mammoth."""
    return MammothStrategy(
        Derpp,
        needs={"memory"},
        buffer_size=buffer_size,
        minibatch_size=minibatch_size,
        alpha=alpha,
        beta=beta,
    )
