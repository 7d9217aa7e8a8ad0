"""Metrics of the network itself, from the curve's table `network`; undefined without `evaluation.network`."""

from __future__ import annotations

from clbench.results.curve import NETWORK, Curve, Floats
from clbench.results.metrics.core import UndefinedError, full_matrix, metric

SINCE = 1
"""The schema of records from which on they have these metrics."""

NAP = "Lyle et al., NeurIPS 2024, arXiv 2407.01800"
REDO = "Sokar et al., ICML 2023, arXiv 2302.12902"
ROY = "Roy & Vetterli, EUSIPCO 2007"


@metric("plasticity_loss", title="plasticity loss", higher_is_better=False, reference=NAP, unit="fraction")
def plasticity_loss(curve: Curve) -> float:
    """How much worse the last experiences are learned than the first ones.

        1/q Σ_{j≤q} R[j,j] − 1/q Σ_{j>T−q} R[j,j],   q = ⌈T/4⌉

    Where every experience is as hard as the next, as with random labels.
    """
    _measured(curve)
    R = full_matrix(curve).R
    learned = R.diagonal()
    q = -(-len(learned) // 4)
    return float(learned[:q].mean() - learned[-q:].mean())


@metric("weight_norm", title="weight norm", higher_is_better=None, reference=NAP, unit="norm")
def weight_norm(curve: Curve) -> float:
    """Norm of all hidden weights together at the end.

    (Σ_l ‖W_l‖_F²)^½ over the linear and convolutional layers l below the head
    """
    return _last(curve, "weight_norm")


@metric("weight_norm_growth", title="norm growth", higher_is_better=None, reference=NAP, unit="ratio")
def weight_norm_growth(curve: Curve) -> float:
    """Norm of all hidden weights together at the end over that at the first full evaluation.

    = weight_norm(end) / weight_norm(before training)
    """
    norms = _measured(curve)[:, NETWORK.index("weight_norm")]
    return float(norms[-1] / norms[0])


@metric(
    "effective_learning_rate",
    title="effective lr",
    higher_is_better=None,
    reference=NAP,
    unit="learning rate",
)
def effective_learning_rate(curve: Curve) -> float:
    """Size of a step on the unit sphere at the end, for networks in which the scale of a layer changes nothing.

    exp(1/L Σ_l ln η / ‖W_l‖_F^k) over L layers, k = 2 under SGD and 1 under Adam, η the configured learning rate
    """
    return _last(curve, "effective_learning_rate")


@metric("dormant_units", title="dormant", higher_is_better=False, reference=REDO, unit="fraction")
def dormant_units(curve: Curve) -> float:
    """Share of hidden units that hardly ever respond at the end.

    1/U Σ_i [ E|h_i| ≤ 0.025 · mean over the layer's units k of E|h_k| ] over all U hidden units i
    """
    return _last(curve, "dormant_units")


@metric("effective_rank", title="effective rank", higher_is_better=None, reference=ROY, unit="dimensions")
def effective_rank(curve: Curve) -> float:
    """Number of dimensions that the features at the end spread over.

    exp(−Σ_i p_i ln p_i), p_i = s_i / Σ s the singular values of the features of up to 512 test examples
    """
    return _last(curve, "effective_rank")


def _measured(curve: Curve) -> Floats:
    if not len(curve.network) or not curve.finished:
        raise UndefinedError
    return curve.network


def _last(curve: Curve, name: str) -> float:
    return float(_measured(curve)[-1, NETWORK.index(name)])
