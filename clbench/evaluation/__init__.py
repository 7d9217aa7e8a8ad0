"""Evaluation at every iteration, as a pure observer.

After an update, every test stream seen so far is classified, and counts (correct, total, summed loss) are appended to
the curve. Training with the evaluator is bit-identical to training without it, at every level.

    evaluator.py   when: schedule, curve, checkpoints
    ticker.py      what: counts of one snapshot of the weights, here or in another process
    forward.py     by which network: the run's own, or a copy that is laid out, folded and rounded for speed
    racing.py      how much: only as many images as can still change an extremum
    overlap.py     where: another process, while training goes on
"""

from clbench.evaluation.evaluator import ContinualEvaluator as ContinualEvaluator
